/**
 * Content keys: the names that cached blocks have outside this process (events, disk and remote tiers, routers), 256 bits
 * each, equal wherever the same tokens are cached for the same model in the same scope. Computed when asked for, and kept.
 *
 *   header  (ContentKeys, 2 lines)
 *   keys    [blocks] Key, 32 B
 *   scopes  [2^k >= 2 * scopes] Scope, 40 B    open addressing by namespace
 *   hasher                                     blake3.ts
 *
 *   root of a namespace  H(fingerprint | scope | u32 bytes of scope | 0)
 *   key of a block       H(key of its parent, or root | tokens, u32 each | extras | u32 bytes of extras | 1)
 *   key of a chunk       H(fingerprint | tokens | extras | u32 bytes of extras | 2)
 *
 * H is BLAKE3 under the domain key; numbers are little-endian. What ends a message tells its parts apart: two messages are
 * equal only if all of their parts are. Scope and extras are lists of { type u8, bytes u32, content }, so that a salt never
 * equals an adapter's name. A namespace that has been given no scope has { 1, 4, namespace }, namespace 0 the empty list.
 *
 * Invariant: a known key is that of the block's content; whoever enters a block makes its key unknown (`contentEnter`), which
 * a first word of 0 says. Should a key begin so, one in 2^64, it is computed each time that it is asked for.
 */
import { alignToLine } from "../memory/arena";
import { copyDigest, DIGEST, HASHER_BYTES, hashEnd, hashStart, hashUpdate } from "../memory/blake3";
import { INVALID_ARGUMENT, OK, OUT_OF_MEMORY, Status } from "../memory/status";
import { block, BlockId, isFirst, KvCache, NONE, ROOT, tokensOf } from "./layout";
import { listBefore, marksInput, wordOf, writeMarks } from "./marks";

// @ts-ignore: decorator
@inline export const MAX_SCOPES: u32 = 1 << 20;
/** Type of a scope's entry that holds a namespace's number. */
// @ts-ignore: decorator
@inline const NAMESPACE_TYPE: u32 = 1;

/** Last byte of a message: what it names. */
const enum Domain {
  Root = 0,
  Block = 1,
  Chunk = 2,
}


@unmanaged
export class ContentKeys {
  // 32 bytes each.
  domainKey: u64;
  domainKey1: u64;
  domainKey2: u64;
  domainKey3: u64;
  fingerprint: u64;
  fingerprint1: u64;
  fingerprint2: u64;
  fingerprint3: u64;
  keys: u32;
  scopes: u32;
  scopeMask: u32;
  scopeCount: u32;
  /** Scopes that there is room for. */
  maxScopes: u32;
  hasher: u32;
  /** End of a message: bytes of its list u32, domain u8. */
  tail: u64;
  /** Keys computed since creation. */
  computed: u64;
}


@unmanaged
class Key {
  /** 0: unknown. */
  word: u64;
  /** Unknown: scratch of a walk down a prefix, the block below. */
  word1: u64;
  word2: u64;
  word3: u64;
}


@unmanaged
class Scope {
  root: u64;
  root1: u64;
  root2: u64;
  root3: u64;
  namespace: u32;
  used: u32;
}

// @ts-ignore: decorator
@inline
function contentOf(kv: KvCache): ContentKeys {
  return changetype<ContentKeys>(<usize>kv.content);
}

// @ts-ignore: decorator
@inline
function keyOf(content: ContentKeys, id: BlockId): Key {
  return changetype<Key>(<usize>content.keys + <usize>id * offsetof<Key>());
}

// @ts-ignore: decorator
@inline
function scopeSlots(scopes: u32): u32 {
  return 1 << (32 - clz(scopes));
}

/** Bytes for a cache of so many blocks and namespaces with a scope. */
export function contentBytes(blocks: u32, scopes: u32): u64 {
  return (
    <u64>alignToLine(offsetof<ContentKeys>()) +
    <u64>blocks * offsetof<Key>() +
    <u64>scopeSlots(scopes) * offsetof<Scope>() +
    HASHER_BYTES
  );
}

/** Gives the cache content keys at `at`, a zeroed region of `contentBytes` bytes. */
export function contentCreate(
  kv: KvCache,
  at: usize,
  scopes: u32,
  domainKey: usize,
  fingerprint: usize,
): void {
  const content = changetype<ContentKeys>(at);
  copyDigest(at, domainKey);
  copyDigest(at + offsetof<ContentKeys>("fingerprint"), fingerprint);
  content.maxScopes = scopes;
  content.scopeMask = scopeSlots(scopes) - 1;
  content.keys = <u32>(at + alignToLine(offsetof<ContentKeys>()));
  content.scopes = content.keys + kv.blockCount * <u32>offsetof<Key>();
  content.hasher = content.scopes + scopeSlots(scopes) * <u32>offsetof<Scope>();
  kv.content = <u32>at;
}

/** The block has just been entered: what is known of it is of another content. */
// @ts-ignore: decorator
@inline
export function contentEnter(kv: KvCache, id: BlockId): void {
  keyOf(contentOf(kv), id).word = 0;
}

/** Ends a message with its list of `bytes` bytes at `list` and its domain. */
function finish(content: ContentKeys, list: usize, bytes: u32, domain: u32, out: usize): void {
  const hasher = <usize>content.hasher;
  hashUpdate(hasher, list, bytes);
  content.tail = ((<u64>domain) << 32) | bytes;
  hashUpdate(hasher, changetype<usize>(content) + offsetof<ContentKeys>("tail"), 5);
  hashEnd(hasher, out);
}

// @ts-ignore: decorator
@inline
function start(content: ContentKeys): void {
  hashStart(<usize>content.hasher, changetype<usize>(content));
}

// @ts-ignore: decorator
@inline
function startForModel(content: ContentKeys): void {
  start(content);
  const fingerprint = changetype<usize>(content) + offsetof<ContentKeys>("fingerprint");
  hashUpdate(<usize>content.hasher, fingerprint, <u32>DIGEST);
}

/** The scope of a namespace, or the free place where it would be. */
function scopeAt(content: ContentKeys, namespace: u32): Scope {
  let slot = namespace * 0x9e3779b1;
  let scope: Scope;
  do {
    slot &= content.scopeMask;
    scope = changetype<Scope>(<usize>content.scopes + <usize>slot * offsetof<Scope>());
    slot += 1;
  } while (scope.used != 0 && scope.namespace != namespace);
  return scope;
}

/**
 * Gives a namespace a scope, a list of `bytes` bytes; writes its root to `root`. Keys that are known already stay as they
 * are: set scopes before their namespaces are used.
 */
export function contentScope(kv: KvCache, namespace: u32, list: usize, bytes: u32, root: usize): Status {
  const content = contentOf(kv);
  startForModel(content);
  finish(content, list, bytes, Domain.Root, root);
  const scope = scopeAt(content, namespace);
  const at = changetype<usize>(scope);
  if (scope.used != 0) {
    for (let i: usize = 0; i < DIGEST; i += 8)
      if (load<u64>(at + i) != load<u64>(root + i)) return INVALID_ARGUMENT;
    return OK;
  }
  if (content.scopeCount == content.maxScopes) return OUT_OF_MEMORY;
  copyDigest(at, root);
  scope.namespace = namespace;
  scope.used = 1;
  content.scopeCount += 1;
  return OK;
}

/** Writes a namespace's root to `out`. */
function rootInto(content: ContentKeys, namespace: u32, out: usize): void {
  const scope = scopeAt(content, namespace);
  if (scope.used != 0) {
    copyDigest(out, changetype<usize>(scope));
    return;
  }
  startForModel(content);
  if (namespace == 0) {
    finish(content, 0, 0, Domain.Root, out);
    return;
  }
  // { type u8, bytes u32, namespace u32 }, where `out` has room for it.
  store<u8>(out, NAMESPACE_TYPE);
  store<u32>(out, 4, 1);
  store<u32>(out, namespace, 5);
  finish(content, out, 9, Domain.Root, out);
}

/** Computes the key of a block whose parent's is known. */
function compute(kv: KvCache, content: ContentKeys, id: BlockId): void {
  const key = changetype<usize>(keyOf(content, id));
  const parent = block(kv, id).parent;
  let above = key;
  if (isFirst(parent)) rootInto(content, parent & ~ROOT, key);
  else above = changetype<usize>(keyOf(content, parent));
  nameBlock(kv, above, tokensOf(kv, id), wordOf(kv, id), isFirst(parent) ? 0 : wordOf(kv, parent), key);
  content.computed += 1;
}

/** Writes the key of a block with these tokens and words of marks, its own and that of the block above, to `out`. */
function nameBlock(kv: KvCache, above: usize, tokens: usize, word: u32, wordAbove: u32, out: usize): void {
  const content = contentOf(kv);
  start(content);
  hashUpdate(<usize>content.hasher, above, <u32>DIGEST);
  hashUpdate(<usize>content.hasher, tokens, kv.blockSize << 2);
  // Its marks are its extras; they are written where marks come in, which is free between calls.
  const marks = kv.marks == 0 ? 0 : writeMarks(kv, word, wordAbove);
  finish(content, kv.marks == 0 ? 0 : marksInput(kv), marks, Domain.Block, out);
}

/**
 * Writes the keys of whole blocks `from` up to `end` of a prompt with a list of marks behind `out`, where the key of the block
 * before them stands (of the first one's it is written).
 */
export function contentPrompt(
  kv: KvCache,
  namespace: u32,
  tokensPtr: usize,
  list: u32,
  from: u32,
  end: u32,
  out: usize,
): void {
  if (from == 0) rootInto(contentOf(kv), namespace, out);
  let word = kv.marks == 0 ? 0 : listBefore(kv, list, from << kv.blockShift);
  for (; from < end; from++, out += DIGEST) {
    const above = word;
    word = kv.marks == 0 ? 0 : listBefore(kv, list, (from + 1) << kv.blockShift);
    nameBlock(kv, out, tokensPtr + ((<usize>from) << (kv.blockShift + 2)), word, above, out + DIGEST);
  }
}

/** Address of a cached block's key. Computes it, and first those of its ancestors, if they are not known. */
export function contentKey(kv: KvCache, id: BlockId): usize {
  const content = contentOf(kv);
  let at = id;
  let next = NONE;
  while (keyOf(content, at).word == 0) {
    keyOf(content, at).word1 = next;
    next = at;
    const parent = block(kv, at).parent;
    if (isFirst(parent)) break;
    at = parent;
  }
  while (next != NONE) {
    at = next;
    next = <u32>keyOf(content, at).word1;
    compute(kv, content, at);
  }
  return changetype<usize>(keyOf(content, id));
}

/** Writes the key of `count` tokens by themselves, wherever they stand, with a list of extras, to `out`. */
export function contentChunk(
  kv: KvCache,
  tokensPtr: usize,
  count: u32,
  extras: usize,
  bytes: u32,
  out: usize,
): void {
  const content = contentOf(kv);
  startForModel(content);
  hashUpdate(<usize>content.hasher, tokensPtr, count << 2);
  finish(content, extras, bytes, Domain.Chunk, out);
}

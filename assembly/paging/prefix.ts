/**
 * Prefix index: from a namespace and token ids to the cached blocks that hold their K and V.
 *
 * Key of a block = 64-bit chain hash of its namespace and of all tokens up to its end. Equal keys share a
 * hash chain through the block records. A hit counts only when the parent block is the one just matched (for
 * a first block: the namespace is equal) and the block's own tokens are equal, so a collision costs one
 * comparison and never returns a wrong block, and tenants never meet.
 *
 * Invariants:
 * 1. A cached block's parent is cached (or it is a first block); `children` counts its cached children.
 * 2. No two cached blocks have the same parent, tokens and marks (marks.ts): whoever fills a second one gets the first instead.
 *
 * Cost: one digest, one bucket probe and one token comparison a block; keys of a group are computed before
 * they are probed because they do not depend on what the probes find.
 */
import { chainKey, digestTokens, rootKey } from "../memory/hash";
import { orderEnter, orderLeave } from "../orders/order";
import { contentEnter } from "./content-keys";
import {
  Block,
  block,
  BlockId,
  isCached,
  isFirst,
  KvCache,
  MATCH_GROUP,
  NONE,
  orderOf,
  ROOT,
  tokensOf,
} from "./layout";
import { leaveTwin, memberOf } from "./groups";
import { accountHold, accountVictim, charge, setPayer } from "./accounts";
import { childrenEnter, childrenLeave } from "./children";
import { groupWord, markBlock, matchMarks, nextWord, unmarkBlock, wordOf } from "./marks";
import { giveWay } from "./pins";
import { eventRemoved, eventsCleared } from "./events";
import { evictableToFree, loseChild, nextVictim, takeFree } from "./pool";
import { announce, withdraw } from "./probe-index";
import { forgetLink } from "./tiers/slots";

// @ts-ignore: decorator
@inline
export function bucketPtr(kv: KvCache, key: u64): usize {
  return <usize>kv.buckets + (((<usize>key) & (<usize>kv.bucketMask)) << 2);
}

export function prefixCreate(kv: KvCache, seed: u64, keyBits: u32): void {
  kv.seed = seed;
  kv.keyMask = keyBits >= 64 ? u64.MAX_VALUE : ((<u64>1) << keyBits) - 1;
  memory.fill(kv.buckets, 0xff, (<usize>kv.bucketMask + 1) << 2);
}

/** Key that the children of `parent` chain on. */
// @ts-ignore: decorator
@inline
function parentKey(kv: KvCache, parent: u32): u64 {
  return isFirst(parent) ? rootKey(kv.seed, parent & ~ROOT) : block(kv, parent).key;
}

/** Key of a block with the tokens at `tokensPtr` and this word of marks behind the block with this key. */
// @ts-ignore: decorator
@inline
export function extendKey(kv: KvCache, key: u64, tokensPtr: usize, word: u32 = 0): u64 {
  const digest = digestTokens(tokensPtr, kv.blockSize, kv.seed) + <u64>word * 0x9e3779b97f4a7c15;
  return chainKey(key, digest) & kv.keyMask;
}

/** Key of a block that holds the tokens at `tokensPtr` with this word of marks behind `parent`. */
export function keyBehind(kv: KvCache, parent: u32, tokensPtr: usize, word: u32): u64 {
  return extendKey(kv, parentKey(kv, parent), tokensPtr, word);
}

// @ts-ignore: decorator
@inline
export function sameTokens(a: usize, b: usize, bytes: usize): bool {
  if (ASC_FEATURE_SIMD) {
    let at: usize = 0;
    for (; at + 16 <= bytes; at += 16) {
      if (v128.any_true(v128.xor(v128.load(a + at), v128.load(b + at)))) return false;
    }
    for (; at < bytes; at += 4) if (load<u32>(a + at) != load<u32>(b + at)) return false;
    return true;
  }
  for (let at: usize = 0; at < bytes; at += 4) if (load<u32>(a + at) != load<u32>(b + at)) return false;
  return true;
}

/** The first block from `id` on in its hash chain that carries the key, or NONE. */
// @ts-ignore: decorator
@inline
export function withKey(kv: KvCache, id: BlockId, key: u64): BlockId {
  while (id != NONE && block(kv, id).key != key) id = block(kv, id).chain;
  return id;
}

/** The cached block from candidate `id` on with this key, parent and content, or NONE. */
function verified(kv: KvCache, id: BlockId, key: u64, parent: u32, tokensPtr: usize, word: u32): BlockId {
  const bytes = (<usize>kv.blockSize) << 2;
  while (id != NONE) {
    const record = block(kv, id);
    if (record.parent == parent && sameTokens(tokensOf(kv, id), tokensPtr, bytes) && wordOf(kv, id) == word)
      break;
    id = withKey(kv, record.chain, key);
  }
  return id;
}

/** The cached block with this key, parent and content, or NONE. */
function find(kv: KvCache, key: u64, parent: u32, tokensPtr: usize, word: u32): BlockId {
  return verified(kv, withKey(kv, load<u32>(bucketPtr(kv, key)), key), key, parent, tokensPtr, word);
}

/**
 * Longest cached prefix: writes up to `limit` block ids to `out` (unless 0) and returns how many; the last is the
 * `matchedParent`. Takes no reference and changes nothing but that and the scratch keys.
 */
export function matchPrefix(
  kv: KvCache,
  namespace: u32,
  tokensPtr: usize,
  limit: u32,
  out: usize,
  marks: u32 = 0,
): u32 {
  const keys = <usize>kv.keys;
  const candidates = keys + ((<usize>MATCH_GROUP) << 3);
  const blockBytes = (<usize>kv.blockSize) << 2;
  let key = rootKey(kv.seed, namespace);
  let parent = namespace | ROOT;
  let matched: u32 = 0;
  let at = tokensPtr;
  if (marks != 0) matchMarks(kv, marks);
  while (matched < limit) {
    const group = min(limit - matched, MATCH_GROUP);
    for (let i: u32 = 0; i < group; i++) {
      const word = marks == 0 ? 0 : nextWord(kv, i, (matched + i + 1) << kv.blockShift);
      key = extendKey(kv, key, at + <usize>i * blockBytes, word);
      store<u64>(keys + ((<usize>i) << 3), key);
    }
    // Three short passes, so that the cache misses of many blocks overlap: buckets and records, then content.
    for (let i: u32 = 0; i < group; i++) {
      const wanted = load<u64>(keys + ((<usize>i) << 3));
      const candidate = withKey(kv, load<u32>(bucketPtr(kv, wanted)), wanted);
      store<u32>(candidates + ((<usize>i) << 2), candidate);
    }
    for (let i: u32 = 0; i < group; i++) {
      const wanted = load<u64>(keys + ((<usize>i) << 3));
      const word = marks == 0 ? 0 : groupWord(kv, i);
      const id = verified(kv, load<u32>(candidates + ((<usize>i) << 2)), wanted, parent, at, word);
      if (id == NONE) {
        kv.matchedParent = parent;
        return matched;
      }
      if (out != 0) store<u32>(out + ((<usize>matched) << 2), id);
      parent = id;
      matched += 1;
      at += blockBytes;
    }
  }
  kv.matchedParent = parent;
  return matched;
}

/**
 * Enters a full block behind `parent`. Returns the block that now stands for this prefix: `id` itself, or the
 * one that was there before.
 */
export function publish(kv: KvCache, id: BlockId, parent: u32, word: u32): BlockId {
  const tokensPtr = tokensOf(kv, id);
  const key = keyBehind(kv, parent, tokensPtr, word);
  const existing = find(kv, key, parent, tokensPtr, word);
  if (existing != NONE) {
    kv.duplicates += 1;
    return existing;
  }
  const bucket = bucketPtr(kv, key);
  const record = block(kv, id);
  record.key = key;
  record.parent = parent;
  record.children = 0;
  record.chain = load<u32>(bucket);
  store<u32>(bucket, id);
  if (!isFirst(parent)) block(kv, parent).children += 1;
  kv.cachedCount += 1;
  if (word != 0) markBlock(kv, id, word);
  if (kv.children != 0) childrenEnter(kv, id, parent);
  if (kv.order != 0) orderEnter(orderOf(kv), id, isFirst(parent) ? NONE : parent, key);
  if (kv.probeIndex != 0) announce(kv, key, id);
  if (kv.content != 0) contentEnter(kv, id);
  return id;
}

/** Takes an unheld cached block out of the index. It must have no cached children. `evicted`: for room. */
function forget(kv: KvCache, id: BlockId, record: Block, evicted: bool): void {
  assert(isCached(record) && record.children == 0);
  if (kv.events != 0) eventRemoved(kv, id);
  if (kv.accounts != 0) accountHold(kv, id);
  if (kv.groups != 0 && memberOf(kv, id) != 0) {
    leaveTwin(kv, id, record, evicted);
    return;
  }
  if (kv.children != 0) childrenLeave(kv, id, record.parent);
  if (kv.order != 0) orderLeave(orderOf(kv), id, record.key, evicted);
  if (kv.tier != 0) forgetLink(kv, id);
  const bucket = bucketPtr(kv, record.key);
  let link = bucket;
  while (load<u32>(link) != id)
    link = changetype<usize>(block(kv, load<u32>(link))) + offsetof<Block>("chain");
  store<u32>(link, record.chain);
  if (!isFirst(record.parent)) loseChild(kv, record.parent);
  if (kv.marks != 0) unmarkBlock(kv, id);
  record.parent = NONE;
  record.chain = NONE;
  kv.cachedCount -= 1;
  if (kv.probeIndex != 0) withdraw(kv, record, withKey(kv, load<u32>(bucket), record.key));
}

/** The block to forget next, whoever wants its room. */
export function anyVictim(kv: KvCache): BlockId {
  while (kv.evictableCount == 0 && giveWay(kv, NONE)) {} // soft pins keep the rest
  const victim = kv.accounts == 0 ? NONE : accountVictim(kv, NONE);
  return victim == NONE ? nextVictim(kv) : victim;
}

/** Forgets an unheld block without cached children, for room; it is free then. */
export function evictBlock(kv: KvCache, victim: BlockId): void {
  forget(kv, victim, block(kv, victim), true);
  evictableToFree(kv, victim);
  kv.evictions += 1;
}

/** Forgets unheld blocks until no more are cached than are to be retained. */
export function trim(kv: KvCache): void {
  while (kv.evictableCount > kv.retained) evictBlock(kv, anyVictim(kv));
}

/** Takes one block, referenced once: a free one, else the next victim of the eviction order. One must be available. */
// @ts-ignore: decorator
@inline
export function takeBlock(kv: KvCache): BlockId {
  if (kv.freeCount == 0) evictBlock(kv, anyVictim(kv));
  return takeFree(kv);
}

/** `takeBlock` for a tenant, as a call. */
export function grabBlock(kv: KvCache, tenant: u32 = NONE): BlockId {
  const id = takeBlock(kv);
  if (kv.accounts != 0) {
    setPayer(kv, id, tenant);
    charge(kv, 1, tenant);
  }
  return id;
}

/** Forgets every cached block that no sequence holds; returns how many. */
export function forgetUnreferenced(kv: KvCache): u32 {
  let forgotten: u32 = 0;
  while (kv.evictableCount != 0) {
    const id = nextVictim(kv);
    forget(kv, id, block(kv, id), false);
    evictableToFree(kv, id);
    forgotten += 1;
  }
  if (kv.events != 0 && forgotten != 0 && kv.cachedCount == 0) eventsCleared(kv);
  return forgotten;
}

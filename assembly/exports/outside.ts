/**
 * What the outside knows of a KV cache: content keys, the keyed hash behind them, and events. Keys and digests are 32
 * bytes.
 */
import { ARENA, arenaTake, RegionKind } from "../memory/arena";
import { copyDigest, HASHER_BYTES, hashEnd, hashStart, hashUpdate } from "../memory/blake3";
import { INVALID_ARGUMENT, NOT_FOUND, OK, OUT_OF_MEMORY, Status, UNKNOWN_SEQUENCE } from "../memory/status";
import {
  contentBytes,
  contentChunk,
  contentCreate,
  contentKey,
  contentPrompt,
  contentScope,
  MAX_SCOPES,
} from "../paging/content-keys";
import {
  eventsBytes,
  eventsCreate,
  eventsLose,
  eventsOf,
  eventsRead,
  MAX_RING,
  snapshotBegin,
  snapshotNext,
} from "../paging/events";
import {
  block,
  isCached,
  isOpen,
  KvCache,
  MAX_BLOCKS,
  MAX_NAMESPACE,
  sequenceOf,
  SLOT_MASK,
  tableOf,
} from "../paging/layout";
import { memberOf } from "../paging/groups";
import { isList } from "../paging/marks";

/** Bytes of a hasher, 8-byte aligned: BLAKE3, keyed mode, fed in pieces. */
export function hasherBytes(): u32 {
  return <u32>HASHER_BYTES;
}

export function hasherStart(hasher: usize, key: usize): void {
  hashStart(hasher, key);
}

export function hasherUpdate(hasher: usize, from: usize, bytes: u32): void {
  hashUpdate(hasher, from, bytes);
}

export function hasherEnd(hasher: usize, out: usize): void {
  hashEnd(hasher, out);
}

/** Bytes of content keys for so many blocks, and namespaces that are given a scope; or INVALID_ARGUMENT. */
export function kvContentBytes(blocks: u32, scopes: u32): f64 {
  if (blocks > MAX_BLOCKS || scopes > MAX_SCOPES) return INVALID_ARGUMENT;
  return <f64>contentBytes(blocks, scopes);
}

/** Gives a cache content keys, in a region of their own. `domainKey` and `fingerprint`: addresses of 32 bytes each. */
export function kvContentCreate(cache: usize, scopes: u32, domainKey: usize, fingerprint: usize): Status {
  const kv = changetype<KvCache>(cache);
  if (kv.content != 0 || scopes > MAX_SCOPES) return INVALID_ARGUMENT;
  const at = arenaTake(ARENA, RegionKind.CacheAddOn, contentBytes(kv.blockCount, scopes));
  if (at == 0) return OUT_OF_MEMORY;
  contentCreate(kv, at, scopes, domainKey, fingerprint);
  return OK;
}

/** Address of the cache's content keys, or 0. */
export function kvContent(cache: usize): usize {
  return changetype<KvCache>(cache).content;
}

/**
 * Says what a namespace is called outside: a scope of `bytes` bytes at `list` (docs/abi.md). Once for each namespace,
 * before it is used. INVALID_ARGUMENT when it has another scope, OUT_OF_MEMORY when there is no room for one more.
 * `root`: 32 bytes of scratch, which get the namespace's root key.
 */
export function kvContentScope(cache: usize, namespace: u32, list: usize, bytes: u32, root: usize): Status {
  const kv = changetype<KvCache>(cache);
  if (kv.content == 0 || namespace > MAX_NAMESPACE) return INVALID_ARGUMENT;
  return contentScope(kv, namespace, list, bytes, root);
}

/**
 * Writes the keys of the cached blocks among `count` entries of a sequence's table from `from` on to `out`. Returns how
 * many there are.
 */
export function kvContentKeys(cache: usize, handle: u32, from: u32, count: u32, out: usize): i32 {
  const kv = changetype<KvCache>(cache);
  if (kv.content == 0) return INVALID_ARGUMENT;
  if (!isOpen(kv, handle)) return UNKNOWN_SEQUENCE;
  const published = sequenceOf(kv, handle).published;
  const cached: u32 = from >= published ? 0 : min(count, published - from);
  const entries = tableOf(kv, handle & SLOT_MASK) + ((<usize>from) << 2);
  for (let i: u32 = 0; i < cached; i++)
    copyDigest(out + ((<usize>i) << 5), contentKey(kv, load<u32>(entries + ((<usize>i) << 2))));
  return <i32>cached;
}

/** Writes the key of a cached block to `out`; NOT_FOUND when it is not cached. */
export function kvContentKey(cache: usize, id: u32, out: usize): Status {
  const kv = changetype<KvCache>(cache);
  if (kv.content == 0) return INVALID_ARGUMENT;
  if (id >= kv.blockCount || !isCached(block(kv, id))) return NOT_FOUND;
  if (kv.groups != 0 && memberOf(kv, id) != 0) return NOT_FOUND;
  copyDigest(out, contentKey(kv, id));
  return OK;
}

/**
 * Writes the keys of whole blocks of the prompt in the input region, `count` tokens with a list of marks, from block `from` on
 * to `out` + 32; at `out` is the key of the block before them, unless `from` is 0. Returns how many, `limit` at most.
 */
export function kvContentPrompt(
  cache: usize,
  namespace: u32,
  count: u32,
  marks: u32,
  from: u32,
  limit: u32,
  out: usize,
): i32 {
  const kv = changetype<KvCache>(cache);
  if (kv.content == 0 || namespace > MAX_NAMESPACE || count > kv.maxSequenceTokens || !isList(kv, marks))
    return INVALID_ARGUMENT;
  const blocks = count >> kv.blockShift;
  const found = from >= blocks ? 0 : min(limit, blocks - from);
  contentPrompt(kv, namespace, kv.input, marks, from, from + found, out);
  return found;
}

/** Writes the key of `count` tokens by themselves, with extras of `bytes` bytes, to `out`. */
export function kvContentChunk(
  cache: usize,
  tokens: usize,
  count: u32,
  extras: usize,
  bytes: u32,
  out: usize,
): Status {
  const kv = changetype<KvCache>(cache);
  if (kv.content == 0) return INVALID_ARGUMENT;
  contentChunk(kv, tokens, count, extras, bytes, out);
  return OK;
}

/** Bytes of events of so many blocks, with a ring of `capacity` entries, 1 to 2^26; or INVALID_ARGUMENT. */
export function kvEventsBytes(blocks: u32, capacity: u32): f64 {
  if (blocks > MAX_BLOCKS || capacity == 0 || capacity > MAX_RING) return INVALID_ARGUMENT;
  return <f64>eventsBytes(blocks, capacity);
}

/**
 * Gives a cache that has content keys and nothing cached events, in a region of their own. `tier` and `group` stand in
 * every record.
 */
export function kvEventsCreate(cache: usize, capacity: u32, tier: u32, group: u32): Status {
  const kv = changetype<KvCache>(cache);
  if (kv.content == 0 || kv.events != 0 || kv.cachedCount != 0) return INVALID_ARGUMENT;
  if (capacity == 0 || capacity > MAX_RING) return INVALID_ARGUMENT;
  const at = arenaTake(ARENA, RegionKind.CacheAddOn, eventsBytes(kv.blockCount, capacity));
  if (at == 0) return OUT_OF_MEMORY;
  eventsCreate(kv, at, capacity, tier, group);
  return OK;
}

/** Address of the cache's events, or 0. */
export function kvEvents(cache: usize): usize {
  return changetype<KvCache>(cache).events;
}

/**
 * Writes up to `limit` records, 96 bytes each, of what happened since the last call to `out`. `others`: events that the
 * host adds to the batch. Returns how many; INVALID_ARGUMENT for a cache without events.
 */
export function kvEventsRead(cache: usize, out: usize, limit: u32, others: u32): i32 {
  const kv = changetype<KvCache>(cache);
  if (kv.events == 0 || limit == 0) return INVALID_ARGUMENT;
  return <i32>eventsRead(kv, out, limit, others);
}

/** Batches read since creation: the number of the next one. */
export function kvEventsBatches(cache: usize): f64 {
  const kv = changetype<KvCache>(cache);
  return kv.events == 0 ? 0 : <f64>eventsOf(kv).batches;
}

/** What has not been read is lost: the next read begins with a gap. */
export function kvEventsLose(cache: usize): Status {
  const kv = changetype<KvCache>(cache);
  if (kv.events == 0) return INVALID_ARGUMENT;
  eventsLose(kv);
  return OK;
}

/**
 * Writes up to `limit` cached blocks as records of stored blocks to `out`, each behind its ancestors; `begin`: 1 in the
 * first call, 0 in those that go on. Returns how many, 0 at the end. INVALID_ARGUMENT unless everything has been read
 * and nothing has happened since.
 */
export function kvEventsSnapshot(cache: usize, out: usize, limit: u32, begin: u32): i32 {
  const kv = changetype<KvCache>(cache);
  if (kv.events == 0 || limit == 0) return INVALID_ARGUMENT;
  const events = eventsOf(kv);
  if (events.count != 0 || events.lost != 0) return INVALID_ARGUMENT;
  if (begin != 0) snapshotBegin(kv);
  return <i32>snapshotNext(kv, out, limit);
}

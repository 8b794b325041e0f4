/**
 * The KV cache as the host sees it. `cache` is the pointer that `coreRegionPointer` gives for a region of kind
 * KvCache; sequences are handles. In the debug build every changing call is followed by a full check.
 */
import { ARENA, arenaSeed, arenaTake, RegionKind } from "../memory/arena";
import {
  INVALID_ARGUMENT,
  INVALID_TIME,
  NOT_FOUND,
  OK,
  OUT_OF_MEMORY,
  SEQUENCE_OWNED,
  Status,
  UNKNOWN_SEQUENCE,
} from "../memory/status";
import { adviceSet } from "../orders/advice";
import { LAST_KIND, MAX_HISTORY, Order, OrderKind, takesAdvice } from "../orders/layout";
import { MAX_PRIORITY, priorityGive, priorityNextUs } from "../orders/priority";
import { setScore } from "../orders/ranked";
import { advance } from "../paging/advance";
import { kvMatchAs } from "./isolation";
import { kvCreate, kvSetOrder, kvShapeValid, kvShareProbe } from "../paging/cache";
import { revertCopies, settleCopies } from "../paging/copies";
import {
  block,
  isOpen,
  kvBytes,
  KvCache,
  MAX_NAMESPACE,
  orderOf,
  OWNED,
  sequenceOf,
  SLOT_MASK,
  slotsOf,
  tableOf,
} from "../paging/layout";
import { availableBlocks } from "../paging/pool";
import { forgetUnreferenced, trim } from "../paging/prefix";
import { probeBlocks, probeStart, probeWorkBytes } from "../paging/probe";
import { probeIndexBytes } from "../paging/probe-index";
import { append, reserve, truncate } from "../paging/growth";
import { close, countLookup, fork, open } from "../paging/sequences";
import { kvValidate } from "../paging/validate";
import { orderBytes, orderLayOut } from "../orders/create";
import { pinsOf } from "../paging/pin-counts";

// @ts-ignore: decorator
@inline
function checked(kv: KvCache, result: i32): i32 {
  if (ASC_OPTIMIZE_LEVEL == 0) assert(kvValidate(kv) == OK);
  return result;
}

/** Whether the call must be refused because a scheduler owns the sequence. */
function owned(kv: KvCache, handle: u32): bool {
  return isOpen(kv, handle) && (sequenceOf(kv, handle).flags & OWNED) != 0;
}

/** Bytes of a cache and of the shared probe index behind it, if asked for. */
// @ts-ignore: decorator
@inline
function regionBytes(
  blocks: u32,
  blockSize: u32,
  maxSequences: u32,
  maxSequenceTokens: u32,
  sharedProbe: u32,
): u64 {
  const bytes = kvBytes(blocks, blockSize, maxSequences, maxSequenceTokens);
  return sharedProbe != 0 ? bytes + probeIndexBytes(blocks) : bytes;
}

/** Bytes of a cache of this shape, or INVALID_ARGUMENT. */
export function kvCacheBytes(
  blocks: u32,
  blockSize: u32,
  maxSequences: u32,
  maxSequenceTokens: u32,
  sharedProbe: u32,
): f64 {
  if (!kvShapeValid(blocks, blockSize, maxSequences, maxSequenceTokens)) return INVALID_ARGUMENT;
  return <f64>regionBytes(blocks, blockSize, maxSequences, maxSequenceTokens, sharedProbe);
}

/**
 * Creates a cache in a region of its own; afterwards it is the arena's last region. `sharedProbe`: 1 for an
 * index that `kvCacheProbe` reads from any thread; only in the threads build.
 */
export function kvCacheCreate(
  blocks: u32,
  blockSize: u32,
  maxSequences: u32,
  maxSequenceTokens: u32,
  prefixCache: u32,
  keyBits: u32,
  sharedProbe: u32,
): Status {
  if (!kvShapeValid(blocks, blockSize, maxSequences, maxSequenceTokens) || keyBits > 64)
    return INVALID_ARGUMENT;
  if (sharedProbe != 0 && !ASC_FEATURE_THREADS) return INVALID_ARGUMENT;
  const bytes = regionBytes(blocks, blockSize, maxSequences, maxSequenceTokens, sharedProbe);
  const kv = changetype<KvCache>(arenaTake(ARENA, RegionKind.KvCache, bytes));
  if (changetype<usize>(kv) == 0) return OUT_OF_MEMORY;
  const seed = arenaSeed(ARENA);
  kvCreate(kv, blocks, blockSize, maxSequences, maxSequenceTokens, prefixCache, keyBits, seed);
  if (sharedProbe != 0) {
    const index = changetype<usize>(kv) + <usize>kvBytes(blocks, blockSize, maxSequences, maxSequenceTokens);
    kvShareProbe(kv, index, arenaSeed(ARENA));
  }
  return checked(kv, OK);
}

// @ts-ignore: decorator
@inline
function orderShapeValid(kind: u32, history: u32): bool {
  return kind >= 1 && kind <= LAST_KIND && history <= MAX_HISTORY;
}

/** Bytes of an eviction order for a cache of so many blocks, or INVALID_ARGUMENT. `kind`: docs/abi.md. */
export function kvOrderBytes(blocks: u32, kind: u32, history: u32): f64 {
  return orderShapeValid(kind, history) ? <f64>orderBytes(kind, blocks, history) : INVALID_ARGUMENT;
}

/**
 * Gives a cache that has nothing cached and nothing open an eviction order of its own, in a region of its own.
 * `history`: blocks to remember after they have left. GDSF takes the cost of a first block and what each block in
 * front of it adds, both finite and >= 0.
 */
export function kvOrderCreate(cache: usize, kind: u32, history: u32, baseCost: f64, depthCost: f64): Status {
  const kv = changetype<KvCache>(cache);
  if (!orderShapeValid(kind, history) || kv.order != 0 || kv.freeCount != kv.blockCount)
    return INVALID_ARGUMENT;
  if (!(baseCost >= 0 && baseCost < Infinity && depthCost >= 0 && depthCost < Infinity))
    return INVALID_ARGUMENT;
  const bytes = orderBytes(kind, kv.blockCount, history);
  const order = arenaTake(ARENA, RegionKind.EvictionOrder, bytes);
  if (order == 0) return OUT_OF_MEMORY;
  orderLayOut(changetype<Order>(order), kind, kv.blockCount, history, arenaSeed(ARENA));
  changetype<Order>(order).baseCost = baseCost;
  changetype<Order>(order).depthCost = depthCost;
  kvSetOrder(kv, order);
  return checked(kv, OK);
}

/**
 * Orders by advice: the bit of the cached blocks of a sequence until their next use, 0 keep or 1 discard. Returns how
 * many there were; INVALID_ARGUMENT under another order.
 */
export function kvAdvise(cache: usize, handle: u32, discard: u32): i32 {
  const kv = changetype<KvCache>(cache);
  if (!isOpen(kv, handle)) return UNKNOWN_SEQUENCE;
  if (discard > 1 || kv.order == 0 || !takesAdvice(orderOf(kv).kind)) return INVALID_ARGUMENT;
  const sequence = sequenceOf(kv, handle);
  const table = tableOf(kv, handle & SLOT_MASK);
  for (let i: u32 = 0; i < sequence.published; i++)
    adviceSet(orderOf(kv), load<u32>(table + ((<usize>i) << 2)), discard != 0);
  return checked(kv, <i32>sequence.published);
}

/**
 * Order `priority`: gives the cached blocks of a sequence a priority (0 to 100) until a time, and a time up to which they
 * are worth keeping; times in microseconds, >= 0, Infinity for ever. Returns how many blocks there were;
 * INVALID_ARGUMENT under another order, INVALID_TIME.
 */
export function kvPrioritize(
  cache: usize,
  handle: u32,
  priority: u32,
  priorityUntilUs: f64,
  liveUntilUs: f64,
): i32 {
  const kv = changetype<KvCache>(cache);
  if (!isOpen(kv, handle)) return UNKNOWN_SEQUENCE;
  if (kv.order == 0 || orderOf(kv).kind != OrderKind.Priority || priority > MAX_PRIORITY)
    return INVALID_ARGUMENT;
  if (!(priorityUntilUs >= 0 && liveUntilUs >= 0)) return INVALID_TIME;
  const sequence = sequenceOf(kv, handle);
  const table = tableOf(kv, handle & SLOT_MASK);
  for (let i: u32 = 0; i < sequence.published; i++)
    priorityGive(orderOf(kv), load<u32>(table + ((<usize>i) << 2)), priority, priorityUntilUs, liveUntilUs);
  return checked(kv, <i32>sequence.published);
}

/** The host's clock has come to `nowUs`: pins end and, under order `priority`, priorities and times to live do. */
export function kvAdvance(cache: usize, nowUs: f64): Status {
  const kv = changetype<KvCache>(cache);
  if (!(nowUs >= 0 && nowUs < Infinity)) return INVALID_TIME;
  advance(kv, nowUs);
  return checked(kv, OK);
}

/** Earliest time at which `kvAdvance` changes something, or Infinity. */
export function kvNextDeadlineUs(cache: usize): f64 {
  const kv = changetype<KvCache>(cache);
  const pins = kv.pins == 0 ? Infinity : pinsOf(kv).nextUs;
  if (kv.order == 0 || orderOf(kv).kind != OrderKind.Priority) return pins;
  return min(pins, priorityNextUs(orderOf(kv)));
}

/** Kind of the cache's eviction order. */
export function kvOrderKind(cache: usize): u32 {
  const kv = changetype<KvCache>(cache);
  return kv.order == 0 ? 0 : orderOf(kv).kind;
}

/** Unheld cached blocks to keep at most, 0 to all; forgets what is above. */
export function kvRetain(cache: usize, blocks: u32): Status {
  const kv = changetype<KvCache>(cache);
  if (blocks > kv.blockCount) return INVALID_ARGUMENT;
  kv.retained = blocks;
  trim(kv);
  return checked(kv, OK);
}

/**
 * Order `scored`: scores (f64, not NaN, at `scores`) of the cached blocks among `count` entries of a sequence's table
 * from `from` on. Returns how many there were; INVALID_ARGUMENT under another order.
 */
export function kvScore(cache: usize, handle: u32, from: u32, count: u32, scores: usize): i32 {
  const kv = changetype<KvCache>(cache);
  if (!isOpen(kv, handle)) return UNKNOWN_SEQUENCE;
  if (kv.order == 0 || orderOf(kv).kind != OrderKind.Scored) return INVALID_ARGUMENT;
  const published = sequenceOf(kv, handle).published;
  const cached: u32 = from >= published ? 0 : min(count, published - from);
  for (let i: u32 = 0; i < cached; i++)
    if (isNaN(load<f64>(scores + ((<usize>i) << 3)))) return INVALID_ARGUMENT;
  const entries = tableOf(kv, handle & SLOT_MASK) + ((<usize>from) << 2);
  for (let i: u32 = 0; i < cached; i++)
    setScore(orderOf(kv), load<u32>(entries + ((<usize>i) << 2)), load<f64>(scores + ((<usize>i) << 3)));
  return checked(kv, <i32>cached);
}

/** Opens a sequence on the cached part of `count` tokens in the input region. `flags`: 1 = never shared, 4 = lossy. */
export function kvOpen(cache: usize, namespace: u32, count: u32, flags: u32): i32 {
  const kv = changetype<KvCache>(cache);
  const handle = open(kv, namespace, kv.input, count, flags & ~OWNED, 0);
  if (handle >= 0) countLookup(kv, handle, count);
  return checked(kv, handle);
}

/** Cached tokens (whole blocks, unless parts are reused) that `count` tokens in the input region would hit now; changes nothing. */
export function kvMatch(cache: usize, namespace: u32, count: u32): i32 {
  return kvMatchAs(cache, namespace, count, 0);
}

/** Bytes of the `work` area that one thread's probes need. */
export function kvCacheProbeBytes(): u32 {
  return <u32>probeWorkBytes();
}

/** Address of the shared probe index, an ordered index of mode 2, or 0 when the cache has none. */
export function kvCacheProbeIndex(cache: usize): usize {
  return changetype<KvCache>(cache).probeIndex;
}

/** Any thread: begins a probe of a prompt of this namespace. INVALID_ARGUMENT when the cache has no probe index. */
export function kvCacheProbeStart(cache: usize, namespace: u32, work: usize): Status {
  const kv = changetype<KvCache>(cache);
  if (kv.probeIndex == 0 || namespace > MAX_NAMESPACE) return INVALID_ARGUMENT;
  probeStart(kv, namespace, work);
  return OK;
}

/**
 * Any thread: goes on with the next `blocks` whole blocks of the prompt, their u32 tokens at `tokens`. Returns
 * how many are cached; after fewer than `blocks` the probe is at its end.
 */
export function kvCacheProbe(cache: usize, tokens: usize, blocks: u32, work: usize): u32 {
  return probeBlocks(changetype<KvCache>(cache), tokens, blocks, work);
}

export function kvReserve(cache: usize, handle: u32, count: u32): i32 {
  const kv = changetype<KvCache>(cache);
  if (owned(kv, handle)) return SEQUENCE_OWNED;
  return checked(kv, reserve(kv, handle, count));
}

/** Records `count` tokens from the input region as computed. */
export function kvAppend(cache: usize, handle: u32, count: u32): Status {
  const kv = changetype<KvCache>(cache);
  if (count > kv.maxSequenceTokens) return INVALID_ARGUMENT;
  if (owned(kv, handle)) return SEQUENCE_OWNED;
  return checked(kv, append(kv, handle, kv.input, count));
}

/** As `kvAppend`, of tokens whose groups' blocks were copied from elsewhere, for a sequence that is to grow to `whole`. */
export function kvAppendLoaded(cache: usize, handle: u32, count: u32, whole: u32): Status {
  const kv = changetype<KvCache>(cache);
  if (count > kv.maxSequenceTokens) return INVALID_ARGUMENT;
  if (owned(kv, handle)) return SEQUENCE_OWNED;
  return checked(kv, append(kv, handle, kv.input, count, whole));
}

export function kvTruncate(cache: usize, handle: u32, length: u32): Status {
  const kv = changetype<KvCache>(cache);
  if (owned(kv, handle)) return SEQUENCE_OWNED;
  return checked(kv, truncate(kv, handle, length));
}

export function kvFork(cache: usize, handle: u32): i32 {
  const kv = changetype<KvCache>(cache);
  if (owned(kv, handle)) return SEQUENCE_OWNED;
  return checked(kv, fork(kv, handle));
}

export function kvClose(cache: usize, handle: u32): Status {
  const kv = changetype<KvCache>(cache);
  if (owned(kv, handle)) return SEQUENCE_OWNED;
  return checked(kv, close(kv, handle));
}

export function kvSettleCopies(cache: usize): void {
  const kv = changetype<KvCache>(cache);
  settleCopies(kv);
  checked(kv, OK);
}

export function kvRevertCopies(cache: usize): void {
  const kv = changetype<KvCache>(cache);
  revertCopies(kv);
  checked(kv, OK);
}

/** Forgets every cached block that no sequence holds. */
export function kvForget(cache: usize): i32 {
  const kv = changetype<KvCache>(cache);
  return checked(kv, <i32>forgetUnreferenced(kv));
}

/** Tokens of a sequence whose K and V exist, or -1 when the handle is not open. */
export function kvLength(cache: usize, handle: u32): i32 {
  const kv = changetype<KvCache>(cache);
  return isOpen(kv, handle) ? <i32>sequenceOf(kv, handle).length : -1;
}

/** Slots of a sequence's longest lane, or -1; its length unless it is lossy. */
export function kvSlots(cache: usize, handle: u32): i32 {
  const kv = changetype<KvCache>(cache);
  return isOpen(kv, handle) ? <i32>slotsOf(sequenceOf(kv, handle)) : -1;
}

/** Block ids in a sequence's table, or -1. */
export function kvTableCount(cache: usize, handle: u32): i32 {
  const kv = changetype<KvCache>(cache);
  return isOpen(kv, handle) ? <i32>sequenceOf(kv, handle).blockCount : -1;
}

/** Address of a sequence's table. */
export function kvTable(cache: usize, handle: u32): usize {
  const kv = changetype<KvCache>(cache);
  return tableOf(kv, handle & SLOT_MASK);
}

export function kvInput(cache: usize): usize {
  const kv = changetype<KvCache>(cache);
  return kv.input;
}

export function kvCopies(cache: usize): usize {
  const kv = changetype<KvCache>(cache);
  return kv.copies;
}

export function kvCopyCount(cache: usize): u32 {
  const kv = changetype<KvCache>(cache);
  return kv.copyCount;
}

/** Holders of a block, or NOT_FOUND for an id that the pool does not have. */
export function kvReferences(cache: usize, id: u32): i32 {
  const kv = changetype<KvCache>(cache);
  return id < kv.blockCount ? <i32>block(kv, id).refs : NOT_FOUND;
}

export function kvAvailable(cache: usize): u32 {
  const kv = changetype<KvCache>(cache);
  return availableBlocks(kv);
}

export function kvValidateCache(cache: usize): Status {
  const kv = changetype<KvCache>(cache);
  return kvValidate(kv);
}

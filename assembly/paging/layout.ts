/**
 * KvCache: the records and the one region that the block pool, the prefix index and the block tables share.
 *
 *   header (KvCache, 4 lines)
 *   blocks     [blocks]        Block, 32 B      reference count, list links, prefix key
 *   buckets    [2^k >= blocks] u32              first block of each hash chain
 *   tokens     [blocks][blockSize] u32          the token ids whose K and V a block holds
 *   sequences  [maxSequences]  Sequence, 52 B
 *   tables     [maxSequences][tableStride] u32  block ids of each sequence, read by kernels in place
 *   copies     [maxSequences]  Copy, 32 B       copy-on-write transfers not settled yet
 *   staged     [2][tableStride] u32             a planned compaction: new table, and what it takes from the old one
 *   keys       [64] u64, [64] u32               scratch of a match: keys, and blocks that carry them
 *   input      [maxSequenceTokens] u32          the host writes token ids here
 *   probe      optional ordered index           keys of the cached blocks for other threads (probe-index.ts)
 *
 * A block costs 32 B + 4..8 B of bucket, its tokens not counted. Source of the idea of paged KV blocks with
 * reference counts: "Efficient Memory Management for Large Language Model Serving with PagedAttention" (arXiv
 * 2309.06180).
 */
import { alignToLine } from "../memory/arena";
import { Order } from "../orders/layout";

export type BlockId = u32;

/** No block, no sequence, end of a list. */
// @ts-ignore: decorator
@inline export const NONE: u32 = 0xffffffff;
/** Key of a block that the shared probe index does not show; with that index a key has 63 bits. */
// @ts-ignore: decorator
@inline export const NO_KEY: u64 = u64.MAX_VALUE;
/** Set in `parent` of a first block: the other 31 bits are its namespace. */
// @ts-ignore: decorator
@inline export const ROOT: u32 = 0x80000000;

// @ts-ignore: decorator
@inline export const MAX_BLOCKS: u32 = 1 << 27;
// @ts-ignore: decorator
@inline export const MAX_BLOCK_SIZE: u32 = 256;
// @ts-ignore: decorator
@inline export const MAX_SEQUENCES: u32 = 1 << 20;
// @ts-ignore: decorator
@inline export const MAX_SEQUENCE_TOKENS: u32 = 1 << 24;
// @ts-ignore: decorator
@inline export const MAX_NAMESPACE: u32 = 0x7ffffffe;
/** Blocks whose keys a match computes before it probes them. */
// @ts-ignore: decorator
@inline export const MATCH_GROUP: u32 = 64;

/**
 * Handle = generation << SLOT_BITS | slot; generations run from 1 to 2047, so a handle is positive and never
 * 0.
 */
// @ts-ignore: decorator
@inline export const SLOT_BITS: u32 = 20;
// @ts-ignore: decorator
@inline export const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;
// @ts-ignore: decorator
@inline export const MAX_GENERATION: u32 = 2047;


@unmanaged
export class KvCache {
  // Shape, fixed at creation.
  blockCount: u32;
  blockSize: u32;
  blockShift: u32;
  maxSequences: u32;
  maxSequenceTokens: u32;
  tableStride: u32;
  bucketMask: u32;
  prefixCache: u32;
  seed: u64;
  keyMask: u64;
  // Addresses of the sections.
  blocks: u32;
  buckets: u32;
  tokens: u32;
  sequences: u32;
  tables: u32;
  copies: u32;
  keys: u32;
  input: u32;
  // Block lists: free (no content worth keeping) and evictable (cached, unreferenced, least recently used
  // first).
  freeHead: u32;
  freeTail: u32;
  freeCount: u32;
  evictableHead: u32;
  evictableTail: u32;
  evictableCount: u32;
  cachedCount: u32;
  copyCount: u32;
  freeSequence: u32;
  openSequences: u32;
  // Counters since creation.
  queriedTokens: u64;
  hitTokens: u64;
  evictions: u64;
  duplicates: u64;
  /** Address of the shared probe index, 0: none. Not 0 in `probeIncomplete`: its nodes have run out once. */
  probeIndex: u32;
  probeIncomplete: u32;
  /** Address of the eviction order, 0: least recently used, by the evictable list. */
  order: u32;
  /** Unheld cached blocks to keep at most. */
  retained: u32;
  // The planned compaction (compaction.ts).
  staged: u32;
  /** Handle of the sequence that is compacted; 0: none is planned. */
  stagedSequence: u32;
  /** Entries of the new table, and how many of its blocks are fresh. */
  stagedCount: u32;
  stagedFresh: u32;
  /** Last block of the prefix that the last match found, or ROOT | namespace. */
  matchedParent: u32;
  /** Address of the lists of children (children.ts), 0: none. */
  children: u32;
  /** Address of the content keys, 0: none (content-keys.ts). */
  content: u32;
  /** Address of the events, 0: none (events.ts). */
  events: u32;
  /** Address of the groups (groups.ts), 0: none but the cache's own tables. */
  groups: u32;
  /** Address of the tenants' accounts (accounts.ts), 0: none. */
  accounts: u32;
  /** Address of the host tier (tiers/layout.ts), 0: none. */
  tier: u32;
  /** Address of the marks of prompts (marks.ts), 0: none. */
  marks: u32;
  /** Address of the pins (pins.ts), 0: none. */
  pins: u32;
  /** Address of the runs (runs.ts), 0: blocks are taken in the order of the free list. */
  runs: u32;
}


@unmanaged
export class Block {
  /** Neighbours in the free or the evictable list; meaningless while referenced. */
  prev: u32;
  next: u32;
  /** Open sequences (and unsettled copies) that hold the block. */
  refs: u32;
  /** Cached: the block before it in its prefix, or ROOT | namespace. Not cached: NONE. */
  parent: u32;
  /** Cached: the chain hash of the prefix that ends here. */
  key: u64;
  /** Next block in the hash chain. */
  chain: u32;
  /** Cached blocks whose parent this is. */
  children: u32;
}


@unmanaged
export class Sequence {
  /**
   * Odd-even would do for open/closed; a full count also exposes a handle kept after close. 0 in `open` =
   * closed.
   */
  generation: u32;
  open: u32;
  /** Tokens whose K and V exist. */
  length: u32;
  /** Block ids in the table; those past ceil(length / blockSize) are reserved. */
  blockCount: u32;
  /** Leading blocks that are in the prefix index. */
  published: u32;
  namespace: u32;
  flags: u32;
  nextFree: u32;
  // Lossy: where its tokens lie. Without the flag every token has the slot of its number.
  /** Slots of its longest lane, places left for the next token included. */
  slots: u32;
  /** 1: the next token takes a place that is counted in `slots`, in every lane that long. */
  reuse: u32;
  /** Slots below it are not written by the next tokens. */
  writeFrom: u32;
  /** Who pays for the blocks that it takes. */
  tenant: u32;
  /** The marks of its prompt (marks.ts), 0: none. */
  marks: u32;
}

/** A sequence that keeps its blocks out of the prefix index. */
// @ts-ignore: decorator
@inline export const PRIVATE: u32 = 1;
/** A sequence that belongs to a scheduler. */
// @ts-ignore: decorator
@inline export const OWNED: u32 = 2;
/** A sequence whose lanes drop tokens: it publishes nothing, and its length says nothing about its slots. */
// @ts-ignore: decorator
@inline export const LOSSY: u32 = 4;

/** One transfer record (docs/abi.md). */
@unmanaged
export class Copy {
  op: u32;
  sourceTier: u32;
  source: u32;
  targetTier: u32;
  target: u32;
  tokens: u32;
  mark: u32;
  sequence: u32;
}

// @ts-ignore: decorator
@inline
export function block(kv: KvCache, id: BlockId): Block {
  return changetype<Block>(<usize>kv.blocks + <usize>id * offsetof<Block>());
}

/** Whether the prefix index has the block. */
// @ts-ignore: decorator
@inline
export function isCached(record: Block): bool {
  return record.parent != NONE;
}

/** Whether a parent is none: the block that names it is the first of a prefix. */
// @ts-ignore: decorator
@inline
export function isFirst(parent: u32): bool {
  return (parent & ROOT) != 0;
}

// @ts-ignore: decorator
@inline
export function tokensOf(kv: KvCache, id: BlockId): usize {
  return <usize>kv.tokens + (((<usize>id) << kv.blockShift) << 2);
}

// @ts-ignore: decorator
@inline
export function sequenceAt(kv: KvCache, slot: u32): Sequence {
  return changetype<Sequence>(<usize>kv.sequences + <usize>slot * offsetof<Sequence>());
}

// @ts-ignore: decorator
@inline
export function sequenceOf(kv: KvCache, handle: u32): Sequence {
  return sequenceAt(kv, handle & SLOT_MASK);
}

/** Whether the handle names an open sequence. A call: it is asked in many places, and once each time. */
export function isOpen(kv: KvCache, handle: u32): bool {
  const slot = handle & SLOT_MASK;
  if (slot >= kv.maxSequences) return false;
  const sequence = sequenceAt(kv, slot);
  return sequence.open != 0 && sequence.generation == handle >> SLOT_BITS;
}

/** The eviction order of a cache that has one (`order` is not 0). */
// @ts-ignore: decorator
@inline
export function orderOf(kv: KvCache): Order {
  return changetype<Order>(<usize>kv.order);
}

/** Address of a sequence's block table. */
// @ts-ignore: decorator
@inline
export function tableOf(kv: KvCache, slot: u32): usize {
  return <usize>kv.tables + ((<usize>slot * <usize>kv.tableStride) << 2);
}

// @ts-ignore: decorator
@inline
export function copyAt(kv: KvCache, index: u32): Copy {
  return changetype<Copy>(<usize>kv.copies + <usize>index * offsetof<Copy>());
}

/** Slots that a sequence's blocks must hold. */
// @ts-ignore: decorator
@inline
export function slotsOf(sequence: Sequence): u32 {
  return (sequence.flags & LOSSY) != 0 ? sequence.slots : sequence.length;
}

/** Entry of a planned table. */
// @ts-ignore: decorator
@inline
export function stagedBlock(kv: KvCache, index: u32): BlockId {
  return load<u32>(<usize>kv.staged + ((<usize>index) << 2));
}

/** Which entry of the old table an entry of a planned one is; NONE for a fresh block. */
// @ts-ignore: decorator
@inline
export function stagedSource(kv: KvCache, index: u32): u32 {
  return load<u32>(<usize>kv.staged + ((<usize>(kv.tableStride + index)) << 2));
}

// @ts-ignore: decorator
@inline
export function setStaged(kv: KvCache, index: u32, id: BlockId, source: u32): void {
  store<u32>(<usize>kv.staged + ((<usize>index) << 2), id);
  store<u32>(<usize>kv.staged + ((<usize>(kv.tableStride + index)) << 2), source);
}

/** Blocks that hold `tokens` tokens. */
// @ts-ignore: decorator
@inline
export function blocksFor(kv: KvCache, tokens: u32): u32 {
  return (tokens + kv.blockSize - 1) >> kv.blockShift;
}

// @ts-ignore: decorator
@inline
function bucketCount(blocks: u32): u32 {
  return blocks <= 1 ? 1 : 1 << (32 - clz(blocks - 1));
}

// @ts-ignore: decorator
@inline
function align(bytes: u64): u64 {
  return (bytes + 63) & ~63;
}

/**
 * Exact bytes of a cache of this shape without a shared probe index (the ranges of `kvCreate` are the caller's to
 * check). The index, where there is one, lies behind.
 */
export function kvBytes(blocks: u32, blockSize: u32, maxSequences: u32, maxSequenceTokens: u32): u64 {
  const stride = <u64>((maxSequenceTokens + blockSize - 1) / blockSize);
  return (
    align(offsetof<KvCache>()) +
    align(<u64>blocks * offsetof<Block>()) +
    align(<u64>bucketCount(blocks) * 4) +
    align(<u64>blocks * blockSize * 4) +
    align(<u64>maxSequences * offsetof<Sequence>()) +
    align(<u64>maxSequences * stride * 4) +
    align(<u64>maxSequences * offsetof<Copy>()) +
    align(stride * 8) +
    align(<u64>MATCH_GROUP * 12) +
    align(<u64>maxSequenceTokens * 4)
  );
}

/** Sets shape and section addresses of a cache at `kv`; the sections' contents are the owners' to fill. */
export function kvLayOut(
  kv: KvCache,
  blocks: u32,
  blockSize: u32,
  maxSequences: u32,
  maxSequenceTokens: u32,
): void {
  kv.blockCount = blocks;
  kv.blockSize = blockSize;
  kv.blockShift = ctz(blockSize);
  kv.maxSequences = maxSequences;
  kv.maxSequenceTokens = maxSequenceTokens;
  kv.tableStride = (maxSequenceTokens + blockSize - 1) / blockSize;
  kv.bucketMask = bucketCount(blocks) - 1;
  let at = changetype<usize>(kv) + alignToLine(offsetof<KvCache>());
  kv.blocks = <u32>at;
  at += alignToLine(<usize>blocks * offsetof<Block>());
  kv.buckets = <u32>at;
  at += alignToLine((<usize>kv.bucketMask + 1) << 2);
  kv.tokens = <u32>at;
  at += alignToLine((<usize>blocks * <usize>blockSize) << 2);
  kv.sequences = <u32>at;
  at += alignToLine(<usize>maxSequences * offsetof<Sequence>());
  kv.tables = <u32>at;
  at += alignToLine((<usize>maxSequences * <usize>kv.tableStride) << 2);
  kv.copies = <u32>at;
  at += alignToLine(<usize>maxSequences * offsetof<Copy>());
  kv.staged = <u32>at;
  at += alignToLine((<usize>kv.tableStride) << 3);
  kv.keys = <u32>at;
  at += alignToLine(<usize>MATCH_GROUP * 12);
  kv.input = <u32>at;
  kv.probeIndex = 0;
  kv.stagedSequence = 0;
  kv.content = 0;
  kv.events = 0;
  kv.tier = 0;
}

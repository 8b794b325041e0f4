/** Creation of a KvCache over its region. */
import { KvCache, kvLayOut, MAX_BLOCK_SIZE, MAX_BLOCKS, MAX_SEQUENCE_TOKENS, MAX_SEQUENCES } from "./layout";
import { poolCreate } from "./pool";
import { prefixCreate } from "./prefix";
import { probeIndexCreate } from "./probe-index";
import { sequencesCreate } from "./sequences";

/** Whether the shape is within range: block size a power of two up to 256, the rest 1 to their maxima. */
export function kvShapeValid(blocks: u32, blockSize: u32, maxSequences: u32, maxSequenceTokens: u32): bool {
  return (
    blocks >= 1 &&
    blocks <= MAX_BLOCKS &&
    blockSize >= 1 &&
    blockSize <= MAX_BLOCK_SIZE &&
    popcnt(blockSize) == 1 &&
    maxSequences >= 1 &&
    maxSequences <= MAX_SEQUENCES &&
    maxSequenceTokens >= 1 &&
    maxSequenceTokens <= MAX_SEQUENCE_TOKENS
  );
}

/**
 * Lays out and fills a cache at `kv`, a zeroed region of `kvBytes` bytes; the shape has been checked.
 * `keyBits` below 64 weakens the chain hash: only tests that force collisions want that.
 */
export function kvCreate(
  kv: KvCache,
  blocks: u32,
  blockSize: u32,
  maxSequences: u32,
  maxSequenceTokens: u32,
  prefixCache: u32,
  keyBits: u32,
  seed: u64,
): void {
  kvLayOut(kv, blocks, blockSize, maxSequences, maxSequenceTokens);
  kv.prefixCache = u32(prefixCache != 0);
  kv.queriedTokens = 0;
  kv.hitTokens = 0;
  kv.evictions = 0;
  kv.duplicates = 0;
  kv.cachedCount = 0;
  kv.order = 0;
  kv.children = 0;
  kv.groups = 0;
  kv.accounts = 0;
  kv.marks = 0;
  kv.pins = 0;
  kv.runs = 0;
  kv.retained = blocks;
  poolCreate(kv);
  prefixCreate(kv, seed, keyBits);
  sequencesCreate(kv);
}

/** Gives a cache without sequences and cached blocks an order of its own, laid out over its blocks at `order`. */
export function kvSetOrder(kv: KvCache, order: usize): void {
  kv.order = <u32>order;
}

/**
 * Adds a shared probe index at `index`, a zeroed region of `probeIndexBytes` bytes, to a cache that is still empty.
 */
export function kvShareProbe(kv: KvCache, index: usize, seed: u64): void {
  kv.probeIndex = <u32>index;
  kv.keyMask &= u64.MAX_VALUE >> 1;
  probeIndexCreate(kv, seed);
}

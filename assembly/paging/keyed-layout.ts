/**
 * KeyedPool: a block pool whose keys come from outside, for engines that hash blocks themselves and keep their own
 * block tables. Beside a KvCache, not part of one: nothing here knows tokens or sequences.
 *
 *   header   (KeyedPool, 64 B)
 *   blocks   [blocks] KeyedBlock, 40 B, and keyBytes of key: the one the block has, or had last
 *   input    [batch][keyBytes]   in: keys of a call
 *   buckets  [2^k >= blocks] u32 first block of each hash chain
 *   ids      [blocks] u32        in and out: block ids of a call
 *
 * A block costs 44 B, its key, and 4..8 B of bucket.
 *
 * Every block is in exactly one of three states:
 *   free       refs = 0, in the free list: in id order at first; the head is taken next, what is released goes to the tail
 *   held       refs > 0, not in the list
 *   set aside  refs = 0, not in the list: the host's own (a null block); releasing, touching and keying pass it over
 * Any of them may have a key; a free block loses it only when it is taken.
 */
import { NONE } from "./layout";

/** Bytes of the longest key that a pool can be made for. */
// @ts-ignore: decorator
@inline export const MAX_KEY_BYTES: u32 = 1024;
/** `prev` of a block that is not in the free list, and `next` too of one that is set aside. */
// @ts-ignore: decorator
@inline export const OUTSIDE: u32 = 0xfffffffe;
/** Set in an id that comes back when its block has lost its key by the call. */
// @ts-ignore: decorator
@inline export const LOST_KEY: u32 = 0x80000000;


@unmanaged
export class KeyedPool {
  blocks: u32;
  keyBytes: u32;
  /** Keys of one call. */
  batch: u32;
  bucketMask: u32;
  freeCount: u32;
  freeHead: u32;
  freeTail: u32;
  /** Blocks with references. */
  held: u32;
  /** Blocks with a key. */
  keyed: u32;
  /** Different keys. */
  distinct: u32;
  /** Bytes from block to block. */
  stride: u32;
  input: u32;
  buckets: u32;
  ids: u32;
  seed: u64;
}


@unmanaged
export class KeyedBlock {
  refs: u32;
  /** In the free list: the neighbours, or NONE at an end. */
  prev: u32;
  next: u32;
  /** Of the oldest block with a key: the next one of its bucket. */
  chain: u32;
  /** Blocks with the same key in a ring, oldest first; `younger` is NONE without a key. */
  older: u32;
  younger: u32;
  group: u32;
  keyLength: u32;
  /** Of the key; its lowest bits choose the bucket. */
  hash: u32;
  unused: u32;
}

// @ts-ignore: decorator
@inline
export function keyedBlock(pool: KeyedPool, id: u32): KeyedBlock {
  return changetype<KeyedBlock>(changetype<usize>(pool) + offsetof<KeyedPool>() + <usize>id * pool.stride);
}

// @ts-ignore: decorator
@inline
export function keyOf(block: KeyedBlock): usize {
  return changetype<usize>(block) + offsetof<KeyedBlock>();
}

// @ts-ignore: decorator
@inline
export function idAt(pool: KeyedPool, index: u32): u32 {
  return load<u32>(<usize>pool.ids + ((<usize>index) << 2));
}

// @ts-ignore: decorator
@inline
export function putId(pool: KeyedPool, index: u32, word: u32): void {
  store<u32>(<usize>pool.ids + ((<usize>index) << 2), word);
}

// @ts-ignore: decorator
@inline
export function inFreeList(block: KeyedBlock): bool {
  return block.prev != OUTSIDE;
}

// @ts-ignore: decorator
@inline
export function isSetAside(block: KeyedBlock): bool {
  return block.next == OUTSIDE;
}

// @ts-ignore: decorator
@inline
export function hasKey(block: KeyedBlock): bool {
  return block.younger != NONE;
}

function bucketsFor(blocks: u32): u32 {
  return 1 << (32 - clz(blocks - 1));
}

// @ts-ignore: decorator
@inline
function strideFor(keyBytes: u32): u32 {
  return offsetof<KeyedBlock>() + keyBytes;
}

export function keyedPoolBytesFor(blocks: u32, keyBytes: u32, batch: u32): u64 {
  return (
    <u64>offsetof<KeyedPool>() +
    <u64>blocks * (strideFor(keyBytes) + 4) +
    <u64>batch * keyBytes +
    <u64>bucketsFor(blocks) * 4
  );
}

/** Lays the pool out in a region of `keyedPoolBytesFor` bytes: all blocks free, in id order, without keys. */
export function keyedPoolLayOut(ptr: usize, blocks: u32, keyBytes: u32, batch: u32, seed: u64): void {
  const pool = changetype<KeyedPool>(ptr);
  const buckets = bucketsFor(blocks);
  const stride = strideFor(keyBytes);
  memory.fill(ptr, 0, offsetof<KeyedPool>());
  pool.blocks = blocks;
  pool.keyBytes = keyBytes;
  pool.batch = batch;
  pool.bucketMask = buckets - 1;
  pool.stride = stride;
  pool.seed = seed;
  pool.input = <u32>(ptr + offsetof<KeyedPool>()) + blocks * stride;
  pool.buckets = pool.input + batch * keyBytes;
  pool.ids = pool.buckets + (buckets << 2);
  memory.fill(pool.buckets, 0xff, (<usize>buckets) << 2);
  for (let id: u32 = 0; id < blocks; id++) {
    const block = keyedBlock(pool, id);
    memory.fill(changetype<usize>(block), 0, stride);
    block.prev = id - 1;
    block.next = id + 1;
    block.younger = NONE;
  }
  pool.freeTail = blocks - 1;
  keyedBlock(pool, pool.freeTail).next = NONE;
  pool.freeCount = blocks;
}

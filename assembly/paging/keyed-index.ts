/**
 * Keys of a KeyedPool: which block has a key, the oldest one where several have it.
 *
 * A key is a group and 8 to keyBytes bytes, a multiple of 8. It is stored whole and compared whole, so two keys never
 * meet; the hash only finds the bucket.
 *
 * A hash chain holds one block a key, the oldest; the others with that key follow it in a ring. So entering, finding
 * and dropping cost the same however many blocks have a key.
 */
import { chainKey, digestTokens } from "../memory/hash";
import { hasKey, KeyedBlock, keyedBlock, KeyedPool, keyOf } from "./keyed-layout";
import { NONE } from "./layout";

function hashOf(pool: KeyedPool, group: u32, keyAt: usize, length: u32): u32 {
  return <u32>chainKey(((<u64>group) << 32) | length, digestTokens(keyAt, length >> 2, pool.seed));
}

// @ts-ignore: decorator
@inline
function bucketPtr(pool: KeyedPool, hash: u32): usize {
  return <usize>pool.buckets + ((<usize>(hash & pool.bucketMask)) << 2);
}

function sameKey(pool: KeyedPool, id: u32, group: u32, keyAt: usize, length: u32): bool {
  const block = keyedBlock(pool, id);
  if (block.group != group || block.keyLength != length) return false;
  const stored = keyOf(block);
  for (let at: usize = 0; at < <usize>length; at += 8) {
    if (load<u64>(stored + at) != load<u64>(keyAt + at)) return false;
  }
  return true;
}

function search(pool: KeyedPool, hash: u32, group: u32, keyAt: usize, length: u32): u32 {
  let id = load<u32>(bucketPtr(pool, hash));
  while (id != NONE) {
    const block = keyedBlock(pool, id);
    if (block.hash == hash && sameKey(pool, id, group, keyAt, length)) break;
    id = block.chain;
  }
  return id;
}

/** The oldest block with a key, or NONE. */
export function findKey(pool: KeyedPool, group: u32, keyAt: usize, length: u32): u32 {
  return search(pool, hashOf(pool, group, keyAt, length), group, keyAt, length);
}

/** Gives a block without a key this one. */
export function enterKey(pool: KeyedPool, id: u32, group: u32, keyAt: usize, length: u32): void {
  const hash = hashOf(pool, group, keyAt, length);
  const oldest = search(pool, hash, group, keyAt, length);
  const block = keyedBlock(pool, id);
  block.hash = hash;
  block.group = group;
  block.keyLength = length;
  memory.copy(keyOf(block), keyAt, length);
  if (oldest == NONE) {
    const bucket = bucketPtr(pool, hash);
    block.chain = load<u32>(bucket);
    block.older = id;
    block.younger = id;
    store<u32>(bucket, id);
    pool.distinct += 1;
  } else {
    const first = keyedBlock(pool, oldest);
    block.older = first.older;
    block.younger = oldest;
    keyedBlock(pool, first.older).younger = id;
    first.older = id;
  }
  pool.keyed += 1;
}

/** Puts `other` (or, with NONE, whatever follows) in the place of a block in its hash chain, if it stands in it. */
function replaceInChain(pool: KeyedPool, id: u32, block: KeyedBlock, other: u32): void {
  let link = bucketPtr(pool, block.hash);
  for (let at = load<u32>(link); at != id; at = load<u32>(link)) {
    if (at == NONE) return;
    link = changetype<usize>(keyedBlock(pool, at)) + offsetof<KeyedBlock>("chain");
  }
  if (other == NONE) {
    other = block.chain;
  } else {
    keyedBlock(pool, other).chain = block.chain;
  }
  store<u32>(link, other);
}

/** Takes a block's key away; whether it had one. Group, length and bytes stay readable. */
export function dropKey(pool: KeyedPool, id: u32): bool {
  const block = keyedBlock(pool, id);
  const younger = block.younger;
  if (younger == NONE) return false;
  const alone = younger == id;
  replaceInChain(pool, id, block, alone ? NONE : younger);
  pool.distinct -= u32(alone);
  keyedBlock(pool, younger).older = block.older;
  keyedBlock(pool, block.older).younger = younger;
  block.younger = NONE;
  pool.keyed -= 1;
  return true;
}

/** Whether chains, rings and counts are whole. */
export function keyedIndexValid(pool: KeyedPool): bool {
  let keyed: u32 = 0;
  let distinct: u32 = 0;
  for (let bucket: u32 = 0; bucket <= pool.bucketMask; bucket++) {
    for (let id = load<u32>(bucketPtr(pool, bucket)); id != NONE; id = keyedBlock(pool, id).chain) {
      const oldest = keyedBlock(pool, id);
      const key = keyOf(oldest);
      if (distinct++ == pool.distinct || (oldest.hash & pool.bucketMask) != bucket) return false;
      if (hashOf(pool, oldest.group, key, oldest.keyLength) != oldest.hash) return false;
      if (findKey(pool, oldest.group, key, oldest.keyLength) != id) return false;
      let member = id;
      do {
        const younger = keyedBlock(pool, member).younger;
        if (younger >= pool.blocks || keyed++ == pool.keyed) return false;
        if (keyedBlock(pool, younger).older != member) return false;
        if (!sameKey(pool, younger, oldest.group, key, oldest.keyLength)) return false;
        member = younger;
      } while (member != id);
    }
  }
  for (let id: u32 = 0; id < pool.blocks; id++) keyed -= u32(hasKey(keyedBlock(pool, id)));
  return keyed == 0 && distinct == pool.distinct;
}

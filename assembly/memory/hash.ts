/**
 * Seeded 64-bit mixing: block digests, chain keys and derived seeds.
 *
 * The hashes here only steer lookups. Every hit is verified on the stored tokens, so a collision costs time
 * and never correctness; what is asked of them is speed, and that unknown seeds make collisions hard to aim
 * at one bucket.
 */

// Odd constants with no short pattern: the fractional bits of the golden ratio and of the square roots of 2,
// 3 and 5.
// @ts-ignore: decorator
@inline const PHI: u64 = 0x9e3779b97f4a7c15;
// @ts-ignore: decorator
@inline const ROOT_2: u64 = 0x6a09e667f3bcc909;
// @ts-ignore: decorator
@inline const ROOT_3: u64 = 0xbb67ae8584caa73b;
// @ts-ignore: decorator
@inline const ROOT_5: u64 = 0x3c6ef372fe94f82b;

/**
 * The finaliser of splitmix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
 */
// @ts-ignore: decorator
@inline
export function finalize64(x: u64): u64 {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

/** Key of the empty prefix of a namespace. */
// @ts-ignore: decorator
@inline
export function rootKey(seed: u64, namespace: u32): u64 {
  return finalize64(seed + (<u64>namespace + 1) * PHI);
}

// @ts-ignore: decorator
@inline
function absorb(lane: u64, word: u64): u64 {
  return rotl((lane ^ word) * PHI, 29);
}

/**
 * Digest of one block of tokens, independent of what precedes it, so that the digests of a prompt's blocks
 * overlap in the pipeline. Two lanes of four tokens a round; each lane is a bijection of its words.
 */
// @ts-ignore: decorator
@inline
export function digestTokens(tokensPtr: usize, count: u32, seed: u64): u64 {
  let left = seed ^ ROOT_2;
  let right = seed ^ ROOT_3;
  let ptr = tokensPtr;
  const end = tokensPtr + ((<usize>count) << 2);
  while (ptr + 16 <= end) {
    left = absorb(left, load<u64>(ptr));
    right = absorb(right, load<u64>(ptr, 8));
    ptr += 16;
  }
  while (ptr < end) {
    left = absorb(left, <u64>load<u32>(ptr));
    ptr += 4;
  }
  return left + rotl(right, 32) * ROOT_5;
}

/** Key of the prefix that ends with a block: its parent's key and its own digest. */
// @ts-ignore: decorator
@inline
export function chainKey(parentKey: u64, digest: u64): u64 {
  return finalize64(rotl(parentKey, 23) * PHI + digest);
}

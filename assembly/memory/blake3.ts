/**
 * Keyed BLAKE3 with a 256-bit output, fed in pieces: for names that leave the process, where a match is decided by the
 * digest alone. (What steers lookups inside is hash.ts.)
 *
 *   Hasher
 *   0 key [8] u32 | 32 value of the chunk so far [8] u32 | 64 buffer, 64 B
 *   128 chunk u32 | 132 filled u32 | 136 blocks u32 | 140 depth u32 | 144 stack [MAX_DEPTH][8] u32
 *
 * The input is cut in chunks of 1,024 bytes, a chunk in blocks of 64; the chunks' values are the leaves of a binary tree
 * whose left subtrees are full. The stack holds the roots of the full subtrees so far, one for each 1 bit of the number
 * of chunks. A full buffer is compressed only when more comes, so the last block is always at hand to be marked as such.
 *
 * Source: O'Connor, Aumasson, Neves, Wilcox-O'Hearn, "BLAKE3: one function, fast everywhere", 2020, keyed mode.
 */
import { CHUNK_END, CHUNK_START, compress, KEYED, PARENT, ROOT } from "./blake3-compress";

/** Bytes of a key and of a digest. */
// @ts-ignore: decorator
@inline export const DIGEST: usize = 32;
// @ts-ignore: decorator
@inline const BLOCK: u32 = 64;
// @ts-ignore: decorator
@inline const CHUNK_BLOCKS: u32 = 16;
/** 4 GiB are 2^22 chunks; one value more lies on the stack while two are merged. */
// @ts-ignore: decorator
@inline const MAX_DEPTH: usize = 24;

// Offsets in a Hasher.
// @ts-ignore: decorator
@inline const VALUE: usize = 32;
// @ts-ignore: decorator
@inline const BUFFER: usize = 64;
// @ts-ignore: decorator
@inline const CHUNK: usize = 128;
// @ts-ignore: decorator
@inline const FILLED: usize = 132;
// @ts-ignore: decorator
@inline const BLOCKS: usize = 136;
// @ts-ignore: decorator
@inline const DEPTH: usize = 140;
// @ts-ignore: decorator
@inline const STACK: usize = 144;
// @ts-ignore: decorator
@inline export const HASHER_BYTES: usize = STACK + MAX_DEPTH * DIGEST;

// @ts-ignore: decorator
@inline
export function copyDigest(to: usize, from: usize): void {
  memory.copy(to, from, DIGEST);
}

/** Begins a digest under the 32-byte key at `key`. */
export function hashStart(hasher: usize, key: usize): void {
  copyDigest(hasher, key);
  copyDigest(hasher + VALUE, key);
  store<u64>(hasher, 0, CHUNK);
  store<u64>(hasher, 0, BLOCKS);
}

/** Takes `bytes` bytes more. */
export function hashUpdate(hasher: usize, from: usize, bytes: u32): void {
  while (bytes > 0) {
    let filled = load<u32>(hasher, FILLED);
    if (filled == BLOCK) {
      compressBuffer(hasher);
      filled = 0;
    }
    const taken = min(BLOCK - filled, bytes);
    memory.copy(hasher + BUFFER + <usize>filled, from, taken);
    store<u32>(hasher, filled + taken, FILLED);
    from += taken;
    bytes -= taken;
  }
}

// @ts-ignore: decorator
@inline
function startFlag(hasher: usize): u32 {
  return load<u32>(hasher, BLOCKS) == 0 ? CHUNK_START | KEYED : KEYED;
}

/** The buffer is full and not the last: its chunk goes on, or the next one begins. */
function compressBuffer(hasher: usize): void {
  const blocks = load<u32>(hasher, BLOCKS) + 1;
  const chunk = load<u32>(hasher, CHUNK);
  const value = hasher + VALUE;
  const end = blocks == CHUNK_BLOCKS ? CHUNK_END : 0;
  compress(value, hasher + BUFFER, chunk, BLOCK, startFlag(hasher) | end, value);
  if (end == 0) {
    store<u32>(hasher, blocks, BLOCKS);
    return;
  }
  push(hasher, value);
  for (let chunks = chunk + 1; (chunks & 1) == 0; chunks >>= 1) merge(hasher, PARENT | KEYED);
  copyDigest(value, hasher);
  store<u32>(hasher, chunk + 1, CHUNK);
  store<u32>(hasher, 0, BLOCKS);
}

function push(hasher: usize, value: usize): void {
  const depth = load<u32>(hasher, DEPTH);
  copyDigest(hasher + STACK + <usize>depth * DIGEST, value);
  store<u32>(hasher, depth + 1, DEPTH);
}

/** Puts their parent in the place of the stack's last two values. */
function merge(hasher: usize, flags: u32): void {
  const depth = load<u32>(hasher, DEPTH) - 1;
  const left = hasher + STACK + <usize>(depth - 1) * DIGEST;
  compress(hasher, left, 0, BLOCK, flags, left);
  store<u32>(hasher, depth, DEPTH);
}

/** Writes the digest of what was taken to `out`; the hasher has to be started again then. */
export function hashEnd(hasher: usize, out: usize): void {
  const filled = load<u32>(hasher, FILLED);
  memory.fill(hasher + BUFFER + <usize>filled, 0, BLOCK - filled);
  const single = load<u32>(hasher, DEPTH) == 0;
  const flags = startFlag(hasher) | CHUNK_END | (single ? ROOT : 0);
  compress(hasher + VALUE, hasher + BUFFER, load<u32>(hasher, CHUNK), filled, flags, hasher + VALUE);
  push(hasher, hasher + VALUE);
  while (load<u32>(hasher, DEPTH) > 1)
    merge(hasher, load<u32>(hasher, DEPTH) == 2 ? PARENT | KEYED | ROOT : PARENT | KEYED);
  copyDigest(out, hasher + STACK);
}

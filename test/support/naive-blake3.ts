/**
 * Keyed BLAKE3 as its paper defines it, top down: the left subtree of n chunks has as many as fit a power of two and
 * leave one for the right. For tests; the core works bottom up, block by block.
 */
const IV = [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a];
const PERMUTATION = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
const CHUNK_START = 1;
const CHUNK_END = 2;
const PARENT = 4;
const ROOT = 8;
const KEYED = 16;

function words(bytes: Uint8Array): number[] {
  return Array.from(
    { length: bytes.length / 4 },
    (_, i) => bytes[4 * i] | (bytes[4 * i + 1] << 8) | (bytes[4 * i + 2] << 16) | (bytes[4 * i + 3] << 24),
  );
}

function compress(
  state: number[],
  block: number[],
  counter: number,
  length: number,
  flags: number,
): number[] {
  const v = [...state, ...IV, counter, 0, length, flags];
  let m = block;
  const rotate = (x: number, n: number): number => (x >>> n) | (x << (32 - n));
  const mix = (a: number, b: number, c: number, d: number, x: number, y: number): void => {
    for (const [word, first, second] of [
      [x, 16, 12],
      [y, 8, 7],
    ]) {
      v[a] = (v[a] + v[b] + word) | 0;
      v[d] = rotate(v[d] ^ v[a], first);
      v[c] = (v[c] + v[d]) | 0;
      v[b] = rotate(v[b] ^ v[c], second);
    }
  };
  for (let round = 0; round < 7; round++) {
    for (let i = 0; i < 4; i++) mix(i, 4 + i, 8 + i, 12 + i, m[2 * i], m[2 * i + 1]);
    for (let i = 0; i < 4; i++)
      mix(i, 4 + ((i + 1) % 4), 8 + ((i + 2) % 4), 12 + ((i + 3) % 4), m[8 + 2 * i], m[9 + 2 * i]);
    m = PERMUTATION.map((from) => m[from]);
  }
  return v.slice(0, 8).map((word, i) => word ^ v[8 + i]);
}

function chunk(key: number[], bytes: Uint8Array, counter: number, root: number): number[] {
  let value = key;
  const blocks = Math.max(1, Math.ceil(bytes.length / 64));
  for (let i = 0; i < blocks; i++) {
    const piece = bytes.subarray(64 * i, 64 * (i + 1));
    const padded = new Uint8Array(64);
    padded.set(piece);
    const flags = (i === 0 ? CHUNK_START : 0) | (i === blocks - 1 ? CHUNK_END | root : 0) | KEYED;
    value = compress(value, words(padded), counter, piece.length, flags);
  }
  return value;
}

function tree(key: number[], bytes: Uint8Array, counter: number, root: number): number[] {
  const chunks = Math.max(1, Math.ceil(bytes.length / 1024));
  if (chunks === 1) return chunk(key, bytes, counter, root);
  const left = 2 ** Math.floor(Math.log2(chunks - 1));
  const children = [
    ...tree(key, bytes.subarray(0, 1024 * left), counter, 0),
    ...tree(key, bytes.subarray(1024 * left), counter + left, 0),
  ];
  return compress(key, children, 0, 64, PARENT | KEYED | root);
}

export function naiveBlake3(key: Uint8Array, bytes: Uint8Array): Uint8Array {
  return new Uint8Array(Int32Array.from(tree(words(key), bytes, 0, ROOT)).buffer);
}

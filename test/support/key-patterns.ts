/**
 * Keys for tests of the ordered index, by number: `key(i)` grows with i, so a model may keep entries by number and
 * still tell their order. `pick` chooses the numbers in the order of the pattern's name.
 */
import { Random } from "./random.js";

export interface KeyPattern {
  readonly name: string;
  key(i: number): bigint;
  /** Number of the next key, below `space`; `step` counts up by one a call. */
  pick(random: Random, step: number, space: number): number;
}

const uniform = (random: Random, _step: number, space: number): number => random.below(space);

/** A window that moves over the numbers: entered in front, taken out behind. */
const forward = (random: Random, step: number, space: number): number =>
  Math.floor((step * 0.7 + random.below(space >> 2)) % space);
const backward = (random: Random, step: number, space: number): number =>
  space - 1 - forward(random, step, space);

/** A run of 64 neighbours at a time. */
const clustered = (random: Random, step: number, space: number): number => {
  const cluster = new Random(step >> 8).below(space >> 6);
  return (cluster << 6) + random.below(64);
};

/** A number in proportion to 1 / (i + 1), spread over the space by a multiplication. */
const zipf = (random: Random, _step: number, space: number): number => {
  const rank = Math.floor(Math.exp((random.next() / 2 ** 32) * Math.log(space)));
  return (Math.imul(rank, 0x9e3779b1) >>> 0) % space;
};

export const KEY_PATTERNS: readonly KeyPattern[] = [
  { name: "uniform", key: (i) => spread(i), pick: uniform },
  { name: "ascending", key: (i) => BigInt(i + 1), pick: forward },
  { name: "descending", key: (i) => BigInt(i + 1), pick: backward },
  { name: "clustered", key: (i) => spread(i), pick: clustered },
  { name: "zipf", key: (i) => spread(i), pick: zipf },
  { name: "one prefix", key: (i) => 0x1234567800000001n + BigInt(i), pick: uniform },
  { name: "multiples of 64", key: (i) => BigInt(i + 1) * 64n, pick: uniform },
  // The square of the promotion's inverse in nodes of 1024 bytes, and of 128.
  { name: "multiples of 1024", key: (i) => BigInt(i + 1) * 1024n, pick: uniform },
  { name: "multiples of 16", key: (i) => BigInt(i + 1) * 16n, pick: uniform },
  { name: "around 2^63", key: (i) => (1n << 63n) - 500n + BigInt(i), pick: uniform },
  { name: "up to the last key", key: (i) => (1n << 64n) - 100_001n + BigInt(i), pick: uniform },
];

/** Growing 64-bit keys with irregular gaps. */
function spread(i: number): bigint {
  const gap = BigInt(new Random(i).next()) << 8n;
  return (BigInt(i + 1) << 40n) + gap;
}

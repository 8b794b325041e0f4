/**
 * Workloads for ordered maps after YCSB, in one file that subjects in any language replay.
 *
 * First `load`: distinct keys in random order, value = key. Then the phases, in this order on the same map:
 *
 *   C  reads | B  95 % reads, 5 % inserts of new keys | E  95 % scans of 1 to 100 entries, 5 % inserts
 *   A  half reads, half inserts | U  half reads, half updates to key + 1
 *
 * Keys of reads, scans and updates are among the loaded ones, uniform or Zipf 0.99 with the popular keys
 * scattered. The last operations of a phase are timed in batches of ten; the others together.
 *
 * File, little-endian: u32 magic, loaded, phases, 0 | u64 keys[loaded] | for each phase: u32 letter, operations,
 * sampled, 0; u64 keys[operations + sampled]; u32 codes[operations + sampled], padded to eight bytes. A code is
 * a `Kind` in its low byte and the length of a scan above.
 *
 * Source: Cooper et al., "Benchmarking Cloud Serving Systems with YCSB" (SoCC 2010); mixes without updates and
 * value = key as in "Bridging Cache-Friendliness and Concurrency" (arXiv 2507.21492).
 */

export const enum Kind {
  Read = 0,
  Insert = 1,
  Update = 2,
  Scan = 3,
}

export const LETTERS = ["c", "b", "e", "a", "u"] as const;
export type Letter = (typeof LETTERS)[number];
export type Distribution = "uniform" | "zipf";

export interface Phase {
  readonly letter: Letter;
  /** Operations timed together, then those timed in batches of ten. */
  readonly operations: number;
  readonly sampled: number;
  readonly keys: BigUint64Array;
  readonly codes: Uint32Array;
}

export interface Workload {
  readonly loaded: BigUint64Array;
  readonly phases: readonly Phase[];
}

export const MAGIC = 0x314d5751;
/** Operations timed in one batch of a latency sample. */
export const SAMPLE = 10;
const LONGEST_SCAN = 100;
const ZIPF = 0.99;

/** The share of inserts of each phase, in percent. */
const INSERTS: Readonly<Record<Letter, number>> = { c: 0, b: 5, e: 5, a: 50, u: 0 };

/** Operations of a phase over `loaded` keys: scans do fifty times the work of a read, so there are fewer. */
function operationsOf(letter: Letter, loaded: number): number {
  return letter === "e" ? Math.ceil(loaded / 5) : loaded;
}

export function generateWorkload(loaded: number, distribution: Distribution, seed: number): Uint8Array {
  const random = new Random(seed);
  const keys = BigUint64Array.from({ length: loaded }, (_, i) => BigInt(distinctKey(i, seed)));
  const popular = distribution === "zipf" ? new Zipf(loaded, random) : undefined;
  const pick = (): bigint => keys[popular === undefined ? random.below(loaded) : popular.next()];
  let fresh = loaded;
  const phases = LETTERS.map((letter): Phase => {
    const operations = operationsOf(letter, loaded);
    const sampled = Math.ceil(operations / 10 / SAMPLE) * SAMPLE;
    const phase = {
      letter,
      operations,
      sampled,
      keys: new BigUint64Array(operations + sampled),
      codes: new Uint32Array(operations + sampled),
    };
    for (let i = 0; i < operations + sampled; i++) {
      const insert = random.below(100) < INSERTS[letter];
      phase.keys[i] = insert ? BigInt(distinctKey(fresh++, seed)) : pick();
      phase.codes[i] = insert ? Kind.Insert : codeOf(letter, random);
    }
    return phase;
  });
  return encode({ loaded: keys, phases });
}

function codeOf(letter: Letter, random: Random): number {
  if (letter === "e") return Kind.Scan | ((1 + random.below(LONGEST_SCAN)) << 8);
  return letter === "u" && random.below(2) === 1 ? Kind.Update : Kind.Read;
}

function encode({ loaded, phases }: Workload): Uint8Array {
  const codeWords = (phase: Phase): number => (phase.codes.length + 1) & ~1;
  const bytes = phases.reduce(
    (sum, phase) => sum + 16 + phase.keys.length * 8 + codeWords(phase) * 4,
    16 + loaded.length * 8,
  );
  const file = new Uint8Array(bytes);
  new Uint32Array(file.buffer, 0, 4).set([MAGIC, loaded.length, phases.length, 0]);
  new BigUint64Array(file.buffer, 16, loaded.length).set(loaded);
  let at = 16 + loaded.length * 8;
  for (const phase of phases) {
    new Uint32Array(file.buffer, at, 4).set([phase.letter.charCodeAt(0), phase.operations, phase.sampled, 0]);
    new BigUint64Array(file.buffer, at + 16, phase.keys.length).set(phase.keys);
    at += 16 + phase.keys.length * 8;
    new Uint32Array(file.buffer, at, phase.codes.length).set(phase.codes);
    at += codeWords(phase) * 4;
  }
  return file;
}

export function decodeWorkload(buffer: ArrayBuffer): Workload {
  const [magic, loaded, phaseCount] = new Uint32Array(buffer, 0, 3);
  if (magic !== MAGIC) throw new Error("not a workload file");
  const phases: Phase[] = [];
  let at = 16 + loaded * 8;
  for (let i = 0; i < phaseCount; i++) {
    const [letter, operations, sampled] = new Uint32Array(buffer, at, 3);
    const length = operations + sampled;
    phases.push({
      letter: String.fromCharCode(letter) as Letter,
      operations,
      sampled,
      keys: new BigUint64Array(buffer, at + 16, length),
      codes: new Uint32Array(buffer, at + 16 + length * 8, length),
    });
    at += 16 + length * 8 + ((length + 1) & ~1) * 4;
  }
  return { loaded: new BigUint64Array(buffer, 16, loaded), phases };
}

/** The start of a workload, to warm compilers up with on a map of its own. */
export function warmUpOf({ loaded, phases }: Workload): Workload {
  const share = (count: number): number => Math.ceil(count / 8 / SAMPLE) * SAMPLE;
  return {
    loaded: loaded.subarray(0, share(loaded.length)),
    phases: phases.map(({ letter, operations, sampled, keys, codes }) => {
      const [timed, batched] = [share(operations), share(sampled)];
      return {
        letter,
        operations: timed,
        sampled: batched,
        keys: keys.subarray(0, timed + batched),
        codes: codes.subarray(0, timed + batched),
      };
    }),
  };
}

/**
 * Key number `i`, 1 to 2^52: a permutation (four Feistel rounds over two halves of 26 bits), so that keys are
 * distinct and in random order.
 */
function distinctKey(i: number, seed: number): number {
  const mask = (1 << 26) - 1;
  let left = Math.floor(i / (mask + 1));
  let right = i & mask;
  for (let round = 1; round <= 4; round++)
    [left, right] = [right, left ^ (mix(right ^ Math.imul(round, seed | 1)) & mask)];
  return left * (mask + 1) + right + 1;
}

/** Finalizer of MurmurHash3. */
function mix(word: number): number {
  let h = word;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** Fast seeded randomness: mixed counter. */
class Random {
  #counter: number;

  constructor(seed: number) {
    this.#counter = mix(seed);
  }

  /** 0 <= x < 1 in steps of 2^-32. */
  uniform(): number {
    this.#counter = (this.#counter + 0x9e3779b9) >>> 0;
    return mix(this.#counter) / 2 ** 32;
  }

  below(limit: number): number {
    return Math.floor(this.uniform() * limit);
  }
}

/**
 * Zipf-distributed indices, the popular ones scattered. Source: Gray et al., "Quickly Generating Billion-Record
 * Synthetic Databases" (SIGMOD 1994).
 */
class Zipf {
  readonly #random: Random;
  readonly #scattered: Uint32Array;
  readonly #zeta: number;
  readonly #eta: number;

  constructor(count: number, random: Random) {
    this.#random = random;
    this.#scattered = Uint32Array.from({ length: count }, (_, i) => i);
    for (let i = count - 1; i > 0; i--) {
      const j = random.below(i + 1);
      const moved = this.#scattered[i];
      this.#scattered[i] = this.#scattered[j];
      this.#scattered[j] = moved;
    }
    let zeta = 0;
    for (let i = 1; i <= count; i++) zeta += 1 / i ** ZIPF;
    this.#zeta = zeta;
    this.#eta = (1 - (2 / count) ** (1 - ZIPF)) / (1 - (1 + 0.5 ** ZIPF) / zeta);
  }

  next(): number {
    const u = this.#random.uniform();
    const count = this.#scattered.length;
    const scaled = u * this.#zeta;
    if (scaled < 1) return this.#scattered[0];
    if (scaled < 1 + 0.5 ** ZIPF) return this.#scattered[1];
    const rank = Math.floor(count * (this.#eta * u - this.#eta + 1) ** (1 / (1 - ZIPF)));
    return this.#scattered[Math.min(rank, count - 1)];
  }
}

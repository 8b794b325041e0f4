/**
 * Offline side of paging with one bit of advice, "Paging with Succinct Predictions" (arXiv 2210.02775): the optimum, the
 * bits that an oracle would give, their errors, and a combination that is robust against any.
 *
 * A request names a page; a cache holds k pages; the cost is the number of faults.
 */
import { Core, type PageSet, QuartermasterError } from "../bindings/main.js";
import { RandomStream } from "./random.js";

function requireSlots(k: number): void {
  if (!Number.isInteger(k) || k < 1)
    throw new QuartermasterError("INVALID_ARGUMENT", `k is ${k}; allowed: an integer >= 1`, {
      argument: "k",
      value: k,
      range: "an integer >= 1",
    });
}

/** For each request, the next one for the same page, or Infinity. */
function nextRequests(pages: ArrayLike<number>): Float64Array {
  const next = new Map<number, number>();
  const result = new Float64Array(pages.length);
  for (let at = pages.length - 1; at >= 0; at--) {
    result[at] = next.get(pages[at]) ?? Infinity;
    next.set(pages[at], at);
  }
  return result;
}

export interface Optimum {
  readonly faults: number;
  /** For each request, 1 when the page is evicted before its next request. */
  readonly discard: Uint8Array;
}

/**
 * LFD (Belady): evicts, and only when it must, the page needed latest; among those never needed again the one with the
 * largest id. O(n k).
 */
export function optimum(pages: ArrayLike<number>, k: number): Optimum {
  requireSlots(k);
  const next = nextRequests(pages);
  const last = new Map<number, number>();
  const discard = new Uint8Array(pages.length);
  let faults = 0;
  for (let at = 0; at < pages.length; at++) {
    if (!last.has(pages[at])) {
      faults += 1;
      if (last.size === k) {
        let victim = -1;
        for (const [page, used] of last) {
          const later = victim < 0 ? Infinity : next[used] - next[last.get(victim)!];
          if (victim < 0 || later > 0 || (next[used] === next[last.get(victim)!] && page > victim))
            victim = page;
        }
        discard[last.get(victim)!] = 1;
        last.delete(victim);
      }
    }
    last.set(pages[at], at);
  }
  return { faults, discard };
}

export interface Phases {
  /** For each request, 0 when the page is requested in the next phase. */
  readonly absent: Uint8Array;
  /** Whether the request is the last one for its page in its phase: the only ones whose bit is used. */
  readonly last: Uint8Array;
}

/** k-phases: a phase ends before the request that would be its (k+1)-th distinct page. */
export function phases(pages: ArrayLike<number>, k: number): Phases {
  requireSlots(k);
  const phaseOf = new Uint32Array(pages.length);
  let seen = new Set<number>();
  let phase = 0;
  for (let at = 0; at < pages.length; at++) {
    if (!seen.has(pages[at]) && seen.size === k) {
      phase += 1;
      seen = new Set();
    }
    seen.add(pages[at]);
    phaseOf[at] = phase;
  }
  const next = nextRequests(pages);
  const absent = new Uint8Array(pages.length).fill(1);
  const last = new Uint8Array(pages.length).fill(1);
  for (let at = pages.length - 1; at >= 0; at--) {
    if (next[at] === Infinity) continue;
    const later = phaseOf[next[at]];
    if (later === phaseOf[at]) {
      last[at] = 0;
      absent[at] = absent[next[at]];
    } else if (later === phaseOf[at] + 1) absent[at] = 0;
  }
  return { absent, last };
}

/** Wrong bits: those that are 0 where the truth is 1, and the other way round; `counts`: which ones to look at. */
export function wrongBits(
  bits: ArrayLike<number>,
  truth: ArrayLike<number>,
  counts?: ArrayLike<number>,
): readonly [wrongZeros: number, wrongOnes: number] {
  let [zeros, ones] = [0, 0];
  for (let at = 0; at < bits.length; at++) {
    if (counts && counts[at] === 0) continue;
    if (bits[at] === 0 && truth[at] === 1) zeros += 1;
    if (bits[at] === 1 && truth[at] === 0) ones += 1;
  }
  return [zeros, ones];
}

/** H_k = 1 + 1/2 + ... + 1/k. */
export function harmonic(k: number): number {
  let sum = 0;
  for (let i = 1; i <= k; i++) sum += 1 / i;
  return sum;
}

/**
 * Follows one of two algorithms that are simulated beside it, so that bad advice costs it little. It moves lazily: on a
 * fault of its own it evicts the least recently used page that the followed one does not hold.
 */
abstract class Combination {
  faults = 0;
  /** Times that it has changed whom it follows. */
  switches = 0;
  /** Present pages, least recently used first. */
  readonly #present = new Set<number>();
  #followed: 0 | 1 = 0;

  constructor(
    readonly k: number,
    readonly algorithms: readonly [PageSet, PageSet],
  ) {
    requireSlots(k);
  }

  /** Whom to follow from here on, by the faults that both have had. */
  protected abstract choose(followed: 0 | 1, faults: readonly [number, number]): 0 | 1;

  /** Without advice each algorithm predicts its own bit. */
  request(page: number, advice?: 0 | 1): boolean {
    for (const algorithm of this.algorithms) algorithm.request(page, advice);
    const [first, second] = this.algorithms.map((algorithm) => algorithm.stats().faults);
    const followed = this.choose(this.#followed, [first, second]);
    this.switches += Number(followed !== this.#followed);
    this.#followed = followed;
    const hit = this.#present.delete(page);
    if (!hit) {
      this.faults += 1;
      if (this.#present.size === this.k) this.#present.delete(this.#victim());
    }
    this.#present.add(page);
    return hit;
  }

  #victim(): number {
    const followed = this.algorithms[this.#followed];
    let oldest: number | undefined;
    for (const page of this.#present) {
      oldest ??= page;
      if (followed.slot(page) === undefined) return page;
    }
    return oldest!;
  }
}

/**
 * Follows the one that has had fewer faults, and changes when the one it follows has had `c` times as many as the other:
 * at most about c times the better one's faults, whatever the advice.
 */
export class CombineDet extends Combination {
  constructor(
    k: number,
    algorithms: readonly [PageSet, PageSet],
    readonly c = 2,
  ) {
    super(k, algorithms);
  }

  protected choose(followed: 0 | 1, [first, second]: readonly [number, number]): 0 | 1 {
    const own = followed === 0 ? first : second;
    if (own < this.c * Math.min(first, second)) return followed;
    return first <= second ? 0 : 1;
  }
}

/**
 * Follows each with a probability in proportion to its weight, which a fault multiplies by `beta`: about the better one's
 * faults in expectation, and k for each of few changes ("On-line Learning and the Metrical Task System Problem", Blum and
 * Burch). When the share of the one it follows drops from p to q, it changes with probability 1 - q / p.
 */
export class CombineRand extends Combination {
  readonly #random: RandomStream;
  #before: readonly [number, number] = [0, 0];
  /** Share of the first in the weights, as odds: weight of the first over that of the second, by their logarithm. */
  #odds = 0;

  constructor(
    k: number,
    algorithms: readonly [PageSet, PageSet],
    readonly beta = 0.99,
    seed = 0,
  ) {
    super(k, algorithms);
    if (!(beta > 0 && beta < 1))
      throw new QuartermasterError("INVALID_ARGUMENT", `beta is ${beta}; allowed: a number between 0 and 1`, {
        argument: "beta",
        value: beta,
        range: "a number between 0 and 1",
      });
    this.#random = new RandomStream(seed);
  }

  #share(algorithm: 0 | 1): number {
    return 1 / (1 + Math.exp(algorithm === 0 ? -this.#odds : this.#odds));
  }

  protected choose(followed: 0 | 1, faults: readonly [number, number]): 0 | 1 {
    const before = this.#share(followed);
    const more = faults[0] - this.#before[0] - (faults[1] - this.#before[1]);
    this.#before = faults;
    this.#odds += more * Math.log(this.beta);
    const after = this.#share(followed);
    return after < before && this.#random.uniform() < 1 - after / before
      ? followed === 0
        ? 1
        : 0
      : followed;
  }
}

export type PagingAlgorithm = "lru" | "fifo" | "marker" | "flush-all-0s" | "mark0" | "mark-and-predict";

/** An algorithm of the paper, or a baseline, over a core of its own. */
export async function pager(
  order: PagingAlgorithm,
  k: number,
  pages: number,
  { eager = true, seed = 0 } = {},
): Promise<PageSet> {
  requireSlots(k);
  const core = await Core.create({ seed });
  return core.pageSet({ slots: k, pages, evictionOrder: order, eager });
}

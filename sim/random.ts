/** Seeded randomness: one generator, and the distributions that workloads draw from. */

export class RandomStream {
  #state: bigint;

  /** @param seed integer, 0 <= seed < 2^53 */
  constructor(seed: number) {
    this.#state = BigInt(seed);
  }

  /** Uniform in [0, 1) (splitmix64). */
  uniform(): number {
    const mask = (1n << 64n) - 1n;
    this.#state = (this.#state + 0x9e3779b97f4a7c15n) & mask;
    let z = this.#state;
    z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & mask;
    z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & mask;
    return Number((z ^ (z >> 31n)) >> 11n) * 2 ** -53;
  }

  /** Integer from 0 to limit - 1. */
  below(limit: number): number {
    return Math.floor(this.uniform() * limit);
  }

  /** Standard normal (Box-Muller). */
  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
  }

  /**
   * Gamma with mean shape * scale. Source: Marsaglia and Tsang, "A Simple Method for Generating Gamma
   * Variables" (ACM TOMS 26, 2000); shapes below 1 by their boost.
   */
  gamma(shape: number, scale: number): number {
    if (shape < 1) return this.gamma(shape + 1, scale) * (1 - this.uniform()) ** (1 / shape);
    const d = shape - 1 / 3;
    const c = 1 / Math.sqrt(9 * d);
    for (;;) {
      const x = this.normal();
      const v = (1 + c * x) ** 3;
      if (v <= 0) continue;
      const u = 1 - this.uniform();
      if (Math.log(u) < 0.5 * x * x + d - d * v + d * Math.log(v)) return d * v * scale;
    }
  }

  /** Shuffles in place. */
  shuffle<T>(items: T[]): T[] {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [items[i], items[j]] = [items[j], items[i]];
    }
    return items;
  }
}

/**
 * Arrival times in microseconds, ascending, with Gamma intervals. `cv` is the coefficient of variation of the
 * intervals:
 * 1 is a Poisson process, more is burstier.
 */
export function gammaArrivals(options: {
  requests: number;
  meanIntervalUs: number;
  cv: number;
  seed: number;
}): Float64Array {
  const { requests, meanIntervalUs, cv, seed } = options;
  const random = new RandomStream(seed);
  const shape = 1 / (cv * cv);
  const times = new Float64Array(requests);
  let now = 0;
  for (let i = 0; i < requests; i++) {
    now += random.gamma(shape, meanIntervalUs / shape);
    times[i] = now;
  }
  return times;
}

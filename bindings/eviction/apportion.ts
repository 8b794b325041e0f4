/** Splits a budget of slots over layers or heads: integers with an exact sum, by published procedures. */
import type { Core } from "../core.js";
import { invalidArgument, requireInteger } from "../errors.js";

/**
 * - "largest-remainder": shares proportional to weights within the bounds, rounded by the size of their fractions.
 * - "cake": truncated, what is above a maximum spread evenly. Source: "CAKE: Cascading and Adaptive KV Cache Eviction
 *   with Layer Preferences" (ICLR 2025).
 * - "error-aware": the minimum and a share of the rest, repaired one slot at a time in the order of weights. Source:
 *   "CompressKV: Semantic Retrieval Heads Know What Tokens are Not Important Before Generation" (arXiv 2508.02401).
 * - "inverse-power": weights are similarities; the least similar gets most, `(1 - z) ^ alpha` of z scaled to 0..1.
 *   Source: "EpiCache: Episodic KV Cache Management for Long Conversational Question Answering" (arXiv 2509.17396).
 * - "pyramid": a straight line over the entries, weights are not read. Source: "PyramidKV: Dynamic KV Cache Compression
 *   based on Pyramidal Information Funneling" (arXiv 2406.02069).
 */
export type ApportionStrategy = "largest-remainder" | "cake" | "error-aware" | "inverse-power" | "pyramid";

export interface ApportionOptions {
  /** [n] finite, >= 0; all 0: alike. n from 1 to 1024. */
  weights: ArrayLike<number>;
  /** What to split, 0 to 2^31 - 1. */
  total: number;
  /** Least that an entry gets: one number, or [n]. Default 0. */
  minimum?: number | ArrayLike<number>;
  /** Most that an entry gets: one number, or [n]. Default: no bound. */
  maximum?: number | ArrayLike<number>;
  /** Default "largest-remainder". */
  strategy?: ApportionStrategy;
  /** inverse-power: exponent, >= 0. Default 1.1. */
  alpha?: number;
  /** pyramid: the last entry gets mean / beta, > 0. Default 20. */
  beta?: number;
  /**
   * inverse-power and pyramid: whether the sum is exact, which the published integers are not. Default true. The
   * others are always exact.
   */
  strict?: boolean;
}

const MAX_ENTRIES = 1024;
const MAX_SLOTS = 2 ** 31 - 1;
const CODES = { "largest-remainder": 0, cake: 1, "error-aware": 2 } as const;

/**
 * Budgets of the entries: `sum = clamp(total, sum of minima, sum of maxima)` and every one within its bounds. A new
 * array. Throws INVALID_ARGUMENT.
 */
export function apportion(core: Core, options: ApportionOptions): Int32Array {
  const { weights, strategy = "largest-remainder", strict = true, beta = 20 } = options;
  const count = requireInteger("weights.length", weights?.length, 1, MAX_ENTRIES);
  const total = requireInteger("total", options.total, 0, MAX_SLOTS);
  const minimum = bounds("minimum", options.minimum ?? 0, count);
  const maximum = bounds("maximum", options.maximum ?? MAX_SLOTS, count);
  for (let i = 0; i < count; i++) {
    if (!(weights[i] >= 0 && weights[i] < Infinity))
      throw invalidArgument(`weights[${i}]`, weights[i], "a finite number from 0 on");
    if (minimum[i] > maximum[i]) throw invalidArgument(`minimum[${i}]`, minimum[i], `at most ${maximum[i]}`);
  }
  if (!(beta > 0 && beta < Infinity)) throw invalidArgument("beta", beta, "a finite number above 0");
  const least = minimum.reduce((sum, value) => sum + value, 0);
  if (least > MAX_SLOTS) throw invalidArgument("minimum", least, `a sum up to ${MAX_SLOTS}`);
  const at = core.scratch(count * 36 + 8);
  const { buffer } = core.memory;
  const shares = new Float64Array(buffer, at, count);
  if (strategy === "inverse-power") shares.set(sensitivities(weights, options.alpha ?? 1.1));
  else shares.set(weights);
  const [low, high, out, work] = [1, 2, 3, 4].map((part) => at + count * (4 + 4 * part));
  new Int32Array(buffer, low, count).set(minimum);
  new Int32Array(buffer, high, count).set(maximum);
  const aligned = Math.ceil(work / 8) * 8;
  const code = codeOf(strategy, strict);
  core.call(
    () => core.exports.selectApportion(code, at, count, total, low, high, beta, out, aligned),
    "apportion",
  );
  return new Int32Array(buffer, out, count).slice();
}

function codeOf(strategy: ApportionStrategy, strict: boolean): number {
  if (strategy === "inverse-power") return strict ? 0 : 3;
  if (strategy === "pyramid") return strict ? 4 : 5;
  if (!Object.hasOwn(CODES, strategy)) {
    throw invalidArgument(
      "strategy",
      strategy,
      "largest-remainder, cake, error-aware, inverse-power or pyramid",
    );
  }
  return CODES[strategy];
}

function bounds(name: string, value: number | ArrayLike<number>, count: number): Int32Array {
  if (typeof value !== "number" && value?.length !== count)
    throw invalidArgument(name, value, `${count} entries`);
  return Int32Array.from({ length: count }, (_, i) =>
    requireInteger(name, typeof value === "number" ? value : value[i], 0, MAX_SLOTS),
  );
}

/** Weights of layers whose keys barely change without distant context are small. */
function sensitivities(similarity: ArrayLike<number>, alpha: number): number[] {
  if (!(alpha >= 0 && alpha < Infinity)) throw invalidArgument("alpha", alpha, "a finite number from 0 on");
  const list = Array.from(similarity);
  const least = Math.min(...list);
  const range = Math.max(...list) - least;
  return list.map((value) => (range === 0 ? 1 : (1 - (value - least) / range) ** alpha));
}

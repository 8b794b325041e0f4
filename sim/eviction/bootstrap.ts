/** Is one policy better than another on the same contexts? */
import { RandomStream } from "../random.js";

export interface PairedDifference {
  /** Mean of a minus b. */
  readonly mean: number;
  /** Interval that holds 95 % of the resampled means. */
  readonly low: number;
  readonly high: number;
}

/** Paired bootstrap over contexts: 1000 resamples, seeded. @param a, b scores of the same contexts */
export function pairedDifference(a: readonly number[], b: readonly number[], seed = 1): PairedDifference {
  const random = new RandomStream(seed);
  const differences = a.map((score, i) => score - b[i]);
  const mean = (values: readonly number[]): number =>
    values.reduce((sum, value) => sum + value, 0) / values.length;
  const means = Array.from({ length: 1000 }, () =>
    mean(differences.map(() => differences[random.below(differences.length)])),
  ).sort((x, y) => x - y);
  return { mean: mean(differences), low: means[25], high: means[974] };
}

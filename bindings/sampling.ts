/** Sampling options: checked, with defaults. */
import { invalidArgument } from "./errors.js";
import type { SamplingOptions } from "./executor.js";

type Resolved = Readonly<Required<SamplingOptions>>;

function requireNumber(
  argument: string,
  value: unknown,
  valid: (value: number) => boolean,
  range: string,
): number {
  if (typeof value !== "number" || !valid(value)) throw invalidArgument(`sampling.${argument}`, value, range);
  return value;
}

/** Fills in defaults; throws INVALID_ARGUMENT naming the option that is out of range. */
export function resolveSampling(options: SamplingOptions = {}): Resolved {
  const { temperature = 0, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1, seed = 0 } = options;
  return {
    temperature: requireNumber(
      "temperature",
      temperature,
      (t) => t >= 0 && t < Infinity,
      "a finite number >= 0",
    ),
    topK: requireNumber(
      "topK",
      topK,
      (k) => Number.isInteger(k) && k >= 0 && k < 2 ** 32,
      "an integer from 0 to 2^32 - 1",
    ),
    topP: requireNumber("topP", topP, (p) => p > 0 && p <= 1, "a number in (0, 1]"),
    minP: requireNumber("minP", minP, (p) => p >= 0 && p <= 1, "a number in [0, 1]"),
    repetitionPenalty: requireNumber(
      "repetitionPenalty",
      repetitionPenalty,
      (p) => p > 0 && p < Infinity,
      "a finite number > 0",
    ),
    seed: requireNumber(
      "seed",
      seed,
      (s) => Number.isSafeInteger(s) && s >= 0,
      "an integer from 0 to 2^53 - 1",
    ),
  };
}

/**
 * Sampling: one token from a row of logits. The native addon runs the same steps in the same order in double
 * precision, so that both backends draw the same tokens.
 *
 * Draw i of a request is a function of (seed, i) alone: it does not depend on what else is in the batch.
 */
import type { RowContext } from "../../bindings/executor.js";

type Sampling = RowContext["sampling"];

const MASK = (1n << 64n) - 1n;

/** Uniform in [0, 1): splitmix64 of the seed at a position. */
export function uniformAt(seed: number, position: number): number {
  let z = (BigInt(seed) + BigInt(position + 1) * 0x9e3779b97f4a7c15n) & MASK;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
  z ^= z >> 31n;
  return Number(z >> 11n) * 2 ** -53;
}

/** Index of the largest logit, ties to the smaller id. */
export function argmax(logits: Float32Array): number {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
  return best;
}

/**
 * Divides positive and multiplies negative logits of the tokens seen, in float32. Source: CTRL (arXiv
 * 1909.05858).
 */
function penalise(logits: Float32Array, history: Uint32Array, penalty: number): Float32Array {
  const penalised = logits.slice();
  const factor = Math.fround(penalty);
  for (const id of new Set(history)) {
    if (id < penalised.length) penalised[id] = logits[id] > 0 ? logits[id] / factor : logits[id] * factor;
  }
  return penalised;
}

/**
 * Picks the token of draw `position`.
 * @param logits [vocab], not changed
 * @param history tokens so far, read by the repetition penalty
 */
export function sampleRow(
  logits: Float32Array,
  sampling: Sampling,
  history: Uint32Array,
  position: number,
): number {
  const { temperature, topK, topP, minP, repetitionPenalty, seed } = sampling;
  const row = repetitionPenalty === 1 ? logits : penalise(logits, history, repetitionPenalty);
  if (temperature === 0) return argmax(row);
  const scale = Math.fround(temperature);
  const order = Array.from(row.keys()).sort((a, b) => row[b] - row[a] || a - b);
  if (topK > 0 && topK < order.length) order.length = topK;
  const highest = row[order[0]] / scale;
  const weights = order.map((id) => Math.exp(row[id] / scale - highest));
  if (topP < 1) keepNucleus(weights, Math.fround(topP));
  if (minP > 0) keepLikely(weights, Math.fround(minP));
  let total = 0;
  for (const weight of weights) total += weight;
  const target = uniformAt(seed, position) * total;
  let cumulative = 0;
  for (let i = 0; i < weights.length; i++) {
    cumulative += weights[i];
    if (cumulative > target) return order[i];
  }
  return order[weights.length - 1];
}

/**
 * Keeps the smallest head whose share reaches `topP`. Source: "The Curious Case of Neural Text Degeneration"
 * (arXiv 1904.09751).
 */
function keepNucleus(weights: number[], topP: number): void {
  let sum = 0;
  for (const weight of weights) sum += weight;
  let cumulative = 0;
  for (let i = 0; i < weights.length; i++) {
    cumulative += weights[i];
    if (cumulative / sum >= topP) {
      weights.length = i + 1;
      return;
    }
  }
}

/**
 * Drops what is less likely than `minP` of the most likely. Source: "Turning Up the Heat: Min-p Sampling"
 * (arXiv 2407.01082).
 */
function keepLikely(weights: number[], minP: number): void {
  const least = minP * weights[0];
  let kept = weights.length;
  while (kept > 1 && weights[kept - 1] < least) kept -= 1;
  weights.length = kept;
}

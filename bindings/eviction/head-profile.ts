/**
 * Head profiles: which query heads read answers, and how much each layer suffers from a small cache; measured once a model,
 * off line. Source: "CompressKV: Semantic Retrieval Heads Know What Tokens are Not Important Before Generation" (arXiv
 * 2508.02401).
 */
import { invalidArgument } from "../errors.js";
import type { StatView } from "../statistics.js";

export interface HeadProfile {
  /** What it was measured on, for people; a profile of another model is worth nothing. */
  readonly model: string;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  /** [layers][heads] query heads, the best reader of answers first. */
  readonly headOrder: readonly (readonly number[])[];
  /** [layers][heads] scores by head number. */
  readonly headScore: readonly (readonly number[])[];
  /** [layers] share of the output error that a small cache makes in the layer; sums to 1. */
  readonly layerScore: readonly number[];
}

/** Checks a profile that was read from JSON. Throws INVALID_ARGUMENT naming what is wrong. */
export function readHeadProfile(value: unknown): HeadProfile {
  const profile = value as HeadProfile;
  const bad = (field: string, range: string): never => {
    throw invalidArgument(
      `profile.${field}`,
      (profile as unknown as Record<string, unknown>)?.[field],
      range,
    );
  };
  if (typeof profile !== "object" || profile === null) throw invalidArgument("profile", value, "an object");
  if (typeof profile.model !== "string") bad("model", "a string");
  for (const field of ["layers", "heads", "kvHeads"] as const)
    if (!Number.isInteger(profile[field]) || profile[field] < 1) bad(field, "an integer from 1 on");
  const { layers, heads } = profile;
  const isNumbers = (list: unknown, length: number): list is number[] =>
    Array.isArray(list) &&
    list.length === length &&
    list.every((entry) => typeof entry === "number" && entry >= 0);
  for (const field of ["headOrder", "headScore"] as const) {
    const list = profile[field];
    if (!Array.isArray(list) || list.length !== layers || !list.every((row) => isNumbers(row, heads)))
      bad(field, `[${layers}][${heads}] numbers`);
  }
  for (const order of profile.headOrder)
    if (new Set(order).size !== heads || order.some((head) => !Number.isInteger(head) || head >= heads))
      bad("headOrder", `each head below ${heads} once`);
  if (!isNumbers(profile.layerScore, layers)) bad("layerScore", `[${layers}] numbers`);
  if (Math.abs(profile.layerScore.reduce((a, b) => a + b, 0) - 1) > 1e-3) bad("layerScore", "a sum of 1");
  return profile;
}

/** Throws INVALID_ARGUMENT when a profile is not of a model of this shape. */
export function requireProfileFor(
  profile: HeadProfile,
  shape: { readonly layers: number; readonly heads: number; readonly kvHeads: number },
): void {
  for (const field of ["layers", "heads", "kvHeads"] as const)
    if (profile[field] !== shape[field])
      throw invalidArgument(`profile.${field}`, profile[field], `the model's ${shape[field]}`);
}

export interface RetrievalTrial {
  /** Tokens of the prompt. */
  readonly prompt: readonly number[];
  /** Positions [from, to) of the answer in the prompt. */
  readonly from: number;
  readonly to: number;
}

/** Scores of query heads over trials in which an answer that stands in the prompt is generated. */
export class RetrievalHeadScores {
  readonly #layers: number;
  readonly #heads: number;
  readonly #countDuplicates: boolean;
  #trials = 0;
  #semantic: number[][];
  #traditional: number[][];
  #open: { semantic: number[][]; traditional: number[][] };

  /** @param countDuplicates a token that stands twice in the answer counts twice, as released. Default false. */
  constructor(layers: number, heads: number, { countDuplicates = false } = {}) {
    this.#layers = layers;
    this.#heads = heads;
    this.#countDuplicates = countDuplicates;
    this.#semantic = this.#zeros();
    this.#traditional = this.#zeros();
    this.#open = { semantic: this.#zeros(), traditional: this.#zeros() };
  }

  /**
   * One layer of the step that generated `token`: the attention that falls on the whole answer counts for a head, where
   * the token stands in the answer; and by the traditional score, whether the head's largest attention is on that token.
   */
  addStep(
    { layer, stride, lastRow, lengths, kvHeads }: StatView,
    trial: RetrievalTrial,
    token: number,
  ): void {
    const { prompt, from, to } = trial;
    const matches = prompt.slice(from, to).filter((other) => other === token).length;
    const times = this.#countDuplicates ? matches : Math.min(1, matches);
    for (let head = 0; head < this.#heads; head++) {
      const length = lengths[Math.floor((head * kvHeads) / this.#heads)];
      const row = lastRow!.subarray(head * stride, head * stride + length);
      let mass = 0;
      for (let position = from; position < to; position++) mass += row[position];
      this.#open.semantic[layer][head] += times * mass;
      const best = row.reduce((top, value, i) => (value > row[top] ? i : top), 0);
      if (best >= from && best < to && prompt[best] === token)
        this.#open.traditional[layer][head] += 1 / (to - from);
    }
  }

  /** Ends a trial; it counts only if the answer was right. */
  endTrial(isRight: boolean): void {
    if (isRight) {
      this.#trials += 1;
      this.#each((layer, head) => {
        this.#semantic[layer][head] += this.#open.semantic[layer][head];
        this.#traditional[layer][head] += this.#open.traditional[layer][head];
      });
    }
    this.#open = { semantic: this.#zeros(), traditional: this.#zeros() };
  }

  get trials(): number {
    return this.#trials;
  }

  /** [layers][heads] mean over the trials that counted. */
  semantic(): number[][] {
    return this.#semantic.map((row) => row.map((value) => value / Math.max(1, this.#trials)));
  }

  traditional(): number[][] {
    return this.#traditional.map((row) => row.map((value) => value / Math.max(1, this.#trials)));
  }

  #zeros(): number[][] {
    return Array.from({ length: this.#layers }, () => new Array<number>(this.#heads).fill(0));
  }

  #each(body: (layer: number, head: number) => void): void {
    for (let layer = 0; layer < this.#layers; layer++)
      for (let head = 0; head < this.#heads; head++) body(layer, head);
  }
}

/** Heads of each layer by score, best first; equal scores: the lower number. */
export function orderHeads(scores: readonly (readonly number[])[]): number[][] {
  return scores.map((row) => row.map((_, head) => head).sort((a, b) => row[b] - row[a] || a - b));
}

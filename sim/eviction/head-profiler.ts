/**
 * Measures head profiles on the small model: which query heads read answers, and how far each layer's output moves when
 * only a small cache is left.
 */
import type { HeadProfile } from "../../bindings/eviction/head-profile.js";
import { orderHeads, RetrievalHeadScores } from "../../bindings/eviction/head-profile.js";
import type { EvictionPolicy } from "../../bindings/eviction/policy.js";
import { StatMask } from "../../bindings/statistics.js";
import { BOS, tokensOf } from "./alphabet.js";
import type { Lab } from "./lab.js";
import { argmax } from "./measures.js";
import { makeTask } from "./tasks.js";

export interface ProfileOptions {
  /** Prompts. */
  readonly trials: number;
  /** Characters of a context. Default 448. */
  readonly length?: number;
  readonly seed?: number;
}

/** Scores of query heads while needles' answers (4 digits) are generated. */
export async function retrievalScores(lab: Lab, options: ProfileOptions): Promise<RetrievalHeadScores> {
  const { trials, length = 448, seed = 5000 } = options;
  const { layers, heads } = lab.shape;
  const scores = new RetrievalHeadScores(layers, heads);
  for (let i = 0; i < trials; i++) {
    const { context, questions } = makeTask("needle", { seed: seed + i, length, digits: 4 });
    const [{ text, answer }] = questions;
    const prompt = [BOS, ...tokensOf(context + text)];
    const from = 1 + context.indexOf(`#${text.slice(1)}${answer}`) + text.length;
    const sequence = lab.open(null, prompt.length);
    let step = await sequence.run(prompt, { mask: StatMask.LAST_ROW });
    let isRight = true;
    for (const token of tokensOf(answer)) {
      isRight &&= argmax(step.logits) === token;
      for (const view of step.views) scores.addStep(view, { prompt, from, to: from + answer.length }, token);
      step = await sequence.run([token], { mask: StatMask.LAST_ROW });
    }
    scores.endTrial(isRight);
    sequence.close();
  }
  return scores;
}

/**
 * Share of each layer in the relative change of the attention block's output, summed over answers' steps, when prompts
 * are reduced by a policy. Sums to 1.
 */
export async function layerErrors(
  lab: Lab,
  options: ProfileOptions & { policy: () => EvictionPolicy },
): Promise<number[]> {
  const { trials, length = 448, seed = 6000, policy } = options;
  const { layers, kvHeads } = lab.shape;
  const errors = new Array<number>(layers).fill(0);
  for (let i = 0; i < trials; i++) {
    const { context, questions } = makeTask("needle", { seed: seed + i, length, digits: 4 });
    const [{ text, answer }] = questions;
    const prompt = [BOS, ...tokensOf(context + text)];
    const own = policy();
    const prefilled = await lab.prefill(prompt, [own.needs]);
    const reduced = await lab.start(prefilled, own);
    const kept = Array.from({ length: layers * kvHeads }, (_, lane) => [...reduced.lanes.positions(lane)]);
    const full = prefilled.sequence;
    for (const token of tokensOf(answer)) {
      const later = Array.from({ length: full.lanes.seen - prompt.length }, (_, j) => prompt.length + j);
      const keep = kept.map((slots) => [...slots, ...later]);
      const { views } = await full.run([token], { mask: StatMask.OUTPUT_ERROR, keep });
      views.forEach(({ outputError }, layer) => (errors[layer] += outputError!));
    }
    reduced.close();
    full.close();
  }
  const sum = errors.reduce((a, b) => a + b, 0);
  return errors.map((error) => error / sum);
}

/** Puts scores and errors together. */
export function profileOf(
  lab: Lab,
  model: string,
  headScore: readonly (readonly number[])[],
  layerScore: readonly number[],
): HeadProfile {
  return { model, ...lab.shape, headOrder: orderHeads(headScore), headScore, layerScore };
}

/**
 * KeyDiff: keys that point elsewhere than the mean key stay; no query is looked at. Source: "KeyDiff: Key Similarity-Based
 * KV Cache Eviction for Long-Context LLM Inference in Resource-Constrained Environments" (arXiv 2504.15364).
 *
 * Score: minus the cosine of a key with the mean of the L2-normalised keys of its lane. Chosen once, at the end of the
 * prompt.
 *
 * Options: budget or ratio; recent: last positions that stay (default 1: without the last token of a question the model
 * does not know what it was asked).
 */
import { type StatView, StatMask } from "../../statistics.js";
import type { OptionReader } from "../options.js";
import { LaneScorer, PromptPolicy } from "../prompt-policy.js";
import type { Selection } from "../select.js";

export class KeyDiffScorer extends LaneScorer {
  readonly mask = StatMask.KEYS;

  observe(layer: number, { kvHeads, lengths, keys }: StatView): void {
    const { headStride, slotStride, data } = keys!;
    for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
      const count = lengths[kvHead];
      const norms = new Float64Array(count);
      const anchor = new Float64Array(slotStride);
      for (let slot = 0; slot < count; slot++) {
        const at = kvHead * headStride + slot * slotStride;
        let square = 0;
        for (let d = 0; d < slotStride; d++) square += data[at + d] ** 2;
        norms[slot] = Math.sqrt(square) || 1;
        for (let d = 0; d < slotStride; d++) anchor[d] += data[at + d] / norms[slot] / count;
      }
      const length = Math.sqrt(dot(anchor, anchor)) || 1;
      const scores = new Float32Array(count);
      for (let slot = 0; slot < count; slot++) {
        const at = kvHead * headStride + slot * slotStride;
        let sum = 0;
        for (let d = 0; d < slotStride; d++) sum += data[at + d] * anchor[d];
        scores[slot] = -sum / norms[slot] / length;
      }
      this.put(layer, kvHead, scores);
    }
  }
}

export function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let d = 0; d < a.length; d++) sum += a[d] * b[d];
  return sum;
}

export function keydiff(read: OptionReader, selection: Selection): PromptPolicy {
  return new PromptPolicy(read, selection, { scorer: new KeyDiffScorer() });
}

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
      const units = Array.from({ length: lengths[kvHead] }, (_, slot) => {
        const at = kvHead * headStride + slot * slotStride;
        return unit(data.subarray(at, at + slotStride));
      });
      const anchor = new Float64Array(slotStride);
      for (const key of units) key.forEach((value, d) => (anchor[d] += value / units.length));
      const direction = unit(anchor);
      this.put(
        layer,
        kvHead,
        Float32Array.from(units, (key) => -dot(key, direction)),
      );
    }
  }
}

export function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let d = 0; d < a.length; d++) sum += a[d] * b[d];
  return sum;
}

function unit(vector: ArrayLike<number>): Float64Array {
  const length = Math.sqrt(dot(vector, vector)) || 1;
  return Float64Array.from(vector, (value) => value / length);
}

export function keydiff(read: OptionReader, selection: Selection): PromptPolicy {
  return new PromptPolicy(read, selection, { scorer: new KeyDiffScorer() });
}

/**
 * Knorm: keys of small norm stay. Source: "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression" (EMNLP
 * 2024, arXiv 2406.11430). Chosen once, at the end of the prompt.
 *
 * Options: budget or ratio; recent: last positions that stay (default 1: without the last token of a question the model
 * does not know what it was asked).
 */
import { type StatView, StatMask } from "../../statistics.js";
import type { OptionReader } from "../options.js";
import { LaneScorer, PromptPolicy } from "../prompt-policy.js";
import type { Selection } from "../select.js";
import { dot } from "./keydiff.js";

export class KeyNormScorer extends LaneScorer {
  readonly mask = StatMask.KEYS;

  observe(layer: number, { kvHeads, lengths, keys }: StatView): void {
    const { headStride, slotStride, data } = keys!;
    for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
      const norms = Float32Array.from({ length: lengths[kvHead] }, (_, slot) => {
        const at = kvHead * headStride + slot * slotStride;
        const key = data.subarray(at, at + slotStride);
        return -Math.sqrt(dot(key, key));
      });
      this.put(layer, kvHead, norms);
    }
  }
}

export function knorm(read: OptionReader, selection: Selection): PromptPolicy {
  return new PromptPolicy(read, selection, { scorer: new KeyNormScorer() });
}

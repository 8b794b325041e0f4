/**
 * PyramidKV: SnapKV with more slots in the lower layers. Source: "PyramidKV: Dynamic KV Cache Compression based on
 * Pyramidal Information Funneling" (arXiv 2406.02069).
 *
 * Slots beside the window fall in equal steps from 2 * mean - mean / beta in the first layer to mean / beta in the last;
 * where the first would be more than the prompt, the line is clipped there and the last raised. As published the steps are
 * whole slots, so the sum may be a little below the budget.
 *
 * Options: those of snapkv; beta (default 20).
 */
import type { OptionReader } from "../options.js";
import { apportion } from "../apportion.js";
import { PromptPolicy } from "../prompt-policy.js";
import type { Selection } from "../select.js";
import { SnapKVScorer } from "./snapkv.js";

export function pyramidkv(read: OptionReader, selection: Selection): PromptPolicy {
  const scorer = new SnapKVScorer(read, selection);
  const beta = read.number("beta", 20, 1, 2 ** 20);
  return new PromptPolicy(read, selection, {
    scorer,
    layerSlots: (slots, layers, promptTokens) => {
      const window = Math.min(scorer.window, slots);
      const maximum = Math.max(1, promptTokens - window);
      const total = Math.min(slots - window, maximum) * layers;
      const weights = new Array<number>(layers).fill(1);
      const options = { weights, total, maximum, beta, strategy: "pyramid", strict: false } as const;
      return apportion(selection.core, options).map((share) => Math.max(1, share + window));
    },
  });
}

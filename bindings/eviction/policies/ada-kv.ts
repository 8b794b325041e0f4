/**
 * Ada-KV: the heads of a layer compete for one budget. Source: "Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget
 * Allocation for Efficient LLM Inference" (arXiv 2407.11550).
 *
 * Scores of all KV heads of a layer are ranked together; each head keeps at least `safeguard` of its equal share beside
 * the window. Chosen once, at the end of the prompt.
 *
 * Options: budget or ratio; safeguard (default 0.2); score: snapkv (default), keydiff, knorm or observed-attention, and
 * the options of that one.
 */
import type { OptionReader } from "../options.js";
import { PromptPolicy, type PromptScorer } from "../prompt-policy.js";
import type { Selection } from "../select.js";
import { KeyDiffScorer } from "./keydiff.js";
import { KeyNormScorer } from "./knorm.js";
import { ObservedAttentionScorer } from "./observed-attention.js";
import { SnapKVScorer } from "./snapkv.js";

const SCORERS: Readonly<Record<string, (read: OptionReader, selection: Selection) => PromptScorer>> = {
  snapkv: (read, selection) => new SnapKVScorer(read, selection),
  keydiff: () => new KeyDiffScorer(),
  knorm: () => new KeyNormScorer(),
  "observed-attention": (read) => new ObservedAttentionScorer(read),
};

export function adaKv(read: OptionReader, selection: Selection): PromptPolicy {
  const score = read.choice("score", "snapkv", Object.keys(SCORERS));
  return new PromptPolicy(read, selection, {
    scorer: SCORERS[score](read, selection),
    scope: "layer-pool",
    minimumShare: read.number("safeguard", 0.2, 0, 1),
  });
}

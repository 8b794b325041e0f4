/**
 * SnapKV: what the last queries of the prompt attend to, smoothed over neighbours. Source: "SnapKV: LLM Knows What You are
 * Looking for Before Generation" (NeurIPS 2024, arXiv 2404.14469).
 *
 * Score of a token before the window: its probability, mean over the window's queries, pooled over neighbouring
 * positions (average: zeros beyond the ends, the divisor is always the kernel), mean over the heads of the group. The
 * window itself stays. Chosen once, at the end of the prompt. A prompt that came in chunks is judged by the queries of its
 * last chunk.
 *
 * Options: budget or ratio; window (default 32); kernel (odd, default 5; 1: no pooling); pooling: average (default) or
 * maximum.
 */
import { invalidArgument } from "../../errors.js";
import { type StatView, StatMask } from "../../statistics.js";
import type { OptionReader } from "../options.js";
import { LaneScorer, PromptPolicy } from "../prompt-policy.js";
import type { Selection } from "../select.js";

export type Pooling = "average" | "maximum";

/** How scores lend to their neighbours. */
export interface PoolingOptions {
  readonly kernel: number;
  readonly pooling: Pooling;
}

/** Reads `kernel` and `pooling`. */
export function readPooling(read: OptionReader): PoolingOptions {
  const kernel = read.integer("kernel", 5, 1, 4095);
  if (kernel % 2 === 0) throw invalidArgument("options.kernel", kernel, "an odd number");
  return { kernel, pooling: read.choice("pooling", "average", ["average", "maximum"]) };
}

export class SnapKVScorer extends LaneScorer {
  readonly mask = StatMask.WINDOW;
  override readonly window: number;
  readonly #pooling: PoolingOptions;
  readonly #selection: Selection;

  constructor(read: OptionReader, selection: Selection) {
    super();
    this.window = read.integer("window", 32, 1, 4096);
    this.#pooling = readPooling(read);
    this.#selection = selection;
  }

  observe(layer: number, stats: StatView): void {
    const { kvHeads, heads, lengths } = stats;
    const group = Array.from({ length: heads / kvHeads }, (_, g) => g);
    for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
      const own = group.map((g) => kvHead * group.length + g);
      const scores = windowScores(stats, own, lengths[kvHead] - stats.windowRows!);
      this.put(layer, kvHead, pooled(this.#selection, scores, lengths[kvHead], this.#pooling));
    }
  }
}

/** Mean over some heads and the window's queries of the probabilities of a lane's first `count` slots. */
export function windowScores(
  { window, windowRows, stride }: StatView,
  heads: readonly number[],
  count: number,
): Float32Array {
  const scores = new Float32Array(Math.max(0, count));
  for (const head of heads) {
    for (let row = 0; row < windowRows!; row++) {
      const at = (head * windowRows! + row) * stride;
      for (let slot = 0; slot < count; slot++) scores[slot] += window![at + slot];
    }
  }
  const share = 1 / (heads.length * windowRows!);
  return scores.map((value) => value * share);
}

/** Pooled scores, and 0 for the window's slots after them, [length]. */
export function pooled(
  selection: Selection,
  scores: Float32Array,
  length: number,
  { kernel, pooling }: PoolingOptions,
): Float32Array {
  const out = new Float32Array(length);
  if (kernel === 1 || scores.length === 0) out.set(scores);
  else {
    const target = selection.scores.subarray(0, scores.length);
    selection.pool(scores, target, scores.length, [scores.length], kernel, pooling);
    out.set(target);
  }
  return out;
}

export function snapkv(read: OptionReader, selection: Selection): PromptPolicy {
  return new PromptPolicy(read, selection, { scorer: new SnapKVScorer(read, selection) });
}

/**
 * Observed attention: mean attention of the queries that saw a token. H2O's score divided by that number of queries, so
 * that early tokens are not favoured; as ObservedAttention in kvpress. Chosen once, at the end of the prompt.
 *
 * Options: budget or ratio; recent: last positions that stay (default 1); aggregate: sum, mean or max over a group (default mean).
 */
import { type StatView, StatMask } from "../../statistics.js";
import type { OptionReader } from "../options.js";
import type { SequenceLanes } from "../policy.js";
import { LaneScorer, PromptPolicy } from "../prompt-policy.js";
import { accumulate, type Aggregate, AGGREGATES } from "../rows.js";
import type { Selection } from "../select.js";

export class ObservedAttentionScorer extends LaneScorer {
  readonly mask = StatMask.COLSUM;
  readonly #aggregate: Aggregate;

  constructor(read: OptionReader) {
    super();
    this.#aggregate = read.choice("aggregate", "mean", AGGREGATES);
  }

  /** Sums of each lane, then counts of each lane. */
  override begin(lanes: SequenceLanes): void {
    super.begin(lanes);
    const { layers, kvHeads, capacity } = lanes;
    this.held = Array.from({ length: 2 * layers * kvHeads }, () => new Float32Array(capacity));
  }

  observe(layer: number, stats: StatView): void {
    const { kvHeads, layers } = this.lanes;
    for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
      const index = layer * kvHeads + kvHead;
      accumulate(this.held[index], stats.colsum!, stats, kvHead, this.#aggregate);
      const counts = this.held[layers * kvHeads + index];
      for (let slot = 0; slot < stats.lengths[kvHead]; slot++)
        counts[slot] += stats.colcount![kvHead * stats.stride + slot];
    }
  }

  override scores(layer: number, kvHead: number): Float32Array {
    const { kvHeads, layers } = this.lanes;
    const index = layer * kvHeads + kvHead;
    const counts = this.held[layers * kvHeads + index];
    return this.held[index].map((sum, slot) => sum / Math.max(1, counts[slot]));
  }
}

export function observedAttention(read: OptionReader, selection: Selection): PromptPolicy {
  return new PromptPolicy(read, selection, { scorer: new ObservedAttentionScorer(read) });
}

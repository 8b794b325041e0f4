/**
 * TOVA: what the last query attends to least goes, one keep list for all heads of a layer. Source: "Transformers are
 * Multi-State RNNs" (EMNLP 2024, arXiv 2401.06104).
 *
 * The score is the last query's probability, mean over all query heads of the layer, in the prompt and at every step;
 * the newest slot stays.
 *
 * Options: budget or ratio; recent: last positions that stay (default 1); every: steps from one dropping to the next
 * (default 1).
 */
import { type StatView, StatMask } from "../../statistics.js";
import type { OptionReader } from "../options.js";
import type { BudgetPlan, KeepPlan, LaneShape } from "../policy.js";
import { BudgetRule, PolicyBase, uniformBudget } from "../policy-base.js";
import { meanRow } from "../rows.js";
import type { Selection } from "../select.js";

export class TovaPolicy extends PolicyBase {
  readonly needs = { prefill: StatMask.LAST_ROW, decode: StatMask.LAST_ROW };
  readonly planes = 0;
  readonly #rule: BudgetRule;
  readonly #recent: number;
  /** [layers] the last query's row; not needed after the step. */
  readonly #rows: Float32Array[] = [];

  constructor(read: OptionReader, selection: Selection) {
    super(read, selection, read.integer("every", 1, 1, 2 ** 20));
    this.#rule = new BudgetRule(read);
    this.#recent = read.integer("recent", 1, 1, 2 ** 20);
    read.done();
  }

  budgetFor(shape: LaneShape, promptTokens: number): BudgetPlan {
    return uniformBudget(shape, this.#rule.slots(promptTokens), {
      recent: this.#recent,
      scope: "layer-shared",
    });
  }

  override observePrefill(layer: number, stats: StatView): void {
    this.#rows[layer] = meanRow(stats);
  }

  override endPrefill(): KeepPlan | null {
    return this.keepBest((_, i) => this.#rowOf(i));
  }

  override observeDecode(layer: number, stats: StatView): void {
    this.#rows[layer] = meanRow(stats);
  }

  override endStep(): KeepPlan | null {
    return this.dropSmallest((_, i) => this.#rowOf(i));
  }

  #rowOf(lane: number): Float32Array {
    return this.#rows[Math.floor(lane / this.lanes.kvHeads)];
  }
}

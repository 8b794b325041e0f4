/**
 * TOVA: what the last query attends to least goes, one keep list for all heads of a layer. Source: "Transformers are
 * Multi-State RNNs" (EMNLP 2024, arXiv 2401.06104).
 *
 * The score is the last query's probability, mean over all query heads of the layer, in the prompt and at every step;
 * the newest slot stays.
 *
 * Options: budget or ratio, total and weights (budget.ts); scope: layer (default) or global, and unit (scopes.ts); recent: last positions that stay (default 1); every: steps from one dropping to the next
 * (default 1).
 */
import { type StatView, StatMask } from "../../statistics.js";
import { SharedBudget } from "../budget.js";
import type { OptionReader } from "../options.js";
import type { BudgetPlan, KeepPlan, LaneShape } from "../policy.js";
import { PolicyBase } from "../policy-base.js";
import { meanRow } from "../rows.js";
import { type Competition, planIn, readCompetition } from "../scopes.js";
import type { Selection } from "../select.js";

export class TovaPolicy extends PolicyBase {
  readonly needs = { prefill: StatMask.LAST_ROW, decode: StatMask.LAST_ROW };
  readonly planes = 0;
  readonly #rule: SharedBudget;
  readonly #competition: Competition;
  readonly #recent: number;
  /** [layers] the last query's row; not needed after the step. */
  readonly #rows: Float32Array[] = [];

  constructor(read: OptionReader, selection: Selection) {
    super(read, selection, read.integer("every", 1, 1, 2 ** 20));
    this.#rule = new SharedBudget(read);
    this.#competition = readCompetition(read, ["layer", "global"], this.every);
    this.#recent = read.integer("recent", 1, 1, 2 ** 20);
    read.done();
  }

  budgetFor(shape: LaneShape, promptTokens: number): BudgetPlan {
    const how = { recent: this.#recent };
    return planIn(this.#competition, this.#rule, this.selection.core, shape, promptTokens, how);
  }

  override observePrefill(layer: number, stats: StatView): void {
    this.#rows[layer] = meanRow(stats);
  }

  override endPrefill(): KeepPlan | null {
    return this.keepByScope((_, i) => this.#rowOf(i), this.#byLayer);
  }

  override observeDecode(layer: number, stats: StatView): void {
    this.#rows[layer] = meanRow(stats);
  }

  override endStep(): KeepPlan | null {
    return this.dropByScope((_, i) => this.#rowOf(i), this.#byLayer);
  }

  /** Rows are a layer's already. */
  get #byLayer(): Competition {
    const { scope, block } = this.#competition;
    return { scope: scope === "layer" ? "lane" : scope, block };
  }

  #rowOf(lane: number): Float32Array {
    return this.#rows[Math.floor(lane / this.lanes.kvHeads)];
  }
}

/**
 * Last-important: the token that has not been important for longest goes: recency of importance, without the intervals
 * that LazyEviction keeps. The ablation of lazy-eviction, and what "RaaS: Reasoning-Aware Attention Sparsity for Efficient
 * LLM Reasoning" (arXiv 2502.11147) does with time stamps.
 *
 * Options: budget or ratio; alpha as in lazy-eviction; aggregate: max (default) or mean; every: steps from one dropping to
 * the next (default 1); recent: last positions that stay (default `every`, or 16 where that is 1 and the budget allows).
 */
import { type StatView, StatMask } from "../../statistics.js";
import { BudgetRule, uniformBudget } from "../budget.js";
import type { OptionReader } from "../options.js";
import { type BudgetPlan, type KeepPlan, type LaneShape, PlaneMask } from "../policy.js";
import { PolicyBase } from "../policy-base.js";
import { type Threshold, thresholdFor, track } from "../recurrence.js";
import type { Selection } from "../select.js";

const RECENT = 16;

export class LastImportantPolicy extends PolicyBase {
  readonly needs = { prefill: 0, decode: StatMask.LAST_ROW };
  readonly planes = PlaneMask.LAST_IMP;
  readonly #rule: BudgetRule;
  readonly #alpha: Threshold;
  readonly #aggregate: "max" | "mean";
  readonly #recent: number | undefined;
  #prompt = 0;

  constructor(read: OptionReader, selection: Selection) {
    super(read, selection, read.integer("every", 1, 1, 2 ** 20));
    this.#rule = new BudgetRule(read);
    this.#alpha = read.numberOrAuto("alpha", Number.MIN_VALUE, 1);
    this.#aggregate = read.choice("aggregate", "max", ["max", "mean"]);
    this.#recent = read.has("recent") ? read.integer("recent", 0, 0, 2 ** 20) : undefined;
    read.done();
  }

  budgetFor(shape: LaneShape, promptTokens: number): BudgetPlan {
    const slots = this.#rule.slots(promptTokens);
    const usual = this.every > 1 ? this.every : RECENT;
    this.#prompt = promptTokens;
    return uniformBudget(shape, slots, { recent: this.#recent ?? Math.min(usual, slots >> 1) });
  }

  /** The prompt that `budgetFor` was last asked for is held until tokens have been seen to matter. */
  override peakSlots(budget: BudgetPlan): number {
    return Math.max(super.peakSlots(budget), this.#prompt + this.every);
  }

  override observeDecode(layer: number, stats: StatView): void {
    for (let kvHead = 0; kvHead < stats.kvHeads; kvHead++) {
      const lane = this.lanes.lane(layer, kvHead);
      const threshold = thresholdFor(this.#alpha, lane.length);
      track(lane, this.lanes.seen - 1, stats, kvHead, this.#aggregate, threshold, this.steps + 1);
    }
  }

  override endStep(): KeepPlan | null {
    const over = this.eachLane(({ length }, i) => length > this.budget.cap[i] + 1).some(Boolean);
    if (this.every > 1 || !over) return this.dropSmallest(({ lastImp }) => lastImp!);
    // The first step after a prompt over the budget drops many.
    this.steps += 1;
    return this.keepBest(({ lastImp }) => lastImp!);
  }
}

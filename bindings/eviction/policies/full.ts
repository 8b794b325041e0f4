/** Keeps every token: what the others are compared with. */
import { uniformBudget } from "../budget.js";
import type { OptionReader } from "../options.js";
import type { BudgetPlan, LaneShape } from "../policy.js";
import { PolicyBase } from "../policy-base.js";
import type { Selection } from "../select.js";

export class FullPolicy extends PolicyBase {
  readonly needs = { prefill: 0, decode: 0 };
  readonly planes = 0;

  constructor(read: OptionReader, selection: Selection) {
    super(read, selection);
    read.done();
  }

  budgetFor(shape: LaneShape): BudgetPlan {
    return uniformBudget(shape, 2 ** 31 - 1);
  }

  /** No bound but the tokens seen. */
  override peakSlots(): number {
    return Infinity;
  }
}

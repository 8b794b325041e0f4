/**
 * StreamingLLM: the first tokens and the most recent ones. Source: "Efficient Streaming Language Models with Attention
 * Sinks" (ICLR 2024, arXiv 2309.17453). `local` is the same without sinks.
 *
 * positions=cache renumbers tokens by their place in the cache, as the paper does: keys turn when they move, and the next token
 * stands right behind them. Positions then never pass the budget, however long the text is. Default: original.
 *
 * Options: budget or ratio, total and weights (budget.ts); unit (scopes.ts); positions; sinks (default 4; local: 0); every: steps from one dropping to the next (default 1).
 */
import { SharedBudget } from "../budget.js";
import type { OptionReader } from "../options.js";
import type { BudgetPlan, KeepPlan, LaneShape } from "../policy.js";
import { PolicyBase } from "../policy-base.js";
import { type Competition, planIn, readCompetition } from "../scopes.js";
import type { Selection } from "../select.js";

export class StreamingPolicy extends PolicyBase {
  readonly needs = { prefill: 0, decode: 0 };
  readonly planes = 0;
  readonly positions: "original" | "cache";
  readonly #rule: SharedBudget;
  readonly #competition: Competition;
  readonly #sinks: number;

  constructor(read: OptionReader, selection: Selection) {
    super(read, selection, read.integer("every", 1, 1, 2 ** 20));
    this.#rule = new SharedBudget(read);
    this.#competition = readCompetition(read, ["lane", "global"], this.every);
    const isLocal = read.policy === "local";
    this.#sinks = isLocal ? 0 : read.integer("sinks", 4, 0, 2 ** 20);
    this.positions = readPositions(read);
    read.done();
  }

  budgetFor(shape: LaneShape, promptTokens: number): BudgetPlan {
    const how = { sinks: this.#sinks };
    return planIn(this.#competition, this.#rule, this.selection.core, shape, promptTokens, how);
  }

  override endPrefill(): KeepPlan | null {
    return this.keepByScope(({ pos }) => pos, this.#competition);
  }

  override endStep(): KeepPlan | null {
    return this.dropByScope(({ pos }) => pos, this.#competition, this.positions === "cache");
  }
}

/** Reads `positions`. */
export function readPositions(read: OptionReader): "original" | "cache" {
  return read.choice("positions", "original", ["original", "cache"]);
}

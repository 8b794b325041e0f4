/**
 * StreamingLLM: the first tokens and the most recent ones. Source: "Efficient Streaming Language Models with Attention
 * Sinks" (ICLR 2024, arXiv 2309.17453). `local` is the same without sinks.
 *
 * Positions stay the original ones. The paper renumbers them by cache index, which needs keys cached before their
 * rotation; options that ask for it are refused.
 *
 * Options: budget or ratio; sinks (default 4; local: 0); every: steps from one dropping to the next (default 1).
 */
import { QuartermasterError } from "../../errors.js";
import type { OptionReader } from "../options.js";
import type { BudgetPlan, KeepPlan, LaneShape } from "../policy.js";
import { BudgetRule, PolicyBase, uniformBudget } from "../policy-base.js";
import type { Selection } from "../select.js";

export class StreamingPolicy extends PolicyBase {
  readonly needs = { prefill: 0, decode: 0 };
  readonly planes = 0;
  readonly #rule: BudgetRule;
  readonly #sinks: number;

  constructor(read: OptionReader, selection: Selection) {
    super(read, selection, read.integer("every", 1, 1, 2 ** 20));
    this.#rule = new BudgetRule(read);
    const isLocal = read.policy === "local";
    this.#sinks = isLocal ? 0 : read.integer("sinks", 4, 0, 2 ** 20);
    requireOriginalPositions(read);
    read.done();
  }

  budgetFor(shape: LaneShape, promptTokens: number): BudgetPlan {
    return uniformBudget(shape, this.#rule.slots(promptTokens), { sinks: this.#sinks });
  }

  override endPrefill(): KeepPlan | null {
    return this.keepBest(({ pos }) => pos);
  }

  override endStep(): KeepPlan | null {
    return this.dropSmallest(({ pos }) => pos);
  }
}

/** Reads `positions`; throws UNSUPPORTED for "cache". */
export function requireOriginalPositions(read: OptionReader): void {
  if (read.choice("positions", "original", ["original", "cache"]) === "original") return;
  throw new QuartermasterError(
    "UNSUPPORTED",
    "positions by cache index need keys that are cached before their rotation",
    { argument: "options.positions", value: "cache", range: "original" },
  );
}

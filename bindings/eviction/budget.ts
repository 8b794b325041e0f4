/** Budgets of policies: how many slots the lanes of a sequence may keep, from options. */
import type { Core } from "../core.js";
import { invalidArgument } from "../errors.js";
import { apportion } from "./apportion.js";
import type { OptionReader, OptionValue } from "./options.js";
import type { BudgetPlan, BudgetScope, LaneShape } from "./policy.js";

const MOST = 2 ** 31 - 1;

/** What stays in every lane, and who shares a list. */
export interface Protections {
  readonly sinks?: number;
  readonly recent?: number;
  readonly scope?: BudgetScope;
}

/**
 * How many slots a lane may keep: `budget` in absolute numbers, or `ratio` of the prompt's tokens (rounded down, at least
 * 1). Exactly one of them is given.
 */
export class BudgetRule {
  readonly #budget: number | undefined;
  readonly #ratio: number | undefined;

  constructor(read: OptionReader) {
    this.#budget = read.has("budget") ? read.integer("budget", 0, 1, MOST) : undefined;
    this.#ratio = read.has("ratio") ? read.number("ratio", 0, 2 ** -20, 1) : undefined;
    if ((this.#budget === undefined) === (this.#ratio === undefined))
      throw invalidArgument(
        "options.budget",
        this.#budget,
        "budget (slots a lane) or ratio (of the prompt), one of them",
      );
  }

  /** Slots of a lane on average. */
  slots(promptTokens: number, _shape?: Pick<LaneShape, "layers" | "kvHeads">): number {
    return this.#budget ?? Math.max(1, Math.floor(this.#ratio! * promptTokens));
  }
}

/**
 * As a BudgetRule, or `total`: slots of all lanes together, split to the last one. `weights`: the layers' shares, an array or
 * "4/2/1" (default: alike).
 */
export class SharedBudget {
  readonly #rule: BudgetRule | undefined;
  readonly #total: number | undefined;
  readonly #weights: readonly number[] | undefined;

  constructor(read: OptionReader) {
    if (read.has("total")) {
      this.#total = read.integer("total", 0, 1, MOST);
      if (read.has("budget") || read.has("ratio"))
        throw invalidArgument("options.total", this.#total, "none beside budget or ratio");
    } else this.#rule = new BudgetRule(read);
    if (read.has("weights")) this.#weights = readWeights(read.value("weights", ""));
  }

  /** Slots of a lane on average, rounded down. */
  slots(promptTokens: number, { layers, kvHeads }: Pick<LaneShape, "layers" | "kvHeads">): number {
    return this.#rule?.slots(promptTokens) ?? Math.floor(this.#total! / (layers * kvHeads));
  }

  /**
   * Each lane's cap. Lanes that share one list for the whole sequence have the same. Throws INVALID_ARGUMENT when a cap would
   * not hold what is protected.
   */
  plan(core: Core, shape: LaneShape, promptTokens: number, how: Protections): BudgetPlan {
    const { layers, kvHeads } = shape;
    const slots = this.slots(promptTokens, shape);
    const { sinks = 0, recent = 0, scope = "lane" } = how;
    const isShared = scope === "global-shared";
    if (isShared && this.#weights !== undefined)
      throw invalidArgument("options.weights", this.#weights, "none where all lanes keep one list");
    if (this.#weights !== undefined && this.#weights.length !== layers)
      throw invalidArgument("options.weights", this.#weights, `${layers} layers`);
    if (slots < 1)
      throw invalidArgument("options.total", this.#total, `at least ${layers * kvHeads}, a slot a lane`);
    if (isShared || (this.#weights === undefined && this.#total === undefined))
      return uniformBudget(shape, slots, how);
    const least = Math.max(1, sinks + recent);
    const total = this.#total ?? slots * layers * kvHeads;
    if (total < least * layers * kvHeads)
      throw invalidArgument("options.total", total, `at least the ${least} protected slots of every lane`);
    // Heads of a layer that keep one list have one cap.
    const heads = scope === "layer-shared" ? 1 : kvHeads;
    const cap = apportion(core, {
      weights: Array.from({ length: layers * heads }, (_, i) => this.#weights?.[Math.floor(i / heads)] ?? 1),
      total: Math.floor((total * heads) / kvHeads),
      minimum: least,
    });
    return {
      cap: Int32Array.from(
        { length: layers * kvHeads },
        (_, lane) => cap[Math.floor((lane * heads) / kvHeads)],
      ),
      sinks,
      recent,
      scope,
    };
  }
}

function readWeights(value: OptionValue): number[] {
  const list = Array.isArray(value) ? (value as unknown[]) : String(value).split("/");
  const weights = list.map(Number);
  if (
    weights.some((weight) => !(weight >= 0 && weight < Infinity)) ||
    weights.every((weight) => weight === 0)
  )
    throw invalidArgument("options.weights", value, "shares of the layers, as an array or 4/2/1");
  return weights;
}

/** The same cap in every lane. Throws INVALID_ARGUMENT when the protected slots alone are more. */
export function uniformBudget(
  { layers, kvHeads }: Pick<LaneShape, "layers" | "kvHeads">,
  slots: number,
  { sinks = 0, recent = 0, scope = "lane" }: Protections = {},
): BudgetPlan {
  if (sinks + recent > slots)
    throw invalidArgument("options.budget", slots, `at least the ${sinks} sinks and ${recent} recent slots`);
  return { cap: new Int32Array(layers * kvHeads).fill(slots), sinks, recent, scope };
}

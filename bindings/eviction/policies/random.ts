/**
 * Keeps tokens drawn uniformly, in the prompt and at every step: what a score must beat.
 *
 * Options: budget or ratio, total and weights (budget.ts); scope: lane (default), layer or global, and unit (scopes.ts); seed
 * (default 0); recent: last positions that stay (default 1); every: steps from one dropping to the next (default 1).
 */
import { SharedBudget } from "../budget.js";
import type { OptionReader } from "../options.js";
import type { BudgetPlan, KeepPlan, LaneShape, LaneView } from "../policy.js";
import { PolicyBase } from "../policy-base.js";
import { type Competition, planIn, readCompetition } from "../scopes.js";
import type { Selection } from "../select.js";

export class RandomPolicy extends PolicyBase {
  readonly needs = { prefill: 0, decode: 0 };
  readonly planes = 0;
  readonly #rule: SharedBudget;
  readonly #competition: Competition;
  readonly #seed: number;
  readonly #recent: number;

  constructor(read: OptionReader, selection: Selection) {
    super(read, selection, read.integer("every", 1, 1, 2 ** 20));
    this.#rule = new SharedBudget(read);
    this.#competition = readCompetition(read, ["lane", "layer", "global"], this.every);
    this.#seed = read.integer("seed", 0, 0, 2 ** 31 - 1);
    this.#recent = read.integer("recent", 1, 0, 2 ** 20);
    read.done();
  }

  budgetFor(shape: LaneShape, promptTokens: number): BudgetPlan {
    const how = { recent: this.#recent };
    return planIn(this.#competition, this.#rule, this.selection.core, shape, promptTokens, how);
  }

  override endPrefill(): KeepPlan | null {
    return this.keepByScope((lane, i) => this.#draw(lane, i), this.#competition);
  }

  override endStep(): KeepPlan | null {
    return this.dropByScope((lane, i) => this.#draw(lane, i), this.#competition);
  }

  /** Fresh scores each time: the tokens seen so far are the number of the draw. */
  #draw({ length, pos }: LaneView, lane: number): Uint32Array {
    const key = mix(mix(this.#seed ^ 0x9e3779b9) ^ (this.lanes.seen * 1024 + lane));
    return Uint32Array.from({ length }, (_, slot) => mix(key ^ Math.imul(pos[slot] + 1, 0x85ebca6b)));
  }
}

/** Finaliser of MurmurHash3. */
function mix(value: number): number {
  let h = value >>> 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/**
 * PolicyBase: what policies with a budget share: the budget itself, protections, keep lists and victims from scores, and
 * state. A method's own file says what a token's score is.
 *
 * Rules for all of them: the first `sinks` and the last `recent` positions stay; of equal scores the larger position
 * stays; NaN counts as -inf; no lane gets empty.
 */
import { invalidArgument, QuartermasterError } from "../errors.js";
import { APPEND_SLOT, type StatView } from "../statistics.js";
import type { OptionReader } from "./options.js";
import type {
  BudgetPlan,
  BudgetScope,
  EvictionPolicy,
  KeepPlan,
  LaneShape,
  LaneView,
  SequenceLanes,
  StatisticsNeeds,
} from "./policy.js";
import type { Scores, Selection } from "./select.js";
import { packState, type StateArray, unpackState } from "./state.js";

const MOST = 2 ** 31 - 1;

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
  slots(promptTokens: number): number {
    return this.#budget ?? Math.max(1, Math.floor(this.#ratio! * promptTokens));
  }
}

/** The same cap in every lane. Throws INVALID_ARGUMENT when the protected slots alone are more. */
export function uniformBudget(
  { layers, kvHeads }: Pick<LaneShape, "layers" | "kvHeads">,
  slots: number,
  { sinks = 0, recent = 0, scope = "lane" }: { sinks?: number; recent?: number; scope?: BudgetScope } = {},
): BudgetPlan {
  if (sinks + recent > slots)
    throw invalidArgument("options.budget", slots, `at least the ${sinks} sinks and ${recent} recent slots`);
  return { cap: new Int32Array(layers * kvHeads).fill(slots), sinks, recent, scope };
}

/** Scores of one lane's slots, [length]. */
export type LaneScores = (lane: LaneView, index: number) => Scores;

export abstract class PolicyBase implements EvictionPolicy {
  readonly name: string;
  abstract readonly needs: StatisticsNeeds;
  abstract readonly planes: number;
  /** Decode steps from one dropping to the next. */
  readonly every: number;
  protected readonly selection: Selection;
  protected lanes!: SequenceLanes;
  protected budget!: BudgetPlan;
  protected promptTokens = 0;
  /** Decode steps so far. */
  protected steps = 0;

  constructor(read: OptionReader, selection: Selection, every = 1) {
    this.name = read.policy;
    this.selection = selection;
    this.every = every;
  }

  abstract budgetFor(shape: LaneShape, promptTokens: number): BudgetPlan;

  peakSlots({ cap }: BudgetPlan): number {
    return cap.reduce((most, slots) => Math.max(most, slots), 0) + this.every;
  }

  beginSequence(lanes: SequenceLanes, promptTokens: number): void {
    const { layers, kvHeads } = lanes;
    this.budget = this.budgetFor({ layers, kvHeads, heads: kvHeads }, promptTokens);
    this.lanes = lanes;
    this.promptTokens = promptTokens;
    this.steps = 0;
  }

  observePrefill(_layer: number, _stats: StatView, _newTokens: number): void {}

  endPrefill(): KeepPlan | null {
    return null;
  }

  observeDecode(_layer: number, _stats: StatView): void {}

  endStep(): KeepPlan | null {
    this.steps += 1;
    return null;
  }

  serialize(): Uint8Array {
    return packState([Float64Array.of(this.promptTokens, this.steps), ...this.state()]);
  }

  restore(bytes: Uint8Array): void {
    const [numbers, ...rest] = unpackState(bytes);
    if (!(numbers instanceof Float64Array) || numbers.length !== 2)
      throw new QuartermasterError("BAD_SNAPSHOT", `these bytes are not a state of ${this.name}`);
    this.setState(rest);
    [this.promptTokens, this.steps] = numbers;
  }

  /** What the method keeps beside the lanes. */
  protected state(): StateArray[] {
    return [];
  }

  /** Takes back what `state` gave; throws BAD_SNAPSHOT, before anything has changed, when it is something else. */
  protected setState(parts: readonly StateArray[]): void {
    this.requireParts(parts.length === 0);
  }

  protected requireParts(right: boolean): asserts right {
    if (!right) throw new QuartermasterError("BAD_SNAPSHOT", `these bytes are not a state of ${this.name}`);
  }

  /** First of the positions that are protected for being recent. */
  protected get recentFrom(): number {
    return Math.max(0, this.lanes.seen - this.budget.recent);
  }

  /** Calls body for each lane, layer after layer. */
  protected eachLane<T>(body: (lane: LaneView, index: number) => T): T[] {
    const { layers, kvHeads } = this.lanes;
    return Array.from({ length: layers * kvHeads }, (_, i) =>
      body(this.lanes.lane(Math.floor(i / kvHeads), i % kvHeads), i),
    );
  }

  /** The slots with the largest scores, protected ones first; null: all of them. */
  protected best(
    lane: LaneView,
    scores: Scores,
    cap: number,
    ties?: Uint32Array,
    recentFrom = this.recentFrom,
  ): Uint32Array | null {
    const { length } = lane;
    if (length <= cap) return null;
    const options = { positions: lane.pos.subarray(0, length), sinks: this.budget.sinks, recentFrom };
    const tied = ties && { ties: ties.subarray(0, length) };
    return this.selection.topk(scores.subarray(0, length), cap, { ...options, ...tied }).slice();
  }

  /** Every lane keeps its best; null when no lane is over its cap. */
  protected keepBest(scores: LaneScores, ties?: (lane: LaneView) => Uint32Array): KeepPlan | null {
    const { cap } = this.budget;
    return keepPlan(
      this.eachLane((lane, i) =>
        lane.length <= cap[i] ? null : this.best(lane, scores(lane, i), cap[i], ties?.(lane)),
      ),
    );
  }

  /** The slot that goes from a lane that is over its cap. */
  protected victim(lane: LaneView, scores: Scores, cap: number): number | undefined {
    const { length } = lane;
    if (length <= cap) return undefined;
    return this.selection.argmin(scores.subarray(0, length), {
      positions: lane.pos.subarray(0, length),
      sinks: this.budget.sinks,
      recentFrom: this.recentFrom,
    });
  }

  /** Every lane over its cap loses its smallest, whose slot the next token takes. */
  protected reuseSmallest(scores: LaneScores): KeepPlan | null {
    const { cap } = this.budget;
    const victims = this.eachLane((lane, i) =>
      lane.length <= cap[i] ? undefined : this.victim(lane, scores(lane, i), cap[i]),
    );
    return reusePlan(victims);
  }

  /**
   * After a decode step: one token a step leaves its slot to the next one, or, where `every` is more than 1, lanes are
   * packed every so many steps.
   */
  protected dropSmallest(scores: LaneScores, ties?: (lane: LaneView) => Uint32Array): KeepPlan | null {
    this.steps += 1;
    if (this.every === 1) return this.reuseSmallest(scores);
    return this.steps % this.every === 0 ? this.keepBest(scores, ties) : null;
  }
}

/** null when nothing is dropped. */
export function keepPlan(keep: readonly (Uint32Array | null)[]): KeepPlan | null {
  return keep.every((slots) => slots === null) ? null : { keep };
}

/** In-place plan from each lane's victim; null when there is none. */
export function reusePlan(
  victims: readonly (number | undefined)[],
  successors?: readonly (number | undefined)[],
): KeepPlan | null {
  if (victims.every((slot) => slot === undefined)) return null;
  const slots = (list: readonly (number | undefined)[]): Uint32Array =>
    Uint32Array.from(list, (slot) => slot ?? APPEND_SLOT);
  return {
    keep: victims.map(() => null),
    inPlace: { victim: slots(victims), ...(successors && { successor: slots(successors) }) },
  };
}

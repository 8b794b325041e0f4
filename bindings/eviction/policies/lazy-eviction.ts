/**
 * LazyEviction: tokens that come back after a silence stay while the silence is short for them; lanes are packed once a
 * window. Source: "LazyEviction: Lagged KV Eviction with Attention Pattern Observation for Efficient Long Reasoning"
 * (arXiv 2506.15969); where the paper's text could not be read, its released code is followed.
 *
 * The prompt is never compressed. Every `window` decode steps a lane above its budget keeps the last `window` positions
 * and the best of the others (recurrence.ts has the score); in between it grows to budget + window. Ties: the token
 * important more recently, then the larger position.
 *
 * Options: budget or ratio; window W (default 64, less than the budget); alpha: a probability above 0 or auto (default
 * auto, 8 / slots: the published 1e-4 and 5e-4 lie below uniform attention, which suits contexts of thousands); score:
 * gated (default) or release; h1Offset (default 1, as released; 0 is the other reading of the paper); aggregate: max
 * (default) or mean over a group; perQueryHead: refuse lanes that several query heads share, as the released code has none
 * (default false; the executor's model is opened with `perQueryHead`, and holds K and V as often as there are heads in a group).
 */
import { invalidArgument, QuartermasterError } from "../../errors.js";
import { type StatView, StatMask } from "../../statistics.js";
import { BudgetRule, uniformBudget } from "../budget.js";
import type { OptionReader } from "../options.js";
import {
  type BudgetPlan,
  type KeepPlan,
  type LaneShape,
  type LaneView,
  PlaneMask,
  type SequenceLanes,
} from "../policy.js";
import { PolicyBase } from "../policy-base.js";
import {
  type RecurrenceScore,
  recurrenceHistogram,
  recurrenceScore,
  type Threshold,
  thresholdFor,
  track,
} from "../recurrence.js";
import type { Selection } from "../select.js";
import type { StateArray } from "../state.js";

/** Above this share of important slots the threshold tells nothing apart. */
const DEGENERATE_SHARE = 0.6;

export class LazyEvictionPolicy extends PolicyBase {
  readonly needs = { prefill: 0, decode: StatMask.LAST_ROW };
  readonly planes = PlaneMask.LAST_IMP | PlaneMask.MRI;
  readonly #rule: BudgetRule;
  readonly #alpha: Threshold;
  readonly #aggregate: "max" | "mean";
  readonly #score: RecurrenceScore;
  readonly #perQueryHead: boolean;
  #prompt = 0;
  /** Slots seen and important since the last window ended. */
  #observed = 0;
  #important = 0;
  #warning: string | undefined;

  constructor(read: OptionReader, selection: Selection) {
    super(read, selection, read.integer("window", 64, 1, 2 ** 20));
    this.#rule = new BudgetRule(read);
    this.#alpha = read.numberOrAuto("alpha", Number.MIN_VALUE, 1);
    this.#aggregate = read.choice("aggregate", "max", ["max", "mean"]);
    const kind = read.choice("score", "gated", ["gated", "release"]);
    this.#score = { kind, window: this.every, offset: read.number("h1Offset", 1, 0, 1) };
    this.#perQueryHead = read.boolean("perQueryHead", false);
    read.done();
  }

  /** Set when more than 60 % of the slots were important over a window. */
  get warning(): string | undefined {
    return this.#warning;
  }

  budgetFor(shape: LaneShape, promptTokens: number): BudgetPlan {
    const slots = this.#rule.slots(promptTokens);
    if (this.#perQueryHead && shape.heads !== shape.kvHeads)
      throw new QuartermasterError(
        "UNSUPPORTED",
        `lanes of ${shape.heads} query heads over ${shape.kvHeads} KV heads: the model is to be opened with perQueryHead`,
        { argument: "options.perQueryHead", value: true },
      );
    if (slots <= this.every)
      throw invalidArgument("options.window", this.every, `less than the budget of ${slots} slots`);
    this.#prompt = promptTokens;
    return uniformBudget(shape, slots, { recent: this.every });
  }

  /** The prompt that `budgetFor` was last asked for is held until the first window ends. */
  override peakSlots(budget: BudgetPlan): number {
    return Math.max(super.peakSlots(budget), this.#prompt + this.every);
  }

  override beginSequence(lanes: SequenceLanes, promptTokens: number): void {
    super.beginSequence(lanes, promptTokens);
    this.#observed = this.#important = 0;
  }

  override observeDecode(layer: number, stats: StatView): void {
    for (let kvHead = 0; kvHead < stats.kvHeads; kvHead++) {
      const lane = this.lanes.lane(layer, kvHead);
      const threshold = thresholdFor(this.#alpha, lane.length);
      const newest = this.lanes.seen - 1;
      this.#important += track(lane, newest, stats, kvHead, this.#aggregate, threshold, this.steps + 1);
      this.#observed += lane.length;
    }
  }

  override endStep(): KeepPlan | null {
    this.steps += 1;
    if (this.steps % this.every !== 0) return null;
    if (this.#important > DEGENERATE_SHARE * this.#observed)
      this.#warning = "most slots are important at every step: alpha is too small for so few slots";
    this.#important = this.#observed = 0;
    return this.keepBest(
      (lane) => this.#scores(lane),
      (lane) => lane.lastImp!,
    );
  }

  /** Share of tokens by their longest silence, in powers of two, over all lanes. */
  recurrenceHistogram(): number[] {
    return recurrenceHistogram(this.eachLane(({ mri, length }) => [...mri!.subarray(0, length)]).flat());
  }

  #scores({ length, lastImp, mri }: LaneView): Float32Array {
    return Float32Array.from({ length }, (_, slot) =>
      recurrenceScore(lastImp![slot], mri![slot], this.steps, this.#score),
    );
  }

  protected override state(): StateArray[] {
    return [Float64Array.of(this.#observed, this.#important)];
  }

  protected override setState(parts: readonly StateArray[]): void {
    this.requireParts(parts.length === 1 && parts[0].length === 2);
    [this.#observed, this.#important] = parts[0];
  }
}

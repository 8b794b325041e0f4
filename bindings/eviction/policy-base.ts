/**
 * PolicyBase: what policies with a budget share: the budget itself, protections, keep lists and victims from scores, and
 * state. A method's own file says what a token's score is.
 *
 * Rules for all of them: the first `sinks` and the last `recent` positions stay; of equal scores the larger position
 * stays; NaN counts as -inf; no lane gets empty.
 */
import { QuartermasterError } from "../errors.js";
import { APPEND_SLOT, type StatView } from "../statistics.js";
import type { OptionReader } from "./options.js";
import type {
  BudgetPlan,
  EvictionPolicy,
  KeepPlan,
  LaneShape,
  LaneView,
  SequenceLanes,
  StatisticsNeeds,
} from "./policy.js";
import type { Scores, Selection } from "./select.js";
import { addedUp, type Competition, keepBlocks, type ScopeName } from "./scopes.js";
import { packState, type StateArray, unpackState } from "./state.js";

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

  peakSlots({ cap, block }: BudgetPlan): number {
    const most = cap.reduce((slots, next) => Math.max(slots, next), 0);
    // A block goes before the next token needs one.
    return block === undefined ? most + this.every : most;
  }

  beginSequence(lanes: SequenceLanes, promptTokens: number): void {
    const { layers, kvHeads, blockSize } = lanes;
    const shape = { layers, kvHeads, heads: kvHeads, ...(blockSize !== undefined && { blockSize }) };
    this.budget = this.budgetFor(shape, promptTokens);
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

  /**
   * What stays after a prompt, by scope and unit.
   * @param share scope pool: of a cap, every head's own beside what is protected
   */
  protected keepByScope(scores: LaneScores, { scope, block }: Competition, share = 0): KeepPlan | null {
    if (block !== undefined) return this.#dropBlocks(scores);
    const shared = this.shared(scores, scope);
    return scope === "pool" ? this.#pooled(shared, share) : this.keepBest(shared);
  }

  /** As `dropSmallest`, by scope and unit. @param packs slots are packed at each dropping, none is reused */
  protected dropByScope(scores: LaneScores, { scope, block }: Competition, packs = false): KeepPlan | null {
    if (block === undefined) return this.dropSmallest(this.shared(scores, scope), undefined, packs);
    this.steps += 1;
    return this.#dropBlocks(scores);
  }

  /** Scores of lanes as their scope shares them: one list a layer, or one for all. Lanes that share are alike. */
  protected shared(scores: LaneScores, scope: ScopeName): LaneScores {
    if (scope !== "layer" && scope !== "global") return scores;
    const { layers, kvHeads } = this.lanes;
    const own = this.eachLane((lane, i) => scores(lane, i));
    const { length } = this.lanes.lane(0, 0);
    const all = scope === "global" ? addedUp(own, length) : undefined;
    const byLayer = Array.from(
      { length: layers },
      (_, layer) =>
        all ?? addedUp(own.slice(layer * kvHeads, (layer + 1) * kvHeads), this.lanes.lane(layer, 0).length),
    );
    return (_, i) => byLayer[Math.floor(i / kvHeads)];
  }

  /** Whole blocks go from all lanes alike. */
  #dropBlocks(scores: LaneScores): KeepPlan | null {
    const lane = this.lanes.lane(0, 0);
    if (lane.length < this.budget.cap[0]) return null;
    const kept = keepBlocks(this.shared(scores, "global")(lane, 0), lane, this.budget, this.recentFrom);
    return kept && keepPlan(this.eachLane(() => kept));
  }

  /** The heads of each layer compete for the sum of their caps. */
  #pooled(scores: LaneScores, share: number): KeepPlan | null {
    return keepPlan(
      Array.from({ length: this.lanes.layers }, (_, layer) => this.#pool(layer, scores, share)).flat(),
    );
  }

  #pool(layer: number, scores: LaneScores, share: number): (Uint32Array | null)[] {
    const { kvHeads } = this.lanes;
    const heads = Array.from({ length: kvHeads }, (_, kvHead) => kvHead);
    const lanes = heads.map((kvHead) => this.lanes.lane(layer, kvHead));
    const lengths = lanes.map(({ length }) => length);
    const caps = heads.map((kvHead) => this.budget.cap[layer * kvHeads + kvHead]);
    const total = caps.reduce((sum, cap) => sum + cap, 0);
    if (lengths.reduce((sum, length) => sum + length, 0) <= total) return heads.map(() => null);
    const stride = Math.max(...lengths);
    const all = new Float32Array(kvHeads * stride);
    const positions = new Uint32Array(kvHeads * stride);
    for (const kvHead of heads) {
      const own = scores(lanes[kvHead], layer * kvHeads + kvHead);
      all.set(own.subarray(0, lengths[kvHead]), kvHead * stride);
      positions.set(lanes[kvHead].pos.subarray(0, lengths[kvHead]), kvHead * stride);
    }
    const { recent, sinks } = this.budget;
    const own = Math.floor(share * (Math.min(...caps) - recent));
    const kept = this.selection.topkPooled(all, total, {
      lengths,
      stride,
      positions,
      sinks,
      recentFrom: this.recentFrom,
      minimum: Math.min(Math.min(...caps), Math.max(1, own) + recent + sinks),
    });
    return kept.map((slots) => slots.slice());
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
  protected dropSmallest(
    scores: LaneScores,
    ties?: (lane: LaneView) => Uint32Array,
    packs = false,
  ): KeepPlan | null {
    this.steps += 1;
    if (this.every === 1 && !packs) return this.reuseSmallest(scores);
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

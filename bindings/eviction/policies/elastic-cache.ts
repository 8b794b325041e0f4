/**
 * Elastic Cache: unimportant tokens of the prompt are merged into their nearest important neighbour instead of being
 * dropped; while generating, the cache keeps a fixed share of all tokens seen by losing the entry at one fixed place.
 * Source: "Efficient Inference of Vision Instruction-Following Models with Elastic Cache" (ECCV 2024, arXiv 2407.18121).
 *
 * Importance of a token: attention summed over the prompt's queries, mean over all query heads of the layer. Of the n
 * tokens, f = floor(n - n * ratio) go: those of least importance outside the sinks and the last one (ties: the smaller
 * position goes). Each is averaged, K and V with equal weights, into the nearest remaining token by position (ties: the
 * smaller one); sinks and the last token take none. The released code ranks tokens by an argsort where it needs a rank,
 * so its choice has nothing to do with importance; this is the paper's description.
 *
 * While generating, whenever the cache is over ratio times the tokens seen, the oldest entry from place p on goes: the head
 * [0, p) is frozen, the tail is a growing window of recent tokens. p = prompt slots + distance, fixed at the end of the
 * prompt. The tail is a ring: the next token takes the slot.
 *
 * Options: ratio (share of all tokens seen that stays, above 0; the paper's ratio is 1 minus it); sinks (default 1);
 * distance (default -25: places before the end of the prompt's slots; positive: from the start); merge (default true;
 * false drops instead); countBias (default false): a merged slot weighs as many tokens as it stands for, ln(count) being added
 * to its logit; maxSlots: a hard bound beside the ratio (default none). A merged slot has no one position, so positions by place
 * in the cache are refused.
 */
import { invalidArgument } from "../../errors.js";
import { type StatView, StatMask } from "../../statistics.js";
import { uniformBudget } from "../budget.js";
import type { OptionReader } from "../options.js";
import {
  type BudgetPlan,
  type KeepPlan,
  type LaneShape,
  PlaneMask,
  type SequenceLanes,
  type SlotMerge,
} from "../policy.js";
import { PolicyBase, reusePlan } from "../policy-base.js";
import type { Selection } from "../select.js";
import type { StateArray } from "../state.js";

const MOST = 2 ** 31 - 1;

/** What becomes of a prompt's slots: which stay, and which goes into which. */
export interface Anchors {
  /** Ascending slots that stay. */
  readonly keep: Uint32Array;
  /** [n] slot that each merges into: itself where it stays. */
  readonly anchorOf: Uint32Array;
}

/**
 * Drops the `count` least important of [sinks, n - 1), at most all but one, and finds each one's nearest remaining slot in
 * that range.
 */
export function anchors(importance: ArrayLike<number>, count: number, sinks: number): Anchors {
  const n = importance.length;
  const first = Math.min(sinks, Math.max(0, n - 1));
  const candidates = Array.from({ length: Math.max(0, n - 1 - first) }, (_, i) => first + i);
  const dropped = new Set(
    [...candidates]
      .sort((a, b) => importance[a] - importance[b] || a - b)
      .slice(0, Math.max(0, Math.min(count, candidates.length - 1))),
  );
  const keep = Uint32Array.from({ length: n }, (_, slot) => slot).filter((slot) => !dropped.has(slot));
  const anchorOf = Uint32Array.from({ length: n }, (_, slot) => slot);
  // Two sweeps: the nearest kept candidate to the left, then to the right where that one is strictly nearer.
  let left = -1;
  for (const slot of candidates) {
    if (!dropped.has(slot)) left = slot;
    else if (left >= 0) anchorOf[slot] = left;
  }
  let right = -1;
  for (const slot of [...candidates].reverse()) {
    if (!dropped.has(slot)) right = slot;
    else if (right >= 0 && (anchorOf[slot] === slot || right - slot < slot - anchorOf[slot]))
      anchorOf[slot] = right;
  }
  return { keep, anchorOf };
}

export class ElasticCachePolicy extends PolicyBase {
  readonly needs = { prefill: StatMask.COLSUM, decode: 0 };
  readonly planes: number;
  /** Plane aux holds ln of how many tokens a slot stands for. */
  readonly isBiased: boolean;
  readonly #ratio: number;
  readonly #sinks: number;
  readonly #distance: number;
  readonly #isMerging: boolean;
  readonly #maxSlots: number;
  /** [layers][slots] importance, until the end of the prompt. */
  #importance: Float32Array[] = [];
  /** First place that may lose its entry; -1 before the prompt has ended. */
  #point = -1;

  constructor(read: OptionReader, selection: Selection) {
    super(read, selection);
    this.#ratio = read.number("ratio", 1, 2 ** -20, 1);
    this.#sinks = read.integer("sinks", 1, 0, 2 ** 20);
    this.#distance = read.integer("distance", -25, -(2 ** 20), 2 ** 20);
    this.#isMerging = read.boolean("merge", true);
    this.isBiased = read.boolean("countBias", false);
    if (this.isBiased && !this.#isMerging)
      throw invalidArgument("options.countBias", true, "false where nothing is merged");
    this.planes = this.isBiased ? PlaneMask.AUX : 0;
    this.#maxSlots = read.integer("maxSlots", MOST, 2, MOST);
    if (read.choice("positions", "original", ["original", "cache"]) === "cache")
      throw invalidArgument("options.positions", "cache", "original: a merged slot has no one position");
    read.done();
  }

  /** For the prompt: while generating, the budget grows with the tokens seen. */
  budgetFor(shape: LaneShape, promptTokens: number): BudgetPlan {
    const slots = Math.max(2, Math.min(this.#slotsFor(promptTokens), MOST));
    const recent = Math.min(1, slots);
    return uniformBudget(shape, slots, {
      sinks: Math.min(this.#sinks, slots - recent),
      recent,
      scope: "layer-shared",
    });
  }

  /** A share of what is seen: no bound but maxSlots. */
  override peakSlots(): number {
    return this.#maxSlots === MOST ? Infinity : this.#maxSlots + 1;
  }

  override beginSequence(lanes: SequenceLanes, promptTokens: number): void {
    super.beginSequence(lanes, promptTokens);
    this.#importance = [];
    this.#point = -1;
  }

  override observePrefill(layer: number, { heads, stride, lengths, colsum }: StatView): void {
    const before = this.#importance[layer] ?? new Float32Array(0);
    const sums = new Float32Array(lengths[0]);
    sums.set(before.subarray(0, sums.length));
    for (let head = 0; head < heads; head++)
      for (let slot = 0; slot < sums.length; slot++) sums[slot] += colsum![head * stride + slot] / heads;
    this.#importance[layer] = sums;
  }

  override endPrefill(): KeepPlan | null {
    const { kvHeads, seen } = this.lanes;
    const { length } = this.lanes.lane(0, 0);
    const count = length - this.#slotsFor(seen);
    const kept = this.#importance.map((importance) => anchors(importance, count, this.#sinks));
    this.#importance = [];
    const after = count > 0 ? kept[0].keep.length : length;
    if (this.#point < 0) {
      const place = this.#distance > 0 ? this.#distance : after + this.#distance;
      this.#point = Math.max(Math.min(this.#sinks, after - 1), Math.min(place, after - 1));
    }
    if (count <= 0) return null;
    const merge = this.#isMerging
      ? this.eachLane((_, lane) => mergesOf(lane, kept[Math.floor(lane / kvHeads)])).flat()
      : [];
    if (this.isBiased) for (const one of merge) this.#weigh(one);
    return {
      keep: this.eachLane((_, lane) => kept[Math.floor(lane / kvHeads)].keep),
      ...(merge.length > 0 && { merge }),
    };
  }

  override endStep(): KeepPlan | null {
    this.steps += 1;
    const { pos, length } = this.lanes.lane(0, 0);
    if (length - this.#slotsFor(this.lanes.seen) <= 0) return null;
    let oldest = this.#point;
    for (let slot = this.#point + 1; slot < length; slot++) if (pos[slot] < pos[oldest]) oldest = slot;
    return reusePlan(this.eachLane(() => oldest));
  }

  /** A merged slot stands for the tokens of all its members. */
  #weigh({ lane, target, members }: SlotMerge): void {
    const { kvHeads } = this.lanes;
    const { aux } = this.lanes.lane(Math.floor(lane / kvHeads), lane % kvHeads);
    const count = members.reduce((sum, slot) => sum + Math.exp(aux![slot]), Math.exp(aux![target]));
    aux![target] = Math.log(count);
  }

  /** Slots after f = floor(len - seen * ratio) have gone. */
  #slotsFor(seen: number): number {
    return Math.min(this.#maxSlots, Math.ceil(seen * this.#ratio));
  }

  protected override state(): StateArray[] {
    return [Float64Array.of(this.#point), ...this.#importance];
  }

  protected override setState(parts: readonly StateArray[]): void {
    this.requireParts(parts.length >= 1 && parts[0].length === 1);
    this.#point = parts[0][0];
    this.#importance = parts.slice(1).map((part) => Float32Array.from(part));
  }
}

function mergesOf(lane: number, { keep, anchorOf }: Anchors): SlotMerge[] {
  const members = new Map<number, number[]>();
  anchorOf.forEach((target, slot) => {
    if (target !== slot) members.set(target, [...(members.get(target) ?? []), slot]);
  });
  return [...keep].flatMap((target) => {
    const list = members.get(target);
    return list ? [{ lane, target, members: Uint32Array.from(list) }] : [];
  });
}

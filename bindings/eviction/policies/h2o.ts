/**
 * H2O: tokens that have received most attention so far stay, beside the recent ones. Source: "H2O: Heavy-Hitter Oracle for
 * Efficient Generative Inference of Large Language Models" (NeurIPS 2023, arXiv 2306.14048).
 *
 * Score of a token: attention summed over all queries that saw it, its own included; nothing decays, nothing is divided by
 * the number of queries. After the prompt the `recent` last positions and the `heavy` best of the others stay; then each
 * step drops the smallest score outside the recent window, once the lane is over heavy + recent. A group's query heads are
 * summed: the paper has one key head a query head.
 *
 * Ways to drop, which keep the same positions:
 *   inplace  the next token takes the victim's slot: nothing moves. Default.
 *   ring     the oldest recent token moves into the victim's slot, and the next takes its place: heavy and recent tokens
 *            lie apart
 *   ordered  slots are packed in order of position
 *   mask     nothing is freed; queries do not see the dropped slots. For comparison: the paper's tables were made so
 *
 * Options: heavy and recent in slots (both, or budget, ratio or total, and weights, split in halves: budget.ts); heavyRatio and
 * recentRatio of the prompt; mode; aggregate: sum, mean or max over a group (default sum); every: steps from one dropping to
 * the next (default 1; more: ordered); scope: lane (default), layer: all heads of a layer drop the same token, by the mean of
 * their scores, each head's divided by their sum, so that one block table a layer would do, or global; unit=block: whole blocks
 * go from all lanes alike, the smallest when the next token needs one (scopes.ts); positions: original (default), or cache: by
 * place in the cache, as in the paper's streaming demo (ordered only).
 */
import { invalidArgument } from "../../errors.js";
import { type StatView, StatMask } from "../../statistics.js";
import { SharedBudget, uniformBudget } from "../budget.js";
import type { OptionReader } from "../options.js";
import { type BudgetPlan, type KeepPlan, type LaneShape, type LaneView, PlaneMask } from "../policy.js";
import { keepPlan, type LaneScores, PolicyBase, reusePlan } from "../policy-base.js";
import { accumulateLayer, type Aggregate, AGGREGATES } from "../rows.js";
import { type Competition, planIn, readCompetition } from "../scopes.js";
import type { Selection } from "../select.js";
import type { StateArray } from "../state.js";
import { readPositions } from "./streaming-llm.js";

export const H2O_MODES = ["inplace", "ring", "ordered", "mask"] as const;
export type H2OMode = (typeof H2O_MODES)[number];

/** At 2^13 half an ulp of an f32 score is 5e-4: smaller attention would be lost, so all scores of a lane are halved. */
const RESCALE_ABOVE = 8192;
/** Probabilities above it are wrong. */
const PROBABILITY_LIMIT = 1.0001;
/** Score of a dropped token in mode mask. */
const DROPPED = -1;

/** Slots for heavy hitters and recent tokens: floor(ratio * prompt) each, as the released code has it. */
export function h2oBudget(
  promptTokens: number,
  heavyRatio: number,
  recentRatio: number,
): { heavy: number; recent: number } {
  return { heavy: Math.floor(heavyRatio * promptTokens), recent: Math.floor(recentRatio * promptTokens) };
}

export class H2OPolicy extends PolicyBase {
  readonly needs = { prefill: StatMask.COLSUM, decode: StatMask.LAST_ROW };
  readonly planes = PlaneMask.SCORE;
  readonly mode: H2OMode;
  readonly positions: "original" | "cache";
  /** Set where the options are known to work badly. */
  readonly warning: string | undefined;
  readonly #split: Split;
  readonly #aggregate: Aggregate;
  readonly #competition: Competition;
  #wrong = 0;
  #rescaled = 0;

  constructor(read: OptionReader, selection: Selection) {
    super(read, selection, read.integer("every", 1, 1, 2 ** 20));
    this.#competition = readCompetition(read, ["lane", "layer", "global"], this.every);
    this.positions = readPositions(read);
    const isOrdered = this.every > 1 || this.#competition.block !== undefined || this.positions === "cache";
    this.mode = read.choice("mode", isOrdered ? "ordered" : "inplace", H2O_MODES);
    if (this.every > 1 && this.mode !== "ordered")
      throw invalidArgument("options.mode", this.mode, "ordered where every is more than 1");
    if (this.positions === "cache" && this.mode !== "ordered")
      throw invalidArgument("options.mode", this.mode, "ordered where positions are places in the cache");
    this.#aggregate = read.choice("aggregate", "sum", AGGREGATES);
    this.#split = readSplit(read);
    const { scope, block } = this.#competition;
    if (scope !== "lane" && (this.mode === "ring" || this.mode === "mask"))
      throw invalidArgument("options.scope", scope, "lane in modes ring and mask");
    if (block !== undefined && this.mode !== "ordered")
      throw invalidArgument("options.mode", this.mode, "ordered where whole blocks go");
    read.done();
    if (this.#split.isHeavyOnly)
      this.warning =
        "without a recent window the newest token is the usual victim: the cache freezes on old tokens";
  }

  /** Values met that were no probabilities. */
  get wrongValues(): number {
    return this.#wrong;
  }

  /** How often the scores of a lane were halved. */
  get rescaledLanes(): number {
    return this.#rescaled;
  }

  budgetFor(shape: LaneShape, promptTokens: number): BudgetPlan {
    return planIn(this.#competition, this.#split, this.selection.core, shape, promptTokens, {});
  }

  override peakSlots(budget: BudgetPlan): number {
    return this.mode === "mask" ? Infinity : super.peakSlots(budget);
  }

  override observePrefill(layer: number, stats: StatView): void {
    this.#accumulate(layer, stats, stats.colsum!);
  }

  override endPrefill(): KeepPlan | null {
    return this.mode === "mask" ? this.#mask() : this.keepByScope(this.#scores(), this.#shared);
  }

  override observeDecode(layer: number, stats: StatView): void {
    this.#accumulate(layer, stats, stats.lastRow!, PROBABILITY_LIMIT);
  }

  override endStep(): KeepPlan | null {
    if (this.mode === "inplace" || this.every > 1 || this.#competition.block !== undefined)
      return this.dropByScope(this.#scores(), this.#shared);
    this.steps += 1;
    if (this.mode === "mask") return this.#mask();
    const scores = this.shared(this.#scores(), this.#shared.scope);
    const victims = this.eachLane((lane, i) => this.victim(lane, scores(lane, i), this.budget.cap[i]));
    if (this.mode === "ring") return reusePlan(victims, this.#successors(victims));
    return keepPlan(
      this.eachLane(({ length }, i) => {
        const victim = victims[i];
        if (victim === undefined) return null;
        return Uint32Array.from({ length: length - 1 }, (_, slot) => (slot < victim ? slot : slot + 1));
      }),
    );
  }

  /** Mode mask: ascending slots that queries see; null: all. */
  live(layer: number, kvHead: number): Uint32Array | null {
    if (this.mode !== "mask") return null;
    return liveSlots(this.lanes.lane(layer, kvHead));
  }

  /** How scores are shared that are a layer's already. */
  get #shared(): Competition {
    const { scope, block } = this.#competition;
    return { scope: scope === "layer" ? "lane" : scope, block };
  }

  /** What lanes are judged by at this step. */
  #scores(): LaneScores {
    if (this.#competition.scope !== "layer") return ({ score }) => score!;
    const { layers, kvHeads } = this.lanes;
    const shared = Array.from({ length: layers }, (_, layer) => {
      const mean = new Float32Array(this.lanes.lane(layer, 0).length);
      for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
        const score = this.lanes.lane(layer, kvHead).score!.subarray(0, mean.length);
        const sum = score.reduce((total, value) => total + value, 0) || 1;
        for (let slot = 0; slot < mean.length; slot++) mean[slot] += score[slot] / sum / kvHeads;
      }
      return mean;
    });
    return (_, i) => shared[Math.floor(i / kvHeads)];
  }

  #accumulate(layer: number, stats: StatView, rows: Float32Array, limit?: number): void {
    this.#wrong += accumulateLayer(this.selection, this.lanes, rows, stats, this.#aggregate, limit);
    for (let kvHead = 0; kvHead < stats.kvHeads; kvHead++) {
      const { score, length } = this.lanes.lane(layer, kvHead);
      const used = score!.subarray(0, length);
      if (used.every((value) => value <= RESCALE_ABOVE)) continue;
      used.forEach((value, slot) => (used[slot] = value > 0 ? value / 2 : value));
      this.#rescaled += 1;
    }
  }

  /** The token that has just left the recent window, where it is not the victim itself. */
  #successors(victims: readonly (number | undefined)[]): (number | undefined)[] {
    const leaving = this.recentFrom - 1;
    return this.eachLane(({ pos, length }, i) => {
      if (victims[i] === undefined) return undefined;
      const slot = pos.subarray(0, length).indexOf(leaving);
      return slot < 0 || slot === victims[i] ? undefined : slot;
    });
  }

  /** Marks what would be dropped. Live slots are in order of position, so they are chosen from as a lane of their own. */
  #mask(): null {
    this.eachLane((lane, i) => {
      const slots = liveSlots(lane);
      const view = {
        length: slots.length,
        pos: Uint32Array.from(slots, (slot) => lane.pos[slot]),
        hole: lane.hole,
      };
      const kept = this.best(
        view,
        Float32Array.from(slots, (slot) => lane.score![slot]),
        this.budget.cap[i],
      );
      if (kept === null) return;
      const stays = new Set(kept);
      slots.forEach((slot, index) => {
        if (!stays.has(index)) lane.score![slot] = DROPPED;
      });
    });
    return null;
  }

  protected override state(): StateArray[] {
    return [Float64Array.of(this.#wrong, this.#rescaled)];
  }

  protected override setState(parts: readonly StateArray[]): void {
    this.requireParts(parts.length === 1 && parts[0].length === 2);
    [this.#wrong, this.#rescaled] = parts[0];
  }
}

function liveSlots({ score, length }: LaneView): Uint32Array {
  return Uint32Array.from({ length }, (_, slot) => slot).filter((slot) => score![slot] >= 0);
}

/** The budget of a prompt, its recent part set. */
interface Split extends Pick<SharedBudget, "plan"> {
  /** No recent window. */
  readonly isHeavyOnly: boolean;
}

function fixedSplit(of: (promptTokens: number) => { heavy: number; recent: number }): Split {
  return {
    isHeavyOnly: of(2 ** 20).recent === 0,
    plan: (_core, shape, promptTokens, how) => {
      const { heavy, recent } = of(promptTokens);
      return uniformBudget(shape, heavy + recent, { ...how, recent });
    },
  };
}

function readSplit(read: OptionReader): Split {
  const most = 2 ** 30;
  if (read.has("heavy") || read.has("recent")) {
    const heavy = read.integer("heavy", 0, 0, most);
    const recent = read.integer("recent", 0, 0, most);
    if (heavy + recent < 1) throw invalidArgument("options.heavy", heavy, "heavy + recent of at least 1");
    return fixedSplit(() => ({ heavy, recent }));
  }
  if (read.has("heavyRatio") || read.has("recentRatio")) {
    const heavyRatio = read.number("heavyRatio", 0.1, 0, 1);
    const recentRatio = read.number("recentRatio", 0.1, 0, 1);
    return fixedSplit((promptTokens) => {
      const { heavy, recent } = h2oBudget(promptTokens, heavyRatio, recentRatio);
      return heavy + recent > 0 ? { heavy, recent } : { heavy: 0, recent: 1 };
    });
  }
  const rule = new SharedBudget(read);
  return {
    isHeavyOnly: false,
    plan: (core, shape, promptTokens, how) => {
      const plan = rule.plan(core, shape, promptTokens, how);
      return { ...plan, recent: Math.ceil(Math.min(...plan.cap) / 2) };
    },
  };
}

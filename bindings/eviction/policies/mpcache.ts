/**
 * MPCache, its static part: what the last fifth of the prompt's queries attend to stays, once and for all; generated tokens
 * always stay. Source: "MPCache: MPC-Friendly KV Cache Eviction for Efficient Private LLM Inference" (NeurIPS 2025, arXiv
 * 2501.06807). Its dynamic part, which clusters a query reads, is in cluster-selector.ts; what both cost between parties
 * in mpc.ts.
 *
 * Score: probability summed over those queries and all heads of the layer; one keep list a layer. mode threshold keeps
 * what any of those queries gives at least `threshold`, mean over the heads, as released: the number then depends on the
 * secret text, which a protocol must not show.
 *
 * Options: budget or ratio; share of the prompt's queries (default 0.2); mode: ratio (default) or threshold; threshold
 * (default 0.001); recent: last positions that stay (default 1).
 */
import { type StatView, StatMask } from "../../statistics.js";
import { BudgetRule, uniformBudget } from "../budget.js";
import type { OptionReader } from "../options.js";
import type { BudgetPlan, KeepPlan, LaneShape, SequenceLanes, StatisticsNeeds } from "../policy.js";
import { keepPlan, PolicyBase } from "../policy-base.js";
import type { Selection } from "../select.js";
import type { StateArray } from "../state.js";

export class MPCachePolicy extends PolicyBase {
  readonly planes = 0;
  readonly #rule: BudgetRule;
  readonly #share: number;
  readonly #mode: "ratio" | "threshold";
  readonly #threshold: number;
  readonly #recent: number;
  #prompt = 1;
  /** [layers] scores of the slots; threshold: the largest mean probability. */
  #scores: Float32Array[] = [];

  constructor(read: OptionReader, selection: Selection) {
    super(read, selection);
    this.#rule = new BudgetRule(read);
    this.#share = read.number("share", 0.2, 1e-6, 1);
    this.#mode = read.choice("mode", "ratio", ["ratio", "threshold"]);
    this.#threshold = read.number("threshold", 1e-3, 0, 1);
    this.#recent = read.integer("recent", 1, 0, 2 ** 20);
    read.done();
  }

  /** The window is a share of the prompt that `budgetFor` was last asked for. */
  get needs(): StatisticsNeeds {
    const window = Math.max(1, Math.ceil(this.#share * this.#prompt));
    return { prefill: StatMask.WINDOW, decode: 0, window };
  }

  budgetFor(shape: LaneShape, promptTokens: number): BudgetPlan {
    this.#prompt = promptTokens;
    const slots = this.#rule.slots(promptTokens);
    return uniformBudget(shape, slots, { recent: Math.min(this.#recent, slots), scope: "layer-shared" });
  }

  /** No bound: what is generated stays. */
  override peakSlots(): number {
    return Infinity;
  }

  override beginSequence(lanes: SequenceLanes, promptTokens: number): void {
    super.beginSequence(lanes, promptTokens);
    this.#scores = [];
  }

  override observePrefill(layer: number, { heads, lengths, stride, window, windowRows }: StatView): void {
    const scores = new Float32Array(lengths[0]);
    const mean = new Float32Array(lengths[0]);
    for (let row = 0; row < windowRows!; row++) {
      mean.fill(0);
      for (let head = 0; head < heads; head++) {
        const at = (head * windowRows! + row) * stride;
        for (let slot = 0; slot < mean.length; slot++) mean[slot] += window![at + slot] / heads;
      }
      for (let slot = 0; slot < mean.length; slot++)
        scores[slot] =
          this.#mode === "ratio" ? scores[slot] + mean[slot] : Math.max(scores[slot], mean[slot]);
    }
    this.#scores[layer] = scores;
  }

  override endPrefill(): KeepPlan | null {
    const { kvHeads } = this.lanes;
    const { cap } = this.budget;
    const lists = this.#scores.map((scores, layer) => {
      const above = scores.filter((score) => score >= this.#threshold).length;
      const most = cap[layer * kvHeads];
      const slots = this.#mode === "ratio" ? most : Math.max(this.budget.recent, 1, Math.min(above, most));
      return this.best(this.lanes.lane(layer, 0), scores, slots);
    });
    this.#scores = [];
    return keepPlan(this.eachLane((_, i) => lists[Math.floor(i / kvHeads)]));
  }

  protected override state(): StateArray[] {
    return this.#scores;
  }

  protected override setState(parts: readonly StateArray[]): void {
    this.#scores = parts.map((part) => Float32Array.from(part));
  }
}

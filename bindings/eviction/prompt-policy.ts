/**
 * PromptPolicy: methods that choose once, at the end of the prompt; what is generated is appended and stays. A
 * PromptScorer says how much a token of the prompt is worth.
 */
import { invalidArgument } from "../errors.js";
import type { StatView } from "../statistics.js";
import { BudgetRule, SharedBudget, uniformBudget } from "./budget.js";
import type { OptionReader } from "./options.js";
import type { BudgetPlan, BudgetScope, KeepPlan, LaneShape, SequenceLanes } from "./policy.js";
import { type LaneScores, PolicyBase } from "./policy-base.js";
import { type Competition, planIn, readCompetition, SCOPES } from "./scopes.js";
import type { Selection } from "./select.js";
import type { StateArray } from "./state.js";

export interface PromptScorer {
  /** StatMask bits of a prompt's chunks. */
  readonly mask: number;
  /** Rows of WINDOW; as many last positions of the prompt stay. 0: none. */
  readonly window: number;
  /** Query heads of WINDOW, [layers]. Default: all. */
  readonly heads?: readonly (readonly number[])[];
  begin(lanes: SequenceLanes): void;
  observe(layer: number, stats: StatView): void;
  /** [length] scores of a lane's slots. */
  scores(layer: number, kvHead: number): Float32Array;
  /** What it holds between two chunks. */
  state(): StateArray[];
  setState(parts: readonly StateArray[]): void;
}

/** Keeps one score array a lane. */
export abstract class LaneScorer implements PromptScorer {
  abstract readonly mask: number;
  readonly window: number = 0;
  protected lanes!: SequenceLanes;
  protected held: Float32Array[] = [];

  begin(lanes: SequenceLanes): void {
    this.lanes = lanes;
    this.held = [];
  }

  abstract observe(layer: number, stats: StatView): void;

  scores(layer: number, kvHead: number): Float32Array {
    return this.held[layer * this.lanes.kvHeads + kvHead];
  }

  state(): StateArray[] {
    return this.held;
  }

  setState(parts: readonly StateArray[]): void {
    this.held = parts.map((part) => Float32Array.from(part));
  }

  protected put(layer: number, kvHead: number, scores: Float32Array): void {
    this.held[layer * this.lanes.kvHeads + kvHead] = scores;
  }
}

export interface PromptPolicyOptions {
  readonly scorer: PromptScorer;
  /** Where the method has one of its own. Default: `scope`, `unit`, `total` and `weights` are options (scopes.ts, budget.ts). */
  readonly scope?: BudgetScope;
  /** First positions that stay. Default 0. */
  readonly sinks?: number;
  /** Last positions that stay where the scorer has no window and `recent` is not given. Default 1. */
  readonly recent?: number;
  /** Slots of each layer's lanes, the window included, [layers]. Default: the same everywhere. */
  readonly layerSlots?: (slots: number, layers: number, promptTokens: number) => ArrayLike<number>;
  /** Scope layer-pool: share of a lane's cap that it keeps at least, beside the window. */
  readonly minimumShare?: number;
}

export class PromptPolicy extends PolicyBase {
  readonly needs;
  readonly planes = 0;
  readonly #rule: BudgetRule | SharedBudget;
  readonly #scorer: PromptScorer;
  readonly #scope: BudgetScope;
  readonly #competition: Competition;
  readonly #layerSlots: PromptPolicyOptions["layerSlots"];
  readonly #minimumShare: number;
  readonly #recent: number;
  readonly #sinks: number;

  constructor(read: OptionReader, selection: Selection, options: PromptPolicyOptions) {
    super(read, selection);
    const { scorer, scope, minimumShare = 0, sinks = 0, recent = 1 } = options;
    this.#sinks = sinks;
    const isOpen = scope === undefined && options.layerSlots === undefined;
    this.#rule = isOpen ? new SharedBudget(read) : new BudgetRule(read);
    this.#competition = isOpen
      ? readCompetition(read, ["lane", "layer", "pool", "global"])
      : { scope: scope === "layer-pool" ? "pool" : "lane", block: undefined };
    this.#scorer = scorer;
    this.#scope = scope ?? SCOPES[this.#competition.scope];
    this.#layerSlots = options.layerSlots;
    this.#minimumShare = minimumShare;
    this.#recent = scorer.window > 0 ? scorer.window : read.integer("recent", recent, 0, 2 ** 20);
    this.needs = {
      prefill: scorer.mask,
      decode: 0,
      ...(scorer.window > 0 && { window: scorer.window }),
      ...(scorer.heads && { heads: scorer.heads }),
    };
    read.done();
  }

  budgetFor(shape: LaneShape, promptTokens: number): BudgetPlan {
    const slots = this.#rule.slots(promptTokens, shape);
    // A budget within the window keeps the last positions only.
    const recent = Math.min(this.#recent, slots);
    const how = { sinks: this.#sinks, recent };
    if (this.#rule instanceof SharedBudget)
      return planIn(this.#competition, this.#rule, this.selection.core, shape, promptTokens, how);
    const uniform = uniformBudget(shape, slots, { ...how, scope: this.#scope });
    const byLayer = this.#layerSlots?.(slots, shape.layers, promptTokens);
    if (byLayer === undefined) return uniform;
    const least = Math.min(...Array.from(byLayer));
    if (least < this.#sinks + recent)
      throw invalidArgument(
        "options.budget",
        slots,
        `more: a layer would get ${least} slots, ${this.#sinks + recent} are protected`,
      );
    return { ...uniform, cap: uniform.cap.map((_, lane) => byLayer[Math.floor(lane / shape.kvHeads)]) };
  }

  /** No bound: what is generated stays. */
  override peakSlots(): number {
    return Infinity;
  }

  override beginSequence(lanes: SequenceLanes, promptTokens: number): void {
    super.beginSequence(lanes, promptTokens);
    this.#scorer.begin(lanes);
  }

  override observePrefill(layer: number, stats: StatView): void {
    this.#scorer.observe(layer, stats);
  }

  override endPrefill(): KeepPlan | null {
    const { kvHeads } = this.lanes;
    const scores: LaneScores = (_, i) => this.#scorer.scores(Math.floor(i / kvHeads), i % kvHeads);
    const plan = this.keepByScope(scores, this.#competition, this.#minimumShare);
    this.#scorer.begin(this.lanes);
    return plan;
  }

  protected override state(): StateArray[] {
    return this.#scorer.state();
  }

  protected override setState(parts: readonly StateArray[]): void {
    this.#scorer.setState(parts);
  }
}

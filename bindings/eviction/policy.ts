/**
 * Token eviction: what a policy sees, what it answers, and when it is asked.
 *
 * A *lane* is the cached tokens of one (sequence, layer, KV head), numbered `layer * kvHeads + kvHead`. A *slot* is a
 * place in a lane: slot s of every lane lies in block `table[floor(s / blockSize)]` of the sequence, offset
 * `s % blockSize`. Lanes of a sequence share its block table and differ in length. Keys are cached after the rotary
 * embedding of their original position, so the order of slots does not matter to attention.
 *
 * A policy object serves one sequence. The host calls, in this order:
 *
 *   beginSequence(lanes)
 *   once a prefill chunk:  observePrefill(layer, ...) [endLayerPrefill(layer)] for each layer in order
 *   after the last chunk:  endPrefill()
 *   once a decode step:    observeDecode(layer, ...) for each layer in order, then endStep()
 *
 * New tokens have their slots, positions and zeroed planes before they are observed. The host applies a returned
 * KeepPlan (positions and planes, then K and V) before it calls again; planes of survivors keep their values. A
 * sequence that was preempted and is computed anew starts again at beginSequence.
 *
 * Source of the split into statistics, policies and keep plans: our own; the methods behind it name their papers.
 */
import type { StatView } from "../statistics.js";

/** Planes beside `pos` that a policy keeps a value a slot in, and pays 4 bytes a slot for. */
export const PlaneMask = { SCORE: 1, LAST_IMP: 2, MRI: 4, AUX: 8 } as const;

/** One lane as views over its planes; padded to the lane's capacity. Valid until the core's memory grows. */
export interface LaneView {
  /** Slots in use: entries [0, length) of the planes count. */
  readonly length: number;
  /** Original position of each slot; ascending unless the policy reuses slots in place. */
  readonly pos: Uint32Array;
  /** Slot whose token was dropped and that the next token takes, or APPEND_SLOT. */
  readonly hole: number;
  /** The planes that the policy declared. */
  readonly score?: Float32Array;
  readonly lastImp?: Uint32Array;
  readonly mri?: Uint32Array;
  readonly aux?: Float32Array;
}

/** All lanes of one sequence. */
export interface SequenceLanes {
  readonly layers: number;
  readonly kvHeads: number;
  /** Most slots that a lane can hold. */
  readonly capacity: number;
  /** Positions the sequence has seen: tokens computed, kept or not. */
  readonly seen: number;
  /** Slots of a block of its table; undefined where there is none. */
  readonly blockSize?: number;
  lane(layer: number, kvHead: number): LaneView;
}

/**
 * Who competes with whom for the budget. `lane`: every lane chooses its own. `layer-shared`: one keep list a layer.
 * `layer-pool`: the heads of a layer compete for the sum of their caps, with a minimum each. `global-shared`: one keep
 * list for the whole sequence.
 */
export type BudgetScope = "lane" | "layer-shared" | "layer-pool" | "global-shared";

/** How many slots may stay, in absolute numbers. `sinks + recent <= cap` in every lane, `cap >= 1`. */
export interface BudgetPlan {
  /** [layers * kvHeads] slots of each lane, protected ones included. */
  readonly cap: Int32Array;
  /** First positions that always stay. */
  readonly sinks: number;
  /** Last positions that always stay. */
  readonly recent: number;
  readonly scope: BudgetScope;
  /** Whole blocks of so many slots are dropped; `cap` is a multiple of it. undefined: slots. */
  readonly block?: number;
}

/** Slots of one lane that become one: K and V of `target` become the mean over `target` and `members`. */
export interface SlotMerge {
  /** layer * kvHeads + kvHead. */
  readonly lane: number;
  /** A slot that stays. */
  readonly target: number;
  /** Slots that do not stay. */
  readonly members: Uint32Array;
}

/** Lanes in which the next token takes the place of a dropped one, instead of being appended. */
export interface SlotReuse {
  /** [layers * kvHeads] slot whose token is dropped; APPEND_SLOT in lanes that drop none this way. */
  readonly victim: Uint32Array;
  /**
   * [layers * kvHeads] slot whose token moves into the victim's slot first and whose own slot the next token then
   * takes. Default: the victim's own slot, nothing moves.
   */
  readonly successor?: Uint32Array;
}

/** What stays. Slots are those at the time of the answer; merges happen first, then dropping. */
export interface KeepPlan {
  /**
   * [layers * kvHeads] ascending slots that stay, at least one a lane; null: all of them. Survivors are packed in
   * order, so slot keep[i] becomes slot i.
   */
  readonly keep: readonly (Uint32Array | null)[];
  /** Lanes that drop at most one token by reusing its slot; their `keep` is null. */
  readonly inPlace?: SlotReuse;
  readonly merge?: readonly SlotMerge[];
}

/** What a policy must be told, by phase. */
export interface StatisticsNeeds {
  /** StatMask bits of a prefill chunk. */
  readonly prefill: number;
  /** StatMask bits of a decode step. */
  readonly decode: number;
  /** Rows of WINDOW and WINDOW_MOMENTS. */
  readonly window?: number;
  /** Query heads of WINDOW, [layers]; null = all heads of the layer. */
  readonly heads?: readonly (readonly number[] | null)[];
  /** Probe queries of PROBE_MAX. */
  readonly probe?: number;
}

/** Sizes of the model a policy serves. */
export interface LaneShape {
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  /** Slots of a block of the sequence's table, where it has one. */
  readonly blockSize?: number;
}

/** Decides which tokens of one sequence stay. Deterministic: same calls, same plans. */
export interface EvictionPolicy {
  readonly name: string;
  readonly needs: StatisticsNeeds;
  /** PlaneMask bits. */
  readonly planes: number;
  /**
   * By what keys are rotated: the original positions of their tokens (default), or their place in the cache, which needs one
   * length of all lanes, slots in order of position, and an executor with `rotates`.
   */
  readonly positions?: "original" | "cache";
  /** Plane `aux` is added to the logits of its slots: an executor with `slotBias`. Default false. */
  readonly isBiased?: boolean;
  /** The budget it holds a sequence with a prompt of this many tokens to. */
  budgetFor(shape: LaneShape, promptTokens: number): BudgetPlan;
  /**
   * Most slots that its longest lane holds while decoding under this budget, the step's new token included; admission
   * counts with it. The whole prompt is held besides until endPrefill, unless it evicts earlier.
   */
  peakSlots(budget: BudgetPlan): number;
  /**
   * For a policy that drops while a prompt is computed layer by layer: slots summed over layers, a KV head, at most while the
   * prompt is computed, and while decoding. undefined: it keeps this prompt whole. Called after budgetFor.
   */
  layeredPeak?(layers: number, promptTokens: number): { prompt: number; decode: number } | undefined;
  beginSequence(lanes: SequenceLanes, promptTokens: number): void;
  /** One layer of a prefill chunk of `newTokens` tokens. */
  observePrefill(layer: number, stats: StatView, newTokens: number): void;
  /** After a layer of the last prefill chunk, before the next layer is observed. Lanes of layers up to this one only. */
  endLayerPrefill?(layer: number): KeepPlan | null;
  endPrefill(): KeepPlan | null;
  observeDecode(layer: number, stats: StatView): void;
  /** null: nothing to drop. */
  endStep(): KeepPlan | null;
  /** What it holds outside the lanes; `restore` on a policy with the same options continues alike. */
  serialize(): Uint8Array;
  restore(bytes: Uint8Array): void;
}

/** Chooses what a query reads, and drops nothing. */
export interface SparseSelector {
  readonly name: string;
  /**
   * @param query [heads of the layer][headDim]
   * @returns ascending slots of the lane that the query's attention reads
   */
  select(layer: number, kvHead: number, query: Float32Array, lane: LaneView): Uint32Array;
}

/** What is known of each layer when a budget is split. */
export interface LayerSignals {
  /** [layers] larger = more budget; what it measures is the allocator's matter. */
  readonly weight: Float64Array;
  /** [layers] most slots of use to a lane of the layer. */
  readonly most: Int32Array;
}

/** Splits slots over layers and heads. */
export interface BudgetAllocator {
  readonly name: string;
  /** @param total slots over all layers, per KV head */
  allocate(signals: LayerSignals, total: number): BudgetPlan;
}

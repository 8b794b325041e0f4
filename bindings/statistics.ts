/**
 * What a forward pass can measure of its own attention: the input of token eviction.
 *
 * A *lane* is the cached tokens of one (sequence, layer, KV head); a *slot* is a place in it. G = heads / kvHeads query
 * heads read one KV head: query head h reads KV head floor(h / G). Probabilities are post-softmax over what the query
 * sees of its lane; a slot that a query does not see has probability 0.
 */

/** Bits of what can be measured, by layer and row. Shapes: StatView. */
export const StatMask = {
  /** Probabilities of the last query. */
  LAST_ROW: 1,
  /** Probabilities of the last `window` queries, of chosen heads. */
  WINDOW: 2,
  /** Probabilities summed over all queries of the forward, and how many queries saw each slot. */
  COLSUM: 4,
  /** Sum and sum of squares over the last `window` queries, and their entropy, without the rows. */
  WINDOW_MOMENTS: 8,
  /** Largest probability over probe queries and the heads of a group, softmax over cached slots only. */
  PROBE_MAX: 16,
  /** Keys as floats. */
  KEYS: 32,
  /** Relative change of the attention block's output if only some slots were kept. */
  OUTPUT_ERROR: 64,
} as const;

/**
 * What a forward pass measured in one layer for one row. f32; rows are padded to `stride`, and what lies past a lane's
 * length is undefined. Slots as they were before any eviction of this step, those of the new tokens included. Views:
 * valid until the executor's next run.
 */
export interface StatView {
  readonly layer: number;
  readonly heads: number;
  readonly kvHeads: number;
  /** Queries of this forward. */
  readonly newTokens: number;
  /** [kvHeads] slots of each lane, new tokens included. */
  readonly lengths: Uint32Array;
  /** Floats from one row to the next: at least the longest lane, a multiple of 4. */
  readonly stride: number;
  /** LAST_ROW: [heads][stride]. */
  readonly lastRow?: Float32Array;
  /** WINDOW: [heads][windowRows][stride], earliest query first; heads that were not asked for are 0. */
  readonly window?: Float32Array;
  /** WINDOW and WINDOW_MOMENTS: queries measured, the smaller of the window and newTokens. */
  readonly windowRows?: number;
  /** COLSUM: [heads][stride]. */
  readonly colsum?: Float32Array;
  /** COLSUM: [kvHeads][stride] queries that saw the slot. */
  readonly colcount?: Uint32Array;
  /** WINDOW_MOMENTS: [heads][2][stride] sum and sum of squares over the window's queries. */
  readonly moments?: Float32Array;
  /**
   * WINDOW_MOMENTS: minus the sum of a ln(a + 1e-10) over heads, the window's queries and the slots before the
   * window's own tokens, the rows not renormalised; summed in f64. Source: "CAKE: Cascading and Adaptive KV Cache
   * Eviction with Layer Preferences" (ICLR 2025).
   */
  readonly entropy?: number;
  /**
   * PROBE_MAX: [kvHeads][stride], over slots held before this forward (the others are 0). Source: "EpiCache: Episodic
   * KV Cache Management for Long Conversational Question Answering" (arXiv 2509.17396).
   */
  readonly probeMax?: Float32Array;
  /** KEYS: element d of the key of (kvHead, slot) is data[kvHead * headStride + slot * slotStride + d]. */
  readonly keys?: { readonly data: Float32Array; readonly headStride: number; readonly slotStride: number };
  /**
   * OUTPUT_ERROR: |O' - O| / (|O| + 1e-5), Frobenius norms over the new tokens of the attention block's output after
   * its projection; O' sees the slots of the request's `keep`. Source: "CompressKV: Semantic Retrieval Heads Know What
   * Tokens are Not Important Before Generation" (arXiv 2508.02401).
   */
  readonly outputError?: number;
}

/** What to measure of one row. */
export interface StatisticsRequest {
  /** StatMask bits, for every layer or by layer [layers]. */
  readonly mask: number | ArrayLike<number>;
  /** WINDOW, WINDOW_MOMENTS: how many of the last queries, >= 1. Needed when one of them is asked for. */
  readonly window?: number;
  /** WINDOW: query heads to write, by layer [layers]; null = all. Default all. */
  readonly heads?: readonly (readonly number[] | null)[];
  /** PROBE_MAX: how many of the last queries are probes, >= 1. Default all new tokens. */
  readonly probe?: number;
  /**
   * OUTPUT_ERROR: [layers * kvHeads] ascending slots, of those held before this forward, that the smaller cache keeps;
   * null = all. New tokens always stay.
   */
  readonly keep?: readonly (ArrayLike<number> | null)[];
}

/** Value of LaneRow.writeSlots for a lane to which the new token is appended. */
export const APPEND_SLOT = 0xffffffff;

/**
 * The lanes of a row whose layers and heads hold different tokens. Slot s of a lane lies in the row's block
 * `table[floor(s / blockSize)]`, offset `s % blockSize`, of the lane's layer and head. New tokens take the slots from
 * `lengths` on; the plan's `slots` are not used. Queries keep their original positions
 * unless `position` says otherwise.
 */
export interface LaneRow {
  /** [layers * kvHeads] slots held before this step. */
  readonly lengths: Uint32Array;
  /**
   * [layers * kvHeads] slot below the lane's length that the row's only new token takes, its old content being gone,
   * or APPEND_SLOT. Default: append everywhere.
   */
  readonly writeSlots?: Uint32Array;
  /**
   * [layers * kvHeads][ceil(blocks of the row * blockSize / 32)] bitmaps: queries see slots whose bit is set, and new
   * tokens. Default: all.
   */
  readonly live?: Uint32Array;
  /**
   * [layers * kvHeads] by slot held before this step, added to its logits: ln(c) for a slot that stands for c tokens. Default 0.
   * Executors with `slotBias` only.
   */
  readonly bias?: readonly Float32Array[];
  /**
   * Position that the first new token is rotated by, at most the tokens before. Default: as many. For keys that are rotated by
   * their slot instead of their token's position; executors with `rotates` only.
   */
  readonly position?: number;
  /**
   * A table a layer instead of the row's: slot s of a layer's lanes lies in slice `tables(layer)[floor(s / blockSize)]`, offset
   * `s % blockSize`. Slice b * layers + l of the pool is what layer l of block b is otherwise. Asked for as the layer is
   * computed. Executors with `layered` only.
   */
  readonly tables?: (layer: number) => Uint32Array;
}

/** What a run may be asked beside its plan. */
export interface RunOptions {
  /** Lanes of a row; undefined: the row holds every token, in order. */
  readonly lanes?: (row: number) => LaneRow | undefined;
  /** What to measure of a row; undefined: nothing, at no cost. */
  readonly statistics?: (row: number) => StatisticsRequest | undefined;
  /**
   * Called once a layer has been computed for all tokens of the step, before the next one begins: K and V of this layer and
   * those below may be moved meanwhile. `statistics` gives what was measured in the layers so far. Executors with `layered`
   * only.
   */
  readonly afterLayer?: (
    layer: number,
    statistics: (row: number, layer: number) => StatView,
  ) => Promise<void> | void;
}

/**
 * u32 words of one move record: layer, kvHead, source block, source offset, target block, target offset, slots, how. Bit 0 of
 * `how` (executors with `layered` only): source and target are slices of LaneRow.tables, whatever the layer. The bits above it
 * (executors with `rotates` only): positions that the keys are turned back by on the way; source and target may then be one.
 */
export const MOVE_WORDS = 8;

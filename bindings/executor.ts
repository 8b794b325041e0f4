/**
 * The Executor interface: who runs a step's plan.
 *
 * The scheduler decides, an executor computes. The native executor, the wasm executor, a simulator and an
 * embedder's own engine are equals behind this interface.
 */
import type { CacheGroup } from "./cache-groups.js";
import type { StepPlan } from "./plan.js";
import type { RunOptions, StatView } from "./statistics.js";

/** How to pick the next token from a row of logits. Every field has a default; the default is greedy. */
export interface SamplingOptions {
  /** Softmax temperature, >= 0. 0 (default) picks the largest logit, ties to the smaller id. */
  temperature?: number;
  /** Keep the k most likely tokens, integer >= 0. 0 (default) keeps all. */
  topK?: number;
  /**
   * Keep the smallest set of most likely tokens whose probability reaches this, in (0, 1]. 1 (default) keeps
   * all.
   */
  topP?: number;
  /** Drop tokens less likely than this share of the most likely one, in [0, 1]. 0 (default) drops none. */
  minP?: number;
  /**
   * Divide positive (multiply negative) logits of tokens seen before by this, > 0. 1 (default) changes
   * nothing.
   */
  repetitionPenalty?: number;
  /** Seed of this request's draws, 0 <= seed < 2^53. Default 0. Draw i depends on (seed, i) alone. */
  seed?: number;
}

/** What a row needs beside the plan to have its token sampled. */
export interface RowContext {
  readonly sampling: Readonly<Required<SamplingOptions>>;
  /** Prompt and generated tokens so far, in order (repetition penalty reads them). A view: do not keep it. */
  readonly tokens: Uint32Array;
  /** Tokens generated so far = the index of the draw about to be made. */
  readonly generated: number;
}

/** What an executor is: the shapes the core must be configured for. */
export interface ExecutorDescription {
  /** Name of the backend, for reports: "cpu/avx512", "wasm", "sim", ... */
  readonly backend: string;
  readonly layers: number;
  readonly kvHeads: number;
  /** Query heads of a layer, a multiple of kvHeads. Default kvHeads. */
  readonly heads?: number;
  readonly headDim: number;
  /** Bytes of K and V of one block over all layers. */
  readonly blockBytes: number;
  /** Physical blocks the executor holds; block ids in a plan are below it. */
  readonly blocks: number;
  /** Tokens a block. */
  readonly blockSize: number;
  /** Token ids in a plan are below it. */
  readonly vocabSize: number;
  /** Longest sequence the model was made for, in tokens. */
  readonly maxSequenceTokens: number;
  /** StatMask bits that `run` can measure. Default 0: none. */
  readonly statMask?: number;
  /** Whether `run` honours RunOptions.afterLayer and LaneRow.tables, and `move` slices. Default false. */
  readonly layered?: boolean;
  /** Groups of its layers beside group 0: the cache's must be the same. Default none. */
  readonly groups?: readonly CacheGroup[];
  /** Blocks that `transfer` can keep in host memory. Default 0. */
  readonly hostBlocks?: number;
  /** Whether slots can weigh more than one token (LaneRow.bias). Default false. */
  readonly slotBias?: boolean;
  /** Whether keys can be rotated by their slot (LaneRow.position, and moves that turn them). Default false. */
  readonly rotates?: boolean;
  /** Whether `run` verifies drafts. Default false. */
  readonly drafts?: boolean;
}

/** What running a plan gives back. */
export interface StepResult {
  /**
   * One sampled token id per sampling row (phase decode or last chunk), in row order: in a row with drafts the one picked
   * behind those that were right.
   */
  readonly tokens: Uint32Array;
  /** [samplingRows] drafts of a row that were right; without it none was. */
  readonly accepted?: Uint32Array;
  /** Logits of the sampling rows, `[rows][vocabSize]`, when the executor was asked to return them. */
  readonly logits?: Float32Array;
  /** What was measured of a row in a layer, for rows with a StatisticsRequest. Valid until the next run. */
  readonly statistics?: (row: number, layer: number) => StatView;
}

/**
 * Runs plans. `run` must finish the plan's transfers marked "before" first, then write K and V of every new
 * token to its slot, then sample one token for each sampling row. A decode row of 1 + k tokens carries k drafts: an executor
 * that verifies them picks a token after each of the row's tokens, until one differs from the draft behind it. A rejected promise means nothing of the
 * plan may be relied on: the engine abandons the step.
 */
export interface Executor {
  describe(): ExecutorDescription;
  /**
   * @param context gives the sampling context of a row that samples; plans are valid until the returned
   * promise settles.
   * @param options lanes and statistics; an executor that cannot do what they ask refuses with UNSUPPORTED
   */
  run(plan: StepPlan, context: (row: number) => RowContext, options?: RunOptions): Promise<StepResult>;
  /**
   * Moves K and V within lanes, record after record; an executor that has it honours RunOptions.lanes.
   * @param moves records of MOVE_WORDS: layer, kvHead, source block, source offset, target block, target offset, slots,
   * slices (0). A record's slots stay within its two blocks; source and target may overlap.
   */
  move?(moves: Uint32Array): Promise<void>;
  /**
   * Merges slots of a lane: K and V of the target become the mean over itself and its members, accumulated in f32.
   * @param merges layer, kvHead, target block, target offset, m, then m pairs (block, offset); repeated
   */
  merge?(merges: Uint32Array): Promise<void>;
  /**
   * Copies of whole blocks, [blocks][blockBytes], between runs: K and V, or the states of a recurrent group; for tiers
   * outside the executor. Blocks written back, in any executor of the same description, are as if computed.
   */
  readBlocks?(blocks: Uint32Array): Promise<Uint8Array>;
  writeBlocks?(blocks: Uint32Array, payload: Uint8Array): Promise<void>;
  /**
   * Copies blocks to host memory or back, beside `run`: one transfer's records of TRANSFER_WORDS, of op SwapOut or SwapIn,
   * each a run of as many blocks as its tokens fill; with groups, of whole pages. Settles with how many of its leading blocks
   * have arrived.
   */
  transfer?(records: Uint32Array): Promise<number>;
  close(): Promise<void>;
}

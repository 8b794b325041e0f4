/**
 * StepPlan: one step's decisions as flat views over core memory (layout: docs/abi.md).
 *
 * Every array is a view, valid until the next `step`, `commit` or memory growth; copy what must live longer.
 */

import type { CacheGroup } from "./cache-groups.js";

/** Phase of a batch row. */
export const Phase = { PrefillChunk: 0, Decode: 1, LastChunk: 2 } as const;

/** Operation of a transfer record. */
export const TransferOp = {
  /** Between blocks of the device: the executor's `run` carries it out. */
  Copy: 0,
  /** To the host tier and back: the executor's `transfer` does. */
  SwapOut: 1,
  SwapIn: 2,
  /** The transfer of this id, begun by an earlier plan, must be complete before anything else of this plan. */
  Wait: 3,
} as const;

/** When a transfer is carried out: complete before the batch, after it, or beside this and later ones. */
export const TransferMark = { Before: 0, After: 1, Async: 2 } as const;

/** u32 words of one transfer record. */
export const TRANSFER_WORDS = 8;

/** In the tables of groups: an entry that holds no block. */
export const NO_BLOCK = 0xffffffff;

/** What a plan says of a cache group: its rows' block tables there. */
export interface PlanGroup extends CacheGroup {
  /** [rows] index into `tables` of a row's first entry, and entries up to its last new token. */
  readonly tableStart: Uint32Array;
  readonly tableCount: Uint32Array;
  /** All tables of the group as they lie in core memory: block ids, NO_BLOCK for what a window has left behind. */
  readonly tables: Uint32Array;
  /**
   * [totalTokens] slot of each new token: block * blockSize + offset. In a recurrent group the state after a token belongs
   * in the token's block, and the state before it is in that of the token before.
   */
  readonly slots: Uint32Array;
}

export interface StepPlan {
  readonly stepId: number;
  /** Rows in the batch, decode rows first. */
  readonly rows: number;
  readonly decodeRows: number;
  /** Rows whose phase is Decode or LastChunk: each yields one token. */
  readonly samplingRows: number;
  /** Sum of newTokens. */
  readonly totalTokens: number;
  /** Requests running and waiting once the step is planned. */
  readonly running: number;
  readonly waiting: number;
  /** Blocks without content, and cached blocks that nobody holds, once the step is planned. */
  readonly freeBlocks: number;
  readonly evictableBlocks: number;
  /** [rows] request handles. */
  readonly requests: Uint32Array;
  /** [rows] sequence handles. */
  readonly sequences: Uint32Array;
  /** [rows] Phase. */
  readonly phases: Uint32Array;
  /** [rows] tokens to compute in this step. */
  readonly newTokens: Uint32Array;
  /** [rows] tokens of the sequence whose K and V exist already. */
  readonly computedBefore: Uint32Array;
  /** [rows] first layer to run, and one past the last; 0 and 0 mean all layers. */
  readonly layerLo: Uint32Array;
  readonly layerHi: Uint32Array;
  /** [rows + 1] where a row's new tokens start in `tokens` and `slots`. */
  readonly tokenStart: Uint32Array;
  /** [totalTokens] token ids to feed. */
  readonly tokens: Uint32Array;
  /** [totalTokens] physical slot of each new token: block * blockSize + offset. */
  readonly slots: Uint32Array;
  /** [rows] index into `tables` of a row's first block id. */
  readonly tableStart: Uint32Array;
  /** [rows] block ids a row has. */
  readonly tableCount: Uint32Array;
  /** All block tables as they lie in core memory, u32 block ids. */
  readonly tables: Uint32Array;
  /**
   * [transferCount][TRANSFER_WORDS]: TransferOp (a copy in a group: its number times 256), source tier (0 device, 1 host), source block, target tier, target block,
   * tokens, TransferMark, sequence. Of swaps the last word is the transfer's id, and a record may name a run: the tokens of
   * as many blocks, one behind the other on both sides, as they fill.
   */
  readonly transfers: Uint32Array;
  readonly transferCount: number;
  /** Tables and slots in the cache's groups 1, 2, ...; none without groups. */
  readonly groups?: readonly PlanGroup[];
  /** Core memory: the native executor reads the sections above in place, at each view's byteOffset. */
  readonly memory: WebAssembly.Memory;
}

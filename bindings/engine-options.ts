/** What an engine and its requests are asked for and what it reports: options, token events, step reports. */
import type { Drafter } from "./drafting.js";
import type { KeptCache } from "./eviction/kept-cache.js";
import type { LaneArena } from "./eviction/lanes.js";
import type { EvictionPolicy } from "./eviction/policy.js";
import type { Executor, SamplingOptions } from "./executor.js";
import type { Scheduler } from "./scheduler.js";
import type { RequestId, RequestOptions } from "./scheduler-options.js";
import type { Detokenizer } from "./text-stream.js";

export interface EngineOptions {
  scheduler: Scheduler;
  executor: Executor;
  /** Tokens that end a text unless a request says otherwise. Default none. */
  eosTokenIds?: readonly number[];
  /** Makes a detokenizer for a request; without one events carry no text and stop strings are refused. */
  detokenizer?: () => Detokenizer;
  /** Clock in microseconds. Default: performance.now(). */
  nowUs?: () => number;
  /** Called after each step; for progress displays and plots. */
  onStep?: (report: StepReport) => void;
  /**
   * Room for the lanes of requests with `evict`: of the scheduler's cache, the executor's layers and KV heads, and as
   * many sequences as the scheduler runs; one more for each kept cache. Default none: such requests are refused.
   */
  lanes?: LaneArena;
  /**
   * Guesses what decoding requests will generate next; the executor verifies, and the answers stay what they are. Needs a
   * scheduler with `maxDraftTokens` and an executor with `drafts`. Default none.
   */
  drafter?: Drafter;
}

export interface GenerateRequest extends RequestOptions {
  /** Default greedy. */
  sampling?: SamplingOptions;
  /** Texts that end the answer; they are not part of it. */
  stop?: readonly string[];
  /** Tokens that end the answer beside the engine's eosTokenIds. */
  stopTokenIds?: readonly number[];
  /** Go on past eosTokenIds. Default false. */
  ignoreEos?: boolean;
  /**
   * Decides which of its tokens stay cached; an object of this request's own. The request then neither reuses nor
   * publishes cached blocks, unless `sharePrefix` is set. Default none: every token stays.
   */
  evict?: EvictionPolicy;
  /**
   * With `evict`: start from the longest cached prefix and publish the prompt's full blocks; what the policy keeps of them
   * is copied to blocks of its own when it drops. Statistics of the last queries are measured as without; what a policy
   * sums over all queries (StatMask.COLSUM) it gets of the computed ones alone. Default false.
   */
  sharePrefix?: boolean;
  /**
   * With `evict`: `dense` packs survivors whenever tokens are dropped; `lazy` leaves holes that queries do not see, for new tokens
   * to take, and moves K and V only once half of all slots are holes: fewer moves, up to twice the blocks. Not with `keep`, `from`,
   * `sharePrefix`, folded lanes, or policies that merge. Default "dense".
   */
  compaction?: "dense" | "lazy";
  /** With `evict` or `from`: the last event carries what is left of the cache. Default false. */
  keep?: boolean;
  /**
   * Go on from a kept cache, which is used up: `tokens` are what follows its tokens, and its policy drops on. Default none.
   */
  from?: KeptCache;
  /** Ends the request early; the stream then throws ABORTED. */
  signal?: AbortSignal;
}

/** Why a request ended: a token of eosTokenIds or stopTokenIds, a stop string, or all tokens generated. */
export type FinishReason = "eos" | "stop" | "length";

export interface TokenEvent {
  readonly request: RequestId;
  readonly token: number;
  /** 0 for the first token generated. */
  readonly index: number;
  /**
   * Text that may be shown now; may lag behind the token, never shows half a character or part of a stop
   * string.
   */
  readonly text: string;
  /** Set on the last event. */
  readonly finishReason: FinishReason | undefined;
  /** When the step that sampled it was committed, in microseconds of the engine's clock. */
  readonly timeUs: number;
  /** The last event of a request with `keep`: the caller goes on from it, or closes it. */
  readonly kept?: KeptCache;
}

export interface StepReport {
  readonly stepId: number;
  /** Planned at, and committed at. */
  readonly startUs: number;
  readonly endUs: number;
  readonly rows: number;
  readonly decodeTokens: number;
  readonly prefillTokens: number;
  readonly running: number;
  readonly waiting: number;
  readonly freeBlocks: number;
  readonly evictableBlocks: number;
  readonly preempted: number;
}

/** What a scheduler and its requests are asked for and what they answer: options, outcomes, results. */
import type { HostTierOptions } from "./host-tier.js";
import type { KvCache } from "./kv-cache.js";
import type { PinId, RequestPin } from "./kv-pins.js";
import type { PromptMarks } from "./prompt-marks.js";
import type { SequenceId } from "./kv-cache-options.js";

/** A live request; dead once it has finished, or was aborted or rejected. */
export type RequestId = number & { readonly brand?: "RequestId" };

/**
 * Order of the waiting queue: by arrival; by priority then arrival; by priority, then fewest tokens to
 * compute, then arrival; by priority, then longest cached prefix, aged (`agingTokens`); the tenant that has been served
 * least, then priority, then arrival; the earliest `deadlineUs`, to the microsecond within 50 days, then arrival, whatever
 * the priority. The least urgent of these is also preempted first.
 */
export type PolicyName =
  "fcfs" | "priority" | "shortest-first" | "longest-prefix" | "fair" | "earliest-deadline";

export const POLICIES: readonly PolicyName[] = [
  "fcfs",
  "priority",
  "shortest-first",
  "longest-prefix",
  "fair",
  "earliest-deadline",
];

export interface SchedulerOptions {
  /** The cache whose blocks are scheduled; of the same core. */
  cache: KvCache;
  /** Token ids are below it, 1 to 2^32 - 1. */
  vocabSize: number;
  /** Requests alive at a time, waiting or running, 1 to 2^20. Default 4096. */
  maxRequests?: number;
  /**
   * Requests running at a time, 1 to the cache's maxSequences. Default min(256, maxSequences,
   * maxBatchTokens).
   */
  maxRunning?: number;
  /** Token budget of one step over all its rows, maxRunning to 2^22. Default 2048. */
  maxBatchTokens?: number;
  /** Most prompt tokens of one request in one step; 0 (default) = the budget. */
  maxChunkTokens?: number;
  /** Blocks an admission must leave available, so that running requests can grow. Default 1 % of the pool. */
  watermarkBlocks?: number;
  /** Default "priority". */
  policy?: PolicyName;
  /**
   * Prompt and new tokens of all live requests together; 4 bytes each. Default maxRequests *
   * min(maxSequenceTokens, 1024).
   */
  tokenCapacity?: number;
  /**
   * Policy "longest-prefix": how many cached tokens more a request needs for each place that it arrived later, to be
   * served first, 1 to 256. At most maxSequenceTokens / agingTokens later arrivals ever overtake a request. Default 1.
   */
  agingTokens?: number;
  /** Tenants that requests name, 1 to 4096. Default: the cache's, if it has any, else 1. */
  tenants?: number;
  /**
   * Policy "fair": what a prompt token counts, 0 to 2^20. Default 1. And what a generated one does. Default 2. (The
   * weights of arXiv 2401.00588.)
   */
  inputWeight?: number;
  outputWeight?: number;
  /**
   * Most draft tokens of a request in one step, 0 to 256: for `propose`. Default 0: no request has drafts. 4 bytes
   * each for every request that may be alive.
   */
  maxDraftTokens?: number;
  /**
   * Policy "priority": running requests make room for more urgent ones that wait, so that a step's batch is always the most
   * urgent requests that fit. For one that its own tenant's ceiling keeps out only its tenant's do. Default false: only
   * requests that grow preempt others.
   */
  preemptive?: boolean;
  /** Host memory for preempted requests. Default none: they are computed again. */
  hostTier?: HostTierOptions;
  /**
   * Reject requests that have waited so long without ever running, from `arrivalUs` on, or from the first step when they
   * came to run at once; 0 (default) = never.
   */
  queueTimeoutUs?: number;
}

export interface RequestOptions extends PromptMarks {
  /** Prompt, at least one token. */
  tokens: ArrayLike<number>;
  /** Most tokens to generate, >= 1. Prompt and new tokens together fit the cache's maxSequenceTokens. */
  maxNewTokens: number;
  /** Id of the caller's, unique among live requests, 1 to 2^64 - 2. Default: none. */
  id?: number | bigint;
  /** Tenant, adapter or salt: only equal namespaces share blocks, 0 to 2^31 - 2. Default 0. */
  namespace?: number;
  /** Whose request it is, below the scheduler's `tenants`; for policy "fair". Default 0. */
  tenant?: number;
  /** Pins its prompt's full blocks once its first token is generated; the outcome tells. Needs a cache with `pins`. */
  pin?: RequestPin;
  /** 0 (default, most urgent) to 255. */
  priority?: number;
  /** When the request may run first, in microseconds, >= 0. Default 0 = at once. */
  arrivalUs?: number;
  /**
   * When it is no longer worth running, in microseconds, > 0: a request that still waits then, or waits again after a
   * preemption, ends with the outcome "expired"; one that runs goes on. Default: never.
   */
  deadlineUs?: number;
  /**
   * For a request whose lanes drop tokens: the most slots that its longest lane holds once its prompt is computed.
   * Admissions leave room for as many; its sequence is lossy, and neither reuses nor publishes blocks unless
   * `Scheduler.lanes` says so. Default 0: it keeps every token.
   */
  peakSlots?: number;
  /**
   * Fewest tokens of the prompt's last chunk, where the token budget allows it: for statistics of the last queries.
   * Default 0.
   */
  lastChunk?: number;
  /**
   * How many tokens it is expected to generate, 0 to 2^24: policy "shortest-first" serves those first whose prompt and
   * expected answer are shortest together. Nothing else goes by it, and a wrong one costs order only. Default 0.
   */
  predictedTokens?: number;
  /**
   * Most prompt tokens that one step computes for this request, so that a long prompt of little urgency leaves room for
   * others, 0 to 2^22. Default 0: as many as the scheduler's `maxChunkTokens` and budget allow.
   */
  maxChunkTokens?: number;
  /**
   * Whether it stays, idle, when it has finished, for `nextTurn`: a conversation. What has been computed for it goes to the
   * host tier meanwhile, if there is one; `abort` ends it. Not with `peakSlots`. Default false.
   */
  turns?: boolean;
}

/** The next turn of a conversation. */
export interface TurnOptions {
  /** What is said to it, at least one token. */
  tokens: ArrayLike<number>;
  /** Most tokens to generate, >= 1; all tokens of the request together fit the cache's maxSequenceTokens. */
  maxNewTokens: number;
  /** Whether it ends with this turn's answer. Default false: it stays for another one. */
  last?: boolean;
}

/** What the sequence of a request that drops tokens begins with, and what becomes of it. */
export interface LaneStart {
  /**
   * Start from the longest cached prefix and publish full blocks until the first drop. Survivors of blocks that others
   * can read get blocks of their own. Default false.
   */
  share?: boolean;
  /** The sequence outlives a request that finishes: it is the host's then. Default false. */
  keep?: boolean;
  /**
   * A sequence of the host's, shorter than the prompt, to go on with: the request owns it from here on. After a preemption
   * the request begins anew from its tokens. Default: none.
   */
  sequence?: SequenceId;
  /**
   * Blocks that suffice for the prompt if one step takes all of it and drops between layers: so it is planned, where the
   * budget of a step allows it. Not with share or sequence. Default 0: the blocks of all its tokens, in chunks.
   */
  prefillBlocks?: number;
}

/** What happened to a request since the step began. */
export interface Outcome {
  readonly request: RequestId;
  readonly kind: "finished" | "preempted" | "rejected" | "expired";
  /**
   * Why it was rejected: "QUEUE_TIMEOUT"; "QUOTA_EXCEEDED" when its tenant's quota has no room for it though nothing else
   * of the tenant runs; "OUT_OF_BLOCKS" when floors of others have none though nothing runs.
   */
  readonly code: string | undefined;
  readonly generated: number;
  /** Prompt tokens found in the cache when it was first admitted. */
  readonly cachedTokens: number;
  readonly preemptions: number;
  /** Cached blocks of its tenant's own that were forgotten to make room for it. */
  readonly evictedOwn: number;
  /** Preempted: tokens that the host tier has, or is being sent; the others are computed again. */
  readonly swappedTokens: number;
  /** The pin of its prompt, if it was asked for and made; else why not. */
  readonly pin: PinId | undefined;
  readonly pinRefusal: string | undefined;
}

/** Result of a step for the sampling rows, in row order. */
export interface CommitResults {
  /** One token id a sampling row: the one picked behind the drafts that were right. */
  tokens: ArrayLike<number>;
  /**
   * How many of a sampling row's drafts, its tokens behind the first, were right: every one that plain decoding would have
   * generated up to the first that it would not. Default: none.
   */
  accepted?: ArrayLike<number>;
  /** Whether the request ends with this token (end of text, stop string); default: none does. */
  finished?: ArrayLike<number | boolean>;
}

/**
 * Record: everything that goes into a scheduler, as lines of JSON, with a digest of every plan that came out.
 *
 *   {"record": 1, "seed", "cache", "scheduler"}      the first line: how the core was created
 *   {"submit": {tokens, maxNewTokens, ...}, "request"}
 *   {"lanes": request, "share"?, "keep"?, "sequence"?, "prefillBlocks"?}
 *   {"step": nowUs, "id", "plan": digest}
 *   {"propose": request, "tokens"}
 *   {"commit": id, "nowUs", "tokens", "finished"?: [sampling rows], "accepted"?: counts, "outcomes": digest}
 *   {"abandon": id}   {"abort": request}   {"prioritize": request, "priority"}
 *   {"predict": request, "tokens"}
 *   {"transferred": id, "blocks", "us"}   {"turn": request, "tokens", "maxNewTokens", "last"}
 *   {"arena": shape}   {"lane": call, ...}      lanes of requests that drop tokens (eviction/lane-record.ts)
 *
 * The core is deterministic and these are all of its inputs, so `replay` (replay.ts) makes the same plans from them, in
 * any build. Refused calls change nothing and are left out; a call that traps is written with "trapped": true.
 */
import { Core, type CoreOptions } from "./core.js";
import { invalidArgument, QuartermasterError } from "./errors.js";
import type { ArenaShape, LaneCall } from "./eviction/lane-record.js";
import type { LaneArena } from "./eviction/lanes.js";
import type { KvCacheOptions } from "./kv-cache-options.js";
import type { StepPlan } from "./plan.js";
import { outcomesDigest, planDigest } from "./plan-digest.js";
import { Scheduler } from "./scheduler.js";
import {
  type CommitResults,
  type LaneStart,
  type RequestId,
  type RequestOptions,
  type SchedulerOptions,
  type TurnOptions,
} from "./scheduler-options.js";

/** Version of the lines. */
export const RECORD_VERSION = 1;

/** How to create a core with one cache and one scheduler. */
export interface SchedulerSetup {
  /** Seed of the core. Default 0. */
  seed?: number | bigint;
  cache: KvCacheOptions;
  scheduler: Omit<SchedulerOptions, "cache">;
}

/** How to load the core; the seed is the setup's. */
export type SetupCoreOptions = Omit<CoreOptions, "seed">;

export type RecordLine =
  | {
      record: number;
      seed: string;
      cache: KvCacheOptions;
      scheduler: Omit<SchedulerOptions, "cache">;
    }
  | { submit: RecordedRequest; request: RequestId; trapped?: true }
  | ({ lanes: RequestId; trapped?: true } & LaneStart)
  | { step: number; id: number; plan: string; trapped?: true }
  | { propose: RequestId; tokens: number[]; trapped?: true }
  | {
      commit: number;
      nowUs: number;
      tokens: number[];
      finished?: number[];
      accepted?: number[];
      outcomes: string;
      trapped?: true;
    }
  | { abandon: number; trapped?: true }
  | { abort: RequestId; trapped?: true }
  | { prioritize: RequestId; priority: number; trapped?: true }
  | { predict: RequestId; tokens: number; trapped?: true }
  | { transferred: number; blocks: number; us: number; trapped?: true }
  | { turn: RequestId; tokens: number[]; maxNewTokens: number; last: boolean; trapped?: true }
  | { arena: ArenaShape }
  | LaneCall;

export type RecordedRequest = Omit<RequestOptions, "tokens" | "id"> & { tokens: number[]; id?: string };

/** Options of a request that are recorded as they are: all but its tokens and its id. */
const REQUEST_FIELDS = Object.keys({
  maxNewTokens: true,
  namespace: true,
  tenant: true,
  priority: true,
  arrivalUs: true,
  deadlineUs: true,
  peakSlots: true,
  lastChunk: true,
  ranges: true,
  adapter: true,
  items: true,
  pin: true,
  maxChunkTokens: true,
  predictedTokens: true,
  turns: true,
} satisfies Record<keyof Omit<RequestOptions, "tokens" | "id">, true>) as (keyof RequestOptions)[];

/** A scheduler on a core and a cache of its own. Throws what creating them throws. */
export async function createScheduler(
  setup: SchedulerSetup,
  options: SetupCoreOptions = {},
): Promise<Scheduler> {
  const core = await Core.create({ ...options, seed: setup.seed ?? 0 });
  const cache = core.kvCache(setup.cache);
  return core.scheduler({ ...setup.scheduler, cache });
}

/**
 * As `createScheduler`, and `write` gets a line (without its end) for each input. The cache and the core must be left to
 * the scheduler, and to lanes that `recordLanes` was told of: what else changes them is not recorded.
 */
export async function recordScheduler(
  setup: SchedulerSetup,
  write: (line: string) => void,
  options: SetupCoreOptions = {},
): Promise<Scheduler> {
  const scheduler = new RecordingScheduler(await createScheduler(setup, options), write);
  // What the outside is told of the cache changes no decision, and its domain key may be a secret.
  const { contentKeys: _, events: __, ...cache } = setup.cache;
  const first: RecordLine = {
    record: RECORD_VERSION,
    seed: String(setup.seed ?? 0),
    cache,
    scheduler: setup.scheduler,
  };
  write(JSON.stringify(first));
  return scheduler;
}

/**
 * Records what the lanes of an arena do as well: of requests that drop tokens, and of the caches that they keep. The arena
 * is the core's first region after the scheduler, of the scheduler's cache. Throws INVALID_ARGUMENT for a scheduler that is
 * not recorded.
 */
export function recordLanes(scheduler: Scheduler, arena: LaneArena): void {
  if (!(scheduler instanceof RecordingScheduler))
    throw invalidArgument("scheduler", scheduler, "one from recordScheduler");
  scheduler.line({ arena: arena.shape });
  arena.onCall = (call) => scheduler.line(call);
}

class RecordingScheduler extends Scheduler {
  readonly #write: (line: string) => void;

  constructor(scheduler: Scheduler, write: (line: string) => void) {
    super(scheduler.core, scheduler.pointer, scheduler.cache);
    this.#write = write;
  }

  line(line: RecordLine): void {
    this.#write(JSON.stringify(line));
  }

  override submit(options: RequestOptions): RequestId {
    const submit = requestFields(options);
    return this.#record(
      () => super.submit(options),
      (request = 0) => ({ submit, request }),
    );
  }

  override nextTurn(request: RequestId, turn: TurnOptions): void {
    const { tokens, maxNewTokens, last = false } = turn;
    this.#record(
      () => super.nextTurn(request, turn),
      () => ({ turn: request, tokens: Array.from(tokens), maxNewTokens, last }),
    );
  }

  override propose(request: RequestId, tokens: ArrayLike<number>): number {
    return this.#record(
      () => super.propose(request, tokens),
      () => ({ propose: request, tokens: Array.from(tokens) }),
    );
  }

  override lanes(request: RequestId, start: LaneStart): void {
    this.#record(
      () => super.lanes(request, start),
      () => ({ lanes: request, ...start }),
    );
  }

  override step(nowUs: number): StepPlan {
    return this.#record(
      () => super.step(nowUs),
      (plan) => ({
        step: nowUs,
        id: plan?.stepId ?? 0,
        plan: plan === undefined ? "" : planDigest(plan, this.outcomes()),
      }),
    );
  }

  override commit(stepId: number, nowUs: number, results: CommitResults): void {
    this.#record(
      () => (super.commit(stepId, nowUs, results), true),
      (done) => {
        const finished = Array.from(results.finished ?? []).flatMap((flag, row) => (flag ? [row] : []));
        const accepted = Array.from(results.accepted ?? []);
        return {
          commit: stepId,
          nowUs,
          tokens: Array.from(results.tokens),
          ...(finished.length > 0 && { finished }),
          ...(accepted.some((count) => count > 0) && { accepted }),
          outcomes: done ? outcomesDigest(this.outcomes()) : "",
        };
      },
    );
  }

  override abandon(stepId: number): void {
    this.#record(
      () => super.abandon(stepId),
      () => ({ abandon: stepId }),
    );
  }

  override abort(request: RequestId): void {
    this.#record(
      () => super.abort(request),
      () => ({ abort: request }),
    );
  }

  override setPriority(request: RequestId, priority: number): void {
    this.#record(
      () => super.setPriority(request, priority),
      () => ({ prioritize: request, priority }),
    );
  }

  override setPrediction(request: RequestId, predictedTokens: number): void {
    this.#record(
      () => super.setPrediction(request, predictedTokens),
      () => ({ predict: request, tokens: predictedTokens }),
    );
  }

  override transferred(transfer: number, blocks: number, us = 0): boolean {
    return this.#record(
      () => super.transferred(transfer, blocks, us),
      () => ({ transferred: transfer, blocks, us }),
    );
  }

  /** Runs a call and writes its line; `line` gets what the call returned, nothing when it trapped. */
  #record<Result>(run: () => Result, line: (result?: Result) => RecordLine): Result {
    let result: Result;
    try {
      result = run();
    } catch (error) {
      const trapped =
        error instanceof QuartermasterError && error.code === "POISONED" && error.cause instanceof Error;
      if (trapped) this.#write(JSON.stringify({ ...line(), trapped: true }));
      throw error;
    }
    this.#write(JSON.stringify(line(result)));
    return result;
  }
}

/** JSON has no bigint: salts, adapters and hashes may be decimal digits as well. */
function digits(_key: string, value: unknown): unknown {
  return typeof value === "bigint" ? String(value) : value;
}

function requestFields(options: RequestOptions): RecordedRequest {
  const fields = REQUEST_FIELDS.filter((name) => options[name] !== undefined).map(
    (name) => [name, options[name]] as const,
  );
  const id = options.id === undefined ? {} : { id: String(options.id) };
  return {
    tokens: Array.from(options.tokens ?? []),
    ...id,
    ...(JSON.parse(JSON.stringify(Object.fromEntries(fields), digits)) as object),
  } as RecordedRequest;
}

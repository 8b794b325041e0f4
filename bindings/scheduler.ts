/**
 * Scheduler: submit -> step -> (the executor runs the plan) -> commit.
 *
 * One step is in flight at a time. `commit` is the only way in for results; a step that could not be executed
 * is taken back with `abandon`. All times are microseconds on a clock of the host's choice.
 *
 * One file, longer than others: a method for each call on one structure of the core; options and checks are beside it.
 */
import type { Core } from "./core.js";
import {
  invalidArgument,
  QuartermasterError,
  requireInteger,
  requireObject,
  STATUS_CODES,
} from "./errors.js";
import type { KvCache } from "./kv-cache.js";
import { type HostTierShape, hostTierShape, type HostTierStats, hostTierStats } from "./host-tier.js";
import { pinShape } from "./kv-pins.js";
import { withMarks } from "./prompt-marks.js";
import { type StepPlan, TRANSFER_WORDS } from "./plan.js";
import {
  largest,
  requireRequest,
  requireStep,
  requireAccepted,
  requirePreemptive,
  requireWeight,
  requestId,
  requireTime,
} from "./scheduler-checks.js";
import { planGroups } from "./plan-groups.js";
import { invalidTokenAt } from "./token-ids.js";
import {
  type RequestId,
  POLICIES,
  type SchedulerOptions,
  type LaneStart,
  type RequestOptions,
  type TurnOptions,
  type Outcome,
  type CommitResults,
} from "./scheduler-options.js";

const OUTCOME_KINDS = [undefined, "finished", "preempted", "rejected", "expired"] as const;
const OUTCOME_WORDS = 8;
/** Index in OUTCOME_KINDS. */
const PREEMPTED = 2;

/** Word offsets in the StepPlan header (docs/abi.md). */
export const PlanHeader = {
  stepId: 0,
  rows: 1,
  decodeRows: 2,
  samplingRows: 3,
  totalTokens: 4,
  transferCount: 5,
  outcomeCount: 6,
  tableWords: 7,
  requests: 8,
  sequences: 9,
  phases: 10,
  newTokens: 11,
  computedBefore: 12,
  layerLo: 13,
  layerHi: 14,
  tokenStart: 15,
  tokens: 16,
  slots: 17,
  tableStart: 18,
  tableCount: 19,
  tables: 20,
  transfers: 21,
  outcomes: 22,
  statistics: 23,
  experts: 24,
  running: 25,
  waiting: 26,
  freeBlocks: 27,
  evictableBlocks: 28,
} as const;
const PLAN_HEADER_WORDS = 32;
/** `kvPinFigure`: blocks that hard pins keep at most. */
const PIN_LIMIT_FIGURE = 5;

/** u32 words of the drafts' header (docs/abi.md). */
const DraftsHeader = { most: 0, accepted: 3, fed: 4, right: 6 } as const;
const DRAFTS_HEADER_WORDS = 8;

/** u32 words of the scheduler's header: pages of its token store, and those that are free (docs/abi.md). */
const TokenStore = { pages: 9, freePages: 22 } as const;
const PAGE_TOKENS = 256;

export class Scheduler {
  readonly core: Core;
  /** Address of the structure in core memory. */
  readonly pointer: number;
  readonly cache: KvCache;
  readonly maxRunning: number;
  /** Most draft tokens of a request in one step; 0: it takes none. */
  readonly maxDraftTokens: number;
  readonly #drafts: number;
  readonly #plan: number;
  readonly #results: number;

  /** Made by `core.scheduler(...)`. */
  constructor(core: Core, pointer: number, cache: KvCache) {
    this.core = core;
    this.pointer = pointer;
    this.cache = cache;
    this.maxRunning = core.exports.schedulerMaxRunning(pointer);
    this.#plan = core.exports.schedulerPlan(pointer) >>> 0;
    this.#results = core.exports.schedulerResults(pointer) >>> 0;
    this.#drafts = core.exports.schedulerDrafts(pointer) >>> 0;
    this.maxDraftTokens = this.#drafts === 0 ? 0 : this.#draftsHeader()[DraftsHeader.most];
  }

  /** Checks options and fills in defaults. */
  static shape(options: SchedulerOptions): Required<
    Omit<SchedulerOptions, "cache" | "policy" | "hostTier">
  > & {
    policy: number;
    hostTier: HostTierShape | undefined;
  } {
    const { cache } = options;
    const maxBatchTokens = requireInteger("maxBatchTokens", options.maxBatchTokens ?? 2048, 1, 2 ** 22);
    const mostRunning = Math.min(cache.maxSequences, maxBatchTokens);
    const maxRequests = requireInteger("maxRequests", options.maxRequests ?? 4096, 1, 2 ** 20);
    const policyName = options.policy ?? "priority";
    const policy = POLICIES.indexOf(policyName);
    if (policy < 0) throw invalidArgument("policy", policyName, POLICIES.join(", "));
    const queueTimeoutUs = options.queueTimeoutUs ?? 0;
    if (!(typeof queueTimeoutUs === "number" && queueTimeoutUs >= 0 && queueTimeoutUs < Infinity)) {
      throw invalidArgument("queueTimeoutUs", queueTimeoutUs, "a finite number >= 0");
    }
    const tokenCapacity = options.tokenCapacity ?? maxRequests * Math.min(cache.maxSequenceTokens, 1024);
    return {
      vocabSize: requireInteger("vocabSize", options.vocabSize, 1, 2 ** 32 - 1),
      maxRequests,
      maxRunning: requireInteger(
        "maxRunning",
        options.maxRunning ?? Math.min(256, mostRunning),
        1,
        mostRunning,
      ),
      maxBatchTokens,
      maxChunkTokens: requireInteger("maxChunkTokens", options.maxChunkTokens ?? 0, 0, 2 ** 22),
      watermarkBlocks: requireInteger(
        "watermarkBlocks",
        options.watermarkBlocks ?? Math.floor(cache.blocks / 100),
        0,
        cache.blocks,
      ),
      policy,
      tokenCapacity: requireInteger("tokenCapacity", tokenCapacity, 1, 2 ** 30),
      queueTimeoutUs,
      agingTokens: requireInteger("agingTokens", options.agingTokens ?? 1, 1, 256),
      tenants: requireInteger(
        "tenants",
        options.tenants ?? Math.min(4096, Math.max(1, cache.tenants)),
        1,
        4096,
      ),
      inputWeight: requireWeight("inputWeight", options.inputWeight ?? 1),
      outputWeight: requireWeight("outputWeight", options.outputWeight ?? 2),
      maxDraftTokens: requireInteger("maxDraftTokens", options.maxDraftTokens ?? 0, 0, 256),
      preemptive: requirePreemptive(options.preemptive ?? false, policyName),
      hostTier: options.hostTier && hostTierShape(options.hostTier, maxRequests),
    };
  }

  /**
   * Accepts a request. Throws EMPTY_PROMPT, TOO_LONG, POOL_TOO_SMALL (the request alone needs more blocks
   * than there are), INVALID_TOKEN, INVALID_TIME, DUPLICATE_ID, OUT_OF_REQUESTS, OUT_OF_TOKENS,
   * INVALID_ARGUMENT.
   */
  submit(options: RequestOptions): RequestId {
    requireObject("options", options);
    const maxNewTokens = requireInteger("maxNewTokens", options.maxNewTokens, 1, 2 ** 24);
    const namespace = requireInteger("namespace", options.namespace ?? 0, 0, 2 ** 31 - 2);
    const tenant = requireInteger("tenant", options.tenant ?? 0, 0, 4095);
    const priority = requireInteger("priority", options.priority ?? 0, 0, 255);
    const id = requestId(options.id);
    const arrivalUs = requireTime("arrivalUs", options.arrivalUs ?? 0);
    const deadlineUs = requireTime("deadlineUs", options.deadlineUs ?? 0);
    if (options.deadlineUs === 0) throw invalidArgument("deadlineUs", 0, "microseconds > 0");
    const lastChunk = requireInteger("lastChunk", options.lastChunk ?? 0, 0, 2 ** 24);
    const peakSlots = requireInteger("peakSlots", options.peakSlots ?? 0, 0, 2 ** 24);
    const maxChunkTokens = requireInteger("maxChunkTokens", options.maxChunkTokens ?? 0, 0, 2 ** 22);
    const predicted = requireInteger("predictedTokens", options.predictedTokens ?? 0, 0, 2 ** 24);
    const count = this.cache.writeInput("tokens", options.tokens);
    const { exports } = this.core;
    if (options.turns && peakSlots > 0)
      throw invalidArgument("turns", true, "false for a request with peakSlots");
    const pin = options.pin === undefined ? undefined : pinShape(options.pin, "forUs");
    if (pin !== undefined && exports.kvPinFigure(this.cache.pointer, 4) === 0)
      throw new QuartermasterError("UNSUPPORTED", "pin: the cache was created without `pins`");
    try {
      return withMarks(this.cache, options, (marks) => {
        const request = this.core.call(
          () =>
            exports.requestSubmit(
              this.pointer,
              Number(id & 0xffffffffn),
              Number(id >> 32n),
              count,
              maxNewTokens,
              namespace,
              tenant,
              priority,
              arrivalUs,
              deadlineUs,
              peakSlots,
              lastChunk,
              maxChunkTokens,
            ),
          "submit",
        );
        if (marks !== 0) this.core.call(() => exports.requestMarks(this.pointer, request, marks), "submit");
        if (predicted !== 0)
          this.core.call(() => exports.requestPredict(this.pointer, request, predicted), "submit");
        if (options.turns) this.core.call(() => exports.requestTurns(this.pointer, request), "submit");
        if (pin !== undefined)
          this.core.call(
            () => exports.requestPin(this.pointer, request, pin.hard, pin.priority, pin.us),
            "submit",
          );
        return request;
      });
    } catch (error) {
      throw this.#explainRefusal(error, options, count);
    }
  }

  /**
   * The next turn of an idle request (`turns`): behind all its tokens so far, those of `tokens`. It waits for its place as a
   * new request does, and has what the host tier or the cache kept of it. Throws UNKNOWN_REQUEST, INVALID_ARGUMENT for one
   * that is not idle, and what `submit` throws for as many tokens as it has then; it is still idle then.
   */
  nextTurn(request: RequestId, options: TurnOptions): void {
    requireRequest(request);
    requireObject("options", options);
    const { tokens, maxNewTokens, last = false } = options;
    requireInteger("maxNewTokens", maxNewTokens, 1, 2 ** 24);
    const count = this.cache.writeInput("tokens", tokens);
    try {
      this.core.call(
        () => this.core.exports.requestNextTurn(this.pointer, request, count, maxNewTokens, last ? 1 : 0),
        `nextTurn(request ${request})`,
        ["request", request],
      );
    } catch (error) {
      if (!(error instanceof QuartermasterError) || error.code !== "OUT_OF_TOKENS") throw error;
      const [argument, value] = ["tokens.length + maxNewTokens", count + maxNewTokens];
      const range = `with the request's own tokens ${this.#tokensLeft()}, and the pages that it has`;
      throw new QuartermasterError(error.code, `${argument} is ${value}; allowed: ${range}`, {
        argument,
        value,
        range,
      });
    }
  }

  /**
   * Proposes what a request will generate next, in place of what was proposed before: the next step that has budget and
   * blocks left over feeds these tokens behind the request's last one, and `commit` says how many were right. Returns
   * how many the request can make use of: none unless it decodes, and fewer than it may still generate. Throws
   * INVALID_ARGUMENT without `maxDraftTokens`, UNKNOWN_REQUEST, INVALID_TOKEN, STEP_IN_FLIGHT.
   */
  propose(request: RequestId, tokens: ArrayLike<number>): number {
    if (this.#drafts === 0)
      throw invalidArgument("maxDraftTokens", 0, "at least 1 for a scheduler of drafts");
    requireRequest(request);
    const count = this.cache.writeInput("tokens", tokens);
    return this.core.call(
      () => this.core.exports.requestPropose(this.pointer, request, count),
      `propose(request ${request})`,
      ["request", request],
    );
  }

  /** Draft tokens since creation: fed to the executor, and found right. */
  get drafted(): { readonly fed: number; readonly right: number } {
    if (this.#drafts === 0) return { fed: 0, right: 0 };
    const header = this.#draftsHeader();
    const wide = (word: number): number => header[word] + header[word + 1] * 2 ** 32;
    return { fed: wide(DraftsHeader.fed), right: wide(DraftsHeader.right) };
  }

  /**
   * Says what the sequence of a request with `peakSlots` begins with, before it is admitted. Throws UNKNOWN_REQUEST,
   * UNKNOWN_SEQUENCE, SEQUENCE_OWNED, INVALID_ARGUMENT (no lanes, admitted already, or nothing left to compute).
   */
  lanes(request: RequestId, start: LaneStart): void {
    requireRequest(request);
    requireObject("start", start);
    const { share = false, keep = false, sequence = 0, prefillBlocks = 0 } = start;
    requireInteger("sequence", sequence, 0, 0x7fffffff);
    requireInteger("prefillBlocks", prefillBlocks, 0, this.cache.blocks);
    const flags = (share ? 1 : 0) + (keep ? 2 : 0);
    const { exports } = this.core;
    this.core.call(
      () => exports.requestLanes(this.pointer, request, flags, sequence, prefillBlocks),
      "lanes",
    );
  }

  /**
   * Plans a step at `nowUs`. The plan is a set of views, valid until the next step, and in flight until `commit` or
   * `abandon`, even when it is empty. Throws STEP_IN_FLIGHT, COMPACTION_PENDING, INVALID_TIME.
   */
  step(nowUs: number): StepPlan {
    requireTime("nowUs", nowUs);
    this.core.call(() => this.core.exports.schedulerStep(this.pointer, nowUs), "step");
    return this.plan();
  }

  /** Views of the plan of the last step. */
  plan(): StepPlan {
    const { memory } = this.core;
    const { buffer } = memory;
    const header = new Uint32Array(buffer, this.#plan, PLAN_HEADER_WORDS);
    const rows = header[PlanHeader.rows];
    const totalTokens = header[PlanHeader.totalTokens];
    const view = (word: number, length: number): Uint32Array => new Uint32Array(buffer, header[word], length);
    const plan: StepPlan = {
      stepId: header[PlanHeader.stepId],
      rows,
      decodeRows: header[PlanHeader.decodeRows],
      samplingRows: header[PlanHeader.samplingRows],
      totalTokens,
      transferCount: header[PlanHeader.transferCount],
      running: header[PlanHeader.running],
      waiting: header[PlanHeader.waiting],
      freeBlocks: header[PlanHeader.freeBlocks],
      evictableBlocks: header[PlanHeader.evictableBlocks],
      requests: view(PlanHeader.requests, rows),
      sequences: view(PlanHeader.sequences, rows),
      phases: view(PlanHeader.phases, rows),
      newTokens: view(PlanHeader.newTokens, rows),
      computedBefore: view(PlanHeader.computedBefore, rows),
      layerLo: view(PlanHeader.layerLo, rows),
      layerHi: view(PlanHeader.layerHi, rows),
      tokenStart: view(PlanHeader.tokenStart, rows + 1),
      tokens: view(PlanHeader.tokens, totalTokens),
      slots: view(PlanHeader.slots, totalTokens),
      tableStart: view(PlanHeader.tableStart, rows),
      tableCount: view(PlanHeader.tableCount, rows),
      tables: view(PlanHeader.tables, header[PlanHeader.tableWords]),
      transfers: view(PlanHeader.transfers, header[PlanHeader.transferCount] * TRANSFER_WORDS),
      memory,
    };
    return this.cache.groups.length === 0 ? plan : { ...plan, groups: planGroups(this.cache, plan) };
  }

  /**
   * Enters the results of the step in flight. Throws UNKNOWN_STEP, INVALID_TIME, INVALID_TOKEN, INVALID_ARGUMENT, and
   * COPIES_PENDING while what its batch reads has not been read back (`hostTier.swapIn`); then nothing has changed.
   */
  commit(stepId: number, nowUs: number, results: CommitResults): void {
    requireStep(stepId);
    requireTime("nowUs", nowUs);
    requireObject("results", results);
    const { samplingRows } = this.#counts();
    const { tokens, finished, accepted } = results;
    if (tokens?.length !== samplingRows) {
      throw invalidArgument("tokens", tokens, `one token for each of ${samplingRows} sampling rows`);
    }
    if (finished != null && finished.length !== samplingRows) {
      throw invalidArgument("finished", finished, `one flag for each of ${samplingRows} sampling rows`);
    }
    if (accepted != null) requireAccepted(accepted, samplingRows, this.maxDraftTokens);
    const { memory, exports } = this.core;
    const region = new Uint32Array(memory.buffer, this.#results, 2 * this.maxRunning);
    if (!(tokens instanceof Uint32Array)) {
      for (let i = 0; i < samplingRows; i++) {
        const token = tokens[i];
        if (!Number.isInteger(token) || token < 0 || token > 0xffffffff) {
          throw invalidTokenAt("tokens", i, token, "a token id below the vocabulary size");
        }
      }
    }
    region.set(tokens);
    for (let i = 0; i < samplingRows; i++) region[this.maxRunning + i] = finished?.[i] ? 1 : 0;
    if (this.#drafts !== 0) {
      const right = new Uint32Array(memory.buffer, this.#draftsHeader()[DraftsHeader.accepted], samplingRows);
      if (accepted == null) right.fill(0);
      else right.set(accepted);
    }
    this.core.call(() => exports.schedulerCommit(this.pointer, stepId, nowUs), `commit(step ${stepId})`, [
      "stepId",
      stepId,
    ]);
  }

  /**
   * Takes back the step in flight: it was not executed. Preemptions and transfers stand, admissions do not. Throws
   * UNKNOWN_STEP.
   */
  abandon(stepId: number): void {
    requireStep(stepId);
    this.core.call(
      () => this.core.exports.schedulerAbandon(this.pointer, stepId),
      `abandon(step ${stepId})`,
      ["stepId", stepId],
    );
  }

  /**
   * Ends a request; if the step in flight computes it, its blocks are freed when that step ends. Throws
   * UNKNOWN_REQUEST.
   */
  abort(request: RequestId): void {
    requireRequest(request);
    this.core.call(() => this.core.exports.requestAbort(this.pointer, request), `abort(request ${request})`, [
      "request",
      request,
    ]);
  }

  /** What the last step and its commit did to requests. Copies. */
  outcomes(): Outcome[] {
    const { buffer } = this.core.memory;
    const header = new Uint32Array(buffer, this.#plan, PLAN_HEADER_WORDS);
    const count = header[PlanHeader.outcomeCount];
    const words = new Int32Array(buffer, header[PlanHeader.outcomes], count * OUTCOME_WORDS);
    const outcomes: Outcome[] = [];
    for (let at = 0; at < words.length; at += OUTCOME_WORDS) {
      const [request, kind, code, generated, cachedTokens, preemptions, evictedOwn, word] = words.subarray(
        at,
        at + OUTCOME_WORDS,
      );
      outcomes.push({
        request,
        kind: OUTCOME_KINDS[kind] ?? "rejected",
        code: (STATUS_CODES as Record<number, string>)[code],
        generated,
        cachedTokens,
        preemptions,
        evictedOwn,
        swappedTokens: kind === PREEMPTED ? word : 0,
        pin: kind !== PREEMPTED && word > 0 ? word : undefined,
        pinRefusal:
          kind !== PREEMPTED && word < 0 ? (STATUS_CODES as Record<number, string>)[word] : undefined,
      });
    }
    return outcomes;
  }

  /**
   * A transfer of the plan has been carried out, or given up: its first `blocks` blocks (of all its records, in their order)
   * have arrived, after `us` microseconds (0: say nothing of its cost). To be called once for each transfer, at any time, also
   * for those of a step that was abandoned. What has not arrived is lost: its request computes it again. Returns whether the
   * batch of the step in flight was to read it (`hostTier.swapIn`): that step can only be abandoned. Throws NOT_FOUND when no
   * such transfer is in flight, INVALID_ARGUMENT for more blocks than it has.
   */
  transferred(transfer: number, blocks: number, us = 0): boolean {
    requireInteger("transfer", transfer, 0, 2 ** 31 - 1);
    requireInteger("blocks", blocks, 0, 2 ** 27);
    if (typeof us !== "number" || !(us >= 0 && us < Infinity))
      throw invalidArgument("us", us, "finite microseconds >= 0");
    const lost = this.core.call(
      () => this.core.exports.schedulerTransferred(this.pointer, transfer, blocks, us),
      `transferred(transfer ${transfer})`,
    );
    return lost === 1;
  }

  /**
   * Gives a live request another priority, 0 to 255, from the next step on; policies that do not go by priority keep its
   * place. Throws UNKNOWN_REQUEST.
   */
  setPriority(request: RequestId, priority: number): void {
    requireRequest(request);
    requireInteger("priority", priority, 0, 255);
    this.core.call(
      () => this.core.exports.requestPrioritize(this.pointer, request, priority),
      `setPriority(request ${request})`,
      ["request", request],
    );
  }

  /**
   * Says how many more tokens a live request is expected to generate, 0 to 2^24, in place of what was expected before;
   * policy "shortest-first" gives it the place of that from the next step on. Throws UNKNOWN_REQUEST.
   */
  setPrediction(request: RequestId, predictedTokens: number): void {
    requireRequest(request);
    requireInteger("predictedTokens", predictedTokens, 0, 2 ** 24);
    this.core.call(
      () => this.core.exports.requestPredict(this.pointer, request, predictedTokens),
      `setPrediction(request ${request})`,
      ["request", request],
    );
  }

  /** What the host tier has done; undefined without one. */
  get hostTier(): HostTierStats | undefined {
    return hostTierStats(this.core, this.core.exports.schedulerTier(this.pointer) >>> 0);
  }

  /** Requests running, waiting, and still to arrive. */
  get running(): number {
    return this.core.exports.schedulerRunning(this.pointer);
  }
  get waiting(): number {
    return this.core.exports.schedulerWaiting(this.pointer);
  }
  get arriving(): number {
    return this.core.exports.schedulerArriving(this.pointer);
  }

  /**
   * Earliest time at which a step may differ without a new submission: the next arrival, deadline or end of a
   * request's `queueTimeoutUs`, or Infinity. Earlier when the request that it stood for has been admitted while others
   * wait (the step then finds the next), and in the past when something was submitted since the last step.
   */
  nextWakeUs(): number {
    return this.core.exports.schedulerNextWakeUs(this.pointer);
  }

  /**
   * Weighted tokens that a tenant has been served, as policy "fair" counts them: lifted to the others' level whenever
   * it comes back. Throws INVALID_ARGUMENT.
   */
  served(tenant: number): number {
    const counter = this.core.exports.schedulerTenantCounter(
      this.pointer,
      requireInteger("tenant", tenant, 0, 4095),
    );
    if (counter < 0) throw invalidArgument("tenant", tenant, "below the scheduler's tenants");
    return counter;
  }

  /** Where a request stands, or "ended". */
  state(request: RequestId): "arriving" | "waiting" | "running" | "loading" | "idle" | "ended" {
    requireRequest(request);
    const states = ["ended", "arriving", "waiting", "running", "loading", "idle"] as const;
    return states[this.core.exports.requestState(this.pointer, request)];
  }

  /** Tokens of a live request whose K and V exist; -1 when it has ended. */
  computed(request: RequestId): number {
    requireRequest(request);
    return this.core.exports.requestComputed(this.pointer, request);
  }

  /** Tokens a live request has generated; -1 when it has ended. */
  generated(request: RequestId): number {
    requireRequest(request);
    return this.core.exports.requestGenerated(this.pointer, request);
  }

  /** Full check of scheduler and cache; throws CORRUPT. */
  validate(): void {
    this.core.call(() => this.core.exports.schedulerValidateAll(this.pointer), "scheduler");
  }

  #draftsHeader(): Uint32Array {
    return new Uint32Array(this.core.memory.buffer, this.#drafts, DRAFTS_HEADER_WORDS);
  }

  #counts(): { samplingRows: number } {
    const header = new Uint32Array(this.core.memory.buffer, this.#plan, PLAN_HEADER_WORDS);
    return { samplingRows: header[PlanHeader.samplingRows] };
  }

  /** How long a request may be for the pool: hard pins may keep their share of it, and groups take theirs. */
  #longest(): string {
    const { blocks, blockSize, groups, pointer } = this.cache;
    const pinned = this.core.exports.kvPinFigure(pointer, PIN_LIMIT_FIGURE);
    const grouped = groups.length > 0;
    const most = `${grouped ? "less than" : "at most"} ${(blocks - pinned) * blockSize + 1}`;
    const kept = pinned > 0 ? `, ${pinned} of them for hard pins` : "";
    return `${most}: the pool has ${blocks} blocks${kept}${grouped ? ", and groups take theirs" : ""}`;
  }

  /** What a tenant's quota can hold, in words. */
  #quotaOf(tenant: number): string {
    const { ceiling } = this.cache.account(tenant);
    const { blockSize } = this.cache;
    return `what ${ceiling} blocks of ${blockSize} tokens hold, tenant ${tenant}'s ceiling, where others' floors leave as many`;
  }

  /** Which argument of a submission does not go with this scheduler or its cache. */
  #misfit(
    { tenant = 0, peakSlots = 0 }: RequestOptions,
    explain: (argument: string, value: unknown, range: string) => QuartermasterError,
  ): QuartermasterError {
    if (this.core.exports.schedulerTenantCounter(this.pointer, tenant) < 0)
      return explain("tenant", tenant, "below the scheduler's `tenants`");
    if (peakSlots > 0) return explain("peakSlots", peakSlots, "0 for a cache with groups");
    return explain("tenant", tenant, "below the cache's `tenants`");
  }

  /** What is left for one request now, in words. */
  #tokensLeft(): string {
    const header = new Uint32Array(this.core.memory.buffer, this.pointer, TokenStore.freePages + 1);
    const [left, all] = [TokenStore.freePages, TokenStore.pages].map((word) => header[word] * PAGE_TOKENS);
    return `at most ${left} now: what live requests leave of ${all} (tokenCapacity), in pages of ${PAGE_TOKENS}`;
  }

  /** Names the argument that made the core refuse a submission. */
  #explainRefusal(error: unknown, options: RequestOptions, count: number): unknown {
    if (!(error instanceof QuartermasterError)) return error;
    const { maxSequenceTokens } = this.cache;
    const total = count + options.maxNewTokens;
    const explain = (argument: string, value: unknown, range: string): QuartermasterError =>
      new QuartermasterError(error.code, `${argument} is ${String(value)}; allowed: ${range}`, {
        argument,
        value,
        range,
      });
    switch (error.code) {
      case "EMPTY_PROMPT":
        return explain("tokens.length", count, "at least 1");
      case "TOO_LONG":
        return explain("tokens.length + maxNewTokens", total, `at most ${maxSequenceTokens}`);
      case "POOL_TOO_SMALL":
        return explain("tokens.length + maxNewTokens", total, this.#longest());
      case "OUT_OF_TOKENS":
        return explain("tokens.length + maxNewTokens", total, this.#tokensLeft());
      case "DUPLICATE_ID":
        return explain("id", options.id, "an id that no live request has");
      case "INVALID_TOKEN":
        return explain("tokens", largest(options.tokens), "token ids below the vocabulary size");
      case "QUOTA_EXCEEDED":
        return explain("tokens.length + maxNewTokens", total, this.#quotaOf(options.tenant ?? 0));
      case "OUT_OF_REQUESTS":
        return explain(
          "requests alive",
          this.running + this.waiting + this.arriving,
          "fewer than maxRequests, idle ones too",
        );
      case "INVALID_ARGUMENT":
        return error.argument === undefined ? this.#misfit(options, explain) : error;
      default:
        return error;
    }
  }
}

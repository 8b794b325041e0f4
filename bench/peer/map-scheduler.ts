/**
 * MapScheduler: the step of assembly/scheduling/step.ts over a MapCache, with objects and arrays.
 *
 * Same decisions in the same order: the model of the property tests and the peer of the benches.
 */
import { MapCache, type MapSequence } from "./map-cache.js";

export interface MapRequest {
  readonly id: number;
  readonly tokens: number[];
  readonly promptTokens: number;
  readonly maxNewTokens: number;
  readonly namespace: number;
  readonly tenant: number;
  readonly priority: number;
  readonly arrivalUs: number;
  readonly deadlineUs: number;
  /** 0: as many as the scheduler allows. */
  readonly maxChunkTokens: number;
  /** Tokens that it is expected to generate yet. */
  predictedTokens: number;
  /** Since when it counts as waiting; 0: from the first step that sees it. */
  waitsSinceUs: number;
  order: number;
  rank: number;
  sequence: MapSequence | undefined;
  /** Proposed for the next step. */
  drafts: number[];
  preemptions: number;
  admittedNow: boolean;
  aborted: boolean;
  ended: boolean;
}

export interface MapRow {
  request: MapRequest;
  phase: number;
  newTokens: number;
  computedBefore: number;
  keepBlocks: number;
  tokens: number[];
  /** Index of each new token's block in the request's table, and its offset in the block. */
  positions: number[];
}

export interface MapPlan {
  stepId: number;
  rows: MapRow[];
  preempted: MapRequest[];
  expired: MapRequest[];
  rejected: MapRequest[];
}

export interface MapSchedulerOptions {
  cache: MapCache;
  maxRunning: number;
  maxBatchTokens: number;
  maxChunkTokens: number;
  watermarkBlocks: number;
  policy: "fcfs" | "priority" | "shortest-first" | "longest-prefix" | "fair" | "earliest-deadline";
  /** Policy "longest-prefix". */
  agingTokens?: number;
  /** Policy "fair": what a prompt and a generated token count. */
  inputWeight?: number;
  outputWeight?: number;
  /** 0: none. */
  queueTimeoutUs?: number;
  maxDraftTokens?: number;
}

export class MapScheduler {
  readonly #options: MapSchedulerOptions;
  readonly #cache: MapCache;
  readonly arriving: MapRequest[] = [];
  readonly waiting: MapRequest[] = [];
  running: MapRequest[] = [];
  plan: MapPlan | undefined;
  /** Prompt tokens looked up by admissions, and found. */
  queriedTokens = 0;
  hitTokens = 0;
  /** Weighted tokens served of each tenant, lifted when it comes back. */
  readonly served = new Map<number, number>();
  #lastTenant = 0;
  #submitted = 0;
  #order = 0;
  #stepId = 0;
  #nowUs = 0;

  constructor(options: MapSchedulerOptions) {
    this.#options = options;
    this.#cache = options.cache;
  }

  submit(init: {
    tokens: number[];
    maxNewTokens: number;
    namespace?: number;
    tenant?: number;
    priority?: number;
    arrivalUs?: number;
    deadlineUs?: number;
    maxChunkTokens?: number;
    predictedTokens?: number;
  }): MapRequest {
    const request: MapRequest = {
      id: this.#submitted++,
      tokens: init.tokens.slice(),
      promptTokens: init.tokens.length,
      maxNewTokens: init.maxNewTokens,
      namespace: init.namespace ?? 0,
      tenant: init.tenant ?? 0,
      priority: init.priority ?? 0,
      arrivalUs: init.arrivalUs ?? 0,
      deadlineUs: init.deadlineUs ?? Infinity,
      maxChunkTokens: init.maxChunkTokens ?? 0,
      predictedTokens: init.predictedTokens ?? 0,
      waitsSinceUs: init.arrivalUs ?? 0,
      order: 0,
      rank: 0,
      sequence: undefined,
      drafts: [],
      preemptions: 0,
      admittedNow: false,
      aborted: false,
      ended: false,
    };
    if (request.arrivalUs > this.#nowUs) {
      request.order = ++this.#order;
      this.arriving.push(request);
    } else {
      this.#arrive(request);
    }
    return request;
  }

  /** Returns how many of the tokens the request can make use of. */
  propose(request: MapRequest, tokens: readonly number[]): number {
    const decodes = this.running.includes(request) && this.#decodes(request);
    const left = request.promptTokens + request.maxNewTokens - request.tokens.length - 1;
    request.drafts = decodes ? tokens.slice(0, Math.min(this.#options.maxDraftTokens ?? 0, left)) : [];
    return request.drafts.length;
  }

  step(nowUs: number): MapPlan {
    this.#nowUs = nowUs;
    const plan: MapPlan = { stepId: ++this.#stepId, rows: [], preempted: [], expired: [], rejected: [] };
    this.arriving.sort((a, b) => a.arrivalUs - b.arrivalUs || a.order - b.order);
    while (this.arriving.length > 0 && this.arriving[0].arrivalUs <= nowUs)
      this.#arrive(this.arriving.shift()!);

    // Of several that end at once the last one's tenant is the last that left: in the order of the core's queue.
    const leaving = this.waiting.slice();
    if (this.#options.policy === "fair") leaving.sort((a, b) => a.tenant - b.tenant);
    for (const request of leaving) {
      request.waitsSinceUs ||= nowUs;
      const late = request.deadlineUs <= nowUs;
      if (!late && !this.#timedOut(request)) continue;
      (late ? plan.expired : plan.rejected).push(request);
      this.#leave(request);
      this.#end(request);
    }
    let budget = this.#options.maxBatchTokens;
    const staged = new Map<MapRequest, { tokens: number; keepBlocks: number }>();
    for (const request of this.running.slice()) {
      if (budget === 0) break;
      if (request.sequence === undefined || !this.#decodes(request)) continue;
      const keepBlocks = request.sequence.blocks.length;
      while (request.sequence !== undefined && !this.#cache.reserve(request.sequence, 1)) {
        const victim = this.#lastServed();
        if (staged.delete(victim)) budget += 1;
        this.#preempt(victim, plan);
      }
      if (request.sequence === undefined) continue;
      staged.set(request, { tokens: 1, keepBlocks });
      budget -= 1;
    }
    for (const request of this.running) {
      if (budget === 0) break;
      if (staged.has(request) || this.#decodes(request)) continue;
      const tokens = Math.min(this.#chunk(request, budget), this.#remaining(request));
      staged.set(request, { tokens, keepBlocks: request.sequence!.blocks.length });
      budget -= tokens;
    }
    if (plan.preempted.length === 0) {
      if (this.#options.policy === "longest-prefix") this.#orderByPrefix();
      while (budget > 0 && this.running.length < this.#options.maxRunning && this.#cache.available > 0) {
        const request = this.#next();
        if (request === undefined || !this.#admit(request)) break;
        const tokens = Math.min(this.#chunk(request, budget), this.#remaining(request));
        staged.set(request, { tokens, keepBlocks: 0 });
        budget -= tokens;
      }
    }
    if (plan.preempted.length === 0) {
      for (const [request, row] of staged) {
        let count = Math.min(request.drafts.length, budget);
        while (count > 0 && !this.#cache.reserve(request.sequence!, 1 + count)) count -= 1;
        row.tokens += count;
        budget -= count;
      }
    }
    for (const [request, row] of staged) plan.rows.push(this.#row(request, row.tokens, row.keepBlocks));
    this.plan = plan;
    return plan;
  }

  /**
   * `sampled`: one token a sampling row; `finished`: whether the request ends with it; `accepted`: how many of a row's
   * drafts were right.
   */
  commit(
    sampled: ArrayLike<number>,
    finished: ArrayLike<number | boolean>,
    accepted: ArrayLike<number> = [],
  ): void {
    this.#cache.settleCopies();
    let sample = 0;
    for (const row of this.plan!.rows) {
      const { request } = row;
      request.admittedNow = false;
      const wrong = row.phase === 1 ? row.tokens.length - 1 - (accepted[sample] ?? 0) : 0;
      const right = row.tokens.slice(0, row.tokens.length - wrong);
      this.#cache.append(request.sequence!, right);
      if (wrong > 0)
        this.#cache.unreserve(request.sequence!, this.#cache.blocksFor(request.sequence!.tokens.length));
      if (row.phase === 0) continue;
      if (row.phase === 1) request.drafts = [];
      if (!request.aborted) {
        if (row.phase === 1) request.tokens.push(...right.slice(1));
        request.tokens.push(sampled[sample]);
        const entered = row.phase === 1 ? right.length : 1;
        this.#serve(request, (this.#options.outputWeight ?? 2) * entered);
        if (finished[sample] || request.tokens.length === request.promptTokens + request.maxNewTokens)
          this.#end(request);
      }
      sample += 1;
    }
    this.#sweep();
    this.plan = undefined;
  }

  abandon(): void {
    this.#cache.revertCopies();
    for (const { request, keepBlocks } of this.plan!.rows.reverse()) {
      const admitted = request.admittedNow;
      request.admittedNow = false;
      if (!admitted) {
        this.#cache.unreserve(request.sequence!, keepBlocks);
        continue;
      }
      if (request.preemptions === 0) this.#serve(request, -this.#inputWeight * request.promptTokens);
      this.queriedTokens -= request.tokens.length;
      this.hitTokens -= request.sequence!.tokens.length;
      if (!request.aborted) this.#requeue(request);
    }
    this.#sweep();
    this.plan = undefined;
  }

  abort(request: MapRequest): void {
    if (this.plan?.rows.some((row) => row.request === request)) {
      request.aborted = true;
      return;
    }
    if (this.waiting.includes(request)) this.#leave(request);
    for (const list of [this.arriving, this.running]) {
      const at = list.indexOf(request);
      if (at >= 0) list.splice(at, 1);
    }
    this.#end(request);
  }

  #arrive(request: MapRequest): void {
    request.order = ++this.#order;
    this.#lift(request.tenant);
    request.rank = this.#options.policy === "shortest-first" ? this.#cost(request) : 0;
    if (this.#options.policy === "earliest-deadline") request.rank = Math.floor(request.deadlineUs);
    this.#enqueue(request);
  }

  #cost({ tokens, predictedTokens }: MapRequest): number {
    return Math.min(tokens.length + predictedTokens, 2 ** 20 - 1);
  }

  predict(request: MapRequest, predictedTokens: number): void {
    request.predictedTokens = predictedTokens;
    if (this.#options.policy !== "shortest-first" || this.arriving.includes(request)) return;
    request.rank = this.#cost(request);
    const at = this.waiting.indexOf(request);
    if (at < 0) return;
    this.waiting.splice(at, 1);
    this.#enqueue(request);
  }

  #enqueue(request: MapRequest): void {
    const alike = ["fcfs", "earliest-deadline"].includes(this.#options.policy);
    const before = (a: MapRequest, b: MapRequest): number =>
      (alike ? 0 : a.priority - b.priority) || a.rank - b.rank || a.order - b.order;
    let at = this.waiting.length;
    while (at > 0 && before(request, this.waiting[at - 1]) < 0) at -= 1;
    this.waiting.splice(at, 0, request);
  }

  get #inputWeight(): number {
    return this.#options.inputWeight ?? 1;
  }

  #serve({ tenant }: MapRequest, tokens: number): void {
    this.served.set(tenant, (this.served.get(tenant) ?? 0) + tokens);
  }

  #leave(request: MapRequest): void {
    this.waiting.splice(this.waiting.indexOf(request), 1);
    if (!this.waiting.some(({ tenant }) => tenant === request.tenant)) this.#lastTenant = request.tenant;
  }

  /** A tenant that comes back starts where those are who wait. */
  #lift(tenant: number): void {
    if (this.waiting.some((request) => request.tenant === tenant)) return;
    const others =
      this.waiting.length > 0 ? this.waiting.map((request) => request.tenant) : [this.#lastTenant];
    const floor = Math.min(...others.map((other) => this.served.get(other) ?? 0));
    this.served.set(tenant, Math.max(this.served.get(tenant) ?? 0, floor));
  }

  #next(): MapRequest | undefined {
    if (this.#options.policy !== "fair") return this.waiting[0];
    const of = ({ tenant }: MapRequest): number => this.served.get(tenant) ?? 0;
    const before = (a: MapRequest, b: MapRequest): number =>
      of(a) - of(b) || a.tenant - b.tenant || a.priority - b.priority || a.order - b.order;
    return [...this.waiting].sort(before)[0];
  }

  /** Those with many cached tokens first; a later arrival needs agingTokens more for each place. */
  #orderByPrefix(): void {
    const { agingTokens = 1 } = this.#options;
    for (const request of this.waiting) {
      const cached = this.#cache.match(request.tokens, request.namespace).length * this.#cache.blockSize;
      request.rank = request.order * agingTokens - cached;
    }
    this.waiting.sort((a, b) => a.priority - b.priority || a.rank - b.rank || a.order - b.order);
  }

  #requeue(request: MapRequest): void {
    this.#cache.close(request.sequence!);
    request.sequence = undefined;
    this.running.splice(this.running.indexOf(request), 1);
    this.#enqueue(request);
  }

  #remaining(request: MapRequest): number {
    return request.tokens.length - request.sequence!.tokens.length;
  }

  #decodes(request: MapRequest): boolean {
    return request.tokens.length > request.promptTokens && this.#remaining(request) === 1;
  }

  #timedOut(request: MapRequest): boolean {
    const { queueTimeoutUs = 0 } = this.#options;
    if (queueTimeoutUs === 0 || request.preemptions > 0) return false;
    return request.waitsSinceUs + queueTimeoutUs <= this.#nowUs;
  }

  #chunk(request: MapRequest, budget: number): number {
    const limits = [this.#options.maxChunkTokens, request.maxChunkTokens].filter((limit) => limit > 0);
    return Math.min(budget, ...limits);
  }

  #lastServed(): MapRequest {
    const { policy } = this.#options;
    let last = this.running[this.running.length - 1];
    if (policy === "fcfs") return last;
    const urgency = ({ deadlineUs, priority }: MapRequest): number =>
      policy === "earliest-deadline" ? deadlineUs : priority;
    for (let i = this.running.length - 1; i >= 0; i--) {
      if (urgency(this.running[i]) > urgency(last)) last = this.running[i];
    }
    return last;
  }

  #preempt(request: MapRequest, plan: MapPlan): void {
    request.preemptions += 1;
    request.drafts = [];
    plan.preempted.push(request);
    this.#requeue(request);
  }

  #admit(request: MapRequest): boolean {
    const cache = this.#cache;
    const target = request.tokens.length;
    const sequence = cache.openSequence(request.tokens, request.namespace);
    if (sequence === undefined) return false;
    // A block shared for its beginning is held beside its copy: with no room for both, without it.
    const part = sequence.tokens.length % cache.blockSize;
    if (part > 0 && cache.blocksFor(target) - sequence.blocks.length + 1 > cache.available)
      cache.truncate(sequence, sequence.tokens.length - part);
    const cached = sequence.tokens.length;
    // A part that is kept needs its copy.
    const copied = cached % cache.blockSize > 0 ? 1 : 0;
    const needed = cache.blocksFor(target) - sequence.blocks.length + copied;
    const margin = this.running.length === 0 ? 0 : this.#options.watermarkBlocks;
    if (needed + margin > cache.available || !cache.reserve(sequence, target - cached)) {
      cache.close(sequence);
      return false;
    }
    this.#leave(request);
    if (request.preemptions === 0) this.#serve(request, this.#inputWeight * request.promptTokens);
    this.queriedTokens += target;
    this.hitTokens += cached;
    request.sequence = sequence;
    request.admittedNow = true;
    this.running.push(request);
    return true;
  }

  #row(request: MapRequest, newTokens: number, keepBlocks: number): MapRow {
    const computedBefore = request.sequence!.tokens.length;
    const known = request.tokens.concat(request.drafts);
    const last = computedBefore + newTokens >= request.tokens.length;
    const decode =
      last &&
      computedBefore + 1 === request.tokens.length &&
      request.tokens.length > request.promptTokens &&
      !request.admittedNow;
    const positions: number[] = [];
    for (let i = computedBefore; i < computedBefore + newTokens; i++) positions.push(i);
    return {
      request,
      phase: decode ? 1 : last ? 2 : 0,
      newTokens,
      computedBefore,
      keepBlocks,
      tokens: known.slice(computedBefore, computedBefore + newTokens),
      positions,
    };
  }

  #end(request: MapRequest): void {
    request.ended = true;
    if (request.sequence !== undefined) this.#cache.close(request.sequence);
    request.sequence = undefined;
  }

  /** Ends what was aborted in flight and drops what has ended. */
  #sweep(): void {
    for (const request of this.running) if (request.aborted && !request.ended) this.#end(request);
    this.running = this.running.filter((request) => !request.ended);
  }
}

/**
 * Engine: the loop submit -> step -> execute -> commit over one scheduler and one executor.
 *
 * `generate` streams one request's tokens; any number of requests run at the same time, batched by the
 * scheduler. The loop runs while there is work and sleeps otherwise. Everything happens on the caller's
 * thread except what the executor does elsewhere.
 *
 * One file, longer than others: each method reads or changes the live requests of the one loop.
 */
import type {
  EngineOptions,
  FinishReason,
  GenerateRequest,
  StepReport,
  TokenEvent,
} from "./engine-options.js";
import { requireDrafts, requireGroups, requireLanes, requireTokens } from "./engine-checks.js";
import { invalidArgument, QuartermasterError } from "./errors.js";
import { KeptCache } from "./eviction/kept-cache.js";
import type { EvictionPolicy } from "./eviction/policy.js";
import { ServedLanes } from "./eviction/serving.js";
import type { Executor, RowContext, SamplingOptions, StepResult } from "./executor.js";
import { Phase, type StepPlan } from "./plan.js";
import { resolveSampling } from "./sampling.js";
import type { Scheduler } from "./scheduler.js";
import type { RequestId } from "./scheduler-options.js";
import type { RunOptions } from "./statistics.js";
import { type Detokenizer, TextStream } from "./text-stream.js";
import { PlanTransfers } from "./transfers.js";

interface Live {
  readonly request: RequestId;
  readonly sampling: Readonly<Required<SamplingOptions>>;
  readonly tokens: Uint32Array;
  readonly promptTokens: number;
  readonly maxNewTokens: number;
  readonly endTokens: ReadonlySet<number>;
  readonly detokenizer: Detokenizer | undefined;
  readonly text: TextStream;
  readonly events: TokenEvent[];
  readonly lanes: ServedLanes | undefined;
  readonly keep: boolean;
  /** What went wrong while the step in flight was computed layer by layer. */
  failure: unknown;
  /** Its last event, held back until its cache can be kept. */
  finishing: TokenEvent | undefined;
  generated: number;
  done: boolean;
  error: unknown;
  wake: (() => void) | undefined;
  /** Stops listening to the request's signal. */
  unlisten: () => void;
}

/** Longest the loop goes on without letting timers and input in, in microseconds. */
const YIELD_AFTER_US = 10_000;
/** Timers take no more; the loop looks again then. */
const LONGEST_SLEEP_MS = 2 ** 31 - 1;

export class Engine {
  readonly scheduler: Scheduler;
  readonly executor: Executor;
  readonly #options: EngineOptions;
  readonly #live = new Map<RequestId, Live>();
  readonly #nowUs: () => number;
  readonly #transfers: PlanTransfers | undefined;
  #loop: Promise<void> | undefined;
  #closed = false;
  #interrupt: (() => void) | undefined;
  /** Lanes that the step in flight computes layer by layer. */
  #layered: readonly ServedLanes[] = [];
  /** What waits for the end of the step in flight. */
  readonly #between: (() => Promise<void>)[] = [];

  constructor(options: EngineOptions) {
    this.scheduler = options.scheduler;
    this.executor = options.executor;
    this.#options = options;
    this.#nowUs = options.nowUs ?? (() => performance.now() * 1000);
    const { blocks, blockSize } = options.executor.describe();
    const { cache } = options.scheduler;
    if (cache.blocks > blocks)
      throw invalidArgument("cache.blocks", cache.blocks, `at most the executor's ${blocks}`);
    if (cache.blockSize !== blockSize) {
      throw invalidArgument("cache.blockSize", cache.blockSize, `the executor's ${blockSize}`);
    }
    requireGroups(options);
    if (options.scheduler.hostTier !== undefined)
      this.#transfers = new PlanTransfers(options.scheduler, options.executor, this.#nowUs);
    if (options.lanes !== undefined) requireLanes(options.lanes, options);
    if (options.drafter !== undefined) requireDrafts(options);
  }

  /** Microseconds on the engine's clock. */
  nowUs(): number {
    return this.#nowUs();
  }

  /**
   * Submits a request at once and streams its tokens. Leaving the loop over the stream early aborts the
   * request. Throws what `Scheduler.submit` throws, before anything is streamed.
   */
  generate(request: GenerateRequest): AsyncIterable<TokenEvent> {
    return this.#stream(this.#submit(request));
  }

  /**
   * A copy of a kept cache: requests go on from either as if from both. Blocks are shared until they are written. Throws
   * OUT_OF_SEQUENCES, OUT_OF_BLOCKS, CLOSED.
   * @param policy of the same kind and options as the cache's
   */
  fork(kept: KeptCache, policy: EvictionPolicy): Promise<KeptCache> {
    return this.between(() => kept.fork(policy, this.executor));
  }

  /**
   * Runs a job while no step is in flight; the next one waits for it. It may change the cache and read and write blocks of
   * the executor. Rejects as the job does, and with CLOSED.
   */
  between<Result>(job: () => Promise<Result>): Promise<Result> {
    if (this.#closed) return Promise.reject(closedError());
    return new Promise((resolve, reject) => {
      this.#between.push(() => job().then(resolve, reject));
      this.#interrupt?.();
      this.#loop ??= this.#run();
    });
  }

  /** Ends every request with CLOSED, waits for the step in flight, and closes the executor. Idempotent. */
  async close(): Promise<void> {
    if (!this.#closed) {
      this.#closed = true;
      for (const live of [...this.#live.values()]) this.#fail(live, closedError());
      this.#interrupt?.();
    }
    await this.#loop;
    await this.#transfers?.settled();
    await this.executor.close();
  }

  #submit(request: GenerateRequest): Live {
    if (this.#closed) throw closedError();
    const stop = request.stop ?? [];
    const detokenizer = this.#options.detokenizer?.();
    if (stop.length > 0 && detokenizer === undefined) {
      throw invalidArgument("stop", stop, "no stop strings: this engine has no detokenizer");
    }
    if (stop.some((text) => typeof text !== "string" || text === "")) {
      throw invalidArgument("stop", stop, "texts that are not empty");
    }
    if (request.signal?.aborted) throw abortedError(request.signal);
    const sampling = resolveSampling(request.sampling);
    const prompt =
      request.from === undefined ? request.tokens : [...request.from.tokens, ...Array.from(request.tokens)];
    const lanes = this.#lanesFor(request, prompt.length);
    const id = this.#enter(request, prompt, lanes);
    const promptTokens = prompt.length;
    const tokens = new Uint32Array(promptTokens + request.maxNewTokens);
    tokens.set(prompt);
    const eos = request.ignoreEos ? [] : (this.#options.eosTokenIds ?? []);
    const live: Live = {
      request: id,
      sampling,
      tokens,
      promptTokens,
      maxNewTokens: request.maxNewTokens,
      endTokens: new Set([...eos, ...(request.stopTokenIds ?? [])]),
      detokenizer,
      text: new TextStream(stop),
      events: [],
      lanes,
      keep: request.keep ?? false,
      failure: undefined,
      finishing: undefined,
      generated: 0,
      done: false,
      error: undefined,
      wake: undefined,
      unlisten: () => request.signal?.removeEventListener("abort", onAbort),
    };
    const onAbort = (): void => this.#fail(live, abortedError(request.signal));
    request.signal?.addEventListener("abort", onAbort, { once: true });
    this.#live.set(id, live);
    this.#interrupt?.();
    this.#loop ??= this.#run();
    return live;
  }

  /** Submits to the scheduler, and says what the sequence of a request that drops tokens begins with. */
  #enter(request: GenerateRequest, tokens: ArrayLike<number>, lanes: ServedLanes | undefined): RequestId {
    const { from, keep = false, sharePrefix: share = false } = request;
    if (lanes === undefined) return this.scheduler.submit(request);
    const { peakSlots, lastChunk } = lanes;
    const prefillBlocks = from === undefined ? lanes.prefillBlocks : 0;
    const id = this.scheduler.submit({ ...request, tokens, peakSlots, lastChunk });
    if (from === undefined && !keep && !share && prefillBlocks === 0) return id;
    const held = from?.take();
    const start = { share, keep, ...(prefillBlocks > 0 && { prefillBlocks }) };
    this.scheduler.lanes(id, { ...start, ...(held && { sequence: held.sequence }) });
    if (held) lanes.adopt(held);
    return id;
  }

  async *#stream(live: Live): AsyncGenerator<TokenEvent> {
    try {
      for (let next = 0; ; next++) {
        while (next === live.events.length && !live.done) {
          await new Promise<void>((resolve) => (live.wake = resolve));
        }
        if (next === live.events.length) break;
        yield live.events[next];
      }
      if (live.error !== undefined) throw live.error;
    } finally {
      if (!live.done) this.#fail(live, undefined);
    }
  }

  async #run(): Promise<void> {
    let yieldedUs = this.#nowUs();
    // The first step waits for the caller's other submissions of this turn.
    await Promise.resolve();
    try {
      while (this.#live.size > 0 || this.#between.length > 0) {
        for (const job of this.#between.splice(0)) await job();
        if (this.#live.size > 0) await this.#step();
        if (this.#nowUs() - yieldedUs > YIELD_AFTER_US) {
          await yieldToHost();
          yieldedUs = this.#nowUs();
        }
      }
    } catch (error) {
      this.#giveUp(error);
      for (const job of this.#between.splice(0)) await job();
    } finally {
      // At once, not a turn later: a request submitted in between would find a loop that has stopped looking.
      this.#loop = undefined;
    }
  }

  async #step(): Promise<void> {
    const startUs = this.#nowUs();
    const ended = this.#transfers?.ended;
    const plan = this.scheduler.step(startUs);
    const preempted = this.#readOutcomes();
    // Without all that its batch reads a step is planned again.
    if ((await this.#transfers?.begin(plan)) === false) return this.scheduler.abandon(plan.stepId);
    if (plan.rows === 0) {
      this.scheduler.commit(plan.stepId, this.#nowUs(), { tokens: [] });
      // Who made room without a transfer, its copies being valid, has it taken in the next step.
      if (preempted > 0 || this.#transfers?.ended !== ended) return;
      if (this.#transfers && this.#transfers.inFlight > 0) return this.#transfers.settled(true);
      return this.#idle();
    }
    const summary = summarise(plan);
    let result: StepResult;
    try {
      const asked = this.#ask(plan);
      result = await this.executor.run(plan, (row) => this.#context(plan.requests[row]), asked);
      requireTokens(result, plan, this.executor.describe().vocabSize);
    } catch (error) {
      this.#endLayered();
      this.#abandon(plan, error);
      return;
    }
    this.#endLayered();
    const endUs = this.#nowUs();
    const answered = this.#commit(plan, result, endUs);
    await this.#evict(plan, result);
    this.#draft(answered);
    this.#options.onStep?.({ ...summary, startUs, endUs, preempted });
  }

  /** Nothing to run: waits for the next arrival, or ends requests that nobody will ever make room for. */
  async #idle(): Promise<void> {
    const wakeUs = this.scheduler.nextWakeUs();
    if (wakeUs < Infinity) {
      await this.#sleep((wakeUs - this.#nowUs()) / 1000);
    } else if (this.scheduler.running === 0 && this.scheduler.waiting > 0) {
      const error = new QuartermasterError(
        "OUT_OF_BLOCKS",
        "blocks held outside the scheduler leave no room to admit anything",
      );
      for (const live of [...this.#live.values()]) this.#fail(live, error);
    }
  }

  async #sleep(milliseconds: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, Math.min(Math.max(0, milliseconds), LONGEST_SLEEP_MS));
      this.#interrupt = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#interrupt = undefined;
  }

  /** Its deadline came while it waited. */
  #expire(request: RequestId): void {
    const live = this.#live.get(request);
    const message = `request ${request} was still waiting at its deadline`;
    if (live) this.#end(live, new QuartermasterError("EXPIRED", message));
  }

  /** Ends rejected and expired requests; returns how many were preempted. */
  #readOutcomes(): number {
    let preempted = 0;
    for (const outcome of this.scheduler.outcomes()) {
      if (outcome.kind === "preempted") {
        preempted += 1;
        this.#live.get(outcome.request)?.lanes?.preempted(outcome.swappedTokens > 0);
      }
      if (outcome.kind === "expired") this.#expire(outcome.request);
      if (outcome.kind !== "rejected") continue;
      const live = this.#live.get(outcome.request);
      if (live)
        this.#end(
          live,
          new QuartermasterError(outcome.code ?? "REJECTED", `request ${outcome.request} was rejected`),
        );
    }
    return preempted;
  }

  /** Lanes of a request that drops tokens. Throws UNSUPPORTED, TOO_LONG, INVALID_ARGUMENT. */
  #lanesFor(request: GenerateRequest, promptTokens: number): ServedLanes | undefined {
    const { lanes } = this.#options;
    const { from, maxNewTokens, keep = false, sharePrefix = false } = request;
    const evict = from?.policy ?? request.evict;
    if (evict === undefined) {
      if (keep || sharePrefix) throw invalidArgument("evict", evict, "a policy, with keep or sharePrefix");
      return undefined;
    }
    if (lanes === undefined) throw invalidArgument("evict", evict, "nothing: this engine has no lanes");
    if (from !== undefined && (request.evict !== undefined || sharePrefix || !from.isOpen))
      throw invalidArgument("from", from, "a kept cache that is not used up, without evict and sharePrefix");
    if (sharePrefix && lanes.folded)
      throw invalidArgument("sharePrefix", sharePrefix, "false: this engine's lanes are folded");
    if (from !== undefined && request.tokens.length === 0)
      throw invalidArgument("tokens", request.tokens, "at least one token behind the kept ones");
    const most = promptTokens + maxNewTokens;
    if (most > lanes.capacity)
      throw new QuartermasterError("TOO_LONG", `${most} tokens, and lanes of ${lanes.capacity} slots`, {
        argument: "tokens",
        value: most,
      });
    const lazy = request.compaction === "lazy";
    if (lazy && (lanes.folded || keep || sharePrefix || from !== undefined))
      throw invalidArgument("compaction", "lazy", "dense with folded lanes, keep, from and sharePrefix");
    return new ServedLanes(evict, lanes, this.executor, promptTokens, maxNewTokens, { from, lazy, keep });
  }

  /** What the executor is asked beside the plan; undefined when no row's request drops tokens. */
  #ask(plan: StepPlan): RunOptions | undefined {
    const rows = Array.from(plan.requests, (request, row) => this.#live.get(request)?.lanes?.row(plan, row));
    if (rows.every((row) => row === undefined)) return undefined;
    const asked = {
      lanes: (row: number) => rows[row]?.lanes,
      statistics: (row: number) => rows[row]?.statistics,
    };
    const layered = Array.from(plan.requests, (request) => this.#live.get(request)).map((live) =>
      live?.lanes?.isLayered ? live : undefined,
    );
    if (layered.every((live) => live === undefined)) return asked;
    this.#layered = layered.flatMap((live) => live?.lanes ?? []);
    const afterLayer: RunOptions["afterLayer"] = async (layer, statistics) => {
      for (const [row, live] of layered.entries()) {
        if (live?.lanes === undefined || live.failure !== undefined) continue;
        const view = live.lanes.policy.needs.prefill === 0 ? undefined : statistics(row, layer);
        try {
          await live.lanes.followLayer(layer, plan.newTokens[row], view);
        } catch (error) {
          live.failure = error;
        }
      }
    };
    return { ...asked, afterLayer };
  }

  #endLayered(): void {
    for (const lanes of this.#layered) lanes.endRun();
    this.#layered = [];
  }

  /** Lets the policies of the step's rows see what was measured, and carries out what they answer. */
  async #evict(plan: StepPlan, result: StepResult): Promise<void> {
    for (let row = 0; row < plan.rows; row++) {
      const live = this.#live.get(plan.requests[row]);
      if (live?.lanes === undefined || live.done) continue;
      const { policy } = live.lanes;
      const phase = live.lanes.phaseOf(plan.phases[row]);
      const asked = phase === Phase.Decode ? policy.needs.decode : policy.needs.prefill;
      const measured = asked === 0 ? undefined : (layer: number) => result.statistics!(row, layer);
      try {
        if (live.failure !== undefined) throw live.failure;
        await live.lanes.follow(phase, plan.newTokens[row], measured);
        if (live.finishing !== undefined && !live.done) await this.#keep(live, live.lanes, live.finishing);
      } catch (cause) {
        const message = `dropping tokens failed: ${cause instanceof Error ? cause.message : String(cause)}`;
        const full = cause instanceof QuartermasterError && cause.code === "OUT_OF_BLOCKS";
        const code = full ? "OUT_OF_BLOCKS" : "EXECUTOR_FAILED";
        this.#fail(live, new QuartermasterError(code, message, { cause }));
      }
    }
  }

  /** Hands out the cache of a request that has finished, with its last event. */
  async #keep(live: Live, lanes: ServedLanes, event: TokenEvent): Promise<void> {
    const held = await lanes.keep();
    const known = live.tokens.slice(0, live.promptTokens + live.generated);
    this.#deliver(live, { ...event, kept: new KeptCache(held, lanes.policy, known, lanes.budgetTokens) });
  }

  #context(request: RequestId): RowContext {
    const live = this.#live.get(request);
    if (live === undefined) return ABORTED_CONTEXT;
    const known = live.promptTokens + live.generated;
    return { sampling: live.sampling, tokens: live.tokens.subarray(0, known), generated: live.generated };
  }

  /** Enters a step's results; returns whose rows have sampled. */
  #commit(plan: StepPlan, result: StepResult, timeUs: number): Live[] {
    const finished = new Uint8Array(plan.samplingRows);
    const tokens = result.tokens.slice();
    const accepted = Uint32Array.from(tokens, (_, sample) => result.accepted?.[sample] ?? 0);
    const answered: Live[] = [];
    const deliveries: (() => void)[] = [];
    for (let row = 0, sample = 0; row < plan.rows; row++) {
      if (plan.phases[row] === Phase.PrefillChunk) continue;
      const live = this.#live.get(plan.requests[row]);
      if (live !== undefined) {
        const drafts = plan.tokenStart[row] + 1;
        const picked = [...plan.tokens.subarray(drafts, drafts + accepted[sample]), tokens[sample]];
        for (const [right, token] of picked.entries()) {
          let event: TokenEvent;
          try {
            event = this.#advance(live, token, timeUs);
          } catch (error) {
            // Its detokenizer's fault, and nobody else's.
            accepted[sample] = right;
            tokens[sample] = token;
            deliveries.push(() => this.#drop(live, error));
            break;
          }
          if (live.keep && event.finishReason !== undefined) live.finishing = event;
          else deliveries.push(() => this.#deliver(live, event));
          if (event.finishReason === undefined) continue;
          // What was picked behind the end is not entered.
          finished[sample] = 1;
          accepted[sample] = right;
          tokens[sample] = token;
          break;
        }
        answered.push(live);
      }
      sample += 1;
    }
    this.scheduler.commit(plan.stepId, timeUs, { tokens, finished, accepted });
    for (const deliver of deliveries) deliver();
    return answered;
  }

  /** Lets the drafter guess for those who have just got a token. */
  #draft(answered: readonly Live[]): void {
    const { drafter } = this.#options;
    if (drafter === undefined) return;
    for (const live of answered) {
      const most = Math.min(this.scheduler.maxDraftTokens, live.maxNewTokens - live.generated - 1);
      if (live.done || live.lanes !== undefined || most <= 0) continue;
      try {
        const guess = drafter.draft(live.tokens.subarray(0, live.promptTokens + live.generated), most);
        if (guess.length > 0) this.scheduler.propose(live.request, Array.from(guess).slice(0, most));
      } catch (error) {
        this.#drop(live, error);
      }
    }
  }

  /** Takes one sampled token into a request's text. */
  #advance(live: Live, token: number, timeUs: number): TokenEvent {
    const index = live.generated;
    live.tokens[live.promptTokens + index] = token;
    live.generated = index + 1;
    let finishReason: FinishReason | undefined;
    let text = "";
    if (live.endTokens.has(token)) finishReason = "eos";
    else if (live.detokenizer) text = live.text.push(live.detokenizer.push(token));
    if (live.text.stopped) finishReason = "stop";
    else if (finishReason === undefined && live.generated === live.maxNewTokens) finishReason = "length";
    if (finishReason !== undefined && live.detokenizer) {
      text += live.text.push(live.detokenizer.finish());
      text += live.text.finish();
    }
    return { request: live.request, token, index, text, finishReason, timeUs };
  }

  #deliver(live: Live, event: TokenEvent): void {
    live.events.push(event);
    if (event.finishReason !== undefined) this.#end(live, undefined);
    else live.wake?.();
  }

  /** The executor failed: the step is taken back and the requests in it end with the executor's error. */
  #abandon(plan: StepPlan, cause: unknown): void {
    const requests = [...plan.requests];
    this.scheduler.abandon(plan.stepId);
    const message = `the executor failed: ${cause instanceof Error ? cause.message : String(cause)}`;
    for (const request of requests) {
      const live = this.#live.get(request);
      if (live) this.#fail(live, new QuartermasterError("EXECUTOR_FAILED", message, { cause }));
    }
  }

  /** Ends a request that the scheduler still has. */
  #fail(live: Live, error: unknown): void {
    if (live.done) return;
    // The scheduler has seen the end of a request whose cache is about to be kept.
    if (live.finishing !== undefined) live.lanes?.discard();
    else this.scheduler.abort(live.request);
    this.#end(live, error);
  }

  /** As `#fail`, of a request that the scheduler may not know any more. */
  #drop(live: Live, error: unknown): void {
    try {
      this.#fail(live, error);
    } catch {
      this.#end(live, error);
    }
  }

  /** The loop cannot go on: no step is left in flight, and no request that nobody waits for any more. */
  #giveUp(error: unknown): void {
    try {
      this.scheduler.abandon(this.scheduler.plan().stepId);
    } catch {
      // None was in flight, or the core is gone.
    }
    for (const live of [...this.#live.values()]) this.#drop(live, error);
  }

  #end(live: Live, error: unknown): void {
    live.done = true;
    live.error = error;
    live.unlisten();
    live.lanes?.close();
    this.#live.delete(live.request);
    live.wake?.();
  }
}

const ABORTED_CONTEXT: RowContext = {
  sampling: resolveSampling({}),
  tokens: new Uint32Array(0),
  generated: 0,
};

function summarise(plan: StepPlan): Omit<StepReport, "startUs" | "endUs" | "preempted"> {
  return {
    stepId: plan.stepId,
    rows: plan.rows,
    decodeTokens: plan.tokenStart[plan.decodeRows],
    prefillTokens: plan.totalTokens - plan.tokenStart[plan.decodeRows],
    running: plan.running,
    waiting: plan.waiting,
    freeBlocks: plan.freeBlocks,
    evictableBlocks: plan.evictableBlocks,
  };
}

function closedError(): QuartermasterError {
  return new QuartermasterError("CLOSED", "the engine has been closed");
}

function abortedError(signal: AbortSignal | undefined): QuartermasterError {
  return new QuartermasterError("ABORTED", "the request was aborted", { cause: signal?.reason });
}

/** Lets timers, input and signals in. */
function yieldToHost(): Promise<void> {
  return new Promise((resolve) => {
    if (typeof setImmediate === "function") setImmediate(resolve);
    else setTimeout(resolve, 0);
  });
}

/**
 * Conversations under changing priorities on a simulated machine: the shipped cache and scheduler decide who runs and what
 * is copied, the machine (machine.ts, copies.ts) says how long it takes. After "FastSwitch" (arXiv 2411.18424).
 *
 * A step begins once the copies that its batch waits for have ended; that wait is the stall. A finished turn's KV goes to
 * the host until the next one.
 */
import { Core } from "../../bindings/core.js";
import { type KvCacheOptions } from "../../bindings/kv-cache-options.js";
import { Phase, type StepPlan } from "../../bindings/plan.js";
import type { Scheduler } from "../../bindings/scheduler.js";
import type { HostTierOptions } from "../../bindings/host-tier.js";
import type { RequestId } from "../../bindings/scheduler-options.js";
import type { Conversation } from "./conversations.js";
import { CopyEngine, type CopyOptions } from "./copies.js";
import { type Machine, stepTimeUs } from "./machine.js";
import type { PriorityTrace } from "./priority-trace.js";

/** A way to switch contexts. */
export interface SwitchSystem {
  readonly name: string;
  readonly cache: Partial<KvCacheOptions>;
  /** Undefined: preempted requests, and conversations between turns, are computed again. */
  readonly hostTier: Pick<HostTierOptions, "blocking" | "reuse" | "swapIn"> | undefined;
  readonly copies: CopyOptions;
}

export interface SwitchOptions {
  machine: Machine;
  conversations: readonly Conversation[];
  trace: PriorityTrace;
  /** Updates of all priorities a step, 0 (none: order of arrival) to 1. */
  frequency: number;
  maxRunning?: number;
  maxBatchTokens?: number;
  seed?: number;
}

export interface SwitchFigures {
  /** Microseconds, one entry a turn, and one a token behind its turn's first. */
  readonly ttftUs: Float64Array;
  readonly tbtUs: Float64Array;
  readonly tokens: number;
  readonly steps: number;
  /** From the first arrival to the last token. */
  readonly elapsedUs: number;
  /** Time that steps computed, and time that batches waited for copies. */
  readonly busyUs: number;
  readonly stallUs: number;
  readonly preemptions: number;
  readonly blocksOut: number;
  readonly blocksIn: number;
  /** Blocks that need not be sent because their copies were valid. */
  readonly blocksKept: number;
  /** Mean blocks in a copy. */
  readonly granularity: number;
  /** Turns that waited longer than a minute for their first token. */
  readonly starved: number;
}

interface Live {
  readonly conversation: number;
  turn: number;
  /** When the current turn came, and when its last token did; 0: none yet. */
  arrivalUs: number;
  tokenUs: number;
}

/** Token ids do not matter: nothing is shared between conversations. */
const ZEROS = new Uint32Array(2 ** 16);
const STARVED_US = 60e6;

/** Numbers that are many. */
class Samples {
  #values = new Float64Array(2 ** 16);
  #count = 0;

  add(value: number): void {
    if (this.#count === this.#values.length) {
      const grown = new Float64Array(2 * this.#count);
      grown.set(this.#values);
      this.#values = grown;
    }
    this.#values[this.#count++] = value;
  }

  toArray(): Float64Array {
    return this.#values.slice(0, this.#count);
  }
}

/** Turns to come, the next one last. */
class Arrivals {
  readonly #due: { atUs: number; conversation: number }[] = [];

  add(atUs: number, conversation: number): void {
    let at = this.#due.length;
    while (at > 0 && this.#due[at - 1].atUs < atUs) at -= 1;
    this.#due.splice(at, 0, { atUs, conversation });
  }

  get nextUs(): number {
    return this.#due.length === 0 ? Infinity : this.#due[this.#due.length - 1].atUs;
  }

  take(): { atUs: number; conversation: number } {
    return this.#due.pop()!;
  }
}

async function schedulerFor(system: SwitchSystem, options: SwitchOptions): Promise<Scheduler> {
  const { machine, conversations, frequency } = options;
  const maxRunning = options.maxRunning ?? 128;
  const tokens = conversations.map(({ turns }) =>
    turns.reduce((sum, { promptTokens, answerTokens }) => sum + promptTokens + answerTokens, 0),
  );
  const core = await Core.create({ seed: options.seed ?? 1 });
  const cache = core.kvCache({
    blocks: machine.blocks,
    blockSize: machine.blockSize,
    maxSequences: 4 * maxRunning,
    maxSequenceTokens: Math.max(...tokens),
    prefixCache: false,
    ...system.cache,
  });
  return core.scheduler({
    cache,
    vocabSize: 2,
    maxRequests: conversations.length,
    maxRunning,
    maxBatchTokens: options.maxBatchTokens ?? 512,
    tokenCapacity: tokens.reduce((sum, count) => sum + Math.ceil(count / 256) * 256, 0),
    policy: "priority",
    preemptive: frequency > 0,
    ...(system.hostTier && { hostTier: { ...system.hostTier, blocks: machine.hostBlocks } }),
  });
}

class Simulation {
  nowUs = 0;
  readonly copies: CopyEngine;
  readonly arrivals = new Arrivals();
  readonly requests = new Map<RequestId, Live>();
  readonly requestOf: (RequestId | undefined)[];
  readonly ttft = new Samples();
  readonly tbt = new Samples();
  update = 0;
  steps = 0;
  busyUs = 0;
  stallUs = 0;
  preemptions = 0;
  starved = 0;
  #untilUpdate: number;

  constructor(
    readonly scheduler: Scheduler,
    system: SwitchSystem,
    readonly options: SwitchOptions,
  ) {
    this.copies = new CopyEngine(options.machine, system.copies);
    this.requestOf = options.conversations.map(() => undefined);
    options.conversations.forEach(({ arrivalUs }, i) => this.arrivals.add(arrivalUs, i));
    this.#untilUpdate = this.#interval;
  }

  get #interval(): number {
    return this.options.frequency === 0 ? Infinity : Math.round(1 / this.options.frequency);
  }

  run(): void {
    let idle = 0;
    for (;;) {
      this.#report();
      while (this.arrivals.nextUs <= this.nowUs) this.#arrive();
      const plan = this.scheduler.step(this.nowUs);
      const readyUs = this.copies.begin(plan, this.nowUs);
      const preempted = this.#countPreemptions();
      if (plan.rows > 0) {
        idle = 0;
        this.#execute(plan, readyUs);
        continue;
      }
      this.scheduler.commit(plan.stepId, this.nowUs, { tokens: [] });
      this.#settleAt(readyUs);
      const endUs = this.copies.nextEndUs();
      const wakeUs = Math.min(endUs, this.arrivals.nextUs);
      if (preempted > 0) continue;
      if (wakeUs === Infinity) {
        if (this.scheduler.waiting === 0) return;
        if (++idle > 8) throw new Error("the scheduler waits for nothing");
        continue;
      }
      // Nothing to run before copies have ended: the device waits for them.
      if (endUs <= this.arrivals.nextUs) this.stallUs += Math.max(0, endUs - this.nowUs);
      this.nowUs = Math.max(this.nowUs, wakeUs);
    }
  }

  /** Tells the scheduler what has ended by now. */
  #report(): void {
    for (const { id, blocks, beganUs, endUs } of this.copies.ended(this.nowUs))
      this.scheduler.transferred(id, blocks, endUs - beganUs);
  }

  #settleAt(readyUs: number): void {
    this.stallUs += readyUs - this.nowUs;
    this.nowUs = readyUs;
    this.#report();
  }

  #execute(plan: StepPlan, readyUs: number): void {
    const { machine } = this.options;
    let context = 0;
    for (let row = 0; row < plan.rows; row++) context += plan.computedBefore[row] + plan.newTokens[row];
    const takesUs = stepTimeUs(machine, plan.totalTokens, context);
    this.#settleAt(readyUs);
    this.busyUs += takesUs;
    this.nowUs += takesUs;
    const sampled: RequestId[] = [];
    for (let row = 0; row < plan.rows; row++)
      if (plan.phases[row] !== Phase.PrefillChunk) sampled.push(plan.requests[row]);
    this.scheduler.commit(plan.stepId, this.nowUs, { tokens: ZEROS.subarray(0, sampled.length) });
    for (const request of sampled) this.#token(this.requests.get(request)!);
    for (const { kind, request } of this.scheduler.outcomes())
      if (kind === "finished") this.#answered(request);
    this.steps += 1;
    if (--this.#untilUpdate === 0) this.#prioritize();
  }

  #token(live: Live): void {
    if (live.tokenUs === 0) {
      this.ttft.add(this.nowUs - live.arrivalUs);
      this.starved += Number(this.nowUs - live.arrivalUs > STARVED_US);
    } else this.tbt.add(this.nowUs - live.tokenUs);
    live.tokenUs = this.nowUs;
  }

  #answered(request: RequestId): void {
    const live = this.requests.get(request)!;
    const { turns } = this.options.conversations[live.conversation];
    live.turn += 1;
    if (live.turn < turns.length) this.arrivals.add(this.nowUs + turns[live.turn].pauseUs, live.conversation);
    else {
      this.requests.delete(request);
      this.requestOf[live.conversation] = undefined;
    }
  }

  #arrive(): void {
    const { atUs, conversation } = this.arrivals.take();
    const { turns } = this.options.conversations[conversation];
    const priority = this.#priority(conversation);
    const known = this.requestOf[conversation];
    const turn = known === undefined ? 0 : this.requests.get(known)!.turn;
    const { promptTokens, answerTokens: maxNewTokens } = turns[turn];
    const tokens = ZEROS.subarray(0, promptTokens);
    const last = turn + 1 === turns.length;
    if (known === undefined) {
      const request = this.scheduler.submit({ tokens, maxNewTokens, priority, turns: !last });
      this.requestOf[conversation] = request;
      this.requests.set(request, { conversation, turn: 0, arrivalUs: atUs, tokenUs: 0 });
      return;
    }
    this.scheduler.setPriority(known, priority);
    this.scheduler.nextTurn(known, { tokens, maxNewTokens, last });
    const live = this.requests.get(known)!;
    live.arrivalUs = atUs;
    live.tokenUs = 0;
  }

  #priority(conversation: number): number {
    return this.options.frequency === 0 ? 0 : this.options.trace.priority(conversation, this.update);
  }

  #prioritize(): void {
    this.#untilUpdate = this.#interval;
    this.update += 1;
    for (const [request, { conversation }] of this.requests)
      this.scheduler.setPriority(request, this.#priority(conversation));
  }

  #countPreemptions(): number {
    let preempted = 0;
    for (const { kind } of this.scheduler.outcomes()) preempted += Number(kind === "preempted");
    this.preemptions += preempted;
    return preempted;
  }
}

/** Runs all conversations to their ends. Throws what the scheduler throws for requests that can never run. */
export async function simulateSwitches(system: SwitchSystem, options: SwitchOptions): Promise<SwitchFigures> {
  const scheduler = await schedulerFor(system, options);
  const simulation = new Simulation(scheduler, system, options);
  simulation.run();
  scheduler.validate();
  const { copied } = simulation.copies;
  const runs = copied[1].runs + copied[2].runs;
  const tbtUs = simulation.tbt.toArray();
  const ttftUs = simulation.ttft.toArray();
  return {
    ttftUs,
    tbtUs,
    tokens: ttftUs.length + tbtUs.length,
    steps: simulation.steps,
    elapsedUs: simulation.nowUs - options.conversations[0].arrivalUs,
    busyUs: simulation.busyUs,
    stallUs: simulation.stallUs,
    preemptions: simulation.preemptions,
    blocksOut: copied[1].blocks,
    blocksIn: copied[2].blocks,
    blocksKept: scheduler.hostTier?.keptBlocks ?? 0,
    granularity: runs === 0 ? 0 : (copied[1].blocks + copied[2].blocks) / runs,
    starved: simulation.starved,
  };
}

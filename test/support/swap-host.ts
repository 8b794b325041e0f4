/**
 * A host with real memory on both sides: every K and V slot holds a digest of the tokens up to it, so that a block that
 * was moved wrongly, too early or too late shows at the first read. Transfers copy block by block, at random moments,
 * while steps go on, and fail at random.
 */
import assert from "node:assert/strict";
import {
  QuartermasterError,
  type RequestId,
  type Scheduler,
  type StepPlan,
  TRANSFER_WORDS,
} from "../../bindings/main.js";
import { Random } from "./random.js";

const OP = { copy: 0, out: 1, in: 2, wait: 3 };
const BEFORE = 0;

export interface Flight {
  readonly id: number;
  readonly out: boolean;
  /** Source and target block, and the tokens to move, in order. */
  readonly blocks: [source: number, target: number, tokens: number][];
  done: number;
}

export interface Submitted {
  readonly namespace: number;
  readonly tokens: number[];
  /** Tokens before those that it generates, and how many these are: of the turn that it is in. */
  promptTokens: number;
  maxNewTokens: number;
  /** Whether it stays when it has finished, for another turn. */
  turns: boolean;
}

export interface SwapHostOptions {
  vocab: number;
  /** Of 1,000 blocks moved, how many do not arrive; of a transfer's next block, how likely. */
  failures?: number | ((flight: Flight) => number);
  /** Mistakes to make, for the tests of the tests. */
  mistake?: "ignore-waits" | "no-data";
  /** What a step and a transfer take, in microseconds. */
  stepUs?: () => number;
  transferUs?: (flight: Flight) => number;
  /** Sees each plan before anything of it is carried out, and each transfer when it has ended. */
  onPlan?: (plan: StepPlan) => void;
  onEnd?: (flight: Flight, us: number) => void;
  /** Sees each step that was executed, with what it took. */
  onStep?: (plan: StepPlan, us: number) => void;
}

/** Digest of a token behind a prefix. */
function chain(before: number, token: number): number {
  return (Math.imul(before ^ (token + 0x9e3779b9), 0x85ebca6b) ^ (before >>> 13)) >>> 0;
}

export class SwapHost {
  readonly live = new Map<RequestId, Submitted>();
  /** Between two turns. */
  readonly idle = new Map<RequestId, Submitted>();
  readonly flights = new Map<number, Flight>();
  readonly device: Uint32Array;
  readonly host: Uint32Array;
  /** Blocks sent by each swap-out that has begun, by transfer. */
  readonly sent: number[] = [];
  finished = 0;
  swapped = 0;
  nowUs = 0;
  /** Steps that were given up because what their batch was to read had not arrived. */
  lost = 0;
  #lost = false;

  constructor(
    readonly scheduler: Scheduler,
    readonly random: Random,
    readonly options: SwapHostOptions,
  ) {
    const { cache } = scheduler;
    this.device = new Uint32Array(cache.blocks * cache.blockSize);
    this.host = new Uint32Array(scheduler.hostTier!.blocks * cache.blockSize);
  }

  submit(promptTokens: number, maxNewTokens: number, namespace = 0, priority = 0, turns = false): void {
    const tokens = this.#tokens(promptTokens);
    this.#refusable(() => {
      const request = this.scheduler.submit({ tokens, maxNewTokens, namespace, priority, turns });
      this.live.set(request, { namespace, tokens, promptTokens, maxNewTokens, turns });
    });
  }

  /** A request between two turns goes on. */
  nextTurn(request: RequestId, promptTokens: number, maxNewTokens: number, last: boolean): void {
    const state = this.idle.get(request)!;
    const tokens = this.#tokens(promptTokens);
    this.#refusable(() => {
      this.scheduler.nextTurn(request, { tokens, maxNewTokens, last });
      state.tokens.push(...tokens);
      Object.assign(state, { promptTokens: state.tokens.length, maxNewTokens, turns: !last });
      this.idle.delete(request);
      this.live.set(request, state);
    });
  }

  #tokens(count: number): number[] {
    const { random } = this;
    return Array.from({ length: count }, (_, i) =>
      random.below(12) === 0 ? random.below(this.options.vocab) : i % this.options.vocab,
    );
  }

  #refusable(run: () => void): void {
    try {
      run();
    } catch (error) {
      assert.ok(error instanceof QuartermasterError);
      assert.ok(["OUT_OF_REQUESTS", "OUT_OF_TOKENS", "TOO_LONG"].includes(error.code), error.code);
    }
  }

  abort(request: RequestId): void {
    this.scheduler.abort(request);
    this.live.delete(request);
    this.idle.delete(request);
  }

  /** One step; `between` happens while it is in flight. False: it was abandoned. */
  step(between: () => void = () => {}, abandon = false): boolean {
    const { scheduler } = this;
    this.nowUs += 20;
    const plan = scheduler.step(this.nowUs);
    this.#readOutcomes();
    this.options.onPlan?.(plan);
    // What an abandoned step asked to be waited for may not have been.
    this.#lost = false;
    this.#begin(plan, abandon);
    abandon ||= this.#lost;
    if (this.#lost) this.#isRefused(plan);
    if (!abandon) this.#run(plan);
    this.drift(4);
    between();
    if (abandon) {
      this.lost += Number(this.#lost);
      scheduler.abandon(plan.stepId);
      return false;
    }
    this.#commit(plan);
    return true;
  }

  /** A step whose batch reads what has not arrived cannot be committed. */
  #isRefused(plan: StepPlan): void {
    const results = { tokens: new Uint32Array(plan.samplingRows) };
    assert.throws(() => this.scheduler.commit(plan.stepId, this.nowUs, results), { code: "COPIES_PENDING" });
  }

  /** Some blocks of some transfers move; some transfers end. */
  drift(moves: number): void {
    for (let i = 0; i < moves && this.flights.size > 0; i++)
      this.#move(this.random.pick([...this.flights.values()]));
  }

  /** Everything in flight ends. */
  settle(): void {
    for (const flight of [...this.flights.values()]) this.#finish(flight);
  }

  /** Steps until nobody is left; those between two turns are aborted. */
  drain(): void {
    for (const state of this.live.values()) state.turns = false;
    for (const request of [...this.idle.keys()]) this.abort(request);
    for (let i = 0; this.live.size > 0; i++) {
      assert.ok(i < 20_000, "every request comes to its end");
      if (!this.step() || this.scheduler.running === 0) this.drift(8);
    }
    // What has been swapped out since the last plan.
    this.step();
    this.settle();
  }

  #begin(plan: StepPlan, abandoned: boolean): void {
    const { blockSize } = this.scheduler.cache;
    const begun: [Flight, number][] = [];
    const ops = Array.from({ length: plan.transferCount }, (_, i) => plan.transfers[i * TRANSFER_WORDS]);
    const loads = ops.includes(OP.in);
    for (let i = 0; i < plan.transferCount; i++) {
      const [op, , source, , target, tokens, mark, id] = plan.transfers.subarray(
        i * TRANSFER_WORDS,
        (i + 1) * TRANSFER_WORDS,
      );
      if (op === OP.copy) continue;
      if (op === OP.wait) {
        assert.ok(this.flights.has(id), "a plan waits for what is in flight");
        // A host that gives the step up need not wait, unless the plan loads into those blocks.
        if ((!abandoned || loads) && this.options.mistake !== "ignore-waits")
          this.#finish(this.flights.get(id)!);
        continue;
      }
      let flight = begun.find(([known]) => known.id === id)?.[0];
      if (flight === undefined) {
        flight = { id, out: op === OP.out, blocks: [], done: 0 };
        assert.ok(!this.flights.has(id), "an id names one transfer");
        begun.push([flight, mark]);
        this.flights.set(id, flight);
      }
      for (let done = 0; done < tokens; done += blockSize) {
        const k = done / blockSize;
        flight.blocks.push([source + k, target + k, Math.min(blockSize, tokens - done)]);
      }
    }
    for (const [flight, mark] of begun) {
      if (flight.out) this.sent.push(flight.blocks.length);
      // A host that gives the step up need not wait, but no load begins before the swap-outs that its plan waits for.
      if (mark !== BEFORE || (abandoned && !(flight.out && loads))) continue;
      if (this.options.mistake === "ignore-waits" && flight.out) continue;
      this.#finish(flight);
    }
  }

  #move(flight: Flight): void {
    const { blockSize } = this.scheduler.cache;
    if (flight.done === flight.blocks.length) return this.#end(flight);
    const { failures = 0 } = this.options;
    if (this.random.below(1000) < (typeof failures === "number" ? failures : failures(flight)))
      return this.#end(flight);
    const [source, target, tokens] = flight.blocks[flight.done];
    flight.done += 1;
    const [from, to] = flight.out ? [this.device, this.host] : [this.host, this.device];
    if (this.options.mistake === "no-data") return;
    to.set(from.subarray(source * blockSize, source * blockSize + tokens), target * blockSize);
  }

  #finish(flight: Flight): void {
    while (this.flights.has(flight.id)) this.#move(flight);
  }

  #end(flight: Flight): void {
    this.flights.delete(flight.id);
    const us = this.options.transferUs?.(flight) ?? 1 + this.random.below(9);
    this.options.onEnd?.(flight, us);
    if (this.scheduler.transferred(flight.id, flight.done, us)) this.#lost = true;
    assert.throws(() => this.scheduler.transferred(flight.id, 0), { code: "NOT_FOUND" });
  }

  /** Copies within the device, then every row: what it reads is checked, what it computes is written. */
  #run(plan: StepPlan): void {
    const { blockSize } = this.scheduler.cache;
    for (let i = 0; i < plan.transferCount; i++) {
      const [op, , source, , target, tokens] = plan.transfers.subarray(
        i * TRANSFER_WORDS,
        (i + 1) * TRANSFER_WORDS,
      );
      if (op === OP.copy)
        this.device.copyWithin(target * blockSize, source * blockSize, source * blockSize + tokens);
    }
    for (let row = 0; row < plan.rows; row++) {
      const request = this.live.get(plan.requests[row]);
      const start = plan.tokenStart[row];
      const tokens = plan.tokens.subarray(start, plan.tokenStart[row + 1]);
      if (request === undefined) continue;
      const table = plan.tables.subarray(plan.tableStart[row], plan.tableStart[row] + plan.tableCount[row]);
      let digest = request.namespace;
      for (let position = 0; position < plan.computedBefore[row]; position++) {
        digest = chain(digest, request.tokens[position]);
        const slot = table[Math.floor(position / blockSize)] * blockSize + (position % blockSize);
        assert.equal(this.device[slot], digest, `position ${position} of request ${plan.requests[row]}`);
      }
      tokens.forEach((token, k) => {
        assert.equal(token, request.tokens[plan.computedBefore[row] + k]);
        digest = chain(digest, token);
        this.device[plan.slots[start + k]] = digest;
      });
    }
  }

  #commit(plan: StepPlan): void {
    const { vocab } = this.options;
    const sampled: number[] = [];
    for (let row = 0; row < plan.rows; row++) {
      if (plan.phases[row] === 0) continue;
      const request = this.live.get(plan.requests[row]);
      // The next token is a function of all before it, as greedy sampling is.
      sampled.push(request === undefined ? 0 : nextToken(request, vocab));
    }
    const us = this.options.stepUs?.() ?? 5;
    this.options.onStep?.(plan, us);
    this.scheduler.commit(plan.stepId, this.nowUs + us, { tokens: sampled });
    let sample = 0;
    for (let row = 0; row < plan.rows; row++) {
      if (plan.phases[row] === 0) continue;
      this.live.get(plan.requests[row])?.tokens.push(sampled[sample]);
      sample += 1;
    }
    this.#readOutcomes();
  }

  #readOutcomes(): void {
    for (const outcome of this.scheduler.outcomes()) {
      if (outcome.kind === "preempted" && outcome.swappedTokens > 0) this.swapped += 1;
      if (outcome.kind !== "finished" || !this.live.has(outcome.request)) continue;
      const state = this.live.get(outcome.request)!;
      assert.equal(state.tokens.length, state.promptTokens + state.maxNewTokens);
      this.live.delete(outcome.request);
      if (this.scheduler.state(outcome.request) === "idle") {
        if (state.turns) this.idle.set(outcome.request, state);
        else this.scheduler.abort(outcome.request);
      } else assert.ok(!state.turns);
      this.finished += 1;
    }
  }
}

/** What a model of this name space answers to these tokens. */
export function nextToken({ namespace, tokens }: Submitted, vocab: number): number {
  return tokens.reduce(chain, namespace) % vocab;
}

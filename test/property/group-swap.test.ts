/**
 * Cache groups and a host tier together: a preempted request goes there whole, with the blocks of its windows and its states, or
 * not at all. Whatever fails on the way, ends late, is aborted or overtaken, every request generates the tokens that it
 * would generate alone without a cache, and every block of both tiers comes back.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  type Build,
  type CacheGroup,
  type CacheGroupOptions,
  Core,
  createScheduler,
  type HostTierOptions,
  QuartermasterError,
  recordScheduler,
  replay,
  type RequestId,
  type Scheduler,
  type SchedulerSetup,
  type StepPlan,
  TRANSFER_WORDS,
  TransferMark,
  TransferOp,
} from "../../bindings/main.js";
import { writeGroups } from "../../bindings/cache-groups.js";
import { Random } from "../support/random.js";
import { guessAfter, nextToken, StateExecutor } from "../support/state-executor.js";

const VOCAB = 11;

interface Live {
  readonly tokens: number[];
  /** Tokens that it has when its answer is complete. */
  end: number;
  turns: boolean;
}

interface Flight {
  readonly id: number;
  readonly out: boolean;
  readonly before: boolean;
  readonly blocks: (readonly [source: number, target: number])[];
  done: number;
}

interface ServingOptions {
  /** Of 1,000 blocks, how many break their transfer off; or whether this one does. */
  readonly failures?: number | ((flight: Flight) => boolean);
  /** A mistake that must be noticed: moves of blocks of groups are left out. */
  readonly leavesGroupsOut?: boolean;
}

class Serving {
  readonly live = new Map<RequestId, Live>();
  readonly idle = new Map<RequestId, Live>();
  readonly flights = new Map<number, Flight>();
  readonly executor: StateExecutor;
  readonly groups: readonly CacheGroup[];
  preemptions = 0;
  finished = 0;
  turns = 0;
  lostSteps = 0;
  nowUs = 1;
  #lost = false;

  constructor(
    readonly scheduler: Scheduler,
    readonly random: Random,
    readonly options: ServingOptions = {},
  ) {
    const { cache } = scheduler;
    this.groups = [{ kind: "full", window: 0, blockSize: cache.blockSize }, ...cache.groups];
    this.executor = new StateExecutor(this.groups, VOCAB);
  }

  submit(length: number, maxNewTokens: number, priority: number, turns = false): RequestId | undefined {
    const { random, scheduler } = this;
    const twist = random.below(3) === 0 ? random.below(length) : length;
    const tokens = Array.from({ length }, (_, i) => (i < twist ? i % 5 : (3 * i) % 7));
    try {
      const request = scheduler.submit({ tokens, maxNewTokens, priority, namespace: random.below(2), turns });
      this.live.set(request, { tokens, end: length + maxNewTokens, turns });
      return request;
    } catch (error) {
      assert.ok(error instanceof QuartermasterError);
      assert.ok(["OUT_OF_REQUESTS", "POOL_TOO_SMALL", "OUT_OF_TOKENS"].includes(error.code), error.code);
      return undefined;
    }
  }

  nextTurn(request: RequestId, count: number, maxNewTokens: number, last: boolean): void {
    const one = this.idle.get(request)!;
    const said = Array.from({ length: count }, (_, i) => (i * i) % VOCAB);
    try {
      this.scheduler.nextTurn(request, { tokens: said, maxNewTokens, last });
    } catch (error) {
      assert.ok(error instanceof QuartermasterError);
      assert.ok(["TOO_LONG", "POOL_TOO_SMALL", "OUT_OF_TOKENS"].includes(error.code), error.code);
      return this.abort(request);
    }
    one.tokens.push(...said);
    this.idle.delete(request);
    this.live.set(request, { ...one, end: one.tokens.length + maxNewTokens, turns: !last });
    this.turns += 1;
  }

  abort(request: RequestId): void {
    this.scheduler.abort(request);
    this.live.delete(request);
    this.idle.delete(request);
  }

  step(between: () => void = () => {}, gives = false): void {
    const { random, scheduler } = this;
    if (scheduler.maxDraftTokens > 0) this.#propose();
    const plan = scheduler.step(this.nowUs++);
    this.preemptions += scheduler.outcomes().filter(({ kind }) => kind === "preempted").length;
    const rows = [...plan.requests];
    const sampling = [...plan.phases].flatMap((phase, row) => (phase === 0 ? [] : [row]));
    const drafts = rows.map((_, row) => [
      ...plan.tokens.subarray(plan.tokenStart[row] + 1, plan.tokenStart[row + 1]),
    ]);
    this.#lost = false;
    this.#begin(plan);
    between();
    this.lostSteps += Number(this.#lost);
    if (this.#lost) assert.throws(() => scheduler.commit(plan.stepId, this.nowUs, { tokens: [] }));
    if (this.#lost || gives) return scheduler.abandon(plan.stepId);
    const { tokens, accepted } = this.executor.run(plan);
    this.drift(random.below(4));
    scheduler.commit(plan.stepId, this.nowUs++, { tokens, accepted });
    sampling.forEach((row, sample) => {
      const live = this.live.get(rows[row]);
      if (live === undefined) return;
      for (const token of [...drafts[row].slice(0, accepted[sample]), tokens[sample]]) {
        assert.equal(token, nextToken(this.groups, live.tokens, VOCAB), "as without a cache");
        live.tokens.push(token);
      }
    });
    this.#readOutcomes();
  }

  /** Some blocks of some transfers move. */
  drift(moves: number): void {
    for (; moves > 0 && this.flights.size > 0; moves--)
      this.#move(this.random.pick([...this.flights.values()]));
  }

  settle(): void {
    for (const flight of [...this.flights.values()]) this.#finish(flight);
  }

  drain(): void {
    for (let i = 0; this.live.size + this.idle.size > 0; i++) {
      assert.ok(i < 5000, "every accepted request ends");
      for (const request of [...this.idle.keys()]) this.abort(request);
      this.step();
      this.drift(6);
      this.scheduler.validate();
    }
    this.settle();
    this.scheduler.validate();
    const { cache, hostTier } = this.scheduler;
    assert.equal(cache.available, cache.blocks);
    assert.ok(cache.groupStats().every(({ held }) => held === 0));
    const { free, blocks, inFlight, pendingBlocks } = hostTier!;
    assert.deepEqual([free, inFlight, pendingBlocks], [blocks, 0, 0]);
  }

  /** Guesses right, wrong, or right at first. */
  #propose(): void {
    const { random, scheduler, groups } = this;
    for (const [request, { tokens }] of this.live) {
      if (random.below(2) === 0) continue;
      scheduler.propose(request, guessAfter(random, groups, tokens, VOCAB));
    }
  }

  /** What a plan begins and waits for, in the order of docs/abi.md. */
  #begin(plan: StepPlan): void {
    const begun = new Map<number, Flight>();
    const { blockSize } = this.scheduler.cache;
    for (let i = 0; i < plan.transferCount; i++) {
      const record = plan.transfers.subarray(i * TRANSFER_WORDS, (i + 1) * TRANSFER_WORDS);
      const [op, , source, , target, tokens, mark, id] = record;
      if (op === TransferOp.Wait) {
        assert.ok(this.flights.has(id), "a plan waits for what is in flight");
        this.#finish(this.flights.get(id)!);
      }
      if (op !== TransferOp.SwapOut && op !== TransferOp.SwapIn) continue;
      assert.ok(!this.flights.has(id), "an id names one transfer");
      const before = mark === TransferMark.Before;
      const flight = begun.get(id) ?? { id, out: op === TransferOp.SwapOut, before, blocks: [], done: 0 };
      begun.set(id, flight);
      assert.equal(tokens % blockSize, 0, "whole pages");
      for (let k = 0; k < tokens / blockSize; k++) flight.blocks.push([source + k, target + k]);
    }
    for (const flight of begun.values()) this.flights.set(flight.id, flight);
    for (const out of [true, false])
      for (const flight of begun.values()) if (flight.before && flight.out === out) this.#finish(flight);
  }

  #finish(flight: Flight): void {
    while (this.flights.has(flight.id)) this.#move(flight);
  }

  #move(flight: Flight): void {
    const { failures = 0, leavesGroupsOut = false } = this.options;
    const { out, blocks, done } = flight;
    if (done === blocks.length) return this.#end(flight);
    const [source, target] = blocks[done];
    if (typeof failures === "number" ? this.random.below(1000) < failures : failures(flight)) {
      this.executor.breakSwap(out, target);
      return this.#end(flight);
    }
    if (!leavesGroupsOut || done === 0) this.executor.swap(out, source, target);
    flight.done += 1;
  }

  #end({ id, done }: Flight): void {
    this.flights.delete(id);
    if (this.scheduler.transferred(id, done, 1 + this.random.below(9))) this.#lost = true;
    assert.throws(() => this.scheduler.transferred(id, 0), { code: "NOT_FOUND" });
  }

  #readOutcomes(): void {
    for (const { request, kind } of this.scheduler.outcomes()) {
      const live = this.live.get(request);
      if (kind !== "finished" || live === undefined) continue;
      assert.equal(live.tokens.length, live.end);
      this.live.delete(request);
      if (live.turns) this.idle.set(request, live);
      this.finished += 1;
    }
  }
}

function randomGroups(random: Random, blockSize: number): CacheGroupOptions[] {
  return Array.from({ length: 1 + random.below(3) }, () => {
    const kind = random.pick(["full", "window", "window", "recurrent"] as const);
    const size = { blockSize: blockSize << random.below(3) };
    return kind === "window" ? { kind, window: 1 + random.below(20), ...size } : { kind, ...size };
  });
}

function setupOf(random: Random, seed: number): SchedulerSetup {
  const blockSize = 1 << random.below(3);
  const maxRunning = 2 + random.below(5);
  const auto = random.below(4) === 0;
  const preemptive = random.below(2) === 0;
  return {
    seed: seed >>> 0,
    cache: {
      blocks: Math.ceil((90 + random.below(160)) / blockSize) * 2,
      blockSize,
      maxSequences: 8,
      maxSequenceTokens: 96,
      prefixCache: random.below(4) !== 0,
      groups: randomGroups(random, blockSize),
    },
    scheduler: {
      vocabSize: VOCAB,
      maxRequests: 12,
      maxRunning,
      maxBatchTokens: maxRunning + random.below(40),
      maxChunkTokens: random.below(2) * (1 + random.below(12)),
      policy: preemptive ? "priority" : random.pick(["fcfs", "priority", "longest-prefix"] as const),
      preemptive,
      watermarkBlocks: random.below(4),
      tokenCapacity: 12 * 256,
      maxDraftTokens: random.below(2) * 4,
      hostTier: {
        blocks: 1 + random.below(400),
        copies: 1 + random.below(12),
        preemption: auto ? "auto" : "swap",
        blocking: random.below(4) === 0,
        reuse: random.below(2) === 0,
        swapIn: random.pick(["async", "sync", "adaptive"] as const),
        prefillUs: auto ? 1 + random.below(6) : 0,
        inUs: random.below(4),
        outUs: random.below(4),
      },
    },
  };
}

function operate(serving: Serving, operations: number): void {
  const { random, scheduler, live, idle } = serving;
  const someone = (): RequestId | undefined => {
    const all = [...live.keys(), ...idle.keys()];
    return all.length === 0 ? undefined : random.pick(all);
  };
  const abort = (): void => {
    const request = someone();
    if (request !== undefined) serving.abort(request);
  };
  const submit = (): void => {
    serving.submit(1 + random.below(60), 1 + random.below(30), random.below(3), random.below(4) === 0);
  };
  for (let i = 0; i < operations; i++) {
    const choice = random.below(12);
    const request = someone();
    if (choice < 3) submit();
    else if (choice === 3 && random.below(3) === 0) abort();
    else if (choice === 4 && request !== undefined) scheduler.setPriority(request, random.below(4));
    else if (choice === 5) serving.drift(random.below(20));
    else if (choice === 6 && idle.size > 0)
      serving.nextTurn(
        random.pick([...idle.keys()]),
        1 + random.below(9),
        1 + random.below(9),
        random.below(3) === 0,
      );
    else {
      const between = (): void => {
        if (random.below(9) === 0) abort();
        if (random.below(9) === 0) submit();
        if (random.below(3) === 0) serving.drift(random.below(20));
      };
      serving.step(between, random.below(9) === 0);
    }
    scheduler.validate();
  }
}

/** Lives with what seldom happens: loads that fail while a batch waits for them, blocks in transit that another step needs. */
const EVENTFUL: [seed: number, operations: number][] = [
  [56, 250],
  [70, 250],
  [76, 250],
  [120, 250],
  [134, 250],
];

async function run(build: Build, runs: number): Promise<void> {
  const sums = { swapOuts: 0, swapIns: 0, joins: 0, failures: 0, conflicts: 0, lostSteps: 0, turns: 0 };
  await fc.assert(
    fc.asyncProperty(fc.integer(), fc.integer({ min: 1, max: 250 }), async (seed, operations) => {
      const random = new Random(seed);
      const scheduler = await createScheduler(setupOf(random, seed), { build });
      const failures = random.below(2) * random.below(120);
      const serving = new Serving(scheduler, random, { failures });
      operate(serving, operations);
      serving.drain();
      const { swapOuts, swapIns, joins, failures: failed, conflicts } = scheduler.hostTier!;
      sums.swapOuts += swapOuts;
      sums.swapIns += swapIns;
      sums.joins += joins;
      sums.failures += failed;
      sums.conflicts += conflicts;
      sums.lostSteps += serving.lostSteps;
      sums.turns += serving.turns;
    }),
    { numRuns: runs, examples: EVENTFUL },
  );
  for (const [what, count] of Object.entries(sums)) assert.ok(count > 5, `${what}: ${count}`);
}

test("groups over two tiers: the tokens of a request alone, through failures, aborts and turns; every block back on both", () =>
  run("core", 150));
test("the same in the scalar build", () => run("core-scalar", 20));
test("the debug build checks itself after each call and finds nothing", () => run("debug", 10));

test("a host that leaves blocks of a transfer out is found out", async () => {
  let found = 0;
  for (let seed = 0; seed < 20; seed++) {
    const random = new Random(seed);
    const scheduler = await createScheduler(setupOf(random, seed));
    try {
      operate(new Serving(scheduler, random, { leavesGroupsOut: true }), 250);
    } catch (error) {
      assert.ok(error instanceof assert.AssertionError, String(error));
      found += 1;
    }
  }
  assert.ok(found > 5, `${found} of 20`);
});

test("a record of swaps over groups replays to the same plans in another build", async () => {
  let swapIns = 0;
  for (let seed = 1; seed < 17; seed++) {
    const random = new Random(seed);
    const lines: string[] = [];
    const scheduler = await recordScheduler(setupOf(random, seed), (line) => lines.push(line));
    const serving = new Serving(scheduler, random, { failures: 20 });
    operate(serving, 200);
    const { mismatch } = await replay(lines, { build: "core-threads" });
    assert.equal(mismatch, undefined);
    swapIns += scheduler.hostTier!.swapIns;
  }
  assert.ok(swapIns > 5, `${swapIns} were read back`);
});

const GROUPS: CacheGroupOptions[] = [
  { kind: "window", window: 9, blockSize: 8 },
  { kind: "recurrent", blockSize: 16 },
  { kind: "full", blockSize: 8 },
];
/** Blocks of 4; 61 tokens are 16 of the cache's own, 3 or less of the window, 1 state, and 8 of full attention. */
const COMPUTED = 61;
const WHOLE = 16 + 2 + 1 + 8;

async function pressed(hostTier: Partial<HostTierOptions>, options: ServingOptions = {}) {
  const core = await Core.create();
  const shape = { blocks: 42, blockSize: 4, maxSequences: 4, maxSequenceTokens: 128 };
  const cache = core.kvCache({ ...shape, prefixCache: false, groups: GROUPS });
  const scheduler = core.scheduler({
    cache,
    vocabSize: VOCAB,
    maxBatchTokens: 64,
    watermarkBlocks: 0,
    policy: "priority",
    preemptive: true,
    hostTier: { blocks: 100, ...hostTier },
  });
  const serving = new Serving(scheduler, new Random(1), options);
  const victim = serving.submit(60, 20, 5)!;
  serving.step();
  serving.step();
  assert.equal(scheduler.computed(victim), COMPUTED);
  serving.submit(64, 2, 0);
  const steps: number[] = [];
  for (let i = 0; i < 12; i++) {
    serving.step();
    steps.push(scheduler.computed(victim));
    serving.settle();
  }
  serving.drain();
  return { tier: scheduler.hostTier!, steps, lostSteps: serving.lostSteps };
}

test("what is sent are the blocks that the next token needs in each group, and they come back to one sequence of the same length", async () => {
  for (const swapIn of ["async", "sync", "adaptive"] as const) {
    const { tier, steps } = await pressed({ swapIn });
    assert.deepEqual(
      [tier.swapOuts, tier.swapIns, tier.sentBlocks, tier.loadedBlocks],
      [1, 1, WHOLE, WHOLE],
      swapIn,
    );
    const back = steps.find((computed) => computed > 0)!;
    assert.equal(back, COMPUTED + 1, "no token is computed again");
  }
});

test("a transfer that fails at any of its blocks costs the copy, and nothing else", async () => {
  for (const [swapIn, out] of [
    ["async", true],
    ["async", false],
    ["sync", false],
  ] as const)
    for (let at = 0; at < WHOLE; at += swapIn === "sync" ? 3 : 1) {
      const failures = (flight: Flight): boolean => flight.out === out && flight.done === at;
      const { tier, lostSteps } = await pressed({ swapIn }, { failures });
      assert.equal(tier.failures, 1);
      assert.equal(tier.swapIns, out ? 0 : 1);
      assert.equal(lostSteps, swapIn === "sync" ? 1 : 0);
    }
});

test("a tier without room for all blocks of a request takes none of it", async () => {
  assert.equal((await pressed({ blocks: WHOLE - 1 })).tier.swapOuts, 0);
  assert.equal((await pressed({ blocks: WHOLE })).tier.swapOuts, 1);
});

test("the cheaper way is chosen by the blocks of all groups", async () => {
  // To send and to read back all blocks costs 2 * WHOLE, to compute again COMPUTED tokens.
  const costs = { preemption: "auto", outUs: 1, inUs: 1 } as const;
  const limit = (2 * WHOLE) / COMPUTED;
  assert.equal((await pressed({ ...costs, prefillUs: limit * 0.99 })).tier.swapOuts, 0);
  assert.equal((await pressed({ ...costs, prefillUs: limit * 1.01 })).tier.swapOuts, 1);
});

test("what is still cached is not read back where computing the rest costs less", async () => {
  for (const prefixCache of [true, false]) {
    const core = await Core.create();
    const shape = { blocks: 100, blockSize: 4, maxSequences: 4, maxSequenceTokens: 128 };
    const cache = core.kvCache({ ...shape, prefixCache, groups: GROUPS });
    const scheduler = core.scheduler({
      cache,
      vocabSize: VOCAB,
      maxRunning: 1,
      maxBatchTokens: 64,
      policy: "priority",
      preemptive: true,
      // Of 61 tokens 48 are found where all groups have them: 13 are left, against WHOLE blocks.
      hostTier: { blocks: 100, preemption: "auto", outUs: 0.1, inUs: 1, prefillUs: 1 },
    });
    const serving = new Serving(scheduler, new Random(1));
    serving.submit(60, 20, 5);
    serving.step();
    serving.step();
    serving.submit(5, 2, 0);
    for (let i = 0; i < 6; i++) {
      serving.step();
      serving.settle();
    }
    serving.drain();
    const { swapOuts, swapIns } = scheduler.hostTier!;
    assert.deepEqual([swapOuts, swapIns], [1, prefixCache ? 0 : 1]);
  }
});

test("groups have to be there before the tier, whose rows they lengthen", async () => {
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 8, blockSize: 4, maxSequences: 2, maxSequenceTokens: 16 });
  core.scheduler({ cache, vocabSize: VOCAB, hostTier: { blocks: 8 } });
  const specs = writeGroups(core, [{ kind: "window", window: 4, blockSize: 4 }]);
  assert.equal(core.exports.kvGroupsCreate(cache.pointer, specs, 1), -1, "INVALID_ARGUMENT");
});

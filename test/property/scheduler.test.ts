/**
 * The request table and the whole step against a scheduler written with objects and arrays: equal plans,
 * always.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { MapCache } from "../../bench/peer/map-cache.js";
import { MapScheduler, type MapRequest } from "../../bench/peer/map-scheduler.js";
import {
  type Build,
  Core,
  type CoreLanes,
  type PolicyName,
  QuartermasterError,
  type RequestId,
  type Scheduler,
} from "../../bindings/main.js";
import { Random } from "../support/random.js";

const VOCAB = 7;
const CACHE = { blocks: 20, blockSize: 4, maxSequences: 8, maxSequenceTokens: 64 };

class Harness {
  readonly model: MapScheduler;
  readonly real = new Map<MapRequest, RequestId>();
  readonly modelOf = new Map<RequestId, MapRequest>();
  nowUs = 0;
  submitted = 0;
  finished = 0;
  aborted = 0;
  expired = 0;
  rejected = 0;
  proposed = 0;
  fed = 0;

  constructor(
    readonly scheduler: Scheduler,
    readonly cache: MapCache,
    options: {
      maxRunning: number;
      maxBatchTokens: number;
      maxChunkTokens: number;
      watermarkBlocks: number;
      policy: PolicyName;
      agingTokens: number;
      inputWeight: number;
      outputWeight: number;
      queueTimeoutUs: number;
      maxDraftTokens: number;
    },
    readonly random: Random,
  ) {
    this.model = new MapScheduler({ cache, ...options });
  }

  submit(): void {
    const { random, scheduler, model } = this;
    const length = 1 + random.below(24);
    const tokens = Array.from({ length }, (_, i) =>
      random.below(15) === 0 ? random.below(VOCAB) : i % VOCAB,
    );
    const options = {
      tokens,
      maxNewTokens: 1 + random.below(20),
      namespace: random.below(2),
      tenant: random.below(3),
      priority: random.below(3),
      arrivalUs: random.below(3) === 0 ? this.nowUs + random.below(40) : 0,
      ...(random.below(3) === 0 && { deadlineUs: this.nowUs + 1 + random.below(3600) / 4 }),
      ...(random.below(4) === 0 && { maxChunkTokens: 1 + random.below(6) }),
      ...(random.below(2) === 0 && { predictedTokens: random.below(40) }),
    };
    let handle: RequestId;
    try {
      handle = scheduler.submit(options);
    } catch (error) {
      assert.ok(error instanceof QuartermasterError);
      assert.ok(["OUT_OF_REQUESTS", "OUT_OF_TOKENS"].includes(error.code), error.code);
      return;
    }
    const request = model.submit(options);
    this.submitted += 1;
    this.real.set(request, handle);
    this.modelOf.set(handle, request);
  }

  abortOne(): void {
    const { random, scheduler, model } = this;
    const live = [...this.real.keys()];
    if (live.length === 0) return;
    const request = random.pick(live);
    scheduler.abort(this.real.get(request)!);
    model.abort(request);
    this.aborted += 1;
    this.forget(request);
    assert.throws(() => scheduler.abort(this.#dead), { code: "UNKNOWN_REQUEST" });
  }

  /** Another guess of how long an answer will be, whatever state its request is in. */
  predictOne(): void {
    const { random, scheduler, model } = this;
    if (this.real.size === 0) return;
    const [request, handle] = random.pick([...this.real]);
    const tokens = random.below(40);
    scheduler.setPrediction(handle, tokens);
    model.predict(request, tokens);
  }

  #dead = 0;

  forget(request: MapRequest): void {
    this.#dead = this.real.get(request)!;
    this.modelOf.delete(this.real.get(request)!);
    this.real.delete(request);
  }

  /** Proposes what decoding requests may generate next; others can make no use of it. */
  propose(): void {
    const { random, scheduler, model } = this;
    for (const [request, handle] of this.real) {
      if (random.below(2) === 0) continue;
      const drafts = Array.from({ length: random.below(7) }, () => random.below(VOCAB));
      assert.equal(scheduler.propose(handle, drafts), model.propose(request, drafts));
      this.proposed += request.drafts.length;
    }
  }

  /** One step, with something happening between step and commit now and then. */
  step(): void {
    const { scheduler, model, random, cache } = this;
    this.nowUs += random.below(12);
    if (scheduler.maxDraftTokens > 0) this.propose();
    const plan = scheduler.step(this.nowUs);
    const expected = model.step(this.nowUs);
    assert.equal(plan.rows, expected.rows.length);
    assert.throws(() => scheduler.step(this.nowUs), { code: "STEP_IN_FLIGHT" });
    let start = 0;
    expected.rows.forEach((row, i) => {
      assert.equal(this.modelOf.get(plan.requests[i]), row.request);
      assert.equal(plan.phases[i], row.phase);
      assert.equal(plan.newTokens[i], row.newTokens);
      assert.equal(plan.computedBefore[i], row.computedBefore);
      assert.equal(plan.tokenStart[i], start);
      assert.deepEqual([...plan.tokens.subarray(start, start + row.newTokens)], row.tokens);
      const table = plan.tables.subarray(plan.tableStart[i], plan.tableStart[i] + plan.tableCount[i]);
      assert.equal(table.length, row.request.sequence!.blocks.length);
      row.positions.forEach((position, k) => {
        const slot =
          table[Math.floor(position / cache.blockSize)] * cache.blockSize + (position % cache.blockSize);
        assert.equal(plan.slots[start + k], slot);
      });
      start += row.newTokens;
    });
    assert.equal(plan.totalTokens, start);
    assert.ok(
      plan.phases.subarray(0, plan.decodeRows).every((phase) => phase === 1),
      "decode rows first",
    );
    assert.ok(
      plan.phases.subarray(plan.decodeRows).every((phase) => phase !== 1),
      "decode rows first",
    );
    const preempted = scheduler.outcomes().filter((outcome) => outcome.kind === "preempted");
    assert.deepEqual(
      preempted.map((outcome) => this.modelOf.get(outcome.request)),
      expected.preempted,
    );
    this.noBlockIsWrittenTwice(plan.slots);
    this.drop(expected);

    for (let aborts = random.below(12) - 8; aborts > 0; aborts--) this.abortOne();
    if (random.below(4) === 0) this.predictOne();
    if (random.below(8) === 0) this.submit();
    if (random.below(6) === 0) {
      scheduler.abandon(plan.stepId);
      model.abandon();
    } else {
      this.commit(plan.stepId, plan.samplingRows);
    }
    assert.equal(scheduler.drafted.fed, this.fed);
  }

  /** What has waited past its deadline, or for too long, ends in both. */
  drop(expected: { expired: MapRequest[]; rejected: MapRequest[] }): void {
    for (const kind of ["expired", "rejected"] as const) {
      const dropped = this.scheduler.outcomes().filter((outcome) => outcome.kind === kind);
      const requests = dropped.map((outcome) => this.modelOf.get(outcome.request)!);
      assert.deepEqual(new Set(requests), new Set(expected[kind]));
      for (const request of requests) this.forget(request);
      this[kind] += requests.length;
    }
  }

  commit(stepId: number, samplingRows: number): void {
    const { scheduler, model, random } = this;
    const tokens = Array.from({ length: samplingRows }, () => random.below(VOCAB));
    const finished = tokens.map(() => random.below(12) === 0);
    assert.throws(() => scheduler.commit(stepId + 1, this.nowUs, { tokens, finished }), {
      code: "UNKNOWN_STEP",
    });
    if (samplingRows > 0) {
      const wrong = tokens.map(() => VOCAB);
      assert.throws(() => scheduler.commit(stepId, this.nowUs, { tokens: wrong }), { code: "INVALID_TOKEN" });
    }
    const fed = model.plan!.rows.flatMap(({ phase, newTokens }) =>
      phase === 0 ? [] : [phase === 1 ? newTokens - 1 : 0],
    );
    const accepted = fed.map((drafts) => random.below(drafts + 1));
    this.fed += fed.reduce((sum, drafts) => sum + drafts, 0);
    if (samplingRows > 0) {
      const wrong = fed.map((drafts) => drafts + 1);
      assert.throws(() => scheduler.commit(stepId, this.nowUs, { tokens, accepted: wrong }), {
        code: "INVALID_ARGUMENT",
      });
    }
    scheduler.commit(stepId, this.nowUs, { tokens, finished, accepted });
    model.commit(tokens, finished, accepted);
    for (const outcome of scheduler.outcomes()) {
      if (outcome.kind !== "finished") continue;
      const request = this.modelOf.get(outcome.request)!;
      assert.ok(request.ended, "finished in both");
      assert.equal(outcome.generated, request.tokens.length - request.promptTokens);
      assert.equal(outcome.preemptions, request.preemptions);
      this.finished += 1;
      this.forget(request);
    }
  }

  noBlockIsWrittenTwice(slots: Uint32Array): void {
    assert.equal(new Set(slots).size, slots.length, "two tokens of a step never share a slot");
  }

  compare(): void {
    const { scheduler, model, cache } = this;
    scheduler.validate();
    assert.equal(scheduler.waiting, model.waiting.length);
    assert.equal(scheduler.running, model.running.length);
    assert.equal(scheduler.arriving, model.arriving.length);
    for (let tenant = 0; tenant < 3; tenant++)
      assert.equal(scheduler.served(tenant), model.served.get(tenant) ?? 0);
    assert.equal(scheduler.cache.available, cache.available);
    const { cached, queriedTokens, hitTokens } = scheduler.cache.stats();
    assert.equal(cached, cache.cached.size);
    assert.deepEqual([queriedTokens, hitTokens], [model.queriedTokens, model.hitTokens]);
  }
}

async function start(build: Build, seed: number, prefixCache = true, maxDraftTokens = 0): Promise<Harness> {
  const random = new Random(seed);
  const maxRunning = 1 + random.below(8);
  const options = {
    maxRunning,
    maxBatchTokens: maxRunning + random.below(24),
    maxChunkTokens: random.below(3) === 0 ? 1 + random.below(6) : 0,
    watermarkBlocks: random.below(4),
    policy: random.pick([
      "fcfs",
      "priority",
      "shortest-first",
      "longest-prefix",
      "fair",
      "earliest-deadline",
    ] as const),
    agingTokens: 1 + random.below(4),
    tenants: 3,
    inputWeight: 1 + random.below(3),
    outputWeight: random.below(3),
    queueTimeoutUs: random.below(3) === 0 ? 40 + random.below(400) : 0,
    maxDraftTokens,
  };
  const partialReuse = prefixCache && random.below(3) === 0 ? 1 + random.below(4) : 0;
  const core = await Core.create({ build, seed: seed >>> 0 });
  const cache = core.kvCache({ ...CACHE, prefixCache, partialReuse });
  const scheduler = core.scheduler({
    cache,
    vocabSize: VOCAB,
    maxRequests: 24,
    tokenCapacity: 20 * 256,
    ...options,
  });
  return new Harness(scheduler, new MapCache({ ...CACHE, prefixCache, partialReuse }), options, random);
}

function drain(harness: Harness): void {
  harness.nowUs += 100;
  for (let i = 0; i < 4000 && harness.real.size > 0; i++) {
    const plan = harness.scheduler.step(harness.nowUs++);
    harness.drop(harness.model.step(harness.nowUs - 1));
    harness.commit(plan.stepId, plan.samplingRows);
  }
  assert.equal(harness.real.size, 0, "every accepted request ends");
  assert.equal(harness.scheduler.cache.available, CACHE.blocks, "and gives every block back");
  assert.equal(harness.finished + harness.aborted + harness.expired + harness.rejected, harness.submitted);
}

async function run(build: Build, runs: number, prefixCache = true, maxDraftTokens = 0): Promise<void> {
  let fed = 0;
  await fc.assert(
    fc.asyncProperty(fc.integer(), fc.integer({ min: 1, max: 600 }), async (seed, operations) => {
      const harness = await start(build, seed, prefixCache, maxDraftTokens);
      for (let i = 0; i < operations; i++) {
        const choice = harness.random.below(10);
        if (choice < 3) harness.submit();
        else if (choice === 3) harness.abortOne();
        else if (choice === 4 && harness.random.below(2) === 0) harness.predictOne();
        else harness.step();
        harness.compare();
      }
      drain(harness);
      fed += harness.fed;
    }),
    // Few random lives may all be too short for a draft.
    { numRuns: runs, examples: [[1, 300]] },
  );
  assert.equal(fed > 0, maxDraftTokens > 0, "drafts are fed where there are some");
}

test("100,000 random submits, steps, commits, abandons and aborts equal the model, validated after each", () =>
  run("core", 400));
test("the scalar build plans the same", () => run("core-scalar", 30));
test("the threads build plans the same", () => run("core-threads", 30));
test("the debug build checks itself after each call and finds nothing", () => run("debug", 10));
test("with drafts, right and wrong, plans and pool equal the model: the wrong ones leave nothing behind", async () => {
  await run("core", 100, true, 5);
  await run("debug", 8, true, 3);
});
test("without the prefix cache", () => run("core", 30, false));

test("snapshot at a step boundary, restore in another build: identical bytes after the same steps", async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer(), async (seed) => {
      const harness = await start("core", seed);
      for (let i = 0; i < 60; i++) harness.random.below(3) === 0 ? harness.submit() : harness.step();
      const restored = await Core.restore(harness.scheduler.core.snapshot(), { build: "core-threads" });
      const operate = (scheduler: Scheduler): void => {
        const random = new Random(seed + 1);
        for (let i = 0; i < 80; i++) {
          if (random.below(3) === 0) {
            const tokens = Array.from({ length: 1 + random.below(20) }, (_, at) => at % VOCAB);
            try {
              scheduler.submit({ tokens, maxNewTokens: 1 + random.below(9) });
            } catch (error) {
              assert.ok(error instanceof QuartermasterError);
            }
          }
          const plan = scheduler.step(1000 + i);
          const sampled = Array.from({ length: plan.samplingRows }, () => random.below(VOCAB));
          scheduler.commit(plan.stepId, 1000 + i, { tokens: sampled });
        }
      };
      operate(harness.scheduler);
      operate(restored.schedulers[0]);
      assert.deepEqual(restored.snapshot(), harness.scheduler.core.snapshot());
    }),
    { numRuns: 20 },
  );
});

test("the last chunk of a prompt is not cut short, and every prompt has its turn", async () => {
  for (let seed = 0; seed < 60; seed++) {
    const random = new Random(seed);
    const core = await Core.create({ build: seed % 4 === 0 ? "debug" : "core" });
    const size = { blocks: 400, blockSize: 4, maxSequences: 8, maxSequenceTokens: 256 };
    const cache = core.kvCache({ ...size, prefixCache: false });
    const maxBatchTokens = 9 + random.below(40);
    const maxChunkTokens = random.below(2) === 0 ? 0 : 4 + random.below(20);
    const shape = { cache, vocabSize: 9, maxRequests: 20, maxRunning: 8, maxBatchTokens, maxChunkTokens };
    const scheduler = core.scheduler({ ...shape, watermarkBlocks: 0 });
    const asked = new Map<number, number>();
    for (let i = 0; i < 20; i++) {
      const tokens = new Uint32Array(1 + random.below(120));
      const lastChunk = random.below(12);
      const peakSlots = random.below(2) * 40;
      const options = { tokens, maxNewTokens: 1 + random.below(30), lastChunk, peakSlots };
      asked.set(scheduler.submit(options), Math.min(lastChunk, tokens.length));
    }
    for (let now = 1; scheduler.running + scheduler.waiting > 0; now++) {
      assert.ok(now < 3000, `seed ${seed} comes to an end`);
      const plan = scheduler.step(now);
      assert.ok(plan.rows > 0);
      for (let row = 0; row < plan.rows; row++) {
        const wanted = asked.get(plan.requests[row])!;
        // Room for it beside a decode of everybody who may run.
        const possible = wanted + 8 <= maxBatchTokens && (maxChunkTokens === 0 || wanted <= maxChunkTokens);
        if (plan.phases[row] === 2 && possible) assert.ok(plan.newTokens[row] >= wanted, `seed ${seed}`);
      }
      scheduler.commit(plan.stepId, now, { tokens: new Uint32Array(plan.samplingRows) });
    }
    core.validate();
  }
});

test("requests that drop tokens get what admission promised them: none is preempted", async () => {
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 100, blockSize: 4, maxSequences: 32, maxSequenceTokens: 256 });
  const scheduler = core.scheduler({
    cache,
    vocabSize: 9,
    maxRequests: 64,
    maxRunning: 32,
    maxBatchTokens: 200,
    watermarkBlocks: 0,
  });
  const arena = core.laneArena({ cache, layers: 1, kvHeads: 1, capacity: 256, sequences: 32 });
  const lanes = new Map<number, CoreLanes>();
  for (let i = 0; i < 40; i++)
    scheduler.submit({ tokens: new Uint32Array(80), maxNewTokens: 60, peakSlots: 24 });
  let most = 0;
  for (let now = 1; scheduler.running + scheduler.waiting > 0; now++) {
    const plan = scheduler.step(now);
    assert.deepEqual(
      scheduler.outcomes().filter(({ kind }) => kind === "preempted"),
      [],
    );
    most = Math.max(most, plan.running);
    const rows = Array.from(plan.requests, (request, row) => ({
      request,
      sequence: plan.sequences[row],
      newTokens: plan.newTokens[row],
      phase: plan.phases[row],
    }));
    scheduler.commit(plan.stepId, now, { tokens: new Uint32Array(plan.samplingRows) });
    const ended = new Set(scheduler.outcomes().map(({ request }) => request));
    for (const { request, sequence, newTokens, phase } of rows) {
      if (ended.has(request)) {
        lanes.get(request)!.close();
        continue;
      }
      if (!lanes.has(request)) lanes.set(request, arena.open(sequence));
      const mine = lanes.get(request)!;
      mine.append(newTokens);
      const length = mine.lane(0, 0).length;
      if (phase === 0 || (phase === 1 && length < 24)) continue;
      // Down to 8 slots after the prompt, then grown to the promised 24 and dropped again.
      const plan = mine.plan({ keep: [Uint32Array.from({ length: 8 }, (_, i) => length - 8 + i)] });
      plan.allMoves();
      plan.commit();
    }
    core.validate();
  }
  assert.ok(most >= 12, `${most} ran at a time`);
});

test("a prompt that has the beginning of a cached block runs also where block and copy have no room together", async () => {
  const core = await Core.create();
  const cache = core.kvCache({
    blocks: 2,
    blockSize: 4,
    maxSequences: 1,
    maxSequenceTokens: 8,
    partialReuse: 1,
  });
  const scheduler = core.scheduler({ cache, vocabSize: 10, maxBatchTokens: 8 });
  for (const tokens of [
    [1, 2, 3, 4, 5],
    [1, 2, 9, 9, 9, 9, 9],
  ]) {
    scheduler.submit({ tokens, maxNewTokens: 1 });
    const plan = scheduler.step(1);
    assert.deepEqual([plan.rows, plan.transferCount, plan.newTokens[0]], [1, 0, tokens.length]);
    scheduler.commit(plan.stepId, 1, { tokens: [0] });
  }
});

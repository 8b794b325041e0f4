/**
 * Groups together with what keeps users apart: quotas, marks and pins over a cache with groups equal the model, alone and
 * together, and a scheduler over all of them serves every request as if it were alone.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  type Build,
  Core,
  type KvCache,
  type KvCacheOptions,
  type Outcome,
  QuartermasterError,
  type Scheduler,
} from "../../bindings/main.js";
import { GroupHarness, type Isolation, randomShape } from "../support/group-harness.js";
import { GroupModel } from "../support/group-model.js";
import { Random } from "../support/random.js";

const TENANTS = 3;

/** What has been refused, and soft pins that gave way. */
interface Seen {
  readonly refusals: Map<string, number>;
  hits: number;
  evictions: number;
  gaveWay: number;
}

async function run(build: Build, runs: number, isolation: Isolation): Promise<Seen> {
  const seen: Seen = { refusals: new Map(), hits: 0, evictions: 0, gaveWay: 0 };
  await fc.assert(
    fc.asyncProperty(fc.integer(), fc.integer({ min: 1, max: 400 }), async (seed, operations) => {
      const random = new Random(seed);
      const { shape, options: shaped } = randomShape(random);
      const core = await Core.create({ build, seed: seed >>> 0 });
      const { tenants = 0, marks = false, pins } = isolation;
      const options: KvCacheOptions = { ...shaped, tenants };
      if (marks) options.marks = 256;
      const share = 0.4;
      if (pins !== undefined) options.pins = { share };
      const limit = Math.floor(shape.blocks * share);
      const cache = core.kvCache(options);
      const own = pins === undefined ? isolation : { ...isolation, pins: limit };
      const harness = new GroupHarness(cache, new GroupModel(shape), random, own);
      for (let i = 0; i < operations; i++) harness.operate();
      seen.hits += harness.hits;
      seen.evictions += harness.model.evictions;
      seen.gaveWay += harness.model.gaveWay;
      for (const [code, count] of harness.refusals)
        seen.refusals.set(code, (seen.refusals.get(code) ?? 0) + count);
      harness.finish();
    }),
    { numRuns: runs },
  );
  assert.ok(runs < 50 || (seen.hits > 0 && seen.evictions > 0));
  return seen;
}

test("quotas over groups: payers, victims, refusals and figures equal the model's, validated after each call", async () => {
  const { refusals } = await run("core", 200, { tenants: TENANTS });
  assert.ok(refusals.get("QUOTA_EXCEEDED")! > 0);
});
test("marks over groups: a prefix is found in every group under its own marks, and under no others", () =>
  run("core", 150, { marks: true }).then(() => undefined));
test("pins over groups: what is pinned can be gone on from, twins and all, and gives way as in the model", async () => {
  const { refusals, gaveWay } = await run("core", 250, { pins: 1 });
  assert.ok(gaveWay > 0 && refusals.get("PIN_LIMIT")! > 0 && refusals.get("NOT_FOUND")! > 0);
});
test("marks with quotas, and with pins, over groups", async () => {
  await run("core", 60, { tenants: TENANTS, marks: true });
  await run("core", 60, { pins: 1, marks: true });
});
test("the debug and the scalar build do the same over groups", async () => {
  for (const build of ["debug", "core-scalar"] as const) {
    await run(build, 8, { tenants: TENANTS, marks: true });
    await run(build, 8, { pins: 1, marks: true });
  }
});

test("a pinned prefix can be gone on from under any pressure, in windows and from a state", async () => {
  const core = await Core.create();
  const groups = [
    { kind: "window", window: 9 },
    { kind: "recurrent", blockSize: 8 },
  ] as const;
  const shape = { blocks: 40, blockSize: 4, maxSequences: 4, maxSequenceTokens: 64, groups };
  const cache = core.kvCache({ ...shape, pins: { share: 0.25 } });
  const serve = (tokens: number[]): number => {
    const sequence = cache.open({ tokens });
    cache.reserve(sequence, tokens.length - cache.length(sequence));
    cache.append(sequence, tokens.slice(cache.length(sequence)));
    return sequence;
  };
  const prompt = (first: number): number[] => Array.from({ length: 30 }, (_, i) => 100 * first + i);
  const sequence = serve(prompt(1));
  const pin = cache.pin(sequence, { hard: true });
  // 24 tokens: six blocks, two of the window before token 24, one with the state behind token 23.
  assert.equal(cache.pinned().hard, 6 + 2 + 1);
  cache.close(sequence);
  for (let i = 2; i < 40; i++) cache.close(serve(prompt(i)));
  assert.equal(cache.match(prompt(1)), 24);
  cache.unpin(pin);
  for (let i = 40; i < 60; i++) cache.close(serve(prompt(i)));
  assert.equal(cache.match(prompt(1)), 0);
  core.validate();
});

test("all of them together under a scheduler: every accepted request ends, ceilings hold, every block comes back", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer(),
      fc.constantFrom("fcfs", "priority", "fair", "longest-prefix", "earliest-deadline"),
      async (seed, policy) => {
        const random = new Random(seed);
        const core = await Core.create({ seed: seed >>> 0 });
        const quotas = [
          { tenant: 0, ceiling: 40, watermark: 30 },
          { tenant: 1, floor: 12, ceiling: 44 },
          { tenant: 2, floor: 6 },
        ];
        const kind = random.pick(["recurrent", "full"] as const);
        const groups = [
          { kind: "window", window: 7 },
          { kind, blockSize: 8 },
        ] as const;
        const cache = core.kvCache({
          ...{ blocks: 64, blockSize: 4, maxSequences: 9, maxSequenceTokens: 48, groups },
          ...{ tenants: TENANTS, quotas, marks: 64, pins: { share: 0.1, capacity: 6 } },
        });
        const scheduler = core.scheduler({
          ...{ cache, policy, vocabSize: 9, maxRunning: 6, maxBatchTokens: 24, maxRequests: 64 },
          ...{ tenants: TENANTS, watermarkBlocks: 0 },
        });
        let live = 0;
        for (let nowUs = 0; nowUs < 150 || live > 0; nowUs++) {
          assert.ok(nowUs < 4000, `${live} requests never end`);
          if (nowUs < 150 && random.below(2) === 0) {
            const tokens = Array.from({ length: 1 + random.below(24) }, (_, at) =>
              random.below(12) === 0 ? random.below(9) : at % 9,
            );
            const tenant = random.below(TENANTS);
            const salted = { ranges: [{ offset: 8, scope: "tenant", salt: tenant }] } as const;
            const pin = { hard: random.below(2) === 0, priority: random.below(4), forUs: random.below(60) };
            try {
              scheduler.submit({
                ...{ tokens, maxNewTokens: 1 + random.below(9), tenant, priority: random.below(3) },
                ...(random.below(2) === 0 && salted),
                ...(random.below(3) === 0 && { pin }),
              });
              live += 1;
            } catch (error) {
              assert.ok(error instanceof QuartermasterError, String(error));
              assert.ok(["OUT_OF_SCOPES", "OUT_OF_REQUESTS"].includes(error.code), error.code);
            }
          }
          const plan = scheduler.step(nowUs);
          const tokens = Array.from({ length: plan.samplingRows }, () => random.below(9));
          scheduler.commit(plan.stepId, nowUs, { tokens });
          for (const { kind } of scheduler.outcomes()) if (kind !== "preempted") live -= 1;
          core.validate();
          quotas.forEach(({ tenant, ceiling = 64 }) => assert.ok(cache.account(tenant).used <= ceiling));
        }
        cache.advance(1e9);
        assert.equal(cache.available, 64);
        cache.forget();
        assert.equal(cache.stats().free, 64);
        core.validate();
      },
    ),
    { numRuns: 40 },
  );
});

test("a request that a lowered quota cannot hold in all groups ends, instead of being begun again and again", async () => {
  const core = await Core.create();
  const groups = [{ kind: "full" }, { kind: "window", window: 6 }] as const;
  const cache = core.kvCache({
    ...{ blocks: 64, blockSize: 1, maxSequences: 4, maxSequenceTokens: 64, tenants: 2, groups },
  });
  const scheduler = core.scheduler({
    ...{ cache, vocabSize: 9, maxRequests: 4, maxBatchTokens: 8, maxChunkTokens: 1, tenants: 2 },
  });
  scheduler.submit({ tokens: new Array<number>(20).fill(1), maxNewTokens: 4 });
  // The prompt's 20 blocks of the cache's own tables fit; another 20 and 7 beside them do not.
  cache.setQuota({ tenant: 0, ceiling: 40 });
  for (let nowUs = 0; nowUs < 100; nowUs++) {
    const { stepId } = scheduler.step(nowUs);
    const [outcome] = scheduler.outcomes();
    if (outcome) {
      assert.deepEqual([outcome.kind, outcome.code], ["rejected", "QUOTA_EXCEEDED"]);
      assert.equal(cache.available, 64);
      return;
    }
    scheduler.commit(stepId, nowUs, { tokens: [] });
  }
  assert.fail("it never ends");
});

/** Beside what others hold below there is room for it with a part of its window, and none for all of its window. */
const LONG = Array.from({ length: 22 }, (_, i) => i % 7);

/** A scheduler over a window of 8 tokens and full tables of two sizes: what it begins again stands in partly filled blocks. */
async function small(options: Partial<KvCacheOptions>): Promise<{ cache: KvCache; scheduler: Scheduler }> {
  const core = await Core.create();
  const groups = [
    { kind: "window", window: 8, blockSize: 2 },
    { kind: "full", blockSize: 4 },
  ] as const;
  const cache = core.kvCache({ blocks: 48, blockSize: 1, maxSequenceTokens: 64, groups, ...options });
  return { cache, scheduler: core.scheduler({ cache, vocabSize: 9, maxRequests: 8, watermarkBlocks: 0 }) };
}

/** Steps, each with rows answered by 1; returns the outcomes. */
function serve(scheduler: Scheduler, steps: number, nowUs = 0): Outcome[] {
  const outcomes: Outcome[] = [];
  for (let i = 0; i < steps; i++) {
    const plan = scheduler.step(nowUs);
    const planned = scheduler.outcomes();
    scheduler.commit(plan.stepId, nowUs, { tokens: new Uint32Array(plan.samplingRows).fill(1) });
    const committed = scheduler.outcomes().filter(({ kind }) => kind === "finished");
    outcomes.push(...planned, ...committed);
  }
  return outcomes;
}

function hold(cache: KvCache, tokens: number, tenant = 0): number {
  const sequence = cache.open({ tokens: [], tenant });
  cache.reserve(sequence, tokens);
  cache.append(sequence, new Uint32Array(tokens).fill(8));
  return sequence;
}

test("a request whose windows have no room beside its tenant's pins is rejected, not preempted for ever", async () => {
  const quotas = [{ tenant: 0, ceiling: 34 }];
  const { cache, scheduler } = await small({ tenants: 2, quotas, pins: { share: 0.25 } });
  const sequence = hold(cache, 4);
  cache.pin(sequence, { hard: true });
  cache.close(sequence);
  const request = scheduler.submit({ tokens: LONG, maxNewTokens: 2 });
  const outcomes = serve(scheduler, 60);
  assert.deepEqual(
    outcomes.filter(({ kind }) => kind !== "preempted").map(({ kind, code }) => [kind, code]),
    [["rejected", "QUOTA_EXCEEDED"]],
  );
  assert.ok(outcomes.length <= 2, `${outcomes.length - 1} preemptions`);
  assert.equal(scheduler.state(request), "ended");
  scheduler.validate();
});

test("where a pin with an end may make room it waits for that, and takes nobody's steps meanwhile", async () => {
  const quotas = [{ tenant: 0, ceiling: 34 }];
  const { cache, scheduler } = await small({ tenants: 2, quotas, pins: { share: 0.25 } });
  const sequence = hold(cache, 4);
  cache.pin(sequence, { hard: true, untilUs: 1000 });
  cache.close(sequence);
  scheduler.submit({ tokens: LONG, maxNewTokens: 2 });
  assert.ok(serve(scheduler, 60).length <= 1, "preempted once");
  assert.equal(scheduler.waiting, 1);
  const end = serve(scheduler, 30, 1000);
  assert.deepEqual(
    end.map(({ kind, generated }) => [kind, generated]),
    [["finished", 2]],
  );
});

test("where the host holds the blocks that a window lacks, the request waits until it lets go of them", async () => {
  const { cache, scheduler } = await small({});
  const sequence = hold(cache, 16);
  scheduler.submit({ tokens: LONG, maxNewTokens: 2 });
  assert.ok(serve(scheduler, 60).length <= 1, "preempted once");
  assert.equal(scheduler.waiting, 1, "as an engine sees it that would end it");
  cache.close(sequence);
  const end = serve(scheduler, 30);
  assert.deepEqual(
    end.map(({ kind, generated }) => [kind, generated]),
    [["finished", 2]],
  );
});

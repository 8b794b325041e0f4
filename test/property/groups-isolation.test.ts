/**
 * Groups together with what keeps users apart: quotas, marks and pins over a cache with groups equal the model, alone and
 * together, and a scheduler over all of them serves every request as if it were alone.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Build, Core, type KvCacheOptions, QuartermasterError } from "../../bindings/main.js";
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
  const cache = core.kvCache({ ...shape, pins: { share: 0.5 } });
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

/**
 * Tenants of one pool: who pays, whose blocks go, and what is refused equals a model that counts everything anew, under
 * every order; a floor keeps a quiet tenant's hits, a ceiling keeps a loud one's requests in line and nobody else's.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type MapBlock, MapCache, type MapOrder } from "../../bench/peer/map-cache.js";
import {
  type BlockOrderKind,
  type Build,
  Core,
  type KvCache,
  QuartermasterError,
  recordScheduler,
  replay,
  type Scheduler,
} from "../../bindings/main.js";
import { ORDER_KINDS } from "../../bindings/block-order.js";
import { CacheHarness } from "../support/cache-harness.js";
import { NaiveAccounts, paidMap } from "../support/naive-accounts.js";
import { NaiveFifo, NaiveGdsf, NaiveLfu } from "../support/naive-orders.js";
import { Random } from "../support/random.js";

const TENANTS = 3;
const SHAPE = { blocks: 24, blockSize: 4, maxSequences: 9, maxSequenceTokens: 48 };

function randomLimits(random: Random, room: number): { floor: number; watermark: number; ceiling: number } {
  const ceiling = random.below(2) === 0 ? SHAPE.blocks : random.below(SHAPE.blocks + 1);
  const watermark = random.below(2) === 0 ? ceiling : random.below(ceiling + 1);
  return { floor: Math.min(room, random.below(watermark + 1)), watermark, ceiling };
}

class QuotaHarness extends CacheHarness {
  readonly #accounts: NaiveAccounts<MapBlock>;

  constructor(cache: KvCache, model: MapCache, random: Random) {
    super(cache, model, random);
    this.#accounts = new NaiveAccounts(paidMap(model), TENANTS);
    model.accounts = this.#accounts;
  }

  changeQuota(): void {
    const index = this.random.below(TENANTS + 1);
    const floors = this.#accounts.quotas.reduce((sum, { floor }, t) => sum + (t === index ? 0 : floor), 0);
    const limits = randomLimits(this.random, SHAPE.blocks - floors);
    this.#accounts.limit(index, limits);
    this.cache.setQuota({ tenant: index === TENANTS ? "common" : index, ...limits });
  }

  override compare(): void {
    super.compare();
    this.#accounts.quotas.forEach((quota, t) => {
      assert.deepEqual(this.cache.account(t === TENANTS ? "common" : t), {
        ...quota,
        used: this.#accounts.used(t),
        evictable: this.#accounts.resting(t),
      });
    });
    assert.equal(this.cache.availableTo(1), this.#accounts.available(1));
  }
}

async function run(build: Build, runs: number, kind: BlockOrderKind, model?: () => MapOrder): Promise<void> {
  await fc.assert(
    fc.asyncProperty(
      fc.integer(),
      fc.integer({ min: 1, max: 500 }),
      fc.constantFrom(SHAPE.blocks, 13),
      fc.constantFrom(0, 2),
      async (seed, operations, retainBlocks, partialReuse) => {
        const core = await Core.create({ build, seed: seed >>> 0 });
        const shape = { ...SHAPE, retainBlocks, partialReuse };
        const evictionOrder = kind === "lru" ? kind : { kind, history: 0 };
        const cache = core.kvCache({ ...shape, evictionOrder, tenants: TENANTS });
        const random = new Random(seed);
        const harness = new QuotaHarness(cache, new MapCache({ ...shape, order: model?.() }), random);
        for (let i = 0; i < operations; i++) {
          if (random.below(20) === 0) harness.changeQuota();
          harness.step();
        }
      },
    ),
    { numRuns: runs },
  );
}

test("random quotas under lru: victims, refusals and figures equal the model's, validated after each call", () =>
  run("core", 120, "lru"));
test("the debug build checks its accounts after each call and finds nothing", () => run("debug", 6, "lru"));
test("random quotas under fifo equal the model", () => run("core", 40, "fifo", () => new NaiveFifo()));
test("random quotas under lfu equal the model", () => run("core", 40, "lfu", () => new NaiveLfu()));
test("random quotas under gdsf equal the model", () => run("core", 40, "gdsf", () => new NaiveGdsf(0, 1, 0)));

test("accounts without quotas change no victim", async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer(), async (seed) => {
      const core = await Core.create({ seed: seed >>> 0 });
      const cache = core.kvCache({ ...SHAPE, tenants: TENANTS });
      const harness = new CacheHarness(cache, new MapCache(SHAPE), new Random(seed));
      for (let i = 0; i < 400; i++) harness.step();
    }),
    { numRuns: 40 },
  );
});

for (const kind of ORDER_KINDS)
  test(`${kind}: a tenant at its floor or below loses nothing to others`, async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer(), async (seed) => {
        const core = await Core.create({ seed: seed >>> 0 });
        const random = new Random(seed);
        const floors = [8, 5, 0];
        const quotas = floors.map((floor, tenant) => ({ tenant, floor }));
        const cache = core.kvCache({ ...SHAPE, evictionOrder: kind, tenants: TENANTS, quotas });
        const open: { sequence: number; tenant: number }[] = [];
        for (let i = 0; i < 150; i++) {
          const tenant = random.below(TENANTS);
          const tokens = Array.from({ length: 1 + random.below(20) }, () => random.below(2));
          const before = floors.map((_, t) => cache.account(t));
          try {
            const sequence = cache.open({ tokens, tenant, namespace: random.below(3) === 0 ? 9 : tenant });
            open.push({ sequence, tenant });
            const shared = floors.map((_, t) => cache.account(t).used);
            cache.reserve(sequence, tokens.length - cache.length(sequence));
            floors.forEach((floor, t) => {
              const after = cache.account(t);
              if (t !== tenant) assert.ok(after.used >= Math.min(shared[t], floor));
              if (t !== tenant && before[t].used <= floor)
                assert.equal(after.evictedByOthers, before[t].evictedByOthers);
            });
            cache.settleCopies();
            cache.append(sequence, tokens.slice(cache.length(sequence)));
          } catch (error) {
            assert.ok(error instanceof QuartermasterError);
            assert.ok(["OUT_OF_BLOCKS", "OUT_OF_SEQUENCES"].includes(error.code), error.code);
          }
          core.validate();
          while (open.length > 6 || (open.length > 0 && random.below(3) === 0))
            cache.close(open.splice(random.below(open.length), 1)[0].sequence);
        }
      }),
      { numRuns: 15 },
    );
  });

/** Share of a quiet tenant's prompt tokens that are found cached while a loud one asks twenty times as often. */
async function quietHits(options: { loud: boolean; floor: number }): Promise<number> {
  const core = await Core.create();
  const quotas = [{ tenant: 0, floor: options.floor }];
  const cache = core.kvCache({ blocks: 1000, blockSize: 16, maxSequenceTokens: 256, tenants: 2, quotas });
  const random = new Random(7);
  const serve = (tenant: number, tokens: number[]): number => {
    const sequence = cache.open({ tokens, tenant, namespace: tenant });
    const found = cache.length(sequence);
    cache.reserve(sequence, tokens.length - found);
    cache.append(sequence, tokens.slice(found));
    cache.close(sequence);
    return found;
  };
  const prompts = Array.from({ length: 20 }, (_, p) => Array.from({ length: 161 }, (_, i) => p * 1000 + i));
  let found = 0;
  let asked = 0;
  for (let turn = 0; turn < 200; turn++) {
    const hit = serve(0, prompts[turn % 20]);
    if (turn >= 20) found += hit;
    if (turn >= 20) asked += 161;
    for (let i = 0; i < 20 && options.loud; i++)
      serve(
        1,
        Array.from({ length: 161 }, () => random.below(1e6)),
      );
  }
  core.validate();
  return found / asked;
}

test("with a floor a quiet tenant hits within 2 points of running alone beside one at 20 times its rate; without, over 20 points less", async () => {
  const alone = await quietHits({ loud: false, floor: 0 });
  const kept = await quietHits({ loud: true, floor: 220 });
  const robbed = await quietHits({ loud: true, floor: 0 });
  assert.ok(alone > 0.9 && Math.abs(alone - kept) <= 0.02, `alone ${alone}, with a floor ${kept}`);
  assert.ok(robbed < alone - 0.2, `alone ${alone}, without a floor ${robbed}`);
});

test("a block that two tenants use is paid by neither", async () => {
  const core = await Core.create();
  const cache = core.kvCache({ ...SHAPE, tenants: 2 });
  const tokens = Array.from({ length: 9 }, (_, i) => i);
  const first = cache.open({ tokens, tenant: 0 });
  cache.reserve(first, 9);
  cache.append(first, tokens);
  assert.equal(cache.account(0).used, 3);
  const second = cache.open({ tokens, tenant: 1 });
  assert.equal(cache.account(0).used, 1, "its unfinished block");
  assert.equal(cache.account(1).used, 0);
  assert.equal(cache.account("common").used, 2);
  cache.close(first);
  cache.close(second);
  assert.equal(cache.account("common").evictable, 2);
  core.validate();
});

test("a run of blocks is never made of what a tenant's floor keeps while others have reserved what is free", async () => {
  const core = await Core.create();
  const cache = core.kvCache({
    blocks: 12,
    blockSize: 4,
    maxSequences: 4,
    maxSequenceTokens: 48,
    blockRuns: { reserve: 12 },
    tenants: 2,
    quotas: [{ tenant: 1, floor: 4 }],
  });
  const tokens = Array.from({ length: 16 }, (_, i) => i);
  const quiet = cache.open({ tokens, tenant: 1 });
  cache.reserve(quiet, 16);
  cache.append(quiet, tokens);
  cache.close(quiet);
  const first = cache.open({ tokens: [], private: true });
  cache.reserve(first, 1);
  assert.equal(cache.runs!.stats().reserved, 7, "all that is free is kept for the first");
  const second = cache.open({ tokens: [], private: true });
  cache.reserve(second, 4 * 4);
  assert.equal(cache.account(1).used, 4);
  assert.equal(cache.match([...tokens, 0]), 16);
  core.validate();
});

test("quotas that cannot hold are refused, naming the argument, and nothing changes", async () => {
  const core = await Core.create();
  const cache = core.kvCache({ ...SHAPE, tenants: 2, quotas: [{ tenant: 0, floor: 20 }] });
  const refused = (run: () => void, argument?: string): void =>
    assert.throws(
      run,
      (error) =>
        error instanceof QuartermasterError &&
        error.code === "INVALID_ARGUMENT" &&
        (argument === undefined || error.argument === argument),
    );
  const before = core.snapshot();
  refused(() => cache.setQuota({ tenant: 2 }), "tenant");
  refused(() => cache.setQuota({ tenant: 1, ceiling: 25 }), "ceiling");
  refused(() => cache.setQuota({ tenant: 1, ceiling: 5, watermark: 6 }), "watermark");
  refused(() => cache.setQuota({ tenant: 1, ceiling: 5, floor: 6 }), "floor");
  refused(() => cache.setQuota({ tenant: 1, floor: 5 }));
  refused(() => cache.open({ tokens: [1], tenant: 2 }), "tenant");
  refused(() => core.kvCache({ ...SHAPE, quotas: [{ tenant: 0 }] }), "tenant");
  refused(
    () =>
      core.kvCache({
        ...SHAPE,
        tenants: 2,
        quotas: [
          { tenant: 0, floor: 20 },
          { tenant: 1, floor: 5 },
        ],
      }),
    "quotas",
  );
  assert.deepEqual(core.snapshot(), before);
  assert.throws(() => core.kvCache(SHAPE).account(0), { code: "UNSUPPORTED" });
});

const SCHEDULE = { vocabSize: 9, maxRunning: 6, maxBatchTokens: 24, tenants: TENANTS, watermarkBlocks: 0 };

/** Plans and commits a step; the sampled tokens are made up. */
function serveStep(scheduler: Scheduler, nowUs: number): void {
  const plan = scheduler.step(nowUs);
  scheduler.commit(plan.stepId, nowUs, {
    tokens: Array.from({ length: plan.samplingRows }, (_, i) => i % 9),
  });
}

test("a tenant at its ceiling waits for its own alone: others are admitted past it", async () => {
  for (const policy of ["fcfs", "priority", "fair", "longest-prefix", "earliest-deadline"] as const) {
    const core = await Core.create();
    const cache = core.kvCache({ ...SHAPE, tenants: TENANTS, quotas: [{ tenant: 0, ceiling: 6 }] });
    const scheduler = core.scheduler({ ...SCHEDULE, cache, policy, maxBatchTokens: 64 });
    const tokens = (tenant: number): number[] => Array.from({ length: 12 }, (_, i) => (i * (tenant + 2)) % 9);
    const loud = Array.from({ length: 4 }, () =>
      scheduler.submit({ tokens: tokens(0), maxNewTokens: 8, tenant: 0, namespace: 1 }),
    );
    const quiet = scheduler.submit({ tokens: tokens(1), maxNewTokens: 8, tenant: 1 });
    scheduler.step(0);
    assert.equal(scheduler.state(quiet), "running", policy);
    const running = loud.filter((request) => scheduler.state(request) === "running");
    assert.ok(running.length >= 1 && running.length <= 2, policy);
    assert.ok(cache.account(0).used <= 6);
    core.validate();
  }
});

test("what a tenant's quota can never hold is refused at once; what it no longer can is rejected", async () => {
  const core = await Core.create();
  const cache = core.kvCache({ ...SHAPE, tenants: TENANTS, quotas: [{ tenant: 1, floor: 10 }] });
  const scheduler = core.scheduler({ ...SCHEDULE, cache });
  const tokens = Array.from({ length: 40 }, (_, i) => i % 9);
  assert.throws(() => scheduler.submit({ tokens: [...tokens, 1, 2, 3, 4], maxNewTokens: 20, tenant: 0 }), {
    code: "TOO_LONG",
  });
  cache.setQuota({ tenant: 0, ceiling: 9 });
  assert.throws(() => scheduler.submit({ tokens, maxNewTokens: 2, tenant: 0 }), { code: "QUOTA_EXCEEDED" });
  const request = scheduler.submit({ tokens: tokens.slice(0, 30), maxNewTokens: 2, tenant: 0 });
  cache.setQuota({ tenant: 0, ceiling: 5 });
  scheduler.step(0);
  assert.deepEqual(
    scheduler.outcomes().map((outcome) => [outcome.request, outcome.kind, outcome.code]),
    [[request, "rejected", "QUOTA_EXCEEDED"]],
  );
  core.validate();
});

test("a request that pushes its tenant's own blocks out says how many", async () => {
  const core = await Core.create();
  const cache = core.kvCache({ ...SHAPE, tenants: TENANTS, quotas: [{ tenant: 2, ceiling: 5 }] });
  const scheduler = core.scheduler({ ...SCHEDULE, cache });
  const serve = (first: number): number => {
    const tokens = Array.from({ length: 16 }, (_, i) => (first + i * i) % 9);
    scheduler.submit({ tokens, maxNewTokens: 1, tenant: 2 });
    serveStep(scheduler, 0);
    return scheduler.outcomes()[0].evictedOwn;
  };
  assert.equal(serve(1), 0);
  assert.equal(serve(2), 3, "4 blocks where one is left");
  assert.ok(cache.stats().free > 4, "though others were free");
});

test("under quotas every accepted request ends, no ceiling is passed, and a record replays to the same plans", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer(),
      fc.constantFrom("fcfs", "priority", "fair", "longest-prefix", "earliest-deadline"),
      fc.constantFrom<BlockOrderKind>("lru", "gdsf", "s3-fifo", "gittins"),
      async (seed, policy, evictionOrder) => {
        const random = new Random(seed);
        const quotas = [
          { tenant: 0, ceiling: 14, watermark: 10 },
          { tenant: 1, floor: 6, ceiling: 16 },
          { tenant: 2, floor: 4 },
        ];
        const lines: string[] = [];
        const { cache: _, ...options } = { ...SCHEDULE, cache: undefined, policy, maxRequests: 64 };
        const cacheOptions = { ...SHAPE, evictionOrder, tenants: TENANTS, quotas, partialReuse: 2 };
        const scheduler = await recordScheduler(
          { seed: seed >>> 0, cache: cacheOptions, scheduler: options },
          (line) => lines.push(line),
        );
        const { cache, core } = scheduler;
        let live = 0;
        for (let i = 0; i < 150 || live > 0; i++) {
          assert.ok(i < 3000, `${live} requests never end`);
          if (i < 150 && random.below(2) === 0) {
            const tokens = Array.from({ length: 1 + random.below(24) }, (_, at) =>
              random.below(12) === 0 ? random.below(9) : at % 9,
            );
            const tenant = random.below(TENANTS);
            try {
              const namespace = random.below(2) === 0 ? 0 : 1 + tenant;
              scheduler.submit({ tokens, maxNewTokens: 1 + random.below(16), tenant, namespace });
              live += 1;
            } catch (error) {
              assert.ok(error instanceof QuartermasterError);
              assert.ok(
                ["OUT_OF_REQUESTS", "OUT_OF_TOKENS", "QUOTA_EXCEEDED"].includes(error.code),
                error.code,
              );
            }
          }
          const plan = scheduler.step(i);
          core.validate();
          if (random.below(9) === 0) scheduler.abandon(plan.stepId);
          else
            scheduler.commit(plan.stepId, i, {
              tokens: Array.from({ length: plan.samplingRows }, () => random.below(9)),
            });
          core.validate();
          for (const { kind } of scheduler.outcomes()) if (kind !== "preempted") live -= 1;
          for (const { tenant, ceiling } of quotas)
            assert.ok(cache.account(tenant).used <= (ceiling ?? SHAPE.blocks));
        }
        const report = await replay(lines);
        assert.equal(report.mismatch, undefined);
      },
    ),
    { numRuns: 40 },
  );
});

/**
 * Pinned prefixes stay under pressure, under every eviction order: hard ones whatever happens and within their share,
 * soft ones until nothing else is left, the lowest priority first; both end by handle and by time.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  type BlockOrderKind,
  Core,
  type KvCache,
  type KvCacheOptions,
  type PinId,
  QuartermasterError,
  type SequenceId,
} from "../../bindings/main.js";
import { ORDER_KINDS } from "../../bindings/block-order.js";
import { Random } from "../support/random.js";

const SHAPE = { blocks: 24, blockSize: 4, maxSequences: 9, maxSequenceTokens: 96 };

function prompt(first: number, length = 13): number[] {
  return Array.from({ length }, (_, i) => first * 1000 + i);
}

function serve(cache: KvCache, tokens: number[], tenant = 0): SequenceId {
  const sequence = cache.open({ tokens, tenant });
  const found = cache.length(sequence);
  cache.reserve(sequence, tokens.length - found);
  cache.append(sequence, tokens.slice(found));
  return sequence;
}

/** Serves many prompts that are never seen again. */
function press(cache: KvCache, from: number, count = 40): void {
  for (let i = 0; i < count; i++) cache.close(serve(cache, prompt(from + i)));
}

async function cacheOf(evictionOrder: BlockOrderKind, share = 0.5): Promise<KvCache> {
  return (await Core.create()).kvCache({ ...SHAPE, evictionOrder, pins: { share } });
}

for (const kind of ORDER_KINDS) {
  test(`${kind}: a hard pin outlives any pressure, until it is unpinned`, async () => {
    const cache = await cacheOf(kind);
    const sequence = serve(cache, prompt(1));
    const pin = cache.pin(sequence, { hard: true });
    cache.close(sequence);
    press(cache, 10);
    assert.equal(cache.match(prompt(1)), 12);
    const room = serve(cache, prompt(90, 84));
    assert.equal(cache.match(prompt(1)), 12, "though all that was left has been taken");
    assert.equal(cache.available, 0);
    cache.close(room);
    cache.unpin(pin);
    assert.throws(() => cache.unpin(pin), { code: "NOT_FOUND" });
    cache.validate();
    serve(cache, prompt(91, 96));
    assert.equal(cache.match(prompt(1)), 0);
    cache.validate();
  });

  test(`${kind}: soft pins outlive what is not pinned, and give way by priority`, async () => {
    const cache = await cacheOf(kind);
    [50, 10, 30].forEach((priority, i) => {
      const sequence = serve(cache, prompt(1 + i));
      cache.pin(sequence, { priority });
      cache.close(sequence);
    });
    press(cache, 10);
    assert.deepEqual(
      [1, 2, 3].map((p) => cache.match(prompt(p))),
      [12, 12, 12],
    );
    assert.equal(cache.pinned().soft, 9);
    assert.equal(cache.available, 24, "they are not lost to anybody");
    const room = serve(cache, prompt(80, 72));
    assert.deepEqual(
      [1, 3].map((p) => cache.match(prompt(p))),
      [12, 12],
    );
    assert.ok(cache.match(prompt(2)) < 12);
    assert.equal(cache.pinned().gaveWay, 1);
    cache.validate();
    cache.close(room);
    const all = serve(cache, prompt(81, 96));
    assert.equal(cache.pinned().gaveWay, 3);
    cache.close(all);
    cache.validate();
  });
}

test("a hard pin beyond the share is refused and changes nothing; blocks pinned twice count once", async () => {
  const cache = await cacheOf("lru", 0.25);
  const sequence = serve(cache, prompt(1, 25));
  cache.pin(sequence, { hard: true });
  cache.pin(sequence, { hard: true });
  assert.equal(cache.pinned().hard, 6);
  const other = serve(cache, prompt(2));
  const before = cache.core.snapshot();
  assert.throws(() => cache.pin(other, { hard: true }), { code: "PIN_LIMIT" });
  assert.deepEqual(cache.core.snapshot(), before);
  cache.pin(other, {});
  assert.throws(() => cache.pin(cache.open({ tokens: [] })), { code: "NOT_FOUND" });
  assert.throws(() => cache.pin(other, { priority: 101 }), { code: "INVALID_ARGUMENT" });
  assert.throws(() => cache.pin(other, { untilUs: -1 }), { code: "INVALID_TIME" });
  assert.throws(() => cache.pin(99), { code: "UNKNOWN_SEQUENCE" });
  cache.validate();
  const plain = cache.core.kvCache(SHAPE);
  assert.throws(() => plain.pin(plain.open({ tokens: [] })), { code: "UNSUPPORTED" });
});

for (const capacity of [255, 256, 70_000]) {
  test(`a block counts as many pins of either kind as there is room for, ${capacity}, and lets go of each`, async () => {
    const core = await Core.create();
    const cache = core.kvCache({ ...SHAPE, pins: { share: 0.9, capacity } });
    const [long, short] = [serve(cache, prompt(1)), serve(cache, prompt(1).slice(0, 9))];
    for (const hard of [true, false]) {
      const pins = Array.from({ length: capacity }, (_, i) => cache.pin(i % 2 ? long : short, { hard }));
      assert.throws(() => cache.pin(long, { hard }), { code: "PIN_LIMIT" });
      core.validate();
      for (const pin of pins) cache.unpin(pin);
      core.validate();
    }
    for (const sequence of [long, short]) cache.close(sequence);
    press(cache, 10);
    assert.equal(cache.match(prompt(1)), 0);
  });
}

test("pins end when their time comes", async () => {
  const cache = await cacheOf("lru");
  const sequence = serve(cache, prompt(1));
  cache.pin(sequence, { hard: true, untilUs: 100 });
  cache.pin(sequence, { untilUs: 50 });
  cache.close(sequence);
  assert.equal(cache.advance(49), 50);
  assert.equal(cache.pinned().pins, 2);
  assert.equal(cache.advance(50), 100);
  assert.equal(cache.pinned().pins, 1);
  press(cache, 10);
  assert.equal(cache.match(prompt(1)), 12);
  assert.equal(cache.advance(100), Infinity);
  assert.deepEqual(cache.pinned(), { hard: 0, soft: 0, pins: 0, gaveWay: 0 });
  press(cache, 60);
  assert.equal(cache.match(prompt(1)), 0);
  cache.validate();
});

test("soft pins give way to their own tenant, that has no ceiling and holds all the rest", async () => {
  const core = await Core.create({ build: "debug" });
  const cache = core.kvCache({ ...SHAPE, pins: true, tenants: 1 });
  const sequence = serve(cache, prompt(1));
  cache.pin(sequence);
  cache.close(sequence);
  const held = cache.open({ tokens: [], private: true });
  cache.reserve(held, 20 * SHAPE.blockSize);
  const more = cache.open({ tokens: [], private: true });
  assert.equal(cache.available, 4);
  assert.throws(() => cache.reserve(more, 5 * SHAPE.blockSize), { code: "OUT_OF_BLOCKS" });
  assert.equal(cache.reserve(more, 4 * SHAPE.blockSize), 4);
  assert.equal(cache.pinned().gaveWay, 1);
});

test("random pins beside quotas and partial reuse: what is pinned is found, and everything adds up", async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer(), fc.constantFrom(...ORDER_KINDS), async (seed, evictionOrder) => {
      const core = await Core.create({ seed: seed >>> 0 });
      const quotas = [
        { tenant: 0, ceiling: 14 },
        { tenant: 1, floor: 6 },
      ];
      const shape = {
        ...SHAPE,
        evictionOrder,
        partialReuse: 2,
        tenants: 2,
        quotas,
        pins: { share: 0.3, capacity: 5 },
      };
      const cache = core.kvCache(shape);
      const random = new Random(seed);
      const open: { sequence: SequenceId; tokens: number[] }[] = [];
      const hard = new Map<PinId, number[]>();
      let nowUs = 0;
      for (let i = 0; i < 120; i++) {
        try {
          const length = 1 + random.below(28);
          const tokens = Array.from({ length }, (_, at) => (random.below(20) === 0 ? 7 : at % 3));
          const sequence = cache.open({ tokens, tenant: random.below(2), namespace: random.below(3) });
          open.push({ sequence, tokens });
          cache.reserve(sequence, tokens.length - cache.length(sequence));
          cache.settleCopies();
          cache.append(sequence, tokens.slice(cache.length(sequence)));
          if (random.below(3) === 0) {
            const isHard = random.below(2) === 0;
            const pin = cache.pin(sequence, {
              hard: isHard,
              priority: random.below(5),
              untilUs: isHard ? undefined : nowUs + random.below(9),
            });
            if (isHard)
              hard.set(pin, [...cache.blockTable(sequence).subarray(0, Math.floor(tokens.length / 4))]);
          }
        } catch (error) {
          assert.ok(error instanceof QuartermasterError, String(error));
          const expected = ["OUT_OF_BLOCKS", "OUT_OF_SEQUENCES", "QUOTA_EXCEEDED", "PIN_LIMIT", "NOT_FOUND"];
          assert.ok(expected.includes(error.code), String(error));
        }
        core.validate();
        while (open.length > 5 || (open.length > 0 && random.below(2) === 0))
          cache.close(open.splice(random.below(open.length), 1)[0].sequence);
        if (random.below(5) === 0) cache.advance((nowUs += random.below(5)));
        if (random.below(6) === 0 && hard.size > 0) {
          const [pin] = hard.keys();
          cache.unpin(pin);
          hard.delete(pin);
        }
        core.validate();
        for (const blocks of hard.values())
          for (const block of blocks) assert.ok(cache.references(block) > 0);
      }
      for (const { sequence } of open) cache.close(sequence);
      for (const pin of hard.keys()) cache.unpin(pin);
      cache.advance(1e9);
      assert.equal(cache.available, SHAPE.blocks);
      cache.forget();
      assert.equal(cache.stats().free, SHAPE.blocks);
      core.validate();
    }),
    { numRuns: 60 },
  );
});

test("a request's prompt is pinned with its first token, for its time, and its outcome says so", async () => {
  const core = await Core.create();
  const cache = core.kvCache({ ...SHAPE, pins: { share: 0.25 } });
  const scheduler = core.scheduler({ cache, vocabSize: 100_000, maxBatchTokens: 256, watermarkBlocks: 0 });
  let nowUs = 0;
  const ask = (
    tokens: number[],
    pin?: { hard?: boolean; forUs?: number },
  ): ReturnType<typeof scheduler.outcomes>[0] => {
    scheduler.submit({ tokens, maxNewTokens: 1, ...(pin && { pin }) });
    const plan = scheduler.step(nowUs);
    scheduler.commit(plan.stepId, nowUs, { tokens: [5] });
    return scheduler.outcomes()[0];
  };
  assert.ok(ask(prompt(1), { hard: true, forUs: 1000 }).pin! > 0);
  assert.equal(ask(prompt(2, 30), { hard: true }).pinRefusal, "PIN_LIMIT");
  for (let i = 0; i < 40; i++) ask(prompt(10 + i));
  assert.equal(ask(prompt(1)).cachedTokens, 12);
  nowUs = 1000;
  for (let i = 0; i < 40; i++) ask(prompt(60 + (i % 30)));
  assert.equal(ask(prompt(1)).cachedTokens, 0);
  assert.equal(cache.pinned().pins, 0);
  const most = (SHAPE.blocks - 6) * SHAPE.blockSize + 1;
  assert.throws(() => scheduler.submit({ tokens: prompt(1, most), maxNewTokens: 1 }), {
    code: "POOL_TOO_SMALL",
    message: new RegExp(`allowed: at most ${most}: the pool has 24 blocks, 6 of them for hard pins`),
  });
  scheduler.abort(scheduler.submit({ tokens: prompt(1, most - 1), maxNewTokens: 1 }));
  core.validate();
});

test("the pin of a request that is aborted ends with it: no outcome tells of it", async () => {
  for (const inFlight of ["first token", "second token", "between steps", "idle"]) {
    const core = await Core.create();
    const cache = core.kvCache({ ...SHAPE, pins: { share: 0.5 } });
    const scheduler = core.scheduler({ cache, vocabSize: 100_000, watermarkBlocks: 0 });
    const idle = inFlight === "idle";
    const options = { maxNewTokens: idle ? 1 : 3, turns: idle };
    const request = scheduler.submit({ tokens: prompt(1, 17), pin: { hard: true }, ...options });
    let { stepId } = scheduler.step(0);
    if (inFlight === "first token") scheduler.abort(request);
    scheduler.commit(stepId, 0, { tokens: [5] });
    const pin = scheduler.outcomes()[0]?.pin;
    if (inFlight === "second token") {
      ({ stepId } = scheduler.step(1));
      scheduler.abort(request);
      scheduler.commit(stepId, 1, { tokens: [5] });
    } else if (inFlight !== "first token") {
      assert.equal(cache.pinned().pins, 1);
      scheduler.abort(request);
    }
    assert.equal(scheduler.state(request), "ended");
    assert.equal(cache.pinned().pins, Number(idle), inFlight);
    if (idle) cache.unpin(pin!); // its turn had told of it
    assert.equal(cache.available, SHAPE.blocks);
    core.validate();
  }
});

test("a request that only a pin with an end keeps from its tenant's ceiling waits for the end; without one it is rejected", async () => {
  for (const forUs of [1000, Infinity]) {
    const core = await Core.create();
    const cache = core.kvCache({
      ...SHAPE,
      pins: { share: 0.5 },
      tenants: 2,
      quotas: [{ tenant: 0, ceiling: 6 }],
    });
    const scheduler = core.scheduler({ cache, vocabSize: 100_000, tenants: 2, watermarkBlocks: 0 });
    scheduler.submit({ tokens: prompt(1, 17), maxNewTokens: 1, pin: { hard: true, forUs } });
    scheduler.commit(scheduler.step(0).stepId, 0, { tokens: [5] });
    const request = scheduler.submit({ tokens: prompt(2, 17), maxNewTokens: 1 });
    const early = scheduler.step(1);
    assert.equal(early.rows, 0);
    scheduler.commit(early.stepId, 1, { tokens: [] });
    if (forUs === Infinity) {
      assert.equal(scheduler.outcomes()[0].kind, "rejected");
      continue;
    }
    assert.equal(scheduler.state(request), "waiting");
    assert.equal(scheduler.nextWakeUs(), 1000);
    const plan = scheduler.step(1000);
    assert.equal(plan.rows, 1);
    scheduler.commit(plan.stepId, 1000, { tokens: [5] });
    core.validate();
  }
});

for (const [what, options] of Object.entries({
  "the pool": {},
  "the pool, blocks side by side": { blockRuns: true },
  "a tenant's ceiling": { tenants: 2, quotas: [{ tenant: 0, ceiling: 20 }] },
} satisfies Record<string, Partial<KvCacheOptions>>))
  test(`what soft pins let go of for want of room in ${what} is kept only as far as retainBlocks`, async () => {
    const cache = (await Core.create()).kvCache({ ...SHAPE, pins: true, retainBlocks: 1, ...options });
    const sequence = serve(cache, prompt(1));
    cache.pin(sequence);
    cache.close(sequence);
    const room = cache.open({ tokens: [], tenant: 0 });
    cache.reserve(room, ("tenants" in options ? 18 : 22) * SHAPE.blockSize);
    cache.validate();
    assert.equal(cache.pinned().gaveWay, 1);
    assert.ok(cache.stats().evictable <= 1);
  });

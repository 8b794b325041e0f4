/**
 * Every eviction order takes the victims that its definition names: random calls on the cache equal a model that
 * looks at all candidates, with everything checked after each call.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { MapCache, type MapOrder } from "../../bench/peer/map-cache.js";
import {
  type BlockOrderOptions,
  type Build,
  Core,
  type KvCache,
  QuartermasterError,
} from "../../bindings/main.js";
import { CacheHarness } from "../support/cache-harness.js";
import { NaiveGittins } from "../support/naive-gittins.js";
import {
  NaiveFifo,
  NaiveGdsf,
  NaiveLfu,
  NaivePriority,
  NaiveS3Fifo,
  NaiveScored,
  NaiveSeenTwice,
} from "../support/naive-orders.js";
import { Random } from "../support/random.js";

const SHAPE = { blocks: 24, blockSize: 4, maxSequences: 9, maxSequenceTokens: 48 };

interface Case {
  readonly order: BlockOrderOptions;
  readonly model: () => MapOrder;
}

const CASES: Readonly<Record<string, Case>> = {
  fifo: { order: { kind: "fifo" }, model: () => new NaiveFifo() },
  "lfu, uses since entry": { order: { kind: "lfu", history: 0 }, model: () => new NaiveLfu() },
  "lfu, uses remembered": { order: { kind: "lfu", history: 13 }, model: () => new NaiveLfu(13) },
  "gdsf, by frequency": { order: { kind: "gdsf", history: 7 }, model: () => new NaiveGdsf(7, 1, 0) },
  "gdsf, by cost": {
    order: { kind: "gdsf", history: 0, baseCost: 0.75, depthCost: 0.5 },
    model: () => new NaiveGdsf(0, 0.75, 0.5),
  },
  "s3-fifo": { order: { kind: "s3-fifo", history: 9 }, model: () => new NaiveS3Fifo(9) },
  "seen twice, while it was cached": {
    order: { kind: "seen-twice", history: 0 },
    model: () => new NaiveSeenTwice(0),
  },
  // A filter so large that no two of the test's keys share all of their bits.
  "seen twice, ever": {
    order: { kind: "seen-twice", history: 2 ** 17 },
    model: () => new NaiveSeenTwice(2 ** 17),
  },
  gittins: { order: { kind: "gittins", history: 96 }, model: () => new NaiveGittins(96) },
  "gittins without a history": { order: { kind: "gittins", history: 0 }, model: () => new NaiveGittins(0) },
  "s3-fifo without a ghost queue": { order: { kind: "s3-fifo", history: 0 }, model: () => new NaiveS3Fifo() },
};

async function run(build: Build, runs: number, { order, model }: Case): Promise<void> {
  await fc.assert(
    fc.asyncProperty(
      fc.integer(),
      fc.integer({ min: 1, max: 800 }),
      fc.constantFrom(SHAPE.blocks, 11, 1, 0),
      async (seed, operations, retainBlocks) => {
        const core = await Core.create({ build, seed: seed >>> 0 });
        const cache = core.kvCache({ ...SHAPE, evictionOrder: order, retainBlocks });
        const peer = new MapCache({ ...SHAPE, order: model(), retainBlocks });
        const harness = new CacheHarness(cache, peer, new Random(seed));
        for (let i = 0; i < operations; i++) harness.step();
        for (const pair of harness.pairs) cache.close(pair.real);
        assert.equal(cache.available, SHAPE.blocks, "every block comes back");
      },
    ),
    { numRuns: runs },
  );
}

for (const [name, wanted] of Object.entries(CASES)) {
  test(`${name}: 40,000 random operations equal the model, validated after each`, () =>
    run("core", 100, wanted));
  test(`${name}: the debug build checks itself after each call and finds nothing`, () =>
    run("debug", 5, wanted));
}

/** Conversations that go on or end, for as long as a learned order needs to learn: every hit equals the model's. */
async function converse({ order, model }: Case, seed: number): Promise<void> {
  const shape = { blocks: 48, blockSize: 1, maxSequences: 4, maxSequenceTokens: 24, retainBlocks: 24 };
  const core = await Core.create({ seed });
  const cache = core.kvCache({ ...shape, evictionOrder: order });
  const peer = new MapCache({ ...shape, order: model() });
  const random = new Random(seed);
  const sessions: number[][] = [];
  for (let request = 0; request < 2500; request++) {
    const again =
      random.below(3) === 0 && sessions.length > 0 ? sessions[random.below(sessions.length)] : [7];
    const tokens = again.length > 16 ? [7] : [...again];
    while (random.below(3) > 0 && tokens.length < 20) tokens.push(random.below(1000));
    sessions.unshift(tokens);
    sessions.length = Math.min(sessions.length, 12);
    const expected = peer.openSequence([...tokens, 0])!;
    const sequence = cache.open({ tokens: [...tokens, 0] });
    const hit = cache.length(sequence);
    assert.equal(hit, expected.tokens.length, `request ${request}`);
    peer.reserve(expected, tokens.length - hit);
    cache.reserve(sequence, tokens.length - hit);
    peer.append(expected, tokens.slice(hit));
    cache.append(sequence, tokens.slice(hit));
    peer.close(expected);
    cache.close(sequence);
    if (request % 50 === 0) cache.validate();
  }
}

/** Orders that differ too seldom in conversations for these tests to tell them apart; random operations do. */
const ALIKE = ["lfu, uses since entry", "seen twice, while it was cached"];

for (const [name, wanted] of Object.entries(CASES)) {
  test(`${name}: every hit of thousands of conversations is the model's, and no other order's`, async () => {
    for (const seed of [1, 2, 3]) await converse(wanted, seed);
    for (const [otherName, other] of Object.entries(CASES)) {
      if (other === wanted || (ALIKE.includes(name) && ALIKE.includes(otherName))) continue;
      await assert.rejects(converse({ order: wanted.order, model: other.model }, 1), {
        code: "ERR_ASSERTION",
      });
    }
  });
}

test("gittins: a model that has not learned is noticed", async () => {
  const unlearned = { ...CASES.gittins, model: () => new NaiveGittins(96, Infinity) };
  await assert.rejects(converse(unlearned, 1), { code: "ERR_ASSERTION" });
});

test("lru with fewer blocks retained than there are equals the model", async () => {
  await run("core", 60, { order: { kind: "lru" }, model: () => undefined as never });
});

test("scored: the block with the lowest score goes first, of equals the deepest", async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer(), fc.integer({ min: 1, max: 600 }), async (seed, operations) => {
      const core = await Core.create({ seed: seed >>> 0 });
      const order = new NaiveScored();
      const cache = core.kvCache({ ...SHAPE, evictionOrder: "scored" });
      const harness = new CacheHarness(cache, new MapCache({ ...SHAPE, order }), new Random(seed));
      const random = new Random(seed + 1);
      for (let i = 0; i < operations; i++) {
        harness.step();
        if (harness.pairs.length === 0) continue;
        const { real, model } = random.pick(harness.pairs);
        const scores = model.blocks.map(
          () => [random.below(5) - 2, -Infinity, Infinity, -0, 0][random.below(5)],
        );
        assert.equal(cache.score(real, scores), model.published);
        model.blocks.slice(0, model.published).forEach((block, at) => order.score(block, scores[at]));
        harness.compare();
      }
    }),
    { numRuns: 60 },
  );
});

test("priority: outlived first, then the lowest priority, then the least recently used, as time passes", async () => {
  const refusedTimes: [object, string][] = [
    [{ priorityUntilUs: -1 }, "INVALID_TIME"],
    [{ liveUntilUs: NaN }, "INVALID_TIME"],
    [{ priority: 101 }, "INVALID_ARGUMENT"],
    [{ priority: 0.5 }, "INVALID_ARGUMENT"],
  ];
  for (const build of ["core", "debug"] as const)
    await fc.assert(
      fc.asyncProperty(fc.integer(), fc.integer({ min: 1, max: 600 }), async (seed, operations) => {
        const core = await Core.create({ seed: seed >>> 0, build });
        const order = new NaivePriority();
        const cache = core.kvCache({ ...SHAPE, evictionOrder: "priority", retainBlocks: 20 });
        const peer = new MapCache({ ...SHAPE, order, retainBlocks: 20 });
        const harness = new CacheHarness(cache, peer, new Random(seed));
        const random = new Random(seed + 1);
        let now = 0;
        for (let i = 0; i < operations; i++) {
          harness.step();
          if (random.below(3) === 0) {
            order.advance((now += random.below(5)));
            assert.equal(cache.advance(now), order.next);
          }
          if (harness.pairs.length === 0 || random.below(2) === 0) continue;
          const { real, model } = random.pick(harness.pairs);
          const time = (): number => (random.below(2) === 0 ? Infinity : now + random.below(20));
          const [priority, until, live] = [random.below(4) * 33, time(), time()];
          const terms = { priority, priorityUntilUs: until, liveUntilUs: live };
          assert.equal(cache.prioritize(real, terms), model.published);
          for (const block of model.blocks.slice(0, model.published))
            order.give(block, priority, until, live);
          for (const [bad, code] of refusedTimes) assert.throws(() => cache.prioritize(real, bad), { code });
          harness.compare();
        }
        for (const bad of [-1, NaN, Infinity])
          assert.throws(() => cache.advance(bad), { code: "INVALID_TIME" });
      }),
      { numRuns: build === "core" ? 80 : 6 },
    );
});

test("a snapshot keeps the order: the restored cache forgets the same blocks, in any build", async () => {
  const drawn = ["scored", "marker", "flush-all-0s", "mark0", "mark-and-predict", "priority"] as const;
  for (const order of [
    ...Object.values(CASES).map((wanted) => wanted.order),
    ...drawn.map((kind) => ({ kind })),
  ]) {
    const first = await Core.create({ seed: 5 });
    const harness = new CacheHarness(
      first.kvCache({ ...SHAPE, evictionOrder: order, retainBlocks: 15 }),
      new MapCache({ ...SHAPE, order: CASES.fifo.model(), retainBlocks: 15 }),
      new Random(6),
    );
    harness.compare = () => harness.cache.validate();
    for (let i = 0; i < 300; i++) ignoringRefusals(() => harness.step());
    const second = await Core.restore(first.snapshot(), { build: "core-scalar" });
    assert.equal(second.kvCaches[0].evictionOrder, order.kind);
    operate(first.kvCaches[0]);
    operate(second.kvCaches[0]);
    assert.deepEqual(second.snapshot(), first.snapshot());
  }
});

function ignoringRefusals(run: () => void): void {
  try {
    run();
  } catch (error) {
    // The model follows another order: where the two have come apart it may refuse what the cache does not.
    assert.ok(
      (error instanceof QuartermasterError && error.code !== "CORRUPT") ||
        error instanceof assert.AssertionError,
    );
  }
}

function operate(cache: KvCache): void {
  const random = new Random(9);
  for (let i = 0; i < 120; i++) {
    const tokens = Array.from({ length: random.below(30) }, (_, at) => (at < 8 ? at % 3 : random.below(3)));
    ignoringRefusals(() => {
      const sequence = cache.open({ tokens });
      cache.reserve(sequence, tokens.length);
      cache.append(sequence, tokens.slice(cache.length(sequence)));
      cache.close(sequence);
    });
  }
}

test("advice decides: what is advised to be discarded goes before what is advised to be kept", async () => {
  for (const evictionOrder of ["flush-all-0s", "mark0", "mark-and-predict"] as const) {
    const core = await Core.create({ build: "debug" });
    const cache = core.kvCache({
      blocks: 8,
      blockSize: 1,
      maxSequences: 2,
      maxSequenceTokens: 8,
      evictionOrder,
    });
    const enter = (tokens: number[], advice: "keep" | "discard"): void => {
      const sequence = cache.open({ tokens: [...tokens, 0] });
      cache.reserve(sequence, tokens.length);
      cache.append(sequence, tokens);
      assert.equal(cache.advise(sequence, advice), tokens.length);
      cache.close(sequence);
    };
    enter([1, 2], "keep");
    enter([3, 4], "discard");
    enter([5, 6], "keep");
    enter([7, 8], "discard");
    enter([9, 10, 11, 12], "keep");
    const kept = [
      [1, 2],
      [3, 4],
      [5, 6],
      [7, 8],
    ].map((tokens) => cache.match([...tokens, 0]));
    assert.deepEqual(kept, [2, 0, 2, 0], evictionOrder);
    assert.throws(() => cache.advise(0, "keep"), { code: "UNKNOWN_SEQUENCE" });
    const sequence = cache.open({ tokens: [1] });
    assert.throws(
      () => cache.advise(sequence, "burn" as never),
      /advice is "burn"; allowed: "keep" or "discard"/,
    );
    assert.equal(core.exports.kvAdvise(cache.pointer, sequence, 2), -1);
    assert.throws(() => core.kvCache({ blocks: 8 }).advise(sequence, "keep"), { code: "UNSUPPORTED" });
  }
});

test("bad options are refused with argument, value and range, and nothing is created", async () => {
  const core = await Core.create();
  const bad: [options: object, message: RegExp][] = [
    [{ evictionOrder: "newest" }, /evictionOrder is "newest"; allowed: lru, fifo/],
    [{ evictionOrder: { kind: 3 } }, /evictionOrder is 3/],
    [{ evictionOrder: 7 }, /evictionOrder is 7/],
    [{ evictionOrder: { kind: "lfu", history: -1 } }, /history is -1; allowed: an integer from 0 to/],
    [{ evictionOrder: { kind: "lfu", history: 2 ** 27 } }, /history is 134217728/],
    [{ evictionOrder: { kind: "fifo", history: 5 } }, /history is 5; allowed: 0 for fifo/],
    [{ evictionOrder: { kind: "gdsf", baseCost: -1 } }, /baseCost is -1; allowed: a finite number >= 0/],
    [{ evictionOrder: { kind: "gdsf", depthCost: NaN } }, /depthCost is NaN/],
    [{ evictionOrder: { kind: "lfu", baseCost: 2 } }, /only with gdsf/],
    [{ retainBlocks: 9 }, /retainBlocks is 9; allowed: an integer from 0 to 8/],
    [{ retainBlocks: -1 }, /retainBlocks is -1/],
  ];
  const before = core.snapshot();
  for (const [options, message] of bad) {
    assert.throws(
      () => core.kvCache({ blocks: 8, ...options } as never),
      (error) =>
        error instanceof QuartermasterError &&
        error.code === "INVALID_ARGUMENT" &&
        message.test(error.message),
    );
  }
  assert.deepEqual(core.snapshot(), before);
  const plain = core.kvCache({ blocks: 8, maxSequences: 4, maxSequenceTokens: 64 });
  assert.equal(plain.evictionOrder, "lru");
  const sequence = plain.open({ tokens: [1] });
  assert.throws(() => plain.score(sequence, [1]), { code: "UNSUPPORTED" });
  const scored = core.kvCache({
    blocks: 8,
    maxSequences: 4,
    maxSequenceTokens: 64,
    evictionOrder: "scored",
  });
  const open = scored.open({ tokens: [1] });
  assert.throws(() => scored.score(open, [NaN]), /scores\[0\] is NaN/);
  assert.throws(() => scored.score(99, [1]), { code: "UNKNOWN_SEQUENCE" });
  const { exports } = core;
  assert.equal(exports.kvOrderCreate(scored.pointer, 1, 0, 1, 0), -1, "an order has one already");
  assert.equal(exports.kvOrderCreate(plain.pointer, 99, 0, 1, 0), -1, "no such kind");
  assert.equal(exports.kvOrderBytes(8, 0, 0), -1, "least recently used needs no bytes");
  assert.equal(exports.kvRetain(plain.pointer, 9), -1);
});

test("a step is a moment too: what has outlived its time by then goes before what was used longer ago", async () => {
  for (const until of [50, 5000]) {
    const core = await Core.create();
    const cache = core.kvCache({
      blocks: 8,
      blockSize: 4,
      maxSequences: 4,
      maxSequenceTokens: 32,
      evictionOrder: "priority",
    });
    const scheduler = core.scheduler({ cache, vocabSize: 1000, watermarkBlocks: 0 });
    const serve = (from: number, nowUs: number, liveUntilUs?: number): void => {
      const tokens = Array.from({ length: 9 }, (_, i) => from + i);
      scheduler.submit({ tokens, maxNewTokens: 2 });
      const first = scheduler.step(nowUs);
      scheduler.commit(first.stepId, nowUs, { tokens: [5] });
      const second = scheduler.step(nowUs);
      if (liveUntilUs !== undefined) cache.prioritize(second.sequences[0], { liveUntilUs });
      scheduler.commit(second.stepId, nowUs, { tokens: [5] });
    };
    serve(100, 0);
    serve(200, 1, until);
    serve(300, 100);
    serve(400, 101);
    const left = [100, 200].map((from) => cache.match(Array.from({ length: 9 }, (_, i) => from + i)));
    assert.equal(left[1] < left[0], until === 50, `${left.join(" and ")} tokens are left`);
    core.validate();
  }
});

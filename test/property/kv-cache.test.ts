/**
 * The cache against a model written with Map, Set and arrays: same hits, same blocks reused, same refusals.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { MapCache } from "../../bench/peer/map-cache.js";
import { Core, type Build, type KvCache, QuartermasterError } from "../../bindings/main.js";
import { CacheHarness } from "../support/cache-harness.js";
import { long } from "../support/long.js";
import { Random } from "../support/random.js";

async function run(
  build: Build,
  runs: number,
  shape: { keyBits?: number; prefixCache?: boolean; partialReuse?: number },
): Promise<void> {
  const options = { blocks: 24, blockSize: 4, maxSequences: 9, maxSequenceTokens: 48, ...shape };
  await fc.assert(
    fc.asyncProperty(fc.integer(), fc.integer({ min: 1, max: 1200 }), async (seed, operations) => {
      const core = await Core.create({ build, seed: seed >>> 0 });
      const harness = new CacheHarness(core.kvCache(options), new MapCache(options), new Random(seed));
      for (let i = 0; i < operations; i++) harness.step();
      for (const pair of harness.pairs) harness.cache.close(pair.real);
      assert.equal(harness.cache.available, options.blocks, "every block comes back");
    }),
    { numRuns: runs },
  );
}

/** Fewer than are made: runs are of 1 to 1,200 operations. */
const OPERATIONS = long ? "1,000,000" : "100,000";

test(`${OPERATIONS} random operations on the cache equal the model, validated after each`, () =>
  run("core", long ? 3000 : 1000, {}));
test("the scalar build takes the same decisions", () => run("core-scalar", 30, {}));
test("the threads build takes the same decisions", () => run("core-threads", 30, {}));
test("the debug build checks itself after each call and finds nothing", () => run("debug", 10, {}));
test("with a 2-bit hash nearly everything collides and no wrong block is returned", () =>
  run("core", 40, { keyBits: 2 }));
test("with a 0-bit hash everything collides and no wrong block is returned", () =>
  run("core", 20, { keyBits: 0 }));
test("with reuse inside blocks, hits and copies equal the model's", async () => {
  await run("core", 300, { partialReuse: 1 });
  await run("core", 100, { partialReuse: 3 });
  await run("debug", 10, { partialReuse: 2 });
});
test("without the prefix cache nothing is shared but forks", () => run("core", 20, { prefixCache: false }));

test("snapshot in the middle, restore in another build: identical bytes after the same operations", async () => {
  const options = { blocks: 24, blockSize: 4, maxSequences: 9, maxSequenceTokens: 48 };
  await fc.assert(
    fc.asyncProperty(fc.integer(), async (seed) => {
      const first = await Core.create({ seed: seed >>> 0 });
      const harness = new CacheHarness(first.kvCache(options), new MapCache(options), new Random(seed));
      for (let i = 0; i < 150; i++) harness.step();
      const second = await Core.restore(first.snapshot(), { build: "core-scalar" });
      const operate = (cache: KvCache): void => {
        const random = new Random(seed + 1);
        for (let i = 0; i < 60; i++) {
          const tokens = Array.from({ length: random.below(30) }, (_, at) => at % 3);
          try {
            const sequence = cache.open({ tokens });
            cache.reserve(sequence, tokens.length);
            cache.append(sequence, tokens);
            if (random.below(2) === 0) cache.close(sequence);
          } catch (error) {
            assert.ok(error instanceof QuartermasterError);
          }
        }
      };
      operate(first.kvCaches[0]);
      operate(second.kvCaches[0]);
      assert.deepEqual(second.snapshot(), first.snapshot());
    }),
    { numRuns: 20 },
  );
});

test("a copy of a copy is dropped with its last holder, and what it was to read with it", async () => {
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 8, blockSize: 4, maxSequences: 4, maxSequenceTokens: 16 });
  const first = cache.open({ tokens: [] });
  cache.reserve(first, 6);
  cache.append(first, [1, 2, 3, 4, 5, 6]);
  const second = cache.fork(first);
  cache.reserve(second, 1);
  const third = cache.fork(second);
  cache.reserve(third, 1);
  assert.equal(cache.copies().length / 8, 2);
  cache.close(second);
  core.validate();
  assert.equal(cache.copies().length / 8, 2, "the third sequence still needs both");
  cache.close(third);
  core.validate();
  assert.equal(cache.copies().length, 0);
  assert.equal(cache.available, 6);
  cache.close(first);
  core.validate();
  assert.equal(cache.available, 8);
});

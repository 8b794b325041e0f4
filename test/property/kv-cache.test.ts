/**
 * The cache against a model written with Map, Set and arrays: same hits, same blocks reused, same refusals.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { MapCache, type MapBlock, type MapSequence } from "../../bench/peer/map-cache.js";
import { Core, type Build, type KvCache, QuartermasterError, type SequenceId } from "../../bindings/main.js";
import { Random } from "../support/random.js";

interface Pair {
  real: SequenceId;
  model: MapSequence;
}

class Harness {
  readonly pairs: Pair[] = [];
  constructor(
    readonly cache: KvCache,
    readonly model: MapCache,
    readonly random: Random,
  ) {}

  /** Prompts over few tokens with shared beginnings, so that prefixes and collisions are common. */
  tokens(count: number): number[] {
    return Array.from({ length: count }, (_, i) =>
      this.random.below(12) === 0 ? this.random.below(3) : i % 3,
    );
  }

  refused(run: () => void, code: string): boolean {
    try {
      run();
      return false;
    } catch (error) {
      assert.ok(error instanceof QuartermasterError && error.code === code, String(error));
      return true;
    }
  }

  step(): void {
    const { cache, model, random, pairs } = this;
    const pair = pairs.length > 0 ? random.pick(pairs) : undefined;
    switch (random.below(12)) {
      case 0:
      case 1:
      case 2: {
        const tokens = this.tokens(random.below(30));
        const namespace = random.below(2);
        const isPrivate = random.below(10) === 0;
        assert.equal(cache.match(tokens, namespace), model.match(tokens, namespace).length * model.blockSize);
        const opened = model.openSequence(tokens, namespace, isPrivate);
        if (opened === undefined) {
          assert.ok(
            this.refused(() => cache.open({ tokens, namespace, private: isPrivate }), "OUT_OF_SEQUENCES"),
          );
        } else {
          pairs.push({ real: cache.open({ tokens, namespace, private: isPrivate }), model: opened });
        }
        break;
      }
      case 3:
      case 4:
      case 5:
      case 6: {
        if (!pair) break;
        const count = random.below(random.below(3) === 0 ? 14 : 4);
        if (pair.model.tokens.length + count > model.maxSequenceTokens) break;
        const reserved = model.reserve(pair.model, count);
        assert.equal(
          this.refused(() => cache.reserve(pair.real, count), "OUT_OF_BLOCKS"),
          !reserved,
        );
        break;
      }
      case 7:
      case 8: {
        if (!pair) break;
        const tokens = this.tokens(random.below(10)).map(
          (token, i) => (pair.model.tokens.length + i) % 3 || token,
        );
        const appended = model.append(pair.model, tokens);
        assert.equal(
          this.refused(() => cache.append(pair.real, tokens), appended),
          appended !== "OK",
        );
        break;
      }
      case 9: {
        if (!pair) break;
        const length = random.below(pair.model.tokens.length + 1);
        model.truncate(pair.model, length);
        cache.truncate(pair.real, length);
        break;
      }
      case 10: {
        if (!pair) break;
        if (random.below(2) === 0) {
          model.close(pair.model);
          cache.close(pair.real);
          pairs.splice(pairs.indexOf(pair), 1);
          break;
        }
        const twin = model.fork(pair.model);
        if (twin === undefined) assert.ok(this.refused(() => cache.fork(pair.real), "OUT_OF_SEQUENCES"));
        else pairs.push({ real: cache.fork(pair.real), model: twin });
        break;
      }
      default: {
        const choice = random.below(8);
        if (choice === 0) assert.equal(cache.forget(), model.forget());
        else if (choice < 3) {
          cache.revertCopies();
          model.revertCopies();
        } else {
          cache.settleCopies();
          model.settleCopies();
        }
      }
    }
    this.compare();
  }

  compare(): void {
    const { cache, model } = this;
    cache.validate();
    const stats = cache.stats();
    assert.equal(stats.free, model.free);
    assert.equal(stats.evictable, model.evictable.size);
    assert.equal(stats.cached, model.cached.size);
    assert.equal(stats.evictions, model.evictions);
    assert.equal(stats.duplicates, model.duplicates);
    assert.equal(cache.copies().length / 8, model.pendingCopies.length);
    const named = new Map<MapBlock, number>();
    const ids = new Map<number, MapBlock>();
    for (const pair of this.pairs) {
      assert.equal(cache.length(pair.real), pair.model.tokens.length);
      const table = cache.blockTable(pair.real);
      assert.equal(table.length, pair.model.blocks.length);
      pair.model.blocks.forEach((block, i) => {
        assert.equal(named.get(block) ?? table[i], table[i], "one model block, one id");
        assert.equal(ids.get(table[i]) ?? block, block, "one id, one model block");
        named.set(block, table[i]);
        ids.set(table[i], block);
        assert.equal(cache.references(table[i]), block.refs);
      });
    }
  }
}

async function run(
  build: Build,
  runs: number,
  shape: { keyBits?: number; prefixCache?: boolean },
): Promise<void> {
  const options = { blocks: 24, blockSize: 4, maxSequences: 9, maxSequenceTokens: 48, ...shape };
  await fc.assert(
    fc.asyncProperty(fc.integer(), fc.integer({ min: 1, max: 1200 }), async (seed, operations) => {
      const core = await Core.create({ build, seed: seed >>> 0 });
      const harness = new Harness(core.kvCache(options), new MapCache(options), new Random(seed));
      for (let i = 0; i < operations; i++) harness.step();
      for (const pair of harness.pairs) harness.cache.close(pair.real);
      assert.equal(harness.cache.available, options.blocks, "every block comes back");
    }),
    { numRuns: runs },
  );
}

test("100,000 random operations on the cache equal the model, validated after each", () =>
  run("core", 1000, {}));
test("the scalar build takes the same decisions", () => run("core-scalar", 30, {}));
test("the threads build takes the same decisions", () => run("core-threads", 30, {}));
test("the debug build checks itself after each call and finds nothing", () => run("debug", 10, {}));
test("with a 2-bit hash nearly everything collides and no wrong block is returned", () =>
  run("core", 40, { keyBits: 2 }));
test("with a 0-bit hash everything collides and no wrong block is returned", () =>
  run("core", 20, { keyBits: 0 }));
test("without the prefix cache nothing is shared but forks", () => run("core", 20, { prefixCache: false }));

test("snapshot in the middle, restore in another build: identical bytes after the same operations", async () => {
  const options = { blocks: 24, blockSize: 4, maxSequences: 9, maxSequenceTokens: 48 };
  await fc.assert(
    fc.asyncProperty(fc.integer(), async (seed) => {
      const first = await Core.create({ seed: seed >>> 0 });
      const harness = new Harness(first.kvCache(options), new MapCache(options), new Random(seed));
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

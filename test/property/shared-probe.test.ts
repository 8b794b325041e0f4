/** The shared prefix probe: on one thread it says what `match` says, whatever has happened before. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Core, type KvCache, QuartermasterError, type SequenceId } from "../../bindings/main.js";
import { Random } from "../support/random.js";

const SHAPE = { blocks: 300, blockSize: 1, maxSequences: 40, maxSequenceTokens: 64, sharedProbe: true };

async function shared(options: object = {}, seed = 1): Promise<KvCache> {
  const core = await Core.create({ build: "core-threads", seed });
  return core.kvCache({ ...SHAPE, ...options });
}

/** Prompts that share beginnings. */
function prompt(random: Random): number[] {
  const length = random.below(40);
  return Array.from({ length }, (_, i) => (random.below(16) === 0 ? random.below(3) : i % 5));
}

/** One random change: a prompt computed and held, a sequence closed or cut, everything unheld forgotten. */
function change(cache: KvCache, random: Random, held: SequenceId[]): void {
  const choice = random.below(20);
  if (choice === 0) cache.forget();
  else if (choice < 3 && held.length > 0) {
    const sequence = random.pick(held);
    cache.truncate(sequence, random.below(cache.length(sequence) + 1));
  } else if (held.length > 0 && (held.length > 8 || choice < 8)) {
    cache.close(held.splice(random.below(held.length), 1)[0]);
  } else {
    const tokens = prompt(random);
    const sequence = cache.open({ tokens, namespace: random.below(2) });
    held.push(sequence);
    const rest = tokens.slice(cache.length(sequence));
    if (rest.length > cache.available * cache.blockSize) return;
    cache.reserve(sequence, rest.length);
    cache.settleCopies();
    cache.append(sequence, rest);
  }
}

test("probe equals match after each of 30,000 random operations, index and chains agree", async () => {
  let hits = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.integer(),
      fc.integer({ min: 1, max: 600 }),
      fc.constantFrom(1, 2, 8),
      async (seed, operations, blockSize) => {
        const cache = await shared({ blockSize }, seed >>> 0);
        const random = new Random(seed);
        const held: SequenceId[] = [];
        for (let i = 0; i < operations; i++) {
          change(cache, random, held);
          cache.validate();
          const tokens = prompt(random);
          const namespace = random.below(2);
          const { tokens: cached, blocks } = cache.probe(tokens, namespace);
          assert.equal(cached, cache.match(tokens, namespace));
          assert.equal(blocks * blockSize, cached);
          hits += blocks;
        }
      },
    ),
    { numRuns: 100 },
  );
  assert.ok(hits > 10_000, `only ${hits} blocks found`);
});

test("with a hash of few bits a probe may say less than match and never more", async () => {
  for (const keyBits of [0, 1, 4]) {
    const cache = await shared({ keyBits });
    const random = new Random(keyBits);
    const held: SequenceId[] = [];
    for (let i = 0; i < 2000; i++) {
      change(cache, random, held);
      cache.validate();
      const tokens = prompt(random);
      assert.ok(cache.probe(tokens).tokens <= cache.match(tokens));
    }
  }
});

test("a cache with a probe index goes on from a snapshot, in a build without threads too", async () => {
  const cache = await shared();
  const random = new Random(5);
  const held: SequenceId[] = [];
  for (let i = 0; i < 500; i++) change(cache, random, held);
  const bytes = cache.core.snapshot();
  for (const build of ["core", "core-scalar", "core-threads"] as const) {
    const restored = (await Core.restore(bytes, { build })).kvCaches[0];
    const [first, second] = [new Random(6), new Random(6)];
    const [a, b] = [[...held], [...held]];
    const twin = (await Core.restore(bytes, { build: "core-threads" })).kvCaches[0];
    for (let i = 0; i < 300; i++) {
      change(restored, first, a);
      change(twin, second, b);
      const tokens = prompt(first);
      assert.deepEqual(restored.probe(tokens), twin.probe(prompt(second)));
      assert.equal(restored.probe(tokens).tokens, restored.match(tokens));
    }
    restored.core.validate();
    assert.deepEqual(restored.stats(), twin.stats());
  }
});

test("prompts longer than a thread's scratch are probed piece by piece", async () => {
  for (const blockSize of [1, 16, 256]) {
    const core = await Core.create({ build: "core-threads" });
    const length = 40_000;
    const cache = core.kvCache({
      blocks: Math.ceil(length / blockSize),
      blockSize,
      maxSequenceTokens: length,
      maxSequences: 2,
      sharedProbe: true,
    });
    const tokens = Uint32Array.from({ length }, (_, i) => i * 7);
    const sequence = cache.open({ tokens });
    cache.reserve(sequence, length);
    const half = 16_384 + 3 * blockSize;
    cache.append(sequence, tokens.subarray(0, half));
    assert.equal(cache.probe(tokens).tokens, half);
    cache.append(sequence, tokens.subarray(half));
    assert.equal(cache.probe(tokens).tokens, cache.match(tokens));
    assert.deepEqual(cache.probe(Array.from(tokens)), cache.probe(tokens));
    core.validate();
  }
});

test("validate notices an index that lacks a key, has one too many or names another block", async () => {
  const cache = await shared();
  const { exports } = cache.core;
  const sequence = cache.open({ tokens: [] });
  cache.reserve(sequence, 3);
  cache.append(sequence, [1, 2, 3]);
  const index = exports.kvCacheProbeIndex(cache.pointer) >>> 0;
  const corrupt = (error: unknown): boolean =>
    error instanceof QuartermasterError && error.code === "CORRUPT";
  cache.validate();

  exports.orderedIndexSet(index, 77, 0, 0, 0);
  assert.throws(() => cache.validate(), corrupt, "one key too many");
  exports.orderedIndexDelete(index, 77, 0);
  cache.validate();

  const at = cache.core.scratch(64);
  exports.orderedIndexRange(index, 1n, 2n ** 64n - 2n, 3, at, at + 24);
  const [keyLow, keyHigh] = new Uint32Array(cache.core.memory.buffer, at, 2);
  const block = new Uint32Array(cache.core.memory.buffer, at + 24, 1)[0];
  exports.orderedIndexSet(index, keyLow, keyHigh, block + 1, 0);
  assert.throws(() => cache.validate(), corrupt, "another block");
  exports.orderedIndexDelete(index, keyLow, keyHigh);
  assert.throws(() => cache.validate(), corrupt, "a key is missing");
  assert.equal(cache.probe([1, 2, 3, 4]).tokens < 3, true, "and the probe misses it");
  exports.orderedIndexSet(index, keyLow, keyHigh, block, 0);
  cache.validate();
});

test("sharedProbe is refused where it cannot be, probe where it is not there", async () => {
  const invalid = (error: unknown): boolean =>
    error instanceof QuartermasterError &&
    error.code === "INVALID_ARGUMENT" &&
    error.argument === "sharedProbe";
  for (const build of ["core", "core-scalar", "debug"] as const) {
    const core = await Core.create({ build });
    assert.throws(() => core.kvCache(SHAPE), invalid);
    assert.equal(core.kvCaches.length, 0);
    assert.equal(core.exports.kvCacheCreate(8, 4, 4, 64, 1, 64, 1), -1);
  }
  const core = await Core.create({ build: "core-threads" });
  assert.throws(() => core.kvCache({ ...SHAPE, prefixCache: false }), invalid);
  const plain = core.kvCache({ ...SHAPE, sharedProbe: false });
  assert.throws(
    () => plain.probe([1, 2]),
    (error) => error instanceof QuartermasterError && error.code === "UNSUPPORTED",
  );
  const cache = core.kvCache(SHAPE);
  assert.throws(() => cache.probe([1, -2]), /tokens\[1\] is -2/);
  assert.throws(() => cache.probe(new Uint32Array(65)), /TOO_LONG|65 tokens/);
  assert.throws(() => cache.probe([1], -1), /namespace is -1/);
  assert.throws(() => cache.probe(undefined as never), /tokens is undefined/);
  assert.deepEqual(cache.probe([]), { tokens: 0, blocks: 0 });
});

test("the probe index takes room only where it is asked for", async () => {
  const { exports } = await Core.create({ build: "core-threads" });
  const bytes = exports.kvCacheBytes(4096, 16, 64, 4096, 0);
  const withIndex = exports.kvCacheBytes(4096, 16, 64, 4096, 1);
  const core = await Core.create({ build: "core" });
  assert.equal(
    core.exports.kvCacheBytes(4096, 16, 64, 4096, 0),
    bytes,
    "as much as in a build without threads",
  );
  const perBlock = (withIndex - bytes) / 4096;
  assert.ok(perBlock > 12 && perBlock < 128, `${perBlock} bytes a block`);
});

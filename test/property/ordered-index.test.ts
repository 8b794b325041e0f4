/** The ordered index against a Map and a sorted list of its keys. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Build, Core, type IndexMode, Operations, type OrderedIndex } from "../../bindings/main.js";
import { Random } from "../support/random.js";

const PATTERNS: Readonly<Record<string, (random: Random, i: number) => bigint>> = {
  "a small key space": (random) => BigInt(1 + random.below(60)),
  "a large key space": (random) => (BigInt(random.next()) << 32n) | BigInt(random.next() || 1),
  ascending: (_, i) => BigInt(i + 1),
  descending: (_, i) => BigInt(1_000_000 - i),
  "one prefix": (random) => 0x1234567800000000n | BigInt(random.below(500) + 1),
  "multiples of 64": (random) => BigInt(random.below(400) + 1) * 64n,
  "multiples of 1024": (random) => BigInt(random.below(400) + 1) * 1024n,
  "around 2^63": (random) => (1n << 63n) + BigInt(random.below(200) - 100),
  "up to the last key": (random) => (1n << 64n) - 2n - BigInt(random.below(200)),
};

class Harness {
  readonly model = new Map<bigint, bigint>();
  readonly mask: bigint;
  constructor(
    readonly index: OrderedIndex,
    readonly random: Random,
    readonly nextKey: (random: Random, i: number) => bigint,
  ) {
    this.mask = index.valueBytes === 8 ? (1n << 64n) - 1n : (1n << 32n) - 1n;
  }

  value(): bigint {
    return ((BigInt(this.random.next()) << 32n) | BigInt(this.random.next())) & this.mask;
  }

  /** A key to look for: often one that is there. */
  key(i: number): bigint {
    return this.nextKey(this.random, this.random.below(2) === 0 ? i : this.random.below(i + 1));
  }

  step(i: number): void {
    const { index, model, random } = this;
    const key = this.key(i);
    switch (random.below(9)) {
      case 0:
      case 1:
      case 2:
      case 3: {
        const value = this.value();
        assert.equal(index.set(key, value), !model.has(key));
        model.set(key, value);
        break;
      }
      case 4:
      case 5:
        assert.equal(index.delete(key), model.delete(key));
        break;
      case 6:
        assert.equal(index.get(key), model.get(key));
        assert.equal(index.has(key), model.has(key));
        break;
      case 7: {
        if (!model.has(key)) break;
        const before = model.get(key)!;
        const added = this.value();
        assert.equal(index.fetchAdd(key, added), before);
        model.set(key, (before + added) & this.mask);
        assert.equal(index.compareExchange(key, before ^ 1n, 5n), (before ^ 1n) === model.get(key));
        if ((before ^ 1n) === model.get(key)) model.set(key, 5n);
        break;
      }
      default: {
        const limit = random.below(12);
        const expected = this.sorted().filter(([k]) => k >= key);
        assert.deepEqual(index.scan(key, limit), expected.slice(0, limit));
      }
    }
    assert.equal(index.size, model.size);
  }

  sorted(): [bigint, bigint][] {
    return [...this.model].sort(([a], [b]) => (a < b ? -1 : 1));
  }
}

/** Every build, and every mode of the one with threads. */
const VARIANTS: readonly (readonly [Build, IndexMode])[] = [
  ["core", "private"],
  ["core-scalar", "private"],
  ["debug", "private"],
  ["core-threads", "private"],
  ["core-threads", "locked"],
  ["core-threads", "optimistic"],
];

async function start(
  [build, mode]: readonly [Build, IndexMode],
  seed: number,
  nodeBytes: number,
  valueBytes: 4 | 8,
  pattern: string,
): Promise<Harness> {
  const core = await Core.create({ build, seed: seed >>> 0 });
  const index = core.orderedIndex({ capacity: 2000, nodeBytes, valueBytes, mode });
  return new Harness(index, new Random(seed), PATTERNS[pattern]);
}

for (const [pattern] of Object.entries(PATTERNS)) {
  test(`random operations equal the model, validated after each: ${pattern}`, async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer(),
        fc.integer({ min: 1, max: 400 }),
        fc.constantFrom(128, 256, 1024),
        fc.constantFrom(4 as const, 8 as const),
        fc.constantFrom(...VARIANTS),
        async (seed, operations, nodeBytes, valueBytes, variant) => {
          const harness = await start(variant, seed, nodeBytes, valueBytes, pattern);
          for (let i = 0; i < operations; i++) {
            harness.step(i);
            harness.index.validate();
          }
          assert.deepEqual([...harness.index], harness.sorted());
        },
      ),
      { numRuns: 60 },
    );
  });
}

/** A million operations through `apply`, in groups of 500, with the model after each group. */
for (const [build, mode] of VARIANTS.filter(
  ([build]) => build.startsWith("core") && build !== "core-scalar",
)) {
  for (const nodeBytes of [128, 1024]) {
    test(`1,000,000 batched operations equal the model: ${build}, ${mode}, nodes of ${nodeBytes}`, async () => {
      const core = await Core.create({ build, seed: 11 });
      const index = core.orderedIndex({ capacity: 40_000, nodeBytes, mode });
      const random = new Random(12);
      const model = new Map<number, number>();
      const operations = new Operations(500);
      for (let group = 0; group < 2000; group++) {
        const space = (group >> 5) % 2 === 0 ? 30_000 : 3_000;
        applyGroup(index, operations, model, random, space);
        if (group % 100 === 99) checkAgainst(index, model, nodeBytes);
      }
    });
  }
}

function applyGroup(
  index: OrderedIndex,
  operations: Operations,
  model: Map<number, number>,
  random: Random,
  space: number,
): void {
  const expected: (() => void)[] = [];
  operations.clear();
  for (let i = 0; i < operations.capacity; i++) {
    const key = 1 + random.below(space);
    const before = model.get(key);
    const value = random.next();
    const kind = random.below(10);
    if (kind < 3) {
      operations.putHalves(key, 0, value);
      expected.push(() => assert.equal(operations.status(i), before === undefined ? 1 : 0));
      model.set(key, value);
    } else if (kind < 6) {
      operations.deleteHalves(key, 0);
      expected.push(() => assert.equal(operations.status(i), before === undefined ? 0 : 1));
      model.delete(key);
    } else if (kind < 8) {
      operations.getHalves(key, 0);
      expected.push(() => {
        assert.equal(operations.status(i), before === undefined ? 0 : 1);
        assert.equal(operations.value(i), BigInt(before ?? 0));
      });
    } else if (kind === 8) {
      operations.fetchAdd(BigInt(key), 3n);
      expected.push(() => assert.equal(operations.status(i), before === undefined ? -19 : 1));
      if (before !== undefined) model.set(key, before + 3);
    } else {
      operations.compareExchange(BigInt(key), BigInt((before ?? 0) + (value & 1)), 7n);
      const equal = before !== undefined && (value & 1) === 0;
      expected.push(() => assert.equal(operations.status(i), before === undefined ? -19 : Number(equal)));
      if (equal) model.set(key, 7);
    }
  }
  index.apply(operations);
  for (const check of expected) check();
}

function checkAgainst(index: OrderedIndex, model: Map<number, number>, nodeBytes: number): void {
  index.validate();
  assert.equal(index.size, model.size);
  const sorted = [...model].sort(([a], [b]) => a - b).map(([key, value]) => [BigInt(key), BigInt(value)]);
  assert.deepEqual([...index.entries()], sorted);
  const { exports } = index.core;
  const { nodes, freeNodes } = index.stats();
  const bits = exports.orderedIndexDigitBits(nodeBytes, 8);
  const enough = exports.orderedIndexNodesFor(model.size, nodeBytes, 8, bits);
  assert.ok(nodes - freeNodes <= enough, "deletions leave no sparse nodes behind");
}

test("setMany, getMany and deleteMany equal single calls", async () => {
  for (const [build, mode] of VARIANTS) {
    const core = await Core.create({ build, seed: 3 });
    const index = core.orderedIndex({ capacity: 5000, nodeBytes: 256, mode });
    const random = new Random(4);
    const keys = BigUint64Array.from({ length: 3001 }, () => BigInt(1 + random.below(9000)));
    const values = keys.map((key) => key * 3n);
    index.setMany(keys, values);
    const present = new Set(keys);
    assert.equal(index.size, present.size);
    const probes = BigUint64Array.from({ length: 4003 }, (_, i) => BigInt(1 + i * 2));
    const got = index.getMany(probes);
    probes.forEach((key, i) => {
      assert.equal(got.found[i], present.has(key) ? 1 : 0);
      assert.equal(got.values[i], present.has(key) ? key * 3n : 0n);
      assert.equal(index.get(key), present.has(key) ? key * 3n : undefined);
    });
    const odd = probes.filter((key) => present.has(key)).length;
    assert.equal(index.deleteMany(probes), odd);
    assert.equal(index.size, present.size - odd);
    index.validate();
  }
});

test("scans of a batch return what range returns", async () => {
  for (const [build, mode] of VARIANTS) {
    const core = await Core.create({ build, seed: 5 });
    const index = core.orderedIndex({ capacity: 5000, nodeBytes: 256, mode, valueBytes: 4 });
    const operations = new Operations(300);
    const random = new Random(6);
    for (let i = 0; i < 3000; i++) index.setHalves(1 + random.below(20_000), 0, i);
    const wanted: [bigint, number][] = [];
    for (let i = 0; i < 300; i++) {
      wanted.push([BigInt(random.below(21_000)), random.below(120)]);
      operations.scan(...wanted[i]);
    }
    index.apply(operations);
    wanted.forEach(([key, limit], i) => assert.deepEqual(operations.entries(i), index.scan(key, limit)));
  }
});

for (const [build, mode] of VARIANTS) {
  test(`out of nodes is a status: the index stays as it was, and goes on: ${build}, ${mode}`, async () => {
    await fillUp(await Core.create({ build, seed: 5 }), mode);
  });
}

async function fillUp(core: Core, mode: IndexMode): Promise<void> {
  const index = core.orderedIndex({ capacity: 1, nodeBytes: 128, mode });
  const random = new Random(6);
  const keys: bigint[] = [];
  let refused: bigint | undefined;
  while (refused === undefined) {
    const key = BigInt(1 + random.next());
    const before = core.snapshot();
    try {
      index.set(key, key);
      keys.push(key);
    } catch (error) {
      assert.equal((error as { code: string }).code, "OUT_OF_MEMORY");
      assert.deepEqual(core.snapshot(), before);
      refused = key;
    }
  }
  index.validate();
  assert.ok(keys.every((key) => index.get(key) === key));
  for (const key of keys.splice(0, keys.length / 2)) assert.ok(index.delete(key));
  index.validate();
  assert.ok(index.set(refused, 1n));
  assert.ok(keys.every((key) => index.get(key) === key));
  index.validate();
}

/** Levels that keys reach, read off the structure by walking its levels in memory. */
function keysOnLevel(index: OrderedIndex, level: number): number {
  const { memory } = index.core;
  const view = new DataView(memory.buffer);
  const nodes = view.getUint32(index.pointer, true);
  const nodeBytes = view.getUint32(index.pointer + 4, true);
  let keys = -1; // the sentinel
  for (let at = nodes + level * nodeBytes; at !== 0; at = view.getUint32(at + 12, true))
    keys += view.getUint16(at + 8, true);
  return keys;
}

test("heights follow the geometric law for regular keys too", async () => {
  const count = 20_000;
  const regular: Readonly<Record<string, (i: number) => bigint>> = {
    ascending: (i) => BigInt(i + 1),
    "multiples of 64": (i) => BigInt(i + 1) * 64n,
    "multiples of 1024": (i) => BigInt(i + 1) * 1024n,
    "high bits only": (i) => BigInt(i + 1) << 40n,
  };
  for (const [name, key] of Object.entries(regular)) {
    const core = await Core.create({ seed: 21 });
    const index = core.orderedIndex({ capacity: count, nodeBytes: 1024 });
    for (let i = 0; i < count; i++) index.set(key(i), 0n);
    const share = 1 / 32;
    const promoted = keysOnLevel(index, 1);
    const deviation = Math.sqrt(count * share * (1 - share));
    assert.ok(Math.abs(promoted - count * share) < 5 * deviation, `${name}: ${promoted} keys on level 1`);
    // The law would be broken at once if the key itself were the hash: every multiple of 64 ends in five zero
    // bits.
    if (name.startsWith("multiples")) assert.equal(Number(key(7) % 32n), 0);
  }
});

/** Distinct cache lines that a lookup touches, by repeating its walk over the memory. */
function linesTouched(index: OrderedIndex, key: bigint): number {
  const view = new DataView(index.core.memory.buffer);
  const word = (at: number): number => view.getUint32(at, true);
  const [nodes, nodeBytes] = [word(index.pointer), word(index.pointer + 4)];
  const [innerCapacity, levels] = [word(index.pointer + 20), word(index.pointer + 28)];
  const lines = new Set<number>();
  const touch = (at: number): number => (lines.add(at >> 6), at);
  let at = nodes + (levels - 1) * nodeBytes;
  for (let level = levels - 1; ; level--) {
    while (view.getBigUint64(touch(at + 16), true) <= key) at = word(at + 12);
    let base = 0;
    for (let length = view.getUint16(touch(at + 8), true); length > 1;) {
      const half = length >> 1;
      if (view.getBigUint64(touch(at + 32 + (base + half) * 8), true) <= key) base += half;
      length -= half;
    }
    if (level === 0) return lines.size;
    at = word(touch(at + 32 + innerCapacity * 8 + base * 4));
  }
}

/**
 * Lines that a lookup touches in a skip list of one element a node, p = 1/2: each node visited is a line of
 * its own.
 */
function skipListVisits(count: number, random: Random): number {
  let visits = 0;
  // Expected walk: at each level the search steps right until a taller node; both directions are coin flips.
  for (let level = Math.log2(count); level > 0; level -= random.below(2)) visits += 1;
  return visits;
}

test("a lookup touches at most half the lines of a one-element-a-node skip list", async () => {
  const count = 200_000;
  const core = await Core.create({ seed: 31 });
  const index = core.orderedIndex({ capacity: count });
  const random = new Random(32);
  const keys = BigUint64Array.from(
    { length: count },
    () => (BigInt(random.next()) << 31n) | BigInt(random.next() | 1),
  );
  index.setMany(keys, keys);
  let ours = 0;
  let skipList = 0;
  for (let i = 0; i < 2000; i++) {
    ours += linesTouched(index, keys[random.below(count)]);
    skipList += skipListVisits(count, random);
  }
  assert.ok(ours / skipList <= 0.5, `${ours / 2000} lines against ${skipList / 2000}`);
});

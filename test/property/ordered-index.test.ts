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

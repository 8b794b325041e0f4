/** Batches that lie in core memory: the caller fills them in place, and what comes back is there. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Build, Core, type IndexMode, Operations } from "../../bindings/main.js";
import { Random } from "../support/random.js";

const VARIANTS: readonly (readonly [Build, IndexMode])[] = [
  ["core", "private"],
  ["core-scalar", "private"],
  ["core-threads", "locked"],
  ["core-threads", "optimistic"],
];

for (const [build, mode] of VARIANTS) {
  test(`a region enters, finds, scans and removes what is written into it: ${build}, ${mode}`, async () => {
    const core = await Core.create({ build, seed: 3 });
    const index = core.orderedIndex({ capacity: 5000, mode, nodeBytes: 256 });
    const { region } = index;
    const random = new Random(7);
    const model = new Map<bigint, bigint>();
    for (let round = 0; round < 12; round++) {
      const { keys, values, keyHalves, valueHalves } = region;
      const count = round === 0 ? region.capacity : 1 + random.below(region.capacity);
      for (let i = 0; i < count; i++) {
        keyHalves[i * 2] = 1 + random.below(4000);
        keyHalves[i * 2 + 1] = random.below(2);
        valueHalves[i * 2] = i;
        valueHalves[i * 2 + 1] = round;
        model.set(keys[i], values[i]);
      }
      region.setMany(count);
      assert.equal(index.size, model.size);

      for (let i = 0; i < count; i++) keys[i] = BigInt(1 + random.below(4200));
      const asked = keys.slice(0, count);
      assert.equal(region.getMany(count), asked.filter((key) => model.has(key)).length);
      asked.forEach((key, i) => {
        assert.equal(region.found[i], Number(model.has(key)));
        assert.equal(region.values[i], model.get(key) ?? 0n);
      });

      const sorted = [...model].sort(([a], [b]) => (a < b ? -1 : 1));
      const found = region.scan(asked[0], 100, asked[0] + 300n);
      const expected = sorted.filter(([key]) => key >= asked[0] && key <= asked[0] + 300n).slice(0, 100);
      assert.deepEqual(
        Array.from({ length: found }, (_, i) => [region.keys[i], region.values[i]]),
        expected,
      );

      const removed = Math.min(count, 400);
      region.keys.set(asked.subarray(0, removed));
      const before = model.size;
      for (const key of asked.subarray(0, removed)) model.delete(key);
      assert.equal(region.deleteMany(removed), before - model.size);
      index.validate();
    }
  });

  test(`operations recorded in a region end as those applied from outside: ${build}, ${mode}`, async () => {
    const core = await Core.create({ build, seed: 3 });
    const [index, twin] = [0, 1].map(() => core.orderedIndex({ capacity: 3000, mode, nodeBytes: 128 }));
    const { operations } = index.region;
    const outside = new Operations(operations.capacity);
    let found = 0;
    for (let round = 0; round < 30; round++) {
      // One after the other: both go through the same scratch.
      record(outside, new Random(round));
      twin.apply(outside);
      record(operations, new Random(round));
      index.region.apply();
      assert.equal(operations.length, outside.length);
      for (let i = 0; i < outside.length; i++) {
        assert.equal(operations.status(i), outside.status(i));
        assert.equal(operations.value(i), outside.value(i));
        if (!isScan(i)) continue;
        found += outside.status(i);
        assert.deepEqual(operations.entries(i), outside.entries(i));
      }
    }
    assert.ok(found > 1000, "the scans found entries");
    index.validate();
    assert.deepEqual([...index], [...twin]);
  });
}

const isScan = (i: number): boolean => i % 10 === 9;

function record(operations: Operations, random: Random): void {
  operations.clear();
  const length = 1 + random.below(operations.capacity);
  for (let i = 0; i < length; i++) {
    const key = 1 + random.below(2000);
    const kind = random.below(9);
    if (isScan(i)) operations.scan(BigInt(key), random.below(20));
    else if (kind < 4) operations.putHalves(key, 0, random.next(), 1);
    else if (kind < 6) operations.delete(BigInt(key));
    else if (kind < 8) operations.getHalves(key, 0);
    else operations.fetchAdd(BigInt(key), 5n);
  }
}

test("arrays of a region are stale after growth; fresh ones show what was written", async () => {
  const core = await Core.create({ seed: 1 });
  const index = core.orderedIndex({ capacity: 100 });
  const { region } = index;
  const stale = region.keys;
  stale[0] = 5n;
  region.values[0] = 6n;
  core.orderedIndex({ capacity: 50_000 });
  assert.equal(stale.length, 0, "detached");
  assert.equal(region.keys.length, region.capacity);
  assert.equal(region.keys[0], 5n);
  region.setMany(1);
  assert.equal(index.get(5n), 6n);
});

test("operations recorded before growth are run after it, and can be recorded on", async () => {
  const core = await Core.create({ seed: 1 });
  const index = core.orderedIndex({ capacity: 100 });
  const { operations } = index.region;
  operations.putHalves(5, 0, 6);
  operations.put(7n, 8n);
  core.orderedIndex({ capacity: 50_000 });
  operations.get(5n);
  operations.scanHalves(1, 0, 9);
  index.region.apply();
  assert.equal(operations.value(2), 6n);
  core.orderedIndex({ capacity: 100_000 });
  assert.equal(operations.status(3), 2);
  assert.deepEqual(operations.entries(3), [
    [5n, 6n],
    [7n, 8n],
  ]);
  assert.equal(operations.valueLow(2), 6);
});

test("the arrays of a shared core outlive its growth", async () => {
  const core = await Core.create({ build: "core-threads", seed: 1 });
  const index = core.orderedIndex({ capacity: 100, mode: "optimistic" });
  const { keys, values } = index.region;
  keys[0] = 5n;
  values[0] = 6n;
  core.orderedIndex({ capacity: 50_000 });
  keys[1] = 7n;
  values[1] = 8n;
  index.region.setMany(2);
  assert.deepEqual(index.scan(1n, 3), [
    [5n, 6n],
    [7n, 8n],
  ]);
});

test("more than a region holds is refused, and nothing is run", async () => {
  const core = await Core.create({ seed: 1 });
  const index = core.orderedIndex({ capacity: 100 });
  const { region } = index;
  region.keys.fill(3n);
  for (const count of [-1, 0.5, region.capacity + 1, NaN]) {
    assert.throws(() => region.setMany(count), { code: "INVALID_ARGUMENT", argument: "count" });
    assert.throws(() => region.getMany(count), { argument: "count" });
    assert.throws(() => region.deleteMany(count), { argument: "count" });
    assert.throws(() => region.scan(1n, count), { argument: "limit" });
  }
  assert.throws(() => region.scan(1 as never, 1), { argument: "lowest" });
  assert.equal(index.size, 0);

  const { operations } = region;
  operations.clear();
  operations.scan(1n, 1024);
  operations.scan(1n, 1000);
  assert.throws(() => operations.scan(1n, 25), {
    code: "INVALID_ARGUMENT",
    argument: "entries of all scans",
  });
  assert.equal(operations.scan(1n, 24), 2);
  while (operations.length < operations.capacity) operations.putHalves(operations.length, 0, 0);
  assert.throws(() => operations.putHalves(1, 0, 0), { argument: "operations" });
  assert.throws(() => index.apply(operations), { argument: "operations" });
  region.apply();
  assert.equal(index.size, operations.capacity - 3);
});

test("a batch stops at the first key that cannot be entered", async () => {
  const core = await Core.create({ seed: 1 });
  const index = core.orderedIndex({ capacity: 100 });
  const { region } = index;
  region.keys.set([3n, 4n, 0n, 5n]);
  region.values.set([1n, 2n, 3n, 4n]);
  assert.throws(() => region.setMany(4), { code: "INVALID_ARGUMENT", argument: "key", value: 0n });
  assert.deepEqual(index.scan(1n, 9), [
    [3n, 1n],
    [4n, 2n],
  ]);
});

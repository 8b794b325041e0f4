/** The forms in which an ordered index can be called do the same, and refuse the same, in every mode. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Core, type IndexMode, type OrderedIndex } from "../../bindings/main.js";

const MODES: readonly IndexMode[] = ["private", "locked", "optimistic"];
const WIDTHS = [4, 8] as const;

async function indexOf(mode: IndexMode, valueBytes: 4 | 8, capacity = 1000): Promise<OrderedIndex> {
  const core = await Core.create({ build: mode === "private" ? "core" : "core-threads", seed: 9 });
  return core.orderedIndex({ capacity, mode, valueBytes, nodeBytes: 128 });
}

const low = (value: bigint): number => Number(value & 0xffffffffn);
const high = (value: bigint): number => Number(value >> 32n);
const joined = (index: OrderedIndex): bigint => (BigInt(index.valueHigh) << 32n) | BigInt(index.valueLow);

/** The outcome of a call: what it returned, or the code it was refused with. */
function outcome<Result>(call: () => Result): Result | string {
  try {
    return call();
  } catch (error) {
    return (error as { code: string }).code;
  }
}

/** Each call in its two forms, on a key, a value and another value. */
const FORMS: readonly {
  readonly name: string;
  readonly bigint: (index: OrderedIndex, key: bigint, value: bigint, other: bigint) => unknown;
  readonly halves: (index: OrderedIndex, key: bigint, value: bigint, other: bigint) => unknown;
}[] = [
  {
    name: "get",
    bigint: (index, key) => index.get(key),
    halves: (index, key) => (index.getHalves(low(key), high(key)) ? joined(index) : undefined),
  },
  {
    name: "get, low half",
    bigint: (index, key) => {
      const value = index.get(key);
      return value === undefined ? undefined : low(value);
    },
    halves: (index, key) => index.getLow(low(key), high(key)),
  },
  {
    name: "has",
    bigint: (index, key) => index.has(key),
    halves: (index, key) => index.hasHalves(low(key), high(key)),
  },
  {
    name: "set",
    bigint: (index, key, value) => index.set(key, value),
    halves: (index, key, value) => index.setHalves(low(key), high(key), low(value), high(value)),
  },
  {
    name: "delete",
    bigint: (index, key) => index.delete(key),
    halves: (index, key) => index.deleteHalves(low(key), high(key)),
  },
  {
    name: "compareExchange",
    bigint: (index, key, value, other) => index.compareExchange(key, value, other),
    halves: (index, key, value, other) =>
      index.compareExchangeHalves(low(key), high(key), low(value), high(value), low(other), high(other)),
  },
  {
    name: "fetchAdd",
    bigint: (index, key, value) => index.fetchAdd(key, value),
    halves: (index, key, value) => {
      const before = index.fetchAddHalves(low(key), high(key), low(value), high(value));
      assert.equal(before, index.valueLow);
      return joined(index);
    },
  },
];

for (const mode of MODES) {
  for (const valueBytes of WIDTHS) {
    test(`halves and bigint do the same: ${mode}, ${valueBytes}-byte values`, async () => {
      const mask = (1n << BigInt(valueBytes * 8)) - 1n;
      const keys = fc.bigInt(1n, 40n).map((key) => (key % 3n === 0n ? (1n << 64n) - 1n - key : key << 31n));
      const values = fc.oneof(fc.bigInt(0n, 3n), fc.bigInt(0n, mask));
      const call = fc.tuple(fc.nat(FORMS.length - 1), keys, values, values);
      await fc.assert(
        fc.asyncProperty(fc.array(call, { maxLength: 120 }), async (calls) => {
          const [ours, twin] = [await indexOf(mode, valueBytes), await indexOf(mode, valueBytes)];
          for (const [form, key, value, other] of calls) {
            const { name, bigint, halves } = FORMS[form];
            assert.deepEqual(
              outcome(() => halves(twin, key, value, other)),
              outcome(() => bigint(ours, key, value, other)),
              name,
            );
          }
          assert.deepEqual([...twin], [...ours]);
          twin.validate();
        }),
        { numRuns: 20 },
      );
    });
  }
}

for (const mode of MODES) {
  test(`what cannot be a key or value is refused and changes nothing: ${mode}`, async () => {
    const index = await indexOf(mode, 4);
    index.set(5n, 6n);
    for (const key of [0n, (1n << 64n) - 1n]) {
      assert.throws(() => index.set(key, 1n), { code: "INVALID_ARGUMENT", argument: "key", value: key });
      assert.throws(() => index.setHalves(low(key), high(key), 1), {
        code: "INVALID_ARGUMENT",
        argument: "key",
        value: key,
      });
      for (const call of [
        () => index.get(key),
        () => index.has(key),
        () => index.delete(key),
        () => index.fetchAdd(key, 1n),
        () => index.compareExchange(key, 1n, 1n),
      ])
        assert.throws(call, { code: "INVALID_ARGUMENT", argument: "key", value: key });
      assert.equal(index.getHalves(low(key), high(key)), false);
      assert.equal(index.deleteHalves(low(key), high(key)), false);
    }
    assert.throws(() => index.get((1n << 64n) + 5n), { code: "INVALID_ARGUMENT" });
    assert.throws(() => index.get(-1n), { code: "INVALID_ARGUMENT" });
    assert.throws(() => index.get(5 as never), { code: "INVALID_ARGUMENT", argument: "key" });
    assert.throws(() => index.setHalves(5, 0, 1, 1), { code: "INVALID_ARGUMENT", argument: "valueHigh" });
    assert.throws(() => index.compareExchangeHalves(5, 0, 6, 1, 7, 0), { argument: "expectedHigh" });
    assert.throws(() => index.compareExchangeHalves(5, 0, 6, 0, 7, 1), { argument: "valueHigh" });
    assert.throws(() => index.compareExchange(5n, 1n << 32n, 1n), { argument: "expected" });
    assert.throws(() => index.fetchAdd(5n, 1 as never), { argument: "delta" });
    assert.throws(() => index.fetchAddHalves(9, 1, 1), { code: "NOT_FOUND", value: (1n << 32n) + 9n });
    assert.throws(() => index.compareExchangeHalves(9, 1, 0, 0, 1, 0), { code: "NOT_FOUND" });
    assert.deepEqual([...index], [[5n, 6n]]);
  });
}

test("single calls go on where they were after the memory has grown", async () => {
  for (const mode of MODES) {
    const index = await indexOf(mode, 8);
    index.set(7n, (3n << 32n) | 4n);
    assert.equal(index.get(7n), (3n << 32n) | 4n);
    for (let round = 0; round < 3; round++) {
      const { byteLength } = index.core.memory.buffer;
      const later = index.core.orderedIndex({ capacity: 20_000 });
      assert.ok(index.core.memory.buffer.byteLength > byteLength);
      later.set(8n, 9n);
      assert.equal(later.getLow(8, 0), 9);
      assert.equal(later.fetchAdd(8n, 1n), 9n);
      assert.equal(index.get(7n), (3n << 32n) | 4n);
      assert.equal(index.getHalves(7, 0), true);
      assert.deepEqual([index.valueLow, index.valueHigh], [4, 3]);
    }
  }
});

test("ranges and scans have both ends, wherever these lie", async () => {
  for (const mode of MODES) {
    const index = await indexOf(mode, 8);
    const last = (1n << 64n) - 2n;
    for (const key of [1n, 2n, 1n << 63n, last - 1n, last]) index.set(key, key & 255n);
    const keys = (lowest: bigint, highest: bigint): bigint[] =>
      [...index.range(lowest, highest)].map(([key]) => key);
    assert.deepEqual(keys(-5n, 0n), []);
    assert.deepEqual(keys(0n, 1n), [1n]);
    assert.deepEqual(keys(2n, 1n), []);
    assert.deepEqual(keys(2n, (1n << 63n) - 1n), [2n]);
    assert.deepEqual(keys(last, 1n << 70n), [last]);
    assert.deepEqual(keys(last + 1n, 1n << 70n), []);
    assert.equal(index.scan(last + 1n, 3).length, 0);
    assert.equal(index.scan(last, 3).length, 1);
    assert.equal(index.scan(1n, 0).length, 0);
    assert.deepEqual(
      [...index].map(([key]) => key),
      [1n, 2n, 1n << 63n, last - 1n, last],
    );
  }
});

test("an iteration shows entries in order while they are changed, across its batches", async () => {
  const index = await indexOf("private", 8, 6000);
  const keys = BigUint64Array.from({ length: 5000 }, (_, i) => BigInt(i * 2 + 2));
  index.setMany(keys, keys);
  const seen: bigint[] = [];
  for (const [key, value] of index) {
    assert.equal(value, key);
    seen.push(key);
    assert.ok(index.delete(key));
    index.set(key + 1n - 2n, 0n);
  }
  assert.deepEqual(seen, [...keys]);
  assert.equal(index.size, 5000);
});

test("getMany reads into arrays of the caller's, and refuses shorter ones", async () => {
  for (const mode of MODES) {
    const index = await indexOf(mode, 8, 6000);
    const keys = BigUint64Array.from({ length: 5000 }, (_, i) => BigInt(i + 1));
    index.setMany(
      keys.filter((key) => key % 2n === 0n),
      keys.filter((key) => key % 2n === 0n).map((key) => key + 1n),
    );
    const out = { values: new BigUint64Array(5001).fill(9n), found: new Uint8Array(5001).fill(9) };
    assert.equal(index.getMany(keys, out), out);
    assert.ok(keys.every((key, i) => out.values[i] === (key % 2n === 0n ? key + 1n : 0n)));
    assert.ok(keys.every((key, i) => out.found[i] === Number(key % 2n === 0n)));
    assert.deepEqual([out.values[5000], out.found[5000]], [9n, 9], "nothing behind them");
    const short = { values: new BigUint64Array(4999), found: new Uint8Array(5000) };
    assert.throws(() => index.getMany(keys, short), { code: "INVALID_ARGUMENT", argument: "out" });
  }
});

test("refresh takes up each structure once", async () => {
  const core = await Core.create({ seed: 1 });
  core.orderedIndex({ capacity: 10 });
  core.viewOrder({ capacity: 10 });
  core.freeExtents({ blocks: 10 });
  const cache = core.kvCache({ blocks: 8, blockSize: 4, maxSequences: 2, maxSequenceTokens: 32 });
  core.scheduler({ cache, vocabSize: 10, maxRequests: 2 });
  const lists = [core.orderedIndexes, core.orderedViews, core.freeExtentSets, core.kvCaches, core.schedulers];
  core.refresh();
  assert.deepEqual(
    lists.map(({ length }) => length),
    [1, 1, 1, 1, 1],
  );
});

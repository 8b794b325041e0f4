/**
 * A million random operations against a model, in every build and mode, in tiny nodes (six keys, so that splits
 * and merges happen all the time) and in default ones, spread over the key patterns that are hard on such lists.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Build, Core, type IndexMode, Operations, type OrderedIndex } from "../../bindings/main.js";
import { KEY_PATTERNS, type KeyPattern } from "../support/key-patterns.js";
import { long } from "../support/long.js";
import { Random } from "../support/random.js";

const OPERATIONS = 1_000_000;
const GROUP = 500;
const SPACE = 16_384;
const SEEDS = long ? 10 : 2;
const NOT_FOUND = -19;

const VARIANTS: readonly (readonly [Build, IndexMode])[] = [
  ["core", "private"],
  ["core-scalar", "private"],
  ["core-threads", "private"],
  ["core-threads", "locked"],
  ["core-threads", "optimistic"],
];

/** The entries by number of their key, so that a walk over the numbers is a walk in key order. */
class Model {
  readonly keys: BigUint64Array;
  readonly halves: Uint32Array;
  readonly present: Uint8Array;
  /** Low and high half in turn. */
  readonly values: Uint32Array;
  readonly wide: BigUint64Array;
  size = 0;

  constructor(pattern: KeyPattern) {
    this.keys = BigUint64Array.from({ length: SPACE }, (_, i) => pattern.key(i));
    this.halves = new Uint32Array(this.keys.buffer);
    this.present = new Uint8Array(SPACE);
    this.values = new Uint32Array(SPACE * 2);
    this.wide = new BigUint64Array(this.values.buffer);
  }

  /** As the index: 1 new, 0 overwritten. */
  put(i: number, low: number, high: number): number {
    const added = 1 - this.present[i];
    this.present[i] = 1;
    this.values[i * 2] = low;
    this.values[i * 2 + 1] = high;
    this.size += added;
    return added;
  }

  delete(i: number): number {
    const removed = this.present[i];
    this.present[i] = 0;
    this.size -= removed;
    return removed;
  }

  /** Numbers of up to `limit` entries from `i` on. */
  scan(i: number, limit: number): number[] {
    const found: number[] = [];
    for (let at = i; at < SPACE && found.length < limit; at++) if (this.present[at] === 1) found.push(at);
    return found;
  }
}

class Run {
  readonly #operations = new Operations(GROUP);
  readonly #expected: (() => void)[] = [];

  constructor(
    readonly index: OrderedIndex,
    readonly model: Model,
    readonly random: Random,
    readonly pattern: KeyPattern,
  ) {}

  /** `GROUP` operations from step `from` on, through one of the ways to call the index. */
  group(from: number, number: number): void {
    // Now more is entered, now more is removed: the index grows and shrinks by turns.
    const shrinks = (number >> 4) % 2 === 1;
    const way = number % 4;
    if (way < 2) this.#batch(from, shrinks);
    else if (way === 2) this.#singles(from, shrinks);
    else this.#region(from, shrinks);
  }

  #pick(step: number): number {
    return this.pattern.pick(this.random, step, SPACE);
  }

  /** Recorded operations of every kind. */
  #batch(from: number, shrinks: boolean): void {
    const { model, random } = this;
    const operations = this.#operations;
    const expected = this.#expected;
    operations.clear();
    expected.length = 0;
    for (let i = 0; i < GROUP; i++) {
      const number = this.#pick(from + i);
      const [low, high] = [model.halves[number * 2], model.halves[number * 2 + 1]];
      const present = model.present[number];
      const value = random.next();
      const kind = random.below(20);
      if (kind < (shrinks ? 4 : 8)) {
        operations.putHalves(low, high, value, number);
        expect(expected, operations, i, model.put(number, value, number));
      } else if (kind < 12) {
        operations.deleteHalves(low, high);
        expect(expected, operations, i, model.delete(number));
      } else if (kind < 15) {
        operations.getHalves(low, high);
        expect(expected, operations, i, present, present === 1 ? model.wide[number] : 0n);
      } else if (kind < 17) {
        operations.fetchAdd(model.keys[number], 3n << 31n);
        const before = model.wide[number];
        if (present === 1) model.wide[number] = before + (3n << 31n);
        expect(expected, operations, i, present === 1 ? 1 : NOT_FOUND, present === 1 ? before : undefined);
      } else if (kind < 19) {
        const equal = value % 2 === 0;
        operations.compareExchange(model.keys[number], model.wide[number] + (equal ? 0n : 1n), 7n);
        if (present === 1 && equal) model.wide[number] = 7n;
        expect(expected, operations, i, present === 1 ? Number(equal) : NOT_FOUND);
      } else {
        operations.scanHalves(low, high, value % 40);
        const found = model.scan(number, value % 40).map((at) => [model.keys[at], model.wide[at]]);
        expected.push(() => assert.deepEqual(operations.entries(i), found));
      }
    }
    this.index.apply(operations);
    for (const check of expected) check();
  }

  /** Single calls, in halves and in bigint. */
  #singles(from: number, shrinks: boolean): void {
    const { index, model, random } = this;
    for (let i = 0; i < GROUP; i++) {
      const number = this.#pick(from + i);
      const key = model.keys[number];
      const [low, high] = [model.halves[number * 2], model.halves[number * 2 + 1]];
      const present = model.present[number] === 1;
      const value = random.next();
      const kind = random.below(20);
      if (kind < (shrinks ? 3 : 6)) {
        same(index.setHalves(low, high, value, i), model.put(number, value, i) === 1);
      } else if (kind < 8) {
        same(index.set(key, BigInt(value)), model.put(number, value, 0) === 1);
      } else if (kind < 12) {
        const removed = kind % 2 === 0 ? index.delete(key) : index.deleteHalves(low, high);
        same(removed, model.delete(number) === 1);
      } else if (kind < 15) {
        same(index.getHalves(low, high), present);
        if (present) same(index.valueLow, model.values[number * 2]);
        if (present) same(index.valueHigh, model.values[number * 2 + 1]);
      } else if (kind < 17) {
        same(index.get(key), present ? model.wide[number] : undefined);
      } else if (kind < 19) {
        if (!present) same(index.hasHalves(low, high), false);
        else same(index.fetchAdd(key, 5n), (model.wide[number] += 5n) - 5n);
      } else {
        const found = model.scan(number, value % 20).map((at) => [model.keys[at], model.wide[at]]);
        assert.deepEqual(index.scan(key, value % 20), found);
      }
    }
  }

  /** Keys in the index's region: entered, removed, looked up. */
  #region(from: number, shrinks: boolean): void {
    const { index, model, random } = this;
    const { region } = index;
    const { keys, keyHalves, valueHalves } = region;
    const numbers: number[] = [];
    for (let i = 0; i < GROUP; i++) {
      numbers.push(this.#pick(from + i));
      keyHalves[i * 2] = model.halves[numbers[i] * 2];
      keyHalves[i * 2 + 1] = model.halves[numbers[i] * 2 + 1];
      valueHalves[i * 2] = random.next();
      valueHalves[i * 2 + 1] = i;
    }
    const put = shrinks ? GROUP / 5 : (GROUP * 2) / 5;
    for (let i = 0; i < put; i++) model.put(numbers[i], valueHalves[i * 2], i);
    region.setMany(put);
    let removed = 0;
    for (let i = put; i < 300; i++) removed += model.delete(numbers[i]);
    keys.copyWithin(0, put, GROUP);
    same(region.deleteMany(300 - put), removed);
    keys.copyWithin(0, 300 - put, GROUP - put);
    let hits = 0;
    for (let i = 300; i < GROUP; i++) hits += model.present[numbers[i]];
    same(region.getMany(GROUP - 300), hits);
    const { found, values } = region;
    for (let i = 300; i < GROUP; i++) {
      const present = model.present[numbers[i]] === 1;
      same(found[i - 300] === 1, present);
      same(values[i - 300], present ? model.wide[numbers[i]] : 0n);
    }
  }

  /** The whole index against the whole model, and its structure and node count. */
  check(): void {
    const { index, model } = this;
    index.validate();
    same(index.size, model.size);
    const [keys, values] = [new BigUint64Array(SPACE), new BigUint64Array(SPACE)];
    same(index.scanInto(1n, SPACE, keys, values), model.size);
    let at = 0;
    for (let i = 0; i < SPACE; i++) {
      if (model.present[i] === 0) continue;
      same(keys[at], model.keys[i]);
      same(values[at], model.wide[i]);
      at += 1;
    }
    const { exports, pointer } = { exports: index.core.exports, pointer: index.pointer };
    const nodeBytes = exports.orderedIndexNodeBytes(pointer);
    const bits = exports.orderedIndexDigitBits(nodeBytes, 8);
    const enough = exports.orderedIndexNodesFor(model.size, nodeBytes, 8, bits);
    const { nodes, freeNodes } = index.stats();
    assert.ok(nodes - freeNodes <= enough, "deletions leave no sparse nodes behind");
  }
}

/** As assert.equal, without its cost where it holds. */
function same<T>(actual: T, expected: T): void {
  if (actual !== expected) assert.equal(actual, expected);
}

function expect(
  expected: (() => void)[],
  operations: Operations,
  i: number,
  status: number,
  value?: bigint,
): void {
  expected.push(() => {
    same(operations.status(i), status);
    if (value !== undefined) same(operations.value(i), value);
  });
}

async function run(build: Build, mode: IndexMode, nodeBytes: number, seed: number): Promise<void> {
  const core = await Core.create({ build, seed });
  const index = core.orderedIndex({ capacity: SPACE, nodeBytes, mode });
  const groups = OPERATIONS / GROUP;
  for (const [at, pattern] of KEY_PATTERNS.entries()) {
    index.clear();
    const model = new Model(pattern);
    const work = new Run(index, model, new Random(seed + at), pattern);
    const share = Math.ceil(groups / KEY_PATTERNS.length);
    let [most, fewestAfter] = [0, Infinity];
    for (let group = 0; group < share; group++) {
      work.group(group * GROUP, group);
      most = Math.max(most, model.size);
      if (group > share / 2) fewestAfter = Math.min(fewestAfter, model.size);
      if (group % 16 === 15) index.validate();
      if (group % 90 === 89 || group === share - 1) work.check();
    }
    assert.ok(most > 500 && fewestAfter < most * 0.9, `${pattern.name}: ${fewestAfter} to ${most} entries`);
  }
}

for (const [build, mode] of VARIANTS) {
  for (const nodeBytes of [128, 1024]) {
    test(`1,000,000 operations equal the model: ${build}, ${mode}, nodes of ${nodeBytes}`, async () => {
      for (let seed = 1; seed <= SEEDS; seed++) await run(build, mode, nodeBytes, seed);
    });
  }
}

test("the check notices a single wrong answer", async () => {
  const core = await Core.create({ seed: 1 });
  const index = core.orderedIndex({ capacity: SPACE, nodeBytes: 128 });
  const work = new Run(index, new Model(KEY_PATTERNS[0]), new Random(1), KEY_PATTERNS[0]);
  for (let group = 0; group < 8; group++) work.group(group * GROUP, group);
  work.check();
  const [[key, value]] = index.scan(1n, 1);
  index.set(key, value ^ 1n);
  assert.throws(() => work.check());
});

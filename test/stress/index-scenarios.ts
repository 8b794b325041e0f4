/**
 * What the threads of a stress run do to one shared index, and what must then be true of it. All threads run the same
 * function; each returns its counts.
 */
import assert from "node:assert/strict";
import { Operations, type OrderedIndex } from "../../bindings/main.js";
import { histories, historyWords } from "./index-histories.js";
import { scans } from "./index-scans.js";
import type { Figures, ScenarioName, Station } from "./station.js";

interface Scenario {
  /** Words of the run's ledger. */
  readonly ledgerWords: (workers: number, keys: number) => number;
  readonly run: (station: Station) => Figures;
}

export const SCENARIOS: Readonly<Record<ScenarioName, Scenario>> = {
  upserts: { ledgerWords: (workers, keys) => workers * (keys + 2), run: upserts },
  mixture: { ledgerWords: (workers, keys) => workers * keys, run: mixture },
  scans: { ledgerWords: (workers) => workers, run: scans },
  counters: { ledgerWords: (workers, keys) => workers * keys * 2, run: counters },
  histories: { ledgerWords: historyWords, run: histories },
};

/** Operations of one `apply`: two groups of leaves found ahead. */
const BATCH = 16;

/** Sum over the threads of the word at `offset` of each one's part of the ledger. */
function total({ task: { ledger, workers } }: Station, part: number, offset: number): number {
  let sum = 0;
  for (let worker = 0; worker < workers; worker++) sum += ledger[worker * part + offset];
  return sum;
}

/** The index is sound and nothing is lost: all nodes are in use or free, an empty one uses its heads alone. */
function checkEmpty(index: OrderedIndex): void {
  index.validate();
  const { entries, nodes, freeNodes, levels } = index.stats();
  assert.deepEqual({ entries, used: nodes - freeNodes }, { entries: 0, used: levels });
}

/**
 * All threads enter the same few keys, each twice, then all remove them. However they meet: of those who enter a key
 * one is told that it is new, of those who remove it one that it was there; its value is what some thread wrote
 * last. Ledger, a thread: its last number for each key, keys it was told were new, keys it was told it removed.
 */
function upserts(station: Station): Figures {
  const { index, me, task } = station;
  const { workers, keys, rounds, ledger } = task;
  const part = keys + 2;
  const own = me * part;
  const operations = new Operations(BATCH);
  let written = 0;
  const nextValue = (key: number): bigint => {
    ledger[own + key - 1] = written += 1;
    return BigInt(written * workers + me);
  };
  const putOneByOne = (order: number[]): number => {
    let created = 0;
    for (const key of order) created += Number(index.set(BigInt(key), nextValue(key)));
    return created;
  };
  const putTogether = (order: number[]): number => {
    let created = 0;
    for (let from = 0; from < order.length; from += BATCH) {
      operations.clear();
      for (const key of order.slice(from, from + BATCH)) operations.put(BigInt(key), nextValue(key));
      index.apply(operations);
      for (let i = 0; i < operations.length; i++) created += operations.status(i);
    }
    return created;
  };
  for (let round = 0; round < rounds; round++) {
    station.meet();
    ledger[own + keys] = 0;
    for (let pass = 0; pass < 2; pass++) {
      const put = (round + pass) % 2 === 0 ? putOneByOne : putTogether;
      ledger[own + keys] += put(station.shuffled(keys));
    }
    station.whileAllWait(() => {
      index.validate();
      assert.equal(index.size, keys);
      assert.equal(total(station, part, keys), keys, "keys that a thread was told are new");
      for (const [key, value] of index) {
        const writer = Number(value) % workers;
        const last = ledger[writer * part + Number(key) - 1];
        assert.equal(
          Math.floor(Number(value) / workers),
          last,
          `key ${key}: its writer wrote it again later`,
        );
      }
    });
    ledger[own + keys + 1] = 0;
    for (const key of station.shuffled(keys)) ledger[own + keys + 1] += Number(index.delete(BigInt(key)));
    station.whileAllWait(() => {
      checkEmpty(index);
      assert.equal(total(station, part, keys + 1), keys, "keys that a thread was told it removed");
    });
  }
  return { written };
}

/** A key's values carry the key. */
const TAG = 1n << 20n;

/**
 * A third each of puts, deletes and gets of random keys, singly and in batches. A value is its key's; a key is there
 * if it was entered once more often than removed, else as often. Ledger, a thread: for each key, how often it was
 * told the key is new, less how often that it was removed.
 */
function mixture(station: Station): Figures {
  const { index, me, random, task } = station;
  const { keys, rounds, ledger } = task;
  const own = me * keys;
  const operations = new Operations(BATCH);
  let hits = 0;
  const account = (kind: number, key: number, status: number, value: bigint): void => {
    if (status !== 0 && status !== 1) throw new Error(`status ${status}`);
    if (kind === 0) ledger[own + key - 1] += status;
    else if (kind === 1) ledger[own + key - 1] -= status;
    else if (status === 1) {
      hits += 1;
      if (value / TAG !== BigInt(key)) throw new Error(`key ${key} has the value ${value}`);
    }
  };
  const single = (kind: number, key: number): void => {
    const wide = BigInt(key);
    if (kind === 0) account(kind, key, Number(index.set(wide, wide * TAG + BigInt(me))), 0n);
    else if (kind === 1) account(kind, key, Number(index.delete(wide)), 0n);
    else {
      const value = index.get(wide);
      account(kind, key, Number(value !== undefined), value ?? 0n);
    }
  };
  const together = (kinds: number[], wanted: number[]): void => {
    operations.clear();
    kinds.forEach((kind, i) => {
      const key = BigInt(wanted[i]);
      if (kind === 0) operations.put(key, key * TAG + BigInt(me));
      else if (kind === 1) operations.delete(key);
      else operations.get(key);
    });
    index.apply(operations);
    kinds.forEach((kind, i) => account(kind, wanted[i], operations.status(i), operations.value(i)));
  };
  for (let turn = 0; turn < (rounds * 1000) / BATCH; turn++) {
    const kinds = Array.from({ length: BATCH }, () => random.below(3));
    const wanted = kinds.map(() => 1 + random.below(keys));
    if (turn % 2 === 0) kinds.forEach((kind, i) => single(kind, wanted[i]));
    else together(kinds, wanted);
    station.step();
  }
  station.whileAllWait(() => {
    index.validate();
    let entries = 0;
    const there = new Map(index);
    for (let key = 1; key <= keys; key++) {
      const balance = total(station, keys, key - 1);
      const value = there.get(BigInt(key));
      assert.equal(balance, Number(value !== undefined), `key ${key}: entered less removed`);
      if (value !== undefined) assert.equal(value / TAG, BigInt(key), `value of key ${key}`);
      entries += balance;
    }
    assert.equal(there.size, entries);
    assert.equal(index.size, entries);
    index.deleteMany(BigUint64Array.from(there.keys()));
    checkEmpty(index);
  });
  return { calls: rounds * 1000, hits };
}

/**
 * Threads add 1 to counters, by fetchAdd, in batches, and by compareExchange until it succeeds, while they also
 * enter and remove the keys in between, so that counters move from node to node. Each call is told another value
 * before, and the sum is the number of calls. Ledger, a thread: for each counter its calls, then the sum of the
 * values before, modulo 2^32.
 */
function counters(station: Station): Figures {
  const { index, me, random, task } = station;
  const { keys, rounds, ledger } = task;
  const part = keys * 2;
  const own = me * part;
  const operations = new Operations(BATCH);
  // Keys of counters are multiples of 4; what lies between belongs to one thread each time.
  const keyOf = (counter: number): bigint => BigInt(4 * (counter + 1));
  let failures = 0;
  station.whileAllWait(() => {
    for (let counter = 0; counter < keys; counter++) index.set(keyOf(counter), 0n);
  });
  const count = (counter: number, before: bigint): void => {
    ledger[own + counter] += 1;
    ledger[own + keys + counter] += Number(before);
  };
  const exchange = (counter: number): void => {
    for (;;) {
      const before = index.get(keyOf(counter))!;
      if (index.compareExchange(keyOf(counter), before, before + 1n)) return count(counter, before);
      failures += 1;
    }
  };
  const together = (): void => {
    const wanted = Array.from({ length: BATCH }, () => random.below(keys));
    operations.clear();
    for (const counter of wanted) operations.fetchAdd(keyOf(counter), 1n);
    index.apply(operations);
    wanted.forEach((counter, i) => {
      if (operations.status(i) !== 1) throw new Error(`counter ${counter}: status ${operations.status(i)}`);
      count(counter, operations.value(i));
    });
  };
  for (let turn = 0; turn < rounds * 1000;) {
    const counter = random.below(keys);
    const between = keyOf(random.below(keys)) + BigInt(1 + random.below(3));
    const kind = random.below(4);
    if (kind === 0) exchange(counter);
    else if (kind === 1) count(counter, index.fetchAdd(keyOf(counter), 1n));
    else if (kind === 2 && random.below(8) === 0) together();
    else if (random.below(2) === 0) index.set(between, 1n);
    else index.delete(between);
    turn += kind === 2 ? 2 : 1;
    if (turn % 16 === 0) station.step();
  }
  station.whileAllWait(() => {
    index.validate();
    for (let counter = 0; counter < keys; counter++) {
      const calls = total(station, part, counter);
      assert.equal(Number(index.get(keyOf(counter))), calls, `counter ${counter}: calls`);
      const befores = total(station, part, keys + counter) | 0;
      assert.equal(befores, ((calls * (calls - 1)) / 2) | 0, `counter ${counter}: values before`);
    }
  });
  return { failures };
}

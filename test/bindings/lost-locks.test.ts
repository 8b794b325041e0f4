/** What a worker leaves behind that dies inside a call: a lock that nobody lets go. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  Core,
  type IndexMode,
  Operations,
  type OrderedIndex,
  QuartermasterError,
} from "../../bindings/main.js";
import { instantiateRaw } from "../../bindings/module.js";

const MODES: readonly IndexMode[] = ["locked", "optimistic"];

/** A core whose worker parks by `park` instead of waiting. */
async function coreParkingBy(park: (address: number) => number): Promise<Core> {
  return Core.create({
    build: "core-threads",
    seed: 1,
    instantiate: (module, { env }) => instantiateRaw(module, { env: { ...env, park } }),
  });
}

/** Address of the leaf that holds `key` (assembly/index/layout.ts). */
function leafOf({ core, pointer }: OrderedIndex, key: bigint): number {
  const view = new DataView(core.memory.buffer);
  let leaf = view.getUint32(pointer, true);
  while (view.getBigUint64(leaf + 16, true) <= key) leaf = view.getUint32(leaf + 12, true);
  return leaf;
}

/** Holds a leaf as a writer that will not leave it. */
function hold({ core }: OrderedIndex, leaf: number): void {
  new BigUint64Array(core.memory.buffer, leaf, 1)[0] |= 1n;
}

function letGo({ core }: OrderedIndex, leaf: number): void {
  new BigUint64Array(core.memory.buffer, leaf, 1)[0] &= ~1n;
}

const poisoned = (error: unknown): boolean =>
  error instanceof QuartermasterError &&
  error.code === "POISONED" &&
  /while it held a lock/.test(error.message);

/** Every call that can meet the lock. */
const CALLS: Readonly<Record<string, (index: OrderedIndex) => unknown>> = {
  get: (index) => index.get(7n),
  has: (index) => index.has(7n),
  getLow: (index) => index.getLow(7, 0),
  getHalves: (index) => index.getHalves(7, 0),
  hasHalves: (index) => index.hasHalves(7, 0),
  set: (index) => index.set(7n, 1n),
  setHalves: (index) => index.setHalves(7, 0, 1),
  delete: (index) => index.delete(7n),
  deleteHalves: (index) => index.deleteHalves(7, 0),
  compareExchange: (index) => index.compareExchange(7n, 1n, 2n),
  compareExchangeHalves: (index) => index.compareExchangeHalves(7, 0, 1, 0, 2, 0),
  fetchAdd: (index) => index.fetchAdd(7n, 1n),
  fetchAddHalves: (index) => index.fetchAddHalves(7, 0, 1),
  getMany: (index) => index.getMany(BigUint64Array.of(7n)),
  setMany: (index) => index.setMany(BigUint64Array.of(7n), BigUint64Array.of(1n)),
  deleteMany: (index) => index.deleteMany(BigUint64Array.of(7n)),
  apply: (index) => {
    const operations = new Operations(1);
    operations.putHalves(7, 0, 1);
    index.apply(operations);
  },
  scan: (index) => index.scan(1n, 5),
};

for (const mode of MODES) {
  for (const [name, call] of Object.entries(CALLS)) {
    test(`${name} of an index of mode ${mode} throws POISONED when a lock is never let go`, async () => {
      let parked = 0;
      // A clock that runs fast: what is waited for is seconds, not turns.
      const core = await coreParkingBy(() => ((parked += 1), 2000));
      const index = core.orderedIndex({ capacity: 100, mode });
      index.setMany(BigUint64Array.of(3n, 7n), BigUint64Array.of(1n, 1n));
      hold(index, leafOf(index, 7n));
      assert.throws(() => call(index), poisoned);
      assert.ok(parked >= 1000, "the wait was long");
      // From here on every call says so, without a wait.
      parked = 0;
      for (const [later, again] of Object.entries(CALLS)) {
        assert.throws(() => again(index), { code: "POISONED" }, later);
      }
      assert.equal(parked, 0);
    });
  }
}

test("without a clock a wait lasts until the lock is let go", async () => {
  let parked = 0;
  const core = await coreParkingBy((address) => {
    parked += 1;
    if (parked === 100_000) letGo(index, address);
    return NaN;
  });
  const index = core.orderedIndex({ capacity: 100, mode: "locked" });
  hold(index, leafOf(index, 7n));
  assert.equal(index.set(7n, 1n), true);
  assert.equal(parked, 100_000);
  index.validate();
});

for (const mode of MODES) {
  for (const read of ["get", "scan"] as const) {
    test(`a worker is inside a batch until its end, a ${read} that locks notwithstanding: ${mode}`, async () => {
      const inside: number[] = [];
      const core = await coreParkingBy((address) => {
        inside.push(core.exports.orderedIndexInside(index.pointer, core.worker));
        letGo(index, address);
        return 0;
      });
      const index = core.orderedIndex({ capacity: 100, nodeBytes: 128, mode });
      for (let key = 1n; key <= 50n; key++) index.set(key, key);
      const operations = new Operations(2);
      if (read === "get") operations.get(1n);
      else operations.scan(1n, 2);
      operations.put(50n, 2n);
      for (const key of [1n, 50n]) hold(index, leafOf(index, key));
      index.apply(operations);
      assert.equal(inside.length, 2, "both waited");
      assert.ok(inside.every((calls) => calls > 0));
      assert.equal(core.exports.orderedIndexInside(index.pointer, core.worker), 0);
      index.validate();
    });
  }
}

/**
 * Out of nodes is an ordinary outcome: a call that is refused has changed nothing, and no node is lost however
 * often an index is filled and emptied. In an index of 200 nodes of six keys each.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Build, Core, type IndexMode, Operations, type OrderedIndex } from "../../bindings/main.js";
import { IndexMemory } from "../support/index-memory.js";
import { Random } from "../support/random.js";

const NODES = 200;
const OUT_OF_MEMORY = -2;
const MODES: readonly IndexMode[] = ["private", "locked", "optimistic"];
const VARIANTS: readonly (readonly [Build, IndexMode])[] = [
  ["core", "private"],
  ["core-scalar", "private"],
  ["debug", "private"],
  ["core-threads", "private"],
  ["core-threads", "locked"],
  ["core-threads", "optimistic"],
];

/** The bindings size an index by its entries; here the nodes are what is wanted. */
async function indexOfNodes([build, mode]: readonly [Build, IndexMode]): Promise<OrderedIndex> {
  const core = await Core.create({ build, seed: 5 });
  const { exports, memory } = core;
  memory.grow(4);
  exports.coreExtend();
  const bits = exports.orderedIndexDigitBits(128, 8);
  assert.equal(exports.orderedIndexCreate(NODES, 128, 8, bits, MODES.indexOf(mode)), 0);
  core.refresh();
  const index = core.orderedIndexes[0];
  assert.equal(index.mode, mode);
  assert.equal(index.stats().nodes, NODES);
  return index;
}

/** Nodes that are linked into a level, counted by walking them all. */
function nodesInUse(index: OrderedIndex): number {
  const memory = new IndexMemory(index);
  let nodes = 0;
  for (let level = 0; level < memory.levels; level++) nodes += memory.level(level).length;
  return nodes;
}

function requireExactCounts(index: OrderedIndex): void {
  index.validate();
  assert.equal(nodesInUse(index) + index.stats().freeNodes, NODES);
}

/** What a refused call may not change. */
function state({ core, pointer }: OrderedIndex): Uint8Array {
  return new Uint8Array(core.memory.buffer, pointer, core.exports.coreTop() - pointer).slice();
}

/** Enters random keys until one is refused; every refusal leaves the index as it was. Returns what is in. */
function fill(index: OrderedIndex, random: Random): { keys: bigint[]; refused: bigint } {
  const keys: bigint[] = [];
  for (;;) {
    const key = (BigInt(random.next()) << 20n) | 1n;
    const before = state(index);
    try {
      index.set(key, key);
      keys.push(key);
    } catch (error) {
      assert.equal((error as { code: string }).code, "OUT_OF_MEMORY");
      assert.deepEqual(state(index), before);
      return { keys, refused: key };
    }
  }
}

for (const variant of VARIANTS) {
  test(`filled, refused, and used on; emptied, all nodes are free again: ${variant.join(", ")}`, async () => {
    const index = await indexOfNodes(variant);
    const random = new Random(6);
    const { levels } = index.stats();
    for (let round = 0; round < 4; round++) {
      const { keys, refused } = fill(index, random);
      requireExactCounts(index);
      assert.ok(keys.length > 300, `${keys.length} entries in ${NODES} nodes`);
      assert.ok(keys.every((key) => index.get(key) === key));
      assert.equal(index.get(refused), undefined);

      // A value may still be overwritten, and changed, with no node left.
      assert.equal(index.set(keys[0], 1n), false);
      assert.equal(index.fetchAdd(keys[0], keys[0] - 1n), 1n);

      for (const key of keys.splice(0, keys.length >> 1)) assert.ok(index.delete(key));
      requireExactCounts(index);
      assert.equal(index.set(refused, refused), true);
      keys.push(refused);
      assert.ok(keys.every((key) => index.get(key) === key));
      for (const key of keys) assert.ok(index.delete(key));
      requireExactCounts(index);
      assert.equal(index.size, 0);
      assert.equal(index.stats().freeNodes, NODES - levels, "only the heads are in use");
    }
  });

  test(`refused at every number of free nodes, for keys of every height: ${variant.join(", ")}`, async () => {
    const index = await indexOfNodes(variant);
    const random = new Random(8);
    const memory = new IndexMemory(index);
    const { keys } = fill(index, random);
    const refusedHeights = new Set<number>();
    // The last free nodes come and go, and each time keys of all heights ask for them.
    for (let round = 0; round < 400; round++) {
      const key = (BigInt(random.next()) << 20n) | 1n;
      const before = state(index);
      const free = index.stats().freeNodes;
      if (random.below(4) === 0) {
        index.delete(keys.splice(random.below(keys.length), 1)[0]);
        continue;
      }
      try {
        index.set(key, key);
        keys.push(key);
      } catch (error) {
        assert.equal((error as { code: string }).code, "OUT_OF_MEMORY");
        assert.deepEqual(state(index), before);
        assert.ok(free <= memory.height(key) + 1, "as many nodes as a key may need were not there");
        refusedHeights.add(memory.height(key));
      }
      if (round % 20 === 0) requireExactCounts(index);
    }
    requireExactCounts(index);
    assert.ok(refusedHeights.size >= 3, `heights refused: ${[...refusedHeights].join(", ")}`);
    assert.ok(keys.every((key) => index.get(key) === key));
    assert.equal(index.size, keys.length);
  });

  test(`batches stop at, or report, what is refused, and go on afterwards: ${variant.join(", ")}`, async () => {
    const index = await indexOfNodes(variant);
    const random = new Random(10);
    const keys = BigUint64Array.from({ length: 2000 }, () => (BigInt(random.next()) << 20n) | 1n);
    assert.throws(() => index.setMany(keys, keys), { code: "OUT_OF_MEMORY" });
    const entered = index.size;
    assert.ok(
      keys.subarray(0, entered).every((key) => index.get(key) === key),
      "all before the refused one",
    );
    assert.equal(index.get(keys[entered]), undefined);
    requireExactCounts(index);

    const operations = new Operations(2000);
    for (const key of keys.subarray(entered)) operations.put(key, key);
    index.apply(operations);
    let later = 0;
    for (let i = 0; i < operations.length; i++) {
      const status = operations.status(i);
      assert.ok(status === 1 || status === OUT_OF_MEMORY);
      assert.equal(index.has(keys[entered + i]), status === 1);
      later += Number(status === 1);
    }
    assert.equal(index.size, entered + later);
    assert.ok(entered + later < keys.length, "some were refused");
    requireExactCounts(index);
    assert.equal(index.deleteMany(keys), entered + later);
    requireExactCounts(index);
    assert.equal(index.stats().freeNodes, NODES - index.stats().levels);
  });
}

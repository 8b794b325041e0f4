/** Ways to break one invariant of an ordered index and keep the others, as far as they can be kept. */
import assert from "node:assert/strict";
import { type Build, Core, type IndexMode, type OrderedIndex } from "../../bindings/main.js";
import { type IndexMemory, KEY_MAX } from "./index-memory.js";

export type Corruption = (memory: IndexMemory) => void;

/** Several levels, overflow leaves, full leaves, nodes that have been freed; gaps of 1000 between the keys. */
export async function example(
  [build, mode]: readonly [Build, IndexMode],
  module?: WebAssembly.Module,
): Promise<OrderedIndex> {
  const core = await Core.create({ build, module, seed: 77 });
  const index = core.orderedIndex({ capacity: 1000, nodeBytes: 128, mode });
  for (let i = 1; i <= 900; i++) index.setHalves(((i * 7) % 901) * 1000, 0, i);
  for (let i = 1; i <= 100; i++) index.deleteHalves(i * 1000, 0);
  return index;
}

/** Some key between two others, of a height that `fits`. */
function keyBetween(
  memory: IndexMemory,
  lowest: bigint,
  highest: bigint,
  fits: (height: number) => boolean,
): bigint {
  for (let key = lowest + 1n; key < highest; key++) if (fits(memory.height(key))) return key;
  throw new Error(`no key between ${lowest} and ${highest}`);
}

/** The first node of a level that has what is asked for. */
function nodeWith(memory: IndexMemory, level: number, has: (at: number, left: number) => boolean): number {
  const nodes = memory.level(level);
  const found = nodes.findIndex((at, i) => i > 0 && has(at, nodes[i - 1]));
  assert.ok(found > 0, "the example has such a node");
  return nodes[found];
}

const isOverflow = (memory: IndexMemory, at: number): boolean => memory.height(memory.key(at, 0)) === 0;

/** No address of a node, and beyond the memory: following it would trap. */
const NOWHERE = 0xffffffc0;

/** Puts a node in use into the free list, in place of its first. */
function freeInstead(memory: IndexMemory, at: number): void {
  memory.setLink(at, memory.link(memory.free));
  memory.free = at;
}

export const CORRUPTIONS: Readonly<Record<string, Corruption>> = {
  "keys increase within a node": (memory) => {
    const at = nodeWith(memory, 0, (node) => memory.count(node) > 2);
    const [second, third] = [memory.key(at, 1), memory.key(at, 2)];
    memory.setKey(at, 1, third);
    memory.setKey(at, 2, second);
  },
  "keys increase from node to node": (memory) => {
    const at = nodeWith(memory, 0, (node) => memory.count(node) > 1 && memory.next(node) !== 0);
    const first = memory.nextHeader(at);
    memory.setKey(
      at,
      memory.count(at) - 1,
      keyBetween(memory, first, first + 900n, (height) => height === 0),
    );
  },
  "a key is there once": (memory) => {
    const at = nodeWith(memory, 0, (node) => memory.count(node) > 2);
    memory.setKey(at, 2, memory.key(at, 1));
  },
  "nextHeader is the neighbour's first key": (memory) => {
    const at = nodeWith(memory, 0, (node) => memory.next(node) !== 0);
    memory.setNextHeader(at, memory.nextHeader(at) + 1n);
  },
  "nextHeader at the end of a level is the largest key": (memory) => {
    const at = memory.level(0).at(-1)!;
    memory.setNextHeader(at, KEY_MAX - 1n);
  },
  "a node has a key": (memory) => {
    const at = nodeWith(memory, 0, (node) => memory.count(node) === 1);
    memory.setCount(at, 0);
    memory.entries -= 1;
  },
  "a node has no more keys than fit": (memory) => {
    const at = nodeWith(memory, 0, (node) => memory.count(node) === memory.leafCapacity);
    const last = memory.key(at, memory.leafCapacity - 1);
    memory.setKey(
      at,
      memory.leafCapacity,
      keyBetween(memory, last, last + 900n, (height) => height === 0),
    );
    memory.setCount(at, memory.leafCapacity + 1);
    memory.entries += 1;
  },
  "a child starts with its key": (memory) => {
    const at = nodeWith(memory, 1, (node) => memory.count(node) > 2);
    memory.setKey(
      at,
      1,
      keyBetween(memory, memory.key(at, 1), memory.key(at, 2), (height) => height === 1),
    );
  },
  "a child is on the level below": (memory) => {
    const at = nodeWith(memory, 1, (node) => memory.count(node) > 1);
    memory.setChild(at, 1, memory.free);
  },
  "a key stands on no level above its height": (memory) => {
    const parents = memory.level(1);
    const aboveOf = (leaf: number): number => {
      const key = memory.key(leaf, 0);
      return parents.find((at) => memory.key(at, 0) < key && memory.nextHeader(at) > key)!;
    };
    const leaf = nodeWith(
      memory,
      0,
      (node) => isOverflow(memory, node) && memory.count(aboveOf(node)) < memory.innerCapacity,
    );
    const [key, above] = [memory.key(leaf, 0), aboveOf(leaf)];
    const slot = memory.keys(above).filter((other) => other < key).length;
    for (let i = memory.count(above); i > slot; i--) {
      memory.setKey(above, i, memory.key(above, i - 1));
      memory.setChild(above, i, memory.child(above, i - 1));
    }
    memory.setKey(above, slot, key);
    memory.setChild(above, slot, leaf);
    memory.setCount(above, memory.count(above) + 1);
  },
  "a key stands on every level up to its height": (memory) => {
    const at = nodeWith(memory, 1, (node) => memory.count(node) > 2 && memory.next(node) !== 0);
    memory.setCount(at, memory.count(at) - 1);
  },
  "so does the last key of a level": (memory) => {
    const at = memory.level(1).at(-1)!;
    assert.ok(memory.count(at) > 1);
    memory.setCount(at, memory.count(at) - 1);
  },
  "a promoted key starts its node": (memory) => {
    const at = nodeWith(memory, 0, (node) => memory.count(node) > 2);
    memory.setKey(
      at,
      1,
      keyBetween(memory, memory.key(at, 0), memory.key(at, 2), (height) => height > 0),
    );
  },
  "a node is on the level it says": (memory) => memory.setLevel(memory.level(1)[1], 0),
  "a neighbour is a node": (memory) => {
    const at = nodeWith(memory, 0, (node) => memory.next(node) !== 0);
    memory.setNext(at, NOWHERE);
  },
  "a level ends": (memory) => {
    const nodes = memory.level(0);
    memory.setNext(nodes.at(-1)!, nodes[1]);
    memory.setNextHeader(nodes.at(-1)!, memory.key(nodes[1], 0));
  },
  "a level starts with the smallest key": (memory) => {
    for (let level = 0; level < memory.levels; level++) memory.setKey(memory.head(level), 0, 1n);
  },
  "a leaf that came from an overflow is worth its place": (memory) => {
    const at = nodeWith(memory, 0, (node) => isOverflow(memory, node));
    const left = memory.level(0).find((node) => memory.next(node) === at)!;
    memory.entries -= memory.count(at) - 1 + memory.count(left) - 1;
    for (const node of [left, at]) memory.setCount(node, 1);
  },
  "entries are counted": (memory) => void (memory.entries += 1),
  "a head is not free": (memory) => freeInstead(memory, memory.head(0)),
  "a node in use is not free": (memory) => freeInstead(memory, memory.level(0)[3]),
  "free nodes are counted": (memory) => {
    memory.free = memory.link(memory.free);
  },
  "no node is lost": (memory) => {
    memory.free = memory.link(memory.free);
    memory.freeCount -= 1;
  },
  "the free list leads to nodes": (memory) => memory.setLink(memory.free, NOWHERE),
  "the free list ends": (memory) => memory.setLink(memory.free, memory.free),
};

/** Only where nodes are locked. */
export const LOCK_CORRUPTIONS: Readonly<Record<string, Corruption>> = {
  "no reader holds a node": (memory) => {
    const at = memory.level(0)[2];
    memory.setWide(at, memory.wide(at) + 4n);
  },
  "no writer holds a node": (memory) => {
    const at = memory.level(1)[1];
    memory.setWide(at, memory.wide(at) + 1n);
  },
  "no writer holds a free node": (memory) => memory.setWide(memory.free, memory.wide(memory.free) + 1n),
};

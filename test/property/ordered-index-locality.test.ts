/** The reason for large nodes: a lookup in a million keys touches few lines of memory and few nodes. */
import assert from "node:assert/strict";
import { before, test } from "node:test";
import { Core, type OrderedIndex } from "../../bindings/main.js";
import { traceMemory } from "../support/memory-trace.js";
import { OneElementSkipList } from "../support/one-element-skip-list.js";
import { Random } from "../support/random.js";

const COUNT = 1_000_000;
const LOOKUPS = 2000;

interface Touched {
  readonly lines: number;
  readonly nodes: number;
  readonly mostNodes: number;
}

let index: OrderedIndex;
let ours: Touched;
let skipLists: Touched;

before(async () => {
  const random = new Random(32);
  const core = await Core.create({ seed: 31 });
  index = core.orderedIndex({ capacity: COUNT });
  const keys = BigUint64Array.from({ length: COUNT }, () => {
    const high = BigInt(random.next()) << 31n;
    return high | BigInt(1 + random.below(2 ** 31 - 1));
  });
  index.setMany(keys, keys);
  const asked = Array.from({ length: LOOKUPS }, () => keys[random.below(COUNT)]);
  ours = await touchedByUs(index, asked);
  const skipList = new OneElementSkipList(keys.slice().sort(), random);
  skipLists = mean(asked.map((key) => skipList.lookup(key)));
});

/** What the shipped module reads, as traced: lines of nodes, and the index's own header. */
async function touchedByUs({ core, pointer }: OrderedIndex, keys: readonly bigint[]): Promise<Touched> {
  const { exports, reads } = await traceMemory(core);
  const words = new DataView(core.memory.buffer);
  const [nodes, nodeBytes] = [words.getUint32(pointer, true), words.getUint32(pointer + 4, true)];
  return mean(
    keys.map((key) => {
      reads.length = 0;
      const found = exports.orderedIndexFind64(pointer, key) >>> 0;
      assert.equal(words.getBigUint64(found, true), key);
      reads.push(found);
      const inNodes = reads.filter((address) => address >= nodes);
      return {
        lines: new Set(reads.map((address) => Math.floor(address / 64))).size,
        nodes: new Set(inNodes.map((address) => Math.floor((address - nodes) / nodeBytes))).size,
      };
    }),
  );
}

function mean(all: readonly { lines: number; nodes: number }[]): Touched {
  const sum = (what: "lines" | "nodes"): number => all.reduce((total, each) => total + each[what], 0);
  return {
    lines: sum("lines") / all.length,
    nodes: sum("nodes") / all.length,
    mostNodes: Math.max(...all.map(({ nodes }) => nodes)),
  };
}

test("a lookup among 1,000,000 keys touches at most half the lines of a one-element-a-node skip list", () => {
  const ratio = ours.lines / skipLists.lines;
  assert.ok(ratio <= 0.5, `${ours.lines} lines against ${skipLists.lines}`);
  // About two nodes of keys for each level of the peer: its search really was one.
  assert.ok(skipLists.nodes > Math.log2(COUNT), `${skipLists.nodes} nodes of the skip list`);
});

test("a lookup visits no more nodes than there are levels, and six", () => {
  const { levels } = index.stats();
  assert.ok(ours.nodes >= levels, "each level has been visited");
  assert.ok(ours.mostNodes <= levels + 6, `${ours.mostNodes} nodes on ${levels} levels`);
});

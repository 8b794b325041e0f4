/**
 * Eviction orders on a real trace: through the pool and the prefix index, the block hit rates of the Mooncake
 * conversation trace (arXiv 2407.00079) are, to four decimals, those of the orders' definitions at every capacity.
 */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { before, test } from "node:test";
import { nextUses, type ReplayOrder, replayPrefixes } from "../../sim/prefix-replay.js";
import { readMooncakeTrace } from "../../sim/traces.js";
import { DATA } from "../support/package-root.js";

const trace = join(DATA, "mooncake", "conversation_trace.jsonl");
const skip = existsSync(trace) ? false : `${trace} is not there`;

const CAPACITIES = [1_000, 3_000, 10_000, 30_000, 50_000, 100_000, 200_000];
/** More than there are evictions, so that nothing is ever forgotten from the history. */
const ALL = 2 ** 20;

/** Hit rates of the definitions, computed from the trace without any cache of ours. */
const HIT_RATES: readonly [name: string, order: ReplayOrder, rates: string][] = [
  [
    "least recently used, the tail of a request first",
    "lru",
    "0.0445 0.0653 0.2116 0.3257 0.3546 0.3637 0.3664",
  ],
  ["first in, first out, leaves only", "fifo", "0.0445 0.0653 0.2109 0.3258 0.3544 0.3637 0.3664"],
  [
    "least frequently used, uses since entry",
    { kind: "lfu", history: 0 },
    "0.0481 0.0750 0.1317 0.2760 0.3439 0.3631 0.3664",
  ],
  [
    "least frequently used, all uses",
    { kind: "lfu", history: ALL },
    "0.0823 0.1179 0.1879 0.2799 0.3430 0.3631 0.3664",
  ],
  [
    "GDSF by frequency, all uses",
    { kind: "gdsf", history: ALL },
    "0.0571 0.1041 0.2328 0.3256 0.3499 0.3610 0.3664",
  ],
  ["MIN, the offline optimum", "min", "0.1907 0.2945 0.3664 0.3664 0.3664 0.3664 0.3664"],
];

let prompts: readonly number[][] = [];
before(() => {
  if (skip === false)
    prompts = readMooncakeTrace(readFileSync(trace, "utf8")).map((row) => [...row.blockIds!]);
});

for (const [name, order, rates] of HIT_RATES) {
  test(`${name}: the trace's hit rates to four decimals`, { skip }, async () => {
    const found: string[] = [];
    for (const capacity of CAPACITIES)
      found.push((await replayPrefixes(prompts, capacity, order)).hitRate.toFixed(4));
    assert.equal(found.join(" "), rates);
  });
}

test("the learned order finds more than LRU and GDSF at every capacity", { skip }, async () => {
  // The greatest of LRU's and GDSF's rates above, one or the other, and what it takes to beat both clearly.
  const wanted: readonly [capacity: number, best: number, margin: number][] = [
    [1_000, 0.0571, 0.02],
    [3_000, 0.1041, 0.02],
    [10_000, 0.2328, 0.003],
    [30_000, 0.3257, 0.005],
    [50_000, 0.3546, 0.001],
    [100_000, 0.3637, 0.0001],
  ];
  for (const [capacity, best, margin] of wanted) {
    const { hitRate } = await replayPrefixes(prompts, capacity, "gittins");
    assert.ok(hitRate > best + margin, `${hitRate.toFixed(4)} at ${capacity}`);
  }
});

test("next uses are counted from the end of the trace", () => {
  assert.deepEqual(
    nextUses([[1, 2], [1], [1, 3, 2]]).map((uses) => [...uses]),
    [[1, 2], [2], [Infinity, Infinity, Infinity]],
  );
});

/** The native attention kernel takes the tiles of the planner, and reads as many rows of K and V as the plan says. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { tileWords } from "../../sim/attention-io/cost.js";
import { planAttention } from "../../sim/attention-io/plan.js";
import { rowsAttention } from "../../sim/attention-io/schedules.js";
import { TwoLevelMemory } from "../../sim/attention-io/two-level-memory.js";
import { runAttentionTiles, whyNot } from "../../bench/attention-tiles.js";

/** Positions of a tile of keys, and most rows of a call (native-host/kernels/kernels.h). */
const COLUMNS = 32;
const MOST_ROWS = 256;
const skip = whyNot(true);

test("rows of a call are the planner's for the cache, within what a call may hold", { skip }, () => {
  const cases = [2048, 8192, 12288, 65536, 131072].flatMap((words) =>
    [32, 64, 128, 512].flatMap((headDim) => [1, 4, 6].map((group) => [words, headDim, group] as const)),
  );
  const answers = cases.map((one) => runAttentionTiles(true, "rows", ...one));
  cases.forEach(([memory, headDim, group], i) => {
    const fits = tileWords({ rows: group, columns: COLUMNS }, headDim) <= memory;
    const plan = fits
      ? planAttention({ queries: 4096, keys: 4096, headDim, memory, columns: COLUMNS, align: group }).rows
      : group;
    assert.equal(Number(answers[i]), Math.min(plan, Math.floor(MOST_ROWS / group) * group), `${cases[i]}`);
  });
});

test("rows of K that it reads are those of the counted schedule", { skip }, () => {
  const cases = [
    [64, 128, 128, 8, 1, 16],
    [96, 96, 200, 8, 1, 16],
    [40, 70, 301, 12, 1, 4],
    [1, 1, 333, 8, 1, 16],
    [1, 33, 64, 8, 1, 16],
    [100, 25, 130, 8, 4, 16],
  ] as const;
  const answers = cases.map((one) => runAttentionTiles(true, "count", ...one));
  cases.forEach(([rows, queries, keys, headDim, group], i) => {
    const memory = new TwoLevelMemory(2 ** 20);
    const fill = (count: number): Float32Array => new Float32Array(count * headDim).fill(0.1);
    const input = { queries, keys, headDim, q: fill(queries), k: fill(keys), v: fill(keys), causal: true };
    rowsAttention(input, memory, { rows: Math.max(1, Math.floor(rows / group)), columns: COLUMNS });
    // The schedule reads whole tiles up to the last one that is seen; the kernel stops at the last key seen.
    const per = Math.max(1, Math.floor(rows / group));
    let seen = 0;
    for (let first = 0; first < queries; first += per)
      seen += keys - queries + Math.min(first + per, queries);
    assert.equal(Number(answers[i]), seen, `${cases[i]}`);
    assert.equal(memory.loaded.k, seen * headDim);
  });
});

test("one row a call reads every key for every query: the count tells tiles from none", { skip }, () => {
  const count = (rows: number): number => Number(runAttentionTiles(true, "count", rows, 256, 256, 8, 1, 16));
  const [tiled, apart] = [count(64), count(1)];
  assert.equal(apart, (256 * 257) / 2);
  assert.equal(tiled, 64 + 128 + 192 + 256);
});

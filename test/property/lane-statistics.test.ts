/**
 * What statistics add to planes, and pooling, against plain loops: the same bits in every build.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Build, Core, type Selection } from "../../bindings/main.js";
import { Random } from "../support/random.js";

const BUILDS: readonly Build[] = ["core", "core-threads", "core-scalar", "debug"];

/** Sum, mean or largest of the cleaned values of a lane's heads, as f32 at every step. */
function aggregate(
  rows: Float32Array,
  stride: number,
  head: number,
  group: number,
  slot: number,
  how: "sum" | "mean" | "max",
  limit: number,
): number {
  const at = (g: number): number => {
    const value = rows[(head * group + g) * stride + slot];
    return value >= 0 ? Math.min(value, limit) : 0;
  };
  let value = at(0);
  for (let g = 1; g < group; g++) value = how === "max" ? Math.max(value, at(g)) : Math.fround(value + at(g));
  return how === "mean" ? Math.fround(value / group) : value;
}

function layerOf(random: Random, selection: Selection) {
  const lanes = 1 + random.below(3);
  const group = random.pick([1, 2, 3, 4]);
  const rowStride = 4 * (1 + random.below(10));
  const planeStride = rowStride + 4 * random.below(3);
  const lengths = Array.from({ length: lanes }, () => random.below(rowStride + 1));
  const rows = Float32Array.from({ length: lanes * group * rowStride }, () =>
    random.below(20) === 0 ? random.pick([NaN, -1, 2, -0]) : random.next() / 2 ** 32,
  );
  // Rows beside the core are copied in, rows within it are read in place.
  const place = random.below(2) === 0 ? rows : selection.rows.subarray(0, rows.length);
  place.set(rows);
  const how = random.pick(["sum", "mean", "max"] as const);
  return { lanes, group, heads: lanes * group, rows: place, rowStride, planeStride, lengths, aggregate: how };
}

for (const build of BUILDS) {
  test(`accumulated scores equal plain f32 sums bit for bit, and bad values are counted: ${build}`, async () => {
    const core = await Core.create({ build });
    const selection = core.selection({ capacity: 1024 });
    for (let seed = 0; seed < 800; seed++) {
      const random = new Random(seed);
      const layer = layerOf(random, selection);
      const limit = Math.fround(1.0001);
      const plane = selection.scores.subarray(0, layer.lanes * layer.planeStride);
      for (let i = 0; i < plane.length; i++) plane[i] = random.next() / 2 ** 30;
      const expected = plane.slice();
      let bad = 0;
      layer.lengths.forEach((length, lane) => {
        for (let slot = 0; slot < length; slot++) {
          expected[lane * layer.planeStride + slot] += aggregate(
            layer.rows,
            layer.rowStride,
            lane,
            layer.group,
            slot,
            layer.aggregate,
            limit,
          );
          for (let g = 0; g < layer.group; g++) {
            const value = layer.rows[(lane * layer.group + g) * layer.rowStride + slot];
            if (!(value >= 0 && value <= limit)) bad += 1;
          }
        }
      });
      assert.equal(selection.accumulate(plane, layer, 1.0001), bad);
      assert.deepEqual(plane, expected, `seed ${seed}`);
    }
  });

  test(`time stamps and intervals follow the recurrence: ${build}`, async () => {
    const core = await Core.create({ build });
    const selection = core.selection({ capacity: 1024 });
    const planes = core.selection({ capacity: 1024 });
    for (let seed = 0; seed < 500; seed++) {
      const random = new Random(seed);
      const layer = layerOf(random, selection);
      const size = layer.lanes * layer.planeStride;
      const words = (part: Float32Array): Uint32Array => new Uint32Array(part.buffer, part.byteOffset, size);
      const last = words(planes.scores);
      const longest = words(planes.rows);
      const now = 50 + random.below(1000);
      for (let i = 0; i < size; i++) [last[i], longest[i]] = [random.below(now), random.below(30)];
      const [lasts, longests] = [last.slice(), longest.slice()];
      const threshold = Math.fround(random.next() / 2 ** 32);
      let important = 0;
      layer.lengths.forEach((length, lane) => {
        for (let slot = 0; slot < length; slot++) {
          const { rows, rowStride, group } = layer;
          if (!(aggregate(rows, rowStride, lane, group, slot, layer.aggregate, Infinity) >= threshold))
            continue;
          const at = lane * layer.planeStride + slot;
          longests[at] = Math.max(longests[at], now - lasts[at]);
          lasts[at] = now;
          important += 1;
        }
      });
      assert.equal(selection.track(last, longest, layer, threshold, now), important);
      assert.deepEqual(last, lasts);
      assert.deepEqual(longest, longests);
    }
  });

  test(`pooling equals its definition bit for bit: ${build}`, async () => {
    const core = await Core.create({ build });
    const selection = core.selection({ capacity: 256 });
    for (let seed = 0; seed < 500; seed++) {
      const random = new Random(seed);
      const rows = 1 + random.below(3);
      const stride = 1 + random.below(80);
      const lengths = Array.from({ length: rows }, () => random.below(stride + 1));
      const kernel = 1 + 2 * random.below(6);
      const kind = random.pick(["average", "maximum"] as const);
      const source = Float32Array.from({ length: rows * stride }, () => random.next() / 2 ** 31 - 1);
      const target = selection.scores.subarray(0, rows * stride).fill(9);
      selection.pool(source, target, stride, lengths, kernel, kind);
      lengths.forEach((length, row) => {
        for (let i = 0; i < length; i++) {
          const reach = kernel >> 1;
          const near = source.subarray(
            row * stride + Math.max(0, i - reach),
            row * stride + Math.min(length, i + reach + 1),
          );
          const expected =
            kind === "maximum"
              ? Math.max(...near)
              : Math.fround(near.reduce((sum, value) => Math.fround(sum + value), 0) / kernel);
          assert.equal(target[row * stride + i], expected);
        }
        assert.ok(target.subarray(row * stride + length, (row + 1) * stride).every((value) => value === 9));
      });
    }
  });
}

test("lanes whose largest score passes a limit are halved, order kept", async () => {
  const selection = (await Core.create()).selection({ capacity: 64 });
  const plane = selection.scores.subarray(0, 32);
  plane.set([1, 2, 3, 8200, 5], 0);
  plane.set([1, 2, 3, 8192, 5], 16);
  assert.equal(selection.scaleAbove(plane, 16, [5, 5], 8192, 0.5), 1);
  assert.deepEqual([...plane.subarray(0, 5)], [0.5, 1, 1.5, 4100, 2.5]);
  assert.deepEqual([...plane.subarray(16, 21)], [1, 2, 3, 8192, 5]);
});

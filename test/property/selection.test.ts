/**
 * Selection against sorting: the same slots stay whatever the scores, in every build; and what statistics add to planes
 * against plain loops.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Build, Core, type Selection } from "../../bindings/main.js";
import { Random } from "../support/random.js";

const BUILDS: readonly Build[] = ["core", "core-threads", "core-scalar", "debug"];

/** Order of survival: score, then tie value, then position, then the lower lane. */
interface Candidate {
  readonly id: number;
  readonly lane: number;
  readonly slot: number;
  readonly score: number;
  readonly tie: number;
  readonly position: number;
}

function better(a: Candidate, b: Candidate): number {
  const [x, y] = [a, b].map(({ score }) => (Number.isNaN(score) ? -Infinity : score));
  if (x !== y) return y > x ? 1 : -1;
  return b.tie - a.tie || b.position - a.position || a.lane - b.lane;
}

interface Pool {
  readonly scores: Float32Array | Uint32Array;
  readonly stride: number;
  readonly lengths: readonly number[];
  readonly ties?: Uint32Array;
  readonly positions?: Uint32Array;
  readonly sinks: number;
  readonly recentFrom: number;
  readonly minimum: number;
}

/** Slots that stay by lane, by sorting; undefined when protections and minima are more than k. */
function naive(pool: Pool, k: number): number[][] | undefined {
  const { scores, stride, lengths, ties, positions, sinks, recentFrom, minimum } = pool;
  const all = lengths.flatMap((length, lane) =>
    Array.from({ length }, (_, slot): Candidate => {
      const id = lane * stride + slot;
      const position = positions?.[id] ?? slot;
      return { id, lane, slot, score: scores[id], tie: ties?.[id] ?? 0, position };
    }),
  );
  const kept = new Set(all.filter(({ position }) => position < sinks || position >= recentFrom));
  for (let lane = 0; lane < lengths.length; lane++) {
    const mine = all.filter((candidate) => candidate.lane === lane);
    const had = mine.filter((candidate) => kept.has(candidate)).length;
    const open = mine.filter((candidate) => !kept.has(candidate)).sort(better);
    for (const candidate of open.slice(0, Math.max(0, minimum - had))) kept.add(candidate);
  }
  if (kept.size > Math.min(k, all.length)) return undefined;
  const open = all.filter((candidate) => !kept.has(candidate)).sort(better);
  for (const candidate of open.slice(0, k - kept.size)) kept.add(candidate);
  return lengths.map((_, lane) =>
    [...kept]
      .filter((candidate) => candidate.lane === lane)
      .map(({ slot }) => slot)
      .sort((a, b) => a - b),
  );
}

const SPECIAL = [NaN, 0, -0, Infinity, -Infinity, 1, -1, 2 ** -149, -(2 ** -149), 3.4e38, -3.4e38];

/** Scores of many kinds: wild, with ties, all alike, probabilities. */
function randomScores(random: Random, count: number): Float32Array {
  const kind = random.below(5);
  return Float32Array.from({ length: count }, () => {
    if (random.below(8) === 0 || kind === 0) return random.pick(SPECIAL);
    if (kind === 1) return random.below(4);
    if (kind === 2) return random.below(1000) / 1000;
    if (kind === 3) return 0.25;
    return new Float32Array(Uint32Array.of(random.next()).buffer)[0];
  });
}

function shuffled(random: Random, count: number): Uint32Array {
  const list = Uint32Array.from({ length: count }, (_, i) => i * 2 + 5);
  for (let i = count - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [list[i], list[j]] = [list[j], list[i]];
  }
  return list;
}

test("on 10,000 random arrays of up to 4,096 scores the k that stay are those of a sort", async () => {
  const cores = await Promise.all(
    (["core", "core-scalar"] as const).map(async (build) =>
      (await Core.create({ build })).selection({ capacity: 4096 }),
    ),
  );
  for (let seed = 0; seed < 10_000; seed++) {
    const random = new Random(seed);
    // Long arrays now and then: sorting them is what takes the time.
    const count = 1 + random.below(seed % 50 === 0 ? 4096 : 200);
    const scores = randomScores(random, count);
    const order = Array.from(scores, (score, slot): Candidate => {
      return { id: slot, lane: 0, slot, score, tie: 0, position: slot };
    }).sort(better);
    const ks = count <= 24 ? Array.from({ length: count + 2 }, (_, k) => k) : [1, random.below(count), count];
    for (const k of ks) {
      const expected = Uint32Array.from(order.slice(0, k), ({ slot }) => slot).sort();
      for (const selection of cores)
        assert.deepEqual(selection.topk(scores, k), expected, `seed ${seed}, k ${k}`);
    }
  }
  assert.equal(cores[0].nanCount, cores[1].nanCount);
  assert.ok(cores[0].nanCount > 0);
});

test("every k of one array of 4,096 scores with ties", async () => {
  const selection = (await Core.create()).selection({ capacity: 4096 });
  const random = new Random(1);
  const scores = Float32Array.from({ length: 4096 }, () => random.below(300) - 150);
  const order = Array.from(scores, (_, slot) => slot).sort((a, b) => scores[b] - scores[a] || b - a);
  const stays = new Uint8Array(4096);
  for (let k = 1; k <= 4096; k++) {
    stays[order[k - 1]] = 1;
    const slots = selection.topk(scores, k);
    assert.equal(slots.length, k);
    assert.ok(
      slots.every((slot, i) => stays[slot] === 1 && (i === 0 || slot > slots[i - 1])),
      `k ${k}`,
    );
    const bits = selection.bitmap(1, 4096);
    assert.ok(
      stays.every((stay, slot) => ((bits[slot >> 5] >>> (slot & 31)) & 1) === stay),
      `bits of k ${k}`,
    );
  }
});

for (const build of BUILDS) {
  test(`pools of lanes with protections, minima, ties and any order of positions: ${build}`, async () => {
    const selection = (await Core.create({ build })).selection({ capacity: 512 });
    for (let seed = 0; seed < 1500; seed++) {
      const random = new Random(seed);
      const lanes = 1 + random.below(5);
      const stride = 1 + random.below(Math.floor(512 / lanes));
      const lengths = Array.from({ length: lanes }, () => random.below(stride + 1));
      const size = lanes * stride;
      const longest = Math.max(...lengths);
      const pool: Pool = {
        scores: random.below(4) === 0 ? shuffled(random, size).map((v) => v % 7) : randomScores(random, size),
        stride,
        lengths,
        ...(random.below(3) === 0 && { ties: Uint32Array.from({ length: size }, () => random.below(3)) }),
        ...(random.below(2) === 0 && { positions: shuffled(random, size) }),
        sinks: random.below(3) === 0 ? random.below(6) : 0,
        recentFrom: random.below(2) === 0 ? Math.max(0, longest - random.below(6)) : 2 ** 32 - 1,
        minimum: random.below(4),
      };
      const k = random.below(size + 2);
      const expected = naive(pool, k);
      if (expected === undefined) {
        assert.throws(() => selection.topkPooled(pool.scores, k, pool), { code: "INVALID_ARGUMENT" });
        continue;
      }
      assert.deepEqual(
        selection.topkPooled(pool.scores, k, pool).map((slots) => [...slots]),
        expected,
        `seed ${seed}`,
      );
    }
  });

  test(`the victim is the smallest unprotected score of the smallest position: ${build}`, async () => {
    const core = await Core.create({ build });
    const selection = core.selection({ capacity: 512 });
    for (let seed = 0; seed < 2000; seed++) {
      const random = new Random(seed);
      const count = random.below(70);
      const unsigned = random.below(3) === 0;
      const scores = unsigned
        ? Uint32Array.from({ length: count }, () => random.pick([0, 1, 2, 2 ** 32 - 2, 2 ** 31]))
        : randomScores(random, count);
      const positions = random.below(2) === 0 ? shuffled(random, count) : undefined;
      const sinks = random.below(5);
      const recentFrom = Math.max(0, (positions ? 2 * count + 5 : count) - random.below(20));
      const victim = Array.from(scores, (score, slot): Candidate => {
        return { id: slot, lane: 0, slot, score, tie: 0, position: positions?.[slot] ?? slot };
      })
        .filter(({ position }) => position >= sinks && position < recentFrom)
        .sort(better)
        .pop();
      const options = { sinks, recentFrom, ...(positions && { positions }) };
      assert.equal(selection.argmin(scores, options), victim?.slot, `seed ${seed}`);
    }
  });
}

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

test("arguments out of range are refused by name", async () => {
  const core = await Core.create();
  const selection = core.selection({ capacity: 64 });
  const scores = new Float32Array(64);
  const layer = { rows: scores, rowStride: 8, heads: 2, lengths: [8], planeStride: 8 };
  const refusals: readonly (readonly [RegExp, () => unknown])[] = [
    [/capacity/, () => core.selection({ capacity: 0 })],
    [/k is -1/, () => selection.topk(scores, -1)],
    [/protected/, () => selection.topk(scores, 3, { sinks: 4 })],
    [/stride is 65/, () => selection.topk(new Float32Array(65), 3)],
    [/scores is/, () => selection.topk([1, 2] as never, 1)],
    [/positions\.length/, () => selection.topk(scores, 1, { positions: new Uint32Array(3) })],
    [/lengths\[0\]/, () => selection.topkPooled(scores, 3, { stride: 8, lengths: [9] })],
    [/plane is/, () => selection.accumulate(new Float32Array(64), layer)],
    [/plane\.length/, () => selection.accumulate(selection.scores, { ...layer, planeStride: 65 })],
    [/rows\.length/, () => selection.accumulate(selection.scores, { ...layer, heads: 16 })],
    [/heads/, () => selection.accumulate(selection.scores, { ...layer, lengths: [1, 1, 1] })],
    [/aggregate/, () => selection.accumulate(selection.scores, { ...layer, aggregate: "min" as never })],
    [/threshold/, () => selection.track(new Uint32Array(64), new Uint32Array(64), layer, 0, 1)],
    [/kernel/, () => selection.pool(scores, selection.scores, 8, [8], 4)],
  ];
  for (const [name, run] of refusals)
    assert.throws(run, (error: { code?: string; message: string }) => {
      assert.equal(error.code, "INVALID_ARGUMENT");
      assert.match(error.message, name);
      return true;
    });
});

test("a stale view is refused once the memory has grown, a fresh one is not", async () => {
  const core = await Core.create();
  const selection = core.selection({ capacity: 64 });
  const plane = selection.scores;
  core.kvCache({ blocks: 4096, blockSize: 16 });
  const layer = { rows: new Float32Array(8), rowStride: 8, heads: 1, lengths: [8], planeStride: 8 };
  assert.throws(() => selection.accumulate(plane, layer), { code: "INVALID_ARGUMENT" });
  assert.equal(selection.accumulate(selection.scores, layer), 0);
});

test("a restored core chooses alike", async () => {
  const core = await Core.create();
  core.selection({ capacity: 256 }).topk(Float32Array.of(NaN, 1), 1);
  const restored = await Core.restore(core.snapshot(), { build: "core-scalar" });
  assert.equal(restored.selections[0].nanCount, 1);
  const scores = Float32Array.from({ length: 200 }, (_, i) => (i * 37) % 50);
  assert.deepEqual(restored.selections[0].topk(scores, 60), core.selections[0].topk(scores, 60));
});

test("selection is a function of order alone: any increasing map of the scores keeps the slots", async () => {
  const selection = (await Core.create()).selection({ capacity: 256 });
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: -1000, max: 1000 }), { minLength: 1, maxLength: 200 }),
      fc.nat(210),
      (values, k) => {
        const kept = [...selection.topk(Float32Array.from(values), k)];
        assert.deepEqual(
          [
            ...selection.topk(
              Float32Array.from(values, (v) => v * 3 + 7),
              k,
            ),
          ],
          kept,
        );
        assert.deepEqual(
          [
            ...selection.topk(
              Uint32Array.from(values, (v) => v + 1000),
              k,
            ),
          ],
          kept,
        );
      },
    ),
  );
});

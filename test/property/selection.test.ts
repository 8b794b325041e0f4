/** Selection against sorting: the same slots stay whatever the scores, in every build. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Build, Core } from "../../bindings/main.js";
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

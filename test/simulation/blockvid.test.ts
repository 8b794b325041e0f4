/** BlockVid's cache and schedules: what a chunk reads, what the bank keeps, and noise that stays noise. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ChunkBank, ChunkSelector, salientTokens } from "../../bindings/eviction/chunk-bank.js";
import {
  denoisingTimes,
  noiseLevel,
  permutation,
  shuffleNoise,
} from "../../bindings/eviction/chunk-noise.js";
import { Core } from "../../bindings/main.js";
import { CONTEXTS, type ContextPolicy, identityExperiment, vde } from "../../sim/blockvid.js";
import { RandomStream } from "../../sim/random.js";

const core = await Core.create();
const selection = core.selection({ capacity: 4096 });

/** Prompts of a scene: cosine 0.9 with each other, 0.1 with those of another scene. */
function planted(scene: number, chunk: number): number[] {
  const prompt = new Array<number>(64).fill(0);
  prompt[0] = Math.sqrt(0.1);
  prompt[1 + scene] = Math.sqrt(0.8);
  prompt[8 + chunk] = Math.sqrt(0.1);
  return prompt;
}

test("every return to a scene reads a chunk of it; first in first out and random chunks miss most", () => {
  const scenes = Array.from({ length: 45 }, (_, i) => Math.floor(i / 5) % 3);
  const random = new RandomStream(3);
  const bank = new ChunkBank({ anchorFirst: false, bankChunks: 8, retrieved: 2 });
  const fifo: number[] = [];
  const missed = { semantic: 0, fifo: 0, random: 0 };
  let returns = 0;
  scenes.forEach((scene, chunk) => {
    const prompt = planted(scene, chunk);
    const isReturn = chunk > 0 && scenes[chunk - 1] !== scene && scenes.slice(0, chunk - 1).includes(scene);
    const has = (chunks: readonly number[]): boolean => chunks.some((other) => scenes[other] === scene);
    if (isReturn) {
      returns += 1;
      if (!has(bank.context(prompt))) missed.semantic += 1;
      if (!has([...fifo.slice(-3)])) missed.fifo += 1;
      if (!has([...random.shuffle([...fifo.slice(0, -1)]).slice(0, 1), chunk - 1])) missed.random += 1;
    }
    bank.push(prompt);
    fifo.push(chunk);
  });
  assert.ok(returns >= 6);
  assert.equal(missed.semantic, 0);
  assert.ok(missed.fifo / returns > 0.5, `${missed.fifo} of ${returns}`);
  assert.ok(missed.random / returns > 0.5, `${missed.random} of ${returns}`);
});

test("no chunk twice, never over the bound, every chunk pushed is held or was dropped", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 3 }),
      fc.integer({ min: 0, max: 5 }),
      fc.integer({ min: 1, max: 6 }),
      fc.boolean(),
      fc.constantFrom("redundant" as const, "fifo" as const),
      fc.array(fc.array(fc.integer({ min: -2, max: 2 }), { minLength: 3, maxLength: 3 }), { maxLength: 40 }),
      (local, retrieved, bankChunks, anchorFirst, eviction, prompts) => {
        const bank = new ChunkBank({ local, retrieved, bankChunks, anchorFirst, eviction });
        const dropped = new Set<number>();
        prompts.forEach((prompt, i) => {
          const context = bank.context(prompt);
          assert.deepEqual(
            context,
            [...new Set(context)].sort((a, b) => a - b),
          );
          const held = [...bank.bank, ...bank.ring];
          assert.ok(context.every((chunk) => held.includes(chunk)));
          assert.ok(bank.ring.every((chunk) => context.includes(chunk)));
          assert.ok(context.length <= local + retrieved + 1);
          const gone = bank.push(prompt).dropped;
          if (gone !== undefined) dropped.add(gone);
          assert.ok(bank.bank.length <= bankChunks && bank.ring.length <= local);
          const now = [...bank.bank, ...bank.ring];
          assert.equal(new Set(now).size, now.length);
          assert.equal(now.length + dropped.size, i + 1, "nothing is lost");
        });
        if (anchorFirst && bankChunks > 1) assert.ok(!dropped.has(0));
      },
    ),
    { numRuns: 200 },
  );
});

test("a full bank loses the older of the two chunks with the nearest prompts", () => {
  const bank = new ChunkBank({ local: 0, bankChunks: 3, anchorFirst: false });
  bank.push([1, 0, 0]);
  bank.push([0, 1, 0]);
  bank.push([0, 0.9, 0.1]);
  assert.deepEqual(bank.push([0, 0, 1]), { banked: 3, dropped: 1 });
  assert.deepEqual(bank.bank, [0, 2, 3]);
});

test("one prompt for all chunks: the newest are read; NaN and negative similarity are not; limits are clamped", () => {
  const bank = new ChunkBank({ anchorFirst: false, retrieved: 2, local: 1 });
  for (let i = 0; i < 6; i++) bank.push([1, 1]);
  assert.deepEqual(bank.context([1, 1]), [3, 4, 5]);
  assert.deepEqual(bank.context([-1, -1]), [5], "below the floor");
  assert.deepEqual(bank.context([NaN, 1]), [5]);
  assert.deepEqual(new ChunkBank({ local: 0, retrieved: 9 }).context([1]), []);
  assert.throws(() => bank.push([1]), { code: "INVALID_ARGUMENT" });
  assert.deepEqual(bank.ring, [5], "a refused chunk changes nothing");
  for (const wrong of [{ local: -1 }, { retrieved: 65 }, { bankChunks: 0 }, { minSimilarity: 2 }])
    assert.throws(() => new ChunkBank(wrong), { code: "INVALID_ARGUMENT" });
});

test("planted attention is kept: the share of tokens with the most, the later of equal ones", () => {
  const received = new Float32Array(100);
  const planted = [3, 17, 50, 51, 99];
  for (const token of planted) received[token] = 1;
  const kept = salientTokens(selection, received, 0.1);
  assert.equal(kept.length, 10);
  assert.ok(planted.every((token) => kept.includes(token)));
  assert.deepEqual([...kept].slice(-5), [95, 96, 97, 98, 99]);
  assert.equal(salientTokens(selection, received.subarray(0, 7), 0.25).length, 2, "rounded up");
});

test("the selector reads ring and salient tokens; a share of 1 reads what the dense bank reads", () => {
  const bank = new ChunkBank({ local: 1, retrieved: 1, anchorFirst: false });
  const selector = new ChunkSelector(bank, 4);
  const dense = new ChunkSelector(bank, 4);
  const whole = new ChunkSelector(bank, 4);
  for (const scene of [0, 1, 2]) bank.push([0, 1, 2].map((i) => (i === scene ? 1 : 0)));
  const pos = Uint32Array.from({ length: 16 }, (_, i) => i);
  const lane = { length: 16, pos, hole: 2 ** 32 - 1 };
  const query = new Float32Array(4);
  for (const one of [selector, dense, whole]) assert.deepEqual(one.begin([0, 1, 0]), [1, 2]);
  for (const chunk of [0, 1]) {
    selector.keep(chunk, 0, 0, salientTokens(selection, Float32Array.of(0.5, 0, 0.3, 0.1), 0.5));
    whole.keep(chunk, 0, 0, salientTokens(selection, Float32Array.of(0.5, 0, 0.3, 0.1), 1));
  }
  assert.deepEqual([...selector.select(0, 0, query, lane)], [4, 6, 8, 9, 10, 11, 12, 13, 14, 15]);
  assert.deepEqual(whole.select(0, 0, query, lane), dense.select(0, 0, query, lane));
  selector.forget(1);
  assert.deepEqual(selector.select(0, 0, query, lane), dense.select(0, 0, query, lane));
});

test("noise levels go from lowest to highest without a step back; one chunk has the lowest", () => {
  for (const chunks of [2, 3, 20, 500]) {
    const levels = Array.from({ length: chunks }, (_, c) =>
      noiseLevel(c, chunks, { lowest: 0.02, highest: 0.3 }),
    );
    assert.equal(levels[0], 0.02);
    assert.equal(levels[chunks - 1], 0.3);
    assert.ok(levels.every((level, c) => c === 0 || level > levels[c - 1]));
  }
  assert.equal(noiseLevel(0, 1, { lowest: 0.02, highest: 0.3 }), 0.02);
  assert.throws(() => noiseLevel(3, 3), { code: "INVALID_ARGUMENT" });
  const times = denoisingTimes(4);
  assert.deepEqual(
    [...times].map((time) => Number(time.toFixed(4))),
    [1, 0.9, 0.75, 0.5],
  );
});

test("shuffled noise is a permutation of the neighbour's frame and fresh noise: mean 0, variance 1, same for a seed", () => {
  const frame = 50_000;
  let previous: Float32Array = new Float32Array(5 * frame);
  const first = new RandomStream(1);
  previous = previous.map(() => first.normal());
  const random = new RandomStream(7);
  const twin = new RandomStream(7);
  let [sum, squares, count] = [0, 0, 0];
  for (let chunk = 0; chunk < 4; chunk++) {
    const noise = shuffleNoise(previous, frame, random);
    assert.deepEqual(noise, shuffleNoise(previous, frame, twin));
    assert.deepEqual(noise.slice(0, frame).sort(), previous.slice(-frame).sort());
    assert.notDeepEqual(noise.slice(0, frame), previous.slice(-frame));
    for (const value of noise) [sum, squares] = [sum + value, squares + value * value];
    count += noise.length;
    previous = noise;
  }
  assert.equal(count, 1e6);
  assert.ok(Math.abs(sum / count) <= 0.01, `mean ${sum / count}`);
  assert.ok(Math.abs(squares / count - 1) <= 0.02, `variance ${squares / count}`);
  assert.deepEqual(
    [...permutation(500, (limit) => random.below(limit))].sort((a, b) => a - b),
    Array.from({ length: 500 }, (_, i) => i),
  );
});

test("VDE as coded: weights fall with the chunk", () => {
  const near = (value: number, expected: number): void => assert.ok(Math.abs(value - expected) < 1e-12);
  near(vde([1, 1, 1, 1]), 0);
  near(vde(new Array<number>(20).fill(0.4)), 0);
  near(vde([1, 0.9, 1.1], { chunks: 3 }), 0.3);
  near(vde([1, 0.9, 1.1, 7], { chunks: 2 }), Math.abs(4.05 - 0.95) / 0.95);
  near(vde([1, 0.9, 1.1], { chunks: 3, weights: "log" }), 0.1 * Math.log(2));
  assert.equal(vde([0, 1, 1], { chunks: 3 }), Infinity);
  assert.equal(vde([1], { chunks: 1 }), 0);
});

test("identity: the semantic bank keeps scenes as full history does; windows and random chunks lose them", () => {
  for (const scenes of [3, 5]) {
    const of = (policy: ContextPolicy) => identityExperiment(policy, scenes);
    const [semantic, full] = [of("semantic"), of("full")];
    assert.equal(semantic.misses, 0);
    assert.ok(semantic.distance <= 0.15, `${scenes} scenes: ${semantic.distance}`);
    assert.ok(Math.abs(semantic.distance - full.distance) <= 0.05);
    assert.ok(of("window").distance >= 0.5);
    assert.ok(of("random").distance >= 0.5);
    assert.ok(CONTEXTS.every((policy) => Number.isFinite(of(policy).drift)));
  }
});

test("control: with one scene the semantic bank does not beat sink and window", () => {
  const [semantic, sink] = [identityExperiment("semantic", 1), identityExperiment("sink", 1)];
  assert.ok(semantic.distance >= sink.distance - 0.005, `${semantic.distance} and ${sink.distance}`);
});

/** Sampling: the right set, the right shares, the same draw wherever it is made. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { resolveSampling, type SamplingOptions } from "../../bindings/main.js";
import { loadAddon, sampleRow } from "../../native-host/executor/main.js";

const NOTHING = new Uint32Array(0);
const draw = (
  logits: readonly number[],
  options: SamplingOptions,
  position = 0,
  history: readonly number[] = [],
): number =>
  sampleRow(Float32Array.from(logits), resolveSampling(options), Uint32Array.from(history), position);

const logitsArbitrary = fc.array(
  fc.integer({ min: -40, max: 40 }).map((value) => value / 8),
  { minLength: 1, maxLength: 40 },
);

/** Ids by falling logit, smaller id first among equals. */
const ranked = (logits: readonly number[]): number[] =>
  logits.map((_, id) => id).sort((a, b) => logits[b] - logits[a] || a - b);

/** Every token that some draw gives. */
function drawn(logits: readonly number[], options: SamplingOptions): Set<number> {
  const row = Float32Array.from(logits);
  const sampling = resolveSampling(options);
  return new Set(Array.from({ length: 400 }, (_, position) => sampleRow(row, sampling, NOTHING, position)));
}

test("greedy takes the largest logit, ties to the smaller id", () => {
  fc.assert(fc.property(logitsArbitrary, (logits) => assert.equal(draw(logits, {}), ranked(logits)[0])));
});

test("top-k draws only from the k most likely", () => {
  fc.assert(
    fc.property(logitsArbitrary, fc.integer({ min: 1, max: 6 }), (logits, topK) => {
      const allowed = new Set(ranked(logits).slice(0, topK));
      for (const id of drawn(logits, { temperature: 2, topK })) assert.ok(allowed.has(id));
    }),
    { numRuns: 40 },
  );
});

test("top-p draws only from the smallest set that reaches p, min-p only from what is likely enough", () => {
  fc.assert(
    fc.property(logitsArbitrary, fc.integer({ min: 1, max: 19 }), (logits, step) => {
      const p = step / 20;
      const order = ranked(logits);
      const weights = order.map((id) => Math.exp(logits[id] - logits[order[0]]));
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      let reached = 0;
      const nucleus = new Set<number>();
      for (const [i, id] of order.entries()) {
        if (reached / total >= Math.fround(p)) break;
        nucleus.add(id);
        reached += weights[i];
      }
      for (const id of drawn(logits, { temperature: 1, topP: p })) assert.ok(nucleus.has(id));
      const likely = new Set(order.filter((_, i) => weights[i] >= Math.fround(p)));
      for (const id of drawn(logits, { temperature: 1, minP: p })) assert.ok(likely.has(id));
    }),
    { numRuns: 60 },
  );
});

test("draws follow the softmax at the temperature (chi-square, fixed seeds)", () => {
  const logits = [1, 0, -0.5, 2, 0.25];
  for (const temperature of [0.7, 1, 1.8]) {
    const weights = logits.map((logit) => Math.exp(logit / temperature));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const counts = logits.map(() => 0);
    const draws = 20_000;
    for (let position = 0; position < draws; position++)
      counts[draw(logits, { temperature, seed: 42 }, position)] += 1;
    const chiSquare = counts.reduce((sum, count, i) => {
      const expected = (draws * weights[i]) / total;
      return sum + (count - expected) ** 2 / expected;
    }, 0);
    // 99.99 % of chi-square with 4 degrees of freedom lies below 23.5.
    assert.ok(chiSquare < 23.5, `temperature ${temperature}: ${chiSquare}`);
  }
});

test("a draw depends on seed and position alone", () => {
  const logits = [0, 0.1, 0.2, 0.3];
  const run = (seed: number): number[] =>
    Array.from({ length: 50 }, (_, i) => draw(logits, { temperature: 1, seed }, i));
  assert.deepEqual(run(7), run(7));
  assert.notDeepEqual(run(7), run(8));
});

test("the repetition penalty makes seen tokens less likely, whatever their sign, once each", () => {
  assert.equal(draw([2, 1.5, -1], { repetitionPenalty: 1.5 }, 0, [0]), 1);
  assert.equal(draw([2, 1.5, -1], { repetitionPenalty: 1.2 }, 0, [0, 0, 0]), 0);
  assert.equal(draw([-1, -1.2], { repetitionPenalty: 1.5 }, 0, [0]), 1);
});

describe("options are refused", () => {
  const cases: readonly [SamplingOptions, RegExp][] = [
    [{ temperature: -0.1 }, /sampling\.temperature is -0\.1/],
    [{ temperature: NaN }, /sampling\.temperature is NaN/],
    [{ topK: 1.5 }, /sampling\.topK is 1\.5/],
    [{ topP: 0 }, /sampling\.topP is 0/],
    [{ topP: 1.1 }, /sampling\.topP is 1\.1/],
    [{ minP: -1 }, /sampling\.minP is -1/],
    [{ repetitionPenalty: 0 }, /sampling\.repetitionPenalty is 0/],
    [{ seed: -1 }, /sampling\.seed is -1/],
    [{ seed: 2 ** 53 }, /sampling\.seed is/],
  ];
  for (const [options, message] of cases) {
    test(JSON.stringify(options), () =>
      assert.throws(() => resolveSampling(options), { code: "INVALID_ARGUMENT", message }),
    );
  }
});

const addon = loadAddon();
test("the native sampler draws the same tokens", { skip: "reason" in addon ? addon.reason : false }, () => {
  if ("reason" in addon) return;
  const { kernels } = addon.addon;
  const options = fc.record({
    temperature: fc.constantFrom(0, 0.3, 1, 2.5),
    topK: fc.constantFrom(0, 1, 5, 100),
    topP: fc.constantFrom(1, 0.9, 0.3),
    minP: fc.constantFrom(0, 0.05, 0.5),
    repetitionPenalty: fc.constantFrom(1, 1.3, 0.8),
    seed: fc.maxSafeNat(),
  });
  fc.assert(
    fc.property(
      logitsArbitrary,
      options,
      fc.nat(1000),
      fc.array(fc.nat(39), { maxLength: 10 }),
      (logits, sampling, position, seen) => {
        const row = Float32Array.from(logits);
        const history = Uint32Array.from(seen.filter((id) => id < logits.length));
        const record = new Uint32Array(12);
        const floats = new Float32Array(record.buffer);
        [floats[0], record[1], floats[2], floats[3], floats[4]] = [
          sampling.temperature,
          sampling.topK,
          sampling.topP,
          sampling.minP,
          sampling.repetitionPenalty,
        ];
        record[5] = sampling.seed >>> 0;
        record[6] = Math.floor(sampling.seed / 2 ** 32);
        record[7] = position;
        record[9] = history.length;
        const expected = sampleRow(row, resolveSampling(sampling), history, position);
        assert.equal(kernels.sample(row, record, history), expected);
      },
    ),
    { numRuns: 3000 },
  );
});

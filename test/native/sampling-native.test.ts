// The native sampler follows its rule: greedy by logit then id, restricted by top-k, top-p and min-p in that
// order, and
// drawn from (seed, position) alone, with frequencies as the softmax says.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { needsAddon, randomFloats, samplingRecord, theAddon, type HandSampling } from "./native-support.js";

const NONE = new Uint32Array(0);

function sample(logits: Float32Array, options: HandSampling, history = NONE): number {
  return theAddon().kernels.sample(logits, samplingRecord(options, 0, history.length), history);
}

/** The rule, word for word, in double. */
function wanted(logits: Float32Array, o: HandSampling, history: Uint32Array): number {
  const f = Math.fround;
  const penalty = f(o.repetitionPenalty ?? 1);
  const adjusted = logits.slice();
  for (const token of new Set(history)) {
    const logit = logits[token];
    if (penalty !== 1) adjusted[token] = logit > 0 ? f(logit / penalty) : f(logit * penalty);
  }
  const temperature = f(o.temperature ?? 0);
  const ids = [...adjusted.keys()].sort((a, b) => adjusted[b] - adjusted[a] || a - b);
  if (temperature === 0) return ids[0];
  let kept = o.topK ? ids.slice(0, o.topK) : ids;
  let weights = kept.map((id) => Math.exp(adjusted[id] / temperature - adjusted[ids[0]] / temperature));
  const topP = f(o.topP ?? 1);
  if (topP < 1) {
    const sum = weights.reduce((a, b) => a + b, 0);
    let running = 0;
    const last = weights.findIndex((w) => (running += w) / sum >= topP);
    if (last >= 0) weights = weights.slice(0, last + 1);
  }
  weights = weights.filter((w) => w >= f(o.minP ?? 0) * weights[0]);
  kept = kept.slice(0, weights.length);
  const total = weights.reduce((a, b) => a + b, 0);
  const drawn = uniform(BigInt(o.seed ?? 0), BigInt(o.position ?? 0)) * total;
  let running = 0;
  const at = weights.findIndex((w) => (running += w) > drawn);
  return kept[at < 0 ? kept.length - 1 : at];
}

function uniform(seed: bigint, position: bigint): number {
  const u64 = (x: bigint) => BigInt.asUintN(64, x);
  let z = u64(seed + (position + 1n) * 0x9e3779b97f4a7c15n);
  z = u64((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
  z = u64((z ^ (z >> 27n)) * 0x94d049bb133111ebn);
  z ^= z >> 31n;
  return Number(z >> 11n) * 2 ** -53;
}

const options = fc.record({
  temperature: fc.constantFrom(0, 0.3, 0.7, 1, 2.5),
  topK: fc.constantFrom(0, 1, 3, 40, 10_000),
  topP: fc.constantFrom(1, 0.95, 0.5, 0.01),
  minP: fc.constantFrom(0, 0.05, 0.5, 1),
  repetitionPenalty: fc.constantFrom(1, 1.3, 0.5),
  seed: fc.maxSafeNat(),
  position: fc.nat({ max: 2 ** 31 }),
});

test("equals the rule written plainly", needsAddon, () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 300 }),
      fc.nat(),
      fc.boolean(),
      options,
      (vocab, seed, coarse, o) => {
        let logits = randomFloats(vocab, seed + 1, 8);
        if (coarse) logits = logits.map(Math.round); // many ties, and both zeros
        const history = Uint32Array.from(
          randomFloats(20, seed + 2),
          (x) => Math.floor(((x + 1) / 2) * vocab) % vocab,
        );
        assert.equal(sample(logits, o, history), wanted(logits, o, history));
      },
    ),
    { numRuns: 500 },
  );
});

test("equals the rule for a vocabulary large enough to be sorted by counting", needsAddon, () => {
  fc.assert(
    fc.property(fc.nat(), options, (seed, o) => {
      const logits = randomFloats(6000, seed + 1, 6);
      assert.equal(sample(logits, o), wanted(logits, o, NONE));
    }),
    { numRuns: 60 },
  );
});

test("greedy takes the smallest id of the largest logit, wherever it lies", needsAddon, () => {
  for (const vocab of [1, 15, 16, 17, 100]) {
    for (let at = 0; at < vocab; at++) {
      const logits = new Float32Array(vocab).fill(-3);
      logits[at] = logits[vocab - 1] = 2;
      assert.equal(sample(logits, {}), at);
    }
  }
  assert.equal(sample(Float32Array.of(-Infinity, -Infinity), {}), 0);
});

test("draws have the frequencies of the softmax", needsAddon, () => {
  const logits = Float32Array.of(0, 1, 2, -1);
  const weights = [...logits].map((l) => Math.exp(l / 0.8));
  const total = weights.reduce((a, b) => a + b);
  const counts = [0, 0, 0, 0];
  const draws = 20_000;
  for (let position = 0; position < draws; position++)
    counts[sample(logits, { temperature: 0.8, seed: 5, position })]++;
  weights.forEach((w, i) => {
    const p = w / total;
    // Six standard deviations: a fixed seed, so either always or never.
    assert.ok(
      Math.abs(counts[i] - draws * p) < 6 * Math.sqrt(draws * p * (1 - p)),
      `${i}: ${counts[i]} of ${draws * p}`,
    );
  });
});

test("the same record gives the same token; another seed or position gives others", needsAddon, () => {
  const logits = randomFloats(64, 3);
  const at = (seed: number, position: number) => sample(logits, { temperature: 1, seed, position });
  const line = (seed: number) => Array.from({ length: 50 }, (_, position) => at(seed, position)).join(" ");
  assert.equal(line(1), line(1));
  assert.notEqual(line(1), line(2));
  assert.notEqual(line(1), line(1 + 2 ** 40));
  assert.ok(new Set(line(1).split(" ")).size > 10);
});

test("refuses a record outside its ranges", needsAddon, () => {
  const logits = new Float32Array(4);
  const refused = { code: "INVALID_ARGUMENT" };
  assert.throws(() => sample(logits, { temperature: -1 }), refused);
  assert.throws(() => sample(logits, { topP: 1.1 }), refused);
  assert.throws(() => sample(logits, { minP: NaN }), refused);
  assert.throws(() => sample(logits, { repetitionPenalty: Infinity }), refused);
  assert.throws(() => sample(logits, { repetitionPenalty: 2 }, Uint32Array.of(4)), refused);
  assert.throws(() => sample(new Float32Array(0), {}), refused);
});

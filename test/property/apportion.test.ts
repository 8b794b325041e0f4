/** Budgets add up, stay within their bounds and follow the weights; the published procedures step by step. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { apportion, type ApportionOptions, type ApportionStrategy, Core } from "../../bindings/main.js";
import { Random } from "../support/random.js";

const STRATEGIES: readonly ApportionStrategy[] = [
  "largest-remainder",
  "cake",
  "error-aware",
  "inverse-power",
  "pyramid",
];

interface Case {
  readonly weights: number[];
  readonly total: number;
  readonly minimum: number;
  readonly maximum: number;
}

function randomCase(random: Random): Case {
  const count = 1 + random.below(random.below(4) === 0 ? 64 : 12);
  const kind = random.below(5);
  const weights = Array.from({ length: count }, () => {
    if (kind === 0) return 0;
    if (kind === 1) return random.below(3);
    if (kind === 2) return 10 ** (random.below(40) - 20);
    return random.next() / 2 ** 32;
  });
  const minimum = random.below(20);
  const maximum = minimum + random.below(200);
  const total = random.below(2) === 0 ? random.below(count * 120) : count * (minimum + random.below(100));
  return { weights, total, minimum, maximum };
}

/** What EpiCache makes of a layer's similarity; close ones may become equal. */
function sensitivity(all: readonly number[], similarity: number): number {
  const least = Math.min(...all);
  const range = Math.max(...all) - least;
  return range === 0 ? 1 : (1 - (similarity - least) / range) ** 1.1;
}

const sum = (list: ArrayLike<number>): number => Array.from(list).reduce((a, b) => a + b, 0);

for (const strategy of STRATEGIES) {
  test(`${strategy}: the sum is exact, every budget within its bounds, alike in every build`, async () => {
    const core = await Core.create();
    const scalar = await Core.create({ build: "core-scalar" });
    for (let seed = 0; seed < 4000; seed++) {
      const options = { ...randomCase(new Random(seed)), strategy };
      const { weights, total, minimum, maximum } = options;
      const budgets = apportion(core, options);
      const count = weights.length;
      assert.equal(sum(budgets), Math.max(Math.min(total, count * maximum), count * minimum), `seed ${seed}`);
      assert.ok(budgets.every((budget) => budget >= minimum && budget <= maximum));
      assert.deepEqual(apportion(scalar, options), budgets);
    }
  });

  // CAKE spreads evenly and gives what is left over to the lowest entries, once a round: its order holds up to a slot for
  // each of at most a few rounds.
  const slack = strategy === "cake" ? 8 : 0;
  test(`${strategy}: more weight never means fewer slots${slack ? `, up to ${slack}` : ""}`, async () => {
    const core = await Core.create();
    for (let seed = 0; seed < 2000; seed++) {
      const options = { ...randomCase(new Random(seed)), strategy };
      const budgets = apportion(core, options);
      const weights = options.weights.map((weight, i) =>
        strategy === "inverse-power"
          ? sensitivity(options.weights, weight)
          : strategy === "pyramid"
            ? -i
            : weight,
      );
      weights.forEach((a, i) =>
        weights.forEach((b, j) => {
          if (a < b - 1e-12 * Math.abs(b))
            assert.ok(budgets[i] <= budgets[j] + slack, `seed ${seed}: ${budgets} for ${weights}`);
        }),
      );
    }
  });
}

test("largest-remainder: bounds of each entry, and shares within one slot of the exact ones", async () => {
  const core = await Core.create();
  assert.deepEqual([...apportion(core, { weights: [1, 1, 1], total: 10, maximum: [2, 9, 9] })], [2, 4, 4]);
  assert.deepEqual([...apportion(core, { weights: [1, 1, 1], total: 10 })], [4, 3, 3], "ties: lower first");
  assert.deepEqual(
    [...apportion(core, { weights: [0, 0, 5], total: 9, maximum: [9, 9, 3] })],
    [3, 3, 3],
    "what the weighty cannot take goes to the others alike",
  );
  assert.deepEqual([...apportion(core, { weights: [0, 100], total: 10, minimum: [3, 0] })], [3, 7]);
  for (let seed = 0; seed < 500; seed++) {
    const random = new Random(seed);
    const weights = Array.from({ length: 1 + random.below(30) }, () => random.next() / 2 ** 32);
    const total = random.below(5000);
    const budgets = apportion(core, { weights, total });
    weights.forEach((weight, i) =>
      assert.ok(Math.abs(budgets[i] - (weight / sum(weights)) * total) < 1 + 1e-9),
    );
  }
});

/** CAKE's `adjust_budgets`, as published, up to the point where it may leave the bounds. */
function cakeAsPublished(weights: readonly number[], total: number, cap: number): number[] {
  const whole = sum(weights);
  const budgets = weights.map((weight) =>
    Math.trunc(whole > 0 ? (weight / whole) * total : total / weights.length),
  );
  const spread = (amount: number, open: (budget: number) => boolean): void => {
    const places = budgets.flatMap((budget, i) => (open(budget) ? [i] : []));
    if (places.length === 0) return;
    const each = Math.trunc(amount / places.length);
    const rest = Math.abs(amount - each * places.length);
    places.forEach((i, turn) => (budgets[i] += each + (turn < rest ? Math.sign(amount) : 0)));
  };
  const excess = sum(budgets.map((budget) => Math.max(0, budget - cap)));
  budgets.forEach((budget, i) => (budgets[i] = Math.min(budget, cap)));
  if (excess > 0) spread(excess, (budget) => budget < cap);
  const off = total - sum(budgets);
  if (off > 0) spread(off, (budget) => budget < cap);
  if (off < 0) spread(off, (budget) => budget > 1);
  return budgets;
}

test("cake: equals the published steps wherever those keep the bounds", async () => {
  const core = await Core.create();
  let compared = 0;
  for (let seed = 0; seed < 2000; seed++) {
    const random = new Random(seed);
    const weights = Array.from({ length: 2 + random.below(30) }, () => random.below(1000));
    const cap = 20 + random.below(400);
    const total = random.below(weights.length * cap + 1);
    const published = cakeAsPublished(weights, total, cap);
    if (published.some((budget) => budget < 1 || budget > cap) || sum(published) !== total) continue;
    compared += 1;
    assert.deepEqual(
      [...apportion(core, { weights, total, minimum: 1, maximum: cap, strategy: "cake" })],
      published,
    );
  }
  assert.ok(compared > 500, `${compared} compared`);
});

/** Layer scores published for Llama-3.1-8B with CompressKV, rounded. */
const LLAMA_SCORES = [
  0.018, 0.019, 0.036, 0.028, 0.028, 0.037, 0.026, 0.031, 0.044, 0.043, 0.044, 0.04, 0.018, 0.043, 0.037,
  0.038, 0.03, 0.035, 0.035, 0.036, 0.042, 0.025, 0.035, 0.038, 0.034, 0.029, 0.028, 0.032, 0.022, 0.018,
  0.023, 0.007,
];

test("error-aware: the published scores at 256 slots a layer give 8,192 slots between 32 and 768", async () => {
  const core = await Core.create();
  const options = {
    weights: LLAMA_SCORES,
    total: 8192,
    minimum: 32,
    maximum: 768,
    strategy: "error-aware",
  } as const;
  const budgets = apportion(core, options);
  assert.equal(sum(budgets), 8192);
  assert.ok(Math.min(...budgets) >= 32 && Math.max(...budgets) <= 768);
  const scores = LLAMA_SCORES.map((score) => score / sum(LLAMA_SCORES));
  scores.forEach((score, i) => assert.ok(Math.abs(budgets[i] - (32 + score * (8192 - 32 * 32))) <= 1.5));
  // Reversed layers, reversed budgets: but for the slot that a tie gives to the lower layer.
  const reversed = apportion(core, { ...options, weights: [...LLAMA_SCORES].reverse() }).reverse();
  budgets.forEach((budget, i) => assert.ok(Math.abs(budget - reversed[i]) <= 1));
});

test("inverse-power: the least similar layer gets most; without strict the floors as published", async () => {
  const core = await Core.create();
  const similarity = [0.9, 0.5, 0.7, 0.9];
  const mean = 100;
  const options = {
    weights: similarity,
    total: 4 * mean,
    minimum: mean / 4,
    strategy: "inverse-power",
  } as const;
  const exact = apportion(core, options);
  assert.equal(sum(exact), 400);
  const weights = similarity.map((s) => (1 - (s - 0.5) / 0.4) ** 1.1);
  const published = weights.map((w) => Math.max(Math.floor((w / sum(weights)) * 400), 25));
  assert.deepEqual([...apportion(core, { ...options, strict: false })], published);
  assert.ok(sum(published) > 400, "the published integers are too many");
  assert.deepEqual([...apportion(core, { ...options, alpha: 0 })], [100, 100, 100, 100]);
});

test("pyramid: a line with the total's mean, clipped at the maximum; without strict the steps as published", async () => {
  const core = await Core.create();
  const weights = new Float64Array(8);
  const options = { weights, total: 8 * 100, maximum: 1000, strategy: "pyramid" } as const;
  const line = apportion(core, options);
  assert.equal(sum(line), 800);
  assert.deepEqual([line[0], line[7]], [195, 5]);
  const steps = Math.floor((195 - 5) / 7);
  assert.deepEqual(
    [...apportion(core, { ...options, strict: false })],
    Array.from(weights, (_, layer) => 195 - layer * steps),
  );
  const clipped = apportion(core, { ...options, maximum: 150 });
  assert.equal(sum(clipped), 800);
  assert.deepEqual([clipped[0], clipped[7]], [150, 50]);
});

test("what cannot be split is refused by name", async () => {
  const core = await Core.create();
  const refusals: readonly (readonly [RegExp, ApportionOptions])[] = [
    [/weights\.length/, { weights: [], total: 1 }],
    [/weights\[1\]/, { weights: [1, NaN], total: 1 }],
    [/weights\[0\]/, { weights: [-1], total: 1 }],
    [/weights\[0\]/, { weights: [Infinity], total: 1 }],
    [/total/, { weights: [1], total: -1 }],
    [/minimum\[0\]/, { weights: [1], total: 1, minimum: 3, maximum: 2 }],
    [/maximum/, { weights: [1, 2], total: 1, maximum: [1] }],
    [/strategy/, { weights: [1], total: 1, strategy: "fair" as never }],
    [/alpha/, { weights: [1], total: 1, strategy: "inverse-power", alpha: -1 }],
    [/beta/, { weights: [1], total: 1, strategy: "pyramid", beta: 0 }],
  ];
  for (const [name, options] of refusals)
    assert.throws(
      () => apportion(core, options),
      (error: { code?: string; message: string }) =>
        error.code === "INVALID_ARGUMENT" && name.test(error.message),
    );
});

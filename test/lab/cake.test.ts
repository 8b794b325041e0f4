/**
 * CAKE: dropping while layers are still to come gives what one split at the end gives, within its peak; budgets follow how
 * widely and unsteadily layers attend.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { CakeAllocator, cakeSignals, type CakePolicy } from "../../bindings/eviction/policies/cake.js";
import { Core, createPolicy, type PolicyOptions, type StatView } from "../../bindings/main.js";
import { BOS, tokensOf } from "../../sim/eviction/alphabet.js";
import { makeTask } from "../../sim/eviction/tasks.js";
import { RandomStream } from "../../sim/random.js";
import { openLab, watchBlocks } from "../support/lab.js";
import { attend, hash, type Logits, seededLogits, SyntheticHost } from "../support/synthetic-host.js";

const core = await Core.create();
const selection = core.selection({ capacity: 8192 });
const cake = (options: PolicyOptions): CakePolicy => createPolicy(selection, "cake", options) as CakePolicy;

test("dispersion, shift and indicator of a hand-written window", () => {
  // Two queries, four keys before the window, one head.
  const rows = [
    [0.5, 0.2, 0.1, 0.1],
    [0.1, 0.2, 0.3, 0.1],
  ];
  const moments = new Float32Array(2 * 8);
  rows.forEach((row) =>
    row.forEach((a, slot) => {
      moments[slot] += a;
      moments[8 + slot] += a * a;
    }),
  );
  const entropy = -rows.flat().reduce((sum, a) => sum + a * Math.log(a + 1e-10), 0);
  const view: StatView = {
    layer: 0,
    heads: 1,
    kvHeads: 1,
    newTokens: 6,
    lengths: Uint32Array.of(6),
    stride: 8,
    moments,
    entropy,
    windowRows: 2,
  };
  const { dispersion, shift, indicators } = cakeSignals(view, 200);
  const variances = [0.08, 0, 0.02, 0];
  assert.ok(Math.abs(dispersion - entropy) < 1e-12);
  assert.ok(Math.abs(shift - 0.1) < 1e-6);
  [0.3, 0.2, 0.2, 0.1].forEach((mean, slot) =>
    assert.ok(Math.abs(indicators[0][slot] - (mean + 200 * variances[slot])) < 1e-4),
  );
});

/** Preferences as the policy computes them, from the full matrix. */
function naivePreference(host: SyntheticHost, layer: number, window: number): number {
  const { shape, logits, promptTokens: n } = host;
  let [dispersion, shift] = [0, 0];
  for (let head = 0; head < shape.heads; head++) {
    const rows = Array.from({ length: window }, (_, w) => {
      const query = n - window + w;
      return attend(
        logits,
        layer,
        head,
        query,
        Uint32Array.from({ length: query + 1 }, (_, key) => key),
      );
    });
    for (let key = 0; key < n - window; key++) {
      const column = rows.map((row) => row[key]);
      const mean = column.reduce((a, b) => a + b, 0) / window;
      shift += column.reduce((sum, a) => sum + (a - mean) ** 2, 0) / (window - 1);
      dispersion -= column.reduce((sum, a) => sum + a * Math.log(a + 1e-10), 0);
    }
  }
  return dispersion * shift;
}

test("cascade keeps what one split at the end keeps, for 100 random shapes, within its peak", () => {
  const random = new RandomStream(7);
  for (let i = 0; i < 100; i++) {
    const layers = 2 + random.below(i % 10 === 0 ? 11 : 3);
    const group = [1, 2, 4][random.below(3)];
    const shape = { layers, heads: group, kvHeads: 1, headDim: 2 };
    const prompt = 64 + random.below(i % 10 === 0 ? 120 : 40);
    const window = 4 + random.below(8);
    const budget = window + 4 + random.below(40);
    const noise = seededLogits(i);
    // Layers differ: some sharpen, some flatten.
    const logits: Logits = (layer, head, query, key) =>
      noise(layer, head, query, key) * (0.3 + (layer % 4) * 0.7);
    const options = { budget, window };
    const cascading = cake({ ...options, cascade: true });
    const host = new SyntheticHost(shape, cascading, prompt, { logits });
    const once = new SyntheticHost(shape, cake({ ...options, cascade: false }), prompt, { logits });
    host.prefill();
    once.prefill();
    assert.deepEqual(host.positions(), once.positions(), `case ${i}`);
    if (prompt <= budget + window) {
      assert.ok(host.positions().every((positions) => positions.length === prompt));
      continue;
    }
    const total = (budget - window) * layers;
    const held = host.positions().reduce((sum, positions) => sum + positions.length, 0);
    assert.ok(held <= total + layers * window);
    assert.ok(
      host.prefillPeak <= total + layers * window + prompt,
      "one layer's full cache above the budget",
    );
    assert.ok(cascading.layerBudgets.every((slots) => slots >= 1 && slots <= prompt - window));
    const preferences = Array.from({ length: layers }, (_, layer) => naivePreference(host, layer, window));
    const naive = new CakeAllocator(core);
    for (const preference of preferences) naive.addLayer(preference, total, prompt - window);
    naive.budgets.forEach((slots, layer) =>
      assert.ok(
        Math.abs(slots - cascading.layerBudgets[layer]) <= 1,
        `case ${i}: ${slots}, ${cascading.layerBudgets}`,
      ),
    );
  }
});

test("in the block pool: the prompt's blocks until its end, then those of the layer that keeps most, and none is lost", async (t) => {
  const lab = await openLab();
  const { layers } = lab.shape;
  for (const [length, budget, window] of [
    [400, 60, 16],
    [600, 100, 16],
  ]) {
    const tokens = [BOS, ...tokensOf(makeTask("needle", { seed: length, length }).context)];
    const n = tokens.length;
    for (const cascade of [true, false]) {
      const policy = cake({ budget, window, cascade });
      const watched = watchBlocks(lab);
      const sequence = lab.open(policy, n);
      await sequence.prefill(tokens);
      const peak = watched.end();
      const held = sequence.table.length;
      const bound = ((budget - window) * layers + layers * window + n) / (layers * lab.blockSize);
      t.diagnostic(
        `${n} tokens, cascade ${cascade}: ${peak} blocks at most, ${held} after; ` +
          `${bound.toFixed(1)} for budget + windows + one layer's prompt`,
      );
      // With one table for all layers and a forward that runs all of them, the cascade bounds slots (above), not blocks.
      assert.equal(peak, Math.ceil(n / lab.blockSize));
      const most = Math.max(...policy.layerBudgets) + window;
      assert.equal(sequence.lanes.longest, most);
      assert.equal(held, Math.ceil(most / lab.blockSize));
      assert.ok(held < peak);
      sequence.close();
      assert.equal(lab.freeBlocks, 256);
    }
  }
  await lab.executor.close();
});

test("in the block pool, dropping between layers: budget, windows and one layer's prompt is all it takes", async (t) => {
  const lab = await openLab();
  const { layers } = lab.shape;
  for (const [length, budget, window] of [
    [400, 60, 16],
    [600, 100, 16],
    [380, 96, 16],
  ]) {
    const tokens = [BOS, ...tokensOf(makeTask("needle", { seed: length, length }).context)];
    const n = tokens.length;
    const policy = cake({ budget, window });
    const watched = watchBlocks(lab);
    const folded = lab.open(policy, n, "folded");
    const logits = await folded.prefillLayered(tokens);
    const peak = watched.end();
    const bound = ((budget - window) * layers + layers * window + n) / (layers * lab.blockSize);
    const whole = lab.open(cake({ budget, window }), n);
    assert.deepEqual(logits, await whole.prefill(tokens), "the same bits as a prefill of all layers");
    t.diagnostic(
      `${n} tokens: ${peak} blocks at most, ${folded.table.length} after (${whole.table.length} with one table for all ` +
        `layers, ${Math.ceil(n / lab.blockSize)} at most); ${bound.toFixed(1)} for budget + windows + one layer's prompt`,
    );
    // A layer's last slice is not full, and a block has places for all layers.
    assert.ok(peak <= Math.ceil(bound + 1));
    assert.ok(peak < 0.65 * Math.ceil(n / lab.blockSize));
    assert.ok(folded.table.length <= Math.ceil(budget / lab.blockSize) + 1, "what it holds is what it keeps");
    const copy = await folded.fork(cake({ budget, window }));
    for (const token of tokensOf("?ab37;?cd05;ef11;gh28;ab37;cd05")) {
      const wanted = await whole.feed(token);
      assert.deepEqual(await folded.feed(token), wanted);
      assert.deepEqual(await copy.feed(token), wanted);
    }
    for (const sequence of [folded, whole, copy]) sequence.close();
    assert.equal(lab.freeBlocks, 256);
  }
  await lab.executor.close();
});

test("budgets: exact sums, bounds, and the guard is needed", () => {
  const random = new RandomStream(11);
  let grew = 0;
  for (let i = 0; i < 1000; i++) {
    const layers = 2 + random.below(11);
    const most = 16 + random.below(200);
    const total = layers * (1 + random.below(most));
    const allocator = new CakeAllocator(core);
    const preferences: number[] = [];
    let before: number[] = [];
    let isGrowing = false;
    for (let layer = 0; layer < layers; layer++) {
      preferences.push(random.uniform() ** 4);
      const split = allocator.split(preferences, total, most);
      assert.equal(
        split.reduce((a, b) => a + b, 0),
        Math.min(total, most * (layer + 1)),
      );
      assert.ok(split.every((slots) => slots >= 1 && slots <= most));
      isGrowing ||= before.some((slots, at) => split[at] > slots);
      before = [...split];
      const guarded = [...allocator.budgets];
      const now = allocator.addLayer(preferences[layer], total, most);
      guarded.forEach((slots, at) => assert.ok(now[at] <= slots));
    }
    if (isGrowing) grew += 1;
  }
  assert.ok(grew >= 1, "without the guard some layer's budget grows again");
  assert.deepEqual(
    [...new CakeAllocator(core).split([0, 0, 0], 30, 100)],
    [10, 10, 10],
    "no preference: alike",
  );
});

const N = 512;
const WINDOW = 32;

/** Layers that put weight on 4 fixed keys, or on 100 keys drawn per query from 150. */
function layeredLogits(kinds: readonly ("narrow" | "wide")[]): Logits {
  const wideKeys = new Map<string, Set<number>>();
  const pools = kinds.map((_, layer) => {
    const random = new RandomStream(layer + 1);
    return random.shuffle(Array.from({ length: N - WINDOW }, (_, key) => key)).slice(0, 150);
  });
  const fixed = pools.map((pool) => new Set(pool.slice(0, 4)));
  return (layer, _head, query, key) => {
    if (kinds[layer] === "narrow")
      return Math.log(fixed[layer].has(key) ? 0.2 * (0.8 + 0.4 * hash(layer, query, key)) : 1e-4);
    const name = `${layer} ${query}`;
    let drawn = wideKeys.get(name);
    if (drawn === undefined) {
      drawn = new Set(new RandomStream(layer * 10000 + query).shuffle([...pools[layer]]).slice(0, 100));
      wideKeys.set(name, drawn);
    }
    return Math.log(drawn.has(key) ? 0.01 * (0.5 + hash(layer, query, key)) : 1e-4);
  };
}

/** Attention mass of the 32 queries after the prompt that falls on kept keys, mean over layers. */
function keptMass(kinds: readonly ("narrow" | "wide")[], name: string, options: PolicyOptions): number {
  const shape = { layers: kinds.length, heads: 1, kvHeads: 1, headDim: 2 };
  const logits = layeredLogits(kinds);
  const budget = Math.floor(0.15 * N);
  const host = new SyntheticHost(
    shape,
    createPolicy(selection, name, { budget, window: WINDOW, ...options }),
    N,
    { logits },
  );
  host.prefill();
  const all = Uint32Array.from({ length: N }, (_, key) => key);
  let mass = 0;
  host.positions().forEach((kept, layer) => {
    for (let query = N; query < N + 32; query++) {
      const row = attend(logits, layer, 0, query, all);
      mass += kept.reduce((sum, key) => sum + row[key], 0) / 32 / kinds.length;
    }
  });
  return mass;
}

const NARROW = Array<"narrow">(4).fill("narrow");
const WIDE = Array<"wide">(4).fill("wide");

test("narrow and wide layers, in either order: at least 5 points over an equal split; equal layers: within 1", (t) => {
  for (const [label, kinds] of [
    ["narrow first", [...NARROW, ...WIDE]],
    ["wide first", [...WIDE, ...NARROW]],
  ] as const) {
    const own = keptMass(kinds, "cake", { kernel: 1 });
    const uniform = keptMass(kinds, "cake", { kernel: 1, allocation: "uniform" });
    const pyramid = keptMass(kinds, "pyramidkv", { kernel: 1 });
    t.diagnostic(
      `${label}: cake ${own.toFixed(3)}, uniform ${uniform.toFixed(3)}, pyramid ${pyramid.toFixed(3)}`,
    );
    assert.ok(own >= uniform + 0.05);
  }
  const equal = [...WIDE, ...WIDE];
  const own = keptMass(equal, "cake", { kernel: 1 });
  const uniform = keptMass(equal, "cake", { kernel: 1, allocation: "uniform" });
  t.diagnostic(`equal layers: cake ${own.toFixed(3)}, uniform ${uniform.toFixed(3)}`);
  assert.ok(Math.abs(own - uniform) <= 0.01);
});

test("pooling over 5 wastes the small budgets of narrow layers; a least budget repairs it", (t) => {
  const kinds = [...NARROW, ...WIDE];
  const own = keptMass(kinds, "cake", {});
  const uniform = keptMass(kinds, "cake", { allocation: "uniform" });
  const repaired = keptMass(kinds, "cake", { minPerLayer: 25 });
  t.diagnostic(
    `pooling 5: cake ${own.toFixed(3)}, uniform ${uniform.toFixed(3)}, at least 25 ${repaired.toFixed(3)}`,
  );
  assert.ok(own <= uniform - 0.05);
  assert.ok(repaired > own + 0.1);
});

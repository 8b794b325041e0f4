/**
 * CompressKV: heads that read answers are found where the largest attention is elsewhere, choose alone, and their layers
 * get the budget; on the small model that costs nothing against SnapKV, at half of its statistics.
 */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import {
  type HeadProfile,
  orderHeads,
  readHeadProfile,
  RetrievalHeadScores,
} from "../../bindings/eviction/head-profile.js";
import { errorAwareBudgets } from "../../bindings/eviction/policies/compresskv.js";
import { TINY_RETRIEVAL_PROFILE } from "../../bindings/eviction/profiles/tiny-retrieval.js";
import { Core, createPolicy, StatMask, type StatView } from "../../bindings/main.js";
import { BOS, tokensOf } from "../../sim/eviction/alphabet.js";
import { runGrid } from "../../sim/eviction/grid.js";
import { layerErrors, profileOf, retrievalScores } from "../../sim/eviction/head-profiler.js";
import { argmax } from "../../sim/eviction/measures.js";
import { makeTask } from "../../sim/eviction/tasks.js";
import { openLab } from "../support/lab.js";
import { keepLargest, NaivePrompt } from "../support/naive-policies.js";
import { attend, seededLogits, SyntheticHost } from "../support/synthetic-host.js";

const lab = await openLab();
after(() => lab.executor.close());
const core = await Core.create();
const selection = core.selection({ capacity: 4096 });

/** Layer scores that are published for Llama-3.1-8B, rounded. */
const PUBLISHED = [
  0.018, 0.019, 0.036, 0.028, 0.028, 0.037, 0.026, 0.031, 0.044, 0.043, 0.044, 0.04, 0.018, 0.043, 0.037,
  0.038, 0.03, 0.035, 0.035, 0.036, 0.042, 0.025, 0.035, 0.038, 0.034, 0.029, 0.028, 0.032, 0.022, 0.018,
  0.023, 0.007,
];

test("planted heads whose largest attention is never on the answer are found, by the semantic score alone", () => {
  const [layers, heads, length] = [3, 6, 64];
  const planted = [2, 5, 0];
  const scores = new RetrievalHeadScores(layers, heads);
  const prompt = Array.from({ length }, (_, i) => i);
  for (let trial = 0; trial < 10; trial++) {
    const from = 10 + trial * 3;
    for (let step = 0; step < 4; step++) {
      for (let layer = 0; layer < layers; layer++) {
        const lastRow = new Float32Array(heads * length);
        for (let head = 0; head < heads; head++) {
          const row = lastRow.subarray(head * length, (head + 1) * length).fill(0.002);
          if (head === planted[layer]) {
            // Half of the mass on the answer and its neighbours, most of the rest on the first token.
            row.fill(0.0625, from - 2, from + 6);
            row[0] = 0.4;
          } else {
            row[0] = 0.5;
            row[length - 1] = 0.4;
          }
        }
        const view: StatView = {
          layer,
          heads,
          kvHeads: 3,
          newTokens: 1,
          lengths: new Uint32Array(3).fill(length),
          stride: length,
          lastRow,
        };
        scores.addStep(view, { prompt, from, to: from + 4 }, prompt[from + step]);
      }
    }
    scores.endTrial(trial !== 3);
  }
  assert.equal(scores.trials, 9, "a wrong answer does not count");
  orderHeads(scores.semantic()).forEach((order, layer) => assert.equal(order[0], planted[layer]));
  scores
    .semantic()
    .forEach((row, layer) => assert.ok(Math.abs(row[planted[layer]] - 1) < 1e-3, "4 steps of 4 * 0.0625"));
  scores.traditional().forEach((row, layer) => assert.equal(row[planted[layer]], 0));
});

test("a token that stands twice in the answer counts twice only when asked", () => {
  const lastRow = Float32Array.of(0, 0.5, 0.5, 0);
  const view: StatView = {
    layer: 0,
    heads: 1,
    kvHeads: 1,
    newTokens: 1,
    lengths: Uint32Array.of(4),
    stride: 4,
    lastRow,
  };
  const got = [false, true].map((countDuplicates) => {
    const scores = new RetrievalHeadScores(1, 1, { countDuplicates });
    scores.addStep(view, { prompt: [9, 7, 7, 8], from: 1, to: 3 }, 7);
    scores.endTrial(true);
    return scores.semantic()[0][0];
  });
  assert.deepEqual(got, [1, 2]);
});

test("layer budgets: exact sum, bounds, order of scores, equivariance", () => {
  const budgets = errorAwareBudgets(selection, PUBLISHED, 256, 32);
  assert.equal(
    budgets.reduce((a, b) => a + b, 0),
    8192,
  );
  assert.ok(budgets.every((slots) => slots >= 32 && slots <= 768));
  for (let a = 0; a < 32; a++)
    for (let b = 0; b < 32; b++) if (PUBLISHED[a] > PUBLISHED[b]) assert.ok(budgets[a] >= budgets[b]);
  const order = PUBLISHED.map((_, i) => (i * 7) % 32);
  const distinct = PUBLISHED.map((score, i) => score + i * 1e-5);
  const plain = errorAwareBudgets(selection, distinct, 100, 32);
  const moved = errorAwareBudgets(
    selection,
    order.map((i) => distinct[i]),
    100,
    32,
  );
  assert.deepEqual(
    [...moved],
    order.map((i) => plain[i]),
  );
  const saturated = errorAwareBudgets(selection, [1, 0, 0], 50, 32);
  assert.deepEqual([...saturated], [86, 32, 32]);
});

test("selection: the profile's heads choose one list for a layer, as a naive version does", () => {
  for (const [seed, group] of [1, 2, 4, 1, 2, 4].entries()) {
    const shape = { layers: 2, heads: 2 * group, kvHeads: 2, headDim: 2 };
    const heads = Array.from({ length: shape.heads }, (_, head) => (head * 3 + seed) % shape.heads);
    const headOrder = [[...new Set([...heads, ...heads.keys()])], [...heads.keys()].reverse()];
    const profile: HeadProfile = {
      ...shape,
      model: "synthetic",
      headOrder,
      headScore: headOrder,
      layerScore: [0.5, 0.5],
    };
    const [prompt, budget, window, first] = [70 + seed, 30, 8, Math.min(3, shape.heads)];
    const logits = seededLogits(seed);
    const policy = createPolicy(selection, "compresskv", {
      budget,
      window,
      profile,
      heads: first,
      layers: "uniform",
    });
    const host = new SyntheticHost(shape, policy, prompt, { logits });
    host.prefill();
    const naive = new NaivePrompt(
      { shape, logits, seed, promptTokens: prompt },
      budget,
      window,
      (_, lane) => {
        const layer = lane >> 1;
        const rows = headOrder[layer].slice(0, first).flatMap((head) =>
          Array.from({ length: window }, (_, w) => {
            const query = prompt - window + w;
            return attend(
              logits,
              layer,
              head,
              query,
              Uint32Array.from({ length: query + 1 }, (_, k) => k),
            );
          }),
        );
        const column = (position: number): number =>
          position < 0 || position >= prompt - window
            ? 0
            : rows.reduce((sum, row) => sum + row[position], 0) / rows.length;
        return (position) => [-2, -1, 0, 1, 2].reduce((sum, d) => sum + column(position + d), 0) / 5;
      },
    );
    assert.deepEqual(host.positions(), naive.prefill(), `case ${seed}`);
    assert.deepEqual(host.positions()[0], host.positions()[1], "one list for all heads of a layer");
  }
  assert.deepEqual(
    keepLargest([0, 1, 2], () => 1, 2),
    [1, 2],
  );
});

test("the small model: all four heads of the last layer read answers and no other; the built-in profile is theirs", async (t) => {
  const scores = await retrievalScores(lab, { trials: 20 });
  const semantic = scores.semantic();
  t.diagnostic(`semantic ${JSON.stringify(semantic)}, traditional ${JSON.stringify(scores.traditional())}`);
  semantic[2].forEach((score) => assert.ok(score >= 3.2 && score <= 4));
  semantic
    .slice(0, 2)
    .flat()
    .forEach((score) => assert.ok(score <= 0.1));
  TINY_RETRIEVAL_PROFILE.headScore.forEach((row, layer) =>
    row.forEach((score, head) => assert.ok(Math.abs(score - semantic[layer][head]) < 0.2)),
  );
  const policy = () => createPolicy(selection, "compresskv", { budget: 32, heads: 2, layers: "uniform" });
  const errors = await layerErrors(lab, { trials: 20, policy });
  t.diagnostic(`layer errors ${errors.map((error) => error.toFixed(4)).join(" ")}`);
  errors.forEach((error, layer) =>
    assert.ok(Math.abs(error - TINY_RETRIEVAL_PROFILE.layerScore[layer]) < 0.05),
  );
  assert.deepEqual(
    readHeadProfile(JSON.parse(JSON.stringify(profileOf(lab, "tiny-retrieval", semantic, errors)))).headOrder,
    orderHeads(semantic),
  );
});

test("question in the window, 12.5 and 25 %: no more than 5 points below SnapKV, with half of its rows", async (t) => {
  const own = "compresskv:heads=2";
  const policies = ["snapkv:window=8", own, `${own},layers=uniform`];
  for (const task of ["needle", "kv"] as const) {
    const results = await runGrid(lab, selection, {
      task,
      mode: "single",
      contexts: 16,
      policies,
      ratios: [0.25, 0.125],
    });
    const at = (policy: string, ratio: number): number =>
      results.find((result) => result.policy === policy && result.budget === ratio)!.accuracy;
    for (const ratio of [0.25, 0.125]) {
      t.diagnostic(
        `${task} ${ratio}: ${policies.map((policy) => `${policy} ${at(policy, ratio)}`).join(", ")}`,
      );
      assert.ok(at(`${own},layers=uniform`, ratio) >= at("snapkv:window=8", ratio) - 0.05);
      assert.ok(at(own, ratio) >= at("snapkv:window=8", ratio) - 0.05);
    }
  }
  const { needs } = createPolicy(selection, "compresskv", { budget: 64, heads: 2 });
  const all = createPolicy(selection, "snapkv", { budget: 64, window: 8 }).needs;
  assert.equal(needs.prefill, StatMask.WINDOW);
  assert.equal(needs.window, all.window);
  assert.deepEqual(
    needs.heads!.map((list) => list!.length),
    [2, 2, 2],
  );
  assert.equal(all.heads, undefined);
});

test("profiles of another shape, and what is no profile, are refused", () => {
  const wrong = { ...TINY_RETRIEVAL_PROFILE, kvHeads: 4 };
  const shape = { layers: 3, heads: 4, kvHeads: 2, headDim: 4 };
  const host = new SyntheticHost(
    shape,
    createPolicy(selection, "compresskv", { budget: 20, profile: wrong }),
    40,
  );
  assert.throws(() => host.prefill(), { code: "INVALID_ARGUMENT", argument: "profile.kvHeads" });
  for (const [field, value] of [
    ["headOrder", [[0, 0, 1, 2]]],
    ["layerScore", [1, 1, 1]],
    ["heads", 0],
  ] as const)
    assert.throws(() => readHeadProfile({ ...TINY_RETRIEVAL_PROFILE, [field]: value }), {
      code: "INVALID_ARGUMENT",
    });
  assert.throws(() => createPolicy(selection, "compresskv", { budget: 20, profile: "other" }), {
    argument: "options.profile",
  });
  const strict = createPolicy(selection, "compresskv", { budget: 20, strict: true });
  assert.throws(() => strict.budgetFor(shape, 100), { code: "INVALID_ARGUMENT" });
});

test("blinding the heads that read: two of the last layer still answer, all four do not", async (t) => {
  // A head that finds only the first token in its lane reads nothing; a lane serves two of them.
  const accuracy = async (lanes: readonly number[]): Promise<number> => {
    let right = 0;
    for (let seed = 0; seed < 12; seed++) {
      const { context, questions } = makeTask("needle", { seed });
      const [{ text, answer }] = questions;
      const prompt = [BOS, ...tokensOf(context + text)];
      const sequence = lab.open(null, prompt.length);
      const last = prompt.pop()!;
      await sequence.prefill(prompt);
      const keep = Array.from({ length: 6 }, (_, lane) => (lanes.includes(lane) ? Uint32Array.of(0) : null));
      await sequence.apply({ keep });
      let logits = await sequence.feed(last);
      let isRight = true;
      for (const token of tokensOf(answer)) {
        isRight &&= argmax(logits) === token;
        logits = await sequence.feed(token);
      }
      right += Number(isRight) / 12;
      sequence.close();
    }
    return right;
  };
  const [none, first, second, both] = [
    await accuracy([]),
    await accuracy([4]),
    await accuracy([5]),
    await accuracy([4, 5]),
  ];
  t.diagnostic(`none masked ${none}, heads 0 and 1 ${first}, heads 2 and 3 ${second}, all ${both}`);
  assert.ok(none >= 0.95 && both <= 0.1 && Math.min(first, second) >= 0.3);
});

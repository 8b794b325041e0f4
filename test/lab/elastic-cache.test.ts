/**
 * Elastic Cache: which slots stay and which merge into which, and the frozen head and growing tail of generation. What
 * merging does to attention: elastic-merge.test.ts.
 */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { anchors } from "../../bindings/eviction/policies/elastic-cache.js";
import { Core, createPolicy, type PolicyOptions } from "../../bindings/main.js";
import { runGrid } from "../../sim/eviction/grid.js";
import { RandomStream } from "../../sim/random.js";
import { openLab } from "../support/lab.js";
import { seededLogits, SyntheticHost } from "../support/synthetic-host.js";

const lab = await openLab();
after(() => lab.executor.close());
const selection = (await Core.create()).selection({ capacity: 4096 });
const elastic = (options: PolicyOptions) => createPolicy(selection, "elastic-cache", options);

test("eight tokens by hand: anchors, ties to the smaller position, sinks and the last token take none", () => {
  const importance = [9, 1, 5, 2, 8, 1, 3, 4];
  const { keep, anchorOf } = anchors(importance, 4, 1);
  assert.deepEqual([...keep], [0, 2, 4, 7]);
  assert.deepEqual([...anchorOf], [0, 2, 2, 2, 4, 4, 4, 7]);
  const reversed = anchors(
    importance.map((value) => -value),
    4,
    1,
  );
  assert.notDeepEqual([...reversed.keep], [...keep], "importance decides");
  assert.deepEqual([...anchors([1, 2, 3, 4], 99, 1).keep], [0, 2, 3], "one anchor stays");
});

test("anchors equal a naive search, for random importance", () => {
  const random = new RandomStream(3);
  for (let i = 0; i < 200; i++) {
    const n = 2 + random.below(60);
    const sinks = random.below(4);
    const importance = Array.from({ length: n }, () => random.below(6));
    const { keep, anchorOf } = anchors(importance, random.below(n), sinks);
    const kept = new Set(keep);
    const targets = [...keep].filter((slot) => slot >= sinks && slot < n - 1);
    for (let slot = 0; slot < n; slot++) {
      const distance = (target: number): number => Math.abs(target - slot);
      const wanted = kept.has(slot)
        ? slot
        : targets.reduce((best, target) => (distance(target) < distance(best) ? target : best));
      assert.equal(anchorOf[slot], wanted);
    }
  }
});

test("the plan merges members into their anchor and keeps n * ratio slots", () => {
  const shape = { layers: 2, heads: 4, kvHeads: 2, headDim: 2 };
  const policy = elastic({ ratio: 0.5 });
  const host = new SyntheticHost(shape, policy, 41, { logits: seededLogits(5) });
  const plans: unknown[] = [];
  const end = policy.endPrefill.bind(policy);
  policy.endPrefill = () => {
    const plan = end();
    plans.push(plan);
    return plan;
  };
  host.prefill();
  assert.ok(host.positions().every((positions) => positions.length === Math.ceil(41 * 0.5)));
  const { merge } = plans[0] as NonNullable<ReturnType<typeof end>>;
  const gone = merge!.filter(({ lane }) => lane === 0).reduce((sum, { members }) => sum + members.length, 0);
  assert.equal(gone, 41 - 21, "every dropped token is merged somewhere");
  assert.deepEqual(host.positions()[0], host.positions()[1], "one list a layer");
});

test("generation: the head is frozen, the last 25 tokens stay, the length follows the ratio", () => {
  const shape = { layers: 2, heads: 2, kvHeads: 1, headDim: 2 };
  for (const ratio of [0.3, 0.5, 0.8]) {
    const prompt = 120;
    const host = new SyntheticHost(shape, elastic({ ratio }), prompt, { logits: seededLogits(9) });
    host.prefill();
    const after = host.positions();
    const point = after[0].length - 25;
    for (let step = 1; step <= 80; step++) {
      host.step();
      const seen = prompt + step;
      host.positions().forEach((positions, lane) => {
        assert.equal(positions.length, Math.ceil(seen * ratio));
        assert.deepEqual(positions.slice(0, point), after[lane].slice(0, point));
        const tail = positions.slice(point);
        if (step >= 25)
          for (let back = 1; back <= Math.min(25, tail.length); back++)
            assert.equal(tail.at(-back), seen - back);
      });
    }
  }
  const bounded = new SyntheticHost(shape, elastic({ ratio: 0.5, maxSlots: 70 }), 120, {
    logits: seededLogits(9),
  });
  bounded.prefill();
  for (let step = 0; step < 80; step++) bounded.step();
  assert.equal(bounded.peak, 71);
});

test("ratios out of range are refused", () => {
  for (const ratio of [0, -1, 1.5]) assert.throws(() => elastic({ ratio }), { argument: "options.ratio" });
});

test("needle on the small model, facts three times over, at half of the cache: importance beats recency by 10 points", async (t) => {
  const policies = ["elastic-cache", "elastic-cache:merge=false", "local"];
  const ratios = [0.8, 0.5, 0.2];
  const results = await runGrid(lab, selection, {
    task: "needle",
    mode: "single",
    contexts: 24,
    repeats: 3,
    policies,
    ratios,
  });
  const at = (policy: string, ratio: number) =>
    results.find((r) => r.policy === policy && r.budget === ratio)!;
  for (const policy of policies)
    for (const ratio of ratios) {
      const { accuracy, kl } = at(policy, ratio);
      t.diagnostic(`${policy}, ${ratio} kept: accuracy ${accuracy.toFixed(2)}, KL ${kl.toFixed(2)}`);
    }
  assert.ok(at("elastic-cache", 0.5).accuracy >= at("local", 0.5).accuracy + 0.1);
  assert.ok(at("elastic-cache:merge=false", 0.5).accuracy >= at("local", 0.5).accuracy + 0.1);
});

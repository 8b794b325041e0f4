/** H2O: what a step adds to the scores, what is protected, and inputs that break scorers. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core, createPolicy, type PolicyOptions } from "../../bindings/main.js";
import { h2oBudget, type H2OPolicy } from "../../bindings/eviction/policies/h2o.js";
import { seededLogits, SyntheticHost } from "../support/synthetic-host.js";
import { TraceHost } from "../support/trace-host.js";

const core = await Core.create();
const selection = core.selection({ capacity: 4096 });
const h2o = (options: PolicyOptions): H2OPolicy => createPolicy(selection, "h2o", options) as H2OPolicy;

test("a step adds the group's probability mass to a lane; nothing goes below the budget", () => {
  for (const [group, aggregate, added] of [
    [1, "sum", 1],
    [4, "sum", 4],
    [4, "mean", 1],
  ] as const) {
    const shape = { layers: 2, heads: 2 * group, kvHeads: 2, headDim: 4 };
    const policy = h2o({ heavy: 10, recent: 6, aggregate });
    const host = new SyntheticHost(shape, policy, 12, { logits: seededLogits(group) });
    const totals = (): number[] =>
      [0, 1, 2, 3].map((lane) => {
        const { score, length, hole } = host.lanes.lane(lane >> 1, lane & 1);
        return score!.subarray(0, length).reduce((sum, value, slot) => sum + (slot === hole ? 0 : value), 0);
      });
    host.prefill();
    totals().forEach((total) => assert.ok(Math.abs(total - 12 * added) < 1e-3));
    for (let step = 1; step <= 4; step++) {
      host.step();
      totals().forEach((total) => assert.ok(Math.abs(total - (12 + step) * added) < 1e-3));
    }
    assert.ok(
      host.positions().every((positions) => positions.length === 16),
      "no eviction up to the budget",
    );
    const before = totals();
    const held = host.positions();
    host.step();
    totals().forEach((total, lane) => {
      const gone = held[lane].filter((position) => !host.positions()[lane].includes(position));
      assert.equal(gone.length, 1);
      assert.ok(total < before[lane] + added && total > before[lane] + added - 12);
    });
  }
});

test("equal scores: the oldest goes", () => {
  const host = new TraceHost(h2o({ heavy: 3, recent: 2 }), () => 0, 5);
  for (let step = 0; step < 4; step++) host.step();
  assert.deepEqual(host.held, [4, 5, 6, 7, 8]);
});

test("without a recent window the newest token is the victim, and that is said", () => {
  const policy = h2o({ heavy: 5, recent: 0 });
  assert.match(policy.warning!, /recent window/);
  const host = new TraceHost(policy, (position, step) => (step === 0 ? 3 - position / 10 : 0.01), 5);
  for (let step = 0; step < 20; step++) host.step();
  assert.deepEqual(host.held, [0, 1, 2, 3, 4], "frozen on old tokens");
  assert.equal(h2o({ heavy: 5, recent: 1 }).warning, undefined);
});

test("NaN, negative and too large probabilities are counted, and worth nothing or 1", () => {
  const policy = h2o({ heavy: 4, recent: 2 });
  const wrong = [NaN, -1, 7, 0.1, 0.1];
  const host = new TraceHost(policy, (position, step) => (step === 1 ? (wrong[position] ?? 0) : 0), 5);
  host.step();
  const { score } = host.lanes.lane(0, 0);
  assert.equal(policy.wrongValues, 3);
  assert.deepEqual([...score!.subarray(0, 2)], [0, 0]);
  assert.ok(score![2] > 0.99 && score![2] < 1.01);
});

test("scores are halved before f32 swallows what a step adds; their order stays", () => {
  const policy = h2o({ heavy: 4, recent: 2 });
  const host = new TraceHost(
    policy,
    (position, step) => (step === 0 ? 8000 - position : position === 0 ? 1 : 0.2),
    5,
  );
  for (let step = 0; step < 400; step++) host.step();
  assert.equal(policy.rescaledLanes, 1);
  assert.ok(host.held.includes(0) && host.held.includes(1));
  assert.ok(host.lanes.lane(0, 0).score![0] < 8192);
});

test("one list a layer: heads drop the same token, by the mean of their normalised scores", () => {
  const shape = { layers: 2, heads: 4, kvHeads: 2, headDim: 4 };
  const logits = seededLogits(31);
  const hosts = ["inplace", "ordered"].map(
    (mode) => new SyntheticHost(shape, h2o({ heavy: 12, recent: 6, scope: "layer", mode }), 50, { logits }),
  );
  const own = new SyntheticHost(shape, h2o({ heavy: 12, recent: 6 }), 50, { logits });
  for (const host of [...hosts, own]) host.prefill();
  for (let step = 0; step < 30; step++) {
    const [a, b, c, d] = hosts[0].positions();
    assert.deepEqual(a, b);
    assert.deepEqual(c, d);
    assert.deepEqual(hosts[1].positions(), [a, b, c, d]);
    for (const host of [...hosts, own]) host.step();
  }
  assert.notDeepEqual(hosts[0].positions(), own.positions(), "sharing is not what each lane would choose");
});

test("ratios are floors of the prompt, as released", () => {
  assert.deepEqual(h2oBudget(1007, 0.1, 0.1), { heavy: 100, recent: 100 });
  const { cap, recent } = h2o({ heavyRatio: 0.1, recentRatio: 0.2 }).budgetFor(
    { layers: 1, heads: 2, kvHeads: 1 },
    99,
  );
  assert.deepEqual([cap[0], recent], [28, 19]);
});

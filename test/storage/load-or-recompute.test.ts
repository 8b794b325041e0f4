/** The split between loading and computing a prefix, against trying every one. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { LinkMeter, type LoadQuery, loadUs, planLoad } from "../../native-host/storage/load-or-recompute.js";

/** Cost of tokens that each attend to all before them: linear and quadratic parts. */
const recompute =
  (prompt: number, linear: number, quadratic: number) =>
  (from: number): number =>
    linear * (prompt - from) + quadratic * (prompt * prompt - from * from);

const query = fc
  .record({
    runs: fc.array(
      fc.record({
        tokens: fc.integer({ min: 1, max: 40 }),
        bytes: fc.integer({ min: 0, max: 5000 }),
        tier: fc.constantFrom("host", "disk", "remote"),
        decodeUs: fc.integer({ min: 0, max: 50 }),
      }),
      { maxLength: 6 },
    ),
    speeds: fc.array(fc.tuple(fc.integer({ min: 0, max: 300 }), fc.integer({ min: 1, max: 60 })), {
      minLength: 3,
      maxLength: 3,
    }),
    queued: fc.integer({ min: 0, max: 3000 }),
    more: fc.integer({ min: 0, max: 30 }),
    linear: fc.integer({ min: 0, max: 20 }),
    quadratic: fc.integer({ min: 0, max: 3 }),
    overlap: fc.boolean(),
    minLoadTokens: fc.integer({ min: 0, max: 50 }),
  })
  .map(({ speeds, queued, more, linear, quadratic, runs, ...rest }): LoadQuery => {
    const tiers = ["host", "disk", "remote"];
    const promptTokens = Math.max(1, runs.reduce((sum, run) => sum + run.tokens, 0) + more - 5);
    return {
      ...rest,
      runs,
      links: new Map(tiers.map((tier, i) => [tier, { latencyUs: speeds[i][0], bandwidth: speeds[i][1] }])),
      queuedBytes: new Map([["disk", queued]]),
      promptTokens,
      recomputeUs: recompute(promptTokens, linear, quadratic),
    };
  });

/** Least time over every split that is allowed. */
function bruteForce(q: LoadQuery): number {
  const matched = Math.min(
    q.runs.reduce((sum, run) => sum + run.tokens, 0),
    Math.max(0, q.promptTokens - 1),
  );
  let best = q.recomputeUs(0);
  for (let split = Math.max(1, q.minLoadTokens!); split <= matched; split++) {
    const [load, rest] = [loadUs(q, split), q.recomputeUs(split)];
    best = Math.min(best, q.overlap ? Math.max(load, rest) : load + rest);
  }
  return best;
}

test("the split is as good as the best of all splits", () => {
  fc.assert(
    fc.property(query, (q) => {
      const plan = planLoad(q);
      const expected = bruteForce(q);
      assert.ok(
        Math.abs(plan.totalUs - expected) <= 1e-9 * Math.max(1, expected),
        `${plan.totalUs}, best ${expected}`,
      );
      assert.ok(plan.split === 0 || plan.split >= q.minLoadTokens!);
      assert.ok(plan.split < q.promptTokens, "the last token is computed");
    }),
    { numRuns: 3000 },
  );
});

test("the last token is computed, the shortest load is kept to, splits are whole blocks", () => {
  const q: LoadQuery = {
    runs: [{ tokens: 1024, bytes: 1024, tier: "disk" }],
    links: new Map([["disk", { latencyUs: 0, bandwidth: 1e6 }]]),
    promptTokens: 1024,
    recomputeUs: recompute(1024, 100, 0),
    granularity: 16,
  };
  assert.equal(planLoad(q).split, 1008);
  assert.equal(planLoad({ ...q, promptTokens: 200 }).split, 0, "fewer than 256");
  assert.equal(planLoad({ ...q, promptTokens: 200, minLoadTokens: 0 }).split, 192);
  assert.equal(planLoad({ ...q, runs: [] }).split, 0);
});

test("a slow tier behind a fast one is left alone when computing is cheaper", () => {
  const links = new Map([
    ["host", { latencyUs: 10, bandwidth: 1e4 }],
    ["disk", { latencyUs: 1e5, bandwidth: 10 }],
  ]);
  const runs = [
    { tokens: 512, bytes: 5e6, tier: "host" },
    { tokens: 512, bytes: 5e6, tier: "disk" },
  ];
  const q: LoadQuery = { runs, links, promptTokens: 2048, recomputeUs: recompute(2048, 100, 0) };
  assert.equal(planLoad(q).split, 512);
  const queuedBytes = new Map([["host", 1e9]]);
  assert.equal(planLoad({ ...q, queuedBytes }).split, 0, "its link is busy");
});

test("a link's speed follows its finished transfers, a fifth at a time", () => {
  const meter = new LinkMeter({ latencyUs: 100, bandwidth: 10 });
  meter.finished(2000, 200, 100);
  assert.equal(meter.latencyUs, 120);
  assert.equal(meter.bandwidth, 12);
  for (let i = 0; i < 100; i++) meter.finished(2000, 200, 100);
  assert.ok(Math.abs(meter.bandwidth - 20) < 1e-6);
  assert.throws(() => new LinkMeter({ latencyUs: 0, bandwidth: 0 }), { code: "INVALID_ARGUMENT" });
});

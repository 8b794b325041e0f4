/**
 * Every policy keeps the contract of bindings/eviction/policy.ts, whatever the heads and the prompt: the peak it declares,
 * protections, determinism, and state that can be taken out and put back at any step.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  Core,
  createPolicy,
  EVICTION_POLICIES,
  type EvictionPolicy,
  parsePolicy,
  policyFromText,
} from "../../bindings/main.js";
import { seededLogits, SyntheticHost, type SyntheticShape } from "../support/synthetic-host.js";

const core = await Core.create();
const selection = core.selection({ capacity: 4096 });

/** Each policy at a budget of 24 slots, and its other ways. */
const POLICIES = [
  "full",
  "random:budget=24",
  "random:budget=24,every=6",
  "local:budget=24",
  "streaming-llm:budget=24",
  "streaming-llm:budget=24,every=5",
  "snapkv:budget=24,window=8",
  "snapkv:budget=24,window=8,pooling=maximum,kernel=3",
  "pyramidkv:budget=24,window=8",
  "tova:budget=24",
  "tova:budget=24,every=7",
  "keydiff:budget=24",
  "knorm:budget=24",
  "ada-kv:budget=24,window=8",
  "ada-kv:budget=24,score=keydiff",
  "observed-attention:budget=24",
  "last-important:budget=24",
  "last-important:budget=24,every=6",
  "h2o:budget=24",
  "h2o:heavy=14,recent=10,mode=ring",
  "h2o:heavy=14,recent=10,mode=ordered",
  "h2o:heavy=14,recent=10,mode=mask",
  "h2o:heavy=14,recent=10,every=6",
  "h2o:budget=24,scope=layer",
  "h2o:budget=24,scope=layer,mode=ordered",
  "lazy-eviction:budget=24,window=8",
  "lazy-eviction:budget=24,window=8,score=release",
  "cake:budget=24,window=8",
  "cake:budget=24,window=8,cascade=false,decodePooling=position",
  "compresskv:budget=24,window=8",
  "compresskv:budget=24,window=8,layers=uniform",
  "elastic-cache:ratio=0.4",
  "mpcache:budget=24",
  "mpcache:budget=24,mode=threshold,threshold=0.02",
  "epicache:budget=24",
  "epicache:budget=24,level=pair-uniform,sinks=2,recent=3",
  "elastic-cache:ratio=0.4,countBias=true",
  "streaming-llm:budget=24,positions=cache",
  "h2o:budget=24,positions=cache",
  "h2o:budget=24,scope=global",
  "h2o:budget=24,scope=global,mode=ordered",
  "h2o:heavy=30,recent=10,unit=block,block=8",
  "h2o:total=90,weights=2/1",
  "random:total=98,scope=layer",
  "random:budget=24,unit=block,block=4",
  "tova:budget=24,scope=global",
  "streaming-llm:budget=24,unit=block,block=4",
  "local:budget=26,unit=block,block=4",
  "snapkv:budget=24,window=8,scope=pool",
  "snapkv:budget=24,window=4,unit=block,block=4",
  "keydiff:total=99,weights=1/3",
  "knorm:budget=24,scope=layer",
  "observed-attention:budget=24,scope=global",
  "elastic-cache:ratio=0.5,sinks=3,distance=6,merge=false",
];
/** Methods that leave the prompt alone until they have seen tokens matter. */
const KEEPS_PROMPT = new Set(["lazy-eviction", "last-important"]);
/** Methods whose lanes have budgets of their own. */
const OWN_BUDGETS = new Set(["ada-kv", "cake", "compresskv", "elastic-cache", "epicache", "mpcache"]);
/** Lanes that share a budget, or keep whole blocks. */
const SHARED = /scope=pool|unit=block/;
const PROMPTS = [9, 24, 61];
const STEPS = 26;

function make(text: string): EvictionPolicy {
  return policyFromText(selection, text);
}

/** With the tables that some methods want for a shape. */
function makeFor(text: string, { layers, heads, kvHeads }: SyntheticShape): EvictionPolicy {
  const { name, options } = parsePolicy(text);
  if (name !== "compresskv") return make(text);
  const order = Array.from({ length: heads }, (_, head) => head);
  const headOrder = Array.from({ length: layers }, () => order);
  const layerScore = Array.from({ length: layers }, (_, i) => (2 * (i + 1)) / (layers * (layers + 1)));
  const profile = { model: "synthetic", layers, heads, kvHeads, headOrder, headScore: headOrder, layerScore };
  return createPolicy(selection, name, { ...options, profile });
}

test("every registered policy is in the suite", () => {
  const suite = new Set(POLICIES.map((text) => parsePolicy(text).name));
  assert.deepEqual([...suite].sort(), [...EVICTION_POLICIES].sort());
});

for (const text of POLICIES) {
  test(`${text}: peak, protections, determinism, state`, () => {
    for (const group of [1, 2, 4]) {
      for (const prompt of PROMPTS) {
        const shape = { layers: 2, heads: 2 * group, kvHeads: 2, headDim: 4 };
        const policy = makeFor(text, shape);
        const budget = policy.budgetFor(shape, prompt);
        const peak = policy.peakSlots(budget);
        const logits = seededLogits(group * 100 + prompt);
        const host = new SyntheticHost(shape, policy, prompt, { logits });
        const twin = new SyntheticHost(shape, makeFor(text, shape), prompt, { logits });
        host.prefill();
        twin.prefill();
        let resumed = host.resume(makeFor(text, shape));
        assert.equal(budget.cap.length, 4);
        if (!KEEPS_PROMPT.has(policy.name)) {
          const total = budget.cap.reduce((sum, cap) => sum + Math.min(cap, prompt), 0);
          const held = host.positions().reduce((sum, positions) => sum + positions.length, 0);
          assert.ok(held <= total, `${text} at ${prompt}: ${held} slots after the prompt, budget ${total}`);
        }
        for (let step = 0; step < STEPS; step++) {
          const seen = host.lanes.seen;
          for (const [lane, positions] of host.positions().entries()) {
            assert.ok(positions.length > 0);
            const cap = Math.min(budget.cap[lane], seen);
            const sinks = positions.filter((position) => position < budget.sinks).length;
            const recent = positions.filter((position) => position >= seen - budget.recent).length;
            assert.equal(sinks, Math.min(budget.sinks, seen), `${text}, step ${step}: sinks stay`);
            assert.equal(
              recent,
              Math.min(budget.recent, seen),
              `${text}, step ${step}: recent positions stay`,
            );
            if (!OWN_BUDGETS.has(policy.name) && !SHARED.test(text))
              assert.ok(positions.length >= Math.min(cap, seen), "no less than the budget");
          }
          host.step();
          twin.step();
          resumed.step();
          assert.deepEqual(
            host.positions(),
            twin.positions(),
            `${text}, step ${step}: same calls, same plans`,
          );
          assert.deepEqual(host.positions(), resumed.positions(), `${text}, step ${step}: restored state`);
          if (step % 11 === 5) resumed = host.resume(makeFor(text, shape));
        }
        assert.ok(host.peak <= peak, `${text} at ${prompt}: ${host.peak} slots, declared ${peak}`);
      }
    }
  });
}

test("options are refused by name and leave nothing behind", () => {
  const refused: [string, string][] = [
    ["nothing", "policy"],
    ["h2o", "options.budget"],
    ["h2o:budget=10,ratio=0.5", "options.budget"],
    ["h2o:budget=0", "options.budget"],
    ["h2o:budget=24,heavey=3", "options.heavey"],
    ["h2o:heavy=0,recent=0", "options.heavy"],
    ["h2o:budget=24,mode=other", "options.mode"],
    ["h2o:budget=24,mode=ring,every=4", "options.mode"],
    ["h2o:budget=24,mode=ring,scope=layer", "options.scope"],
    ["h2o:budget=24,mode=inplace,positions=cache", "options.mode"],
    ["h2o:budget=24,positions=slot", "options.positions"],
    ["elastic-cache:ratio=0.5,positions=cache", "options.positions"],
    ["elastic-cache:ratio=0.5,merge=false,countBias=true", "options.countBias"],
    ["snapkv:budget=24,kernel=4", "options.kernel"],
    ["snapkv:ratio=1.5", "options.ratio"],
    ["lazy-eviction:budget=24,window=0", "options.window"],
    ["lazy-eviction:budget=24,alpha=0", "options.alpha"],
    ["lazy-eviction:budget=24,alpha=2", "options.alpha"],
    ["random:budget=24,seed=-1", "options.seed"],
    ["full:budget=24", "options.budget"],
    ["tova:budget=24,every=0", "options.every"],
    ["tova:budget", "policy"],
    ["h2o:budget=24,scope=lane,unit=block", "options.unit"],
    ["h2o:budget=24,mode=ring,unit=block", "options.scope"],
    ["h2o:budget=24,mode=inplace,unit=block", "options.mode"],
    ["random:budget=24,every=4,unit=block", "options.every"],
    ["snapkv:total=90,budget=24", "options.total"],
    ["snapkv:budget=24,weights=0/0", "options.weights"],
    ["compresskv:total=90", "options.budget"],
    ["ada-kv:budget=24,scope=lane", "options.scope"],
    ["tova:budget=24,budget=25", "options.budget"],
  ];
  for (const [text, argument] of refused)
    assert.throws(
      () => make(text),
      (error: Error & { argument?: string }) => error.argument === argument,
      text,
    );
  const shape = { layers: 1, heads: 2, kvHeads: 1 };
  for (const text of [
    "lazy-eviction:budget=8,window=8",
    "streaming-llm:budget=3,sinks=4",
    "h2o:budget=24,unit=block",
    "snapkv:total=7,window=8,weights=1/1",
    "keydiff:budget=9,weights=1/2/3",
  ])
    assert.throws(() => make(text).budgetFor(shape, 50), { code: "INVALID_ARGUMENT" }, text);
});

test("blockvid is named, and its own classes are pointed to", () => {
  assert.throws(() => make("blockvid:local=1"), {
    code: "UNSUPPORTED",
    argument: "policy",
    message: /BlockDiffusionSession/,
  });
});

test("budgets of hardly more than what is protected", () => {
  const shape = { layers: 2, heads: 4, kvHeads: 2, headDim: 4 };
  const logits = seededLogits(77);
  for (const text of [
    "snapkv:budget=3,window=8",
    "snapkv:budget=8,window=8",
    "ada-kv:budget=8,window=8",
    "ada-kv:budget=1",
    "pyramidkv:budget=8,window=8",
    "epicache:budget=1",
    "keydiff:budget=1",
    "tova:budget=1",
    "random:budget=1",
    "h2o:budget=1",
    "local:budget=1",
    "streaming-llm:budget=5",
    "cake:budget=9,window=8",
    "elastic-cache:ratio=0.02",
    "mpcache:budget=1",
  ]) {
    const host = new SyntheticHost(shape, make(text), 50, { logits });
    host.prefill();
    for (let step = 0; step < 6; step++) host.step();
    assert.ok(
      host.positions().every((positions) => positions.length >= 1),
      text,
    );
    assert.ok(
      host.positions().every((positions) => positions.at(-1) === 55),
      `${text}: the newest token stays`,
    );
  }
  const uneven = createPolicy(selection, "epicache", { budget: 8, recent: 4, similarity: [0.9, 0.1] });
  assert.throws(() => uneven.budgetFor(shape, 50), { code: "INVALID_ARGUMENT", argument: "options.budget" });
});

test("state of another policy, or bytes that are none, are refused", () => {
  const shape = { layers: 1, heads: 2, kvHeads: 1, headDim: 4 };
  for (const text of ["h2o:budget=24", "lazy-eviction:budget=24,window=8", "tova:budget=24"]) {
    const host = new SyntheticHost(shape, make(text), 30);
    host.prefill();
    for (const bytes of [new Uint8Array(0), new Uint8Array(40), host.policy.serialize().subarray(0, 12)])
      assert.throws(() => host.policy.restore(bytes), { code: "BAD_SNAPSHOT" }, text);
  }
});

test("a budget is slots, or a share of the prompt", () => {
  const shape = { layers: 2, heads: 2, kvHeads: 1 };
  assert.deepEqual([...createPolicy(selection, "tova", { budget: 30 }).budgetFor(shape, 100).cap], [30, 30]);
  assert.deepEqual(
    [...createPolicy(selection, "tova", { ratio: 0.125 }).budgetFor(shape, 100).cap],
    [12, 12],
  );
  assert.deepEqual([...createPolicy(selection, "tova", { ratio: 0.001 }).budgetFor(shape, 100).cap], [1, 1]);
});

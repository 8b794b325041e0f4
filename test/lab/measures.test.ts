/**
 * What the lab says of a sequence that dropped tokens is what plain float64 arithmetic over the whole attention matrix says: share
 * of attention on kept tokens, change of the attention output, KL of the next token; and no run holds more than it declared.
 */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { after, test } from "node:test";
import { Core, type EvictionPolicy, policyFromText } from "../../bindings/main.js";
import { openModel } from "../../native-host/executor/main.js";
import { Lab } from "../../sim/eviction/lab.js";
import { argmax, distanceAt, divergence } from "../../sim/eviction/measures.js";
import { runTask } from "../../sim/eviction/modes.js";
import { makeTask } from "../../sim/eviction/tasks.js";
import { openLab } from "../support/lab.js";
import { writeModel } from "../support/model-fixtures.js";
import { NaiveModel } from "../support/naive-forward.js";

const fixture = writeModel();
const lab = await openLab();
const selection = (await Core.create()).selection({ capacity: 4096 });
after(() => {
  rmSync(fixture.directory, { recursive: true });
  return lab.executor.close();
});

const close = (a: number, b: number, what: string): void =>
  assert.ok(Math.abs(a - b) <= 2e-5 * Math.max(1, Math.abs(b)), `${what}: ${a}, naive ${b}`);

test("recall, output error and KL equal those of a naive forward pass, after drops of several policies", async () => {
  const { executor } = await openModel(fixture.directory, {
    backend: "wasm",
    blocks: 64,
    blockSize: 8,
    returnLogits: true,
  });
  const small = new Lab(executor, 4);
  const prompt = Array.from({ length: 30 }, (_, i) => (i * 11 + 2) % 40);
  for (const text of [
    "h2o:budget=10",
    "random:budget=7",
    "ada-kv:budget=9,window=3",
    "h2o:budget=10,mode=mask",
  ]) {
    const full = small.open(null, prompt.length);
    await full.prefill(prompt);
    const policy = policyFromText(selection, text);
    const sequence = small.open(policy, prompt.length);
    await sequence.prefill(prompt);
    const [whole, dropped] = [new NaiveModel(fixture), new NaiveModel(fixture)];
    whole.forward(prompt, 0);
    dropped.forward(prompt, 0);
    const held = whole.lanes.map((_, lane) => {
      const live = sequence.liveSlots(Math.floor(lane / 2), lane % 2);
      const positions = sequence.lanes.positions(lane);
      return live === null ? [...positions] : [...live].map((slot) => positions[slot]);
    });
    held.forEach((positions, lane) => dropped.keep(lane, positions));
    const { distance, logits } = await distanceAt(full, sequence, 17);
    const reference = whole.forward([17], prompt.length, { keep: held.map((list) => new Set(list)) });
    const other = dropped.forward([17], prompt.length);
    reference.attention.forEach((heads, layer) => {
      const mass = heads.map(([row], head) => {
        const kept = new Set([...held[layer * 2 + Math.floor(head / 2)], prompt.length]);
        return row.reduce((sum, weight, slot) => sum + (kept.has(slot) ? weight : 0), 0);
      });
      close(distance.recallByLayer[layer], mass.reduce((a, b) => a + b, 0) / 4, `${text}: recall ${layer}`);
    });
    const errors = reference.outputErrors;
    close(distance.outputError, (errors[0] + errors[1]) / 2, `${text}: output error`);
    close(distance.kl, divergence(reference.logits[0], other.logits[0]), `${text}: KL`);
    assert.ok(distance.kl > 1e-6 && distance.recall < 1);
    assert.equal(argmax(logits), argmax(Float32Array.from(other.logits[0])));
    full.close();
    sequence.close();
  }
  await executor.close();
});

test("KL is that of two plain distributions, 0 for logits that differ by a constant", () => {
  const [p, q] = [
    [Math.log(0.5), Math.log(0.3), Math.log(0.2)],
    [Math.log(0.2), Math.log(0.2), Math.log(0.6)],
  ];
  close(divergence(p, q), 0.5 * Math.log(2.5) + 0.3 * Math.log(1.5) + 0.2 * Math.log(1 / 3), "by hand");
  close(
    divergence(
      p,
      p.map((value) => value + 7),
    ),
    0,
    "a constant",
  );
  assert.ok(
    divergence([500, -500], [-500, 500]) > 900 && Number.isFinite(divergence([500, -500], [-500, 500])),
  );
});

test("a policy that holds more than it declared fails the run", async () => {
  const task = makeTask("needle", { seed: 6, length: 120, questions: 2 });
  const liar = (): EvictionPolicy => {
    const policy = policyFromText(selection, "h2o:budget=30");
    policy.peakSlots = () => 29;
    return policy;
  };
  for (const mode of ["single", "multi-turn", "multi-request"] as const) {
    await runTask(lab, task, mode, [() => policyFromText(selection, "h2o:budget=30")]);
    await assert.rejects(runTask(lab, task, mode, [liar]), /h2o held 31 slots, and had declared 29/);
  }
});

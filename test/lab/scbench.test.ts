/**
 * Shared contexts over a cache's life: two tasks over one text, answers of the model's own between turns, prompts read
 * through a mask, and what each stage costs.
 */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { Core, policyFromText } from "../../bindings/main.js";
import { BOS, tokensOf } from "../../sim/eviction/alphabet.js";
import { runLifecycle, STAGES } from "../../sim/eviction/lifecycle.js";
import { MODES, runTask } from "../../sim/eviction/modes.js";
import { prefillMasked, runMasked } from "../../sim/eviction/prefill-masks.js";
import { makeTask } from "../../sim/eviction/tasks.js";
import { openLab, share } from "../support/lab.js";

const lab = await openLab();
after(() => lab.executor.close());
const core = await Core.create();
const selection = core.selection({ capacity: 4096 });

test("multi: facts and strings are asked in turn, and the full cache answers them however they are asked", async (t) => {
  const scores = new Map<string, boolean[]>();
  for (let i = 0; i < 8; i++) {
    const task = makeTask("multi", { seed: 1000 + i, questions: 4 });
    assert.equal(task.questions.map(({ text }) => text[0]).join(""), "?[?[");
    for (const mode of MODES) {
      const [{ correct }] = await runTask(lab, task, mode, [() => null]);
      correct.forEach((right, q) => {
        const kind = `${mode} ${task.questions[q].text[0]}`;
        scores.set(kind, [...(scores.get(kind) ?? []), right]);
      });
    }
  }
  for (const [kind, correct] of scores) {
    t.diagnostic(`${kind}: ${share(correct).toFixed(2)}`);
    assert.ok(share(correct) >= 0.7, kind);
  }
});

test("own answers: the full cache loses little by its own errors; under a policy a wrong turn stays in the text", async (t) => {
  const turns = { true: [0, 0], own: [0, 0] };
  const contexts = 10;
  for (let i = 0; i < contexts; i++) {
    const task = makeTask("needle", { seed: 1000 + i, questions: 5 });
    for (const answers of ["true", "own"] as const) {
      const makers = [null, "snapkv:window=16,ratio=0.25"].map(
        (text) => () => text && policyFromText(selection, text),
      ) as (() => ReturnType<typeof policyFromText> | null)[];
      const outcomes = await runTask(lab, task, "multi-turn", makers, answers);
      outcomes.forEach(({ correct, leading }, policy) => {
        turns[answers][policy] += share([...correct]) / contexts;
        correct.forEach((right, q) => assert.equal(right, leading[q] === 1));
      });
      const [full, snapkv] = outcomes;
      assert.ok(full.correct[0] && snapkv.correct[0], "nothing has been fed back before the first answer");
    }
  }
  t.diagnostic(`true answers fed: full ${turns.true[0]}, snapkv ${turns.true[1]}`);
  t.diagnostic(`own answers fed: full ${turns.own[0]}, snapkv ${turns.own[1]}`);
  assert.ok(turns.own[0] >= 0.9);
  assert.ok(turns.own[1] <= turns.own[0] - 0.2);
});

test("one context, scored without its question: two requests with different questions drop the same tokens", async () => {
  const [a, b] = [0, 2].map((from) => {
    const task = makeTask("needle", { seed: 1004, questions: 4 });
    return { ...task, questions: task.questions.slice(from, from + 2) };
  });
  assert.notDeepEqual(a.questions, b.questions);
  for (const text of ["h2o:ratio=0.25", "snapkv:window=16,ratio=0.25", "keydiff:ratio=0.25"]) {
    const held = [];
    for (const task of [a, b]) {
      const [outcome] = await runTask(lab, task, "multi-request", [() => policyFromText(selection, text)]);
      held.push(outcome.held);
    }
    assert.deepEqual(held[0], held[1], text);
  }
});

test("masks: a window that covers the prompt is dense prefill; Tri-shape keeps the question's answer that A-shape loses", async (t) => {
  const tokens = [BOS, ...tokensOf(makeTask("kv", { seed: 1, length: 200 }).context)];
  const dense = lab.open(null, tokens.length);
  const wanted = await dense.prefill(tokens, 32);
  const masked = lab.open(null, tokens.length);
  assert.deepEqual(await prefillMasked(masked, tokens, { shape: "a", window: 1000 }), wanted);
  dense.close();
  masked.close();

  const right = { a: [] as boolean[], tri: [] as boolean[] };
  const attended = { a: 0, tri: 0 };
  const later = { a: [] as boolean[], tri: [] as boolean[] };
  for (let i = 0; i < 6; i++) {
    const task = makeTask("needle", { seed: 1000 + i, questions: 2 });
    for (const shape of ["a", "tri"] as const) {
      const got = await runMasked(lab, task, "single", { shape });
      right[shape].push(...got.correct);
      attended[shape] = got.attended;
      later[shape].push(...(await runMasked(lab, task, "multi-request", { shape })).correct);
    }
  }
  for (const shape of ["a", "tri"] as const)
    t.diagnostic(
      `${shape}: question in the prompt ${share(right[shape]).toFixed(2)}, asked later ${share(later[shape]).toFixed(2)}, ` +
        `${attended[shape].toFixed(2)} of a dense prefill's reads`,
    );
  assert.ok(attended.a < attended.tri && attended.tri < 0.5);
  assert.ok(share(right.tri) >= share(right.a) + 0.2);
});

test("life of a cache: computed, read, dropped and taken over add up, stage by stage", async () => {
  const task = makeTask("needle", { seed: 1001, questions: 2 });
  const context = 1 + task.context.length;
  const lanes = lab.shape.layers * lab.shape.kvHeads;
  const asked = task.questions[0].text.length + task.questions[0].answer.length;
  const lives = new Map<string, Awaited<ReturnType<typeof runLifecycle>>>();
  for (const text of ["full", "h2o:ratio=0.25", "snapkv:window=16,ratio=0.25"]) {
    const life = await runLifecycle(lab, task, () => policyFromText(selection, text));
    lives.set(text, life);
    assert.deepEqual(
      life.map(({ stage }) => stage),
      STAGES,
    );
    const [prefill, turn, request] = life;
    assert.equal(prefill.computed, context);
    assert.equal(prefill.attended, (lanes * (context * (context + 1))) / 2, "no mask: dense");
    assert.deepEqual([turn.computed, request.computed], [asked, asked]);
    assert.equal(prefill.payloadBytes, (lanes * context - prefill.evicted) * 2 * lab.headDim * 4);
    assert.equal(request.reused, prefill.payloadBytes / (2 * lab.headDim * 4));
    assert.equal(prefill.reused + turn.reused, 0);
  }
  const [full, h2o, snapkv] = [...lives.values()];
  assert.equal(full[0].evicted, 0);
  assert.ok(h2o[0].evicted > 0 && h2o[1].evicted > 0, "drops while decoding, too");
  assert.ok(snapkv[0].evicted > 0 && snapkv[1].evicted === 0, "drops once");
  assert.ok(h2o[0].planeBytes > snapkv[0].planeBytes, "a running score a slot");
  for (const life of [h2o, snapkv]) {
    assert.ok(life[1].attended < 0.35 * full[1].attended, "a quarter is read in later turns");
    assert.ok(life[2].reused < 0.3 * full[2].reused, "and taken over by the next request");
  }
});

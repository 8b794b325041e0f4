/** Lanes by query head, as released code of LazyEviction has them: a model opened so that every query head has K and V of its own. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core, policyFromText } from "../../bindings/main.js";
import { openModel } from "../../native-host/executor/main.js";
import { BOS, tokensOf } from "../../sim/eviction/alphabet.js";
import { Lab } from "../../sim/eviction/lab.js";
import { makeLoop } from "../../sim/eviction/tasks.js";
import { TINY_RETRIEVAL } from "../support/package-root.js";

const selection = (await Core.create()).selection({ capacity: 4096 });

test("by query head: each head of a group has lanes of its own, the same answers, and G times the bytes", async (t) => {
  const open = async (perQueryHead: boolean) =>
    (await openModel(TINY_RETRIEVAL, { backend: "wasm", blocks: 128, returnLogits: true, perQueryHead }))
      .executor;
  const [grouped, apart] = [await open(false), await open(true)];
  const [{ blockBytes, kvHeads, heads }, own] = [grouped.describe(), apart.describe()];
  assert.deepEqual([own.kvHeads, own.heads], [heads, heads]);
  assert.equal(own.blockBytes, (blockBytes * heads!) / kvHeads);
  const text = "lazy-eviction:budget=60,window=12,alpha=0.02";
  const { context, run } = makeLoop({ seed: 3, length: 150, labels: 8 });
  const tokens = [BOS, ...tokensOf(context + run)];
  const prompt = tokens.slice(0, 90);
  const labs = [new Lab(grouped, heads!), new Lab(apart, heads!)];
  const full = await Promise.all(
    labs.map(async (lab) => {
      const sequence = lab.open(null, prompt.length);
      const logits = [await sequence.prefill(prompt)];
      for (const token of tokens.slice(90, 110)) logits.push(await sequence.feed(token));
      return logits;
    }),
  );
  full[0].forEach((logits, i) =>
    assert.deepEqual(full[1][i], logits, "the full cache answers alike, bit for bit"),
  );
  const policy = policyFromText(selection, `${text},perQueryHead=true`);
  assert.throws(() => policy.budgetFor(labs[0].shape, 90), {
    code: "UNSUPPORTED",
    argument: "options.perQueryHead",
  });
  const sequences = [
    labs[0].open(policyFromText(selection, text), prompt.length),
    labs[1].open(policy, prompt.length),
  ];
  for (const sequence of sequences) {
    await sequence.prefill(prompt);
    for (const token of tokens.slice(90)) await sequence.feed(token);
  }
  const lanes = (i: number): string[] =>
    Array.from(sequences[i].lanes.lengths(), (_, lane) => [...sequences[i].lanes.positions(lane)].join());
  const group = heads! / kvHeads;
  const differing = lanes(1).filter((own, lane) => own !== lanes(1)[lane - (lane % group)]).length;
  assert.ok(differing > 0, "heads of a group keep other tokens");
  assert.equal(sequences[1].payloadBytes, group * sequences[0].payloadBytes, "and pay for it");
  t.diagnostic(
    `${differing} lanes differ from their group's first, ${sequences[1].payloadBytes} bytes, ${sequences[0].payloadBytes} shared`,
  );
  await Promise.all([grouped.close(), apart.close()]);
  await assert.rejects(openModel(TINY_RETRIEVAL, { backend: "cpu", blocks: 8, perQueryHead: true }), {
    code: "UNSUPPORTED",
  });
});

/**
 * What every claim about a policy rests on: the wasm executor computes the published model. Its logits and attention are the
 * recorded ones, and it answers the recorded prompts as the full cache was recorded to.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { StatMask } from "../../bindings/main.js";
import { BOS, tokensOf } from "../../sim/eviction/alphabet.js";
import { argmax } from "../../sim/eviction/measures.js";
import { openLab, share } from "../support/lab.js";
import { TINY_RETRIEVAL } from "../support/package-root.js";

interface Golden {
  readonly ids: number[];
  readonly last_logits: number[];
  readonly argmax_all: number[];
  readonly layer0_kvhead0_q0_last_row: number[];
}

interface Recorded {
  readonly task: string;
  readonly context: string;
  readonly question?: string;
  readonly full_cache?: string;
  readonly run?: string;
  readonly step_accuracy?: number;
}

const read = (name: string): unknown => JSON.parse(readFileSync(join(TINY_RETRIEVAL, name), "utf8"));
const golden = read("golden.json") as Golden;
const { prompts } = read("test_prompts.json") as { prompts: Recorded[] };

const lab = await openLab();
after(() => lab.executor.close());

test("golden.json: last logits and attention within 1e-3, and every position's argmax", async () => {
  const { ids } = golden;
  const whole = lab.open(null, ids.length);
  const { logits, views } = await whole.run(ids, { mask: StatMask.LAST_ROW });
  golden.last_logits.forEach((wanted, i) =>
    assert.ok(Math.abs(logits[i] - wanted) < 1e-3, `logit ${i}: ${logits[i]} for ${wanted}`),
  );
  golden.layer0_kvhead0_q0_last_row.forEach((wanted, slot) =>
    assert.ok(Math.abs(views[0].lastRow![slot] - wanted) < 1e-3, `attention at ${slot}`),
  );
  const stepped = lab.open(null, ids.length);
  const found: number[] = [];
  for (const id of ids) found.push(argmax(await stepped.feed(id)));
  assert.deepEqual(found, golden.argmax_all);
  whole.close();
  stepped.close();
});

test("at least 99 % of the recorded prompts are answered as the full cache was recorded to answer them", async (t) => {
  const asked = prompts.filter(({ full_cache }) => full_cache !== undefined);
  assert.equal(asked.length, 190);
  const equal: boolean[] = [];
  for (const { context, question, full_cache } of asked) {
    const tokens = [BOS, ...tokensOf(context + question!)];
    const sequence = lab.open(null, tokens.length);
    let logits = await sequence.prefill(tokens);
    let isEqual = true;
    for (const token of tokensOf(full_cache!)) {
      isEqual &&= argmax(logits) === token;
      if (!isEqual) break;
      logits = await sequence.feed(token);
    }
    equal.push(isEqual);
    sequence.close();
  }
  t.diagnostic(`${equal.filter(Boolean).length} of ${equal.length} answers are the recorded ones`);
  assert.ok(share(equal) >= 0.99, `${share(equal)}`);
});

test("the recorded loops: the recorded share of steps is right", async () => {
  const loops = prompts.filter(({ run }) => run !== undefined);
  assert.equal(loops.length, 10);
  for (const { context, run, step_accuracy } of loops) {
    const tokens = [BOS, ...tokensOf(context)];
    const sequence = lab.open(null, tokens.length);
    let logits = await sequence.prefill(tokens);
    const correct: boolean[] = [];
    for (const [i, token] of tokensOf(run!).entries()) {
      if (i % 3 === 2) correct.push(argmax(logits) === token);
      logits = await sequence.feed(token);
    }
    assert.ok(Math.abs(share(correct) - step_accuracy!) <= 0.01, `${share(correct)} for ${step_accuracy}`);
    sequence.close();
  }
});

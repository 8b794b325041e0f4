/** Each family, number type and rope scaling against a plain float64 forward pass, on both backends. */
import assert from "node:assert/strict";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { type Backend, loadAddon, openModel } from "../../native-host/executor/main.js";
import { type Dtype, type Fixture, writeModel } from "../support/model-fixtures.js";
import { naiveForward } from "../support/naive-forward.js";
import { TINY_RETRIEVAL } from "../support/package-root.js";
import { forcedLogits, relativeDifference } from "../support/run-tokens.js";

const addon = loadAddon();
const BACKENDS: readonly { backend: Backend; skip: string | false }[] = [
  { backend: "wasm", skip: false },
  { backend: "cpu", skip: "reason" in addon ? addon.reason : false },
];

const LLAMA3 = {
  rope_type: "llama3",
  factor: 4,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 64,
};
const FAMILIES: Readonly<
  Record<string, { config?: Record<string, unknown>; dtype?: Dtype; shards?: number }>
> = {
  "Llama, f32": {},
  "Llama, f16": { dtype: "F16" },
  "Llama, bf16": { dtype: "BF16" },
  "Llama in three shards": { shards: 3 },
  "Llama with tied embeddings": { config: { tie_word_embeddings: true } },
  "Llama without grouped heads": { config: { num_key_value_heads: 4 } },
  "Llama with linear rope scaling": { config: { rope_scaling: { type: "linear", factor: 2 } } },
  "Llama with llama3 rope scaling": { config: { rope_scaling: LLAMA3 } },
  "Mistral with a sliding window and its own head size": {
    config: { architectures: ["MistralForCausalLM"], sliding_window: 9, head_dim: 16 },
  },
  "Qwen2 with attention biases": {
    config: { architectures: ["Qwen2ForCausalLM"], tie_word_embeddings: true },
    dtype: "BF16",
  },
};

const tokens = Array.from({ length: 70 }, (_, i) => (i * 17 + 3) % 40);
const fixtures: Fixture[] = [];
after(() => fixtures.forEach(({ directory }) => rmSync(directory, { recursive: true })));

for (const [name, options] of Object.entries(FAMILIES)) {
  const fixture = writeModel(options);
  fixtures.push(fixture);
  const expected = naiveForward(fixture, tokens);
  for (const { backend, skip } of BACKENDS) {
    test(`${name}: ${backend} equals the plain forward pass`, { skip }, async () => {
      const { executor } = await openModel(fixture.directory, {
        backend,
        blocks: 40,
        blockSize: 4,
        returnLogits: true,
      });
      const logits = await forcedLogits(executor, tokens, { first: 30, chunk: 7 });
      await executor.close();
      assert.equal(logits.length, 41);
      logits.forEach((row, i) => {
        const difference = relativeDifference(row, expected[29 + i]);
        assert.ok(difference < 2e-5, `position ${29 + i}: ${difference}`);
      });
    });
  }
}

describe("the embedded model", () => {
  const golden = JSON.parse(readFileSync(join(TINY_RETRIEVAL, "golden.json"), "utf8")) as {
    ids: number[];
    last_logits: number[];
    argmax_all: number[];
  };
  const argmax = (row: Float32Array): number => row.indexOf(Math.max(...row));

  for (const { backend, skip } of BACKENDS) {
    test(`reproduces its golden record on ${backend}`, { skip }, async () => {
      const { executor } = await openModel(TINY_RETRIEVAL, { backend, blocks: 64, returnLogits: true });
      const logits = await forcedLogits(executor, golden.ids, { first: 1 });
      assert.deepEqual(logits.map(argmax), golden.argmax_all);
      const last = logits.at(-1)!;
      golden.last_logits.forEach((value, i) => assert.ok(Math.abs(last[i] - value) < 1e-4, `logit ${i}`));
      const [whole] = await forcedLogits(executor, golden.ids);
      assert.deepEqual(whole, last, "prefill and decode give the same bits");
      await executor.close();
    });

    test(
      `gives the same bits alone, in company, in chunks and over any blocks on ${backend}`,
      { skip },
      async () => {
        const company = [golden.ids.slice(5, 40), golden.ids.slice(0, 9), golden.ids.slice(20)];
        let expected: Float32Array | undefined;
        for (const blockSize of [16, 4, 1]) {
          const options = { backend, blocks: 1024 / blockSize, blockSize, returnLogits: true };
          const { executor } = await openModel(TINY_RETRIEVAL, options);
          for (const run of [
            {},
            { chunk: 1 },
            { chunk: 7 },
            { chunk: 16 },
            { company },
            { company, chunk: 5 },
          ]) {
            const [logits] = await forcedLogits(executor, golden.ids, run);
            expected ??= logits;
            assert.deepEqual(logits, expected, `blocks of ${blockSize}, ${JSON.stringify(run).slice(0, 30)}`);
          }
          await executor.close();
        }
      },
    );
  }

  test(
    "gives the same logits on both backends within 1e-3, and no argmax ties",
    { skip: BACKENDS[1].skip },
    async (t) => {
      const models = await Promise.all(
        BACKENDS.map(({ backend }) => openModel(TINY_RETRIEVAL, { backend, blocks: 64, returnLogits: true })),
      );
      const text = readFileSync(join(TINY_RETRIEVAL, "test_prompts.json"), "utf8");
      const { prompts } = JSON.parse(text) as { prompts: { context: string; question?: string }[] };
      let closest = Infinity;
      let worst = 0;
      for (const { context, question } of prompts.filter((_, i) => i % 19 === 0)) {
        const ids = [...models[0].tokenizer.encode(context + (question ?? ""))];
        const [[wasm], [native]] = await Promise.all(
          models.map(({ executor }) => forcedLogits(executor, ids)),
        );
        worst = Math.max(worst, relativeDifference(native, wasm));
        const [best, second] = [...wasm].sort((a, b) => b - a);
        closest = Math.min(closest, best - second);
      }
      t.diagnostic(
        `largest relative difference ${worst.toExponential(1)}; closest two best logits ${closest.toFixed(3)} apart`,
      );
      assert.ok(worst < 1e-3);
      assert.ok(closest > 1e-3 * 30, "no argmax is near a tie");
      for (const { executor } of models) await executor.close();
    },
  );
});

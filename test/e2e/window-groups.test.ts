/**
 * The small model with a sliding window on two of its three layers: served with the window layers in cache groups, it
 * writes the same texts as with whole tables for all of them, and fits more requests into the same memory.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Core, Engine, promptLookup } from "../../bindings/main.js";
import type { Backend } from "../../native-host/executor/main.js";
import type { LayerGroup } from "../../native-host/executor/layer-groups.js";
import { openWasmModel } from "../../native-host/executor/wasm.js";
import { TEST_BACKENDS } from "../support/backends.js";
import { embeddedWorkload } from "../support/serve.js";
import { openWindowed, windowedSource } from "../support/windowed-model.js";

const workload = embeddedWorkload().filter((_, i) => i % 12 === 0);
/** Layers that slide apart from each other, so that a page holds one layer, as it does of the full one. */
const APART: LayerGroup[] = [{ layers: [0] }, { layers: [2] }];

interface Served {
  readonly texts: string[];
  readonly mostRunning: number;
  readonly hitTokens: number;
  readonly poolBytes: number;
  readonly preempted: number;
}

async function serve(
  groups: LayerGroup[],
  options: {
    backend?: Backend;
    poolBytes?: number;
    blocks?: number;
    maxDraftTokens?: number;
    prompts?: string[];
  },
): Promise<Served> {
  const { backend = "wasm" } = options;
  const { blockBytes } = (await openWindowed(backend, { blocks: 1, groups })).executor.describe();
  const blocks = options.blocks ?? Math.floor(options.poolBytes! / blockBytes);
  const model = await openWindowed(backend, { blocks, groups });
  const core = await Core.create();
  const cache = core.kvCache({
    blocks,
    maxSequences: 32,
    maxSequenceTokens: 1024,
    groups: (model.executor.describe().groups ?? []).map(({ kind, window, blockSize }) =>
      kind === "window" ? { kind, window, blockSize } : { kind, blockSize },
    ),
  });
  const { maxDraftTokens = 0 } = options;
  const shape = { maxRunning: 32, maxBatchTokens: 128, maxChunkTokens: 32, tokenCapacity: 64 * 1024 };
  const scheduler = core.scheduler({ cache, vocabSize: 64, maxRequests: 64, ...shape, maxDraftTokens });
  let mostRunning = 0;
  let preempted = 0;
  const engine = new Engine({
    scheduler,
    executor: model.executor,
    ...(maxDraftTokens > 0 && { drafter: promptLookup() }),
    onStep: (report) => {
      mostRunning = Math.max(mostRunning, report.running);
      preempted += report.preempted;
    },
  });
  const prompts = options.prompts ?? workload.map(({ text }) => text);
  const texts = await Promise.all(
    prompts.map(async (text) => {
      const tokens: number[] = [];
      const prompt = model.tokenizer.encode(text);
      for await (const event of engine.generate({ tokens: prompt, maxNewTokens: 24, ignoreEos: true }))
        tokens.push(event.token);
      return tokens.join(" ");
    }),
  );
  core.validate();
  const { hitTokens } = cache.stats();
  await engine.close();
  return { texts, mostRunning, hitTokens, poolBytes: blocks * blockBytes, preempted };
}

describe("sliding layers in cache groups", () => {
  for (const { backend, on, skip } of TEST_BACKENDS)
    test(
      `the same texts as with whole tables, in a large pool and in one that preempts, with drafts or without${on}`,
      { skip },
      async () => {
        const whole = await serve([], { backend, blocks: 1024 });
        const grouped = await serve(APART, { backend, blocks: 2048 });
        assert.deepEqual(grouped.texts, whole.texts);
        if (backend !== "wasm") assert.deepEqual(whole.texts, (await serve([], { blocks: 1024 })).texts);
        assert.ok(grouped.hitTokens > 0, "prefixes are found across groups");
        const together = await serve([{ layers: [0, 2] }], { backend, blocks: 2048 });
        assert.deepEqual(together.texts, whole.texts);
        const sizes = await serve([{ layers: [0], blockSize: 32 }, { layers: [2] }], {
          backend,
          blocks: 2048,
        });
        assert.deepEqual(sizes.texts, whole.texts);
        const small = await serve(APART, { backend, blocks: 90 });
        assert.deepEqual(small.texts, whole.texts);
        assert.ok(small.preempted > 0, "it preempts");
        const drafting = await serve(APART, { backend, blocks: 2048, maxDraftTokens: 3 });
        assert.deepEqual(drafting.texts, whole.texts);
      },
    );

  test("at long contexts more requests run at a time in the same memory", async () => {
    // Prompts of 700 tokens that share nothing.
    const filler = workload.map(({ text }) => text).join(" ");
    const prompts = Array.from({ length: 16 }, (_, i) => filler.slice(i * 37, i * 37 + 700));
    const poolBytes = 4 * 46 * 3 * 16 * 2 * 64 * 4; // 4 contexts of 46 blocks of 3 layers
    const whole = await serve([], { poolBytes, prompts });
    const grouped = await serve(APART, { poolBytes, prompts });
    assert.deepEqual(grouped.texts, whole.texts);
    console.log(
      `${grouped.mostRunning} requests of 700 tokens at a time in groups, ${whole.mostRunning} without`,
    );
    assert.ok(grouped.mostRunning >= 1.8 * whole.mostRunning, `${grouped.mostRunning}, ${whole.mostRunning}`);
  });

  test("layers with different windows in one group, and a cache without the executor's groups, are refused", async () => {
    const options = { blocks: 8, groups: [{ layers: [0, 1] }] };
    await assert.rejects(openWasmModel(await windowedSource(), options), {
      code: "INVALID_ARGUMENT",
      argument: "groups[0].layers",
    });
    const { executor } = await openWasmModel(await windowedSource(), { blocks: 8, groups: APART });
    const core = await Core.create();
    const cache = core.kvCache({ blocks: 8, maxSequences: 2, maxSequenceTokens: 64 });
    const scheduler = core.scheduler({ cache, vocabSize: 64 });
    assert.throws(() => new Engine({ scheduler, executor }), { argument: "cache.groups" });
  });
});

/**
 * The small model with a sliding window on two of its three layers: served with the window layers in cache groups, it
 * writes the same texts as with whole tables for all of them, and fits more requests into the same memory.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  Core,
  Engine,
  type Executor,
  type HostTierOptions,
  type HostTierStats,
  promptLookup,
} from "../../bindings/main.js";
import type { Backend } from "../../native-host/executor/main.js";
import type { LayerGroup } from "../../native-host/executor/layer-groups.js";
import { openWasmModel } from "../../native-host/executor/wasm.js";
import { TEST_BACKENDS } from "../support/backends.js";
import { Random } from "../support/random.js";
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
  readonly prefilled: number;
  readonly tier: HostTierStats | undefined;
}

async function serve(
  groups: LayerGroup[],
  options: {
    backend?: Backend;
    poolBytes?: number;
    blocks?: number;
    maxDraftTokens?: number;
    prompts?: string[];
    maxNewTokens?: number;
    hostTier?: HostTierOptions;
    /** Of 100 transfers, how many arrive in part; all take some turns of the event loop. */
    failures?: number;
  },
): Promise<Served> {
  const { backend = "wasm" } = options;
  const { blockBytes } = (await openWindowed(backend, { blocks: 1, groups })).executor.describe();
  const blocks = options.blocks ?? Math.floor(options.poolBytes! / blockBytes);
  const { hostTier, failures = 0, maxNewTokens = 24 } = options;
  const model = await openWindowed(backend, { blocks, groups, hostBlocks: hostTier?.blocks ?? 0 });
  if (hostTier !== undefined) hinder(model.executor, failures);
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
  const scheduler = core.scheduler({
    cache,
    vocabSize: 64,
    maxRequests: 64,
    ...shape,
    maxDraftTokens,
    hostTier,
  });
  let mostRunning = 0;
  let preempted = 0;
  let prefilled = 0;
  const engine = new Engine({
    scheduler,
    executor: model.executor,
    ...(maxDraftTokens > 0 && { drafter: promptLookup() }),
    onStep: (report) => {
      mostRunning = Math.max(mostRunning, report.running);
      preempted += report.preempted;
      prefilled += report.prefillTokens;
    },
  });
  const prompts = options.prompts ?? workload.map(({ text }) => text);
  const texts = await Promise.all(
    prompts.map(async (text) => {
      const tokens: number[] = [];
      const prompt = model.tokenizer.encode(text);
      for await (const event of engine.generate({ tokens: prompt, maxNewTokens, ignoreEos: true }))
        tokens.push(event.token);
      return tokens.join(" ");
    }),
  );
  core.validate();
  const { hitTokens } = cache.stats();
  await engine.close();
  assert.equal(cache.available, blocks);
  const tier = scheduler.hostTier;
  return { texts, mostRunning, hitTokens, poolBytes: blocks * blockBytes, preempted, prefilled, tier };
}

/** Transfers take their time, and some of them arrive in part. */
function hinder(executor: Executor, failures: number): void {
  const random = new Random(7);
  const transfer = executor.transfer!.bind(executor);
  executor.transfer = async (records) => {
    for (let turn = random.below(4); turn > 0; turn--) await new Promise((resolve) => setImmediate(resolve));
    const fails = random.below(100) < failures;
    const blocks = await transfer(records);
    return fails ? Math.floor(blocks / 2) : blocks;
  };
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

  for (const { backend, on, skip } of TEST_BACKENDS)
    test(
      `preempted requests that are swapped out and read back write the texts of an undisturbed run${on}`,
      { skip },
      async (t) => {
        const prompts = workload.map(({ text }) => text).sort((a, b) => a.length - b.length);
        const options = { backend, prompts: prompts.slice(0, 16), maxNewTokens: 64 };
        const alone = await serve(APART, { ...options, blocks: 2048 });
        assert.equal(alone.preempted, 0);
        const computed = await serve(APART, { ...options, blocks: 110 });
        assert.deepEqual(computed.texts, alone.texts);
        assert.ok(computed.preempted > 0, "there is pressure");
        const sizes: LayerGroup[] = [{ layers: [0], blockSize: 32 }, { layers: [2] }];
        for (const [groups, swapIn, failures] of [
          [APART, "async", 0],
          [APART, "sync", 0],
          [sizes, "adaptive", 0],
          [sizes, "sync", 30],
        ] as const) {
          const hostTier = { blocks: 600, swapIn };
          const swapped = await serve(groups, { ...options, blocks: 110, hostTier, failures });
          assert.deepEqual(swapped.texts, alone.texts, swapIn);
          const { swapOuts, swapIns, loadedBlocks, free, blocks, failures: failed } = swapped.tier!;
          t.diagnostic(
            `${swapIn}: ${swapOuts} out, ${swapIns} in, ${loadedBlocks} blocks, ${failed} failed; ` +
              `${swapped.prefilled} tokens of prompts, ${computed.prefilled} without a tier`,
          );
          assert.ok(swapIns > 0 && loadedBlocks > 0, "requests were read back");
          assert.equal(free, blocks, "every block of the host tier is free again");
          assert.equal(failed > 0, failures > 0);
        }
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

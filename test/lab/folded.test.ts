/**
 * Lanes with a table a layer, through the engine: the same tokens as with one table for all layers, in the blocks that the
 * sum over layers takes; CAKE's prompts in the blocks of its budget and one layer.
 */
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import fc from "fast-check";
import {
  Engine,
  type GenerateRequest,
  type KeptCache,
  PlaneMask,
  policyFromText,
  recordLanes,
  recordScheduler,
  replay,
} from "../../bindings/main.js";
import { foldedSlots } from "../../bindings/eviction/folded.js";
import { type Backend, openModel } from "../../native-host/executor/main.js";
import { BOS, tokensOf } from "../../sim/eviction/alphabet.js";
import { makeTask } from "../../sim/eviction/tasks.js";
import { TEST_BACKENDS } from "../support/backends.js";
import { TINY_RETRIEVAL } from "../support/package-root.js";

interface Setting {
  readonly backend?: Backend;
  readonly folded: boolean;
  readonly blocks?: number;
  readonly blockSize?: number;
  readonly maxBatchTokens?: number;
  readonly build?: "core" | "debug";
  readonly write?: (line: string) => void;
}

async function setUp({
  backend = "wasm",
  folded,
  blocks = 256,
  blockSize = 16,
  maxBatchTokens = 1024,
  build = "debug",
  write,
}: Setting) {
  const { executor } = await openModel(TINY_RETRIEVAL, { backend, blocks, blockSize });
  const { layers, kvHeads } = executor.describe();
  const setup = {
    seed: 1,
    cache: { blocks, blockSize, maxSequences: 16, maxSequenceTokens: 1024 },
    scheduler: { vocabSize: 64, maxRequests: 32, maxRunning: 12, maxBatchTokens, watermarkBlocks: 0 },
  };
  const scheduler = await recordScheduler(setup, write ?? (() => undefined), { build });
  const { core, cache } = scheduler;
  const planes = PlaneMask.SCORE | PlaneMask.LAST_IMP | PlaneMask.MRI;
  const lanes = core.laneArena({ cache, layers, kvHeads, capacity: 1024, planes, folded, sequences: 16 });
  recordLanes(scheduler, lanes);
  const selection = core.selection({ capacity: 4 * kvHeads * 1024 });
  const used: number[] = [];
  const running: number[] = [];
  const engine = new Engine({
    scheduler,
    executor,
    lanes,
    onStep: (step) => {
      used.push(blocks - step.freeBlocks);
      running.push(step.running);
    },
  });
  const policy = (text: string) => policyFromText(selection, text);
  const ask = async (request: GenerateRequest): Promise<{ text: string; kept: KeptCache | undefined }> => {
    const list: number[] = [];
    let kept: KeptCache | undefined;
    for await (const event of engine.generate(request)) {
      list.push(event.token);
      kept = event.kept ?? kept;
    }
    return { text: list.join(" "), kept };
  };
  const end = async (): Promise<void> => {
    assert.equal(lanes.size, 0);
    assert.equal(cache.stats().free + cache.stats().evictable, blocks, "every block is free again");
    core.validate();
    await engine.close();
  };
  return { engine, executor, core, cache, lanes, policy, ask, end, used, running };
}

const promptOf = (seed: number, length: number): number[] => [
  BOS,
  ...tokensOf(makeTask("needle", { seed, length }).context),
];

const POLICIES = [
  "cake:budget=60,window=16",
  "compresskv:ratio=0.3,window=8",
  "pyramidkv:ratio=0.3,window=8",
  "snapkv:ratio=0.3,window=8",
  "h2o:ratio=0.3",
  "h2o:ratio=0.3,mode=ring",
  "h2o:ratio=0.3,mode=ordered",
  "lazy-eviction:ratio=0.3,window=6",
  "streaming-llm:ratio=0.3",
  "full",
];

async function compareTables(t: TestContext, text: string, backend: Backend): Promise<string[]> {
  const answers: string[][] = [];
  const peaks: number[] = [];
  for (const folded of [false, true]) {
    const { ask, policy, used, end } = await setUp({
      backend,
      folded,
      maxBatchTokens: text.startsWith("cake") ? 1024 : 160,
    });
    const prompts = [promptOf(3, 300), promptOf(4, 220), promptOf(5, 140)];
    const plain = ask({ tokens: promptOf(6, 200), maxNewTokens: 40 });
    const list = await Promise.all(
      prompts.map((tokens) => ask({ tokens, maxNewTokens: 40, evict: policy(text) })),
    );
    answers.push([...list, await plain].map((answer) => answer.text));
    peaks.push(used[used.length - 4]);
    await end();
  }
  assert.deepEqual(answers[1], answers[0]);
  t.diagnostic(`${text}: ${peaks[0]} blocks near the end, ${peaks[1]} folded`);
  // A sequence's last block and each layer's last slice may be nearly empty.
  assert.ok(peaks[1] <= peaks[0] + 4);
  if (/cake|compresskv|pyramidkv/.test(text)) assert.ok(peaks[1] < peaks[0]);
  return answers[1];
}

for (const { backend, on, skip } of TEST_BACKENDS)
  for (const text of POLICIES)
    test(
      `${text}: a table a layer gives the tokens of one table for all, in no more blocks${on}`,
      { skip },
      async (t) => {
        const answers = await compareTables(t, text, backend);
        if (backend !== "wasm") assert.deepEqual(answers, await compareTables(t, text, "wasm"));
      },
    );

for (const { backend, on, skip } of TEST_BACKENDS)
  test(
    `CAKE's prompts take the blocks of its budget and of one layer: more of them run in the same pool${on}`,
    { skip },
    async (t) => {
      const blocks = 60;
      const peaks = new Map<boolean, number>();
      const together = new Map<boolean, number>();
      for (const folded of [false, true]) {
        const one = await setUp({ backend, folded, blocks });
        const tokens = promptOf(400, 400);
        await one.ask({ tokens, maxNewTokens: 12, evict: one.policy("cake:budget=60,window=16") });
        peaks.set(folded, Math.max(...one.used));
        await one.end();
        const many = await setUp({ backend, folded, blocks });
        await Promise.all(
          Array.from({ length: 10 }, (_, i) =>
            many.ask({
              tokens: promptOf(400 + i, 400),
              maxNewTokens: 30,
              evict: many.policy("cake:budget=60,window=16"),
            }),
          ),
        );
        together.set(folded, Math.max(...many.running));
        await many.end();
      }
      const [shared, folded] = [peaks.get(false)!, peaks.get(true)!];
      t.diagnostic(`${promptOf(400, 400).length} tokens: ${shared} blocks at most, ${folded} folded`);
      t.diagnostic(
        `10 requests in ${blocks} blocks: ${together.get(false)} at a time, ${together.get(true)} folded`,
      );
      assert.ok(folded <= 0.6 * shared);
      assert.ok(together.get(true)! >= 1.5 * together.get(false)!);
    },
  );

for (const { backend, on, skip } of TEST_BACKENDS)
  test(
    `prompts that no step takes whole are computed in chunks, with the same answers${on}`,
    { skip },
    async () => {
      const answers = [];
      for (const maxBatchTokens of [1024, 200]) {
        const { ask, policy, end } = await setUp({ backend, folded: true, maxBatchTokens });
        const evict = policy("cake:budget=60,window=16,cascade=true");
        answers.push(
          (await ask({ tokens: promptOf(7, 350), maxNewTokens: 20, evict })).text.split(" ").length,
        );
        await end();
      }
      assert.deepEqual(answers, [20, 20]);
    },
  );

for (const { backend, on, skip } of TEST_BACKENDS)
  test(`kept caches, forks and records of folded lanes${on}`, { skip }, async () => {
    const lines: string[] = [];
    const answers: string[][] = [];
    for (const folded of [false, true]) {
      const { ask, engine, policy, end } = await setUp({
        backend,
        folded,
        write: (line) => folded && lines.push(line),
      });
      const text = "cake:ratio=0.4,window=8";
      const first = { tokens: promptOf(8, 260), maxNewTokens: 3, evict: policy(text), keep: true };
      const { kept } = await ask(first);
      const copy = await engine.fork(kept!, policy(text));
      const list = await Promise.all(
        [kept!, copy].map((from, i) =>
          ask({ tokens: tokensOf(i === 0 ? "?ab" : "?cd"), maxNewTokens: 30, from }),
        ),
      );
      answers.push(list.map((answer) => answer.text));
      await end();
    }
    assert.deepEqual(answers[1], answers[0]);
    for (const build of ["core", "debug"] as const)
      assert.equal((await replay(lines, { build })).mismatch, undefined, build);
  });

for (const { backend, on, skip } of TEST_BACKENDS)
  test(
    `aborted while a prompt is computed layer by layer, or a layer's policy fails: nothing stays behind, others go on${on}`,
    { skip },
    async () => {
      const { ask, policy, end, executor } = await setUp({ backend, folded: true });
      const abort = new AbortController();
      const { run } = executor;
      let layers = 0;
      executor.run = function (plan, context, options) {
        if (options?.afterLayer === undefined) return run.call(this, plan, context, options);
        const { afterLayer } = options;
        return run.call(this, plan, context, {
          ...options,
          afterLayer: async (layer, statistics) => {
            layers += 1;
            if (layers === 2) abort.abort();
            await afterLayer(layer, statistics);
          },
        });
      };
      const cake = "cake:budget=60,window=16";
      const broken = policy(cake);
      broken.endLayerPrefill = () => {
        throw new Error("no");
      };
      const [plain] = await Promise.all([
        ask({ tokens: promptOf(10, 150), maxNewTokens: 10 }),
        assert.rejects(
          ask({ tokens: promptOf(9, 300), maxNewTokens: 10, evict: policy(cake), signal: abort.signal }),
          { code: "ABORTED" },
        ),
        assert.rejects(ask({ tokens: promptOf(11, 300), maxNewTokens: 10, evict: broken }), {
          code: "EXECUTOR_FAILED",
        }),
      ]);
      assert.equal(plain.text.split(" ").length, 10);
      assert.ok(layers >= 3);
      await end();
    },
  );

test("what folded lanes cannot do is refused", async () => {
  const { engine, policy, ask, end } = await setUp({ folded: true });
  const tokens = promptOf(12, 100);
  assert.throws(
    () =>
      engine.generate({
        tokens,
        maxNewTokens: 2,
        evict: policy("snapkv:ratio=0.5,window=8"),
        sharePrefix: true,
      }),
    { code: "INVALID_ARGUMENT", argument: "sharePrefix" },
  );
  await assert.rejects(ask({ tokens, maxNewTokens: 8, evict: policy("elastic-cache:ratio=0.4") }), {
    code: "EXECUTOR_FAILED",
  });
  await end();
});

test("slots of a folded sequence: blocks for slots + c suffice for c tokens more in every layer, and none is too many", () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 90 }), { minLength: 1, maxLength: 8 }),
      fc.constantFrom(1, 2, 4, 16),
      (longest, blockSize) => {
        const slots = foldedSlots(longest, blockSize);
        const needed = (c: number): number =>
          Math.ceil(
            longest.reduce((sum, held) => sum + Math.ceil((held + c) / blockSize), 0) / longest.length,
          );
        assert.ok(slots <= Math.max(...longest));
        assert.equal(Math.ceil(slots / blockSize), needed(0));
        for (let c = 0; c < 3 * blockSize; c++) assert.ok(Math.ceil((slots + c) / blockSize) >= needed(c));
        if (slots > 0)
          assert.ok(
            Array.from({ length: blockSize }, (_, c) => c).some(
              (c) => Math.ceil((slots - 1 + c) / blockSize) < needed(c),
            ),
            "one less does not suffice",
          );
      },
    ),
    { numRuns: 500 },
  );
});

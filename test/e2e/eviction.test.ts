/**
 * Requests that drop tokens, in one batch with requests that do not: nobody else's tokens change, and the blocks of what
 * was dropped serve other requests. On both executors and the small model.
 */
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import {
  Core,
  createPolicy,
  Engine,
  type EvictionPolicy,
  type KeepPlan,
  type KvCache,
  PlaneMask,
  policyFromText,
  QuartermasterError,
} from "../../bindings/main.js";
import { type Backend, openModel } from "../../native-host/executor/main.js";
import type { WorkloadRequest } from "../../sim/workload.js";
import { TEST_BACKENDS } from "../support/backends.js";
import { TINY_RETRIEVAL } from "../support/package-root.js";
import { Random } from "../support/random.js";
import { embeddedWorkload } from "../support/serve.js";

const POLICIES = [
  "local:ratio=0.2",
  "streaming-llm:ratio=0.25",
  "h2o:ratio=0.3",
  "h2o:ratio=0.3,mode=inplace",
  "snapkv:ratio=0.25,window=8",
  "tova:ratio=0.3",
  "lazy-eviction:ratio=0.3,window=4",
  "cake:ratio=0.3,window=8",
  "compresskv:ratio=0.3,window=8",
  "elastic-cache:ratio=0.4",
  "ada-kv:ratio=0.3,window=8",
  "pyramidkv:ratio=0.3,window=8",
  "mpcache:ratio=0.3",
];

interface Served {
  readonly tokens: string[];
  readonly preemptions: number;
  /** Requests running in each step. */
  readonly running: number[];
  readonly cache: KvCache;
  /** Policies that have had something dropped. */
  readonly dropping: ReadonlySet<string>;
}

interface Setting {
  backend?: Backend;
  blocks?: number;
  blockSize?: number;
  maxRunning?: number;
  maxBatchTokens?: number;
  maxNewTokens?: number;
  /** Policy of a request, by its place in the list; undefined: it keeps every token. */
  policy?: (index: number) => string | undefined;
  /** Ends all requests once it says so. */
  enough?: (running: readonly number[]) => boolean;
}

/** Says when a policy answers with a plan. */
function watch(policy: EvictionPolicy, onPlan: () => void): EvictionPolicy {
  for (const name of ["endLayerPrefill", "endPrefill", "endStep"] as const) {
    const own = policy[name]?.bind(policy) as ((layer: number) => KeepPlan | null) | undefined;
    if (own === undefined) continue;
    policy[name] = (layer: number = 0) => {
      const plan = own(layer);
      if (plan !== null) onPlan();
      return plan;
    };
  }
  return policy;
}

async function serve(prompts: readonly (readonly number[])[], setting: Setting): Promise<Served> {
  const { blocks = 2048, blockSize = 16, maxRunning = 16, maxBatchTokens = 256, maxNewTokens = 8 } = setting;
  const { backend = "wasm" } = setting;
  const model = await openModel(TINY_RETRIEVAL, { backend, blocks, blockSize });
  const { layers, kvHeads } = model.executor.describe();
  const core = await Core.create();
  const cache = core.kvCache({ blocks, blockSize, maxSequences: maxRunning, maxSequenceTokens: 1024 });
  const scheduler = core.scheduler({
    cache,
    vocabSize: 64,
    maxRequests: prompts.length,
    maxRunning,
    maxBatchTokens,
    watermarkBlocks: 0,
  });
  const lanes = core.laneArena({
    cache,
    layers,
    kvHeads,
    capacity: 1024,
    planes: PlaneMask.SCORE | PlaneMask.LAST_IMP | PlaneMask.MRI,
    sequences: maxRunning,
  });
  const selection = core.selection({ capacity: 4 * kvHeads * 1024 });
  let preemptions = 0;
  const running: number[] = [];
  const dropping = new Set<string>();
  const end = new AbortController();
  const engine = new Engine({
    scheduler,
    executor: model.executor,
    lanes,
    onStep: (report) => {
      preemptions += report.preempted;
      running.push(report.running);
      if (setting.enough?.(running)) end.abort();
    },
  });
  const tokens = await Promise.all(
    prompts.map(async (prompt, index) => {
      const text = setting.policy?.(index);
      const evict =
        text === undefined
          ? undefined
          : watch(policyFromText(selection, text), () => void dropping.add(text));
      const list: number[] = [];
      const request = { tokens: prompt, maxNewTokens, signal: end.signal, ...(evict && { evict }) };
      try {
        for await (const event of engine.generate(request)) list.push(event.token);
      } catch (error) {
        if ((error as QuartermasterError).code !== "ABORTED") throw error;
      }
      return list.join(" ");
    }),
  );
  core.validate();
  assert.equal(lanes.size, 0, "every slab has been given back");
  cache.forget();
  assert.equal(cache.stats().free, blocks, "every block is free again");
  await engine.close();
  return { tokens, preemptions, running, cache, dropping };
}

/** Prompts of the workload, one in four: their texts are 60 to 700 characters. */
async function prompts(): Promise<number[][]> {
  const model = await openModel(TINY_RETRIEVAL, { backend: "wasm", blocks: 1, blockSize: 16 });
  const texts = embeddedWorkload().filter((_: WorkloadRequest, i: number) => i % 9 === 0);
  return texts.map(({ text }) => [...model.tokenizer.encode(text)]);
}

for (const { backend, on, skip } of TEST_BACKENDS)
  describe(`requests that drop tokens beside others that do not${on}`, { skip }, () => {
    let list: number[][];
    let plain: Served;
    before(async () => {
      list = await prompts();
      plain = await serve(list, { backend });
    });

    test("never change another request's tokens", async () => {
      const policy = (i: number): string | undefined =>
        i % 2 === 1 ? POLICIES[(i >> 1) % POLICIES.length] : undefined;
      const mixed = await serve(list, { backend, policy });
      let changed = 0;
      mixed.tokens.forEach((tokens, i) => {
        if (policy(i) === undefined) assert.equal(tokens, plain.tokens[i], `request ${i}`);
        else changed += tokens === plain.tokens[i] ? 0 : 1;
      });
      assert.deepEqual([...mixed.dropping].sort(), [...POLICIES].sort());
      assert.ok(changed > 0, "dropping four tokens of five shows in somebody's own answer");

      if (backend !== "wasm")
        assert.deepEqual(
          mixed.tokens,
          (await serve(list, { policy })).tokens,
          "and they are the wasm kernels'",
        );

      // What a request's own tokens are does not depend on who runs beside it.
      const alone = await serve(list, { backend, policy, maxRunning: 1 });
      assert.deepEqual(mixed.tokens, alone.tokens);
    });

    test("in a pool so small that requests are preempted and computed anew", async () => {
      const policy = (i: number): string | undefined => (i % 3 === 0 ? POLICIES[i % 2] : undefined);
      const longest = Math.max(...list.map(({ length }) => length));
      const setting = { backend, policy, blockSize: 4, maxNewTokens: 40 };
      const roomy = await serve(list, { ...setting, blocks: 8192 });
      const tight = await serve(list, { ...setting, blocks: Math.ceil((longest + 40) / 4) + 30 });
      assert.ok(tight.preemptions > 0);
      tight.tokens.forEach((tokens, i) => {
        // A preempted request that drops tokens sees its whole text again: only then may its own answer differ.
        if (policy(i) === undefined) assert.equal(tokens, roomy.tokens[i], `request ${i}`);
        assert.equal(tokens.split(" ").length, 40);
      });
    });

    test("a policy that keeps everything changes nothing at all", async () => {
      const full = await serve(list, { backend, policy: () => "full" });
      assert.deepEqual(full.tokens, plain.tokens);
    });
  });

/** Requests of one length, whose texts have nothing in common: what is compared is dropping, not sharing. */
class Pressure {
  readonly #promptTokens: number;
  readonly #setting: Setting;

  /** A pool of ten prompts; a step takes `batchTokens`, so that all are admitted before the first has ended. */
  constructor(promptTokens: number, batchTokens: number, maxNewTokens: number) {
    const blockSize = 4;
    const blocks = (promptTokens / blockSize) * 10;
    this.#promptTokens = promptTokens;
    this.#setting = { blocks, blockSize, maxRunning: 64, maxBatchTokens: batchTokens, maxNewTokens };
  }

  /** Requests that run at a time, mean over the 12 steps after the most did first: the pool is full, nobody has ended. */
  async running(requests: number, policy?: string): Promise<{ running: number; preemptions: number }> {
    const STEPS = 12;
    const mean = (running: readonly number[]): number | undefined => {
      const peak = running.indexOf(Math.max(...running));
      const after = running.slice(peak, peak + STEPS);
      return after.length < STEPS ? undefined : after.reduce((sum, count) => sum + count, 0) / STEPS;
    };
    const list = Array.from({ length: requests }, (_, i) => {
      const random = new Random(i + 1);
      return Array.from({ length: this.#promptTokens }, () => random.below(60));
    });
    const result = await serve(list, {
      ...this.#setting,
      ...(policy !== undefined && { policy: () => policy }),
      enough: (running) => mean(running) !== undefined,
    });
    return { running: mean(result.running)!, preemptions: result.preemptions };
  }
}

for (const [prompt, batchTokens, maxNewTokens] of [
  [520, 640, 60],
  // As long as the model's 1,024 positions allow.
  [976, 2560, 48],
] as const)
  test(`at a budget of 20 % of ${prompt} tokens the same pool runs at least 4.5 times as many requests at a time`, async (t) => {
    const pressure = new Pressure(prompt, batchTokens, maxNewTokens);
    const { running: whole } = await pressure.running(14);
    for (const policy of ["streaming-llm:ratio=0.2", "h2o:ratio=0.2"]) {
      const { running, preemptions } = await pressure.running(52, policy);
      t.diagnostic(`${prompt} tokens: ${whole.toFixed(1)} whole, ${running.toFixed(1)} under ${policy}`);
      assert.equal(preemptions, 0, "growth is left room for at admission");
      assert.ok(running >= 4.5 * whole, `${policy}: ${running} against ${whole}`);
    }
  });

test("what an engine cannot do for a policy is refused at once", async () => {
  const model = await openModel(TINY_RETRIEVAL, { backend: "wasm", blocks: 64, blockSize: 16 });
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 64, blockSize: 16, maxSequences: 4, maxSequenceTokens: 256 });
  const scheduler = core.scheduler({ cache, vocabSize: 64, maxRequests: 4, maxRunning: 2 });
  const shape = { cache, layers: 3, kvHeads: 2, capacity: 100, sequences: 2 };
  const selection = core.selection({ capacity: 1024 });
  const { executor } = model;
  const tokens = [1, 2, 3];
  const engineWith = (options: object): Engine => new Engine({ scheduler, executor, ...options });
  const refuses = (engine: Engine, evict: EvictionPolicy, code: string, maxNewTokens = 4): void =>
    assert.throws(() => engine.generate({ tokens, maxNewTokens, evict }), { code });

  const local = createPolicy(selection, "local", { budget: 8 });
  refuses(engineWith({}), local, "INVALID_ARGUMENT");
  const lanes = core.laneArena(shape);
  refuses(engineWith({ lanes }), createPolicy(selection, "h2o", { budget: 8 }), "UNSUPPORTED");
  refuses(engineWith({ lanes }), local, "TOO_LONG", 98);
  const still = { ...executor, describe: () => executor.describe(), move: undefined };
  refuses(new Engine({ scheduler, executor: still as never, lanes }), local, "UNSUPPORTED");
  for (const wrong of [
    core.laneArena({ ...shape, layers: 2 }),
    core.laneArena({ ...shape, sequences: 1 }),
    core.laneArena({ ...shape, cache: core.kvCache({ blocks: 8 }) }),
  ])
    assert.throws(() => engineWith({ lanes: wrong }), { code: "INVALID_ARGUMENT" });
});

test("a request that is aborted while its K and V move leaves nothing behind", async () => {
  const model = await openModel(TINY_RETRIEVAL, { backend: "wasm", blocks: 128, blockSize: 4 });
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 128, blockSize: 4, maxSequences: 4, maxSequenceTokens: 256 });
  const scheduler = core.scheduler({ cache, vocabSize: 64, maxRequests: 4, maxRunning: 2 });
  const lanes = core.laneArena({
    cache,
    layers: 3,
    kvHeads: 2,
    capacity: 256,
    sequences: 2,
    moveCapacity: 4,
  });
  const selection = core.selection({ capacity: 1024 });
  const end = new AbortController();
  let batches = 0;
  const inner = model.executor;
  const executor = {
    describe: () => inner.describe(),
    run: inner.run.bind(inner),
    close: () => inner.close(),
    move: async (moves: Uint32Array): Promise<void> => {
      batches += 1;
      if (batches === 3) end.abort();
      await inner.move!(moves);
    },
  };
  const engine = new Engine({ scheduler, executor, lanes });
  const tokens = Array.from({ length: 90 }, (_, i) => i % 60);
  const generate = async (signal?: AbortSignal): Promise<number[]> => {
    const evict = createPolicy(selection, "streaming-llm", { budget: 40 });
    const list: number[] = [];
    const request = { tokens, maxNewTokens: 12, evict, ...(signal && { signal }) };
    for await (const event of engine.generate(request)) list.push(event.token);
    return list;
  };
  await assert.rejects(generate(end.signal), { code: "ABORTED" });
  core.validate();
  assert.equal(lanes.size, 0);
  assert.equal(cache.stats().free, 128);
  assert.equal((await generate()).length, 12, "the engine serves on");

  // A failing move ends its request, and its request alone.
  executor.move = () => Promise.reject(new Error("no"));
  await assert.rejects(generate(), { code: "EXECUTOR_FAILED" });
  core.validate();
  assert.equal(cache.stats().free, 128);
  await engine.close();
});

/**
 * Requests that drop tokens and are swapped out in the middle of it come back as they were: K and V in their slots, positions,
 * planes and the policy's state; whatever the layout of their lanes, and with transfers that take their time or fail.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  Core,
  type CoreLanes,
  Engine,
  type KeptCache,
  PlaneMask,
  policyFromText,
  recordLanes,
  recordScheduler,
  replay,
  type TokenEvent,
} from "../../bindings/main.js";
import { loadAddon, openModel } from "../../native-host/executor/main.js";
import { BOS, tokensOf } from "../../sim/eviction/alphabet.js";
import { makeTask } from "../../sim/eviction/tasks.js";
import { TINY_RETRIEVAL } from "../support/package-root.js";
import { Random } from "../support/random.js";

const BLOCK = 8;
const POLICIES = [
  "h2o:ratio=0.3",
  "lazy-eviction:ratio=0.4,window=6",
  "cake:ratio=0.4,window=8",
  "snapkv:ratio=0.3,window=8",
  "random:ratio=0.3,every=4",
];

/** Those that want packed lanes with one table. */
const PACKED = [
  "streaming-llm:ratio=0.3,positions=cache",
  "h2o:ratio=0.5,unit=block",
  "elastic-cache:ratio=0.5,countBias=true",
];

/** Keeps its first blocks where they are. */
const SINKS = "streaming-llm:budget=96,sinks=32";

interface Setting {
  readonly backend?: "wasm" | "cpu";
  readonly compaction?: "dense" | "lazy";
  readonly folded?: boolean;
  /** Urgent requests come in between. */
  readonly disturbed: boolean;
  readonly hostBlocks?: number;
  readonly swapIn?: "async" | "sync";
  readonly blocks?: number;
  /** Turns of the event loop that a transfer takes. */
  readonly turns?: number;
  /** Of 100 transfers, how many arrive in part. */
  readonly failures?: number;
  /** All have one prompt, which one that drops nothing has left in the prefix cache. */
  readonly shared?: boolean;
  /** Each request goes on from what is kept of one before it. */
  readonly chained?: boolean;
  /** Requests are aborted at random. */
  readonly aborts?: Random;
  readonly write?: (line: string) => void;
  readonly build?: "core" | "debug";
}

async function serve(setting: Setting) {
  const { disturbed, folded = false, compaction = "dense", hostBlocks = 300, blocks = 96 } = setting;
  const { backend = "wasm" } = setting;
  const { executor } = await openModel(TINY_RETRIEVAL, {
    backend,
    blocks,
    blockSize: BLOCK,
    hostBlocks,
    ...(backend === "cpu" && { threads: 2 }),
  });
  const random = new Random(5);
  const { transfer } = executor;
  executor.transfer = async function (records) {
    for (let turn = random.below((setting.turns ?? 0) + 1); turn > 0; turn--) await nextTurn();
    if (random.below(100) < (setting.failures ?? 0)) return 0;
    return transfer!.call(this, records);
  };
  const { layers, kvHeads } = executor.describe();
  const setup = {
    seed: 2,
    cache: { blocks, blockSize: BLOCK, maxSequences: 20, maxSequenceTokens: 1024 },
    scheduler: {
      vocabSize: 64,
      maxRequests: 24,
      maxRunning: setting.shared ? 3 : 8,
      maxBatchTokens: 1024,
      watermarkBlocks: 0,
      policy: "priority",
      preemptive: true,
      hostTier: { blocks: hostBlocks, swapIn: setting.swapIn },
    },
  } as const;
  const scheduler = await recordScheduler(setup, setting.write ?? (() => undefined), {
    build: setting.build ?? "core",
  });
  const { core, cache } = scheduler;
  const planes = PlaneMask.SCORE | PlaneMask.LAST_IMP | PlaneMask.MRI | PlaneMask.AUX;
  const lanes = core.laneArena({ cache, layers, kvHeads, capacity: 1024, planes, folded, sequences: 8 });
  recordLanes(scheduler, lanes);
  const selection = core.selection({ capacity: 4 * kvHeads * 1024 });
  let prefilled = 0;
  let preempted = 0;
  const engine = new Engine({
    scheduler,
    executor,
    lanes,
    onStep: (step) => {
      prefilled += step.prefillTokens;
      preempted += step.preempted;
      if (setting.build === "debug") core.validate();
    },
  });
  const isPacked = backend === "wasm" && !folded && compaction === "dense";
  const ofOwn = isPacked ? [...POLICIES, ...PACKED] : POLICIES;
  const policies = setting.shared ? ofOwn.map(() => SINKS) : ofOwn;
  const prompts = policies.map((_, i) =>
    setting.shared ? promptOf(60, 160) : promptOf(60 + i, 110 + 10 * i),
  );
  let urgent: Promise<unknown>[] = [];
  /** Takes nearly the whole pool for a few steps, or only a row. */
  const press = async (seed: number): Promise<void> => {
    for await (const event of engine.generate({
      tokens: promptOf(seed, setting.shared ? 64 : BLOCK * (blocks - 30)),
      maxNewTokens: 3,
      priority: 0,
    }))
      assert.ok(event.token < 64);
  };
  if (setting.shared)
    for await (const event of engine.generate({ tokens: prompts[0], maxNewTokens: 1 }))
      assert.ok(event.token < 64);
  const answers = await Promise.all(
    prompts.map(async (tokens, i) => {
      const list: number[] = [];
      const evict = policyFromText(selection, policies[i]);
      const stop = new AbortController();
      let kept: KeptCache | undefined;
      const common = { priority: 9, signal: stop.signal, sharePrefix: setting.shared };
      /** A request, or two, the second one on what the first one has kept. */
      async function* answered(): AsyncGenerator<TokenEvent> {
        if (!setting.chained)
          return yield* engine.generate({ ...common, tokens, maxNewTokens: 60, evict, compaction });
        for await (const event of engine.generate({
          ...common,
          tokens,
          maxNewTokens: 25,
          evict,
          keep: true,
        })) {
          kept = event.kept;
          yield event;
        }
        yield* engine.generate({ ...common, tokens: tokensOf("?ab37;?"), maxNewTokens: 35, from: kept });
      }
      try {
        for await (const event of answered()) {
          list.push(event.token);
          if (disturbed && i === 0 && event.index % (setting.shared ? 6 : 20) === (setting.shared ? 5 : 9))
            urgent.push(press(90 + event.index));
          if (setting.aborts?.below(200) === 0) stop.abort();
        }
      } catch (error) {
        assert.equal((error as { code?: string }).code, "ABORTED");
      }
      return list.join(" ");
    }),
  );
  await Promise.all(urgent);
  urgent = [];
  await engine.close();
  core.validate();
  const tier = scheduler.hostTier!;
  cache.forget();
  assert.equal(cache.stats().free, blocks, "every block of the pool is free again");
  assert.equal(lanes.size, 0);
  return { answers, tier, prefilled, preempted, prompted: prompts.flat().length };
}

function promptOf(seed: number, length: number): number[] {
  return [BOS, ...tokensOf(makeTask("kv", { seed, length }).context)];
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

const LAYOUTS = [{}, { compaction: "lazy" }, { folded: true }] as const;
const native = loadAddon();
const RUNS = [
  ...LAYOUTS.flatMap((layout) => [0, 12].map((turns) => ({ ...layout, turns, backend: "wasm" as const }))),
  ...LAYOUTS.map((layout) => ({ ...layout, turns: 3, backend: "cpu" as const })),
  ...LAYOUTS.map((layout) => ({ ...layout, turns: 3, backend: "wasm" as const, swapIn: "sync" as const })),
];
for (const { turns, ...layout } of RUNS) {
  const name = JSON.stringify({ ...layout, turns });
  const skip = layout.backend === "cpu" && "reason" in native && native.reason;
  test(
    `lanes survive swap: the tokens of an undisturbed run, and every block back on both tiers: ${name}`,
    { skip },
    async (t) => {
      const alone = await serve({ ...layout, disturbed: false, blocks: 256 });
      const lines: string[] = [];
      const swapped = await serve({ ...layout, disturbed: true, turns, write: (line) => lines.push(line) });
      const { tier } = swapped;
      t.diagnostic(
        `${swapped.preempted} preemptions, ${tier.swapOuts} out, ${tier.swapIns} in, ${tier.loadedBlocks} blocks back`,
      );
      assert.deepEqual(swapped.answers, alone.answers);
      // Slow transfers are overtaken: their requests find their blocks still there.
      const least = turns === 0 ? 3 : 1;
      assert.ok(tier.swapIns >= least && tier.loadedBlocks >= 5 * least, "requests were read back");
      assert.equal(tier.failures, 0);
      assert.equal(tier.free, tier.blocks, "every block of the host tier is free again");
      const { mismatch } = await replay(lines, { build: "debug" });
      assert.equal(mismatch, undefined);
    },
  );
}

for (const folded of [false, true])
  test(`kept caches and those who go on from them survive swap as well, folded ${folded}`, async (t) => {
    const alone = await serve({ folded, chained: true, disturbed: false, blocks: 256 });
    const swapped = await serve({ folded, chained: true, disturbed: true, turns: 2 });
    t.diagnostic(`${swapped.tier.swapOuts} out, ${swapped.tier.swapIns} in`);
    assert.deepEqual(swapped.answers, alone.answers);
    assert.ok(swapped.tier.swapIns > 0);
    assert.equal(swapped.tier.free, swapped.tier.blocks);
  });

test("lanes that left the core come back as they were, in another slab, for another sequence; a copy of what was in use", async () => {
  const random = new Random(8);
  const core = await Core.create({ build: "debug" });
  const cache = core.kvCache({ blocks: 64, blockSize: 4, maxSequences: 4, maxSequenceTokens: 128 });
  const planes = PlaneMask.SCORE | PlaneMask.MRI;
  const arena = core.laneArena({ cache, layers: 2, kvHeads: 2, capacity: 128, planes, sequences: 1 });
  const opened = (count: number) => {
    const sequence = cache.open({ tokens: [], lossy: true });
    cache.reserve(sequence, count);
    cache.append(sequence, new Uint32Array(count));
    return sequence;
  };
  const stateOf = (lanes: CoreLanes) =>
    [0, 1, 2, 3].map((i) => {
      const { length, hole, pos, score, mri } = lanes.lane(i >> 1, i & 1);
      return [length, hole, ...[pos, score!, mri!].map((plane) => [...plane.subarray(0, length)])];
    });
  for (let round = 0; round < 20; round++) {
    const first = opened(40);
    const lanes = arena.open(first, round % 2 === 1);
    lanes.append(40);
    for (let i = 0; i < 4; i++)
      for (let slot = 0; slot < 40; slot++) lanes.lane(i >> 1, i & 1).score![slot] = random.below(1000);
    const keep = [0, 1, 2, 3].map(() => Uint32Array.from(Array(40).keys()).filter(() => random.below(3) > 0));
    const plan = lanes.plan({ keep });
    plan.allMoves();
    plan.commit();
    if (round % 4 === 0) {
      const reuse = lanes.plan({
        keep: [null, null, null, null],
        inPlace: { victim: Uint32Array.of(3, 1, 0, 2) },
      });
      reuse.commit();
    }
    const before = stateOf(lanes);
    const saved = lanes.suspend();
    assert.equal(saved.seen, 40);
    assert.ok(saved.bytes < 4 * 40 * 3 * 4 + 4 * 32 + 1, "no more than the slots in use");
    assert.throws(() => lanes.append(1), { code: "INVALID_ARGUMENT" });
    cache.close(first);
    // Others use the slab meanwhile.
    const other = opened(9);
    const others = arena.open(other);
    others.append(9);
    assert.throws(() => arena.resume(saved, other), { code: "OUT_OF_SEQUENCES" });
    others.close();
    cache.close(other);
    const second = opened(40);
    const back = arena.resume(saved, second);
    assert.deepEqual(stateOf(back), before);
    assert.equal(back.seen, 40);
    assert.equal(back.bySlot, round % 2 === 1);
    back.close();
    cache.close(second);
  }
  core.validate();
});

test("what is lost on the way is computed anew, and nothing stays behind, with aborts at any time", async (t) => {
  let [failures, swapIns] = [0, 0];
  for (let seed = 0; seed < 12; seed++) {
    const { tier } = await serve({
      ...LAYOUTS[seed % 3],
      disturbed: true,
      turns: 9,
      failures: 40,
      swapIn: seed % 2 === 0 ? "async" : "sync",
      hostBlocks: seed % 4 < 3 ? 300 : 40,
      aborts: new Random(seed),
      build: "debug",
    });
    failures += tier.failures;
    swapIns += tier.swapIns;
    assert.equal(tier.free, tier.blocks);
  }
  t.diagnostic(`${swapIns} read back, ${failures} transfers failed`);
  assert.ok(failures > 2 && swapIns > 2);
});

test("blocks of a shared prefix that requests that drop tokens send are counted on by nobody else", async (t) => {
  const { tier } = await serve({ disturbed: true, shared: true, turns: 20, build: "debug" });
  t.diagnostic(`${tier.swapOuts} sent, ${tier.keptBlocks} blocks kept`);
  assert.ok(tier.swapOuts > 2);
});

test("a tier without room for all of a request takes none of it", async () => {
  const { tier, preempted } = await serve({ disturbed: true, hostBlocks: 2 });
  assert.ok(preempted > 0);
  assert.equal(tier.swapOuts, 0);
});

/**
 * Positions by place in the cache: keys that turn as they move give what keys give that are cached before their rotation and
 * rotated by their place whenever they are read.
 */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { after, test } from "node:test";
import {
  Core,
  Engine,
  type GenerateRequest,
  PlaneMask,
  policyFromText,
  recordLanes,
  recordScheduler,
  replay,
} from "../../bindings/main.js";
import { openModel } from "../../native-host/executor/main.js";
import { BOS, tokensOf } from "../../sim/eviction/alphabet.js";
import { Lab } from "../../sim/eviction/lab.js";
import { makeTask } from "../../sim/eviction/tasks.js";
import { openLab } from "../support/lab.js";
import { writeModel } from "../support/model-fixtures.js";
import { NaiveModel } from "../support/naive-forward.js";
import { TINY_RETRIEVAL } from "../support/package-root.js";
import { relativeDifference } from "../support/run-tokens.js";

const fixture = writeModel();
const selection = (await Core.create()).selection({ capacity: 4096 });
const lab = await openLab();
after(() => {
  rmSync(fixture.directory, { recursive: true });
  return lab.executor.close();
});

/** A key of halves that are pairs, turned by some positions. */
function turned(key: readonly number[], positions: number): number[] {
  const half = key.length / 2;
  const out = [...key];
  for (let i = 0; i < half; i++) {
    const angle = positions * 10_000 ** ((-2 * i) / key.length);
    out[i] = key[i] * Math.cos(angle) - key[i + half] * Math.sin(angle);
    out[i + half] = key[i + half] * Math.cos(angle) + key[i] * Math.sin(angle);
  }
  return out;
}

test("streaming: logits are those of keys cached before their rotation and rotated by their place", async (t) => {
  const { executor } = await openModel(fixture.directory, {
    backend: "wasm",
    blocks: 64,
    blockSize: 4,
    returnLogits: true,
  });
  const own = new Lab(executor, 4);
  const text = "streaming-llm:budget=12,sinks=2";
  const prompt = Array.from({ length: 21 }, (_, i) => (i * 7 + 3) % 40);
  const sequence = own.open(policyFromText(selection, `${text},positions=cache`), prompt.length);
  const original = own.open(policyFromText(selection, text), prompt.length);
  const naive = new NaiveModel(fixture);
  /** [lane][slot] keys before their rotation. */
  const raw: number[][][] = naive.lanes.map(() => []);
  const feed = (tokens: readonly number[]): number[] => {
    const first = raw[0].length;
    const { logits } = naive.forward(tokens, first);
    naive.lanes.forEach(({ keys }, lane) => {
      for (let slot = first; slot < keys.length; slot++) raw[lane][slot] = turned(keys[slot], -slot);
      const stays = keys.map((_, slot) => slot).filter((slot) => slot < 2 || slot >= keys.length - 10);
      naive.keep(lane, stays);
      raw[lane] = stays.map((slot) => raw[lane][slot]);
      naive.lanes[lane].keys = raw[lane].map(turned);
    });
    return logits.at(-1)!;
  };
  const differences: number[] = [];
  const others: number[] = [];
  const compare = (got: Float32Array, other: Float32Array, expected: number[]): void => {
    differences.push(relativeDifference(got, Float32Array.from(expected)));
    others.push(relativeDifference(got, other));
  };
  const [before, beforeOther] = [await sequence.prefill(prompt), await original.prefill(prompt)];
  compare(before, beforeOther, feed(prompt));
  for (let step = 0; step < 60; step++) {
    const token = (step * 11 + 5) % 40;
    compare(await sequence.feed(token), await original.feed(token), feed([token]));
  }
  const [worst, otherwise] = [Math.max(...differences), Math.max(...others)];
  t.diagnostic(
    `at most ${worst.toExponential(1)} from the naive logits, ${otherwise.toFixed(2)} from original positions`,
  );
  assert.ok(worst < 1e-4);
  assert.ok(otherwise > 1e-2, "the two ways differ");
  await executor.close();
});

test("without sinks nothing but distances counts: both ways give the same logits", async () => {
  const { context } = makeTask("needle", { seed: 5, length: 150 });
  const prompt = [BOS, ...tokensOf(context)];
  for (const text of ["local:budget=40", "local:budget=44,every=4", "local:budget=48,unit=block,block=16"]) {
    const turning = lab.open(policyFromText(selection, `${text},positions=cache`), prompt.length);
    const original = lab.open(
      policyFromText(selection, text.replace(",unit=block,block=16", "")),
      prompt.length,
    );
    if (!text.includes("unit")) {
      await turning.prefill(prompt);
      await original.prefill(prompt);
      for (const token of tokensOf("?ab37;cd05;ef11;gh28;?cd05;")) {
        const [a, b] = [await turning.feed(token), await original.feed(token)];
        assert.ok(relativeDifference(a, b) < 2e-4, `${text}: ${relativeDifference(a, b)}`);
      }
    } else await turning.prefill(prompt);
    turning.close();
    original.close();
  }
  assert.equal(lab.freeBlocks, 256);
});

const promptOf = (seed: number, length: number): number[] => [
  BOS,
  ...tokensOf(makeTask("needle", { seed, length }).context),
];

async function setUp(options: { folded?: boolean; write?: (line: string) => void; rotates?: boolean } = {}) {
  const blocks = 96;
  const { executor } = await openModel(TINY_RETRIEVAL, { backend: "wasm", blocks, blockSize: 8 });
  if (options.rotates === false) {
    const { describe } = executor;
    executor.describe = () => ({ ...describe.call(executor), rotates: false, slotBias: false });
  }
  const setup = {
    seed: 1,
    cache: { blocks, blockSize: 8, maxSequences: 8, maxSequenceTokens: 1024 },
    scheduler: { vocabSize: 64, maxRequests: 8, maxRunning: 4, watermarkBlocks: 0 },
  };
  const scheduler = await recordScheduler(setup, options.write ?? (() => undefined), { build: "debug" });
  const { core, cache } = scheduler;
  const lanes = core.laneArena({
    cache,
    layers: 3,
    kvHeads: 2,
    capacity: 1024,
    planes: PlaneMask.SCORE | PlaneMask.AUX,
    folded: options.folded ?? false,
    sequences: 6,
  });
  recordLanes(scheduler, lanes);
  const own = core.selection({ capacity: 8192 });
  const engine = new Engine({ scheduler, executor, lanes });
  const ask = async (request: GenerateRequest): Promise<number[]> => {
    const list: number[] = [];
    for await (const event of engine.generate(request)) list.push(event.token);
    return list;
  };
  return { core, cache, lanes, engine, ask, make: (text: string) => policyFromText(own, text) };
}

/** What the lab answers to a prompt under a policy, greedily. */
async function alone(text: string, prompt: readonly number[], count: number): Promise<number[]> {
  const sequence = lab.open(policyFromText(selection, text), prompt.length);
  let logits = await sequence.prefill(prompt);
  const list: number[] = [];
  while (list.length < count) {
    const token = logits.indexOf(Math.max(...logits));
    list.push(token);
    logits = await sequence.feed(token);
  }
  sequence.close();
  return list;
}

test("an engine serves both ways side by side, each as if alone; records replay", async () => {
  const texts = [
    "streaming-llm:budget=60,positions=cache",
    "streaming-llm:budget=60",
    "h2o:budget=60,positions=cache",
    "h2o:budget=60,every=6,positions=cache",
    "elastic-cache:ratio=0.5,countBias=true",
  ];
  const lines: string[] = [];
  const { core, cache, lanes, engine, ask, make } = await setUp({ write: (line) => lines.push(line) });
  const prompts = texts.map((_, i) => promptOf(20 + i, 150 + 20 * i));
  const answers = await Promise.all(
    texts.map((text, i) => ask({ tokens: prompts[i], maxNewTokens: 40, evict: make(text) })),
  );
  for (const [i, text] of texts.entries())
    assert.deepEqual(answers[i], await alone(text, prompts[i], 40), text);
  await engine.close();
  assert.equal(lanes.size, 0);
  cache.forget();
  assert.equal(cache.stats().free, cache.blocks);
  core.validate();
  assert.ok(lines.some((line) => line.includes('"bySlot":true')));
  assert.equal((await replay(lines, { build: "core" })).mismatch, undefined);
});

test("what cannot be turned, or weighed, is refused", async () => {
  const tokens = promptOf(2, 80);
  const refused = (code: string) => ({ code });
  const streaming = "streaming-llm:budget=40,positions=cache";
  const plain = await setUp();
  const one = { tokens, maxNewTokens: 2 };
  for (const [text, more] of [
    [streaming, { compaction: "lazy" }],
    ["streaming-llm:total=300,weights=3/2/1,positions=cache", {}],
    ["elastic-cache:ratio=0.5,countBias=true", { compaction: "lazy" }],
  ] as const)
    await assert.rejects(
      plain.ask({ ...one, evict: plain.make(text), ...more }),
      refused("UNSUPPORTED"),
      text,
    );
  await plain.engine.close();
  for (const options of [{ folded: true }, { rotates: false }]) {
    const { ask, make, engine } = await setUp(options);
    await assert.rejects(ask({ ...one, evict: make(streaming) }), refused("UNSUPPORTED"));
    if (options.rotates === false)
      await assert.rejects(
        ask({ ...one, evict: make("elastic-cache:ratio=0.5,countBias=true") }),
        refused("UNSUPPORTED"),
      );
    await engine.close();
  }
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 8, blockSize: 4, maxSequences: 1, maxSequenceTokens: 32 });
  const arena = core.laneArena({ cache, layers: 1, kvHeads: 1, capacity: 32, sequences: 1 });
  const sequence = cache.open({ tokens: [], lossy: true });
  const lanes = arena.open(sequence, true);
  cache.reserve(sequence, 8);
  cache.append(sequence, new Uint32Array(8));
  lanes.append(8);
  const inPlace = { victim: Uint32Array.of(2) };
  assert.throws(() => lanes.plan({ keep: [null], inPlace }), refused("INVALID_ARGUMENT"));
  const plan = lanes.plan({ keep: [Uint32Array.of(0, 1, 4, 5, 6, 7)] });
  // Four slots from 4 on go to 2: two back, in two records; a whole block that goes does not spare the turn.
  assert.deepEqual(
    [...plan.allMoves()].filter((_, i) => i % 8 === 7),
    [4, 4],
  );
  plan.commit();
  assert.throws(() => arena.open(sequence, true), refused("OUT_OF_SEQUENCES"));
});

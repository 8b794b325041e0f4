/**
 * Contexts shared by requests that drop tokens, through the engine: requests that start from the cached prefix and drop of
 * their own copy, turns that go on from what an earlier one kept, and requests that fork it. On the wasm executor and the
 * small model.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  Core,
  Engine,
  type GenerateRequest,
  type KeptCache,
  PlaneMask,
  policyFromText,
  type TokenEvent,
} from "../../bindings/main.js";
import { openModel } from "../../native-host/executor/main.js";
import { BOS, characterOf, tokensOf } from "../../sim/eviction/alphabet.js";
import { makeTask } from "../../sim/eviction/tasks.js";
import { TINY_RETRIEVAL } from "../support/package-root.js";

async function setUp(options: { blocks?: number; blockSize?: number; maxBatchTokens?: number } = {}) {
  const { blocks = 256, blockSize = 16, maxBatchTokens = 256 } = options;
  const { executor } = await openModel(TINY_RETRIEVAL, { backend: "wasm", blocks, blockSize });
  const { layers, kvHeads } = executor.describe();
  const core = await Core.create({ build: "debug" });
  const cache = core.kvCache({ blocks, blockSize, maxSequences: 16, maxSequenceTokens: 1024 });
  const scheduler = core.scheduler({
    cache,
    vocabSize: 64,
    maxRequests: 16,
    maxRunning: 8,
    maxBatchTokens,
    watermarkBlocks: 0,
  });
  const planes = PlaneMask.SCORE | PlaneMask.LAST_IMP | PlaneMask.MRI;
  const lanes = core.laneArena({ cache, layers, kvHeads, capacity: 1024, planes, sequences: 16 });
  const selection = core.selection({ capacity: 4 * kvHeads * 1024 });
  const engine = new Engine({ scheduler, executor, lanes });
  const policy = (text: string) => policyFromText(selection, text);
  /** Everything has come back. */
  const end = async (): Promise<void> => {
    assert.equal(lanes.size, 0, "every slab has been given back");
    cache.forget();
    assert.equal(cache.stats().free, blocks, "every block is free again");
    core.validate();
    await engine.close();
  };
  return { engine, cache, scheduler, lanes, policy, end };
}

async function read(
  stream: AsyncIterable<TokenEvent>,
): Promise<{ text: string; kept: KeptCache | undefined }> {
  let text = "";
  let kept: KeptCache | undefined;
  for await (const event of stream) {
    text += characterOf(event.token);
    kept = event.kept ?? kept;
  }
  return { text, kept };
}

const POLICIES = [
  "snapkv:ratio=0.25,window=8",
  "tova:ratio=0.3",
  "streaming-llm:ratio=0.3",
  "keydiff:ratio=0.3",
  "cake:ratio=0.3,window=8",
  "compresskv:ratio=0.3,window=8",
  "lazy-eviction:ratio=0.3,window=4",
];

describe("requests that share a prefix and drop tokens", () => {
  for (const text of POLICIES)
    test(`${text}: from the cached prefix as from nothing, and the prefix stays for others`, async () => {
      const { engine, cache, policy, end } = await setUp();
      const { context, questions } = makeTask("kv", { seed: 5, length: 300, questions: 3 });
      const prompts = questions.map((question) => [BOS, ...tokensOf(context + question.text)]);
      const ask = (tokens: number[], options: Partial<GenerateRequest>) =>
        read(engine.generate({ tokens, maxNewTokens: 12, ...options }));
      const alone: string[] = [];
      for (const tokens of prompts) alone.push((await ask(tokens, { evict: policy(text) })).text);
      assert.equal(cache.stats().hitTokens, 0, "without sharePrefix nothing is reused");

      const [full] = [await ask(prompts[0], {})];
      const shared = await Promise.all(
        prompts.map((tokens) => ask(tokens, { evict: policy(text), sharePrefix: true })),
      );
      assert.deepEqual(
        shared.map((answer) => answer.text),
        alone,
      );
      const prefix = Math.floor((prompts[0].length - 8) / 16) * 16;
      assert.ok(
        cache.stats().hitTokens >= 3 * Math.min(prefix, 288),
        `${cache.stats().hitTokens} tokens reused`,
      );
      assert.equal((await ask(prompts[0], {})).text, full.text, "nobody has written to the shared blocks");
      await end();
    });

  test("a first request with sharePrefix publishes its prompt for those that come after it", async () => {
    const { engine, cache, policy, end } = await setUp();
    const { context } = makeTask("kv", { seed: 6, length: 300 });
    const tokens = [BOS, ...tokensOf(`${context}?ab`)];
    const evict = (): GenerateRequest["evict"] => policy("snapkv:ratio=0.25,window=8");
    const first = await read(engine.generate({ tokens, maxNewTokens: 8, evict: evict(), sharePrefix: true }));
    assert.equal(cache.stats().hitTokens, 0);
    const second = await read(
      engine.generate({ tokens, maxNewTokens: 8, evict: evict(), sharePrefix: true }),
    );
    assert.ok(cache.stats().hitTokens >= 272);
    assert.equal(second.text, first.text);
    await end();
  });

  for (const text of ["streaming-llm:budget=64", "snapkv:budget=64,window=8"])
    test(`${text}: admission leaves room for the copies: requests in a small pool wait instead of failing`, async () => {
      // 20 blocks of prompt; survivors take 5 beside them, or what grows without bound cannot share at all.
      const { engine, policy, end } = await setUp({ blocks: 34 });
      const { context, questions } = makeTask("kv", { seed: 7, length: 300, questions: 6 });
      const answers = await Promise.all(
        questions.map((question) => {
          const tokens = [BOS, ...tokensOf(context + question.text)];
          return read(engine.generate({ tokens, maxNewTokens: 10, evict: policy(text), sharePrefix: true }));
        }),
      );
      assert.ok(answers.every((answer) => answer.text.length === 10));
      await end();
    });
});

describe("caches that outlive their requests", () => {
  const TURNS = [
    "snapkv:ratio=0.5,window=8",
    "h2o:ratio=0.3",
    "h2o:ratio=0.3,mode=ring",
    "streaming-llm:ratio=0.4",
    "full",
  ];
  for (const text of TURNS)
    test(`${text}: turns compute only what is new, and stay within the budget`, async () => {
      const { engine, scheduler, policy, end } = await setUp();
      const { context, questions } = makeTask("kv", { seed: 8, length: 300, questions: 4 });
      const prompt = [BOS, ...tokensOf(context + questions[0].text)];
      let { text: said, kept } = await read(
        engine.generate({ tokens: prompt, maxNewTokens: 3, evict: policy(text), keep: true }),
      );
      const answers = [said];
      const budget =
        text === "full" ? Infinity : Math.floor(prompt.length * Number(/ratio=([\d.]+)/.exec(text)![1]));
      let cachedTokens = 0;
      const { commit } = scheduler;
      scheduler.commit = function (...args) {
        commit.apply(this, args);
        for (const outcome of this.outcomes())
          if (outcome.kind === "finished") cachedTokens = outcome.cachedTokens;
      };
      for (const question of questions.slice(1)) {
        const before = kept!.tokens.length;
        const stream = engine.generate({
          tokens: tokensOf(question.text),
          maxNewTokens: 3,
          from: kept!,
          keep: true,
        });
        assert.ok(!kept!.isOpen, "used up");
        ({ text: said, kept } = await read(stream));
        assert.equal(cachedTokens, before - 1, "everything but the last token was there");
        assert.equal(kept!.tokens.length, before + question.text.length + 3);
        assert.ok(
          Math.max(...kept!.lengths()) <= budget + 16,
          `${kept!.lengths()} slots, ${budget} of them the budget`,
        );
        answers.push(said);
      }
      if (text === "full")
        answers.forEach((answer, i) =>
          assert.ok(answer.startsWith(questions[i].answer), `turn ${i}: ${answer}`),
        );
      kept!.close();
      kept!.close();
      assert.throws(() => engine.generate({ tokens: [1], maxNewTokens: 1, from: kept! }), {
        argument: "from",
      });
      await end();
    });

  for (const text of ["snapkv:ratio=0.5,window=8", "h2o:ratio=0.3", "full"])
    test(`${text}: forks of one cache answer as if each were alone, on shared blocks`, async () => {
      const { engine, cache, policy, end } = await setUp();
      const { context, questions } = makeTask("kv", { seed: 9, length: 300, questions: 3 });
      const tokens = [BOS, ...tokensOf(context)];
      const keep = async (): Promise<KeptCache> =>
        (await read(engine.generate({ tokens, maxNewTokens: 1, evict: policy(text), keep: true }))).kept!;
      const ask = async (from: KeptCache, question: string): Promise<string> =>
        (await read(engine.generate({ tokens: tokensOf(question), maxNewTokens: 8, from }))).text;
      const alone: string[] = [];
      for (const { text: question } of questions) alone.push(await ask(await keep(), question));

      const kept = await keep();
      const before = cache.stats().free;
      const forks: KeptCache[] = [];
      for (const _ of questions) forks.push(await engine.fork(kept, policy(text)));
      const own = before - cache.stats().free;
      assert.ok(
        own <= questions.length * (text.startsWith("h2o") ? kept.blocks : 1),
        `${own} blocks for three copies`,
      );
      const answers = await Promise.all(questions.map(({ text: question }, i) => ask(forks[i], question)));
      assert.deepEqual(answers, alone);
      assert.equal(await ask(kept, questions[0].text), alone[0], "the original is as it was");
      await end();
    });

  test("a request that goes on from a cache and is preempted begins anew, and others keep their tokens", async () => {
    const { engine, policy, end } = await setUp({ blocks: 60, blockSize: 8 });
    const { context, questions } = makeTask("kv", { seed: 10, length: 200, questions: 2 });
    const tokens = [BOS, ...tokensOf(context)];
    const { kept } = await read(
      engine.generate({ tokens, maxNewTokens: 1, evict: policy("snapkv:ratio=0.5,window=8"), keep: true }),
    );
    const plain = [BOS, ...tokensOf(makeTask("kv", { seed: 11, length: 150 }).context)];
    const [turn, ...others] = await Promise.all([
      read(engine.generate({ tokens: tokensOf(questions[0].text), maxNewTokens: 60, from: kept! })),
      read(engine.generate({ tokens: plain, maxNewTokens: 60 })),
      read(engine.generate({ tokens: plain.slice(0, 100), maxNewTokens: 60 })),
    ]);
    assert.equal(turn.text.length, 60);
    assert.ok(others.every(({ text }) => text.length === 60));
    await end();
  });

  test("aborted, refused, or left: nothing stays behind", async () => {
    const { engine, lanes, scheduler, policy, end } = await setUp();
    const tokens = [BOS, ...tokensOf(makeTask("kv", { seed: 12, length: 200 }).context)];
    const evict = (): GenerateRequest["evict"] => policy("h2o:ratio=0.3");
    const refused = (request: Partial<GenerateRequest>): void =>
      assert.throws(() => engine.generate({ tokens, maxNewTokens: 4, ...request }), {
        code: "INVALID_ARGUMENT",
      });
    refused({ keep: true });
    refused({ sharePrefix: true });
    const { kept } = await read(engine.generate({ tokens, maxNewTokens: 2, evict: evict(), keep: true }));
    refused({ from: kept!, evict: evict()! });
    refused({ from: kept!, tokens: [] });
    assert.ok(kept!.isOpen, "a refusal leaves it");
    const end1 = new AbortController();
    const going = read(
      engine.generate({ tokens: [5], maxNewTokens: 400, from: kept!, keep: true, signal: end1.signal }),
    );
    setTimeout(() => end1.abort(), 5);
    await assert.rejects(going, { code: "ABORTED" });
    assert.equal(lanes.size, 0);
    const id = scheduler.submit({ tokens, maxNewTokens: 3 });
    assert.throws(() => scheduler.lanes(id, { share: true }), { code: "INVALID_ARGUMENT" });
    scheduler.abort(id);
    assert.throws(() => scheduler.lanes(id, { share: true }), { code: "UNKNOWN_REQUEST" });
    await end();
  });
});

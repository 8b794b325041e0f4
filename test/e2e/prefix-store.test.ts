/** A prefix stored by one engine is loaded by another, after a restart: the same tokens, without computing it again. */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { Core, Engine, type KvCache } from "../../bindings/main.js";
import {
  type Backend,
  DiskTier,
  loadAddon,
  openModel,
  PrefixStore,
} from "../../native-host/executor/main.js";
import { TINY_RETRIEVAL } from "../support/package-root.js";

const addon = loadAddon();
const backends: readonly (readonly [Backend, string | false])[] = [
  ["cpu", "reason" in addon ? addon.reason : false],
  ["wasm", false],
];
const base = mkdtempSync(join(tmpdir(), "prefix-store-"));
after(() => rmSync(base, { recursive: true, force: true }));

interface Process {
  readonly engine: Engine;
  readonly tier: DiskTier;
  readonly store: PrefixStore;
  readonly cache: KvCache;
  /** Tokens that the executor has computed. */
  readonly computed: () => number;
}

/** Everything that a process has, over the same directory as the one before it. */
async function start(backend: Backend, folder: string, blocks = 256, partialReuse = 0): Promise<Process> {
  const model = await openModel(TINY_RETRIEVAL, { backend, blocks, blockSize: 16 });
  const core = await Core.create();
  const cache = core.kvCache({
    blocks,
    blockSize: 16,
    maxSequences: 8,
    maxSequenceTokens: 1024,
    partialReuse,
  });
  const scheduler = core.scheduler({
    cache,
    vocabSize: 64,
    maxRequests: 8,
    maxRunning: 4,
    maxBatchTokens: 128,
  });
  let computed = 0;
  const engine = new Engine({
    scheduler,
    executor: model.executor,
    onStep: (report) => (computed += report.decodeTokens + report.prefillTokens),
  });
  const tier = await DiskTier.open(join(base, folder), { capacityBytes: 2 ** 30, fsync: "never" });
  const store = new PrefixStore({ engine, tier, model: "tiny-retrieval, f32", minLoadTokens: 16 });
  return { engine, tier, store, cache, computed: () => computed };
}

async function stop({ engine, tier, cache }: Process): Promise<void> {
  cache.core.validate();
  await engine.close();
  await tier.close();
}

async function generate({ engine }: Process, tokens: number[]): Promise<number[]> {
  const out: number[] = [];
  for await (const event of engine.generate({ tokens, maxNewTokens: 24 })) out.push(event.token);
  return out;
}

/** A prompt of the model's own alphabet. */
const prompt = Array.from({ length: 300 }, (_, i) => 3 + ((i * 7 + (i >> 3) * 5) % 50));

for (const [backend, skip] of backends) {
  test(
    `${backend}: a stored prefix is loaded after a restart and gives the same tokens without being computed`,
    { skip },
    async () => {
      const first = await start(backend, backend);
      assert.equal(await first.store.load(prompt), 0, "nothing is stored yet");
      const expected = await generate(first, prompt);
      assert.ok(first.computed() >= prompt.length);
      const stored = await first.store.save([...prompt, ...expected]);
      assert.equal(stored, Math.floor((prompt.length + expected.length - 1) / 16));
      assert.equal(await first.store.save([...prompt, ...expected]), 0, "once");
      await stop(first);

      const second = await start(backend, backend);
      const loaded = await second.store.load(prompt);
      assert.equal(loaded, 288, "18 whole blocks of 300 tokens");
      assert.equal(second.cache.match(prompt), 288);
      assert.deepEqual(await generate(second, prompt), expected);
      assert.equal(
        second.computed(),
        prompt.length - 288 + expected.length - 1,
        "the rest of the prompt, and the answer",
      );
      assert.equal(await second.store.load(prompt), 0, "it is cached");
      // The conversation goes on: what was stored of the answer is loaded too.
      const longer = [...prompt, ...expected, 5, 6, 7];
      second.cache.forget();
      assert.equal(await second.store.load(longer), 320);
      await stop(second);
    },
  );
}

const skip = "reason" in addon ? addon.reason : false;

test("a damaged block ends the prefix before it, and the tokens are the same", { skip }, async () => {
  const first = await start("cpu", "damaged");
  const expected = await generate(first, prompt);
  await first.store.save(prompt);
  await stop(first);
  const folder = join(base, "damaged");
  const name = readdirSync(folder).find((file) => file.startsWith("segment"))!;
  const bytes = readFileSync(join(folder, name));
  bytes[Math.floor((bytes.length * 5.5) / 18)] ^= 4;
  writeFileSync(join(folder, name), bytes);
  const second = await start("cpu", "damaged");
  assert.equal(await second.store.load(prompt), 5 * 16, "five whole blocks before the sixth");
  assert.deepEqual(await generate(second, prompt), expected);
  assert.equal(second.tier.stat().corrupt, 1);
  await stop(second);
});

test("another namespace, another model and a full pool load nothing", { skip }, async () => {
  const first = await start("cpu", "others");
  await generate(first, prompt);
  await first.store.save(prompt);
  assert.equal(await first.store.load(prompt, { namespace: 1 }), 0);
  const other = new PrefixStore({ engine: first.engine, tier: first.tier, model: "another" });
  assert.equal(await other.load(prompt), 0);
  await stop(first);
  const small = await start("cpu", "others", 24);
  const held = small.cache.open({ tokens: [1], private: true });
  small.cache.reserve(held, 16 * 16);
  assert.equal(await small.store.load(prompt), 0, "8 blocks are free, 18 are needed");
  assert.equal(small.cache.available, 8);
  small.cache.close(held);
  assert.equal(await small.store.load(prompt), 288);
  await stop(small);
});

test("what is cached up to the middle of a block is loaded from that block's beginning on", async () => {
  const first = await start("wasm", "parts");
  const expected = await generate(first, prompt);
  await first.store.save(prompt);
  await stop(first);
  const second = await start("wasm", "parts", 256, 2);
  const other = [...prompt.slice(0, 40), ...prompt.slice(0, 60)];
  await generate(second, other);
  assert.equal(second.cache.match(prompt), 40, "two blocks and a half");
  assert.equal(await second.store.load(prompt), 288 - 32);
  assert.deepEqual(await generate(second, prompt), expected);
  await stop(second);
});

test("loading is left alone where computing is quicker", { skip }, async () => {
  const first = await start("cpu", "costs");
  await generate(first, prompt);
  await first.store.save(prompt);
  first.cache.forget();
  const options = { engine: first.engine, tier: first.tier, model: "tiny-retrieval, f32", minLoadTokens: 16 };
  const quick = new PrefixStore({ ...options, recomputeUs: (tokens, from) => (tokens - from) * 1e-6 });
  assert.equal(await quick.load(prompt), 0);
  const slow = new PrefixStore({ ...options, recomputeUs: (tokens, from) => (tokens - from) * 1e4 });
  assert.equal(await slow.load(prompt), 288);
  await stop(first);
});

test("requests that run meanwhile are not disturbed", { skip }, async () => {
  const first = await start("cpu", "meanwhile");
  const expected = await generate(first, prompt);
  await first.store.save(prompt);
  first.cache.forget();
  const others = [1, 2, 3].map((n) => prompt.map((token) => 3 + ((token + n) % 50)));
  const alone: number[][] = [];
  for (const other of others) alone.push(await generate(first, other));
  first.cache.forget();
  const [loaded, ...answers] = await Promise.all([
    first.store.load(prompt),
    ...others.map((other) => generate(first, other)),
  ]);
  assert.equal(loaded, 288);
  assert.deepEqual(answers, alone);
  assert.deepEqual(await generate(first, prompt), expected);
  await stop(first);
});

test("seen-twice: what is asked for once is not stored, what is asked for again is, with what it shares", async () => {
  const first = await start("wasm", "seen-twice");
  const options = {
    engine: first.engine,
    tier: first.tier,
    model: "tiny-retrieval, f32",
    minLoadTokens: 16,
  };
  const store = new PrefixStore({ ...options, admission: "seen-twice" });
  const expected = await generate(first, prompt);
  assert.equal(await store.save(prompt), 0);
  assert.equal(store.turnedAway, 18);
  assert.equal(first.tier.stat().blocks, 0);
  // Another prompt with the same beginning: the beginning has been seen twice now.
  const other = [...prompt.slice(0, 160), ...prompt.slice(0, 100)];
  await generate(first, other);
  assert.equal(await store.save(other), 10);
  assert.equal(await store.save(prompt), 8, "and the rest when it is asked for again");
  await stop(first);
  const second = await start("wasm", "seen-twice");
  assert.equal(await second.store.load(prompt), 288);
  assert.deepEqual(await generate(second, prompt), expected);
  await stop(second);
  assert.throws(() => new PrefixStore({ ...options, admission: "twice" as never }), {
    code: "INVALID_ARGUMENT",
    argument: "admission",
  });
});

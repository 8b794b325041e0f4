/** One engine computes prompts, another answers: K and V travel through a tier behind a channel. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { MessageChannel } from "node:worker_threads";
import { Core, Engine } from "../../bindings/main.js";
import {
  type Backend,
  loadAddon,
  MemoryTier,
  openModel,
  PrefixStore,
  RemoteTier,
  serveTier,
} from "../../native-host/executor/main.js";
import { TINY_RETRIEVAL } from "../support/package-root.js";

const addon = loadAddon();
const backends: readonly (readonly [Backend, string | false])[] = [
  ["cpu", "reason" in addon ? addon.reason : false],
  ["wasm", false],
];
const BLOCKS = 128;
const MODEL = "tiny-retrieval, f32";
const prompt = Array.from({ length: 300 }, (_, i) => 3 + ((i * 11 + (i >> 3) * 5) % 50));

interface Side {
  readonly engine: Engine;
  readonly computed: () => number;
}

async function open(backend: Backend): Promise<Side> {
  const model = await openModel(TINY_RETRIEVAL, { backend, blocks: BLOCKS, blockSize: 16 });
  const core = await Core.create();
  const cache = core.kvCache({ blocks: BLOCKS, blockSize: 16, maxSequences: 4, maxSequenceTokens: 512 });
  const scheduler = core.scheduler({
    cache,
    vocabSize: 64,
    maxRequests: 4,
    maxRunning: 2,
    maxBatchTokens: 64,
  });
  let computed = 0;
  const engine = new Engine({
    scheduler,
    executor: model.executor,
    onStep: (report) => (computed += report.decodeTokens + report.prefillTokens),
  });
  return { engine, computed: () => computed };
}

async function generate({ engine }: Side, tokens: number[], maxNewTokens: number): Promise<number[]> {
  const out: number[] = [];
  for await (const { token } of engine.generate({ tokens, maxNewTokens })) out.push(token);
  return out;
}

for (const [backend, skip] of backends) {
  test(
    `${backend}: what one engine has computed of a prompt another goes on from: the same tokens, fewer than a block computed twice`,
    { skip },
    async () => {
      const alone = await open(backend);
      const expected = await generate(alone, prompt, 24);
      await alone.engine.close();

      const tier = new MemoryTier({ capacityBytes: 2 ** 26 });
      const [toPrefill, toDecode] = [new MessageChannel(), new MessageChannel()];
      for (const { port1 } of [toPrefill, toDecode]) serveTier(port1, tier);

      const prefill = await open(backend);
      const sent = new PrefixStore({
        engine: prefill.engine,
        tier: new RemoteTier(toPrefill.port2),
        model: MODEL,
      });
      const first = await generate(prefill, prompt, 1);
      assert.equal(await sent.save(prompt), 18);

      const decode = await open(backend);
      const received = new PrefixStore({
        engine: decode.engine,
        tier: new RemoteTier(toDecode.port2),
        model: MODEL,
      });
      assert.equal(await received.load([...prompt, ...first]), 288);
      const rest = await generate(decode, [...prompt, ...first], 23);
      assert.deepEqual([...first, ...rest], expected);
      assert.equal(decode.computed(), 300 + 1 - 288 + 22, "the end of the prompt, and the answer");
      assert.equal(prefill.computed(), 300, "the prompt");
      await Promise.all([prefill.engine.close(), decode.engine.close()]);
      for (const { port1 } of [toPrefill, toDecode]) port1.close();
    },
  );

  test(`${backend}: the tier goes away in the middle of a load: the same tokens`, { skip }, async () => {
    const prefill = await open(backend);
    const tier = new MemoryTier({ capacityBytes: 2 ** 26 });
    await generate(prefill, prompt, 1);
    await new PrefixStore({ engine: prefill.engine, tier, model: MODEL }).save(prompt);
    const expected = await generate(prefill, prompt, 8);
    await prefill.engine.close();

    const { port1, port2 } = new MessageChannel();
    let gets = 0;
    const get = tier.get.bind(tier);
    tier.get = (key) => (++gets > 5 ? new Promise(() => port1.close()) : get(key));
    serveTier(port1, tier);
    const decode = await open(backend);
    const remote = new RemoteTier(port2, { timeoutMs: 60_000 });
    const store = new PrefixStore({ engine: decode.engine, tier: remote, model: MODEL });
    assert.equal(await store.load(prompt), 5 * 16, "the five blocks that came");
    assert.deepEqual(await generate(decode, prompt, 8), expected);
    assert.equal(await store.load([...prompt, ...prompt.slice(0, 100)]), 0, "nothing more can be had");
    await decode.engine.close();
  });
}

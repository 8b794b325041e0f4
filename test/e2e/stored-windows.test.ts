/**
 * Prefixes of a model with sliding windows in cache groups, stored and loaded: every group's blocks come back as far as a
 * prefix of that length needs them, and the tokens are those of an engine without a store.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Core, Engine, type KvCache, type KvCacheOptions } from "../../bindings/main.js";
import {
  type Backend,
  MemoryTier,
  PrefixStore,
  tellTier,
  type TierBackend,
} from "../../native-host/executor/main.js";
import type { LayerGroup } from "../../native-host/executor/layer-groups.js";
import { TEST_BACKENDS } from "../support/backends.js";
import { embeddedWorkload } from "../support/serve.js";
import { TierMirror } from "../support/tier-mirror.js";
import { openWindowed, WINDOW } from "../support/windowed-model.js";

const BLOCK = 16;
/** Layers 0 and 2 slide: apart, together, and in blocks of two sizes. */
const LAYOUTS: readonly { name: string; unit: number; groups: LayerGroup[] }[] = [
  { name: "one group a layer", unit: 16, groups: [{ layers: [0] }, { layers: [2] }] },
  { name: "one group", unit: 16, groups: [{ layers: [0, 2] }] },
  { name: "blocks of 32 and 16", unit: 32, groups: [{ layers: [0], blockSize: 32 }, { layers: [2] }] },
];

interface Process {
  readonly cache: KvCache;
  readonly store: PrefixStore;
  readonly encode: (text: string) => number[];
  readonly generate: (tokens: number[]) => Promise<number[]>;
  readonly computed: () => number;
  readonly close: () => Promise<void>;
}

async function start(
  backend: Backend,
  groups: LayerGroup[],
  tier: TierBackend,
  options: Partial<KvCacheOptions> = {},
): Promise<Process> {
  const blocks = 1024;
  const model = await openWindowed(backend, { blocks, groups });
  const core = await Core.create();
  const shapes = model.executor.describe().groups!.map(({ kind, window, blockSize }) => {
    return kind === "window" ? { kind, window, blockSize } : { kind, blockSize };
  });
  const shape = { blocks, maxSequences: 8, maxSequenceTokens: 1024, groups: shapes };
  const cache = core.kvCache({ ...shape, ...options });
  const scheduler = core.scheduler({ cache, vocabSize: 64, maxRequests: 8, maxBatchTokens: 128 });
  let computed = 0;
  const engine = new Engine({
    scheduler,
    executor: model.executor,
    onStep: (report) => (computed += report.decodeTokens + report.prefillTokens),
  });
  return {
    cache,
    store: new PrefixStore({ engine, tier, model: "tiny-retrieval, windows", minLoadTokens: 16 }),
    encode: (text) => Array.from(model.tokenizer.encode(text)),
    generate: async (tokens) => {
      const out: number[] = [];
      for await (const { token } of engine.generate({ tokens, maxNewTokens: 24, ignoreEos: true }))
        out.push(token);
      return out;
    },
    computed: () => computed,
    close: async () => {
      core.validate();
      assert.equal(cache.stats().openSequences, 0);
      await engine.close();
    },
  };
}

const texts = embeddedWorkload().map(({ text }) => text);

describe("stored prefixes with sliding windows", () => {
  for (const { backend, on, skip } of TEST_BACKENDS)
    for (const { name, unit, groups } of LAYOUTS)
      test(
        `with and without the store the same tokens, of the whole prefix and of parts of it: ${name}${on}`,
        { skip },
        async () => {
          const tier = new MemoryTier({ capacityBytes: 2 ** 28 });
          const first = await start(backend, groups, tier);
          const prompt = first.encode(texts.join(" ")).slice(0, 300);
          const expected = await first.generate(prompt);
          const whole = Math.floor((prompt.length + expected.length - 1) / unit);
          const perUnit = unit === 32 ? 2 + 1 + 2 : 1 + groups.length;
          assert.equal(await first.store.save([...prompt, ...expected]), whole * perUnit, "of every group");
          assert.equal(await first.store.save([...prompt, ...expected]), 0, "once");
          await first.close();

          const second = await start(backend, groups, tier);
          assert.equal(await second.store.load(prompt), 288);
          assert.equal(second.cache.match(prompt), 288);
          for (const { blockSize, cached } of second.cache.groupStats())
            assert.equal(
              cached,
              288 / blockSize - Math.floor((288 - WINDOW + 1) / blockSize),
              "what the windows reach",
            );
          assert.deepEqual(await second.generate(prompt), expected);
          assert.equal(second.computed(), prompt.length - 288 + expected.length - 1);
          await second.close();

          // Prompts that leave the stored one somewhere.
          for (const shared of [40, 100, 161, 250, 290]) {
            const other = [...prompt.slice(0, shared), ...prompt.slice(30, 80)];
            const without = await start(backend, groups, new MemoryTier({ capacityBytes: 1 }));
            const alone = await without.generate(other);
            await without.close();
            const third = await start(backend, groups, tier);
            assert.equal(await third.store.load(other), shared - (shared % unit));
            assert.deepEqual(await third.generate(other), alone, `${shared} tokens in common`);
            // What was loaded for one length is not taken for what another needs.
            assert.deepEqual(await third.generate(prompt), expected);
            await third.close();
          }
        },
      );

  test("a window's block that is missing shortens what is loaded, to where all groups have what they need", async () => {
    const [{ groups }] = LAYOUTS;
    const tier = new MemoryTier({ capacityBytes: 2 ** 28 });
    const stored: { key: Uint8Array; parent: Uint8Array | undefined }[] = [];
    const noting: TierBackend = {
      put: (key, payload, info) => {
        stored.push({ key, parent: info?.parent });
        return tier.put(key, payload, info);
      },
      get: (key) => tier.get(key),
      del: (key) => tier.del(key),
      match: (keys) => tier.match(keys),
      stat: () => tier.stat(),
    };
    const first = await start("wasm", groups, noting);
    const prompt = first.encode(texts.join(" ")).slice(0, 300);
    const expected = await first.generate(prompt);
    await first.store.save(prompt);
    const keys = first.store.keys(prompt);
    await first.close();
    assert.equal(stored.length, 3 * keys.length);
    // A group's block has the block that it ends with as its parent, and comes behind all of the cache's own.
    const ofBlock16 = stored.slice(keys.length).filter(({ parent }) => Buffer.from(parent!).equals(keys[16]));
    assert.equal(ofBlock16.length, 2);
    await tier.del(ofBlock16[1].key);
    const second = await start("wasm", groups, tier);
    assert.equal(await second.store.load(prompt), 16 * BLOCK, "288 need it, and so do 272");
    assert.deepEqual(await second.generate(prompt), expected);
    assert.equal(await second.store.save(prompt), 1, "what was missing");
    await second.close();
    const third = await start("wasm", groups, tier);
    assert.equal(await third.store.load(prompt), 288);
    assert.deepEqual(await third.generate(prompt), expected);
    await third.close();
  });

  test("with content keys a tier's events name the blocks of every group as the cache's own events do", async () => {
    for (const { groups } of LAYOUTS) {
      const tier = new MemoryTier({ capacityBytes: 2 ** 28 });
      const contentKeys = { domainKey: new Uint8Array(32).fill(1), fingerprint: new Uint8Array(32) };
      const first = await start("wasm", groups, tier, { contentKeys, events: { group: 2 } });
      const events = first.cache.events();
      tellTier(events, tier, "CPU");
      const mirror = new TierMirror(events);
      // With the answer 320 tokens are computed: whole units are cached, and stored.
      const prompt = first.encode(texts.join(" ")).slice(0, 297);
      const expected = await first.generate(prompt);
      await first.store.save([...prompt, ...expected]);
      mirror.follow();
      assert.equal(mirror.of("CPU").size, tier.stat().blocks);
      assert.deepEqual([...mirror.of("CPU")].sort(), [...mirror.of("GPU")].sort());
      first.cache.forget();
      mirror.follow();
      assert.equal(mirror.of("GPU").size, 0);
      assert.equal(await first.store.load(prompt), 288);
      mirror.follow();
      for (const [name, before] of mirror.of("GPU")) assert.equal(mirror.of("CPU").get(name), before);
      assert.ok(mirror.of("GPU").size > 288 / BLOCK);
      await first.close();
    }
  });
});

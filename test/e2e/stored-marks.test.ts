/**
 * Prefixes of prompts with marks and tenants: stored under keys that tell all of it apart, loaded for those who may share them
 * and paid by the tenant that asks; under the cache's content keys where it has them.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  type ContentKeyOptions,
  Core,
  Engine,
  type KvCache,
  type KvCacheOptions,
} from "../../bindings/main.js";
import {
  directorySource,
  MemoryTier,
  openWasmModel,
  type PrefixOptions,
  PrefixStore,
  type TierBackend,
} from "../../native-host/executor/main.js";
import { TINY_RETRIEVAL } from "../support/package-root.js";

const CONTENT: ContentKeyOptions = {
  domainKey: new Uint8Array(32).fill(9),
  fingerprint: { model: "tiny-retrieval", dtype: "f32", layers: 3, kvHeads: 2, headDim: 32 },
};

interface Process {
  readonly cache: KvCache;
  readonly engine: Engine;
  readonly store: PrefixStore;
  readonly generate: (options?: PrefixOptions) => Promise<number[]>;
}

async function start(
  tier: TierBackend,
  options: Partial<KvCacheOptions> = {},
  model = "tiny",
): Promise<Process> {
  const blocks = 256;
  const { executor } = await openWasmModel(await directorySource(TINY_RETRIEVAL), { blocks });
  const core = await Core.create();
  const shape = { blocks, maxSequences: 8, maxSequenceTokens: 1024, marks: 64, tenants: 3, ...options };
  const cache = core.kvCache(shape);
  const scheduler = core.scheduler({
    cache,
    vocabSize: 64,
    maxRequests: 8,
    maxBatchTokens: 128,
    tenants: shape.tenants,
  });
  const engine = new Engine({ scheduler, executor });
  return {
    cache,
    engine,
    store: new PrefixStore({ engine, tier, model, minLoadTokens: 16 }),
    generate: async (marks = {}) => {
      const out: number[] = [];
      const request = { tokens: prompt, maxNewTokens: 8, ignoreEos: true, ...marks };
      for await (const { token } of engine.generate(request)) out.push(token);
      return out;
    },
  };
}

const prompt = Array.from({ length: 300 }, (_, i) => 3 + ((i * 7 + (i >> 3) * 5) % 50));
const WHOLE = 288;

/** Prompts of the same tokens, and how many of them two of these have in common. */
const KINDS: readonly PrefixOptions[] = [
  {},
  { namespace: 3 },
  { adapter: 3n },
  { ranges: [{ offset: 0, scope: "tenant", salt: 3n }] },
  { ranges: [{ offset: 0, scope: "group", salt: 3n }] },
  { items: [{ offset: 3, length: 20, hash: 3n }] },
  { items: [{ offset: 3, length: 21, hash: 3n }] },
  { items: [{ offset: 3, length: 20, hash: 2n ** 64n + 3n }] },
  { adapter: 3n, items: [{ offset: 3, length: 20, hash: 3n }] },
];

for (const contentKeys of [undefined, CONTENT]) {
  const under = contentKeys === undefined ? "the chain" : "content keys";
  describe(`under ${under}`, () => {
    test("what is stored for one adapter, item, salt or namespace is loaded for it and for no other", async () => {
      for (const [at, kind] of KINDS.entries()) {
        const tier = new MemoryTier({ capacityBytes: 2 ** 28 });
        const first = await start(tier, { contentKeys });
        const expected = await first.generate(kind);
        assert.equal(await first.store.save(prompt, KINDS[(at + 1) % KINDS.length]), 0, "not cached so");
        assert.equal(await first.store.save(prompt, kind), 18);
        await first.engine.close();
        const second = await start(tier, { contentKeys });
        for (const other of KINDS)
          if (other !== kind) assert.equal(await second.store.load(prompt, other), 0, JSON.stringify(at));
        assert.equal(await second.store.load(prompt, kind), WHOLE);
        for (const other of KINDS)
          assert.equal(
            second.cache.match(prompt, other.namespace, other),
            other === kind ? WHOLE : 0,
            "cached as it was computed",
          );
        assert.deepEqual(await second.generate(kind), expected);
        await second.engine.close();
      }
    });

    test("a public beginning is loaded for everybody, what follows for those with its salt", async () => {
      const tier = new MemoryTier({ capacityBytes: 2 ** 28 });
      const of = (salt: bigint): PrefixOptions => ({ ranges: [{ offset: 170, scope: "tenant", salt }] });
      const first = await start(tier, { contentKeys });
      await first.generate(of(1n));
      await first.store.save(prompt, of(1n));
      await first.engine.close();
      const second = await start(tier, { contentKeys });
      assert.equal(await second.store.load(prompt, of(2n)), 160, "ten whole blocks");
      assert.equal(await second.store.load(prompt, of(1n)), WHOLE - 160);
      assert.equal(second.cache.match(prompt), 160);
      await second.engine.close();
    });

    test("a tenant pays for what is loaded for it, within its quota; saving makes nobody pay", async () => {
      const tier = new MemoryTier({ capacityBytes: 2 ** 28 });
      const first = await start(tier, { contentKeys });
      await first.generate({ tenant: 1 });
      const before = first.cache.account(1).used;
      assert.equal(await first.store.save(prompt, { tenant: 1 }), 18);
      assert.deepEqual([before > 0, first.cache.account(1).used], [true, before]);
      assert.equal(first.cache.account("common").used, 0);
      const [key] = first.store.keys(prompt);
      assert.equal((await tier.get(key))!.tenant, 1);
      await first.engine.close();
      const quotas = [{ tenant: 2, ceiling: 17 }];
      const second = await start(tier, { contentKeys, quotas });
      assert.equal(await second.store.load(prompt, { tenant: 2 }), 0, "18 blocks are over its ceiling");
      assert.equal(second.cache.account(2).used, 0);
      assert.equal(await second.store.load(prompt, { tenant: 1 }), WHOLE);
      const used = [0, 1, 2, "common" as const].map((tenant) => second.cache.account(tenant).used);
      assert.deepEqual(used, [0, 18, 0, 0]);
      await second.engine.close();
    });

    test("bad prompts are refused by name, and change nothing", async () => {
      const tier = new MemoryTier({ capacityBytes: 2 ** 28 });
      const { store, engine, cache } = await start(tier, { contentKeys, marks: 0 });
      const refusals: [unknown, object][] = [
        [3, { argument: "options" }],
        [{ namespace: -1 }, { argument: "namespace" }],
        [{ tenant: 3 }, { argument: "tenant" }],
        [{ adapter: 1n }, { code: "UNSUPPORTED" }],
        [{ items: [{ offset: 0, length: 0, hash: 1 }] }, { argument: "items[0].length" }],
      ];
      for (const [options, refusal] of refusals) {
        await assert.rejects(store.load(prompt, options as PrefixOptions), refusal);
        await assert.rejects(store.save(prompt, options as PrefixOptions), refusal);
      }
      await assert.rejects(store.save([-1]), { code: "INVALID_TOKEN" });
      assert.deepEqual([cache.stats().openSequences, tier.stat().blocks], [0, 0]);
      await engine.close();
    });
  });
}

test("with content keys a block has one name in the tier and in the cache, and another model's is not taken", async () => {
  const tier = new MemoryTier({ capacityBytes: 2 ** 28 });
  const first = await start(tier, { contentKeys: CONTENT, events: true });
  first.cache.content!.scope(3, { tenant: "a", salt: "b" });
  for (const kind of KINDS) {
    await first.generate(kind);
    const sequence = first.cache.open({ tokens: prompt, ...kind });
    const names = first.cache.contentKeys(sequence);
    first.cache.close(sequence);
    assert.deepEqual(Buffer.concat(first.store.keys(prompt, kind)), Buffer.from(names));
    await first.store.save(prompt, kind);
  }
  await first.engine.close();
  const other = await start(tier, { contentKeys: CONTENT }, "another");
  assert.equal(await other.store.load(prompt), 0, "its K and V are another model's");
  await other.engine.close();
});

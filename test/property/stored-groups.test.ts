/**
 * Prefixes of caches with groups, stored and loaded: whatever a tier has lost, and whatever has been forgotten meanwhile, every
 * request generates the tokens that it would generate alone without a cache and without a store.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type CacheGroupOptions, Core, Engine, type Executor, type KvCache } from "../../bindings/main.js";
import { MemoryTier, PrefixStore, type TierBackend } from "../../native-host/executor/main.js";
import { Random } from "../support/random.js";
import { nextToken, StateExecutor } from "../support/state-executor.js";

const VOCAB = 11;
const MOST_TOKENS = 128;

function randomGroups(random: Random, blockSize: number): CacheGroupOptions[] {
  return Array.from({ length: 1 + random.below(3) }, () => {
    const kind = random.pick(["full", "window", "window", "recurrent"] as const);
    const size = { blockSize: blockSize << random.below(3) };
    return kind === "window" ? { kind, window: 1 + random.below(20), ...size } : { kind, ...size };
  });
}

/** A tier that loses blocks, and gives some back in a form that cannot be used. */
class LossyTier implements TierBackend {
  readonly keys: Uint8Array[] = [];
  readonly #tier = new MemoryTier({ capacityBytes: 2 ** 24 });

  constructor(
    readonly random: Random,
    readonly knowsAll: boolean,
  ) {
    // Some backends cannot be asked for many blocks at a time.
    if (!knowsAll) this.has = undefined;
  }

  put(...block: Parameters<TierBackend["put"]>): Promise<boolean> {
    this.keys.push(block[0]);
    return this.#tier.put(...block);
  }

  async get(key: Uint8Array): ReturnType<TierBackend["get"]> {
    const block = await this.#tier.get(key);
    if (block === undefined || this.random.below(20) > 0) return block;
    return this.random.below(2) === 0 ? undefined : { ...block, payload: block.payload.subarray(4) };
  }

  del(key: Uint8Array): Promise<boolean> {
    return this.#tier.del(key);
  }

  match(keys: readonly Uint8Array[]): number {
    return this.#tier.match(keys);
  }

  has?(keys: readonly Uint8Array[]): boolean[] {
    return this.#tier.has(keys);
  }

  stat(): ReturnType<TierBackend["stat"]> {
    return this.#tier.stat();
  }
}

class Host {
  readonly engine: Engine;
  readonly store: PrefixStore;
  readonly states: StateExecutor;

  constructor(
    readonly cache: KvCache,
    tier: TierBackend,
  ) {
    const { core, blocks, blockSize, groups } = cache;
    const states = new StateExecutor([{ kind: "full", window: 0, blockSize }, ...groups], VOCAB);
    const { blockBytes } = states;
    const shape = { layers: 1, kvHeads: 1, headDim: 1, vocabSize: VOCAB, maxSequenceTokens: MOST_TOKENS };
    const executor: Executor = {
      describe: () => ({ backend: "states", ...shape, blockBytes, blocks, blockSize, groups }),
      run: async (plan) => ({ tokens: Uint32Array.from(states.run(plan).tokens) }),
      readBlocks: async (ids) => states.readBlocks(ids),
      writeBlocks: async (ids, payload) => states.writeBlocks(ids, payload),
      close: async () => undefined,
    };
    const scheduler = core.scheduler({ cache, vocabSize: VOCAB, maxRequests: 8, maxBatchTokens: 32 });
    this.states = states;
    this.engine = new Engine({ scheduler, executor });
    this.store = new PrefixStore({ engine: this.engine, tier, model: "states", minLoadTokens: 1 });
  }

  async generate(tokens: readonly number[], maxNewTokens: number): Promise<number[]> {
    const all = [...tokens];
    for await (const { token } of this.engine.generate({ tokens, maxNewTokens })) {
      assert.equal(token, nextToken(this.states.groups, all, VOCAB), "as without a cache and a store");
      all.push(token);
    }
    return all;
  }
}

/** Tokens loaded, and loads that gave less than the cache's own blocks would have. */
const totals = { loaded: 0, shortened: 0, saved: 0 };

async function run(seed: number): Promise<void> {
  const random = new Random(seed);
  const blockSize = 1 << (1 + random.below(2));
  const groups = randomGroups(random, blockSize);
  const tier = new LossyTier(random, random.below(2) === 0);
  const hosts: Host[] = [];
  for (let i = 0; i < 2; i++) {
    const core = await Core.create();
    const shape = { blockSize, maxSequences: 6, maxSequenceTokens: MOST_TOKENS, groups };
    hosts.push(new Host(core.kvCache({ blocks: 150 + random.below(150), ...shape }), tier));
  }
  for (let operation = 0; operation < 40; operation++) {
    const host = random.pick(hosts);
    const length = 1 + random.below(90);
    const twist = random.below(3) === 0 ? random.below(length) : length;
    const prompt = Array.from({ length }, (_, i) => (i < twist ? i % 5 : (3 * i) % 7));
    if (random.below(6) === 0) host.cache.forget();
    for (let lost = random.below(8); lost > 0 && tier.keys.length > 0; lost--)
      await tier.del(random.pick(tier.keys));
    const loading = random.below(4) === 0 ? undefined : host.store.load(prompt);
    if (random.below(3) > 0) {
      const loaded = (await loading) ?? 0;
      totals.loaded += loaded;
      if (loaded > 0) assert.ok(host.cache.match(prompt) >= loaded);
      const stored = tier.match(host.store.keys(prompt)) * blockSize;
      totals.shortened += Number(loading !== undefined && host.cache.match(prompt) < stored - blockSize);
    }
    const all = await host.generate(prompt, 1 + random.below(20));
    await loading;
    host.cache.validate();
    if (random.below(4) > 0) totals.saved += await host.store.save(all);
  }
  for (const { engine, cache } of hosts) {
    await engine.close();
    cache.core.validate();
    assert.equal(cache.stats().openSequences, 0);
  }
}

test("the tokens of requests over loaded prefixes are those of requests over nothing, whatever the tier has lost", async () => {
  await fc.assert(fc.asyncProperty(fc.integer(), run), { numRuns: 40 });
  const { loaded, shortened, saved } = totals;
  assert.ok(loaded > 800, `${loaded} tokens were loaded`);
  assert.ok(shortened > 5, `${shortened} loads ended before the cache's own blocks did`);
  assert.ok(saved > 1500, `${saved} blocks were stored`);
});

test("an executor that cannot give a recurrent state away is refused", async () => {
  const core = await Core.create();
  const groups = [{ kind: "recurrent" }] as const;
  const cache = core.kvCache({ blocks: 16, maxSequences: 2, maxSequenceTokens: 64, groups });
  const scheduler = core.scheduler({ cache, vocabSize: VOCAB });
  const shape = { layers: 1, kvHeads: 1, headDim: 1, vocabSize: VOCAB, maxSequenceTokens: 64 };
  const described = { backend: "states", ...shape, blockBytes: 64, blocks: 16, blockSize: 16 };
  const executor: Executor = {
    describe: () => ({ ...described, groups: cache.groups }),
    run: async () => ({ tokens: new Uint32Array(0) }),
    close: async () => undefined,
  };
  const engine = new Engine({ scheduler, executor });
  const tier = new MemoryTier({ capacityBytes: 2 ** 20 });
  assert.throws(() => new PrefixStore({ engine, tier, model: "states" }), {
    code: "UNSUPPORTED",
    message: /recurrent/,
  });
});

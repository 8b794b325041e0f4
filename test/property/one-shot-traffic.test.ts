/**
 * Admission by "seen twice": traffic that is asked for once never pushes out what is asked for again, and what changes is
 * followed; the filter forgets, and takes little for seen that was not.
 */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { type BlockOrderOptions, Core, type KvCache } from "../../bindings/main.js";
import { replayPrefixes } from "../../sim/prefix-replay.js";
import { readMooncakeTrace } from "../../sim/traces.js";
import { DATA } from "../support/package-root.js";
import { Random } from "../support/random.js";

const BLOCKS = 256;
const PROMPT_BLOCKS = 8;

async function cacheWith(evictionOrder: BlockOrderOptions, seed = 0): Promise<KvCache> {
  const core = await Core.create({ seed });
  return core.kvCache({
    blocks: BLOCKS + PROMPT_BLOCKS + 1,
    blockSize: 1,
    maxSequences: 2,
    maxSequenceTokens: 64,
    evictionOrder,
    retainBlocks: BLOCKS,
  });
}

/** Serves a prompt of 8 blocks; returns how many of them were cached. */
function serve(cache: KvCache, prompt: number): number {
  const tokens = Array.from({ length: PROMPT_BLOCKS + 1 }, (_, i) => prompt * 16 + i);
  const sequence = cache.open({ tokens });
  const cached = cache.length(sequence);
  cache.reserve(sequence, PROMPT_BLOCKS - cached);
  cache.append(sequence, tokens.slice(cached, PROMPT_BLOCKS));
  cache.close(sequence);
  return cached;
}

/** Rounds of a working set of half the cache, each followed by one-shot prompts of so many blocks; the last round's hit rate. */
function workingSetHits(cache: KvCache, oneShotBlocks: number, first = 0): number {
  const prompts = BLOCKS / 2 / PROMPT_BLOCKS;
  let fresh = first + 1_000_000;
  let hits = 0;
  for (let round = 0; round < 4; round++) {
    hits = 0;
    for (let prompt = 0; prompt < prompts; prompt++) hits += serve(cache, first + prompt);
    for (let n = 0; n < oneShotBlocks / PROMPT_BLOCKS; n++) serve(cache, fresh++);
  }
  cache.core.validate();
  return hits / (prompts * PROMPT_BLOCKS);
}

test("twenty caches full of one-shot traffic between its rounds do not displace a working set; under LRU nothing of it is left", async () => {
  const oneShot = 20 * BLOCKS;
  const history = 2 * oneShot;
  assert.ok(workingSetHits(await cacheWith({ kind: "seen-twice", history }), oneShot) > 0.98);
  assert.equal(workingSetHits(await cacheWith({ kind: "lru" }), oneShot), 0);
});

test("what is asked for twice within the filter's memory is admitted, what comes back later is not", async () => {
  // Between two rounds 1,280 keys leave: a filter of 2,560 still has the working set's, one of 320 does not.
  const between = 5 * BLOCKS;
  assert.ok(workingSetHits(await cacheWith({ kind: "seen-twice", history: 2 * between }), between) > 0.98);
  assert.equal(workingSetHits(await cacheWith({ kind: "seen-twice", history: between / 4 }), between), 0);
});

test("a working set that changes is followed", async () => {
  const cache = await cacheWith({ kind: "seen-twice" });
  assert.ok(workingSetHits(cache, BLOCKS) > 0.98);
  assert.ok(workingSetHits(cache, BLOCKS, 5_000) > 0.98);
});

const trace = join(DATA, "mooncake", "conversation_trace.jsonl");
const skip = existsSync(trace) ? false : `${trace} is not there`;

test(
  "on a real trace it finds nearly twice what LRU finds at 3,000 blocks, and more at 10,000",
  { skip },
  async () => {
    const prompts = readMooncakeTrace(readFileSync(trace, "utf8")).map((row) => [...row.blockIds!]);
    const rate = async (capacity: number): Promise<number> =>
      (await replayPrefixes(prompts, capacity, "seen-twice")).hitRate;
    assert.ok((await rate(3_000)) > 1.9 * 0.0653);
    assert.ok((await rate(10_000)) > 0.2116);
  },
);

test("same calls, same victims: after any traffic two cores hold the same bytes", async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer(), fc.integer({ min: 1, max: 300 }), async (seed, history) => {
      const caches = [
        await cacheWith({ kind: "seen-twice", history }, 9),
        await cacheWith({ kind: "seen-twice", history }, 9),
      ];
      for (const cache of caches) {
        const random = new Random(seed);
        for (let i = 0; i < 200; i++) serve(cache, random.below(1 + random.below(100)));
      }
      assert.deepEqual(caches[0].core.snapshot(), caches[1].core.snapshot());
    }),
    { numRuns: 20 },
  );
});

/** Structures above 2 GiB: addresses that look negative to JavaScript's 32-bit operations. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core } from "../../bindings/main.js";

test("cache, scheduler and index work above 2 GiB", async () => {
  const core = await Core.create();
  // Tables of 2 GiB that nobody touches push everything behind them over the line.
  core.kvCache({ blocks: 16, blockSize: 16, maxSequences: 2 ** 20, maxSequenceTokens: 2 ** 13 });
  const cache = core.kvCache({ blocks: 64, blockSize: 4, maxSequences: 8, maxSequenceTokens: 128 });
  assert.ok(cache.pointer > 2 ** 31);
  const scheduler = core.scheduler({ cache, vocabSize: 100, maxRequests: 8 });
  const index = core.orderedIndex({ capacity: 5000 });

  const tokens = Array.from({ length: 20 }, (_, i) => i);
  for (let round = 0; round < 2; round++) {
    scheduler.submit({ tokens, maxNewTokens: 3, id: 2 ** 40 + round });
    for (let now = 1; scheduler.running + scheduler.waiting > 0; now++) {
      const plan = scheduler.step(now);
      assert.deepEqual(
        [...plan.tokens],
        round === 0 && now === 1 ? tokens : now === 1 ? tokens.slice(16) : [50 + now - 2],
      );
      scheduler.commit(plan.stepId, now, { tokens: [50 + now - 1] });
    }
  }
  assert.equal(cache.stats().hitTokens, 16);
  const twin = cache.fork(cache.open({ tokens }));
  assert.equal(cache.blockTable(twin).length, 4);

  const keys = BigUint64Array.from({ length: 5000 }, (_, i) => BigInt(i + 1) << 20n);
  index.setMany(keys, keys);
  assert.equal(index.get(keys[77]), keys[77]);
  assert.equal(index.getLow(0, 1), 0);
  assert.equal(index.fetchAdd(keys[5], 3n), keys[5]);
  assert.deepEqual(index.scan(keys[4998], 5).length, 2);
  core.validate();
});

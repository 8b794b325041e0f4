/** The loader entry gives the same core as the raw one. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core } from "../../bindings/main.js";
import { createCore } from "../../bindings/loader.js";

test("a core made through @assemblyscript/loader has the same state after the same calls", async () => {
  const cores = [await Core.create({ seed: 3 }), await createCore({ seed: 3 })];
  for (const core of cores) {
    const cache = core.kvCache({ blocks: 16, blockSize: 4, maxSequences: 4, maxSequenceTokens: 64 });
    const sequence = cache.open({ tokens: [1, 2, 3, 4, 5, 6] });
    cache.reserve(sequence, 6);
    cache.append(sequence, [1, 2, 3, 4, 5, 6]);
    core.orderedIndex({ capacity: 100 }).set(7n, 9n);
    core.validate();
  }
  assert.deepEqual(cores[1].snapshot(), cores[0].snapshot());
  assert.throws(() => cores[1].kvCaches[0].close(12345), { code: "UNKNOWN_SEQUENCE" });
});

test("the loader entry works with shared memory", async () => {
  const core = await createCore({ build: "core-threads" });
  assert.ok(core.memory.buffer instanceof SharedArrayBuffer);
  assert.equal(core.kvCache({ blocks: 8 }).available, 8);
});

/** An attached thread takes up what the engine thread creates: everything, and each thing once. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core } from "../../bindings/main.js";

const counts = (core: Core): number[] =>
  [
    core.orderedIndexes,
    core.orderedViews,
    core.freeExtentSets,
    core.kvCaches,
    core.schedulers,
    core.selections,
  ].map(({ length }) => length);

function createAll(core: Core): void {
  core.orderedIndex({ capacity: 10, mode: "optimistic" });
  core.expiryOrder({ capacity: 10 });
  core.freeExtents({ blocks: 10 });
  core.selection({ capacity: 10 });
  const cache = core.kvCache({ blocks: 8, blockSize: 4, maxSequences: 2, maxSequenceTokens: 32 });
  core.scheduler({ cache, maxRequests: 2, maxRunning: 2, maxBatchTokens: 8, vocabSize: 16 });
}

test("refresh takes up every structure once, on either side", async () => {
  const core = await Core.create({ build: "core-threads" });
  createAll(core);
  const attached = await Core.attach(core.share());
  assert.deepEqual(counts(attached), [1, 1, 1, 1, 1, 1]);
  createAll(core);
  for (let turn = 0; turn < 2; turn++) {
    attached.refresh();
    core.refresh();
    assert.deepEqual(counts(attached), [2, 2, 2, 2, 2, 2]);
    assert.deepEqual(counts(core), [2, 2, 2, 2, 2, 2]);
  }
  attached.close();
});

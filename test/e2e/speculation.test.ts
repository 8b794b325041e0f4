/**
 * Speculation changes how many steps a text takes, and nothing else: greedy or drawn, alone or in a batch, in a pool that
 * preempts, on either kind of kernels.
 */
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { promptLookup } from "../../bindings/main.js";
import { loadAddon } from "../../native-host/executor/main.js";
import { type Configuration, embeddedWorkload, serveOnce, type Served } from "../support/serve.js";

const addon = loadAddon();
const noAddon = "reason" in addon ? addon.reason : false;
const backend = noAddon ? "wasm" : "cpu";
// Texts of the tasks that repeat themselves or their prompt are long enough to have something to look up.
const workload = embeddedWorkload()
  .filter((_, i) => i % 9 === 0)
  .map((request) => ({ ...request, maxNewTokens: 32 }));

describe("with prompt lookup and 4 drafts", () => {
  let plain: Served;
  const served = new Map<string, Served>();
  before(async () => {
    plain = await serveOnce(workload, { backend });
  });

  const same = (name: string, configuration: Configuration, skip: string | false = false): void => {
    test(name, { skip }, async () => {
      const drafting = await serveOnce(workload, { backend, maxDraftTokens: 4, ...configuration });
      served.set(name, drafting);
      const { sampling } = configuration;
      const expected = sampling === undefined ? plain : await serveOnce(workload, { backend, sampling });
      assert.deepEqual(drafting.tokens, expected.tokens);
      assert.ok(drafting.drafted.right > 0, "some drafts are right");
      assert.ok(drafting.drafted.right < drafting.drafted.fed, "and some are wrong");
    });
  };

  same("greedy texts are the same", {});
  same("one request at a time", { maxRunning: 1 });
  same("drawn texts are the same, with a penalty that reads what came before", {
    sampling: { temperature: 0.7, topK: 8, repetitionPenalty: 1.1, seed: 5 },
  });
  same("in a pool that preempts", { blocks: 56, maxBatchTokens: 64 });
  same("with blocks of 4 tokens", { blockSize: 4, blocks: 8192 });
  same("on the wasm kernels", { backend: "wasm" }, noAddon);

  test("one request at a time takes fewer steps", async () => {
    const alone = await serveOnce(workload, { backend, maxRunning: 1 });
    const { steps, drafted } = served.get("one request at a time")!;
    assert.ok(steps < alone.steps * 0.8, `${steps} steps with drafts, ${alone.steps} without`);
    assert.equal(alone.steps - steps, drafted.right, "each right draft saves a step");
  });
});

test("prompt lookup guesses what followed the longest run that ended the same, the latest first", () => {
  const { draft } = promptLookup({ longest: 3 });
  assert.deepEqual([...(draft(Uint32Array.of(1, 2, 3, 9, 1, 2, 4, 5, 1, 2), 2) as Uint32Array)], [4, 5]);
  assert.deepEqual(
    [...(draft(Uint32Array.of(7, 1, 2, 5, 6, 1, 2, 8, 7, 1, 2), 3) as Uint32Array)],
    [5, 6, 1],
  );
  assert.deepEqual([...(draft(Uint32Array.of(1, 2, 3), 4) as Uint32Array)], []);
  assert.deepEqual([...(draft(Uint32Array.of(1), 4) as Uint32Array)], []);
  const { draft: strict } = promptLookup({ longest: 3, shortest: 2 });
  assert.deepEqual([...(strict(Uint32Array.of(4, 1, 5, 1), 4) as Uint32Array)], []);
});

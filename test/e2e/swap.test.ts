/** Under memory pressure, requests that are swapped out and read back answer with the same tokens as ones computed again. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Executor, TransferOp } from "../../bindings/main.js";
import { loadAddon } from "../../native-host/executor/main.js";
import { embeddedWorkload, serveOnce } from "../support/serve.js";

const PRESSED = { blocks: 80, blockSize: 4, maxBatchTokens: 128, maxRunning: 12 } as const;
const addon = loadAddon();

for (const [backend, skip] of [
  ["wasm", false],
  ["cpu", "reason" in addon ? addon.reason : false],
] as const)
  test(
    `swapping gives the tokens that recomputing gives, on the ${backend === "wasm" ? "wasm" : "native"} kernels`,
    { skip },
    async () => {
      // Short prompts and long answers: what is admitted together outgrows the pool.
      const workload = embeddedWorkload()
        .sort((a, b) => a.text.length - b.text.length)
        .slice(0, 20)
        .map((request) => ({ ...request, maxNewTokens: 48 }));
      const recomputed = await serveOnce(workload, { ...PRESSED, backend });
      assert.ok(recomputed.preemptions > 0, "there is pressure");
      for (const swapIn of ["async", "sync", "adaptive"] as const) {
        const swapped = await serveOnce(workload, { ...PRESSED, backend, hostBlocks: 400, swapIn });
        assert.deepEqual(swapped.tokens, recomputed.tokens, swapIn);
        const { loadedBlocks, failures, swapIns, joins } = swapped.swapped!;
        assert.ok(loadedBlocks > 0, "blocks came back");
        assert.equal(failures, 0);
        if (swapIn !== "adaptive") assert.equal(joins, swapIn === "sync" ? swapIns : 0);
      }
    },
  );

test("a batch whose requests have lost what they were to read is planned again, and the tokens are the same", async () => {
  const workload = embeddedWorkload()
    .sort((a, b) => a.text.length - b.text.length)
    .slice(0, 20)
    .map((request) => ({ ...request, maxNewTokens: 48 }));
  let loads = 0;
  const tamper = (executor: Executor): void => {
    const transfer = executor.transfer!.bind(executor);
    executor.transfer = async (records) => {
      const fails = records[0] === TransferOp.SwapIn && loads++ % 3 === 0;
      if (fails && loads % 2 === 0) throw new Error("the link is down");
      const blocks = await transfer(records);
      return fails ? Math.floor(blocks / 2) : blocks;
    };
  };
  const recomputed = await serveOnce(workload, PRESSED);
  const swapped = await serveOnce(workload, { ...PRESSED, hostBlocks: 400, swapIn: "sync", tamper });
  assert.deepEqual(swapped.tokens, recomputed.tokens);
  const { failures, joins, swapIns } = swapped.swapped!;
  assert.ok(failures > 3, `${failures} of ${swapIns} loads failed`);
  assert.equal(joins, swapIns);
});

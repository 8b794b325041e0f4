/** Under memory pressure, requests that are swapped out and read back answer with the same tokens as ones computed again. */
import assert from "node:assert/strict";
import { test } from "node:test";
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
      const swapped = await serveOnce(workload, { ...PRESSED, backend, hostBlocks: 400 });
      assert.ok(recomputed.preemptions > 0, "there is pressure");
      assert.deepEqual(swapped.tokens, recomputed.tokens);
      assert.ok(swapped.swapped!.loadedBlocks > 0, "blocks came back");
      assert.equal(swapped.swapped!.failures, 0);
    },
  );

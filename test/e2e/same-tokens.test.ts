/**
 * Same tokens everywhere: the greedy output of every prompt of the workload does not depend on the pool, the
 * prefix cache, the chunking, the batch, the build of the core, or the kernels.
 */
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { loadAddon } from "../../native-host/executor/main.js";
import { type Configuration, embeddedWorkload, serveOnce, type Served } from "../support/serve.js";

const workload = embeddedWorkload();
const addon = loadAddon();
const noAddon = "reason" in addon ? addon.reason : false;
// The comparisons run on the fast kernels where there are some; native against wasm is one of them.
const backend = noAddon ? "wasm" : "cpu";
let expected: Served;

describe("the same tokens", () => {
  before(async () => {
    expected = await serveOnce(workload, { backend });
  });

  const same = (
    name: string,
    configuration: Configuration,
    check?: (served: Served) => void,
    skip: string | false = false,
  ): void => {
    test(name, { skip }, async () => {
      const served = await serveOnce(workload, { backend, ...configuration });
      check?.(served);
      assert.deepEqual(served.tokens, expected.tokens);
    });
  };

  test("and the recorded answers", () => {
    assert.ok(workload.length >= 200);
    const recorded = workload.filter((request) => request.golden !== undefined);
    assert.ok(recorded.length >= 190);
    for (const request of recorded)
      assert.ok(expected.texts[request.id].startsWith(request.golden!), request.text);
  });

  same("with a pool so small that it preempts and evicts", { blocks: 56 }, (served) => {
    assert.ok(served.preemptions > 0, "it preempts");
    assert.ok(served.stats.evictions > 0, "it evicts");
  });
  same("with the prefix cache off", { prefixCache: false }, (served) =>
    assert.equal(served.stats.hitTokens, 0),
  );
  same("with the prefix cache on there are hits", {}, (served) => assert.ok(served.stats.hitTokens > 0));
  same("with prompts that share part of a block, copied", { partialReuse: 2, blocks: 160 }, (served) =>
    assert.ok(served.stats.copiedTokens > 1000, `${served.stats.copiedTokens} tokens copied`),
  );
  same("with a token budget of 16", { maxBatchTokens: 16 });
  same("with a token budget without limit", { maxBatchTokens: 1 << 20 });
  same("one request at a time", { maxRunning: 1 });
  same("with 200 requests at a time", { maxRunning: 200, blocks: 8192 });
  same("with blocks of 4 tokens", { blockSize: 4, blocks: 8192 });
  same("with the threads build of the core", { build: "core-threads" });
  same("with the scalar build of the core", { build: "core-scalar" });
  same("on the wasm kernels", { backend: "wasm" }, undefined, noAddon);
});

/** Policy "longest-prefix": what is cached runs while it is cached, and nobody starves of it. (Equal to the model: scheduler.test.ts.) */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core, type PolicyName, type RequestId } from "../../bindings/main.js";

/**
 * One request at a time is served, and for each a new one comes whose prompt is cached but for a token: how many of them
 * a request with nothing cached is overtaken by.
 */
async function starvation(agingTokens: number, maxSequenceTokens: number): Promise<number> {
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 64, blockSize: 4, maxSequences: 1, maxSequenceTokens });
  const scheduler = core.scheduler({
    cache,
    vocabSize: 64,
    maxRequests: 64,
    maxRunning: 1,
    maxBatchTokens: 256,
    policy: "longest-prefix",
    agingTokens,
  });
  const shared = Array.from({ length: maxSequenceTokens - 4 }, (_, i) => i % 32);
  const favoured = (): RequestId => scheduler.submit({ tokens: [...shared, 1], maxNewTokens: 1 });
  const serve = (): RequestId => {
    const { stepId, requests } = scheduler.step(0);
    const [request] = requests;
    scheduler.commit(stepId, 0, { tokens: [0] });
    return request;
  };
  favoured();
  serve();
  const cold = scheduler.submit({ tokens: [63, 62], maxNewTokens: 1 });
  let overtaken = 0;
  for (; overtaken < 1000; overtaken++) {
    favoured();
    if (serve() === cold) break;
  }
  return overtaken;
}

test("longest-prefix: nobody is overtaken by more than maxSequenceTokens / agingTokens later arrivals, and some nearly are", async () => {
  for (const [agingTokens, maxSequenceTokens] of [
    [1, 64],
    [2, 64],
    [4, 64],
    [8, 64],
    [4, 128],
  ]) {
    const overtaken = await starvation(agingTokens, maxSequenceTokens);
    const bound = maxSequenceTokens / agingTokens;
    assert.ok(overtaken <= bound, `${overtaken} overtake, the bound is ${bound}`);
    assert.ok(overtaken >= 0.75 * bound - 1, `${overtaken} of ${bound}: the cached prefix does come first`);
  }
});

test("longest-prefix: what shares a cached prefix runs while it is cached, so more of it is found", async () => {
  const hits = async (policy: PolicyName): Promise<number> => {
    const core = await Core.create();
    const cache = core.kvCache({ blocks: 40, blockSize: 4, maxSequences: 2, maxSequenceTokens: 128 });
    const scheduler = core.scheduler({ cache, vocabSize: 64, maxRunning: 2, maxBatchTokens: 128, policy });
    // Four contexts of 16 blocks take turns; two fit the pool.
    for (let i = 0; i < 64; i++) {
      const context = Array.from({ length: 64 }, (_, at) => (at * 5 + (i % 4)) % 64);
      scheduler.submit({ tokens: [...context, i % 64, 1], maxNewTokens: 1 });
    }
    while (scheduler.waiting + scheduler.running > 0) {
      const { stepId, samplingRows } = scheduler.step(0);
      scheduler.commit(stepId, 0, { tokens: new Uint32Array(samplingRows) });
    }
    const { hitTokens, queriedTokens } = cache.stats();
    return hitTokens / queriedTokens;
  };
  const [arrival, prefix] = [await hits("fcfs"), await hits("longest-prefix")];
  assert.ok(arrival < 0.2, `in order of arrival ${arrival}`);
  assert.ok(prefix > 0.8, `longest prefix first ${prefix}`);
});

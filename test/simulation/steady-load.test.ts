/** With arrivals below what the machine can do every request finishes, the queue stays short, and nobody is overtaken. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core, type PolicyName } from "../../bindings/main.js";
import { POLICIES } from "../../bindings/scheduler-options.js";
import { Random } from "../support/random.js";

const PROMPT = 24;
const ANSWER = 8;
const REQUESTS = 3000;

/** Serves a constant stream, one request each `every` steps; returns the longest queue and who finished, in order. */
async function serve(policy: PolicyName, every: number): Promise<{ longest: number; finished: number[] }> {
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 40, blockSize: 4, maxSequences: 8, maxSequenceTokens: 48 });
  const scheduler = core.scheduler({
    cache,
    vocabSize: 100,
    maxRequests: 64,
    maxBatchTokens: 16,
    tenants: 2,
    policy,
  });
  const random = new Random(5);
  const orderOf = new Map<number, number>();
  const finished: number[] = [];
  let longest = 0;
  for (let step = 0; finished.length < REQUESTS; step++) {
    assert.ok(step < REQUESTS * every + 400, `${policy}: ${REQUESTS - finished.length} have not finished`);
    if (step % every === 0 && orderOf.size < REQUESTS) {
      const tokens = Array.from({ length: PROMPT }, () => random.below(100));
      const terms = { priority: random.below(3), tenant: random.below(2), deadlineUs: step + 500 };
      orderOf.set(scheduler.submit({ tokens, maxNewTokens: ANSWER, ...terms }), orderOf.size);
    }
    const plan = scheduler.step(step);
    longest = Math.max(longest, plan.waiting);
    scheduler.commit(plan.stepId, step, { tokens: new Uint32Array(plan.samplingRows) });
    for (const { request, kind } of scheduler.outcomes()) {
      assert.equal(kind, "finished");
      finished.push(orderOf.get(request)!);
    }
  }
  assert.equal(cache.available, 40);
  return { longest, finished };
}

// A request is 24 prompt tokens in chunks of at most 16 and 8 steps; three steps a request leave room beside decodes.
for (const policy of POLICIES)
  test(`${policy}: with constant arrivals below capacity every request finishes`, async () => {
    const { longest, finished } = await serve(policy, 3);
    assert.ok(longest <= 8, `${longest} waited at a time`);
    assert.deepEqual(
      [...finished].sort((a, b) => a - b),
      Array.from({ length: REQUESTS }, (_, i) => i),
    );
    if (policy === "fcfs")
      assert.ok(
        finished.every((order, i) => order === i),
        "in order of arrival",
      );
  });

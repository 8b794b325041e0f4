/** `maxChunkTokens` of a request: no step gives it more of its prompt, and what it leaves others get. (Equal to the model: scheduler.test.ts.) */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core, type RequestId, type Scheduler } from "../../bindings/main.js";

async function make(options: object = {}): Promise<Scheduler> {
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 256, blockSize: 4, maxSequences: 8, maxSequenceTokens: 512 });
  return core.scheduler({ cache, vocabSize: 10, maxBatchTokens: 64, maxRunning: 8, ...options });
}

/** Tokens that each step gave each request, until all have ended. */
function serveAll(scheduler: Scheduler): Map<RequestId, number>[] {
  const steps: Map<RequestId, number>[] = [];
  for (let now = 1; scheduler.running + scheduler.waiting > 0; now++) {
    const plan = scheduler.step(now);
    steps.push(new Map(Array.from(plan.requests, (request, row) => [request, plan.newTokens[row]])));
    scheduler.commit(plan.stepId, now, { tokens: new Uint32Array(plan.samplingRows) });
  }
  return steps;
}

test("a long prompt with a budget of its own leaves the rest of every step to those behind it", async () => {
  const firstTokenStep = async (maxChunkTokens: number): Promise<number> => {
    const scheduler = await make();
    const long = scheduler.submit({ tokens: new Uint32Array(400), maxNewTokens: 1, maxChunkTokens });
    const short = scheduler.submit({ tokens: new Uint32Array(40).fill(1), maxNewTokens: 1 });
    const steps = serveAll(scheduler);
    if (maxChunkTokens > 0) {
      const given = steps.map((step) => step.get(long) ?? 0);
      assert.deepEqual(given.slice(0, 25), Array(25).fill(16), "400 tokens, 16 a step");
    }
    return steps.findIndex((step) => step.has(short));
  };
  assert.equal(await firstTokenStep(16), 0);
  assert.equal(await firstTokenStep(0), 6, "without it the long prompt takes six whole steps");
});

test("the smaller of the request's and the scheduler's limit holds", async () => {
  const scheduler = await make({ maxChunkTokens: 10 });
  const [wide, narrow] = [30, 6].map((maxChunkTokens) =>
    scheduler.submit({
      tokens: new Uint32Array(60).fill(maxChunkTokens % 10),
      maxNewTokens: 1,
      maxChunkTokens,
    }),
  );
  const steps = serveAll(scheduler);
  assert.equal(Math.max(...steps.map((step) => step.get(wide) ?? 0)), 10);
  assert.equal(Math.max(...steps.map((step) => step.get(narrow) ?? 0)), 6);
});

test("a last chunk that is asked for larger than the budget is cut to the budget, and ends", async () => {
  const scheduler = await make();
  const request = scheduler.submit({
    tokens: new Uint32Array(50),
    maxNewTokens: 2,
    maxChunkTokens: 8,
    lastChunk: 20,
  });
  const given = serveAll(scheduler).map((step) => step.get(request) ?? 0);
  assert.equal(
    given.reduce((sum, tokens) => sum + tokens, 0),
    51,
  );
  assert.ok(Math.max(...given) <= 8);
});

test("a budget that is none is refused", async () => {
  const scheduler = await make();
  for (const maxChunkTokens of [-1, 1.5, NaN, 2 ** 22 + 1])
    assert.throws(() => scheduler.submit({ tokens: [1], maxNewTokens: 1, maxChunkTokens }), {
      code: "INVALID_ARGUMENT",
      message: /maxChunkTokens/,
    });
});

/** Order by predicted length: what it is for, that wrong guesses cost order only, and that a record keeps it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core, type PolicyName, type Scheduler } from "../../bindings/main.js";
import { recordScheduler, replay } from "../../bindings/main.js";
import { Random } from "../support/random.js";

const CACHE = { blocks: 256, blockSize: 4, maxSequences: 4, maxSequenceTokens: 1024 };
const SCHEDULER = { vocabSize: 100, maxRequests: 256, maxRunning: 4, maxBatchTokens: 64 };

async function open(policy: PolicyName): Promise<Scheduler> {
  const core = await Core.create();
  return core.scheduler({ ...SCHEDULER, cache: core.kvCache(CACHE), policy });
}

/**
 * Submits 200 prompts at once whose answers are short or long, and serves them all; returns the mean number of steps until one
 * was finished. `guess` makes the prediction of an answer's length.
 */
function meanSteps(scheduler: Scheduler, guess: (length: number, random: Random) => number): number {
  const random = new Random(5);
  const length = new Map<number, number>();
  for (let i = 0; i < 200; i++) {
    const tokens = Array.from({ length: 8 + random.below(8) }, () => random.below(100));
    const answer = random.below(4) === 0 ? 200 : 8;
    const request = scheduler.submit({ tokens, maxNewTokens: 200, predictedTokens: guess(answer, random) });
    length.set(request, answer);
  }
  const generated = new Map<number, number>();
  let sum = 0;
  for (let step = 1; length.size > 0; step++) {
    const plan = scheduler.step(step);
    const finished: boolean[] = [];
    for (let row = 0; row < plan.rows; row++) {
      if (plan.phases[row] === 0) continue;
      const request = plan.requests[row];
      const count = (generated.get(request) ?? 0) + 1;
      generated.set(request, count);
      finished.push(count === length.get(request));
    }
    scheduler.commit(plan.stepId, step, { tokens: finished.map(() => 1), finished });
    for (const outcome of scheduler.outcomes()) {
      if (outcome.kind !== "finished") continue;
      length.delete(outcome.request);
      sum += step;
    }
    assert.ok(step < 10_000, "everybody is served");
  }
  return sum / 200;
}

test("with lengths known, requests are finished after half the steps that order of arrival takes, or less", async () => {
  const exact = (length: number): number => length;
  const [predicted, blind, arrival] = [
    meanSteps(await open("shortest-first"), exact),
    meanSteps(await open("shortest-first"), () => 0),
    meanSteps(await open("fcfs"), exact),
  ];
  assert.ok(predicted <= arrival / 2, `${predicted} against ${arrival} steps`);
  assert.ok(blind > 1.5 * predicted, `without predictions ${blind}`);
});

test("lengths known within a factor of two gain nearly as much", async () => {
  const near = (length: number, random: Random): number =>
    Math.round(length * (0.5 + random.below(150) / 100));
  const exact = meanSteps(await open("shortest-first"), (length) => length);
  const rough = meanSteps(await open("shortest-first"), near);
  assert.ok(rough <= 1.2 * exact, `${rough} against ${exact} steps`);
});

test("a prediction moves a waiting request at once, a later one that still arrives when it does", async () => {
  const scheduler = await open("shortest-first");
  const submit = (more: object): number =>
    scheduler.submit({ tokens: Array.from({ length: 60 }, (_, i) => i), maxNewTokens: 8, ...more });
  const [long, short] = [submit({ predictedTokens: 50 }), submit({ predictedTokens: 40 })];
  const later = submit({ predictedTokens: 90, arrivalUs: 5 });
  scheduler.setPrediction(long, 10);
  scheduler.setPrediction(later, 20);
  const plan = scheduler.step(5);
  assert.deepEqual([...plan.requests.subarray(0, plan.rows)], [long, later]);
  scheduler.commit(plan.stepId, 5, { tokens: [1] });
  assert.equal(scheduler.waiting, 1);
  scheduler.abort(short);
  assert.equal(scheduler.waiting, 0);
});

test("bad predictions are refused and change nothing", async () => {
  const scheduler = await open("shortest-first");
  const request = scheduler.submit({ tokens: [1, 2], maxNewTokens: 4 });
  const before = scheduler.core.snapshot();
  for (const wrong of [-1, 1.5, 2 ** 24 + 1, NaN]) {
    assert.throws(() => scheduler.setPrediction(request, wrong), {
      code: "INVALID_ARGUMENT",
      argument: "predictedTokens",
    });
    assert.throws(() => scheduler.submit({ tokens: [1], maxNewTokens: 1, predictedTokens: wrong }), {
      code: "INVALID_ARGUMENT",
    });
  }
  assert.throws(() => scheduler.setPrediction(request + 1, 3), { code: "UNKNOWN_REQUEST" });
  assert.deepEqual(scheduler.core.snapshot(), before);
});

test("predictions are recorded, and a replay makes the same plans", async () => {
  const lines: string[] = [];
  const scheduler = await recordScheduler(
    { cache: CACHE, scheduler: { ...SCHEDULER, maxRunning: 2, policy: "shortest-first" } },
    (line) => lines.push(line),
  );
  const requests = [30, 20, 10].map((predictedTokens) =>
    scheduler.submit({ tokens: [predictedTokens], maxNewTokens: 4, predictedTokens }),
  );
  scheduler.setPrediction(requests[0], 1);
  const plan = scheduler.step(0);
  assert.deepEqual([...plan.requests.subarray(0, plan.rows)], [requests[0], requests[2]]);
  scheduler.commit(plan.stepId, 1, { tokens: [1, 1] });
  const { mismatch } = await replay(lines);
  assert.equal(mismatch, undefined);
});

/** `nextWakeUs`: a host that sleeps until then misses nothing, and one that wakes then has something to do. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Core, QuartermasterError, type RequestId, type Scheduler } from "../../bindings/main.js";
import { Random } from "../support/random.js";

const TIMEOUT_US = 300;

async function oneAtATime(queueTimeoutUs = TIMEOUT_US): Promise<Scheduler> {
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 16, blockSize: 4, maxSequences: 1, maxSequenceTokens: 64 });
  return core.scheduler({ cache, vocabSize: 10, maxRunning: 1, maxBatchTokens: 64, queueTimeoutUs });
}

/** Serves a step; returns the requests that were rejected, and why. */
function serve(scheduler: Scheduler, nowUs: number): [RequestId, string | undefined][] {
  const { stepId, samplingRows } = scheduler.step(nowUs);
  const rejected = scheduler.outcomes().filter(({ kind }) => kind === "rejected");
  scheduler.commit(stepId, nowUs, { tokens: new Uint32Array(samplingRows) });
  return rejected.map(({ request, code }) => [request, code]);
}

test("the end of the time in the queue wakes the host, and the step at that time rejects", async () => {
  const scheduler = await oneAtATime();
  scheduler.submit({ tokens: [1, 2], maxNewTokens: 40, arrivalUs: 1000 });
  assert.equal(scheduler.nextWakeUs(), 1000, "the arrival");
  serve(scheduler, 1000);
  const late = scheduler.submit({ tokens: [3, 4], maxNewTokens: 1, arrivalUs: 1010 });
  serve(scheduler, 1010);
  assert.ok(scheduler.nextWakeUs() <= 1310);
  assert.deepEqual(serve(scheduler, 1309.75), []);
  assert.equal(scheduler.nextWakeUs(), 1310, "1010 and 300 us in the queue");
  assert.deepEqual(serve(scheduler, scheduler.nextWakeUs()), [[late, "QUEUE_TIMEOUT"]]);
  assert.equal(scheduler.nextWakeUs(), Infinity);
});

test("the deadline wakes the host when it comes before the end of the time in the queue", async () => {
  const scheduler = await oneAtATime();
  scheduler.submit({ tokens: [1, 2], maxNewTokens: 40, arrivalUs: 1 });
  scheduler.submit({ tokens: [3, 4], maxNewTokens: 1, arrivalUs: 2, deadlineUs: 250 });
  serve(scheduler, 2);
  assert.equal(scheduler.nextWakeUs(), 250);
});

test("a request that came to run at once waits from the first step that sees it, however late that is", async () => {
  const scheduler = await oneAtATime();
  scheduler.submit({ tokens: [1, 2], maxNewTokens: 40 });
  const second = scheduler.submit({ tokens: [3, 4], maxNewTokens: 1 });
  assert.ok(scheduler.nextWakeUs() <= 0, "there is something to do now");
  assert.deepEqual(serve(scheduler, 1e9), []);
  assert.equal(scheduler.nextWakeUs(), 1e9 + TIMEOUT_US);
  assert.deepEqual(serve(scheduler, 1e9 + TIMEOUT_US), [[second, "QUEUE_TIMEOUT"]]);
});

test("a request that has run is not rejected when it waits again", async () => {
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 4, blockSize: 4, maxSequences: 2, maxSequenceTokens: 16 });
  const shape = { cache, vocabSize: 10, maxBatchTokens: 16, watermarkBlocks: 0 };
  const scheduler = core.scheduler({ ...shape, queueTimeoutUs: TIMEOUT_US });
  for (let i = 0; i < 2; i++)
    scheduler.submit({ tokens: [i, 1, 2, 3, 4, 5, 6], maxNewTokens: 8, arrivalUs: 1 });
  let preemptions = 0;
  for (let now = 1; now === 1 || scheduler.running + scheduler.waiting > 0; now += 2 * TIMEOUT_US) {
    const { stepId, samplingRows } = scheduler.step(now);
    for (const { kind } of scheduler.outcomes()) {
      assert.notEqual(kind, "rejected");
      preemptions += Number(kind === "preempted");
    }
    scheduler.commit(stepId, now, { tokens: new Uint32Array(samplingRows) });
  }
  assert.ok(preemptions > 0);
});

test("between two wakes an empty step stays empty, and no wake is for nothing twice", async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer(), async (seed) => {
      const random = new Random(seed);
      const scheduler = await oneAtATime(random.below(2) * TIMEOUT_US);
      let now = 0;
      for (let i = 0; i < 60; i++) {
        for (let n = random.below(3); n > 0; n--) {
          try {
            scheduler.submit({
              tokens: Array.from({ length: 1 + random.below(9) }, () => random.below(10)),
              maxNewTokens: 1 + random.below(6),
              arrivalUs: random.below(3) * (now + random.below(900)),
              ...(random.below(2) === 0 && { deadlineUs: now + 1 + random.below(4000) / 4 }),
            });
          } catch (error) {
            assert.ok(error instanceof QuartermasterError);
          }
        }
        // Runs until nothing runs, then sleeps: looks in at times before the wake, and wakes.
        for (let idle = false; !idle; now++) {
          const plan = scheduler.step(now);
          const { stepId, rows, samplingRows } = plan;
          idle = rows === 0;
          scheduler.commit(stepId, now, { tokens: new Uint32Array(samplingRows) });
        }
        const wake = scheduler.nextWakeUs();
        if (wake === Infinity) {
          assert.equal(scheduler.waiting + scheduler.arriving, 0);
          continue;
        }
        assert.ok(wake >= now - 1, "nothing that was due is left");
        for (let looks = random.below(3); looks > 0; looks--) {
          const early = now - 1 + Math.floor((wake - now + 1) * 0.3 * looks);
          if (early >= wake) continue;
          const plan = scheduler.step(early);
          assert.deepEqual([plan.rows, scheduler.outcomes().length], [0, 0], `at ${early}, before ${wake}`);
          scheduler.commit(plan.stepId, early, { tokens: [] });
        }
        now = wake;
        const { rows, stepId, samplingRows } = scheduler.step(now);
        assert.ok(rows + scheduler.outcomes().length > 0, "an arrival runs, or what waits ends");
        scheduler.commit(stepId, now, { tokens: new Uint32Array(samplingRows) });
        assert.ok(scheduler.nextWakeUs() > now);
      }
    }),
    { numRuns: 60 },
  );
});

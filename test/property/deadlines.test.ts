/** Deadlines: what waits past its own ends, and the earliest comes first. (Equal to the model: scheduler.test.ts.) */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core, type PolicyName, type Scheduler } from "../../bindings/main.js";

async function oneAtATime(policy: PolicyName): Promise<Scheduler> {
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 64, blockSize: 4, maxSequences: 1, maxSequenceTokens: 64 });
  return core.scheduler({ cache, vocabSize: 10, maxRunning: 1, maxBatchTokens: 64, policy });
}

function serve(scheduler: Scheduler, nowUs: number): void {
  const { stepId, samplingRows } = scheduler.step(nowUs);
  scheduler.commit(stepId, nowUs, { tokens: new Uint32Array(samplingRows) });
}

test("a request that waits past its deadline expires; one that runs goes on", async () => {
  const scheduler = await oneAtATime("priority");
  const first = scheduler.submit({ tokens: [1, 2], maxNewTokens: 9, deadlineUs: 50 });
  const second = scheduler.submit({ tokens: [3, 4], maxNewTokens: 9, deadlineUs: 100 });
  serve(scheduler, 0);
  assert.equal(scheduler.nextWakeUs() <= 100, true, "no later than the next deadline");
  serve(scheduler, 99.9);
  assert.equal(scheduler.nextWakeUs(), 100, "the next deadline, once it has been looked for");
  assert.deepEqual([scheduler.state(first), scheduler.state(second)], ["running", "waiting"]);
  serve(scheduler, 100);
  assert.deepEqual(
    scheduler.outcomes().map(({ request, kind }) => [request, kind]),
    [[second, "expired"]],
  );
  assert.deepEqual([scheduler.state(first), scheduler.state(second)], ["running", "ended"]);
  assert.equal(scheduler.nextWakeUs(), Infinity);
  scheduler.validate();
});

test("a request may expire when it arrives", async () => {
  const scheduler = await oneAtATime("fcfs");
  const late = scheduler.submit({ tokens: [1], maxNewTokens: 1, arrivalUs: 500, deadlineUs: 400 });
  serve(scheduler, 450);
  assert.equal(scheduler.state(late), "arriving");
  serve(scheduler, 500);
  assert.equal(scheduler.outcomes()[0].kind, "expired");
});

test("earliest deadline first meets deadlines that order of arrival misses", async () => {
  const met = async (policy: PolicyName): Promise<number> => {
    const scheduler = await oneAtATime(policy);
    // One is served a millisecond; request i has until its turn in the reverse order.
    for (let i = 0; i < 20; i++)
      scheduler.submit({ tokens: [1, 2, 3], maxNewTokens: 1, deadlineUs: (20 - i) * 1000 });
    let finished = 0;
    for (let i = 0; i < 20; i++) {
      serve(scheduler, i * 1000);
      finished += scheduler.outcomes().filter(({ kind }) => kind === "finished").length;
    }
    return finished;
  };
  assert.equal(await met("earliest-deadline"), 20);
  assert.equal(await met("fcfs"), 10);
});

for (const epochUs of [0, 1.8e15])
  test(`deadlines are met in order to the microsecond, equal ones by arrival, none last; clock from ${epochUs}`, async () => {
    const scheduler = await oneAtATime("earliest-deadline");
    const submit = (inUs?: number): number =>
      scheduler.submit({
        tokens: [1, 2],
        maxNewTokens: 1,
        ...(inUs && { deadlineUs: epochUs + inUs }),
      });
    const [none, later, soon, sooner, soonToo, noneToo] = [
      submit(),
      submit(4e12),
      submit(2000),
      submit(1999),
      submit(2000.25),
      submit(),
    ];
    const served: number[] = [];
    for (let i = 0; i < 6; i++) {
      served.push(scheduler.step(epochUs + i).requests[0]);
      scheduler.commit(i + 1, epochUs + i, { tokens: [0] });
    }
    assert.deepEqual(served, [sooner, soon, soonToo, later, none, noneToo]);
  });

test("the latest deadline is preempted first, whatever the priority and the order of admission", async () => {
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 6, blockSize: 4, maxSequences: 3, maxSequenceTokens: 24 });
  const preempted = async (policy: PolicyName): Promise<number> => {
    const scheduler = core.scheduler({
      cache,
      vocabSize: 10,
      maxBatchTokens: 64,
      policy,
      watermarkBlocks: 0,
    });
    // Eight tokens and their blocks each; the ninth needs a third block that nobody has.
    const requests = [9000, 1000, 5000].map((deadlineUs, i) =>
      scheduler.submit({ tokens: Array(8).fill(i), maxNewTokens: 4, deadlineUs, priority: i, arrivalUs: 1 }),
    );
    let first = -1;
    for (let now = 1; first < 0; now++) {
      serve(scheduler, now);
      const outcome = scheduler.outcomes().find(({ kind }) => kind === "preempted");
      if (outcome) first = requests.indexOf(outcome.request);
    }
    for (const request of requests) scheduler.abort(request);
    return first;
  };
  assert.equal(await preempted("earliest-deadline"), 0);
  assert.equal(await preempted("priority"), 2);
});

test("a deadline that is none is refused", async () => {
  const scheduler = await oneAtATime("fcfs");
  for (const deadlineUs of [0, -1, NaN, Infinity]) {
    assert.throws(() => scheduler.submit({ tokens: [1], maxNewTokens: 1, deadlineUs }), /deadlineUs/);
  }
});

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

test("deadlines of one unit, and requests without any, keep their order of arrival", async () => {
  const scheduler = await oneAtATime("earliest-deadline");
  const submit = (deadlineUs?: number): number =>
    scheduler.submit({ tokens: [1, 2], maxNewTokens: 1, ...(deadlineUs && { deadlineUs }) });
  const [none, later, soon, soonToo, noneToo] = [
    submit(),
    submit(1e15),
    submit(2000),
    submit(1999),
    submit(),
  ];
  const served: number[] = [];
  for (let i = 0; i < 5; i++) {
    served.push(scheduler.step(i).requests[0]);
    scheduler.commit(i + 1, i, { tokens: [0] });
  }
  assert.deepEqual(served, [soon, soonToo, later, none, noneToo]);
});

test("a deadline that is none is refused", async () => {
  const scheduler = await oneAtATime("fcfs");
  for (const deadlineUs of [0, -1, NaN, Infinity]) {
    assert.throws(() => scheduler.submit({ tokens: [1], maxNewTokens: 1, deadlineUs }), /deadlineUs/);
  }
});

/** A record replays to the same plans, in every build; whatever is changed in it is noticed where it starts to matter. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  createScheduler,
  QuartermasterError,
  recordScheduler,
  replay,
  type RequestId,
  type Scheduler,
} from "../../bindings/main.js";
import { Random } from "../support/random.js";

const VOCAB = 9;
const SETUP = {
  seed: 7,
  cache: { blocks: 24, blockSize: 4, maxSequences: 8, maxSequenceTokens: 64 },
  scheduler: {
    vocabSize: VOCAB,
    maxRequests: 32,
    maxBatchTokens: 24,
    tokenCapacity: 32 * 256,
    maxDraftTokens: 3,
  },
} as const;

type Line = Record<string, unknown> & { submit?: { tokens: number[] }; tokens?: number[]; plan?: string };

function submitOne(scheduler: Scheduler, random: Random, nowUs: number): RequestId[] {
  const tokens = Array.from({ length: 1 + random.below(30) }, (_, i) =>
    random.below(12) === 0 ? random.below(VOCAB) : i % VOCAB,
  );
  try {
    const id = random.below(3) === 0 ? { id: 1 + random.below(6) } : {};
    const arrivalUs = random.below(4) === 0 ? nowUs + random.below(30) : 0;
    const priority = random.below(3);
    const deadline = random.below(4) === 0 ? { deadlineUs: nowUs + 1 + random.below(300) } : {};
    return [
      scheduler.submit({
        tokens,
        maxNewTokens: 1 + random.below(20),
        arrivalUs,
        priority,
        ...deadline,
        ...id,
      }),
    ];
  } catch (error) {
    assert.ok(error instanceof QuartermasterError);
    return [];
  }
}

/** Submits, steps, commits, abandons and aborts at random. */
function operate(scheduler: Scheduler, seed: number, operations: number): void {
  const random = new Random(seed);
  const live: RequestId[] = [];
  let nowUs = 0.1;
  for (let i = 0; i < operations; i++) {
    if (random.below(3) === 0) live.push(...submitOne(scheduler, random, nowUs));
    nowUs += random.below(100) / 7;
    for (const request of live)
      if (scheduler.maxDraftTokens > 0 && scheduler.state(request) === "running" && random.below(2) === 0)
        scheduler.propose(request, [random.below(VOCAB), random.below(VOCAB)]);
    const plan = scheduler.step(nowUs);
    if (random.below(8) === 0 && live.length > 0) {
      const request = random.pick(live);
      if (scheduler.state(request) !== "ended") scheduler.abort(request);
    }
    if (random.below(8) === 0) {
      scheduler.abandon(plan.stepId);
      continue;
    }
    const tokens = Array.from({ length: plan.samplingRows }, () => random.below(VOCAB));
    const finished = tokens.map(() => random.below(9) === 0);
    const sampling = Array.from(plan.phases).flatMap((phase, row) => (phase === 0 ? [] : [row]));
    const accepted = sampling.map((row) => (plan.phases[row] === 1 ? random.below(plan.newTokens[row]) : 0));
    scheduler.commit(plan.stepId, nowUs, { tokens, finished, accepted });
  }
}

async function recorded(seed: number, operations = 120): Promise<{ lines: string[]; scheduler: Scheduler }> {
  const lines: string[] = [];
  const scheduler = await recordScheduler(SETUP, (line) => lines.push(line));
  operate(scheduler, seed, operations);
  return { lines, scheduler };
}

/** The state without the region that a refused prompt has been written to. */
function bytes({ core, cache }: Scheduler): Uint8Array {
  const input = core.exports.kvInput(cache.pointer) >>> 0;
  return core.snapshot().fill(0, input, input + 4 * cache.maxSequenceTokens);
}

function change(lines: readonly string[], index: number, edit: (line: Line) => void): string[] {
  const line = JSON.parse(lines[index]) as Line;
  edit(line);
  return lines.map((text, i) => (i === index ? JSON.stringify(line) : text));
}

test("a record replays to the same plans in every build, and to the same bytes in the end", async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer(), async (seed) => {
      const { lines, scheduler } = await recorded(seed);
      for (const build of ["core", "core-threads", "core-scalar"] as const) {
        let replayed: Scheduler | undefined;
        const report = await replay(lines, { build, onPlan: (_, step) => (replayed = step.scheduler) });
        assert.equal(report.mismatch, undefined);
        assert.equal(report.steps, 120);
        if (build === "core") assert.deepEqual(bytes(replayed!), bytes(scheduler));
      }
    }),
    { numRuns: 25 },
  );
});

test("recording changes no plan: the same calls without it leave the same bytes", async () => {
  const { scheduler } = await recorded(3);
  const plain = await createScheduler(SETUP);
  operate(plain, 3, 120);
  assert.deepEqual(plain.core.snapshot(), scheduler.core.snapshot());
});

test("a changed digest is noticed at its step", async () => {
  const { lines } = await recorded(11);
  const steps = lines.flatMap((text, i) => ("step" in (JSON.parse(text) as Line) ? [i] : []));
  for (const index of [steps[0], steps[40], steps[steps.length - 1]]) {
    const changed = change(lines, index, (line) => {
      line.plan = line.plan!.replace(/^./, (digit) => (digit === "0" ? "1" : "0"));
    });
    const { mismatch, steps: planned } = await replay(changed);
    assert.equal(mismatch?.line, index + 1);
    assert.equal(mismatch.stepId, planned);
    assert.equal(mismatch.what, "plan");
  }
});

test("a changed prompt token is noticed at the first step that feeds it, a changed sample one step later", async () => {
  const lines: string[] = [];
  const scheduler = await recordScheduler(SETUP, (line) => lines.push(line));
  const run = (nowUs: number, tokens: number[]): void => {
    const { stepId } = scheduler.step(nowUs);
    scheduler.commit(stepId, nowUs, { tokens });
  };
  scheduler.submit({ tokens: [1, 2, 3], maxNewTokens: 8 });
  run(1, [4]);
  run(2, [5]);
  scheduler.submit({ tokens: [6, 7, 8], maxNewTokens: 8, arrivalUs: 4 });
  run(3, [6]);
  run(4, [7, 1]);
  run(5, [8, 2]);
  const at = (test: (line: Line) => boolean, nth: number): number =>
    lines.flatMap((text, i) => (test(JSON.parse(text) as Line) ? [i] : []))[nth];

  const prompt = change(
    lines,
    at((line) => line.submit !== undefined, 1),
    (line) => (line.submit!.tokens[1] = 5),
  );
  assert.deepEqual(pick(await replay(prompt)), { stepId: 4, what: "plan" });
  const sample = change(
    lines,
    at((line) => line.tokens !== undefined, 1),
    (line) => (line.tokens![0] = 0),
  );
  assert.deepEqual(pick(await replay(sample)), { stepId: 3, what: "plan" });
  const wrong = change(
    lines,
    at((line) => line.tokens !== undefined, 2),
    (line) => (line.tokens![0] = VOCAB),
  );
  assert.deepEqual(pick(await replay(wrong)), { stepId: 3, what: "refused" });
  const lost = lines.filter((_, i) => i !== at((line) => line.submit !== undefined, 1));
  assert.deepEqual(pick(await replay(lost)), { stepId: 4, what: "plan" });
  const late = change(
    lines,
    at((line) => line.step !== undefined, 3),
    (line) => (line.step = 3.5),
  );
  assert.deepEqual(pick(await replay(late)), { stepId: 4, what: "plan" });
});

function pick(report: Awaited<ReturnType<typeof replay>>): { stepId?: number; what?: string } {
  return { stepId: report.mismatch?.stepId, what: report.mismatch?.what };
}

test("a record that a smaller pool replays differs where blocks first matter", async () => {
  const { lines } = await recorded(5);
  const smaller = change(lines, 0, (line) => ((line.cache as { blocks: number }).blocks = 18));
  const { mismatch } = await replay(smaller);
  assert.equal(mismatch?.stepId, 1, "free blocks are part of the plan");
});

test("untilStep stops at the plan of that step", async () => {
  const { lines } = await recorded(2);
  const seen: number[] = [];
  const report = await replay(lines, { untilStep: 17, onPlan: (plan) => seen.push(plan.stepId) });
  assert.deepEqual([report.steps, seen.length, seen.at(-1)], [17, 17, 17]);
});

test("what is no record is refused with the line", async () => {
  const { lines } = await recorded(2, 4);
  const refused = (text: string[], message: RegExp): Promise<void> =>
    assert.rejects(replay(text), { code: "INVALID_ARGUMENT", message });
  await refused([], /record is undefined/);
  await refused(["{"], /line 1/);
  await refused(lines.slice(1), /line 1/);
  await refused([lines[0].replace('"record":1', '"record":2')], /version is 2; allowed: 1/);
  await refused([lines[0], "{}"], /line 2: allowed: submit, propose, lanes, step/);
  await refused([lines[0], "null"], /line 2/);
  await refused([lines[0], '{"submit":{"tokens":5},"request":1}'], /line 2: submit\.tokens/);
  await refused([lines[0], '{"submit":{"tokens":[1],"id":"x"},"request":1}'], /line 2: submit\.id/);
});

test("a call that traps is in the record", async () => {
  const lines: string[] = [];
  const scheduler = await recordScheduler({ ...SETUP }, (line) => lines.push(line), { build: "debug" });
  scheduler.submit({ tokens: [1, 2, 3], maxNewTokens: 8 });
  // Breaks what the debug build checks after each call.
  new Uint32Array(scheduler.core.memory.buffer, scheduler.pointer, 4)[1] = 0;
  assert.throws(() => scheduler.step(1), { code: "POISONED" });
  assert.match(lines[lines.length - 1], /"step":1,.*"trapped":true/);
  const { mismatch } = await replay(lines);
  assert.equal(mismatch?.recorded, "POISONED", "the bytes were changed by hand: no replay traps");
});

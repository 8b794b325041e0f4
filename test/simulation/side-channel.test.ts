/**
 * The timing side channel of a shared cache (CVE-2025-46570): an attacker measures the time to the first token of guesses at
 * a victim's prompt of 8 tokens. Within one namespace the guess is read off the time; across namespaces it is not.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core, releaseTime, type Scheduler } from "../../bindings/main.js";
import { Random } from "../support/random.js";

/** A step's cost: a base and so much a token, as of a small model; noise of a network. */
const STEP_US = 400;
const TOKEN_US = 50;
const NOISE_US = 60;
const PREFIX = 8;
const TRIALS = 300;
const ATTACKER = 1;

async function serving(): Promise<Scheduler> {
  const core = await Core.create({ seed: 4 });
  const cache = core.kvCache({ blocks: 4096, blockSize: PREFIX, maxSequences: 8, maxSequenceTokens: 64 });
  return core.scheduler({ cache, vocabSize: 50_000, maxRequests: 8, maxBatchTokens: 256 });
}

/** Serves one request alone; returns the microseconds from its arrival to its first token. */
function timeToFirstToken(
  scheduler: Scheduler,
  tokens: number[],
  namespace: number,
  clock: { us: number },
): number {
  const arrivalUs = clock.us;
  scheduler.submit({ tokens, namespace, maxNewTokens: 1, arrivalUs });
  for (;;) {
    const plan = scheduler.step(clock.us);
    clock.us += STEP_US + TOKEN_US * plan.totalTokens;
    const { samplingRows } = plan;
    scheduler.commit(plan.stepId, clock.us, { tokens: new Uint32Array(samplingRows) });
    if (samplingRows > 0) return clock.us - arrivalUs;
  }
}

/** Area under the ROC curve of "smaller means the guess was right". */
function areaUnderCurve(right: readonly number[], wrong: readonly number[]): number {
  let wins = 0;
  for (const a of right) for (const b of wrong) wins += a < b ? 1 : a === b ? 0.5 : 0;
  return wins / (right.length * wrong.length);
}

/** How well the attacker tells prompts that the victim has sent from others. */
async function attack(victim: number, ttftBucketUs = 0): Promise<number> {
  const scheduler = await serving();
  const random = new Random(11);
  const clock = { us: 0 };
  const word = (): number => random.below(50_000);
  const noise = (): number =>
    Array.from({ length: 6 }, () => random.below(2 * NOISE_US)).reduce((a, b) => a + b) / 6;
  const times: Record<"right" | "wrong", number[]> = { right: [], wrong: [] };
  for (let trial = 0; trial < TRIALS; trial++) {
    const secret = Array.from({ length: PREFIX }, word);
    timeToFirstToken(scheduler, [...secret, word()], victim, clock);
    const isRight = random.below(2) === 0;
    const guess = isRight ? secret : Array.from({ length: PREFIX }, word);
    const took = timeToFirstToken(scheduler, [...guess, word()], ATTACKER, clock);
    times[isRight ? "right" : "wrong"].push(releaseTime(0, took + noise(), ttftBucketUs));
  }
  return areaUnderCurve(times.right, times.wrong);
}

test("in the victim's own namespace the attack works: AUC at least 0.95", async () => {
  assert.ok((await attack(ATTACKER)) >= 0.95);
});

test("from another namespace the time tells nothing: AUC between 0.45 and 0.55", async () => {
  const area = await attack(2);
  assert.ok(area >= 0.45 && area <= 0.55, String(area));
});

test("first tokens released in buckets of 5 ms tell nothing inside a namespace either", async () => {
  const area = await attack(ATTACKER, 5_000);
  assert.ok(area >= 0.45 && area <= 0.55, String(area));
});

test("a release is the next whole number of buckets after the arrival, and never early", () => {
  assert.equal(releaseTime(100, 100, 50), 100);
  assert.equal(releaseTime(100, 101, 50), 150);
  assert.equal(releaseTime(100, 150, 50), 150);
  assert.equal(releaseTime(100, 151, 0), 151);
  assert.throws(() => releaseTime(0, NaN, 50), { code: "INVALID_TIME" });
  assert.throws(() => releaseTime(0, 5, -1), { code: "INVALID_ARGUMENT" });
});

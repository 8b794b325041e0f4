/** Policy "fair" keeps the bound of "Fairness in Serving Large Language Models" (arXiv 2401.00588); order of arrival does not. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core, type PolicyName, type RequestId, type Scheduler } from "../../bindings/main.js";
import { Random } from "../support/random.js";

const BLOCKS = 48;
const BLOCK_SIZE = 4;
const LONGEST_PROMPT = 40;
const INPUT_WEIGHT = 1;
const OUTPUT_WEIGHT = 2;
/** Theorem 4.4: 2 U, with U the dearest prompt or the dearest batch that the pool holds. */
const BOUND = 2 * Math.max(INPUT_WEIGHT * LONGEST_PROMPT, OUTPUT_WEIGHT * BLOCKS * BLOCK_SIZE);

/** Serves tenants, and counts by itself what each gets. */
class Hall {
  readonly service: number[];
  readonly #promptOf = new Map<RequestId, { tenant: number; tokens: number; seen: boolean }>();
  readonly #random: Random;

  constructor(
    readonly scheduler: Scheduler,
    tenants: number,
    seed: number,
  ) {
    this.service = new Array<number>(tenants).fill(0);
    this.#random = new Random(seed);
  }

  static async open(policy: PolicyName, tenants: number, seed = 1): Promise<Hall> {
    const core = await Core.create();
    const cache = core.kvCache({
      blocks: BLOCKS,
      blockSize: BLOCK_SIZE,
      maxSequences: 6,
      maxSequenceTokens: 128,
    });
    const scheduler = core.scheduler({
      cache,
      vocabSize: 100,
      maxBatchTokens: 32,
      policy,
      tenants,
      inputWeight: INPUT_WEIGHT,
      outputWeight: OUTPUT_WEIGHT,
    });
    return new Hall(scheduler, tenants, seed);
  }

  submit(tenant: number, promptTokens: number, maxNewTokens: number): void {
    const tokens = Array.from({ length: promptTokens }, () => this.#random.below(100));
    const request = this.scheduler.submit({ tokens, maxNewTokens, tenant });
    this.#promptOf.set(request, { tenant, tokens: promptTokens, seen: false });
  }

  step(): void {
    const plan = this.scheduler.step(0);
    for (let row = 0; row < plan.rows; row++) {
      const request = this.#promptOf.get(plan.requests[row])!;
      if (!request.seen) this.service[request.tenant] += INPUT_WEIGHT * request.tokens;
      request.seen = true;
      if (plan.phases[row] !== 0) this.service[request.tenant] += OUTPUT_WEIGHT;
    }
    this.scheduler.commit(plan.stepId, 0, { tokens: new Uint32Array(plan.samplingRows) });
  }
}

/** Largest difference in service over any interval in which both tenants have requests waiting. */
async function widestGap(policy: PolicyName, steps: number): Promise<number> {
  const hall = await Hall.open(policy, 2);
  const random = new Random(9);
  // The first tenant floods the queue before the second comes; both then never let it run dry.
  for (let i = 0; i < 400; i++) hall.submit(0, LONGEST_PROMPT, 20);
  for (let i = 0; i < 100; i++) hall.submit(1, 1 + random.below(6), 1 + random.below(30));
  let widest = 0;
  for (let i = 0; i < steps; i++) {
    hall.step();
    if (i % 4 === 0) hall.submit(1, 1 + random.below(6), 1 + random.below(30));
    const [first, second] = hall.service;
    widest = Math.max(widest, Math.abs(first - second));
  }
  return widest;
}

test("two backlogged tenants: service differs by at most 2 U under fair; order of arrival goes far beyond", async () => {
  const fair = await widestGap("fair", 600);
  const arrival = await widestGap("fcfs", 600);
  assert.ok(fair <= BOUND, `fair: ${fair}, the bound is ${BOUND}`);
  assert.ok(arrival > 2 * BOUND, `order of arrival: ${arrival}, the bound is ${BOUND}`);
});

test("a tenant that was idle comes back without credit: from then on the bound holds again", async () => {
  const hall = await Hall.open("fair", 2);
  const flood = (tenant: number): void => {
    for (let i = 0; i < 300; i++) hall.submit(tenant, 20, 10);
  };
  flood(0);
  for (let i = 0; i < 300; i++) hall.step();
  const [credit] = hall.service;
  assert.ok(credit > 3 * BOUND, `without the lift ${credit} would be owed`);
  flood(1);
  const [first, second] = hall.service;
  for (let i = 0; i < 300; i++) {
    hall.step();
    const gap = Math.abs(hall.service[1] - second - (hall.service[0] - first));
    assert.ok(gap <= BOUND, `${gap} after ${i} steps, the bound is ${BOUND}`);
  }
});

test("a tenant that asks for less than its share waits for nobody's backlog", async () => {
  const waits = async (policy: PolicyName): Promise<number> => {
    const hall = await Hall.open(policy, 4);
    for (let tenant = 0; tenant < 3; tenant++) for (let i = 0; i < 100; i++) hall.submit(tenant, 30, 10);
    for (let i = 0; i < 20; i++) hall.step();
    hall.submit(3, 8, 2);
    let steps = 0;
    for (; hall.service[3] === 0; steps++) hall.step();
    return steps;
  };
  const [fair, arrival] = [await waits("fair"), await waits("fcfs")];
  assert.ok(fair <= 30, `fair: ${fair} steps`);
  assert.ok(arrival > 10 * fair, `order of arrival: ${arrival} steps`);
});

test("tenants beyond the scheduler's are refused", async () => {
  const { scheduler } = await Hall.open("fair", 2);
  assert.throws(() => scheduler.submit({ tokens: [1], maxNewTokens: 1, tenant: 2 }), {
    code: "INVALID_ARGUMENT",
  });
  assert.throws(() => scheduler.served(2), { code: "INVALID_ARGUMENT" });
});

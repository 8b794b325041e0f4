/** Conversations and the host tier at their limits: what is refused, what falls back, what changes nothing. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core, type HostTierOptions, type RequestId, type Scheduler } from "../../bindings/main.js";
import { createScheduler, recordScheduler, replay } from "../../bindings/main.js";

const CACHE = { blocks: 16, blockSize: 4, maxSequences: 8, maxSequenceTokens: 64 };
const OPTIONS = {
  vocabSize: 9,
  maxRequests: 8,
  maxBatchTokens: 32,
  tokenCapacity: 8 * 256,
  watermarkBlocks: 0,
};

function schedulerWith(hostTier?: HostTierOptions, preemptive = false): Promise<Scheduler> {
  return createScheduler({
    cache: CACHE,
    scheduler: { ...OPTIONS, preemptive, ...(hostTier && { hostTier }) },
  });
}

const tokens = (count: number): number[] => Array.from({ length: count }, (_, i) => i % 9);

/** Steps until nothing runs, waits or is copied; transfers end with their step. */
function drain(scheduler: Scheduler): { out: number; in: number } {
  const blocks = { out: 0, in: 0 };
  for (let i = 0; i < 200; i++) {
    const plan = scheduler.step(i);
    const counts = new Map<number, number>();
    for (let at = 0; at < plan.transferCount * 8; at += 8) {
      const [op, , , , , count, , id] = plan.transfers.subarray(at, at + 8);
      if (op === 1 || op === 2) counts.set(id, (counts.get(id) ?? 0) + Math.ceil(count / 4));
      if (op === 1) blocks.out += Math.ceil(count / 4);
      if (op === 2) blocks.in += Math.ceil(count / 4);
    }
    for (const [id, count] of counts) scheduler.transferred(id, count);
    scheduler.commit(plan.stepId, i, { tokens: Array.from({ length: plan.samplingRows }, () => 1) });
    scheduler.validate();
    if (plan.rows === 0 && plan.transferCount === 0 && scheduler.waiting === 0) return blocks;
  }
  throw new Error("never idle");
}

test("between turns the KV of a conversation is on the host; the next turn reads it back and sends only what is new", async () => {
  const scheduler = await schedulerWith({ blocks: 64 });
  const request = scheduler.submit({ tokens: tokens(10), maxNewTokens: 6, turns: true });
  assert.deepEqual(drain(scheduler), { out: 4, in: 0 });
  assert.equal(scheduler.state(request), "idle");
  assert.equal(scheduler.cache.stats().openSequences, 0, "it holds no device block");
  scheduler.cache.forget();
  scheduler.nextTurn(request, { tokens: tokens(3), maxNewTokens: 4 });
  // 15 tokens were there, in 4 blocks; 22 are now, in 6: the partly filled one is sent again.
  assert.deepEqual(drain(scheduler), { out: 3, in: 4 });
  scheduler.nextTurn(request, { tokens: tokens(1), maxNewTokens: 1, last: true });
  drain(scheduler);
  assert.equal(scheduler.state(request), "ended");
});

test("blocks of a turn that has ended are given to nobody before the plan that sends them, on a tier that blocks too", async () => {
  for (const blocking of [false, true]) {
    const scheduler = await schedulerWith({ blocks: 64, blocking });
    const { cache } = scheduler;
    scheduler.submit({ tokens: tokens(10), maxNewTokens: 2, turns: true });
    for (let i = 0; i < 2; i++) {
      const { stepId } = scheduler.step(i);
      scheduler.commit(stepId, i, { tokens: [1] });
    }
    const other = cache.open({ tokens: [], private: true });
    cache.reserve(other, cache.available * CACHE.blockSize);
    const taken = new Set(cache.blockTable(other));
    const plan = scheduler.step(2);
    assert.ok(plan.transferCount > 0);
    for (let at = 0; at < plan.transferCount * 8; at += 8)
      assert.ok(!taken.has(plan.transfers[at + 2]), `block ${plan.transfers[at + 2]} is still to be sent`);
    scheduler.validate();
  }
});

test("without a host tier, and on one that has no room, the next turn is computed again", async () => {
  for (const hostTier of [undefined, { blocks: 1, copies: 1 }]) {
    const scheduler = await schedulerWith(hostTier);
    const requests = [0, 1].map(() => scheduler.submit({ tokens: tokens(10), maxNewTokens: 6, turns: true }));
    drain(scheduler);
    scheduler.cache.forget();
    for (const request of requests)
      scheduler.nextTurn(request, { tokens: tokens(3), maxNewTokens: 4, last: true });
    drain(scheduler);
    for (const request of requests) assert.equal(scheduler.state(request), "ended");
    assert.equal(scheduler.cache.available, CACHE.blocks);
  }
});

test("bad turns are refused by name and change nothing", async () => {
  const scheduler = await schedulerWith({ blocks: 64 });
  const { core } = scheduler;
  const request = scheduler.submit({ tokens: tokens(10), maxNewTokens: 6, turns: true });
  const turn = { tokens: tokens(3), maxNewTokens: 4 };
  assert.throws(() => scheduler.nextTurn(request, turn), { code: "INVALID_ARGUMENT" }, "it still waits");
  drain(scheduler);
  const before = core.snapshot();
  const refused = (code: string, run: () => void): void => {
    assert.throws(run, { code });
    assert.equal(scheduler.state(request), "idle");
    scheduler.validate();
  };
  refused("EMPTY_PROMPT", () => scheduler.nextTurn(request, { ...turn, tokens: [] }));
  assert.deepEqual(core.snapshot(), before);
  refused("TOO_LONG", () => scheduler.nextTurn(request, { ...turn, maxNewTokens: 46 }));
  refused("INVALID_TOKEN", () => scheduler.nextTurn(request, { ...turn, tokens: [9] }));
  refused("INVALID_ARGUMENT", () => scheduler.nextTurn(request, { ...turn, maxNewTokens: 0 }));
  refused("INVALID_TOKEN", () => scheduler.nextTurn(request, { ...turn, tokens: [-1] }));
  refused("UNKNOWN_REQUEST", () => scheduler.nextTurn((request + 1) as RequestId, turn));
  assert.throws(() => scheduler.submit({ tokens: [1], maxNewTokens: 1, peakSlots: 4, turns: true }), {
    code: "INVALID_ARGUMENT",
    argument: "turns",
  });
  scheduler.abort(request);
  assert.throws(() => scheduler.nextTurn(request, turn), { code: "UNKNOWN_REQUEST" });
});

test("tokens of conversations run out with a typed error, and come back with their ends", async () => {
  const scheduler = await schedulerWith({ blocks: 64 });
  const requests = Array.from({ length: 8 }, () =>
    scheduler.submit({ tokens: tokens(2), maxNewTokens: 2, turns: true }),
  );
  assert.throws(() => scheduler.submit({ tokens: [1], maxNewTokens: 1 }), { code: "OUT_OF_REQUESTS" });
  drain(scheduler);
  for (const request of requests) scheduler.abort(request);
  drain(scheduler);
  scheduler.submit({ tokens: tokens(2), maxNewTokens: 2 });
  drain(scheduler);
  assert.equal(scheduler.cache.available, CACHE.blocks);
});

test("priorities and tiers out of range throw; a pool smaller than a request rejects it; a tier of no blocks is none", async () => {
  const scheduler = await schedulerWith({ blocks: 4 });
  const request = scheduler.submit({ tokens: tokens(4), maxNewTokens: 2 });
  for (const priority of [-1, NaN, 256, 0.5, Infinity])
    assert.throws(() => scheduler.setPriority(request, priority), {
      code: "INVALID_ARGUMENT",
      argument: "priority",
    });
  for (const priority of [-1, NaN])
    assert.throws(() => scheduler.submit({ tokens: [1], maxNewTokens: 1, priority }), {
      code: "INVALID_ARGUMENT",
      argument: "priority",
    });
  const core = await Core.create();
  const cache = core.kvCache({ ...CACHE, blocks: 4 });
  const small = core.scheduler({ ...OPTIONS, cache, hostTier: { blocks: 4 } });
  assert.throws(() => small.submit({ tokens: tokens(16), maxNewTokens: 2 }), { code: "POOL_TOO_SMALL" });
  for (const blocks of [0, -1, NaN, 2 ** 24 + 1])
    await assert.rejects(schedulerWith({ blocks }), {
      code: "INVALID_ARGUMENT",
      argument: "hostTier.blocks",
    });
  assert.equal((await schedulerWith()).hostTier, undefined, "preempted requests are computed again");
});

test("a transfer is reported once: a second report, and one of a transfer that never was, change nothing", async () => {
  const scheduler = await schedulerWith({ blocks: 64 });
  scheduler.submit({ tokens: tokens(10), maxNewTokens: 6, turns: true });
  let plan = scheduler.step(0);
  while (plan.transferCount === 0) {
    scheduler.commit(plan.stepId, 0, { tokens: Array.from({ length: plan.samplingRows }, () => 1) });
    plan = scheduler.step(0);
  }
  const id = plan.transfers[7];
  assert.throws(() => scheduler.transferred(id, 5), { code: "INVALID_ARGUMENT" });
  scheduler.transferred(id, 4);
  const before = scheduler.core.snapshot();
  assert.throws(() => scheduler.transferred(id, 4), { code: "NOT_FOUND" });
  assert.throws(() => scheduler.transferred(id + 1, 0), { code: "NOT_FOUND" });
  assert.deepEqual(scheduler.core.snapshot(), before);
  scheduler.validate();
});

test("turns are recorded and replayed", async () => {
  const lines: string[] = [];
  const setup = { cache: CACHE, scheduler: { ...OPTIONS, hostTier: { blocks: 64 } } };
  const scheduler = await recordScheduler(setup, (line) => lines.push(line));
  const request = scheduler.submit({ tokens: tokens(10), maxNewTokens: 6, turns: true });
  drain(scheduler);
  scheduler.nextTurn(request, { tokens: tokens(3), maxNewTokens: 4 });
  drain(scheduler);
  const report = await replay(lines, { build: "core-scalar" });
  assert.equal(report.mismatch, undefined);
  assert.ok(lines.some((line) => line.includes('"turn"')));
});

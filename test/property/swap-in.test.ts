/**
 * When a request that is read back joins a batch ("FastSwitch", arXiv 2411.18424, section on the swap manager): sync in the step
 * that reads it, async in the one behind it, adaptive by what the last 16 loads and the steps have taken. Whichever it is,
 * the host with real memory beside it reads what was computed, and answers stay the same.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  Core,
  type HostTierOptions,
  recordScheduler,
  replay,
  type RequestId,
  type Scheduler,
  type SchedulerSetup,
  type StepPlan,
  TRANSFER_WORDS,
  TransferOp,
} from "../../bindings/main.js";
import { Random } from "../support/random.js";
import { type Submitted, SwapHost, type SwapHostOptions } from "../support/swap-host.js";

const VOCAB = 7;
const BLOCK_SIZE = 4;
const MODES = ["async", "sync", "adaptive"] as const;

function setup(hostTier: Partial<HostTierOptions>, prefixCache = false): SchedulerSetup {
  return {
    cache: { blocks: 24, blockSize: BLOCK_SIZE, maxSequences: 8, maxSequenceTokens: 64, prefixCache },
    scheduler: {
      vocabSize: VOCAB,
      maxRequests: 24,
      maxBatchTokens: 20,
      tokenCapacity: 24 * 256,
      watermarkBlocks: 1,
      preemptive: true,
      hostTier: { blocks: 100, ...hostTier },
    },
  };
}

async function schedulerWith(hostTier: Partial<HostTierOptions>, prefixCache = false): Promise<Scheduler> {
  const { cache, scheduler } = setup(hostTier, prefixCache);
  const core = await Core.create({ seed: 1 });
  return core.scheduler({ ...scheduler, cache: core.kvCache(cache) });
}

/** Blocks of each load that a plan begins. */
function loadsOf(plan: StepPlan): Map<number, number> {
  const loads = new Map<number, number>();
  for (let at = 0; at < plan.transferCount * TRANSFER_WORDS; at += TRANSFER_WORDS) {
    const [op, , , , , tokens, , id] = plan.transfers.subarray(at, at + TRANSFER_WORDS);
    if (op === TransferOp.SwapIn) loads.set(id, (loads.get(id) ?? 0) + Math.ceil(tokens / BLOCK_SIZE));
  }
  return loads;
}

interface ReadBack {
  readonly host: SwapHost;
  /** Steps between the one that begins to read the request and the first that computes it. */
  readonly steps: number;
  /** What was computed of it before. */
  readonly computed: number;
  readonly answers: readonly Submitted[];
}

/**
 * A request gives way to a more urgent one and is read back when that one has ended, beside a third one that runs all the
 * while, unless it is to be alone. Every transfer has ended before the next step begins.
 */
async function readBack(
  hostTier: Partial<HostTierOptions>,
  { alone = false, ...options }: Partial<SwapHostOptions> & { alone?: boolean } = {},
): Promise<ReadBack> {
  const scheduler = await schedulerWith(hostTier);
  const [began, rows]: [number[], number[]] = [[], []];
  let index = 0;
  let computed = 0;
  let victim: RequestId = 0;
  const onPlan = (plan: StepPlan): void => {
    index += 1;
    if (loadsOf(plan).size > 0) began.push(index);
    const row = plan.requests.indexOf(victim);
    if (row < 0 || began.length === 0) return;
    if (rows.length === 0) computed = plan.computedBefore[row];
    rows.push(index);
  };
  const host = new SwapHost(scheduler, new Random(3), { vocab: VOCAB, ...options, onPlan });
  const step = (): void => {
    host.step();
    host.settle();
    scheduler.validate();
  };
  if (!alone) host.submit(8, 24);
  host.submit(46, 10, 0, 1);
  for (let i = 0; i < 6; i++) step();
  victim = [...host.live.keys()].at(-1)!;
  host.submit(alone ? 48 : 32, 3);
  const answers = [...host.live.values()];
  for (let i = 0; i < 20; i++) step();
  host.drain();
  assert.equal(began.length, 1);
  assert.ok(rows.length > 0);
  return { host, steps: rows[0] - began[0], computed, answers };
}

test("sync: a request is computed in the step that reads it back", async () => {
  const { steps, host } = await readBack({ swapIn: "sync" });
  assert.equal(steps, 0);
  assert.equal(host.scheduler.hostTier!.joins, 1);
});

test("async: a request is computed one step after the one that reads it back, also when nobody else runs", async () => {
  for (const alone of [false, true]) {
    const { steps, host } = await readBack({}, { alone });
    assert.equal(steps, 1);
    assert.equal(host.scheduler.hostTier!.joins, 0);
  }
});

test("adaptive: a load that is expected to take at most half of a step joins it, a longer one does not, but for whom nobody else runs", async () => {
  // A dozen blocks, steps of 5 us.
  assert.equal((await readBack({ swapIn: "adaptive", inUs: 0.1 })).steps, 0);
  assert.equal((await readBack({ swapIn: "adaptive", inUs: 0.3 })).steps, 1);
  assert.equal((await readBack({ swapIn: "adaptive", inUs: 0.3 }, { stepUs: () => 10 })).steps, 0);
  assert.equal((await readBack({ swapIn: "adaptive", inUs: 100 }, { alone: true })).steps, 0);
});

test("when a request joins changes no answer", async () => {
  const answers = await Promise.all(
    MODES.map(async (swapIn) => (await readBack({ swapIn })).answers.map(({ tokens }) => tokens)),
  );
  assert.deepEqual(answers[1], answers[0]);
  assert.deepEqual(answers[2], answers[0]);
});

test("a step whose load fails cannot be committed; abandoned, its request goes on behind what has arrived", async () => {
  // That the commit is refused is checked by the host.
  const { host, steps, computed } = await readBack(
    { swapIn: "sync" },
    { failures: ({ out, done }) => (out || done < 3 ? 0 : 1000) },
  );
  assert.equal(host.lost, 1);
  assert.equal(steps, 0);
  assert.ok(
    computed > 3 * BLOCK_SIZE,
    "the step that was given up would have computed what is behind the load",
  );
  assert.equal(host.scheduler.hostTier!.failures, 1);
});

/** Requests come, change places and end, with transfers that end late. */
function operate(host: SwapHost, operations: number): void {
  const { random, scheduler } = host;
  for (let i = 0; i < operations; i++) {
    const choice = random.below(10);
    if (choice < 2) host.submit(1 + random.below(24), 1 + random.below(24), random.below(2), random.below(3));
    else if (choice < 4 && host.live.size > 0)
      scheduler.setPriority(random.pick([...host.live.keys()]), random.below(4));
    else if (choice === 4) host.drift(random.below(9));
    else if (choice === 5 && random.below(4) === 0 && host.live.size > 0)
      host.abort(random.pick([...host.live.keys()]));
    else host.step(() => {}, random.below(12) === 0);
    scheduler.validate();
  }
}

/** What adaptive goes by, told what the host tells the core. */
class Expectation {
  readonly loads: number[] = [];
  stepUs = 0;

  constructor(readonly inUs: number) {}

  isLong(blocks: number): boolean {
    const last = this.loads.slice(-16);
    const mean = last.length === 0 ? this.inUs : last.reduce((sum, us) => sum + us, 0) / last.length;
    return mean * blocks > 0.5 * this.stepUs;
  }

  stepped(us: number): void {
    this.stepUs = this.stepUs === 0 ? us : this.stepUs + 0.2 * (us - this.stepUs);
  }
}

test("adaptive chooses by the last 16 loads and the average step, all loads of a step together", async () => {
  const decided = { joins: 0, waits: 0 };
  await fc.assert(
    fc.asyncProperty(fc.integer(), async (seed) => {
      const random = new Random(seed);
      const inUs = random.below(3) / 4;
      const scheduler = await schedulerWith({ swapIn: "adaptive", inUs }, random.below(2) === 0);
      const expectation = new Expectation(inUs);
      const host = new SwapHost(scheduler, random, {
        vocab: VOCAB,
        failures: random.below(2) * 40,
        // Quarters, so that sums of them are exact.
        transferUs: ({ blocks }) => blocks.length * (1 << random.below(3)) * 0.25,
        stepUs: () => 1 + random.below(16),
        onPlan: (plan) => {
          const loads = loadsOf(plan);
          const loading = [...plan.requests].filter((request) => scheduler.state(request) === "loading");
          assert.ok(Math.abs(scheduler.hostTier!.stepUs - expectation.stepUs) < 1e-9);
          if (loads.size === 0) return assert.equal(loading.length, 0);
          const blocks = [...loads.values()].reduce((sum, count) => sum + count, 0);
          const alone = plan.rows === loading.length;
          const joins = alone || !expectation.isLong(blocks);
          assert.equal(
            loading.length,
            joins ? loads.size : 0,
            `${blocks} blocks, step ${expectation.stepUs}`,
          );
          if (!alone) decided[joins ? "joins" : "waits"] += 1;
        },
        onEnd: ({ out, blocks, done }, us) => {
          if (!out && done === blocks.length) expectation.loads.push(us / done);
        },
        onStep: (plan, us) => {
          if (plan.rows > 0 && loadsOf(plan).size === 0) expectation.stepped(us);
        },
      });
      operate(host, 300);
      host.drain();
    }),
    { numRuns: 40 },
  );
  for (const [what, count] of Object.entries(decided)) assert.ok(count > 40, `${what}: ${count}`);
});

test("a record of sync and adaptive swap-ins, some of them lost, replays plan for plan", async () => {
  let [joins, lost] = [0, 0];
  for (const swapIn of MODES)
    for (let seed = 1; seed <= 6; seed++) {
      const lines: string[] = [];
      const scheduler = await recordScheduler(setup({ swapIn, inUs: 0.2 }, true), (line) => lines.push(line));
      const host = new SwapHost(scheduler, new Random(seed), { vocab: VOCAB, failures: 60 });
      operate(host, 200);
      host.drain();
      const { mismatch, steps } = await replay(lines, { build: "core-scalar" });
      assert.equal(mismatch, undefined);
      assert.ok(steps > 100);
      joins += scheduler.hostTier!.joins;
      lost += host.lost;
    }
  assert.ok(joins > 20 && lost > 3, `${joins} joined, ${lost} steps lost`);
});

test("another way to join is refused by name", async () => {
  await assert.rejects(schedulerWith({ swapIn: "often" as never }), {
    code: "INVALID_ARGUMENT",
    argument: "hostTier.swapIn",
  });
});

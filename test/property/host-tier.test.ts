/**
 * Preemption by swap on real memory: whatever a running request reads is what it has computed, in whatever order
 * transfers end and whichever of them fail, and every request ends. After each step the whole core is checked.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  type Build,
  Core,
  type HostTierOptions,
  type RequestId,
  type Scheduler,
} from "../../bindings/main.js";
import { Random } from "../support/random.js";
import { SwapHost, type SwapHostOptions } from "../support/swap-host.js";

const VOCAB = 7;
const CACHE = { blocks: 24, blockSize: 4, maxSequences: 8, maxSequenceTokens: 64 };

async function schedulerWith(
  hostTier: HostTierOptions,
  options: {
    build?: Build;
    prefixCache?: boolean;
    partialReuse?: number;
    preemptive?: boolean;
    blockRuns?: { reserve: number };
    seed?: number;
  } = {},
): Promise<Scheduler> {
  const { build = "core", prefixCache = true, partialReuse = 0, preemptive = false, seed = 1 } = options;
  const { blockRuns } = options;
  const core = await Core.create({ build, seed: seed >>> 0 });
  const cache = core.kvCache({ ...CACHE, prefixCache, partialReuse, ...(blockRuns && { blockRuns }) });
  return core.scheduler({
    cache,
    vocabSize: VOCAB,
    maxRequests: 24,
    maxBatchTokens: 20,
    tokenCapacity: 24 * 256,
    watermarkBlocks: 1,
    preemptive,
    hostTier,
  });
}

async function randomHost(
  build: Build,
  seed: number,
  extra: Partial<SwapHostOptions> = {},
): Promise<SwapHost> {
  const random = new Random(seed);
  const auto = random.below(4) === 0;
  const prefixCache = random.below(4) !== 0;
  const scheduler = await schedulerWith(
    {
      blocks: 1 + random.below(40),
      copies: 1 + random.below(24),
      preemption: auto ? "auto" : "swap",
      blocking: random.below(4) === 0,
      reuse: random.below(4) !== 0,
      swapIn: random.pick(["async", "sync", "adaptive"] as const),
      prefillUs: auto ? 1 + random.below(4) : 0,
      inUs: random.below(4),
      outUs: random.below(4),
    },
    {
      build,
      prefixCache,
      partialReuse: prefixCache ? random.below(2) : 0,
      preemptive: random.below(2) === 0,
      ...(random.below(2) === 0 && { blockRuns: { reserve: 1 + random.below(12) } }),
      seed,
    },
  );
  const failures = random.below(2) === 0 ? 0 : random.below(300);
  return new SwapHost(scheduler, random, { vocab: VOCAB, failures, ...extra });
}

function operate(host: SwapHost, operations: number): void {
  const { random, scheduler } = host;
  const someone = (): RequestId | undefined => {
    const requests = [...host.live.keys(), ...host.idle.keys()];
    return requests.length === 0 ? undefined : random.pick(requests);
  };
  const abort = (): void => {
    const request = someone();
    if (request !== undefined) host.abort(request);
  };
  for (let i = 0; i < operations; i++) {
    const choice = random.below(12);
    if (choice < 3) {
      const turns = random.below(3) === 0;
      host.submit(1 + random.below(24), 1 + random.below(30), random.below(2), random.below(3), turns);
    } else if (choice === 6 && host.idle.size > 0)
      host.nextTurn(
        random.pick([...host.idle.keys()]),
        1 + random.below(12),
        1 + random.below(12),
        random.below(3) === 0,
      );
    else if (choice === 3 && random.below(3) === 0) abort();
    else if (choice === 4) {
      const request = someone();
      if (request !== undefined) scheduler.setPriority(request, random.below(4));
    } else if (choice === 5) host.drift(random.below(9));
    else {
      const between = (): void => {
        if (random.below(9) === 0) abort();
        if (random.below(9) === 0) host.submit(1 + random.below(20), 1 + random.below(20));
      };
      host.step(between, random.below(8) === 0);
    }
    scheduler.validate();
  }
}

/** Lives in which loads join a batch, and are lost while it waits: few random ones may have none. */
const JOINING: [seed: number, operations: number][] = [
  [1, 400],
  [3, 400],
  [23, 400],
];

async function run(build: Build, runs: number): Promise<void> {
  let [swapped, joins, lost] = [0, 0, 0];
  await fc.assert(
    fc.asyncProperty(fc.integer(), fc.integer({ min: 1, max: 400 }), async (seed, operations) => {
      const host = await randomHost(build, seed);
      operate(host, operations);
      host.drain();
      host.scheduler.validate();
      const { inFlight, pendingBlocks } = host.scheduler.hostTier!;
      assert.deepEqual([inFlight, pendingBlocks], [0, 0]);
      assert.equal(host.scheduler.cache.available, CACHE.blocks, "every block is given back");
      swapped += host.swapped;
      joins += host.scheduler.hostTier!.joins;
      lost += host.lost;
    }),
    { numRuns: runs, examples: JOINING },
  );
  assert.ok(swapped > runs, `${swapped} swaps in ${runs} runs`);
  assert.ok(joins > runs / 2, `${joins} joined the batch that waited`);
  assert.ok(lost > 0, `${lost} steps lost`);
}

test("requests read what they computed, with random ends, failures, aborts and priorities", () =>
  run("core", 80));
test("the scalar build swaps the same", () => run("core-scalar", 20));
test("the debug build checks itself after each call and finds nothing", () => run("debug", 12));

test("a host that does not wait for what a plan says is found out", async () => {
  let found = 0;
  for (let seed = 0; seed < 60; seed++) {
    const host = await randomHost("core", seed, { mistake: "ignore-waits", failures: 0 });
    try {
      operate(host, 300);
    } catch (error) {
      assert.ok(error instanceof assert.AssertionError, String(error));
      found += 1;
    }
  }
  assert.ok(found > 5, `${found} of 60`);
});

test("a host that moves nothing is found out", async () => {
  let found = 0;
  for (let seed = 0; seed < 20; seed++) {
    const host = await randomHost("core", seed, { mistake: "no-data" });
    try {
      operate(host, 300);
    } catch {
      found += 1;
    }
  }
  assert.ok(found > 5, `${found} of 20`);
});

test("what a swap-out will give back is counted as much when its request takes it back, and more blocks with it", async () => {
  const scheduler = await schedulerWith({ blocks: 100 }, { prefixCache: false, preemptive: true });
  const host = new SwapHost(scheduler, new Random(5), { vocab: VOCAB });
  // Either fits alone, both do not; the last of the first one's blocks is full when it makes room.
  host.submit(44, 18);
  for (let i = 0; i < 3; i++) host.step();
  host.submit(50, 14);
  const [first, second] = [...host.live.keys()];
  scheduler.setPriority(first, 1);
  host.step();
  assert.equal(scheduler.hostTier!.pendingBlocks, 11);
  host.abort(second);
  host.step();
  assert.deepEqual([scheduler.state(first), scheduler.hostTier!.pendingBlocks], ["running", 0]);
});

test("swapped out again, a request sends only blocks that have changed; without reuse it sends all", async () => {
  const sentWith = async (reuse: boolean): Promise<number> => {
    const scheduler = await schedulerWith({ blocks: 100, reuse }, { prefixCache: false, preemptive: true });
    const host = new SwapHost(scheduler, new Random(5), { vocab: VOCAB });
    // Either fits alone, both do not: whichever is more urgent drives the other out.
    host.submit(46, 18);
    host.submit(46, 18);
    const [first, second] = [...host.live.keys()];
    for (let turn = 0; turn < 6; turn++) {
      scheduler.setPriority(first, turn % 2);
      scheduler.setPriority(second, 1 - (turn % 2));
      for (let i = 0; i < 6; i++) host.step();
      host.settle();
    }
    const sent = host.sent.reduce((sum, blocks) => sum + blocks, 0);
    assert.equal(scheduler.hostTier!.sentBlocks, sent, "what is counted is what the records name");
    host.drain();
    return sent;
  };
  const [kept, all] = [await sentWith(true), await sentWith(false)];
  assert.ok(kept > 0 && kept < 0.7 * all, `${kept} blocks sent, ${all} without reuse`);
});

/**
 * Requests over cache groups: whatever is admitted, cut into chunks, preempted, taken back, aborted or found in the cache,
 * every request generates the tokens that it would generate alone without a cache; and every block comes back.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  type Build,
  type CacheGroup,
  type CacheGroupOptions,
  Core,
  createScheduler,
  QuartermasterError,
  recordScheduler,
  replay,
  type RequestId,
  type Scheduler,
} from "../../bindings/main.js";
import { Random } from "../support/random.js";
import { guessAfter, nextToken, StateExecutor } from "../support/state-executor.js";

const VOCAB = 11;

interface Live {
  readonly request: RequestId;
  readonly tokens: number[];
  readonly promptTokens: number;
  readonly maxNewTokens: number;
}

function randomGroups(random: Random, blockSize: number): CacheGroupOptions[] {
  return Array.from({ length: 1 + random.below(3) }, () => {
    const kind = random.pick(["full", "window", "window", "recurrent"] as const);
    const size = { blockSize: blockSize << random.below(3) };
    return kind === "window" ? { kind, window: 1 + random.below(20), ...size } : { kind, ...size };
  });
}

class Serving {
  readonly live = new Map<RequestId, Live>();
  readonly executor: StateExecutor;
  readonly groups: readonly CacheGroup[];
  preemptions = 0;
  finished = 0;
  nowUs = 1;

  constructor(
    readonly scheduler: Scheduler,
    readonly random: Random,
  ) {
    const { cache } = scheduler;
    this.groups = [{ kind: "full", window: 0, blockSize: cache.blockSize }, ...cache.groups];
    this.executor = new StateExecutor(this.groups, VOCAB);
  }

  submit(): void {
    const { random, scheduler } = this;
    const length = 1 + random.below(60);
    const twist = random.below(3) === 0 ? random.below(length) : length;
    const tokens = Array.from({ length }, (_, i) => (i < twist ? i % 5 : (3 * i) % 7));
    const maxNewTokens = 1 + random.below(30);
    try {
      const options = { tokens, maxNewTokens, priority: random.below(2), namespace: random.below(2) };
      const request = scheduler.submit(options);
      this.live.set(request, { request, tokens, promptTokens: length, maxNewTokens });
    } catch (error) {
      assert.ok(error instanceof QuartermasterError);
      assert.ok(["OUT_OF_REQUESTS", "POOL_TOO_SMALL", "OUT_OF_TOKENS"].includes(error.code), error.code);
    }
  }

  /** Guesses right, wrong, or right at first. */
  propose(): void {
    const { random, scheduler, groups } = this;
    for (const { request, tokens } of this.live.values()) {
      if (random.below(2) === 0) continue;
      scheduler.propose(request, guessAfter(random, groups, tokens, VOCAB));
    }
  }

  step(): void {
    const { random, scheduler } = this;
    if (scheduler.maxDraftTokens > 0) this.propose();
    const plan = scheduler.step(this.nowUs++);
    this.preemptions += scheduler.outcomes().filter(({ kind }) => kind === "preempted").length;
    const rows = [...plan.requests];
    const sampling = [...plan.phases].flatMap((phase, row) => (phase === 0 ? [] : [row]));
    const drafts = rows.map((_, row) => [
      ...plan.tokens.subarray(plan.tokenStart[row] + 1, plan.tokenStart[row + 1]),
    ]);
    if (random.below(10) === 0) return scheduler.abandon(plan.stepId);
    const { tokens, accepted } = this.executor.run(plan);
    if (random.below(12) === 0 && this.live.size > 0) {
      const { request } = random.pick([...this.live.values()]);
      scheduler.abort(request);
      this.live.delete(request);
    }
    scheduler.commit(plan.stepId, this.nowUs, { tokens, accepted });
    sampling.forEach((row, sample) => {
      const live = this.live.get(rows[row]);
      if (live === undefined) return;
      for (const token of [...drafts[row].slice(0, accepted[sample]), tokens[sample]]) {
        assert.equal(token, nextToken(this.groups, live.tokens, VOCAB), "as without a cache");
        live.tokens.push(token);
      }
    });
    for (const { request, kind } of scheduler.outcomes()) {
      if (kind !== "finished") continue;
      const live = this.live.get(request)!;
      assert.equal(live.tokens.length, live.promptTokens + live.maxNewTokens);
      this.live.delete(request);
      this.finished += 1;
    }
  }

  drain(): void {
    for (let i = 0; this.live.size > 0; i++) {
      assert.ok(i < 5000, "every accepted request ends");
      this.step();
      this.scheduler.validate();
    }
    const { cache } = this.scheduler;
    assert.equal(cache.available, cache.blocks);
    assert.ok(cache.groupStats().every(({ held }) => held === 0));
  }
}

function setupOf(random: Random, seed: number, groups?: CacheGroupOptions[]) {
  const blockSize = 1 << random.below(3);
  const maxRunning = 1 + random.below(6);
  return {
    seed: seed >>> 0,
    cache: {
      blocks: Math.ceil((90 + random.below(160)) / blockSize) * 2,
      blockSize,
      maxSequences: 8,
      maxSequenceTokens: 96,
      groups: groups ?? randomGroups(random, blockSize),
    },
    scheduler: {
      vocabSize: VOCAB,
      maxRequests: 12,
      maxRunning,
      maxBatchTokens: maxRunning + random.below(40),
      maxChunkTokens: random.below(2) * (1 + random.below(12)),
      policy: random.pick(["fcfs", "priority", "longest-prefix"] as const),
      watermarkBlocks: random.below(4),
      tokenCapacity: 12 * 256,
      maxDraftTokens: random.below(2) * 4,
    },
  };
}

/** Lives with many preemptions, and one with many drafts that are right: how many random ones have varies. */
const EVENTFUL: [seed: number, steps: number][] = [
  [5, 150],
  [46, 150],
  [53, 150],
  [32, 150],
];

async function run(build: Build, runs: number): Promise<void> {
  let [preemptions, finished, hits, right] = [0, 0, 0, 0];
  await fc.assert(
    fc.asyncProperty(fc.integer(), fc.integer({ min: 1, max: 150 }), async (seed, steps) => {
      const random = new Random(seed);
      const scheduler = await createScheduler(setupOf(random, seed), { build });
      const serving = new Serving(scheduler, random);
      for (let i = 0; i < steps; i++) {
        if (random.below(3) === 0) serving.submit();
        serving.step();
        scheduler.validate();
      }
      serving.drain();
      preemptions += serving.preemptions;
      finished += serving.finished;
      hits += scheduler.cache.stats().hitTokens;
      right += scheduler.drafted.right;
    }),
    { numRuns: runs, examples: EVENTFUL },
  );
  assert.ok(Math.min(preemptions, finished, hits, right) > 20, `${preemptions} ${finished} ${hits} ${right}`);
}

test("full, window and recurrent groups under load: the tokens of a request alone, and every block back", () =>
  run("core", 150));
test("in the debug build", () => run("debug", 8));

test("a record of requests over groups replays to the same plans, their tables included", async () => {
  for (let seed = 1; seed < 8; seed++) {
    const random = new Random(seed);
    const lines: string[] = [];
    const scheduler = await recordScheduler(setupOf(random, seed), (line) => lines.push(line));
    const serving = new Serving(scheduler, random);
    for (let i = 0; i < 60; i++) {
      if (random.below(3) === 0) serving.submit();
      serving.step();
    }
    const { mismatch, steps } = await replay(lines, { build: "core-threads" });
    assert.equal(mismatch, undefined);
    assert.equal(steps, 60);
  }
});

test("a window holds the blocks of its window, however long the sequence is", async () => {
  const held = async (groups: CacheGroupOptions[]): Promise<number> => {
    const core = await Core.create();
    const size = { blocks: 400, blockSize: 16, maxSequences: 4, maxSequenceTokens: 2048 };
    const cache = core.kvCache({ ...size, groups });
    const sequence = cache.open({ tokens: [] });
    for (let i = 0; i < 1600; i += 32) {
      cache.reserve(sequence, 32);
      cache.append(
        sequence,
        Array.from({ length: 32 }, (_, at) => i + at),
      );
    }
    return cache.blocks - cache.available;
  };
  assert.equal(await held([{ kind: "full" }, { kind: "full" }]), 300);
  const windows: CacheGroupOptions[] = [
    { kind: "window", window: 64 },
    { kind: "window", window: 65 },
  ];
  assert.equal(await held(windows), 100 + 4 + 4);
  assert.equal(await held([{ kind: "recurrent", blockSize: 256 }]), 100 + 1);
});

test("an admission counts as used what it has found, not what it has just reserved: no time to live begins there", async () => {
  for (const kind of ["full", "recurrent"] as const) {
    const core = await Core.create();
    const shape = { blocks: 64, blockSize: 1, maxSequences: 4, maxSequenceTokens: 64 };
    const groups = [{ kind, blockSize: 2 }];
    const cache = core.kvCache({ ...shape, groups, evictionOrder: "priority" });
    const scheduler = core.scheduler({ cache, vocabSize: VOCAB, maxBatchTokens: 32 });
    scheduler.submit({ tokens: Array.from({ length: 15 }, (_, i) => i % VOCAB), maxNewTokens: 5 });
    const { stepId } = scheduler.step(4);
    scheduler.commit(stepId, 4, { tokens: [1] });
    scheduler.validate();
    assert.equal(cache.advance(5), Infinity);
  }
});

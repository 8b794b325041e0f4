/**
 * Requests that are switched at random, in real memory, with copies on threads that are late at random: every block that a
 * running request reads is its own, and no block is given away while a copy reads it.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  Core,
  Engine,
  QuartermasterError,
  type RequestId,
  type Scheduler,
  type StepPlan,
  TRANSFER_WORDS,
  TransferMark,
  TransferOp,
} from "../../bindings/main.js";
import { PatternExecutor } from "../support/pattern-executor.js";
import { Random } from "../support/random.js";
import { needsAddon, theAddon } from "./native-support.js";

const VOCAB = 7;
const REQUESTS = 36;

/** The plan as it would be if nobody had to wait for a swap-out. */
function withoutWaits(plan: StepPlan): StepPlan {
  const words: number[] = [];
  for (let at = 0; at < plan.transferCount * TRANSFER_WORDS; at += TRANSFER_WORDS) {
    const record = [...plan.transfers.subarray(at, at + TRANSFER_WORDS)];
    if (record[0] === TransferOp.Wait) continue;
    if (record[0] === TransferOp.SwapOut) record[6] = TransferMark.Async;
    words.push(...record);
  }
  return { ...plan, transfers: Uint32Array.from(words), transferCount: words.length / TRANSFER_WORDS };
}

interface Outcome {
  readonly wrong: readonly string[];
  readonly swapOuts: number;
  readonly conflicts: number;
}

async function serve(seed: number, threads: number, waits = true): Promise<Outcome> {
  const random = new Random(seed);
  const swapIn = random.pick(["async", "sync", "adaptive"] as const);
  const shape = { blocks: 20 + random.below(16), hostBlocks: 30 + random.below(60), blockSize: 4 };
  const executor = new PatternExecutor(theAddon(), { ...shape, vocab: VOCAB, threads, delayUs: 400 }, random);
  const core = await Core.create({ seed });
  const cache = core.kvCache({
    blocks: shape.blocks,
    blockSize: shape.blockSize,
    maxSequences: 8,
    maxSequenceTokens: 64,
    prefixCache: false,
  });
  const scheduler: Scheduler = core.scheduler({
    cache,
    vocabSize: VOCAB,
    maxRequests: REQUESTS,
    maxBatchTokens: 24,
    tokenCapacity: REQUESTS * 256,
    watermarkBlocks: 0,
    preemptive: true,
    hostTier: { blocks: shape.hostBlocks, reuse: random.below(3) > 0, swapIn },
  });
  if (!waits) {
    const step = scheduler.step.bind(scheduler);
    scheduler.step = (nowUs) => withoutWaits(step(nowUs));
  }
  const switchSomebody = (): void => {
    const requests: RequestId[] = [...executor.seen];
    try {
      scheduler.setPriority(random.pick(requests), random.below(4));
    } catch (error) {
      // It has finished.
      assert.ok(error instanceof QuartermasterError);
    }
  };
  const engine = new Engine({
    scheduler,
    executor,
    onStep: () => {
      for (let i = random.below(3); i > 0 && executor.seen.size > 0; i--) switchSomebody();
    },
  });
  await Promise.all(
    Array.from({ length: REQUESTS }, async () => {
      const tokens = Array.from({ length: 1 + random.below(24) }, () => random.below(VOCAB));
      const request = { tokens, maxNewTokens: 8 + random.below(28), priority: random.below(4) };
      let events = 0;
      for await (const _ of engine.generate(request)) events += 1;
      assert.equal(events, request.maxNewTokens);
    }),
  );
  await engine.close();
  core.validate();
  const { swapOuts, conflicts, failures, inFlight } = scheduler.hostTier!;
  assert.equal(failures + inFlight, 0);
  assert.equal(cache.available, shape.blocks, "every block is given back");
  return { wrong: executor.wrong, swapOuts, conflicts };
}

for (const threads of [1, 2])
  test(
    `switched at random, with ${threads} thread${threads > 1 ? "s" : ""} for swap-outs and as many for swap-ins, requests read what they computed`,
    needsAddon,
    async () => {
      let swapOuts = 0;
      let conflicts = 0;
      for (let seed = 1; seed <= 5; seed++) {
        const outcome = await serve(seed * threads, threads);
        assert.deepEqual(outcome.wrong, [], `seed ${seed * threads}`);
        swapOuts += outcome.swapOuts;
        conflicts += outcome.conflicts;
      }
      assert.ok(swapOuts > 50, `${swapOuts} swap-outs`);
      assert.ok(conflicts > 5, `${conflicts} of them were waited for`);
    },
  );

test(
  "without the wait for swap-outs whose blocks are needed, something wrong is read",
  needsAddon,
  async () => {
    let found = 0;
    for (let seed = 1; seed <= 5; seed++) found += (await serve(seed, 1, false)).wrong.length > 0 ? 1 : 0;
    assert.ok(found >= 2, `${found} of 5`);
  },
);

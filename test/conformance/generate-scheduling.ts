/** Scripts about a scheduler that idles, and about what it may have besides: drafts, a host tier for the preempted. */
import { Phase, type StepPlan, TRANSFER_WORDS, TransferMark, TransferOp } from "../../bindings/main.js";
import { POLICIES } from "../../bindings/scheduler-options.js";
import { SWAP_INS } from "./host-add-ons.js";
import { type Generator, type Recorder, tokens } from "./recorder.js";

/** Drafts that each sampling row of a plan has been fed. */
function draftsOf({ rows, phases, newTokens }: StepPlan): number[] {
  return Array.from({ length: rows }, (_, row) => row)
    .filter((row) => phases[row] !== Phase.PrefillChunk)
    .map((row) => (phases[row] === Phase.Decode ? newTokens[row] - 1 : 0));
}

/** Requests with drafts of which some are right. `look`: told when a step is in flight. */
export async function callDrafts(
  recorder: Recorder,
  vocabulary: number,
  look: () => Promise<void> = async () => {},
): Promise<void> {
  const { random } = recorder;
  const requests: number[] = [];
  let now = 0;
  for (let i = 0; i < 100; i++) {
    for (let n = random.below(3); n > 0; n--) {
      const prompt = tokens(random, 24);
      const id = recorder.steps.length + 1;
      const [request] = await recorder.call(
        "submit",
        id,
        random.below(2),
        0,
        0,
        1 + random.below(20),
        prompt,
      );
      if (request > 0) requests.push(request);
    }
    for (let n = random.below(4); n > 0 && requests.length > 0; n--) {
      const guess = Array.from({ length: random.below(7) }, () => random.below(vocabulary));
      await recorder.call("propose", random.pick(requests.slice(-8)), guess);
    }
    now += random.below(12);
    const [status, stepId] = await recorder.call("step", now);
    if (status < 0) continue;
    await look();
    const drafts = draftsOf(recorder.host.scheduler.plan());
    if (random.below(10) === 0) {
      if (requests.length > 0) await recorder.call("propose", random.pick(requests), [1]);
      await recorder.call("abandon", stepId);
      continue;
    }
    const sampled = drafts.map(() => random.below(vocabulary));
    const finished = drafts.map(() => +(random.below(12) === 0));
    // Now and then one more than there are.
    const accepted = drafts.map((count) => random.below(count + 1 + +(random.below(40) === 0)));
    const [committed] = await recorder.call("commit-drafts", stepId, now, sampled, finished, accepted);
    if (committed < 0) await recorder.call("commit", stepId, now, sampled, finished);
    await recorder.call("outcomes");
    if (requests.length > 0) await recorder.call("progress", requests[i % requests.length]);
    if (i % 10 === 0) await recorder.call("draft-figures");
    if (i % 20 === 0) await recorder.call("validate");
  }
}

export const drafting: Generator = async (recorder) => {
  await recorder.call("core", 24);
  await recorder.call("cache", 30, 4, 8, 64, 1);
  const shape = [7, 24, 6, 30, 0, 1, 6144, POLICIES.indexOf("shortest-first"), 0, 1, 1, 1, 2];
  await recorder.call("scheduler-as", 4, 0, shape, []);
  await callDrafts(recorder, 7);
};

/**
 * Requests that come long after each other: empty plans between them, which are in flight as every other is, and sleeps until the
 * next wake.
 */
export const idling: Generator = async (recorder) => {
  const { random } = recorder;
  const vocabulary = 7;
  await recorder.call("core", 28);
  await recorder.call("cache", 20, 4, 8, 64, 1);
  await recorder.call("scheduler", vocabulary, 24, 2, 16, 0, 0, 6144, POLICIES.indexOf("fcfs"), 90);
  let now = 0;
  for (let i = 0; i < 160; i++) {
    if (random.below(4) === 0) {
      const prompt = tokens(random, 24);
      const arrival = now + random.below(3) * random.below(2000);
      await recorder.call("submit", recorder.steps.length + 1, 0, 0, arrival, 1 + random.below(8), prompt);
    }
    const [status, stepId, rows, , samplingRows] = await recorder.call("step", now);
    if (status < 0) continue;
    if (rows === 0 && random.below(3) === 0) await recorder.call("step", now + 1);
    if (random.below(8) === 0) await recorder.call("abandon", stepId);
    else {
      const sampled = Array.from({ length: samplingRows }, () => random.below(vocabulary));
      const flags = sampled.map(() => +(random.below(12) === 0));
      const [, ended] = await recorder.call("commit", stepId, now, sampled, flags);
      const [wake] = await recorder.call("wake");
      now = rows > 0 || ended > 0 ? now + 1 + random.below(20) : Math.max(now, wake);
    }
  }
  await recorder.call("validate");
};

/** Blocks of each transfer that a plan begins, by id; and those that must be complete before its batch. */
function begun(plan: StepPlan, blockSize: number): { blocks: Map<number, number>; first: Set<number> } {
  const blocks = new Map<number, number>();
  const first = new Set<number>();
  for (let i = 0; i < plan.transferCount; i++) {
    const record = plan.transfers.subarray(i * TRANSFER_WORDS, (i + 1) * TRANSFER_WORDS);
    const [op, , , , , count, mark, id] = record;
    if (op < TransferOp.SwapOut || op > TransferOp.Wait) continue;
    if (op !== TransferOp.Wait) blocks.set(id, (blocks.get(id) ?? 0) + Math.ceil(count / blockSize));
    if (op === TransferOp.Wait || mark === TransferMark.Before) first.add(id);
  }
  return { blocks, first };
}

/** Transfers of a host tier that have begun: they arrive late, in part, or not at all. */
export class Transfers {
  readonly #recorder: Recorder;
  readonly #blockSize: number;
  /** Blocks of each, by id. */
  readonly #inFlight = new Map<number, number>();
  #lost = false;

  constructor(recorder: Recorder, blockSize: number) {
    this.#recorder = recorder;
    this.#blockSize = blockSize;
  }

  /** Begins those of the plan; what its batch needs ends. False: something that it reads is lost. */
  async begin(): Promise<boolean> {
    const { random, host } = this.#recorder;
    this.#lost = false;
    const { blocks, first } = begun(host.scheduler.plan(), this.#blockSize);
    for (const [id, count] of blocks) this.#inFlight.set(id, count);
    for (const id of first) await this.#end(id, random.below(6) === 0 ? 0 : (this.#inFlight.get(id) ?? 0));
    return !this.#lost;
  }

  /** Ends one of them, now and then. */
  async drift(): Promise<void> {
    const { random } = this.#recorder;
    if (this.#inFlight.size === 0 || random.below(2) !== 0) return;
    const [id, blocks] = random.pick([...this.#inFlight]);
    const arrived = random.below(4);
    await this.#end(id, arrived === 0 ? random.below(blocks + 2) : blocks);
  }

  async endAll(): Promise<void> {
    for (const [id, blocks] of [...this.#inFlight]) await this.#end(id, blocks);
  }

  async #end(id: number, good: number): Promise<void> {
    const { random } = this.#recorder;
    const us = random.below(3) * random.below(90);
    const [status] = await this.#recorder.call("transferred", id, good, us);
    if (status >= 0) this.#inFlight.delete(id);
    if (status === 1) this.#lost = true;
  }
}

/** Requests that give way to more urgent ones, and transfers that arrive late, in part, or not at all. */
export const swapping =
  (swapIn: (typeof SWAP_INS)[number]): Generator =>
  async (recorder) => {
    const { random } = recorder;
    // Where loads may join a batch, steps take about as long as they do.
    const [steps, pauseUs, stepUs] = swapIn === "async" ? [160, 10, 0] : [90, 20, 160];
    const [vocabulary, blockSize] = [7, 4];
    await recorder.call("core", 25);
    await recorder.call("cache", 20, blockSize, 12, 64, 1);
    const shape = [vocabulary, 24, 6, 24, 0, 0, 6144, POLICIES.indexOf("priority"), 0, 1, 1, 1, 2];
    await recorder.call("scheduler-as", 0, 1, shape, [
      24,
      8,
      0,
      0,
      0,
      10,
      12,
      4,
      ...(swapIn === "async" ? [] : [SWAP_INS.indexOf(swapIn)]),
    ]);
    const requests: number[] = [];
    const transfers = new Transfers(recorder, blockSize);
    let now = 0;
    for (let i = 0; i < steps; i++) {
      for (let n = random.below(3); n > 0; n--) {
        const id = recorder.steps.length + 1;
        const prompt = tokens(random, 24);
        const [request] = await recorder.call(
          "submit",
          id,
          random.below(2),
          random.below(9),
          0,
          1 + random.below(24),
          prompt,
        );
        if (request > 0) requests.push(request);
      }
      now += pauseUs;
      const [status, stepId, , , samplingRows] = await recorder.call("step", now);
      if (status < 0) continue;
      const whole = await transfers.begin();
      await transfers.drift();
      if (random.below(12) === 0 && requests.length > 0) await recorder.call("abort", random.pick(requests));
      if (random.below(10) === 0) await recorder.call("abandon", stepId);
      else {
        const sampled = Array.from({ length: samplingRows }, () => random.below(vocabulary));
        now += stepUs;
        const finished = sampled.map(() => +(random.below(14) === 0));
        await recorder.call("commit", stepId, now, sampled, finished);
        if (!whole) await recorder.call("abandon", stepId);
      }
      await recorder.call("outcomes");
      await transfers.drift();
      if (requests.length > 0) {
        await recorder.call("state", random.pick(requests.slice(-9)));
        if (random.below(4) === 0)
          await recorder.call("reprioritize", random.pick(requests.slice(-9)), random.below(9));
      }
      if (random.below(30) === 0) await recorder.call("transferred", 9999, 1, 0);
      if (i % 4 === 0) await recorder.call("tier-figures");
      if (i % 5 === 0) await recorder.call("scheduler-figures");
      if (i % 20 === 0) await recorder.call("validate");
    }
    await transfers.endAll();
    await recorder.call("validate");
  };

/** Carries out the swaps of plans: begins them, waits where a plan says so, and tells the scheduler how they end. */
import { invalidArgument } from "./errors.js";
import type { Executor } from "./executor.js";
import { type StepPlan, TRANSFER_WORDS, TransferMark, TransferOp } from "./plan.js";
import type { Scheduler } from "./scheduler.js";

interface Swap {
  readonly id: number;
  readonly op: number;
  readonly mark: number;
  readonly words: number[];
}

export class PlanTransfers {
  readonly #scheduler: Scheduler;
  readonly #executor: Executor;
  readonly #nowUs: () => number;
  readonly #inFlight = new Map<number, Promise<void>>();
  /** Transfers that have ended so far. */
  ended = 0;
  #lost = false;

  /** Throws INVALID_ARGUMENT when the executor cannot hold what the scheduler's tier does. */
  constructor(scheduler: Scheduler, executor: Executor, nowUs: () => number) {
    const blocks = scheduler.hostTier?.blocks ?? 0;
    const { hostBlocks = 0 } = executor.describe();
    if (executor.transfer === undefined || hostBlocks < blocks)
      throw invalidArgument("hostTier.blocks", blocks, `at most the executor's ${hostBlocks}`);
    this.#scheduler = scheduler;
    this.#executor = executor;
    this.#nowUs = nowUs;
  }

  get inFlight(): number {
    return this.#inFlight.size;
  }

  /**
   * Begins the plan's transfers; settles when all that must be complete before its batch are. False: something that the batch
   * reads has not arrived.
   */
  async begin(plan: StepPlan): Promise<boolean> {
    if (plan.transferCount === 0) return true;
    this.#lost = false;
    const swaps = readSwaps(plan);
    for (const { id, op } of swaps) if (op === TransferOp.Wait) await this.#inFlight.get(id);
    for (const op of [TransferOp.SwapOut, TransferOp.SwapIn]) {
      const mine = swaps.filter((swap) => swap.op === op);
      const begun = mine.map((swap) => ({ swap, end: this.#start(swap) }));
      for (const { swap, end } of begun) if (swap.mark === TransferMark.Before) await end;
    }
    return !this.#lost;
  }

  /** Settles when everything in flight has ended, or with `any` when something has. */
  async settled(any = false): Promise<void> {
    const ends = [...this.#inFlight.values()];
    await (any ? Promise.race(ends) : Promise.all(ends));
  }

  #start(swap: Swap): Promise<void> {
    const end = this.#carryOut(swap);
    this.#inFlight.set(swap.id, end);
    return end;
  }

  async #carryOut({ id, words }: Swap): Promise<void> {
    const startUs = this.#nowUs();
    let blocks = 0;
    try {
      blocks = await this.#executor.transfer!(Uint32Array.from(words));
    } catch {
      // What has not arrived is computed again.
    }
    this.#inFlight.delete(id);
    this.ended += 1;
    if (this.#scheduler.transferred(id, blocks, Math.max(0, this.#nowUs() - startUs))) this.#lost = true;
  }
}

/** The plan's swaps and waits; records of one id are one swap. */
function readSwaps(plan: StepPlan): Swap[] {
  const swaps = new Map<string, Swap>();
  for (let at = 0; at < plan.transferCount * TRANSFER_WORDS; at += TRANSFER_WORDS) {
    const record = [...plan.transfers.subarray(at, at + TRANSFER_WORDS)];
    const [op, , , , , , mark, id] = record;
    if (op < TransferOp.SwapOut || op > TransferOp.Wait) continue;
    const key = `${op} ${id}`;
    const swap = swaps.get(key) ?? { id, op, mark, words: [] };
    swap.words.push(...record);
    swaps.set(key, swap);
  }
  return [...swaps.values()];
}

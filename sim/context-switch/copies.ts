/**
 * Copies between device and host on the simulated machine: a thread that dispatches them, a link in each direction.
 *
 * A batch of n copies of x_i bytes takes max(n * dispatch, sum of max(latency, x_i / bandwidth)), as in the shape of
 * "FastSwitch" (arXiv 2411.18424). A run of blocks is one copy for K and one for V of each layer; whoever copies block by
 * block pays for every block.
 */
import { type StepPlan, TRANSFER_WORDS, TransferMark, TransferOp } from "../../bindings/plan.js";
import type { Machine } from "./machine.js";

export interface CopyOptions {
  /** A copy a run of blocks; else a copy a block, however they lie. */
  readonly runs: boolean;
  /** Dispatched by a native thread for each direction; else by the thread that plans steps, one after the other. */
  readonly threads: boolean;
}

/** A transfer that has been begun and not reported yet. */
export interface Flight {
  readonly id: number;
  readonly blocks: number;
  readonly beganUs: number;
  endUs: number;
}

/** When a resource is free again. */
interface Lane {
  freeUs: number;
}

export class CopyEngine {
  readonly flights = new Map<number, Flight>();
  /** Runs and blocks of everything copied so far, by TransferOp. */
  readonly copied = {
    [TransferOp.SwapOut]: { runs: 0, blocks: 0 },
    [TransferOp.SwapIn]: { runs: 0, blocks: 0 },
  };
  readonly #machine: Machine;
  readonly #options: CopyOptions;
  readonly #dispatch: Record<number, Lane>;
  readonly #links: Record<number, Lane> = {
    [TransferOp.SwapOut]: { freeUs: 0 },
    [TransferOp.SwapIn]: { freeUs: 0 },
  };

  constructor(machine: Machine, options: CopyOptions) {
    this.#machine = machine;
    this.#options = options;
    const shared = { freeUs: 0 };
    this.#dispatch = {
      [TransferOp.SwapOut]: shared,
      [TransferOp.SwapIn]: options.threads ? { freeUs: 0 } : shared,
    };
  }

  /** Begins a plan's swaps at `nowUs`; returns when all of what its batch waits for has ended. */
  begin(plan: StepPlan, nowUs: number): number {
    const { transfers, transferCount } = plan;
    let readyUs = nowUs;
    // What an earlier plan has begun must be complete before anything of this one.
    let startUs = nowUs;
    for (let at = 0; at < transferCount * TRANSFER_WORDS; at += TRANSFER_WORDS) {
      if (transfers[at] !== TransferOp.Wait) continue;
      startUs = Math.max(startUs, this.flights.get(transfers[at + 7])!.endUs);
    }
    for (const op of [TransferOp.SwapOut, TransferOp.SwapIn] as const) {
      let awaitedUs = startUs;
      for (let at = 0; at < transferCount * TRANSFER_WORDS; at += TRANSFER_WORDS) {
        if (transfers[at] !== op) continue;
        const endUs = this.#copy(op, transfers[at + 7], transfers[at + 5], startUs);
        if (transfers[at + 6] === TransferMark.Before) awaitedUs = Math.max(awaitedUs, endUs);
      }
      readyUs = Math.max(readyUs, awaitedUs);
      // Blocks that are read into may be those that are being sent.
      startUs = awaitedUs;
    }
    return readyUs;
  }

  /** Ends of transfers up to `nowUs`, in order; they are no flights any more. */
  ended(nowUs: number): Flight[] {
    const ended: Flight[] = [];
    for (const flight of this.flights.values()) if (flight.endUs <= nowUs) ended.push(flight);
    for (const { id } of ended) this.flights.delete(id);
    return ended.sort((a, b) => a.endUs - b.endUs || a.id - b.id);
  }

  /** When the next flight ends, Infinity when there is none. */
  nextEndUs(): number {
    let next = Infinity;
    for (const { endUs } of this.flights.values()) next = Math.min(next, endUs);
    return next;
  }

  /** One record of a transfer; returns when it has ended. */
  #copy(op: 1 | 2, id: number, tokens: number, nowUs: number): number {
    const { layers, tokenBytes, blockSize, copyLatencyUs, linkBytesPerUs } = this.#machine;
    const { dispatchUs, nativeDispatchUs } = this.#machine;
    const blocks = Math.ceil(tokens / blockSize);
    const runs = this.#options.runs ? 1 : blocks;
    const copies = 2 * layers * runs;
    const copyUs = Math.max(copyLatencyUs, (tokens * tokenBytes) / runs / linkBytesPerUs);
    const dispatch = this.#dispatch[op];
    const link = this.#links[op];
    dispatch.freeUs =
      Math.max(dispatch.freeUs, nowUs) + copies * (this.#options.threads ? nativeDispatchUs : dispatchUs);
    link.freeUs = Math.max(link.freeUs, nowUs) + copies * copyUs;
    const endUs = Math.max(dispatch.freeUs, link.freeUs);
    this.copied[op].runs += runs;
    this.copied[op].blocks += blocks;
    const flight = this.flights.get(id);
    if (flight === undefined) this.flights.set(id, { id, blocks, beganUs: nowUs, endUs });
    else this.flights.set(id, { id, blocks: flight.blocks + blocks, beganUs: flight.beganUs, endUs });
    return endUs;
  }
}

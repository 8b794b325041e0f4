/**
 * HostTier: host memory that takes the K and V of preempted requests and gives them back, so that they need not be
 * computed again. The scheduler decides and accounts; the blocks are moved by whoever carries out the plan's transfers
 * (`Scheduler.transferred`). Copies that stay valid are not sent twice ("FastSwitch", arXiv 2411.18424).
 */
import type { Core } from "./core.js";
import { invalidArgument, requireInteger } from "./errors.js";

export interface HostTierOptions {
  /** Blocks that it holds, 1 to 2^24. About 100 bytes each in the core. */
  blocks: number;
  /**
   * "swap" (default): preempted requests are sent there as far as there is room, the rest of them is computed again. Those
   * that drop tokens, and all of a cache with groups, are sent whole or not at all.
   * "auto": only when sending and reading back costs less than computing, by `prefillUs` and the averages below.
   */
  preemption?: "swap" | "auto";
  /** Requests that have something there at a time, 1 to maxRequests; 4 bytes a block of the longest sequence each. Default maxRequests. */
  copies?: number;
  /** Every transfer is complete before the batch of the step that begins it. Default false: they run beside batches. */
  blocking?: boolean;
  /**
   * When a request that is read back joins a batch. "async" (default): in the first step after its blocks have arrived, so
   * that nobody waits for them. "sync": in the step that begins to read them, whose batch waits. "adaptive": as sync when
   * nobody else could run, or when its step's loads are expected to take at most half of a step, else as async: by the last 16
   * loads and an average over steps, both as the host reports them.
   */
  swapIn?: "async" | "sync" | "adaptive";
  /**
   * Keep what requests have there once they run again, until room is needed. Default true. Copies of those that are sent
   * whole end then in any case.
   */
  reuse?: boolean;
  /** Microseconds to send a block and to read one back, until transfers have been measured. Default 0. */
  outUs?: number;
  inUs?: number;
  /** Microseconds to compute a token of a prompt. "auto" needs it. Default 0. */
  prefillUs?: number;
}

export interface HostTierStats {
  readonly blocks: number;
  /** Blocks that hold nothing and are not kept for what a request computes next. */
  readonly free: number;
  /** Transfers in flight. */
  readonly inFlight: number;
  /** Device blocks that are free once the swap-outs in flight are complete. */
  readonly pendingBlocks: number;
  /** Preemptions and admissions that have begun a transfer. */
  readonly swapOuts: number;
  readonly swapIns: number;
  /** Swap-ins that the batch of their step has waited for ("sync", "adaptive"). */
  readonly joins: number;
  /** Blocks sent; blocks of preempted requests that were there already; blocks read back. */
  readonly sentBlocks: number;
  readonly keptBlocks: number;
  readonly loadedBlocks: number;
  /** Transfers of which not everything arrived. */
  readonly failures: number;
  /** Swap-outs whose blocks were needed before they were complete. */
  readonly conflicts: number;
  /** Averages, in microseconds: a block sent, a block read back. */
  readonly outUs: number;
  readonly inUs: number;
  /** Average microseconds of steps with rows that began no load which might have joined; 0 before the first. */
  readonly stepUs: number;
}

/** Words of the header (docs/abi.md). */
const Header = {
  blocks: 1,
  extents: 4,
  inFlight: 11,
  pendingBlocks: 13,
  outUs: 18,
  inUs: 20,
  sentBlocks: 24,
  keptBlocks: 26,
  loadedBlocks: 28,
  failures: 30,
  swapOuts: 32,
  swapIns: 34,
  conflicts: 36,
  joins: 42,
  stepUs: 44,
} as const;
const HEADER_WORDS = 46;
/** Word of the free extents. */
const FREE_BLOCKS = 1;
const PREEMPTION = ["recompute", "swap", "auto"] as const;
export const SWAP_IN = ["async", "sync", "adaptive"] as const;

export type HostTierShape = ReturnType<typeof hostTierShape>;

function requireUs(argument: string, us: number): number {
  if (typeof us !== "number" || !(us >= 0 && us < Infinity))
    throw invalidArgument(argument, us, "finite microseconds >= 0");
  return us;
}

/** Checks options and fills in defaults. */
export function hostTierShape(options: HostTierOptions, maxRequests: number) {
  if (typeof options !== "object" || options === null)
    throw invalidArgument("hostTier", options, "an object");
  const blocks = requireInteger("hostTier.blocks", options.blocks, 1, 2 ** 24);
  const name = options.preemption ?? "swap";
  const preemption = PREEMPTION.indexOf(name);
  if (preemption < 1) throw invalidArgument("hostTier.preemption", name, "swap, auto");
  const swapInName = options.swapIn ?? "async";
  const swapIn = SWAP_IN.indexOf(swapInName);
  if (swapIn < 0) throw invalidArgument("hostTier.swapIn", swapInName, SWAP_IN.join(", "));
  const prefillUs = requireUs("hostTier.prefillUs", options.prefillUs ?? 0);
  if (name === "auto" && prefillUs === 0)
    throw invalidArgument("hostTier.prefillUs", prefillUs, 'more than 0 for "auto"');
  return {
    blocks,
    preemption,
    copies: requireInteger("hostTier.copies", options.copies ?? maxRequests, 1, maxRequests),
    blocking: options.blocking ?? false,
    reuse: options.reuse ?? true,
    outUs: requireUs("hostTier.outUs", options.outUs ?? 0),
    inUs: requireUs("hostTier.inUs", options.inUs ?? 0),
    prefillUs,
    swapIn,
  };
}

/** What a host tier has done so far; undefined when the scheduler has none. */
export function hostTierStats(core: Core, pointer: number): HostTierStats | undefined {
  if (pointer === 0) return undefined;
  const words = new Uint32Array(core.memory.buffer, pointer, HEADER_WORDS);
  const floats = new Float64Array(core.memory.buffer, pointer, HEADER_WORDS / 2);
  const wide = (word: number): number => words[word] + words[word + 1] * 2 ** 32;
  return {
    blocks: words[Header.blocks],
    free: new Uint32Array(core.memory.buffer, words[Header.extents], 2)[FREE_BLOCKS],
    inFlight: words[Header.inFlight],
    pendingBlocks: words[Header.pendingBlocks],
    swapOuts: wide(Header.swapOuts),
    swapIns: wide(Header.swapIns),
    joins: wide(Header.joins),
    sentBlocks: wide(Header.sentBlocks),
    keptBlocks: wide(Header.keptBlocks),
    loadedBlocks: wide(Header.loadedBlocks),
    failures: wide(Header.failures),
    conflicts: wide(Header.conflicts),
    outUs: floats[Header.outUs / 2],
    inUs: floats[Header.inUs / 2],
    stepUs: floats[Header.stepUs / 2],
  };
}

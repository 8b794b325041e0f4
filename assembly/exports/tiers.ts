/**
 * The host tier of a scheduler, and priorities of live requests, as the host sees them. The tier's header is read at
 * `schedulerTier` (docs/abi.md).
 */
import { ARENA, arenaSeed, arenaTake, RegionKind } from "../memory/arena";
import { INVALID_ARGUMENT, NOT_FOUND, OK, OUT_OF_MEMORY, Status } from "../memory/status";
import { Policy, Scheduler } from "../scheduling/layout";
import { transferred } from "../scheduling/swap";
import { predict, prioritize } from "../scheduling/urgency";
import { schedulerValidate } from "../scheduling/validate";
import { MAX_HOST_BLOCKS, Preemption, SwapIn, tierBytes, tierCreate } from "../paging/tiers/layout";

// @ts-ignore: decorator
@inline
function checked(s: Scheduler, result: i32): i32 {
  if (ASC_OPTIMIZE_LEVEL == 0) assert(schedulerValidate(s) == OK);
  return result;
}

// @ts-ignore: decorator
@inline
function shapeValid(s: Scheduler, blocks: u32, copies: u32): bool {
  return (
    blocks >= 1 &&
    blocks <= MAX_HOST_BLOCKS &&
    copies >= 1 &&
    copies <= s.maxRequests &&
    s.tier == 0 &&
    s.kv.tier == 0
  );
}

/** Bytes of a host tier of `blocks` slots for what `copies` requests have computed, or INVALID_ARGUMENT. */
export function hostTierBytes(scheduler: usize, blocks: u32, copies: u32): f64 {
  const s = changetype<Scheduler>(scheduler);
  return shapeValid(s, blocks, copies)
    ? <f64>tierBytes(s.kv, blocks, copies, s.maxRequests)
    : INVALID_ARGUMENT;
}

/**
 * Gives a scheduler a host tier in a region of its own; afterwards it is the arena's last region. `preemption`: 1 swap,
 * 2 whichever costs less. `blocking`: 1 for transfers that are complete before the batch of their step. `reuse`: 1 keeps
 * copies once their requests run again, which a cache with groups never does. Microseconds to send a block, to read one back, to
 * compute a token: finite, >= 0.
 * `swapIn`: when a request that is read back joins a batch, 0 to 2 (SwapIn).
 */
export function hostTierCreate(
  scheduler: usize,
  blocks: u32,
  copies: u32,
  preemption: u32,
  blocking: u32,
  reuse: u32,
  outUs: f64,
  inUs: f64,
  prefillUs: f64,
  swapIn: u32,
): Status {
  const s = changetype<Scheduler>(scheduler);
  if (!shapeValid(s, blocks, copies) || preemption < 1 || preemption > <u32>Preemption.Auto)
    return INVALID_ARGUMENT;
  if (swapIn > <u32>SwapIn.Adaptive) return INVALID_ARGUMENT;
  if (!(outUs >= 0 && inUs >= 0 && prefillUs >= 0 && outUs + inUs + prefillUs < Infinity))
    return INVALID_ARGUMENT;
  const at = arenaTake(ARENA, RegionKind.SchedulerAddOn, tierBytes(s.kv, blocks, copies, s.maxRequests));
  if (at == 0) return OUT_OF_MEMORY;
  const t = tierCreate(at, s.kv, blocks, copies, s.maxRequests, arenaSeed(ARENA));
  t.preemption = preemption;
  t.blocking = u32(blocking != 0);
  // What goes whole is of use once, and by itself.
  t.reuse = u32(reuse != 0 && s.kv.groups == 0);
  t.outUs = outUs;
  t.inUs = inUs;
  t.prefillUs = prefillUs;
  t.swapIn = swapIn;
  s.tier = <u32>at;
  s.kv.tier = <u32>at;
  return checked(s, OK);
}

/** Address of a scheduler's host tier, 0: none. */
export function schedulerTier(scheduler: usize): usize {
  return changetype<Scheduler>(scheduler).tier;
}

/**
 * The host has carried out transfer `id`, or given it up: its first `good` blocks have arrived, in `us` microseconds (0:
 * not known). Once for each id of a record, at any time. 1: the batch of the step in flight was to read what has not: the
 * step is to be abandoned. NOT_FOUND, INVALID_ARGUMENT.
 */
export function schedulerTransferred(scheduler: usize, id: u32, good: u32, us: f64): i32 {
  const s = changetype<Scheduler>(scheduler);
  if (s.tier == 0) return NOT_FOUND;
  return checked(s, transferred(s, id, good, us));
}

/** Gives a live request another priority. UNKNOWN_REQUEST, INVALID_ARGUMENT. */
export function requestPrioritize(scheduler: usize, handle: u32, priority: u32): Status {
  const s = changetype<Scheduler>(scheduler);
  return checked(s, prioritize(s, handle, priority));
}

/** Tokens, at most 2^24, that a live request is expected to generate yet. UNKNOWN_REQUEST, INVALID_ARGUMENT. */
export function requestPredict(scheduler: usize, handle: u32, tokens: u32): Status {
  const s = changetype<Scheduler>(scheduler);
  return checked(s, predict(s, handle, tokens));
}

/** Policy priority: whether running requests make room for more urgent ones that wait. INVALID_ARGUMENT under another. */
export function schedulerPreemptive(scheduler: usize, preemptive: u32): Status {
  const s = changetype<Scheduler>(scheduler);
  if (s.policy != Policy.Priority) return INVALID_ARGUMENT;
  s.preemptive = u32(preemptive != 0);
  return OK;
}

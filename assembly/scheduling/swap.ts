/**
 * Preemption by swap: a preempted request's K and V go to the host tier and come back, instead of being computed again.
 *
 *   Running --preempted--> Waiting (swap-out in flight) --> Waiting --admitted--> Loading (swap-in in flight) --> Running
 *                             |                                          |
 *                             +-- admitted before it is complete: the blocks are still there, Running at once
 *
 * Which of the two is cheaper: microseconds a block out and in, averages of the finished transfers ("KV connector" load or
 * recompute), against those of computing a token. Transfers run beside batches, as in "FastSwitch" (arXiv 2411.18424,
 * multithreading swap manager): a batch waits for a swap-out only when it takes its blocks, and then for exactly that one,
 * and for a swap-in when its host has asked for that (swap-in.ts).
 *
 * Requests that drop tokens, and all of a cache with groups, go whole or not at all (whole-swap.ts).
 */
import { INVALID_ARGUMENT, NOT_FOUND, OK, Status } from "../memory/status";
import { blocksFor, NONE, sequenceOf, SLOT_MASK } from "../paging/layout";
import { heldBlocks } from "../paging/group-blocks";
import { append, truncate } from "../paging/growth";
import { close } from "../paging/sequences";
import {
  copyAtIndex,
  copyOf,
  HostCopy,
  HostTier,
  Preemption,
  SwapIn,
  TransferOp,
} from "../paging/tiers/layout";
import { disown, freeCopy, takeCopy, truncateRow } from "../paging/tiers/slots";
import { follow, noteLoad } from "../paging/tiers/times";
import {
  beginSwapIn,
  beginSwapOut,
  endTransfer,
  inFlightCopy,
  orderRecords,
  readableBlocks,
} from "../paging/tiers/transfers";
import { nextStepId, Request, request, Scheduler, setRunning, State } from "./layout";
import { openFor } from "./lossy";
import { StepPlan } from "./plan-layout";
import { requeue } from "./queue";
import { readTokens } from "./tokens";
import { goesWhole, loadWhole, noteSlots, openWhole, sendsAll, wholeTokens } from "./whole-swap";

// @ts-ignore: decorator
@inline
export function tierOf(s: Scheduler): HostTier {
  return changetype<HostTier>(<usize>s.tier);
}

/** The step in flight has ended: what is recorded from here on is for the next plan. */
// @ts-ignore: decorator
@inline
export function beginTransfers(s: Scheduler): void {
  const t = tierOf(s);
  t.recordCount = 0;
  t.owed = 0;
  t.toLoad = 0;
}

/** A running request is preempted, or its turn has ended: begins to send what it has computed, if that is the cheaper way. */
export function swapOut(s: Scheduler, slot: u32, r: Request): void {
  const t = tierOf(s);
  const kv = s.kv;
  const sequence = sequenceOf(kv, r.sequence);
  let copy = copyOf(t, slot);
  // Swapped out a moment ago and still on its way: what it has computed since is computed again.
  if (copy !== null && copy.op != TransferOp.None) return;
  const entire = goesWhole(s, r);
  // A partly filled block whose content is still to be copied there is left out.
  const tokens = entire
    ? wholeTokens(kv, r.sequence, sequence)
    : kv.copyCount == 0
      ? sequence.length
      : sequence.length & ~(kv.blockSize - 1);
  if (tokens == 0) return;
  const held = blocksFor(kv, tokens);
  const there = copy === null ? 0 : min(copy.blocks, held);
  const cost = <f64>(held - there) * t.outUs + <f64>held * t.inUs;
  if (t.preemption == Preemption.Auto && cost >= <f64>(entire ? sequence.length : tokens) * t.prefillUs) {
    if (copy !== null) freeCopy(t, copy);
    return;
  }
  if (entire && !sendsAll(t, sequence, held)) return;
  if (copy === null) copy = takeCopy(t, slot);
  if (copy === null) return;
  if (t.reuse == 0) truncateRow(t, copy, 0);
  copy.resident = 0;
  copy.priority = r.priority;
  // Between two steps it is for the plan to come.
  beginSwapOut(t, copy, r.sequence, tokens, s.stepInFlight == 0 ? s.stepId : nextStepId(s), !entire);
  if (entire) noteSlots(r, copy, sequence);
  if (copy.blocks == 0) freeCopy(t, copy);
  t.swapOuts += u64(copy.op != TransferOp.None);
}

/** The request leaves its sequence: closed, unless a transfer in flight needs its blocks. */
export function leaveSequence(s: Scheduler, slot: u32, r: Request): void {
  if (s.tier == 0 || !passToCopy(s, slot, r.sequence)) close(s.kv, r.sequence);
  r.sequence = NONE;
}

/** Whether a transfer in flight needs the blocks of a sequence: then its copy keeps it open. */
function passToCopy(s: Scheduler, slot: u32, handle: u32): bool {
  const t = tierOf(s);
  const copy = copyOf(t, slot);
  if (copy === null) return false;
  copy.resident = 0;
  if (copy.op == TransferOp.None) return false;
  if (copy.op == TransferOp.SwapOut) {
    // What is for the plan to come is not given away before that plan.
    if (copy.awaited != 0 && copy.step == s.stepId) return false;
    copy.pending = heldBlocks(t.kv, handle & SLOT_MASK);
    t.pendingBlocks += copy.pending;
  }
  copy.sequence = handle;
  return true;
}

/** The copy takes no more care of a sequence: closed, or taken back by its request. */
function passSequence(t: HostTier, copy: HostCopy): u32 {
  const handle = copy.sequence;
  copy.sequence = NONE;
  // An admission may have added blocks to it since.
  t.pendingBlocks -= copy.pending;
  copy.pending = 0;
  return handle;
}

/** A request ends: so does its copy, at once or with its transfer. */
export function endCopy(s: Scheduler, slot: u32): void {
  const t = tierOf(s);
  const copy = copyOf(t, slot);
  if (copy === null) return;
  if (copy.op == TransferOp.None) freeCopy(t, copy);
  else disown(t, copy);
}

/**
 * A running request needs a block, and there is none: takes those of a swap-out in flight, which the host
 * completes before the batch. False: nothing is being swapped out.
 */
export function takePending(s: Scheduler): bool {
  const t = tierOf(s);
  for (let i: u32 = 0; i < t.copyCount && t.pendingBlocks != 0; i++) {
    const copy = copyAtIndex(t, i);
    if (copy.op != TransferOp.SwapOut || copy.sequence == NONE) continue;
    close(s.kv, passSequence(t, copy));
    copy.awaited = 1;
    t.conflicts += 1;
    return true;
  }
  return false;
}

/**
 * Sequence for a request that is to be admitted: the one it was preempted with, when its swap-out still holds it, else a
 * new one on its cached prefix. Negative: none, or its transfer has to be complete first.
 */
export function openSwapped(s: Scheduler, slot: u32, r: Request, target: u32): i32 {
  const copy = copyOf(tierOf(s), slot);
  if (copy === null) return openFor(s, r, target);
  if (copy.op != TransferOp.None)
    return copy.op == TransferOp.SwapOut && copy.sequence != NONE ? <i32>copy.sequence : -1;
  if (copy.seen != 0) {
    const entire = openWhole(s, slot, r, tierOf(s), copy);
    if (entire != 0) return entire;
    freeCopy(tierOf(s), copy);
    return openFor(s, r, target);
  }
  const handle = openFor(s, r, target);
  // What is loaded begins with a block.
  if (handle >= 0) truncate(s.kv, handle, sequenceOf(s.kv, handle).length & ~(s.kv.blockSize - 1));
  return handle;
}

/** Whether the tier has, or is being sent, anything of a request. */
export function isSwapped(s: Scheduler, slot: u32): bool {
  return copyOf(tierOf(s), slot) !== null;
}

/** Tokens of a request that has been preempted that the tier has, or is being sent. */
export function swappedTokens(s: Scheduler, slot: u32): u32 {
  const copy = copyOf(tierOf(s), slot);
  return copy === null ? 0 : copy.seen != 0 ? copy.seen : copy.tokens;
}

/** Whether `openSwapped` has found the sequence still there. */
export function isRevived(s: Scheduler, slot: u32): bool {
  const copy = copyOf(tierOf(s), slot);
  return copy !== null && copy.op != TransferOp.None;
}

/** An admitted request takes its sequence back, or begins to load what the tier has of it. */
export function resume(s: Scheduler, slot: u32, r: Request): void {
  const t = tierOf(s);
  const copy = copyOf(t, slot);
  if (copy === null) return;
  copy.resident = 1;
  copy.priority = r.priority;
  const entire = copy.seen != 0;
  if (copy.op != TransferOp.None) {
    passSequence(t, copy);
    if (entire) disown(t, copy);
    return;
  }
  if (entire) {
    loadWhole(s, t, copy, r);
    return beginLoading(s, t, copy, r);
  }
  const from = sequenceOf(s.kv, r.sequence).length >> s.kv.blockShift;
  const to = readableBlocks(t, copy);
  if (to <= from) return;
  if (t.preemption == Preemption.Auto && t.inUs >= t.prefillUs * <f64>s.kv.blockSize) return;
  beginSwapIn(t, copy, r.sequence, from, to, s.stepId);
  beginLoading(s, t, copy, r);
}

function beginLoading(s: Scheduler, t: HostTier, copy: HostCopy, r: Request): void {
  t.swapIns += 1;
  if (t.swapIn != SwapIn.Async) {
    t.toLoad += copy.count;
    s.budgetLeft -= 1; // for its row, if it joins the batch
  }
  r.state = State.Loading;
  r.admittedNow = 0;
  s.loadingCount += 1;
}

/** Records of the planned step, in the order in which the host carries them out. */
export function emitTransfers(s: Scheduler, plan: StepPlan): void {
  const t = tierOf(s);
  plan.transfers = <u32>orderRecords(t, s.stepId);
  plan.transferCount = t.recordCount;
  plan.running += t.owed;
}

/**
 * The host has carried a transfer out, or given it up: its first `good` blocks have arrived. `us`: what it took, 0 when
 * that says nothing. Any time, also while a step is in flight; once for each id. NOT_FOUND for another id,
 * INVALID_ARGUMENT for more blocks than it has. 1: the batch in flight was to read what has not arrived.
 */
export function transferred(s: Scheduler, id: u32, good: u32, us: f64): i32 {
  const t = tierOf(s);
  const copy = inFlightCopy(t, id);
  if (copy === null) return NOT_FOUND;
  if (good > copy.count || !(us >= 0 && us < Infinity)) return INVALID_ARGUMENT;
  const whole = good == copy.count;
  const swappedOut = copy.op == TransferOp.SwapOut;
  if (whole && us > 0) {
    const each = us / <f64>copy.count;
    if (swappedOut) follow(changetype<usize>(t) + offsetof<HostTier>("outUs"), each);
    else noteLoad(t, each);
  }
  if (copy.sequence != NONE) close(s.kv, passSequence(t, copy));
  endTransfer(t, copy, good);
  const slot = copy.owner;
  if (slot == NONE) {
    freeCopy(t, copy);
    return OK;
  }
  if (swappedOut) return OK;
  const planned = u32(request(s, slot).planRow != 0);
  const lost = whole ? 0 : planned;
  t.owed -= planned - lost;
  const entire = copy.seen != 0;
  if (entire) freeCopy(t, copy);
  if (entire && !whole) loseBlocks(s, slot);
  else endLoading(s, slot, entire ? 0 : whole ? copy.tokens : (copy.from + good) << s.kv.blockShift);
  return lost;
}

/** Not all of a request that goes whole has arrived: it waits again, to be computed anew. */
function loseBlocks(s: Scheduler, slot: u32): void {
  const r = request(s, slot);
  close(s.kv, r.sequence);
  r.sequence = NONE;
  r.planRow = 0;
  s.loadingCount -= 1;
  requeue(s, slot);
}

/** A loading request goes on with what has arrived; the rest of its blocks are its own, and computed again. */
function endLoading(s: Scheduler, slot: u32, tokens: u32): void {
  const r = request(s, slot);
  const kv = s.kv;
  const sequence = sequenceOf(kv, r.sequence);
  if (kv.groups != 0) {
    // It has all its blocks, and nobody knows yet what is in them.
    tokens = sequence.length;
    sequence.length = 0;
  }
  const length = sequence.length;
  if (tokens > length) {
    readTokens(s, slot, length, tokens - length, kv.input);
    append(kv, r.sequence, kv.input, tokens - length, tokens);
  }
  r.state = State.Running;
  s.loadingCount -= 1;
  setRunning(s, s.runningCount, slot);
  s.runningCount += 1;
}

/** Device blocks that are free once the swap-outs in flight are complete. */
export function pendingBlocks(s: Scheduler): u32 {
  return s.tier == 0 ? 0 : tierOf(s).pendingBlocks;
}

/** Those that a request's own swap-out will give back. */
export function ownPending(s: Scheduler, slot: u32): u32 {
  if (s.tier == 0) return 0;
  const copy = copyOf(tierOf(s), slot);
  return copy === null ? 0 : copy.pending;
}

/** The request of a copy has another priority. */
export function prioritizeCopy(s: Scheduler, slot: u32, priority: u32): void {
  const copy = copyOf(tierOf(s), slot);
  if (copy !== null) copy.priority = priority;
}

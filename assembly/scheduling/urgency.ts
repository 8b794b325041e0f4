/**
 * Priorities that change while requests live, and requests that make room for more urgent ones: the batch is then always
 * the most urgent requests that fit, as a fairness-aware scheduler wants it ("FastSwitch", arXiv 2411.18424).
 */
import { INVALID_ARGUMENT, OK, Status, UNKNOWN_REQUEST } from "../memory/status";
import { blocksFor, NONE, SLOT_MASK } from "../paging/layout";
import { availableBlocks } from "../paging/pool";
import { isLive, knownTokens, MAX_PRIORITY, Policy, Request, request, Scheduler, State } from "./layout";
import { StepPlan } from "./plan-layout";
import { preemptLast } from "./preempt";
import { dequeue, requeue, seekWaiting, shortestKey } from "./queue";
import { pendingBlocks, prioritizeCopy } from "./swap";

// @ts-ignore: decorator
@inline const MAX_PREDICTION: u32 = 1 << 24;

/** The queue key with another priority. */
function keyWith(s: Scheduler, r: Request): u64 {
  if (s.policy == Policy.Fcfs || s.policy == Policy.EarliestDeadline) return r.key;
  const shift: u64 = s.policy == Policy.Fair ? 44 : 56;
  return (r.key & ~((<u64>MAX_PRIORITY) << shift)) | ((<u64>r.priority) << shift);
}

/** Gives a live request another priority from the next step on. UNKNOWN_REQUEST, INVALID_ARGUMENT. */
export function prioritize(s: Scheduler, handle: u32, priority: u32): Status {
  if (!isLive(s, handle)) return UNKNOWN_REQUEST;
  if (priority > MAX_PRIORITY) return INVALID_ARGUMENT;
  const slot = handle & SLOT_MASK;
  const r = request(s, slot);
  r.priority = priority;
  if (s.tier != 0) prioritizeCopy(s, slot, priority);
  if (r.state == State.Arriving) return OK;
  if (r.state == State.Waiting) dequeue(s, slot);
  r.key = keyWith(s, r);
  if (r.state == State.Waiting) requeue(s, slot);
  return OK;
}

/**
 * Says how many more tokens a live request is expected to generate; ShortestFirst gives it the place of that.
 * UNKNOWN_REQUEST, INVALID_ARGUMENT.
 */
export function predict(s: Scheduler, handle: u32, tokens: u32): Status {
  if (!isLive(s, handle)) return UNKNOWN_REQUEST;
  if (tokens > MAX_PREDICTION) return INVALID_ARGUMENT;
  const slot = handle & SLOT_MASK;
  const r = request(s, slot);
  r.predictedTokens = tokens;
  if (s.policy != Policy.ShortestFirst || r.state == State.Arriving) return OK;
  if (r.state == State.Waiting) dequeue(s, slot);
  r.key = shortestKey(r);
  if (r.state == State.Waiting) requeue(s, slot);
  return OK;
}

/**
 * Preempts running requests, the least urgent first, until everybody who waits and is more urgent than the last of them
 * has room: rows, and blocks, counting those that swap-outs will give back. They are admitted from the next step on.
 */
export function preemptForUrgent(s: Scheduler, plan: StepPlan): void {
  const kv = s.kv;
  let rows = s.loadingCount;
  let blocks: u32 = 0;
  let key: u64 = 1;
  while (seekWaiting(s, key)) {
    key = s.foundKey + 1;
    const r = request(s, <u32>s.foundValue);
    rows += 1;
    blocks += blocksFor(kv, knownTokens(r)) + s.watermarkBlocks;
    while (
      rows + s.runningCount - s.preemptedInStep > s.maxRunning ||
      blocks > availableBlocks(kv) + pendingBlocks(s)
    )
      if (preemptLast(s, plan, r.priority, NONE) == NONE) return;
  }
}

/**
 * Waiting queue: an ordered index from a queue key to the request's slot.
 *
 *   key   | 8 bits class | 20 bits metric | 36 bits order of arrival |       policies that use a metric
 *         | 8 bits class | 36 bits position | 20 bits cached tokens  |       LongestPrefix
 *         | 12 bits tenant | 8 bits class | 44 bits order of arrival |       Fair
 *         | 43 bits deadline - base, us | 20 bits order of arrival   |       EarliestDeadline
 *         | 8 bits class | 56 bits order of arrival                  |       the others
 *
 * A key is computed once, when the request arrives, and kept across preemption: a preempted request stands
 * before everything that arrived after it. LongestPrefix computes it again before requests are admitted, and
 * EarliestDeadline whenever a request enters. Enter, leave and next are one index operation each.
 */
import { indexDelete } from "../index/delete";
import { indexPut } from "../index/put";
import { indexFind } from "../index/read";
import { indexSeek } from "../index/scan";
import { leastServed, liftTenant, TENANT_SHIFT, tenantEnters, tenantLeaves } from "./fairness";
import { NONE } from "../paging/layout";
import { knownTokens, Policy, Request, request, Scheduler, State, tenantOf } from "./layout";

// @ts-ignore: decorator
@inline const LAST_UNIT: f64 = 8796093022206; // 2^43 - 2
// @ts-ignore: decorator
@inline const MAX_METRIC: u32 = (1 << 20) - 1;

function queueKey(s: Scheduler, r: Request): u64 {
  s.order += 1;
  const order = s.order;
  r.order = order;
  if (s.policy == Policy.Fcfs) return order;
  if (s.policy == Policy.EarliestDeadline) return 0; // computed on entering
  const rank = (<u64>r.priority) << 56;
  if (s.policy == Policy.Priority) return rank | order;
  if (s.policy == Policy.Fair) {
    return ((<u64>r.tenant) << TENANT_SHIFT) | ((<u64>r.priority) << 44) | (order & 0xfffffffffff);
  }
  if (s.policy == Policy.LongestPrefix) return prefixKey(s, r, 0);
  return shortestKey(r);
}

/** Place by what a request still costs: the tokens that are known of it, and those it is expected to generate. */
export function shortestKey(r: Request): u64 {
  const metric = <u64>min(knownTokens(r) + r.predictedTokens, MAX_METRIC);
  return ((<u64>r.priority) << 56) | (metric << 36) | (r.order & 0xfffffffff);
}

/**
 * Place of a request of which `cached` tokens are cached: later arrivals stand `agingTokens` a place behind, cached
 * tokens move it forward as far. Of equal positions the one that arrived first comes first: it has less cached.
 */
export function prefixKey(s: Scheduler, r: Request, cached: u32): u64 {
  const forward = <u64>min(cached, MAX_METRIC);
  const position = r.order * <u64>s.agingTokens + <u64>MAX_METRIC - forward;
  return ((<u64>r.priority) << 56) | ((position & 0xfffffffff) << 20) | forward;
}

/**
 * Exact for deadlines within 50 days of each other, whatever the clock counts from; of those beyond the order of arrival
 * decides.
 */
function deadlineKey(s: Scheduler, r: Request): u64 {
  if (r.deadlineUs == Infinity) return ((<u64>1) << 63) | r.order;
  // Nobody waits whose key counts from the base. The clock is that of the last step, and may be far behind.
  if (!seekWaiting(s, 1) || s.foundKey >> 63 != 0)
    s.deadlineBaseUs = max(floor(s.nowUs), floor(r.deadlineUs) - LAST_UNIT / 2);
  const ahead = <u64>min(max(floor(r.deadlineUs) - s.deadlineBaseUs, 0), LAST_UNIT);
  return ((ahead + 1) << 20) | (r.order & 0xfffff);
}

/** When a waiting request ends unless it is admitted before: at its deadline, or, if it has never run, its time-out. */
export function endsUs(s: Scheduler, r: Request): f64 {
  if (s.queueTimeoutUs == 0 || r.preemptions != 0) return r.deadlineUs;
  return min(r.deadlineUs, r.arrivalUs + s.queueTimeoutUs);
}

/** A request has arrived: gives it its place. */
export function enqueueArrived(s: Scheduler, slot: u32): void {
  const r = request(s, slot);
  liftTenant(s, r.tenant);
  r.key = queueKey(s, r);
  requeue(s, slot);
}

/** Puts a request back at the place it had. The index has room for every request. */
export function requeue(s: Scheduler, slot: u32): void {
  const r = request(s, slot);
  r.state = State.Waiting;
  // One that came to run at once waits from the first step that sees it: that step looks at all of them.
  const ends = s.queueTimeoutUs > 0 && r.arrivalUs == 0 ? 0 : endsUs(s, r);
  if (ends < s.nextDeadlineUs) s.nextDeadlineUs = ends;
  if (s.policy == Policy.EarliestDeadline) {
    r.key = deadlineKey(s, r);
    // Of the order of arrival the key has 20 bits only.
    while (indexFind(s.waiting, r.key) != 0) r.key += 1;
  }
  const entered = indexPut(s.waiting, r.key, slot);
  assert(entered == 1);
  s.waitingCount += 1;
  tenantEnters(s, r);
}

export function dequeue(s: Scheduler, slot: u32): void {
  const r = request(s, slot);
  indexDelete(s.waiting, r.key);
  s.waitingCount -= 1;
  if (s.waitingCount == 0) s.nextDeadlineUs = Infinity;
  tenantLeaves(s, r);
}

/** Gives a request another place; one that is still to arrive gets its place then. */
export function moveTo(s: Scheduler, slot: u32, key: u64): void {
  const r = request(s, slot);
  if (r.state == State.Arriving) return;
  const waits = r.state == State.Waiting;
  if (waits) dequeue(s, slot);
  r.key = key;
  if (waits) requeue(s, slot);
}

/**
 * Finds the first request whose key is at least `key`; its slot is in `foundValue`, its key in `foundKey`.
 */
// @ts-ignore: decorator
@inline
export function seekWaiting(s: Scheduler, key: u64): bool {
  const base = changetype<usize>(s);
  return (
    indexSeek(
      s.waiting,
      key,
      base + offsetof<Scheduler>("foundKey"),
      base + offsetof<Scheduler>("foundValue"),
    ) == 1
  );
}

/** Finds the request to admit next, from this key on, as `seekWaiting` does; no tenant whose quota has refused one. */
export function seekNext(s: Scheduler, key: u64): bool {
  if (s.waitingCount == 0) return false;
  if (s.policy == Policy.Fair) {
    const tenant = leastServed(s, true);
    return tenant != NONE && seekWaiting(s, max(1, (<u64>tenant) << TENANT_SHIFT));
  }
  while (seekWaiting(s, key)) {
    if (s.kv.accounts == 0) return true;
    if (tenantOf(s, request(s, <u32>s.foundValue).tenant).passedIn != s.stepId) return true;
    key = s.foundKey + 1;
  }
  return false;
}

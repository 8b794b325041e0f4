/**
 * Priorities that change while requests live, and requests that make room for more urgent ones: the batch is then always
 * the most urgent requests that fit, as a fairness-aware scheduler wants it ("FastSwitch", arXiv 2411.18424).
 */
import { INVALID_ARGUMENT, OK, Status, UNKNOWN_REQUEST } from "../memory/status";
import { accountAt, accountsOf, payerOf } from "../paging/accounts";
import { peakBlocks } from "../paging/groups";
import { block, isFirst, NONE, SLOT_MASK } from "../paging/layout";
import { giveWay } from "../paging/pins";
import { trim } from "../paging/prefix";
import { availableFor, mostBlocks } from "../paging/quotas";
import { isLive, knownTokens, MAX_PRIORITY, Policy, Request, request, Scheduler, tenantOf } from "./layout";
import { StepPlan } from "./plan-layout";
import { preemptLast } from "./preempt";
import { cachedTokens } from "./prefix-order";
import { moveTo, seekWaiting, shortestKey } from "./queue";
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
  moveTo(s, slot, keyWith(s, r));
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
  if (s.policy == Policy.ShortestFirst) moveTo(s, slot, shortestKey(r));
  return OK;
}

/** Of so many blocks that a request needs, those that count for its tenant's ceiling and do not yet. */
function chargedBlocks(s: Scheduler, slot: u32, r: Request, need: u32): u32 {
  const kv = s.kv;
  if (kv.groups != 0 || cachedTokens(s, slot, r) == 0) return need;
  const a = accountsOf(kv);
  let id = kv.matchedParent;
  do {
    const record = block(kv, id);
    need -= u32(record.refs != 0 || payerOf(a, id) != r.tenant);
    id = record.parent;
  } while (!isFirst(id));
  return need;
}

/**
 * Whether its own tenant's quota keeps a request that needs so many blocks out, beside the more urgent ones of the tenant that
 * wait: then no other tenant can make room for it, nor for those of its tenant behind it, which are not admitted before it.
 * Under a ceiling the tenant's own make room: soft pins, as for an admission, then running requests that are less urgent;
 * not if swap-outs will.
 */
function isKeptOut(s: Scheduler, plan: StepPlan, slot: u32, r: Request, need: u32): bool {
  const kv = s.kv;
  const own = r.tenant;
  const account = accountAt(accountsOf(kv), own);
  const tenant = tenantOf(s, own);
  const before = tenant.urgentIn == s.stepId ? tenant.urgentBlocks : 0;
  tenant.urgentIn = s.stepId;
  tenant.urgentBlocks = NONE;
  if (before == NONE || (kv.groups != 0 && need > mostBlocks(kv, own))) return true;
  const ceiling = account.ceiling;
  if (ceiling < kv.blockCount) {
    need = before + chargedBlocks(s, slot, r, need);
    while (true) {
      const least = account.used - account.resting + need;
      if (least <= ceiling) break;
      if (least <= ceiling + pendingBlocks(s)) return true;
      if (giveWay(kv, own)) trim(kv);
      else if (preemptLast(s, plan, r.priority, own) == NONE) return true;
    }
  }
  tenant.urgentBlocks = need;
  return false;
}

/**
 * Preempts running requests, the least urgent first, until everybody who waits and is more urgent than the last of them
 * has room: rows, and blocks, counting those that swap-outs will give back. They are admitted from the next step on. Whom its
 * own tenant's quota keeps out is passed over, as it is by admissions.
 */
export function preemptForUrgent(s: Scheduler, plan: StepPlan): void {
  const kv = s.kv;
  let rows = s.loadingCount;
  let blocks: u32 = 0;
  let key: u64 = 1;
  while (seekWaiting(s, key)) {
    key = s.foundKey + 1;
    const slot = <u32>s.foundValue;
    const r = request(s, slot);
    const need = peakBlocks(kv, knownTokens(r));
    // A block that is shared for its beginning is held beside its copy.
    if (kv.accounts != 0 && isKeptOut(s, plan, slot, r, need + u32(kv.children != 0))) continue;
    rows += 1;
    blocks += need + s.watermarkBlocks;
    while (
      rows + s.runningCount - s.preemptedInStep > s.maxRunning ||
      blocks > availableFor(kv, r.tenant) + pendingBlocks(s)
    )
      if (preemptLast(s, plan, r.priority, NONE) == NONE) return;
  }
}

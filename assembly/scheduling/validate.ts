/** Full structural check of a Scheduler and of the KvCache it drives. */
import { indexSize } from "../index/ordered-index";
import { indexValidate } from "../index/validate";
import { CORRUPT, OK, Status } from "../memory/status";
import { blocksFor, isOpen, NONE, sequenceOf } from "../paging/layout";
import { kvValidate } from "../paging/validate";
import { tierValidate } from "../paging/tiers/validate";
import { validArrivals } from "./arrivals";
import { draftCount, validDrafts } from "./drafts";
import { knownTokens, Request, request, runningAt, Scheduler, State, tenantOf } from "./layout";
import { endsUs, seekWaiting } from "./queue";
import { tierOf } from "./swap";
import { pagesFor } from "./tokens";

/** OK, or CORRUPT when an invariant is broken. */
export function schedulerValidate(s: Scheduler): Status {
  if (kvValidate(s.kv) != OK || indexValidate(s.waiting) != OK || indexValidate(s.ids) != OK) return CORRUPT;
  if (s.tier != 0 && tierValidate(tierOf(s)) != OK) return CORRUPT;
  if (!validTenants(s) || !validArrivals(s) || !validRunning(s) || !validWaiting(s) || !validTable(s))
    return CORRUPT;
  return OK;
}

function validRunning(s: Scheduler): bool {
  if (s.runningCount + s.loadingCount > s.maxRunning) return false;
  for (let i: u32 = 0; i < s.runningCount; i++) {
    const slot = runningAt(s, i);
    if (slot >= s.maxRequests || request(s, slot).state != State.Running) return false;
    for (let j: u32 = 0; j < i; j++) if (runningAt(s, j) == slot) return false;
  }
  return true;
}

function validWaiting(s: Scheduler): bool {
  if (indexSize(s.waiting) != s.waitingCount) return false;
  let key: u64 = 1;
  while (seekWaiting(s, key)) {
    const r = request(s, <u32>s.foundValue);
    if (r.state != State.Waiting || r.key != s.foundKey || r.sequence != NONE) return false;
    if (endsUs(s, r) < s.nextDeadlineUs) return false;
    key = s.foundKey + 1;
  }
  return true;
}

/** Tenants' counts of waiting requests add up. */
function validTenants(s: Scheduler): bool {
  let waiting: u32 = 0;
  for (let tenant: u32 = 0; tenant < s.tenantCount; tenant++) {
    const record = tenantOf(s, tenant);
    if (!(record.counter >= 0)) return false;
    waiting += record.waiting;
  }
  return waiting == s.waitingCount && s.lastTenant < s.tenantCount;
}

function validRequest(s: Scheduler, slot: u32, r: Request): bool {
  if (r.tenant >= s.tenantCount || r.promptTokens == 0) return false;
  if (r.generated > r.maxNewTokens - u32(r.state != State.Idle)) return false;
  if (r.pageCount != pagesFor(r.promptTokens + r.maxNewTokens)) return false;
  if (!validDrafts(s, slot)) return false;
  if (r.adopted != 0 && !isOpen(s.kv, r.adopted)) return false;
  if (r.state != State.Running && r.state != State.Loading) return r.sequence == NONE;
  if (!isOpen(s.kv, r.sequence)) return false;
  const sequence = sequenceOf(s.kv, r.sequence);
  const most = knownTokens(r) + (s.stepInFlight != 0 ? draftCount(s, slot) : 0);
  return sequence.length < knownTokens(r) && sequence.blockCount <= blocksFor(s.kv, most);
}

/** Every request is in one place, every page in one row or on the stack. */
function validTable(s: Scheduler): bool {
  let arriving: u32 = 0;
  let waiting: u32 = 0;
  let running: u32 = 0;
  let loading: u32 = 0;
  let idle: u32 = 0;
  let named: u32 = 0;
  let pages = s.freePageCount;
  for (let slot: u32 = 0; slot < s.maxRequests; slot++) {
    const r = request(s, slot);
    if (r.state == State.Free) continue;
    if (!validRequest(s, slot, r)) return false;
    arriving += u32(r.state == State.Arriving);
    waiting += u32(r.state == State.Waiting);
    running += u32(r.state == State.Running);
    loading += u32(r.state == State.Loading);
    idle += u32(r.state == State.Idle);
    named += u32(r.id != 0);
    pages += r.pageCount;
  }
  let free: u32 = 0;
  for (let slot = s.freeRequest; slot != NONE && free <= s.maxRequests; slot = request(s, slot).nextFree)
    free += 1;
  return (
    arriving == s.arrivalCount &&
    waiting == s.waitingCount &&
    running == s.runningCount &&
    loading == s.loadingCount &&
    named == indexSize(s.ids) &&
    pages == s.pageCount &&
    free + arriving + waiting + running + loading + idle == s.maxRequests
  );
}

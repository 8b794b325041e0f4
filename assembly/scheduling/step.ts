/**
 * The step: decides what runs next.
 *
 *   0 what time alone changes in the cache: pins, priorities and times to live end
 *   1 requests whose time has come enter the queue; those that wait past their deadline or time-out end
 *   2 running requests in admission order: those that decode get a block for their next token, preempting if they must
 *   3 running requests that still prefill get a chunk of what the token budget leaves
 *   4 waiting requests are admitted while budget, rows and blocks (above the watermark) last
 *   5 requests that are read back join the batch, where it waits for them (swap-in.ts)
 *   6 drafts are added to decode rows, from what budget and blocks are left (drafts.ts)
 *   7 the rows are written out, decode rows first
 *
 * One token budget over all rows: iteration-level batching as in "Orca" (OSDI 2022), chunked prefill beside
 * decodes as in "Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve" (arXiv 2403.02310);
 * preemption by recomputation as in vLLM (arXiv 2309.06180).
 *
 * An admission reserves the blocks of its whole prompt, so a running prefill never needs a block; only
 * decodes can run short. A tenant at its quota waits for, or preempts, its own alone (paging/quotas.ts). A request
 * that drops tokens gives most of its prompt's blocks back once it is computed; what its lanes may grow to is left free
 * for it, so that such requests alone never preempt each other. A step preempts or admits, not both. Allocation-free;
 * O(running + admitted) plus the tokens written.
 */
import { accountAt, accountsOf } from "../paging/accounts";
import { advance } from "../paging/advance";
import { pinsOf } from "../paging/pin-counts";
import { availableBlocks } from "../paging/pool";
import { groupsAdded, groupsRoom } from "../paging/group-tables";
import { peakBlocks } from "../paging/groups";
import { NONE, sequenceOf, SLOT_MASK } from "../paging/layout";
import { accountRoom, availableFor, mostBlocks } from "../paging/quotas";
import { reserveBeside } from "../paging/growth";
import { close, countLookup } from "../paging/sequences";
import {
  COMPACTION_PENDING,
  INVALID_TIME,
  OK,
  OUT_OF_BLOCKS,
  QUOTA_EXCEEDED,
  QUEUE_TIMEOUT,
  Status,
  STEP_IN_FLIGHT,
} from "../memory/status";
import { nextArrivalUs, popArrival } from "./arrivals";
import { planDrafts } from "./drafts";
import { emitPlan, recordOutcome } from "./emit";
import { countPrompt } from "./fairness";
import {
  knownTokens,
  nextStepId,
  Policy,
  Request,
  request,
  runningAt,
  Scheduler,
  setRunning,
  State,
  tenantOf,
} from "./layout";
import { growthOf, neededFor, openFor, waitsForWholePrompt } from "./lossy";
import { OutcomeKind, StepPlan } from "./plan-layout";
import { orderByPrefix } from "./prefix-order";
import { preemptLast } from "./preempt";
import { dequeue, endsUs, enqueueArrived, seekNext, seekWaiting } from "./queue";
import { endRequest, validTime } from "./requests";
import { addRow, chunkOf } from "./rows";
import { isRevived, isSwapped, openSwapped, ownPending, resume, takePending } from "./swap";
import { joinLoads } from "./swap-in";
import { readTokens } from "./tokens";
import { preemptForUrgent } from "./urgency";

/** Plans one step at time `nowUs`. Returns the step's id (>= 1). */
export function step(s: Scheduler, nowUs: f64): i32 {
  if (s.stepInFlight != 0) return STEP_IN_FLIGHT;
  if (s.kv.stagedSequence != 0) return COMPACTION_PENDING;
  if (!validTime(nowUs)) return INVALID_TIME;
  const plan = changetype<StepPlan>(s.plan);
  s.nowUs = nowUs;
  s.stepId = nextStepId(s);
  s.budgetLeft = s.maxBatchTokens;
  s.preemptedInStep = 0;
  plan.rows = 0;
  plan.outcomeCount = 0;
  advance(s.kv, nowUs);

  while (nextArrivalUs(s) <= nowUs) enqueueArrived(s, popArrival(s));
  if (s.nextDeadlineUs <= nowUs) expire(s, plan);
  if (s.preemptive != 0) preemptForUrgent(s, plan);
  planDecodes(s, plan);
  planChunks(s, plan);
  if (s.preemptedInStep == 0) planAdmissions(s, plan);
  if (s.tier != 0) joinLoads(s, plan);
  if (s.drafts != 0 && s.preemptedInStep == 0) planDrafts(s, plan);
  emitPlan(s, plan);
  s.stepInFlight = 1;
  return <i32>s.stepId;
}

/** Tokens of a running request that have no K and V yet. */
// @ts-ignore: decorator
@inline
function remaining(s: Scheduler, r: Request): u32 {
  return knownTokens(r) - sequenceOf(s.kv, r.sequence).length;
}

/** Whether the request feeds back the token it generated last. */
// @ts-ignore: decorator
@inline
function decodes(s: Scheduler, r: Request): bool {
  return r.generated > 0 && remaining(s, r) == 1;
}

function planDecodes(s: Scheduler, plan: StepPlan): void {
  for (let i: u32 = 0; i < s.runningCount && s.budgetLeft > 0; i++) {
    const slot = runningAt(s, i);
    if (slot == NONE) continue;
    const r = request(s, slot);
    if (!decodes(s, r)) continue;
    const keepBlocks = sequenceOf(s.kv, r.sequence).blockCount;
    if (reserveOrPreempt(s, plan, slot, r, 1)) addRow(s, plan, slot, 1, keepBlocks);
  }
  if (s.preemptedInStep != 0) compactRunning(s);
}

/** As `reserveBeside`, and counts what of its tenant's own was forgotten for it. */
function reserveFor(s: Scheduler, r: Request, count: u32, beside: u32): i32 {
  if (s.kv.accounts == 0) return reserveBeside(s.kv, r.sequence, count, beside);
  const account = accountAt(accountsOf(s.kv), r.tenant);
  const before = account.evictedOwn;
  const added = reserveBeside(s.kv, r.sequence, count, beside);
  r.evictedOwn += <u32>(account.evictedOwn - before);
  return added;
}

/**
 * Room for `tokens` more tokens; takes blocks from the request that is served last until there is: of its tenant, at its
 * quota.
 */
function reserveOrPreempt(s: Scheduler, plan: StepPlan, slot: u32, r: Request, tokens: u32): bool {
  let status = reserveFor(s, r, tokens, tokens);
  while (status == OUT_OF_BLOCKS || status == QUOTA_EXCEEDED) {
    if (status == OUT_OF_BLOCKS && s.tier != 0 && takePending(s)) {
      status = reserveFor(s, r, tokens, tokens);
      continue;
    }
    const victim = preemptLast(s, plan, -1, status == QUOTA_EXCEEDED ? r.tenant : NONE);
    if (runningAt(s, victim) == NONE && r.state != State.Running) {
      if (s.kv.groups != 0 && !runs(s, status == QUOTA_EXCEEDED ? r.tenant : NONE))
        r.stuck = 1 + accountRoom(s.kv, r.tenant) + ownPending(s, slot);
      return false;
    }
    status = reserveFor(s, r, tokens, tokens);
  }
  return true;
}

/** Closes the gaps that ended or preempted requests left, keeping admission order. */
export function compactRunning(s: Scheduler): void {
  let kept: u32 = 0;
  for (let i: u32 = 0; i < s.runningCount; i++) {
    const slot = runningAt(s, i);
    if (slot != NONE) setRunning(s, kept++, slot);
  }
  s.runningCount = kept;
}

function planChunks(s: Scheduler, plan: StepPlan): void {
  for (let i: u32 = 0; i < s.runningCount && s.budgetLeft > 0; i++) {
    const slot = runningAt(s, i);
    if (slot == NONE) continue;
    const r = request(s, slot);
    if (r.planRow != 0 || decodes(s, r)) continue;
    let tokens = chunkOf(s, r, remaining(s, r));
    if (tokens == 0) continue;
    const keepBlocks = sequenceOf(s.kv, r.sequence).blockCount;
    if (s.kv.groups != 0) tokens = reserveChunk(s, plan, slot, r, tokens);
    if (tokens != 0) addRow(s, plan, slot, tokens, keepBlocks);
  }
  if (s.kv.groups != 0 && s.preemptedInStep != 0) compactRunning(s);
}

/**
 * Room for a chunk in the cache's groups, which admissions do not reserve: what windows let go of may have gone to others.
 * The chunk is halved until there is, then somebody is preempted. Returns its tokens; 0: the request itself was.
 */
function reserveChunk(s: Scheduler, plan: StepPlan, slot: u32, r: Request, tokens: u32): u32 {
  while (tokens > 1) {
    const status = reserveFor(s, r, tokens, tokens);
    if (status != OUT_OF_BLOCKS && status != QUOTA_EXCEEDED) break;
    tokens >>= 1;
  }
  return reserveOrPreempt(s, plan, slot, r, tokens) ? tokens : 0;
}

/** Ends every waiting request whose deadline or time-out has come, and finds the next time at which one's will. */
function expire(s: Scheduler, plan: StepPlan): void {
  let next: f64 = Infinity;
  let key: u64 = 1;
  while (seekWaiting(s, key)) {
    const slot = <u32>s.foundValue;
    key = s.foundKey + 1;
    const r = request(s, slot);
    if (r.arrivalUs == 0) r.arrivalUs = s.nowUs;
    const ends = endsUs(s, r);
    if (ends > s.nowUs) {
      next = min(next, ends);
      continue;
    }
    const late = r.deadlineUs <= s.nowUs;
    recordOutcome(
      s,
      plan,
      slot,
      late ? OutcomeKind.Expired : OutcomeKind.Rejected,
      late ? OK : QUEUE_TIMEOUT,
    );
    dequeue(s, slot);
    endRequest(s, slot);
  }
  s.nextDeadlineUs = next;
}

function planAdmissions(s: Scheduler, plan: StepPlan): void {
  if (
    s.policy == Policy.LongestPrefix &&
    s.waitingCount > 1 &&
    s.budgetLeft > 0 &&
    s.runningCount < s.maxRunning &&
    availableBlocks(s.kv) > 0
  )
    orderByPrefix(s);
  let key: u64 = 1;
  while (s.budgetLeft > 0 && s.runningCount + s.loadingCount < s.maxRunning && availableBlocks(s.kv) > 0) {
    if (!seekNext(s, key)) return;
    const slot = <u32>s.foundValue;
    const r = request(s, slot);
    key = s.foundKey;
    const status = admit(s, slot, r);
    if (status != OK) {
      if (!passOver(s, plan, slot, r, status)) return;
      continue;
    }
    if (r.state == State.Loading) continue;
    setRunning(s, s.runningCount, slot);
    s.runningCount += 1;
    const cached = sequenceOf(s.kv, r.sequence).length;
    let tokens = chunkOf(s, r, knownTokens(r) - cached);
    if (s.kv.groups != 0) tokens = min(tokens, groupsRoom(s.kv, r.sequence & SLOT_MASK, cached));
    if (tokens != 0) addRow(s, plan, slot, tokens, 0);
  }
}

/** Whether a request of the tenant runs; NONE: of any. */
function runs(s: Scheduler, tenant: u32): bool {
  for (let i: u32 = 0; i < s.runningCount; i++) {
    const slot = runningAt(s, i);
    if (slot != NONE && (tenant == NONE || request(s, slot).tenant == tenant)) return true;
  }
  return false;
}

/**
 * A request cannot be admitted: whether others may be in its place, which is so when its own tenant's quota is why. What
 * nobody's end would ever make room for, nor that of a pin, is rejected.
 */
function passOver(s: Scheduler, plan: StepPlan, slot: u32, r: Request, status: Status): bool {
  if (s.kv.accounts == 0) return false;
  const alone =
    status == QUOTA_EXCEEDED ? !runs(s, r.tenant) : status == OUT_OF_BLOCKS && s.kv.openSequences == 0;
  if (alone && (s.kv.pins == 0 || pinsOf(s.kv).nextUs == Infinity)) {
    recordOutcome(s, plan, slot, OutcomeKind.Rejected, status);
    dequeue(s, slot);
    endRequest(s, slot);
    return true;
  }
  tenantOf(s, r.tenant).passedIn = s.stepId;
  return status == QUOTA_EXCEEDED;
}

/** Blocks that the running requests which drop tokens may still ask for: an admission leaves them room. */
function lossyGrowth(s: Scheduler): u32 {
  let growth: u32 = 0;
  for (let i: u32 = 0; i < s.runningCount; i++) {
    const r = request(s, runningAt(s, i));
    if (r.peakSlots != 0) growth += growthOf(s, r, r.sequence, sequenceOf(s.kv, r.sequence).blockCount);
  }
  return growth;
}

/**
 * Opens the request's sequence on its cached prefix and reserves the rest of its prompt. The cached blocks are
 * referenced before anything is counted or taken, so an admission never evicts its own hit. When there is no
 * room the references are dropped again, which leaves those blocks most recently used: the request that is next
 * in line keeps its prefix warm. OK, or why there was no room.
 */
function admit(s: Scheduler, slot: u32, r: Request): Status {
  const kv = s.kv;
  const target = knownTokens(r);
  // Groups are reserved chunk by chunk: a quota that has been lowered would be met in the middle, again and again.
  if (kv.groups != 0 && kv.accounts != 0)
    if (peakBlocks(kv, target) > mostBlocks(kv, r.tenant)) return QUOTA_EXCEEDED;
  if (r.stuck != 0) {
    const room = accountRoom(kv, r.tenant);
    if (room < r.stuck)
      return kv.accounts != 0 && room < availableFor(kv, r.tenant) ? QUOTA_EXCEEDED : OUT_OF_BLOCKS;
  }
  readTokens(s, slot, 0, target, kv.input);
  const handle = s.tier == 0 ? openFor(s, r, target) : openSwapped(s, slot, r, target);
  if (handle < 0) return handle;
  const revived = s.tier != 0 && isRevived(s, slot);
  const cached = sequenceOf(kv, handle).length;
  if (r.prefillBlocks != 0 && waitsForWholePrompt(s, r, handle)) {
    close(kv, handle);
    return OUT_OF_BLOCKS;
  }
  const needed = neededFor(s, handle, target);
  // With nothing running nobody would ever give blocks back: the watermark must not keep the only request
  // out.
  const margin = s.runningCount == 0 ? 0 : s.watermarkBlocks;
  const promised = lossyGrowth(s) + growthOf(s, r, handle, sequenceOf(kv, handle).blockCount + needed);
  // In groups for the first chunk only: what a window lets go of makes room for the next one.
  let beside: u32 = kv.groups == 0 ? 0 : chunkOf(s, r, target - cached);
  const before = r.sequence;
  r.sequence = handle;
  while (true) {
    const groups = kv.groups == 0 ? 0 : groupsAdded(kv, handle & SLOT_MASK, cached, beside);
    const available = availableFor(kv, sequenceOf(kv, handle).tenant);
    let status: i32 = OUT_OF_BLOCKS;
    if (needed + groups + margin + promised <= available) status = reserveFor(s, r, target - cached, beside);
    if (status >= 0) break;
    // Halved until it fits where nobody's end would make room for more.
    if (beside <= 1 || (status == QUOTA_EXCEEDED ? runs(s, r.tenant) : s.runningCount != 0)) {
      if (!revived && r.adopted == 0) close(kv, handle);
      r.sequence = before;
      return status;
    }
    beside >>= 1;
  }
  const swapped = s.tier != 0 && isSwapped(s, slot);
  if (!swapped) countLookup(kv, handle, target);
  dequeue(s, slot);
  r.state = State.Running;
  r.sequence = handle;
  r.adopted = 0;
  r.admittedNow = 1 + u32(swapped); // 1: its look-up is counted
  countPrompt(s, r, 1);
  if (r.preemptions == 0) r.cachedTokens = cached;
  if (swapped) resume(s, slot, r);
  return OK;
}

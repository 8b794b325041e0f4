/**
 * The scheduler as the host sees it. `scheduler` is the pointer of a region of kind Scheduler; requests are handles.
 * The prompt of a submission is read from the cache's input region, results from the results region. In the
 * debug build every changing call is followed by a full check.
 */
import { ARENA, arenaSeed, arenaTake, RegionKind } from "../memory/arena";
import { INVALID_ARGUMENT, OK, OUT_OF_MEMORY, Status, TOO_LONG } from "../memory/status";
import { KvCache } from "../paging/layout";
import { pinsOf } from "../paging/pin-counts";
import { nextArrivalUs } from "../scheduling/arrivals";
import { abandon, abort, commit, computedTokens } from "../scheduling/commit";
import { draftsBytes, draftsCreate, MAX_DRAFT_TOKENS, propose } from "../scheduling/drafts";
import {
  isLive,
  MAX_AGING_TOKENS,
  MAX_WEIGHT,
  Policy,
  Request,
  request,
  Scheduler,
  schedulerBytes,
  tenantOf,
} from "../scheduling/layout";
import { requestLanes as lanes } from "../scheduling/lossy";
import { submit } from "../scheduling/requests";
import { schedulerCreate, schedulerShapeValid } from "../scheduling/scheduler";
import { step } from "../scheduling/step";
import { requestMarks as setMarks, requestPin as setPin } from "../scheduling/isolation";
import { MAX_PRIORITY } from "../orders/priority";
import { tierOf } from "../scheduling/swap";
import { expectTurns, nextTurn } from "../scheduling/turns";
import { schedulerValidate } from "../scheduling/validate";
import { SLOT_MASK } from "../paging/layout";

// @ts-ignore: decorator
@inline
function checked(s: Scheduler, result: i32): i32 {
  if (ASC_OPTIMIZE_LEVEL == 0) assert(schedulerValidate(s) == OK);
  return result;
}

/** Bytes of a scheduler of this shape, or INVALID_ARGUMENT. */
export function schedulerRegionBytes(
  cache: usize,
  maxRequests: u32,
  maxRunning: u32,
  maxBatchTokens: u32,
  tokenCapacity: u32,
  tenants: u32,
): f64 {
  const kv = changetype<KvCache>(cache);
  if (!schedulerShapeValid(kv, maxRequests, maxRunning, maxBatchTokens, tokenCapacity, tenants))
    return INVALID_ARGUMENT;
  return <f64>schedulerBytes(kv, maxRequests, maxRunning, maxBatchTokens, tokenCapacity, tenants);
}

/** Creates a scheduler over `kv` in a region of its own; afterwards it is the arena's last region. */
export function schedulerRegionCreate(
  cache: usize,
  maxRequests: u32,
  maxRunning: u32,
  maxBatchTokens: u32,
  maxChunkTokens: u32,
  watermarkBlocks: u32,
  vocabSize: u32,
  policy: u32,
  tokenCapacity: u32,
  queueTimeoutUs: f64,
  agingTokens: u32,
  tenants: u32,
  inputWeight: f64,
  outputWeight: f64,
): Status {
  const kv = changetype<KvCache>(cache);
  if (!schedulerShapeValid(kv, maxRequests, maxRunning, maxBatchTokens, tokenCapacity, tenants))
    return INVALID_ARGUMENT;
  if (vocabSize == 0 || policy > <u32>Policy.EarliestDeadline || !(queueTimeoutUs >= 0))
    return INVALID_ARGUMENT;
  if (agingTokens == 0 || agingTokens > MAX_AGING_TOKENS) return INVALID_ARGUMENT;
  if (!(inputWeight >= 0 && inputWeight <= MAX_WEIGHT && outputWeight >= 0 && outputWeight <= MAX_WEIGHT))
    return INVALID_ARGUMENT;
  const bytes = schedulerBytes(kv, maxRequests, maxRunning, maxBatchTokens, tokenCapacity, tenants);
  const s = changetype<Scheduler>(arenaTake(ARENA, RegionKind.Scheduler, bytes));
  if (changetype<usize>(s) == 0) return OUT_OF_MEMORY;
  schedulerCreate(
    s,
    kv,
    maxRequests,
    maxRunning,
    maxBatchTokens,
    maxChunkTokens,
    watermarkBlocks,
    vocabSize,
    policy,
    tokenCapacity,
    queueTimeoutUs,
    agingTokens,
    tenants,
    inputWeight,
    outputWeight,
    arenaSeed(ARENA),
  );
  return checked(s, OK);
}

/**
 * Submits the first `promptTokens` ids of the cache's input region. Returns a request handle. `deadlineUs`: 0 for
 * none. `peakSlots`: 0, or for a
 * request whose lanes drop tokens the most slots that its longest lane holds once its prompt is computed. `lastChunk`: fewest tokens of the prompt's last chunk,
 * where the token budget allows it. `chunkTokens`: most prompt tokens that a step gives it, 0: no limit of its own.
 */
export function requestSubmit(
  scheduler: usize,
  idLow: u32,
  idHigh: u32,
  promptTokens: u32,
  maxNewTokens: u32,
  namespace: u32,
  tenant: u32,
  priority: u32,
  arrivalUs: f64,
  deadlineUs: f64,
  peakSlots: u32,
  lastChunk: u32,
  chunkTokens: u32,
): i32 {
  const s = changetype<Scheduler>(scheduler);
  const id = ((<u64>idHigh) << 32) | idLow;
  if (promptTokens > s.kv.maxSequenceTokens) return TOO_LONG;
  const handle = submit(
    s,
    id,
    s.kv.input,
    promptTokens,
    maxNewTokens,
    namespace,
    tenant,
    priority,
    arrivalUs,
    deadlineUs == 0 ? Infinity : deadlineUs,
    peakSlots,
    lastChunk,
    chunkTokens,
  );
  return checked(s, handle);
}

// @ts-ignore: decorator
@inline
function draftsShapeValid(s: Scheduler, most: u32): bool {
  return most >= 1 && most <= MAX_DRAFT_TOKENS && s.drafts == 0;
}

/** Bytes that drafts of up to `most` tokens a request need, or INVALID_ARGUMENT. */
export function schedulerDraftsBytes(scheduler: usize, most: u32): f64 {
  const s = changetype<Scheduler>(scheduler);
  return draftsShapeValid(s, most) ? <f64>draftsBytes(s, most) : INVALID_ARGUMENT;
}

/** Gives a scheduler room for drafts in a region of its own; afterwards it is the arena's last region. */
export function schedulerDraftsCreate(scheduler: usize, most: u32): Status {
  const s = changetype<Scheduler>(scheduler);
  if (!draftsShapeValid(s, most)) return INVALID_ARGUMENT;
  const at = arenaTake(ARENA, RegionKind.SchedulerAddOn, draftsBytes(s, most));
  if (at == 0) return OUT_OF_MEMORY;
  draftsCreate(s, at, most);
  return checked(s, OK);
}

/** Address of a scheduler's drafts (docs/abi.md), or 0. */
export function schedulerDrafts(scheduler: usize): usize {
  return changetype<Scheduler>(scheduler).drafts;
}

/**
 * Proposes the first `count` tokens of the cache's input region as what a request will generate next, in place of what
 * was proposed before. Returns how many it can make use of.
 */
export function requestPropose(scheduler: usize, handle: u32, count: u32): i32 {
  const s = changetype<Scheduler>(scheduler);
  if (count > s.kv.maxSequenceTokens) return TOO_LONG;
  return checked(s, propose(s, handle, s.kv.input, count));
}

/**
 * What the sequence of a request with `peakSlots` begins with, before it is admitted. `flags`: 1 the cached prefix, 2 it
 * outlives a request that finishes and is the host's; `sequence`: a host's to go on with, or 0; `prefillBlocks`: blocks for a
 * prompt that one step takes whole and that drops between layers, or 0.
 */
export function requestLanes(
  scheduler: usize,
  handle: u32,
  flags: u32,
  sequence: u32,
  prefillBlocks: u32,
): Status {
  const s = changetype<Scheduler>(scheduler);
  return checked(s, lanes(s, handle, flags, sequence, prefillBlocks));
}

/** Plans a step at `nowUs`; the plan is at `schedulerPlan`. Returns the step's id. */
export function schedulerStep(scheduler: usize, nowUs: f64): i32 {
  const s = changetype<Scheduler>(scheduler);
  return checked(s, step(s, nowUs));
}

/** Enters the results region for the step in flight. */
export function schedulerCommit(scheduler: usize, stepId: u32, nowUs: f64): Status {
  const s = changetype<Scheduler>(scheduler);
  return checked(s, commit(s, stepId, nowUs));
}

/** Takes the step in flight back. */
export function schedulerAbandon(scheduler: usize, stepId: u32): Status {
  const s = changetype<Scheduler>(scheduler);
  return checked(s, abandon(s, stepId));
}

/** Gives a request that has not been admitted yet the marks of its prompt: a list of `kvMarks`, or 0. */
export function requestMarks(scheduler: usize, handle: u32, marks: u32): Status {
  const s = changetype<Scheduler>(scheduler);
  return checked(s, setMarks(s, handle, marks));
}

/**
 * Has a request's prompt pinned for `forUs` microseconds, Infinity for ever, once its first token is generated; its outcomes
 * tell the pin, or why there is none. `hard`: 1, 0 soft; priority 0 to 100.
 */
export function requestPin(scheduler: usize, handle: u32, hard: u32, priority: u32, forUs: f64): Status {
  const s = changetype<Scheduler>(scheduler);
  if (hard > 1 || priority > MAX_PRIORITY) return INVALID_ARGUMENT;
  return checked(s, setPin(s, handle, hard != 0, priority, forUs));
}

/** The request stays, idle, when its answer is complete, until its next turn or its abort. */
export function requestTurns(scheduler: usize, handle: u32): Status {
  const s = changetype<Scheduler>(scheduler);
  return checked(s, expectTurns(s, handle));
}

/**
 * The next turn of an idle request: the first `count` ids of the cache's input region behind all its tokens. `last`: 1, it
 * ends with its answer.
 */
export function requestNextTurn(
  scheduler: usize,
  handle: u32,
  count: u32,
  maxNewTokens: u32,
  last: u32,
): Status {
  const s = changetype<Scheduler>(scheduler);
  if (count > s.kv.maxSequenceTokens) return TOO_LONG;
  return checked(s, nextTurn(s, handle, s.kv.input, count, maxNewTokens, last != 0));
}

export function requestAbort(scheduler: usize, handle: u32): Status {
  const s = changetype<Scheduler>(scheduler);
  return checked(s, abort(s, handle));
}

/**
 * Time of the next arrival, deadline or queue time-out, infinity if none: before it, an empty step stays empty unless
 * something is submitted. 0 when a turn has ended since the last plan: the next one has its transfers.
 */
export function schedulerNextWakeUs(scheduler: usize): f64 {
  const s = changetype<Scheduler>(scheduler);
  if (s.tier != 0 && s.stepInFlight == 0 && tierOf(s).recordCount != 0) return 0;
  const ends = s.kv.pins == 0 || s.waitingCount == 0 ? Infinity : pinsOf(s.kv).nextUs;
  return min(min(nextArrivalUs(s), s.nextDeadlineUs), ends);
}

export function schedulerPlan(scheduler: usize): usize {
  const s = changetype<Scheduler>(scheduler);
  return s.plan;
}

export function schedulerResults(scheduler: usize): usize {
  const s = changetype<Scheduler>(scheduler);
  return s.results;
}

export function schedulerCache(scheduler: usize): usize {
  const s = changetype<Scheduler>(scheduler);
  return changetype<usize>(s.kv);
}

export function schedulerMaxRunning(scheduler: usize): u32 {
  const s = changetype<Scheduler>(scheduler);
  return s.maxRunning;
}

export function schedulerRunning(scheduler: usize): u32 {
  const s = changetype<Scheduler>(scheduler);
  return s.runningCount;
}

export function schedulerWaiting(scheduler: usize): u32 {
  const s = changetype<Scheduler>(scheduler);
  return s.waitingCount;
}

export function schedulerArriving(scheduler: usize): u32 {
  const s = changetype<Scheduler>(scheduler);
  return s.arrivalCount;
}

export function schedulerStepInFlight(scheduler: usize): u32 {
  const s = changetype<Scheduler>(scheduler);
  return s.stepInFlight;
}

// @ts-ignore: decorator
@inline
function live(s: Scheduler, handle: u32): Request | null {
  return isLive(s, handle) ? request(s, handle & SLOT_MASK) : null;
}

/** State of a live request (1 arriving, 2 waiting, 3 running, 4 loading, 5 idle), 0 when it has ended. */
export function requestState(scheduler: usize, handle: u32): u32 {
  const s = changetype<Scheduler>(scheduler);
  const r = live(s, handle);
  return r === null ? 0 : r.state;
}

/** Tokens of a live request whose K and V exist, or -1. */
export function requestComputed(scheduler: usize, handle: u32): i32 {
  const s = changetype<Scheduler>(scheduler);
  const r = live(s, handle);
  return r === null ? -1 : <i32>computedTokens(s, r);
}

/** Tokens a live request has generated, or -1. */
export function requestGenerated(scheduler: usize, handle: u32): i32 {
  const s = changetype<Scheduler>(scheduler);
  const r = live(s, handle);
  return r === null ? -1 : <i32>r.generated;
}

/** What a tenant has been served, in weighted tokens, and lifted; or -1. */
export function schedulerTenantCounter(scheduler: usize, tenant: u32): f64 {
  const s = changetype<Scheduler>(scheduler);
  return tenant < s.tenantCount ? tenantOf(s, tenant).counter : -1;
}

export function schedulerValidateAll(scheduler: usize): Status {
  const s = changetype<Scheduler>(scheduler);
  return schedulerValidate(s);
}

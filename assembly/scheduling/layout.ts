/**
 * Scheduler: its records and its one region.
 *
 *   header (Scheduler)
 *   requests   [maxRequests] Request
 *   pageRows   [maxRequests][pageStride] u32      token pages of each request
 *   pages      [pageCount][PAGE_TOKENS] u32       prompt and generated tokens
 *   freePages  [pageCount] u32                    stack
 *   running    [maxRunning] u32                   request slots in admission order
 *   arrivals   [maxRequests] u32                  min-heap of requests that have not arrived yet
 *   waiting    ordered index: queue key -> slot   (class | metric | order of arrival)
 *   ids        ordered index: id -> slot          requests that carry an id
 *   tenants    [tenantCount] Tenant, 24 B         what each has been served
 *   plan       StepPlan (plan.ts)
 *   results    [2][maxRunning] u32                sampled tokens, finish flags: the host writes them before commit
 *
 * A request is in exactly one place: free list, arrivals, waiting, running, loading, or idle, which is no list.
 */
import { indexBytes, indexNodesFor } from "../index/ordered-index";
import { KvCache, SLOT_BITS, SLOT_MASK } from "../paging/layout";
import { planBytes } from "./plan-layout";

/** Tokens a page of the token store; a multiple of every block size. */
// @ts-ignore: decorator
@inline export const PAGE_TOKENS: u32 = 256;
// @ts-ignore: decorator
@inline export const PAGE_SHIFT: u32 = 8;
// @ts-ignore: decorator
@inline export const MAX_REQUESTS: u32 = 1 << 20;
// @ts-ignore: decorator
@inline export const MAX_PRIORITY: u32 = 255;
// @ts-ignore: decorator
@inline export const MAX_TENANTS: u32 = 1 << 12;
// @ts-ignore: decorator
@inline export const MAX_WEIGHT: f64 = 1048576;
// @ts-ignore: decorator
@inline export const MAX_AGING_TOKENS: u32 = 256;
// @ts-ignore: decorator
@inline export const MAX_BATCH_TOKENS: u32 = 1 << 22;

/** Order of the waiting queue. Ties are served in order of arrival; a preempted request keeps its place. */
export const enum Policy {
  /** Order of arrival alone. */
  Fcfs = 0,
  /** Smaller priority number first, then order of arrival. */
  Priority = 1,
  /** Smaller priority number first, then fewer tokens to compute, then order of arrival. */
  ShortestFirst = 2,
  /** Smaller priority number first, then the longest cached prefix, aged by later arrivals (prefix-order.ts). */
  LongestPrefix = 3,
  /** The tenant that has been served least, then smaller priority number, then order of arrival (fairness.ts). */
  Fair = 4,
  /** Earliest deadline, to the microsecond, then order of arrival; those without one last. */
  EarliestDeadline = 5,
}

export const enum State {
  Free = 0,
  Arriving = 1,
  Waiting = 2,
  Running = 3,
  /** Admitted, with all its blocks; what it had computed is being read from the host tier. */
  Loading = 4,
  /** Its answer is complete; it waits for its next turn. */
  Idle = 5,
}


@unmanaged
export class Scheduler {
  kv: KvCache;
  maxRequests: u32;
  maxRunning: u32;
  maxBatchTokens: u32;
  /** Most prompt tokens of one request in one step; 0 = as many as the budget allows. */
  maxChunkTokens: u32;
  /** Blocks that an admission must leave available. */
  watermarkBlocks: u32;
  vocabSize: u32;
  policy: u32;
  pageStride: u32;
  pageCount: u32;
  // Addresses of the sections.
  requests: u32;
  pageRows: u32;
  pages: u32;
  freePages: u32;
  running: u32;
  arrivals: u32;
  waiting: u32;
  ids: u32;
  tenants: u32;
  plan: u32;
  results: u32;
  // State.
  freeRequest: u32;
  freePageCount: u32;
  runningCount: u32;
  arrivalCount: u32;
  waitingCount: u32;
  stepInFlight: u32;
  stepId: u32;
  preemptedInStep: u32;
  budgetLeft: u32;
  /** Fair: what a prompt token and a generated token count. */
  inputWeight: f64;
  outputWeight: f64;
  /** Fair: the tenant that left the queue last. */
  lastTenant: u32;
  tenantCount: u32;
  /** LongestPrefix: tokens of prefix that a later arrival needs more to overtake. */
  agingTokens: u32;
  queueTimeoutUs: f64;
  /** No waiting request ends by its deadline or its time-out before; infinity: none ever does. */
  nextDeadlineUs: f64;
  /** Time of the last step. */
  nowUs: f64;
  /** Requests queued so far: the order of arrival. */
  order: u64;
  /** Where a seek in an ordered index leaves what it found. */
  foundKey: u64;
  foundValue: u64;
  /** EarliestDeadline: whole microseconds that keys count deadlines from (queue.ts). */
  deadlineBaseUs: f64;
  /** Address of the drafts (drafts.ts), 0: requests have none. */
  drafts: u32;
  /** Address of the host tier (tiers/layout.ts), 0: preempted requests are computed again. */
  tier: u32;
  /** Requests that are being loaded. */
  loadingCount: u32;
  /** Priority: 1: a running request makes room for a more urgent one that waits (urgency.ts). */
  preemptive: u32;
}


@unmanaged
export class Request {
  /** Id given by the host; 0 = none. */
  id: u64;
  /** 0: at once; then, if there is a time-out, the time of the first step that sees it. */
  arrivalUs: f64;
  /** It is not admitted from then on; infinity: always. */
  deadlineUs: f64;
  /** Place in the waiting queue, kept across preemption (LongestPrefix: as last ordered). */
  key: u64;
  /** Order of arrival. */
  order: u64;
  generation: u32;
  state: u32;
  promptTokens: u32;
  maxNewTokens: u32;
  generated: u32;
  /** Handle of the sequence while running. */
  sequence: u32;
  namespace: u32;
  tenant: u32;
  priority: u32;
  /** Prompt tokens found in the cache at the first admission. */
  cachedTokens: u32;
  preemptions: u32;
  /** Row of the plan in the making or in flight, plus 1; 0 = none. */
  planRow: u32;
  /** Ends at the next commit or abandon. */
  aborted: u32;
  /** Admitted by the step in flight. */
  admittedNow: u32;
  nextFree: u32;
  pageCount: u32;
  /** Position in the arrivals heap. */
  heapIndex: u32;
  /** Step in which its place was last computed. */
  orderedIn: u32;
  /** Most slots that its longest lane holds once its prompt is computed; 0: it keeps every token. */
  peakSlots: u32;
  /** Fewest tokens that its last chunk should have. */
  lastChunk: u32;
  /** Most prompt tokens that a step gives it; 0: as many as the scheduler allows. */
  chunkTokens: u32;
  /** SHARE, KEEP (lossy.ts). */
  laneFlags: u32;
  /** Handle of a host's sequence that it goes on with, or 0. */
  adopted: u32;
  /** Blocks of its tenant's own that were forgotten for it. */
  evictedOwn: u32;
  /** Blocks that its prompt takes when it is computed layer by layer in one step; 0: those of all its tokens. */
  prefillBlocks: u32;
  /** The marks of its prompt (paging/marks.ts), 0: none. */
  marks: u32;
  /** PinState that its prompt gets once it is computed, 0: none; then, in its place, its handle or a refusal. */
  pinState: u32;
  pinPriority: u32;
  pin: i32;
  pinForUs: f64;
  /** Tokens that it is expected to generate yet; of use to ShortestFirst. */
  predictedTokens: u32;
  /** 1: it stays, idle, when its answer is complete. */
  turns: u32;
  /**
   * With groups: 1 + the blocks that there were for it when it could not go on with them though nobody else held any; 0: that
   * has not happened. With no more it would come to the same point again.
   */
  stuck: u32;
}


@unmanaged
export class Tenant {
  /** Virtual counter: weighted tokens served, lifted when it comes back after a pause. */
  counter: f64;
  /** Requests of it that wait. */
  waiting: u32;
  /** Step in which its quota has refused a request: the others of it wait too. */
  passedIn: u32;
  /** Step in which `urgentBlocks` was counted last. */
  urgentIn: u32;
  /** Blocks for those of it that wait, as they make room (urgency.ts); NONE: its quota keeps one of them out. */
  urgentBlocks: u32;
}

// @ts-ignore: decorator
@inline
export function tenantOf(s: Scheduler, tenant: u32): Tenant {
  return changetype<Tenant>(<usize>s.tenants + <usize>tenant * offsetof<Tenant>());
}

// @ts-ignore: decorator
@inline
export function request(s: Scheduler, slot: u32): Request {
  return changetype<Request>(<usize>s.requests + <usize>slot * offsetof<Request>());
}

/** A request's handle. */
// @ts-ignore: decorator
@inline
export function handleOf(s: Scheduler, slot: u32): u32 {
  return (request(s, slot).generation << SLOT_BITS) | slot;
}

/** Whether the handle names a live request that has not been aborted. */
export function isLive(s: Scheduler, handle: u32): bool {
  const slot = handle & SLOT_MASK;
  if (slot >= s.maxRequests) return false;
  const r = request(s, slot);
  return r.state != State.Free && r.generation == handle >> SLOT_BITS && r.aborted == 0;
}

// @ts-ignore: decorator
@inline
export function runningAt(s: Scheduler, index: u32): u32 {
  return load<u32>(<usize>s.running + ((<usize>index) << 2));
}

// @ts-ignore: decorator
@inline
export function setRunning(s: Scheduler, index: u32, slot: u32): void {
  store<u32>(<usize>s.running + ((<usize>index) << 2), slot);
}

/** Id of the step behind the last one. */
// @ts-ignore: decorator
@inline
export function nextStepId(s: Scheduler): u32 {
  return s.stepId == i32.MAX_VALUE ? 1 : s.stepId + 1;
}

/** Tokens of a request so far: prompt and generated. */
// @ts-ignore: decorator
@inline
export function knownTokens(r: Request): u32 {
  return r.promptTokens + r.generated;
}

// @ts-ignore: decorator
@inline
export function pageStrideFor(maxSequenceTokens: u32): u32 {
  return (maxSequenceTokens + PAGE_TOKENS - 1) >> PAGE_SHIFT;
}

// @ts-ignore: decorator
@inline
function align(bytes: u64): u64 {
  return (bytes + 63) & ~63;
}

/** Exact bytes of a scheduler of this shape. */
export function schedulerBytes(
  kv: KvCache,
  maxRequests: u32,
  maxRunning: u32,
  maxBatchTokens: u32,
  tokenCapacity: u32,
  tenants: u32,
): u64 {
  const pageCount = <u64>pageStrideFor(tokenCapacity);
  const index = indexBytes(indexNodesFor(maxRequests, 4));
  return (
    align(offsetof<Scheduler>()) +
    align(<u64>maxRequests * offsetof<Request>()) +
    align(<u64>maxRequests * pageStrideFor(kv.maxSequenceTokens) * 4) +
    align(pageCount * PAGE_TOKENS * 4) +
    align(pageCount * 4) +
    align(<u64>maxRunning * 4) +
    align(<u64>maxRequests * 4) +
    2 * align(index) +
    align(<u64>tenants * offsetof<Tenant>()) +
    align(planBytes(maxRequests, maxRunning, maxBatchTokens)) +
    align(<u64>maxRunning * 8)
  );
}

/** Sets shape and section addresses; the sections' contents are the owners' to fill. */
export function schedulerLayOut(
  s: Scheduler,
  kv: KvCache,
  maxRequests: u32,
  maxRunning: u32,
  maxBatchTokens: u32,
  tokenCapacity: u32,
  tenants: u32,
): void {
  s.kv = kv;
  s.maxRequests = maxRequests;
  s.maxRunning = maxRunning;
  s.maxBatchTokens = maxBatchTokens;
  s.pageStride = pageStrideFor(kv.maxSequenceTokens);
  s.pageCount = pageStrideFor(tokenCapacity);
  const index = align(indexBytes(indexNodesFor(maxRequests, 4)));
  let at = changetype<usize>(s) + <usize>align(offsetof<Scheduler>());
  s.requests = <u32>at;
  at += <usize>align(<u64>maxRequests * offsetof<Request>());
  s.pageRows = <u32>at;
  at += <usize>align(<u64>maxRequests * s.pageStride * 4);
  s.pages = <u32>at;
  at += <usize>align(<u64>s.pageCount * PAGE_TOKENS * 4);
  s.freePages = <u32>at;
  at += <usize>align(<u64>s.pageCount * 4);
  s.running = <u32>at;
  at += <usize>align(<u64>maxRunning * 4);
  s.arrivals = <u32>at;
  at += <usize>align(<u64>maxRequests * 4);
  s.waiting = <u32>at;
  at += <usize>index;
  s.ids = <u32>at;
  at += <usize>index;
  s.tenants = <u32>at;
  s.tenantCount = tenants;
  at += <usize>align(<u64>tenants * offsetof<Tenant>());
  s.plan = <u32>at;
  at += <usize>align(planBytes(maxRequests, maxRunning, maxBatchTokens));
  s.results = <u32>at;
}

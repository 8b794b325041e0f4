/**
 * Request table: submit, end, and the life cycle in between.
 *
 *   submit -> Arriving -> Waiting -> Running -> ended, or Idle until its next turn (turns.ts)
 *                            ^          |
 *                            +----------+  preempted: blocks given back, tokens kept, place in the queue kept
 *
 * `submit` refuses whatever could never run, so that every accepted request ends.
 */
import { indexDelete } from "../index/delete";
import { indexPut } from "../index/put";
import { indexFind } from "../index/read";
import { peakBlocks } from "../paging/groups";
import { MAX_GENERATION, MAX_NAMESPACE, NONE } from "../paging/layout";
import { dropList } from "../paging/marks";
import { pinsOf } from "../paging/pin-counts";
import { PinState } from "../paging/pins";
import { mostBlocks } from "../paging/quotas";
import { close, isTenant } from "../paging/sequences";
import {
  DUPLICATE_ID,
  EMPTY_PROMPT,
  INVALID_ARGUMENT,
  INVALID_TIME,
  INVALID_TOKEN,
  OK,
  OUT_OF_REQUESTS,
  OUT_OF_TOKENS,
  POOL_TOO_SMALL,
  QUOTA_EXCEEDED,
  Status,
  TOO_LONG,
} from "../memory/status";
import { pushArrival } from "./arrivals";
import { clearDrafts } from "./drafts";
import { handleOf, MAX_PRIORITY, request, Scheduler, State } from "./layout";
import { enqueueArrived } from "./queue";
import { endCopy, leaveSequence } from "./swap";
import { pagesFor, resizePages, tokensBelow, writeTokens } from "./tokens";

export function requestsCreate(s: Scheduler): void {
  for (let slot: u32 = 0; slot < s.maxRequests; slot++) {
    const r = request(s, slot);
    r.state = State.Free;
    r.generation = 0;
    r.nextFree = slot + 1 == s.maxRequests ? NONE : slot + 1;
  }
  s.freeRequest = 0;
  s.runningCount = 0;
  s.arrivalCount = 0;
  s.waitingCount = 0;
}

// @ts-ignore: decorator
@inline
export function validTime(us: f64): bool {
  return us >= 0 && us < Infinity;
}

/** OK, or why a request of so many tokens could never run, prompt and new ones. */
export function everFits(s: Scheduler, tenant: u32, total: u64): Status {
  if (total > <u64>s.kv.maxSequenceTokens) return TOO_LONG;
  // The last token generated is never fed back, so its K and V need no slot.
  const tokens = <u32>total - 1;
  const blocks = peakBlocks(s.kv, tokens);
  const pinned = s.kv.pins == 0 ? 0 : pinsOf(s.kv).limit;
  if (blocks > s.kv.blockCount - pinned) return POOL_TOO_SMALL;
  if (!isTenant(s.kv, tenant)) return INVALID_ARGUMENT;
  if (s.kv.accounts != 0 && blocks > mostBlocks(s.kv, tenant)) return QUOTA_EXCEEDED;
  return OK;
}

/** OK, or why a request like this can never be accepted (or not now). Changes nothing. */
function admissible(
  s: Scheduler,
  id: u64,
  promptPtr: usize,
  promptTokens: u32,
  maxNewTokens: u32,
  namespace: u32,
  tenant: u32,
  priority: u32,
  arrivalUs: f64,
  deadlineUs: f64,
): Status {
  if (promptTokens == 0) return EMPTY_PROMPT;
  if (
    maxNewTokens == 0 ||
    namespace > MAX_NAMESPACE ||
    priority > MAX_PRIORITY ||
    tenant >= s.tenantCount ||
    id == u64.MAX_VALUE
  ) {
    return INVALID_ARGUMENT;
  }
  if (!validTime(arrivalUs) || !(deadlineUs >= 0)) return INVALID_TIME;
  const total = <u64>promptTokens + <u64>maxNewTokens;
  const status = everFits(s, tenant, total);
  if (status != OK) return status;
  if (!tokensBelow(promptPtr, promptTokens, s.vocabSize)) return INVALID_TOKEN;
  if (id != 0 && indexFind(s.ids, id) != 0) return DUPLICATE_ID;
  if (s.freeRequest == NONE) return OUT_OF_REQUESTS;
  if (pagesFor(<u32>total) > s.freePageCount) return OUT_OF_TOKENS;
  return OK;
}

/** Accepts a request and returns its handle, or refuses it. `id` 0 means none, `deadlineUs` infinity too. */
export function submit(
  s: Scheduler,
  id: u64,
  promptPtr: usize,
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
  const status = admissible(
    s,
    id,
    promptPtr,
    promptTokens,
    maxNewTokens,
    namespace,
    tenant,
    priority,
    arrivalUs,
    deadlineUs,
  );
  if (status != OK) return status;
  if (peakSlots != 0 && s.kv.groups != 0) return INVALID_ARGUMENT;
  const slot = s.freeRequest;
  const r = request(s, slot);
  s.freeRequest = r.nextFree;
  r.id = id;
  r.arrivalUs = arrivalUs;
  r.deadlineUs = deadlineUs;
  r.generation = r.generation == MAX_GENERATION ? 1 : r.generation + 1;
  r.state = State.Arriving;
  r.promptTokens = promptTokens;
  r.maxNewTokens = maxNewTokens;
  r.generated = 0;
  r.sequence = NONE;
  r.namespace = namespace;
  r.tenant = tenant;
  r.priority = priority;
  r.cachedTokens = 0;
  r.preemptions = 0;
  r.planRow = 0;
  r.aborted = 0;
  r.admittedNow = 0;
  r.orderedIn = 0;
  r.peakSlots = min(peakSlots, promptTokens + maxNewTokens - 1);
  r.lastChunk = lastChunk;
  r.chunkTokens = chunkTokens;
  r.predictedTokens = 0;
  r.laneFlags = 0;
  r.adopted = 0;
  r.evictedOwn = 0;
  r.prefillBlocks = 0;
  r.marks = 0;
  r.pinState = PinState.Free;
  r.pin = 0;
  r.turns = 0;
  r.stuck = 0;
  resizePages(s, slot, r, pagesFor(promptTokens + maxNewTokens));
  writeTokens(s, slot, 0, promptPtr, promptTokens);
  if (id != 0) indexPut(s.ids, id, slot);
  if (arrivalUs > s.nowUs) {
    s.order += 1;
    r.key = s.order;
    pushArrival(s, slot);
  } else {
    enqueueArrived(s, slot);
  }
  return <i32>handleOf(s, slot);
}

/** Frees what a request holds. The caller has taken it out of the list it was in. */
export function endRequest(s: Scheduler, slot: u32): void {
  const r = request(s, slot);
  if (r.sequence != NONE) leaveSequence(s, slot, r);
  if (r.adopted != 0) close(s.kv, r.adopted);
  r.adopted = 0;
  if (s.tier != 0) endCopy(s, slot);
  if (r.marks != 0) dropList(s.kv, r.marks);
  resizePages(s, slot, r, 0);
  clearDrafts(s, slot);
  if (r.id != 0) indexDelete(s.ids, r.id);
  r.state = State.Free;
  r.aborted = 0;
  r.planRow = 0;
  r.nextFree = s.freeRequest;
  s.freeRequest = slot;
}

/**
 * Commit, abandon, abort: the only places where a step in flight ends.
 *
 * Results are checked whole before the first one is entered. A request aborted while a step that reads its
 * blocks is in flight ends with that step, never before it.
 */
import { revertCopies, settleCopies } from "../paging/copies";
import { blocksFor, NONE, sequenceOf, SLOT_MASK } from "../paging/layout";
import { append, unreserve } from "../paging/growth";
import { uncountLookup } from "../paging/sequences";
import {
  COPIES_PENDING,
  INVALID_ARGUMENT,
  INVALID_TIME,
  INVALID_TOKEN,
  OK,
  Status,
  UNKNOWN_REQUEST,
  UNKNOWN_STEP,
} from "../memory/status";
import { removeArrival } from "./arrivals";
import { acceptedAt, acceptedValid, enterDrafts } from "./drafts";
import { recordOutcome } from "./emit";
import { dropPin, pinPrompt } from "./isolation";
import { countPrompt, countToken } from "./fairness";
import { isLive, knownTokens, Request, request, runningAt, Scheduler, setRunning, State } from "./layout";
import { keepSequence } from "./lossy";
import { OutcomeKind, Phase, StepPlan, word } from "./plan-layout";
import { dequeue, requeue } from "./queue";
import { endRequest, validTime } from "./requests";
import { compactRunning } from "./step";
import { beginTransfers, leaveSequence, tierOf } from "./swap";
import { noteStep } from "./swap-in";
import { tokenPtr } from "./tokens";
import { endTurn } from "./turns";

/**
 * Enters the results of the step in flight: for each sampling row one token and whether the request ends with
 * it (the results region), and how many drafts before it were right (drafts.ts). Requests also end when they have all the tokens they asked for.
 */
export function commit(s: Scheduler, stepId: u32, nowUs: f64): Status {
  if (s.stepInFlight == 0 || stepId != s.stepId) return UNKNOWN_STEP;
  if (!validTime(nowUs)) return INVALID_TIME;
  if (s.tier != 0 && tierOf(s).owed != 0) return COPIES_PENDING;
  const plan = changetype<StepPlan>(s.plan);
  for (let i: u32 = 0; i < plan.samplingRows; i++) {
    if (word(s.results, i) >= s.vocabSize) return INVALID_TOKEN;
  }
  if (s.drafts != 0 && !acceptedValid(s, plan)) return INVALID_ARGUMENT;
  settleCopies(s.kv);
  if (s.tier != 0) {
    if (plan.rows != 0) noteStep(s, nowUs);
    beginTransfers(s);
  }
  let sampled: u32 = 0;
  let ended: u32 = 0;
  for (let row: u32 = 0; row < plan.rows; row++) {
    const slot = word(plan.slotOf, row);
    const r = request(s, slot);
    const phase = word(plan.phases, row);
    const drafts: u32 = phase == Phase.Decode ? word(plan.newTokens, row) - 1 : 0;
    const wrong = drafts == 0 ? 0 : drafts - acceptedAt(s, sampled);
    const tokens = word(plan.newTokens, row) - wrong;
    r.planRow = 0;
    r.admittedNow = 0;
    append(s.kv, r.sequence, <usize>plan.tokens + ((<usize>word(plan.tokenStart, row)) << 2), tokens);
    if (wrong != 0) unreserve(s.kv, r.sequence, blocksFor(s.kv, sequenceOf(s.kv, r.sequence).length));
    if (phase == Phase.Decode && s.drafts != 0) enterDrafts(s, slot, r, drafts, drafts - wrong);
    if (phase != Phase.PrefillChunk) {
      if (r.pinState != 0 && r.aborted == 0) pinPrompt(s, r, nowUs);
      ended += u32(
        enterToken(s, plan, slot, r, word(s.results, sampled), word(s.results, s.maxRunning + sampled)),
      );
      sampled += 1;
    }
  }
  endAborted(s, ended);
  s.stepInFlight = 0;
  return OK;
}

/** Records a sampled token; returns whether the request has ended with it. */
// @ts-ignore: decorator
@inline
function enterToken(s: Scheduler, plan: StepPlan, slot: u32, r: Request, token: u32, finish: u32): bool {
  if (r.aborted != 0) return false;
  store<u32>(tokenPtr(s, slot, knownTokens(r)), token);
  r.generated += 1;
  countToken(s, r);
  if (finish == 0 && r.generated < r.maxNewTokens) return false;
  recordOutcome(s, plan, slot, OutcomeKind.Finished, 0);
  if (r.turns != 0) {
    endTurn(s, slot, r);
    return true;
  }
  if (r.laneFlags != 0) keepSequence(s, r);
  endRequest(s, slot);
  return true;
}

/** Ends what was aborted in flight and takes everything that has ended out of the running list. */
function endAborted(s: Scheduler, ended: u32): void {
  let gaps = ended;
  for (let i: u32 = 0; i < s.runningCount; i++) {
    const slot = runningAt(s, i);
    const r = request(s, slot);
    if (r.state == State.Running && r.aborted != 0) {
      dropPin(s, r);
      endRequest(s, slot);
      gaps += 1;
    }
    if (r.state != State.Running) setRunning(s, i, NONE);
  }
  if (gaps != 0) compactRunning(s);
}

/**
 * The step in flight was not executed: every row's blocks go back to what they were before it, and requests
 * that it admitted return to the queue. Preemptions stand, and transfers that it began go on.
 */
export function abandon(s: Scheduler, stepId: u32): Status {
  if (s.stepInFlight == 0 || stepId != s.stepId) return UNKNOWN_STEP;
  const plan = changetype<StepPlan>(s.plan);
  revertCopies(s.kv);
  if (s.tier != 0) beginTransfers(s);
  for (let row = plan.rows; row > 0; row--) {
    const slot = word(plan.slotOf, row - 1);
    const r = request(s, slot);
    r.planRow = 0;
    if (r.state != State.Running) {
      if (r.aborted != 0) end(s, slot, r);
    } else if (r.admittedNow != 0) withdraw(s, slot, r);
    else unreserve(s.kv, r.sequence, word(plan.keepBlocks, row - 1));
  }
  endAborted(s, 1);
  s.stepInFlight = 0;
  return OK;
}

/** Undoes an admission and what was counted of it; an aborted request is left for `endAborted`. */
function withdraw(s: Scheduler, slot: u32, r: Request): void {
  countPrompt(s, r, -1);
  if (r.admittedNow == 1) uncountLookup(s.kv, r.sequence, knownTokens(r));
  r.admittedNow = 0;
  if (r.aborted != 0) return;
  leaveSequence(s, slot, r);
  requeue(s, slot);
}

/** Ends a request: at once, or with the step in flight that computes it. */
export function abort(s: Scheduler, handle: u32): Status {
  if (!isLive(s, handle)) return UNKNOWN_REQUEST;
  const slot = handle & SLOT_MASK;
  const r = request(s, slot);
  if (s.stepInFlight != 0 && r.planRow != 0) {
    r.aborted = 1;
    return OK;
  }
  end(s, slot, r);
  return OK;
}

/** A request leaves the list that it is in, and is no more. */
function end(s: Scheduler, slot: u32, r: Request): void {
  if (r.state == State.Arriving) removeArrival(s, slot);
  else if (r.state == State.Waiting) dequeue(s, slot);
  else if (r.state == State.Loading) s.loadingCount -= 1;
  else if (r.state == State.Running) leaveRunning(s, slot);
  dropPin(s, r);
  endRequest(s, slot);
}

/** Takes one request out of the running list; others that were aborted in flight stay until their step ends. */
function leaveRunning(s: Scheduler, slot: u32): void {
  for (let i: u32 = 0; i < s.runningCount; i++) {
    if (runningAt(s, i) == slot) setRunning(s, i, NONE);
  }
  compactRunning(s);
}

/** Tokens of a live request whose K and V exist. */
export function computedTokens(s: Scheduler, r: Request): u32 {
  if (r.sequence == NONE || (r.state == State.Loading && s.kv.groups != 0)) return 0;
  return sequenceOf(s.kv, r.sequence).length;
}

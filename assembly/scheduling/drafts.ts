/**
 * Drafts: tokens that somebody guesses a request will generate next, to be verified in one step.
 *
 *   header    (Drafts)
 *   counts    [maxRequests] u32          draft tokens of each request
 *   tokens    [maxRequests][most] u32
 *   accepted  [maxRunning] u32           the host writes before commit how many drafts of a sampling row were right
 *
 * A decode row feeds the last token and k drafts: its 1 + k tokens get slots behind the sequence (lookahead), and the
 * executor picks a token after each of them. Drafts are right up to the first that differs from what was picked; these
 * are entered, with the token picked after them, and the lookahead blocks of the others go back. A wrong draft is never
 * part of a sequence, so it is never published. Source of the idea: "Fast Inference from Transformers via Speculative
 * Decoding" (arXiv 2211.17192); here a draft counts as right only when plain decoding would have picked it.
 *
 * Invariants:
 * 1. Only a request that decodes has drafts; together with what it has generated they are fewer than it may generate.
 * 2. Drafts take what a step has left over: nobody is preempted, and no chunk or admission is smaller, because of them.
 *
 * Drafts stay until a commit enters a token of their request, it is preempted or it ends: an abandoned step keeps them.
 */
import { INVALID_ARGUMENT, INVALID_TOKEN, STEP_IN_FLIGHT, UNKNOWN_REQUEST } from "../memory/status";
import { groupsOf } from "../paging/groups";
import { NONE, sequenceOf, SLOT_MASK } from "../paging/layout";
import { reserve } from "../paging/growth";
import { countToken } from "./fairness";
import { isLive, knownTokens, Request, request, Scheduler, State } from "./layout";
import { Phase, setWord, StepPlan, word } from "./plan-layout";
import { tokensBelow, writeTokens } from "./tokens";

// @ts-ignore: decorator
@inline export const MAX_DRAFT_TOKENS: u32 = 256;


@unmanaged
export class Drafts {
  /** Most draft tokens of a request in one step. */
  most: u32;
  // Addresses of the sections.
  counts: u32;
  tokens: u32;
  accepted: u32;
  // Draft tokens since creation: fed to the executor, and found right.
  fed: u64;
  right: u64;
}

// @ts-ignore: decorator
@inline
function align(bytes: u64): u64 {
  return (bytes + 63) & ~63;
}

// @ts-ignore: decorator
@inline
function draftsOf(s: Scheduler): Drafts {
  return changetype<Drafts>(<usize>s.drafts);
}

/** Exact bytes of the drafts of a scheduler. */
export function draftsBytes(s: Scheduler, most: u32): u64 {
  return (
    align(offsetof<Drafts>()) +
    align(<u64>s.maxRequests * 4) +
    align(<u64>s.maxRequests * most * 4) +
    align(<u64>s.maxRunning * 4)
  );
}

/** Gives a scheduler room for drafts in a zeroed region of `draftsBytes` bytes. */
export function draftsCreate(s: Scheduler, at: usize, most: u32): void {
  s.drafts = <u32>at;
  const drafts = draftsOf(s);
  drafts.most = most;
  drafts.counts = <u32>(at + <usize>align(offsetof<Drafts>()));
  drafts.tokens = drafts.counts + <u32>align(<u64>s.maxRequests * 4);
  drafts.accepted = drafts.tokens + <u32>align(<u64>s.maxRequests * most * 4);
}

/** Draft tokens of the request in `slot`. */
// @ts-ignore: decorator
@inline
export function draftCount(s: Scheduler, slot: u32): u32 {
  return s.drafts == 0 ? 0 : word(draftsOf(s).counts, slot);
}

// @ts-ignore: decorator
@inline
export function clearDrafts(s: Scheduler, slot: u32): void {
  if (s.drafts != 0) setWord(draftsOf(s).counts, slot, 0);
}

/** Address of the drafts of the request in `slot`. */
// @ts-ignore: decorator
@inline
export function draftPtr(s: Scheduler, slot: u32): usize {
  const drafts = draftsOf(s);
  return <usize>drafts.tokens + ((<usize>slot * <usize>drafts.most) << 2);
}

/** Most drafts that the request can make use of now; 0 unless its next row feeds its last token alone. */
function roomFor(s: Scheduler, r: Request): u32 {
  if (r.state != State.Running || r.generated == 0 || r.peakSlots != 0) return 0;
  // A recurrent state is overwritten: a wrong draft could not be taken back.
  if (s.kv.groups != 0 && groupsOf(s.kv).recurrent != 0) return 0;
  if (knownTokens(r) - sequenceOf(s.kv, r.sequence).length != 1) return 0;
  return min(draftsOf(s).most, r.maxNewTokens - r.generated - 1);
}

/**
 * Replaces a request's drafts by the first of `count` tokens at `ptr`, as many as it can make use of: none unless it
 * decodes. Returns how many.
 */
export function propose(s: Scheduler, handle: u32, ptr: usize, count: u32): i32 {
  if (s.drafts == 0) return INVALID_ARGUMENT;
  if (!isLive(s, handle)) return UNKNOWN_REQUEST;
  if (s.stepInFlight != 0) return STEP_IN_FLIGHT;
  if (!tokensBelow(ptr, count, s.vocabSize)) return INVALID_TOKEN;
  const slot = handle & SLOT_MASK;
  const kept = min(count, roomFor(s, request(s, slot)));
  setWord(draftsOf(s).counts, slot, kept);
  memory.copy(draftPtr(s, slot), ptr, (<usize>kept) << 2);
  return <i32>kept;
}

/** Adds drafts to the decode rows, in order, while budget and blocks last. */
export function planDrafts(s: Scheduler, plan: StepPlan): void {
  for (let row: u32 = 0; row < plan.rows && s.budgetLeft > 0; row++) {
    const slot = word(plan.slotOf, row);
    if (slot == NONE) continue;
    let count = min(draftCount(s, slot), s.budgetLeft);
    while (count > 0 && reserve(s.kv, request(s, slot).sequence, 1 + count) < 0) count -= 1;
    setWord(plan.newTokens, row, word(plan.newTokens, row) + count);
    s.budgetLeft -= count;
  }
}

/** Right drafts of the `sample`-th sampling row, as the host says. */
// @ts-ignore: decorator
@inline
export function acceptedAt(s: Scheduler, sample: u32): u32 {
  return word(draftsOf(s).accepted, sample);
}

/** Whether no row has more right drafts than drafts. */
export function acceptedValid(s: Scheduler, plan: StepPlan): bool {
  let sample: u32 = 0;
  for (let row: u32 = 0; row < plan.rows; row++) {
    const phase = word(plan.phases, row);
    if (phase == Phase.PrefillChunk) continue;
    const drafts: u32 = phase == Phase.Decode ? word(plan.newTokens, row) - 1 : 0;
    if (acceptedAt(s, sample) > drafts) return false;
    sample += 1;
  }
  return true;
}

/** Enters the right ones of a row's `fed` drafts as generated; the request has no drafts afterwards. */
export function enterDrafts(s: Scheduler, slot: u32, r: Request, fed: u32, right: u32): void {
  const drafts = draftsOf(s);
  drafts.fed += fed;
  drafts.right += right;
  setWord(drafts.counts, slot, 0);
  if (r.aborted != 0) return;
  writeTokens(s, slot, knownTokens(r), draftPtr(s, slot), right);
  r.generated += right;
  for (let i: u32 = 0; i < right; i++) countToken(s, r);
}

/** Whether the drafts of the request in `slot` are such as it may have. */
export function validDrafts(s: Scheduler, slot: u32): bool {
  const count = draftCount(s, slot);
  return count == 0 || count <= roomFor(s, request(s, slot));
}

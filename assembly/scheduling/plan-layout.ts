/**
 * StepPlan: one step's decisions as flat arrays. docs/abi.md documents the same words for hosts.
 *
 * The header names the address of every section; sections have the capacity of the scheduler and are
 * rewritten by each step. `slotOf`, `keepBlocks` are the scheduler's own notes about the rows.
 */

@unmanaged
export class StepPlan {
  stepId: u32;
  rows: u32;
  decodeRows: u32;
  samplingRows: u32;
  totalTokens: u32;
  transferCount: u32;
  outcomeCount: u32;
  tableWords: u32;
  requests: u32;
  sequences: u32;
  phases: u32;
  newTokens: u32;
  computedBefore: u32;
  layerLo: u32;
  layerHi: u32;
  tokenStart: u32;
  tokens: u32;
  slots: u32;
  tableStart: u32;
  tableCount: u32;
  tables: u32;
  transfers: u32;
  outcomes: u32;
  statistics: u32;
  experts: u32;
  running: u32;
  waiting: u32;
  freeBlocks: u32;
  evictableBlocks: u32;
  slotOf: u32;
  keepBlocks: u32;
  reserved: u32;
}

export const enum Phase {
  PrefillChunk = 0,
  Decode = 1,
  LastChunk = 2,
}

export const enum OutcomeKind {
  Finished = 1,
  Preempted = 2,
  Rejected = 3,
  /** Its deadline came while it waited. */
  Expired = 4,
}


@unmanaged
export class Outcome {
  request: u32;
  kind: u32;
  /** Rejected: a Status. */
  code: i32;
  generated: u32;
  cachedTokens: u32;
  preemptions: u32;
  evictedOwn: u32;
  /** Preempted: tokens that the host tier has, or is being sent. Else the handle of its prompt's pin, a refusal, or 0. */
  pinOrSwapped: i32;
}

/** Row arrays of u32[maxRunning] besides tokenStart, which has one entry more. */
// @ts-ignore: decorator
@inline const ROW_ARRAYS: u64 = 11;

// @ts-ignore: decorator
@inline
function align(bytes: u64): u64 {
  return (bytes + 63) & ~63;
}

// @ts-ignore: decorator
@inline
function outcomeCapacity(maxRequests: u32, maxRunning: u32): u64 {
  return <u64>maxRequests + 2 * <u64>maxRunning;
}

export function planBytes(maxRequests: u32, maxRunning: u32, maxBatchTokens: u32): u64 {
  return (
    align(offsetof<StepPlan>()) +
    ROW_ARRAYS * align(<u64>maxRunning * 4) +
    align((<u64>maxRunning + 1) * 4) +
    2 * align(<u64>maxBatchTokens * 4) +
    align(outcomeCapacity(maxRequests, maxRunning) * offsetof<Outcome>())
  );
}

/** Sets the section addresses of a plan in a zeroed region of `planBytes` bytes. */
export function planLayOut(
  plan: StepPlan,
  maxRunning: u32,
  maxBatchTokens: u32,
  tables: u32,
  tableWords: u32,
  transfers: u32,
): void {
  const row = <u32>align(<u64>maxRunning * 4);
  const batch = <u32>align(<u64>maxBatchTokens * 4);
  let at = <u32>changetype<usize>(plan) + <u32>align(offsetof<StepPlan>());
  plan.requests = at;
  plan.sequences = at + row;
  plan.phases = at + 2 * row;
  plan.newTokens = at + 3 * row;
  plan.computedBefore = at + 4 * row;
  plan.layerLo = at + 5 * row;
  plan.layerHi = at + 6 * row;
  plan.tableStart = at + 7 * row;
  plan.tableCount = at + 8 * row;
  plan.slotOf = at + 9 * row;
  plan.keepBlocks = at + 10 * row;
  at += 11 * row;
  plan.tokenStart = at;
  at += <u32>align((<u64>maxRunning + 1) * 4);
  plan.tokens = at;
  plan.slots = at + batch;
  plan.outcomes = at + 2 * batch;
  plan.tables = tables;
  plan.tableWords = tableWords;
  plan.transfers = transfers;
}

// @ts-ignore: decorator
@inline
export function word(section: u32, index: u32): u32 {
  return load<u32>(<usize>section + ((<usize>index) << 2));
}

// @ts-ignore: decorator
@inline
export function setWord(section: u32, index: u32, value: u32): void {
  store<u32>(<usize>section + ((<usize>index) << 2), value);
}

// @ts-ignore: decorator
@inline
export function outcomeAt(plan: StepPlan, index: u32): Outcome {
  return changetype<Outcome>(<usize>plan.outcomes + <usize>index * offsetof<Outcome>());
}

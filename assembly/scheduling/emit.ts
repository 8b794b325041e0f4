/** Writes the plan's rows out and records outcomes. */
import { KvCache, NONE, sequenceOf, SLOT_MASK, slotsOf, tableOf } from "../paging/layout";
import { draftPtr } from "./drafts";
import { handleOf, knownTokens, Request, request, Scheduler, State } from "./layout";
import { OutcomeKind, outcomeAt, Phase, setWord, StepPlan, word } from "./plan-layout";
import { emitTransfers, swappedTokens } from "./swap";
import { readTokens } from "./tokens";

export function recordOutcome(s: Scheduler, plan: StepPlan, slot: u32, kind: OutcomeKind, code: i32): void {
  const r = request(s, slot);
  const outcome = outcomeAt(plan, plan.outcomeCount);
  plan.outcomeCount += 1;
  outcome.request = handleOf(s, slot);
  outcome.kind = kind;
  outcome.code = code;
  outcome.generated = r.generated;
  outcome.cachedTokens = r.cachedTokens;
  outcome.preemptions = r.preemptions;
  outcome.evictedOwn = r.evictedOwn;
  if (kind != OutcomeKind.Preempted) outcome.pinOrSwapped = r.pin;
  else outcome.pinOrSwapped = s.tier != 0 ? swappedTokens(s, slot) : 0;
}

/** Physical slots of `count` tokens from `position` on. */
// @ts-ignore: decorator
@inline
function writeSlots(kv: KvCache, table: usize, position: u32, count: u32, out: usize): void {
  const mask = kv.blockSize - 1;
  for (let i: u32 = 0; i < count; i++) {
    const at = position + i;
    const id = load<u32>(table + ((<usize>(at >> kv.blockShift)) << 2));
    store<u32>(out + ((<usize>i) << 2), (id << kv.blockShift) | (at & mask));
  }
}

// @ts-ignore: decorator
@inline
function phaseOf(r: Request, left: u32, tokens: u32): Phase {
  if (tokens < left) return Phase.PrefillChunk;
  // A request admitted again with one token to compute comes behind the chunks: its row is a chunk like
  // theirs.
  return r.generated > 0 && left == 1 && r.admittedNow == 0 && r.state == State.Running
    ? Phase.Decode
    : Phase.LastChunk;
}

/** Drops the rows of preempted requests and fills every section from the rows that stay. */
export function emitPlan(s: Scheduler, plan: StepPlan): void {
  const kv = s.kv;
  let rows: u32 = 0;
  let start: u32 = 0;
  let decodeRows: u32 = 0;
  let samplingRows: u32 = 0;
  for (let staged: u32 = 0; staged < plan.rows; staged++) {
    const slot = word(plan.slotOf, staged);
    if (slot == NONE) continue;
    const r = request(s, slot);
    const tokens = word(plan.newTokens, staged);
    const sequence = sequenceOf(kv, r.sequence);
    const computed = r.state == State.Loading ? swappedTokens(s, slot) : sequence.length;
    const table = tableOf(kv, r.sequence & SLOT_MASK);
    const left = knownTokens(r) - computed;
    const phase = phaseOf(r, left, tokens);
    decodeRows += u32(phase == Phase.Decode);
    samplingRows += u32(phase != Phase.PrefillChunk);
    setWord(plan.slotOf, rows, slot);
    setWord(plan.newTokens, rows, tokens);
    setWord(plan.keepBlocks, rows, word(plan.keepBlocks, staged));
    setWord(plan.requests, rows, handleOf(s, slot));
    setWord(plan.sequences, rows, r.sequence);
    setWord(plan.phases, rows, phase);
    setWord(plan.computedBefore, rows, computed);
    setWord(plan.tokenStart, rows, start);
    setWord(plan.tableStart, rows, <u32>((table - <usize>kv.tables) >> 2));
    setWord(plan.tableCount, rows, sequence.blockCount);
    const to = <usize>plan.tokens + ((<usize>start) << 2);
    readTokens(s, slot, computed, min(tokens, left), to);
    if (tokens > left)
      memory.copy(to + ((<usize>left) << 2), draftPtr(s, slot), (<usize>(tokens - left)) << 2);
    // Lossy rows: places behind the longest lane; each lane's own places are the executor's to know.
    const slots = slotsOf(sequence) + computed - sequence.length;
    const slot0 = slots > sequence.reuse ? slots - sequence.reuse : 0;
    writeSlots(kv, table, slot0, tokens, <usize>plan.slots + ((<usize>start) << 2));
    r.planRow = rows + 1;
    start += tokens;
    rows += 1;
  }
  setWord(plan.tokenStart, rows, start);
  plan.stepId = s.stepId;
  plan.rows = rows;
  plan.decodeRows = decodeRows;
  plan.samplingRows = samplingRows;
  plan.totalTokens = start;
  plan.transferCount = kv.copyCount;
  plan.running = s.runningCount;
  if (s.tier != 0) emitTransfers(s, plan);
  plan.waiting = s.waitingCount;
  plan.freeBlocks = kv.freeCount;
  plan.evictableBlocks = kv.evictableCount;
}

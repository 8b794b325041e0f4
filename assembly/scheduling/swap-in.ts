/**
 * Swap-in, async or sync: when a request that is read back joins a batch ("FastSwitch", arXiv 2411.18424, multithreading swap
 * manager). Async: in the first step after its blocks have arrived; nobody waits for them. Sync: in the step that begins to
 * read them, whose batch waits; the request has its token a step earlier, everybody else's comes later.
 *
 * Adaptive, once a step: its loads are sync when the batch would have no rows without them, or when they are expected to
 * take at most half of a step. Expected: their blocks times the mean time a block of the last 16 loads (until there is one,
 * what the host has said). A step: from its plan to its commit, an average over steps with rows that began no load.
 *
 * A sync load's request is in the plan and still Loading, so that a step that is given up leaves it as an async one. Until all
 * of it has arrived the step cannot be committed, and when some is lost never: the host abandons it, and what has not
 * arrived is computed again.
 */
import { groupsRoom } from "../paging/group-tables";
import { SLOT_MASK, sequenceOf } from "../paging/layout";
import { copyAtIndex, HostTier, SwapIn, TransferOp } from "../paging/tiers/layout";
import { expectedUs, follow } from "../paging/tiers/times";
import { recordAt } from "../paging/tiers/transfers";
import { knownTokens, request, Scheduler } from "./layout";
import { StepPlan } from "./plan-layout";
import { addRow, chunkOf } from "./rows";
import { swappedTokens, tierOf } from "./swap";

/** The step in flight has been executed by `nowUs`. */
export function noteStep(s: Scheduler, nowUs: f64): void {
  const t = tierOf(s);
  if (t.toLoad == 0 && nowUs > s.nowUs)
    follow(changetype<usize>(t) + offsetof<HostTier>("stepUs"), nowUs - s.nowUs);
}

/** Whether the loads of the planned step are expected to take more than half of a step. */
// @ts-ignore: decorator
@inline
function isLong(t: HostTier): bool {
  return expectedUs(t) * <f64>(2 * t.toLoad) > t.stepUs;
}

/** The loads of the planned step join its batch, as far as its budget goes, or they do not. */
export function joinLoads(s: Scheduler, plan: StepPlan): void {
  const t = tierOf(s);
  if (t.toLoad == 0) return;
  if (t.swapIn == SwapIn.Adaptive && plan.rows != 0 && isLong(t)) return;
  let last: u32 = 0;
  for (let i: u32 = 0; i < t.recordCount; i++) {
    const record = recordAt(t, i);
    if (record.op != TransferOp.SwapIn || record.sequence == last) continue;
    last = record.sequence;
    const copy = copyAtIndex(t, last & SLOT_MASK);
    const slot = copy.owner;
    const r = request(s, slot);
    s.budgetLeft += 1; // kept since it began
    const sequence = sequenceOf(s.kv, r.sequence);
    let tokens = chunkOf(s, r, knownTokens(r) - swappedTokens(s, slot));
    if (s.kv.groups != 0) tokens = min(tokens, groupsRoom(s.kv, r.sequence & SLOT_MASK, sequence.length));
    if (tokens == 0) continue;
    addRow(s, plan, slot, tokens, sequence.blockCount);
    copy.awaited = 1;
    t.owed += 1;
    t.joins += 1;
  }
}

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
import { SLOT_MASK, sequenceOf } from "../paging/layout";
import { copyAtIndex, HostTier, NEWEST, SwapIn, TransferOp } from "../paging/tiers/layout";
import { recordAt } from "../paging/tiers/transfers";
import { knownTokens, request, Scheduler } from "./layout";
import { StepPlan } from "./plan-layout";
import { addRow, chunkOf } from "./step";
import { swappedTokens, tierOf } from "./swap";

/** Loads that the expectation goes by (section 4.3 there). */
// @ts-ignore: decorator
@inline const LOADS: u32 = 16;

/** The average at `mean` takes in another value; 0: it has none yet. */
export function follow(mean: usize, value: f64): void {
  const old = load<f64>(mean);
  store<f64>(mean, old == 0 ? value : old + NEWEST * (value - old));
}

// @ts-ignore: decorator
@inline
function loadPtr(t: HostTier, index: u32): usize {
  return changetype<usize>(t) + offsetof<HostTier>() + ((<usize>(index & (LOADS - 1))) << 2);
}

/** A load has taken `us` microseconds a block. */
export function noteLoad(t: HostTier, us: f64): void {
  follow(changetype<usize>(t) + offsetof<HostTier>("inUs"), us);
  store<f32>(loadPtr(t, t.loads), <f32>us);
  t.loads += 1;
}

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
  const count = min(t.loads, LOADS);
  let blockUs: f64 = 0;
  for (let i: u32 = 0; i < count; i++) blockUs += <f64>load<f32>(loadPtr(t, i));
  blockUs = count == 0 ? t.inUs : blockUs / <f64>count;
  return blockUs * <f64>(2 * t.toLoad) > t.stepUs;
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
    const tokens = chunkOf(s, r, knownTokens(r) - swappedTokens(s, slot));
    if (tokens == 0) continue;
    addRow(s, plan, slot, tokens, sequenceOf(s.kv, r.sequence).blockCount);
    copy.awaited = 1;
    t.owed += 1;
    t.joins += 1;
  }
}

/** Preemption: who gives up its blocks, and what it keeps. By recomputation, or by swap where there is a host tier. */
import { NONE } from "../paging/layout";
import { clearDrafts } from "./drafts";
import { recordOutcome } from "./emit";
import { Policy, request, runningAt, Scheduler, setRunning } from "./layout";
import { OutcomeKind, setWord, StepPlan, word } from "./plan-layout";
import { requeue } from "./queue";
import { leaveSequence, swapOut } from "./swap";

/**
 * Preempts the last admitted of the least urgent running requests, by deadline where the queue goes by deadline, else by
 * priority, unless it is as urgent as `above`: it gives back its blocks and its row, if it has one already, and keeps its
 * tokens and its place in the queue. Of one tenant,
 * unless `tenant` is NONE. Returns its position in the running list, or NONE.
 */
export function preemptLast(s: Scheduler, plan: StepPlan, above: f64, tenant: u32): u32 {
  let index: u32 = NONE;
  let worst = above;
  for (let i = s.runningCount; i > 0; i--) {
    const slot = runningAt(s, i - 1);
    if (slot == NONE) continue;
    const r = request(s, slot);
    if (tenant != NONE && r.tenant != tenant) continue;
    const urgency = s.policy == Policy.EarliestDeadline ? r.deadlineUs : <f64>r.priority;
    if (urgency > worst) {
      index = i - 1;
      worst = urgency;
    }
    if (s.policy == Policy.Fcfs) break;
  }
  if (index == NONE) return NONE;
  const slot = runningAt(s, index);
  const r = request(s, slot);
  setRunning(s, index, NONE);
  if (r.planRow != 0) {
    setWord(plan.slotOf, r.planRow - 1, NONE);
    s.budgetLeft += word(plan.newTokens, r.planRow - 1);
    r.planRow = 0;
  }
  if (s.tier != 0) swapOut(s, slot, r);
  leaveSequence(s, slot, r);
  clearDrafts(s, slot);
  r.preemptions += 1;
  s.preemptedInStep += 1;
  requeue(s, slot);
  recordOutcome(s, plan, slot, OutcomeKind.Preempted, 0);
  return index;
}

/** Rows of a plan: how many tokens a request is given in a step, and what is noted of it. */
import { Request, request, Scheduler } from "./layout";
import { setWord, StepPlan } from "./plan-layout";

/** Adds a row. `keepBlocks`: table entries that stay if the step is abandoned. */
export function addRow(s: Scheduler, plan: StepPlan, slot: u32, tokens: u32, keepBlocks: u32): void {
  const row = plan.rows;
  setWord(plan.slotOf, row, slot);
  setWord(plan.newTokens, row, tokens);
  setWord(plan.keepBlocks, row, keepBlocks);
  plan.rows = row + 1;
  request(s, slot).planRow = row + 1;
  s.budgetLeft -= tokens;
}

/** Most prompt tokens that a step may give a request: the least of its own limit, the scheduler's, and the budget. */
// @ts-ignore: decorator
@inline
function chunkLimit(s: Scheduler, r: Request): u32 {
  const most = s.maxChunkTokens == 0 ? s.maxBatchTokens : min(s.maxChunkTokens, s.maxBatchTokens);
  return r.chunkTokens == 0 ? most : min(most, r.chunkTokens);
}

/**
 * Tokens of a request's next chunk; 0: none in this step. What is measured of a prompt's last queries is measured in its
 * last chunk, so that one is not cut short: the chunk before it is, or it waits for a step that has room for it.
 */
export function chunkOf(s: Scheduler, r: Request, left: u32): u32 {
  const limit = chunkLimit(s, r);
  const most = min(min(limit, s.budgetLeft), left);
  if (most == left || left - most >= r.lastChunk) return most;
  if (left > r.lastChunk) return left - r.lastChunk;
  // Chunks are served in order of admission: one that fits beside all decodes has its turn.
  const fits = left + s.runningCount <= s.maxBatchTokens && left <= limit;
  return fits ? 0 : most;
}

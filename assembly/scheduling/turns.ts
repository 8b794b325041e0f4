/**
 * Requests of several turns: what has been computed for a conversation stays between its turns, in the host tier where
 * there is one.
 *
 *   Running --its answer is complete--> Idle --next turn--> Waiting --> (Loading -->) Running
 *
 * An idle request holds no device blocks: they are swapped out at once ("FastSwitch", arXiv 2411.18424, KV cache reuse
 * of conversations), beside the next batches, and its next turn is admitted as a request that has been preempted. Without
 * a tier its full blocks stay cached as those of any request do. Its tokens stay in the token store.
 */
import {
  EMPTY_PROMPT,
  INVALID_ARGUMENT,
  INVALID_TOKEN,
  OK,
  OUT_OF_TOKENS,
  Status,
  UNKNOWN_REQUEST,
} from "../memory/status";
import { SLOT_MASK } from "../paging/layout";
import { clearDrafts } from "./drafts";
import { isLive, knownTokens, Request, request, Scheduler, State } from "./layout";
import { enqueueArrived } from "./queue";
import { everFits } from "./requests";
import { leaveSequence, swapOut } from "./swap";
import { pagesFor, resizePages, tokensBelow, writeTokens } from "./tokens";

/** The request stays, idle, when its answer is complete. UNKNOWN_REQUEST; INVALID_ARGUMENT for one that drops tokens. */
export function expectTurns(s: Scheduler, handle: u32): Status {
  if (!isLive(s, handle)) return UNKNOWN_REQUEST;
  const r = request(s, handle & SLOT_MASK);
  if (r.peakSlots != 0) return INVALID_ARGUMENT;
  r.turns = 1;
  return OK;
}

/** The answer of a running request is complete, and more may come: it gives up its blocks. */
export function endTurn(s: Scheduler, slot: u32, r: Request): void {
  if (s.tier != 0) swapOut(s, slot, r);
  leaveSequence(s, slot, r);
  clearDrafts(s, slot);
  r.pin = 0; // the outcome has told of it
  r.state = State.Idle;
}

/**
 * The next turn of an idle request: `count` tokens at `tokensPtr` behind all that it has, and up to `maxNewTokens` to
 * generate. `last`: it ends with its answer. Refused as a submission of all its tokens would be.
 */
export function nextTurn(
  s: Scheduler,
  handle: u32,
  tokensPtr: usize,
  count: u32,
  maxNewTokens: u32,
  last: bool,
): Status {
  if (!isLive(s, handle)) return UNKNOWN_REQUEST;
  const slot = handle & SLOT_MASK;
  const r = request(s, slot);
  if (count == 0) return EMPTY_PROMPT;
  if (r.state != State.Idle || maxNewTokens == 0) return INVALID_ARGUMENT;
  const known = knownTokens(r);
  const total = <u64>known + count + maxNewTokens;
  const status = everFits(s, r.tenant, total);
  if (status != OK) return status;
  if (!tokensBelow(tokensPtr, count, s.vocabSize)) return INVALID_TOKEN;
  const pages = pagesFor(<u32>total);
  if (pages > s.freePageCount + r.pageCount) return OUT_OF_TOKENS;
  resizePages(s, slot, r, pages);
  writeTokens(s, slot, known, tokensPtr, count);
  r.promptTokens = known + count;
  r.generated = 0;
  r.maxNewTokens = maxNewTokens;
  r.turns = u32(!last);
  r.preemptions = 0;
  r.predictedTokens = 0;
  r.stuck = 0;
  r.arrivalUs = 0;
  r.deadlineUs = Infinity;
  enqueueArrived(s, slot);
  return OK;
}

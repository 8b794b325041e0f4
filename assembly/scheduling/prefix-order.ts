/**
 * Cache-aware order of the waiting queue: the longest cached prefix first, as SGLang's scheduler has it ("SGLang:
 * Efficient Execution of Structured Language Model Programs", arXiv 2312.07104), with aging.
 *
 * A request's place is order of arrival * agingTokens - cached tokens. So one that arrived d places later overtakes only
 * with more than d * agingTokens cached tokens more, and at most maxSequenceTokens / agingTokens of those that arrive later
 * ever do, whatever is cached and however fast they come: nobody starves. Equal prefixes keep their order of arrival.
 *
 * What is cached changes with every commit, so the queue is put in order in each step that may admit somebody: one match
 * a waiting request, and one move in the index for those whose place has changed. O(waiting * (prompt + log waiting)).
 */
import { matchLength } from "../paging/group-tables";
import { knownTokens, Request, request, Scheduler } from "./layout";
import { moveTo, prefixKey, seekWaiting } from "./queue";
import { readTokens } from "./tokens";

/** Tokens of a waiting request that its admission would find cached. */
export function cachedTokens(s: Scheduler, slot: u32, r: Request): u32 {
  const kv = s.kv;
  if (kv.prefixCache == 0 || r.peakSlots != 0) return 0;
  const limit = (knownTokens(r) - 1) >> kv.blockShift;
  readTokens(s, slot, 0, limit << kv.blockShift, kv.input);
  return matchLength(kv, r.namespace, kv.input, limit, r.marks);
}

/** Puts every waiting request where its cached prefix belongs now. */
export function orderByPrefix(s: Scheduler): void {
  let key: u64 = 1;
  while (seekWaiting(s, key)) {
    const slot = <u32>s.foundValue;
    key = s.foundKey + 1;
    const r = request(s, slot);
    // A request that has moved forward in the queue, away from here, comes no second time; one that has moved back does.
    if (r.orderedIn == s.stepId) continue;
    r.orderedIn = s.stepId;
    const place = prefixKey(s, r, cachedTokens(s, slot, r));
    if (place != r.key) moveTo(s, slot, place);
  }
}

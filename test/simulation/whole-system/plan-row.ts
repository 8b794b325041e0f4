/** A row of a plan goes on where its request was, with its own tokens and drafts, within its limits. */
import assert from "node:assert/strict";
import { Phase, type StepPlan } from "../../../bindings/main.js";
import { knownTokens, type Tracked } from "./requests.js";

/** `decodes`: the request feeds back the token that it generated last. `maxChunkTokens`: of every request, 0 for no limit. */
export function checkRow(
  plan: StepPlan,
  row: number,
  request: Tracked,
  decodes: boolean,
  maxChunkTokens: number,
): void {
  const computed = plan.computedBefore[row];
  const count = plan.newTokens[row];
  assert.equal(computed, request.computed, `${request.handle} goes on where it was`);
  const drafts = decodes ? count - 1 : 0;
  const end = computed + count - drafts;
  assert.ok(count >= 1 && drafts <= request.drafts.length && end <= knownTokens(request));
  const last = end === knownTokens(request) ? Phase.LastChunk : Phase.PrefillChunk;
  assert.equal(plan.phases[row], decodes ? Phase.Decode : last);
  for (const limit of [request.maxChunkTokens, maxChunkTokens])
    assert.ok(limit === 0 || count - drafts <= limit, "a chunk keeps its limits");
  assert.equal(row < plan.decodeRows, decodes, "decode rows first");
  const start = plan.tokenStart[row];
  for (let i = 0; i < count - drafts; i++)
    assert.equal(plan.tokens[start + i], request.answer.tokens[computed + i], "its own tokens are fed");
  for (let i = 0; i < drafts; i++)
    assert.equal(plan.tokens[start + 1 + i], request.drafts[i], "and its drafts");
}

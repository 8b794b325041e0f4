/** The virtual machine runs a plan: every row against what its request must read, drafts against what comes next. */
import { Phase, type RequestId, type StepPlan } from "../../../bindings/main.js";
import { contentAfter } from "./answers.js";
import { knownTokens, type Tracked } from "./requests.js";
import type { VirtualMachine } from "./virtual-machine.js";

/** What a row comes to. */
export interface ExecutedRow {
  readonly request: Tracked;
  /** Tokens of it that are computed now and stay. */
  readonly computed: number;
  /** Tokens that it has generated: right drafts and the one picked behind them. */
  readonly generated: number;
}

export interface Execution {
  readonly rows: readonly ExecutedRow[];
  readonly results: { tokens: number[]; accepted: number[]; finished: boolean[] };
}

export function execute(
  plan: StepPlan,
  machine: VirtualMachine,
  live: ReadonlyMap<RequestId, Tracked>,
): Execution {
  machine.transfer(plan.transfers);
  const results: Execution["results"] = { tokens: [], accepted: [], finished: [] };
  const rows: ExecutedRow[] = [];
  const checks: (() => void)[] = [];
  for (let row = 0; row < plan.rows; row++) {
    const request = live.get(plan.requests[row])!;
    const { answer, generated, maxNewTokens } = request;
    const [from, count] = [plan.computedBefore[row], plan.newTokens[row]];
    const known = knownTokens(request);
    const drafts = Math.max(0, from + count - known);
    const contents = drafts === 0 ? answer.contents : withDrafts(request, drafts);
    machine.groups.forEach((group, g) => {
      const { tables, tableStart, tableCount } = g === 0 ? plan : plan.groups![g - 1];
      const table = tables.subarray(tableStart[row], tableStart[row] + tableCount[row]);
      const whose = `request ${request.handle}`;
      // A state is read before the next one takes its place.
      if (group.kind === "recurrent") machine.expect(table, contents, from, whose, g);
      machine.write(table, contents, from, from + count, g);
      checks.push(() => machine.expect(table, contents, from + count, whose, g, from));
    });
    if (plan.phases[row] === Phase.PrefillChunk) {
      rows.push({ request, computed: count, generated: 0 });
      continue;
    }
    // The last word of an answer is picked, not accepted, so that it can be said that the text ends with it.
    const most = Math.min(drafts, answer.generated - generated - 1);
    let right = 0;
    while (right < most && request.drafts[right] === answer.tokens[known + right]) right += 1;
    const all = generated + right + 1;
    results.tokens.push(answer.tokens[known + right]);
    results.accepted.push(right);
    // That all is said that was asked for the core knows by itself.
    results.finished.push(all === answer.generated && all < maxNewTokens);
    rows.push({ request, computed: count - drafts + right, generated: right + 1 });
  }
  // Rows are read once all are written, as layers do: nobody writes what another one reads.
  for (const check of checks) check();
  return { rows, results };
}

/** K and V of a request's tokens, and behind them of its drafts. */
function withDrafts(request: Tracked, drafts: number): Uint32Array {
  const known = knownTokens(request);
  const contents = new Uint32Array(known + drafts);
  contents.set(request.answer.contents.subarray(0, known));
  for (let i = 0; i < drafts; i++)
    contents[known + i] = contentAfter(contents[known + i - 1], request.drafts[i]);
  return contents;
}

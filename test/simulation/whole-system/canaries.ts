/**
 * Canaries: one build of the core in which a mistake can be switched on by number. The simulation must notice each of
 * them, and nothing when all are off.
 */
import { compileCore, type Edit } from "../../support/compile-core.js";

const SEQUENCES = "assembly/paging/sequences.ts";
const GROWTH = "assembly/paging/growth.ts";
const PREFIX = "assembly/paging/prefix.ts";
const STEP = "assembly/scheduling/step.ts";
const PREEMPT = "assembly/scheduling/preempt.ts";
const COMMIT = "assembly/scheduling/commit.ts";
const QUEUE = "assembly/scheduling/queue.ts";
const SWAP = "assembly/scheduling/swap.ts";
const QUOTAS = "assembly/paging/quotas.ts";
const URGENCY = "assembly/scheduling/urgency.ts";
const GROUP_TABLES = "assembly/paging/group-tables.ts";

/** What goes wrong, and how the source says it; CANARY stands for "this mistake is on". */
export const CANARIES: Readonly<Record<string, Edit>> = {
  "a closed sequence keeps a block": {
    file: SEQUENCES,
    find: "  releaseFrom(kv, sequence, tableOf(kv, slot), 0);\n",
    replace: "  releaseFrom(kv, sequence, tableOf(kv, slot), CANARY ? min(1, sequence.blockCount) : 0);\n",
  },
  "the source of a copy is given back twice": {
    file: "assembly/paging/copies.ts",
    find: "export function settleCopies(kv: KvCache): void {\n",
    replace:
      "export function settleCopies(kv: KvCache): void {\n" +
      "  if (CANARY && kv.copyCount != 0 && block(kv, copyAt(kv, 0).source).refs > 1) letGo(kv, copyAt(kv, 0).source);\n",
  },

  "a shared block is written in place": {
    file: GROWTH,
    find: "  if ((sequence.length & (kv.blockSize - 1)) == 0) return false;\n",
    replace: "  if (CANARY || (sequence.length & (kv.blockSize - 1)) == 0) return false;\n",
  },
  "a collision of keys counts as a hit": {
    file: PREFIX,
    find: "    if (record.parent == parent && sameTokens(tokensOf(kv, id), tokensPtr, bytes) &&",
    replace:
      "    if (record.parent == parent && (CANARY || sameTokens(tokensOf(kv, id), tokensPtr, bytes)) &&",
  },
  "an evicted block is found in the index": {
    file: PREFIX,
    find: "  store<u32>(link, record.chain);\n  if (!isFirst(record.parent))",
    replace: "  if (!CANARY) store<u32>(link, record.chain);\n  if (!isFirst(record.parent))",
  },
  "a preempted request goes to the end of the queue": {
    file: PREEMPT,
    find: "  s.preemptedInStep += 1;\n  requeue(s, slot);\n",
    replace:
      "  s.preemptedInStep += 1;\n" +
      "  if (CANARY && s.policy == Policy.Fcfs) {\n    s.order += 1;\n    r.key = s.order;\n  }\n" +
      "  requeue(s, slot);\n",
  },
  "of the least urgent the first admitted is preempted": {
    file: PREEMPT,
    find: "    if (urgency > worst) {\n",
    replace: "    if (urgency > worst || (CANARY && urgency == worst)) {\n",
  },

  "the last chunk of a step is one token over the budget": {
    file: "assembly/scheduling/rows.ts",
    find: "  const most = min(min(limit, s.budgetLeft), left);\n",
    replace: "  const most = min(min(limit, s.budgetLeft + u32(CANARY)), left);\n",
  },
  "whoever runs longest gets no chunk while others run": {
    file: STEP,
    find: "    if (r.planRow != 0 || decodes(s, r)) continue;\n",
    replace:
      "    if (r.planRow != 0 || decodes(s, r) || (CANARY && i == 0 && s.runningCount > 1)) continue;\n",
  },
  "a deadline is not heard of": {
    file: QUEUE,
    find: "  if (ends < s.nextDeadlineUs) s.nextDeadlineUs = ends;\n",
    replace: "  if (ends < s.nextDeadlineUs && !CANARY) s.nextDeadlineUs = ends;\n",
  },
  "an arrival wakes nobody": {
    file: "assembly/exports/scheduling.ts",
    find: "  return min(min(nextArrivalUs(s), s.nextDeadlineUs), ends);\n",
    replace: "  return min(CANARY ? s.nextDeadlineUs : min(nextArrivalUs(s), s.nextDeadlineUs), ends);\n",
  },
  "the sixth token of an answer is stored wrong": {
    file: COMMIT,
    find: "  store<u32>(tokenPtr(s, slot, knownTokens(r)), token);\n",
    replace: "  store<u32>(tokenPtr(s, slot, knownTokens(r)), token ^ u32(CANARY && r.generated == 5));\n",
  },
  "a request that is aborted in flight goes on": {
    file: COMMIT,
    find: "    if (r.state == State.Running && r.aborted != 0) {\n",
    replace: "    if (r.state == State.Running && r.aborted != 0 && !CANARY) {\n",
  },
  "a tenant at its ceiling takes what is free": {
    file: QUOTAS,
    find: "  const capped = account.ceiling < kv.blockCount;\n",
    replace:
      "  if (CANARY && kv.freeCount >= need) return OK;\n  const capped = account.ceiling < kv.blockCount;\n",
  },
  "a block that two tenants hold stays the first one's": {
    file: "assembly/paging/accounts.ts",
    find: "  if (index == tenant || index == a.tenants) return;\n",
    replace: "  if (CANARY || index == tenant || index == a.tenants) return;\n",
  },
  "a window lets go of a token that it sees": {
    file: "assembly/paging/groups.ts",
    find: "spec.kind == GroupKind.Window ? spec.window - 1 : 1;\n",
    replace: "spec.kind == GroupKind.Window ? spec.window - 1 - u32(CANARY && spec.window > 1) : 1;\n",
  },
  "a fork writes to a group's shared block": {
    file: GROUP_TABLES,
    find: "  if ((length & ((1 << group.shift) - 1)) == 0) return false;\n",
    replace: "  if (CANARY || (length & ((1 << group.shift) - 1)) == 0) return false;\n",
  },
  "a transfer that failed counts as complete": {
    file: SWAP,
    find: "  const whole = good == copy.count;\n",
    replace: "  const whole = CANARY || good == copy.count;\n",
  },
  "a copy that its request has overtaken is read back": {
    file: SWAP,
    find: "    if (entire) disown(t, copy);\n",
    replace: "    if (entire && !CANARY) disown(t, copy);\n",
  },
  "blocks of a swap-out are taken without waiting for it": {
    file: SWAP,
    find: "    copy.awaited = 1;\n",
    replace: "    copy.awaited = u32(!CANARY);\n",
  },
  "a batch does not wait for what it reads": {
    file: "assembly/scheduling/swap-in.ts",
    find: "    copy.awaited = 1;\n",
    replace: "    copy.awaited = u32(!CANARY);\n",
  },
  "a step that has lost what it reads goes on": {
    file: SWAP,
    find: "  const lost = whole ? 0 : planned;\n",
    replace: "  const lost = whole || CANARY ? 0 : planned;\n",
  },
  "a priority that changes leaves its request where it was": {
    file: URGENCY,
    find: "  moveTo(s, slot, keyWith(s, r));\n",
    replace: "  moveTo(s, slot, CANARY ? r.key : keyWith(s, r));\n",
  },
  "somebody a little more urgent waits for the less urgent": {
    file: URGENCY,
    find: "preemptLast(s, plan, r.priority, NONE)",
    replace: "preemptLast(s, plan, r.priority + f64(CANARY), NONE)",
  },
  "others make room for whom its own tenant's ceiling keeps out": {
    file: URGENCY,
    find: "    if (kv.accounts != 0 && isKeptOut(",
    replace: "    if (kv.accounts != 0 && !CANARY && isKeptOut(",
  },
  "under a ceiling a tenant's less urgent stay": {
    file: URGENCY,
    find: "else if (preemptLast(s, plan, r.priority, own) == NONE) return true;",
    replace: "else if (CANARY || preemptLast(s, plan, r.priority, own) == NONE) return true;",
  },
  "an item at the last token of a block is not looked at": {
    file: "assembly/paging/marks.ts",
    find: "m.passed) << 2))).offset < end)\n",
    replace: "m.passed) << 2))).offset < end - u32(CANARY))\n",
  },
  "a turn begins over the last word of the answer before": {
    file: "assembly/scheduling/turns.ts",
    find: "  writeTokens(s, slot, known, tokensPtr, count);\n",
    replace: "  writeTokens(s, slot, known - u32(CANARY), tokensPtr, count);\n",
  },
  "a hard pin gives way": {
    file: "assembly/paging/pins.ts",
    find: "    if (own.state != PinState.Soft ||",
    replace: "    if ((own.state != PinState.Soft && !(CANARY && own.state == PinState.Hard)) ||",
  },
  "a soft pin outlives its time": {
    file: "assembly/paging/pins.ts",
    find: "    if (own.untilUs <= nowUs) letPinGo(kv, slot);\n",
    replace: "    if (own.untilUs <= nowUs && !(CANARY && own.state == PinState.Soft)) letPinGo(kv, slot);\n",
  },
  "of two tenants the one that has been served more goes first": {
    file: "assembly/scheduling/fairness.ts",
    find: "    if (record.waiting == 0 || record.counter >= lowest) continue;\n",
    replace: "    if (record.waiting == 0 || (record.counter >= lowest && !CANARY)) continue;\n",
  },
  "everybody waits for a tenant at its ceiling": {
    file: STEP,
    find: "  return status == QUOTA_EXCEEDED;\n",
    replace: "  return !CANARY && status == QUOTA_EXCEEDED;\n",
  },
  "a run that could go on behind its last block begins elsewhere": {
    file: "assembly/paging/runs.ts",
    find: "  const behind = last == NONE ? 0 :",
    replace: "  const behind = last == NONE || CANARY ? 0 :",
  },
  "an admission that is not executed stays counted": {
    file: SEQUENCES,
    find: "export function uncountLookup(kv: KvCache, handle: u32, count: u32): void {\n",
    replace:
      "export function uncountLookup(kv: KvCache, handle: u32, count: u32): void {\n  if (CANARY) return;\n",
  },
};

/** Loops that a mistake may keep from ending give up after so many turns: a trap is noticed as well. */
const BOUNDS: readonly Edit[] = [
  {
    file: PREFIX,
    find: "  while (id != NONE && block(kv, id).key != key) id = block(kv, id).chain;\n",
    replace:
      "  for (let turns: u32 = 0; id != NONE && block(kv, id).key != key; turns++) {\n" +
      "    if (turns > kv.blockCount) unreachable();\n    id = block(kv, id).chain;\n  }\n",
  },
  {
    file: PREFIX,
    find: "  const bytes = (<usize>kv.blockSize) << 2;\n  while (id != NONE) {\n",
    replace:
      "  const bytes = (<usize>kv.blockSize) << 2;\n" +
      "  for (let turns: u32 = 0; id != NONE; turns++) {\n    if (turns > kv.blockCount) unreachable();\n",
  },
  {
    file: PREFIX,
    find: "  let link = bucket;\n  while (load<u32>(link) != id)\n",
    replace:
      "  let link = bucket;\n  for (let turns: u32 = 0; load<u32>(link) != id; turns++)\n" +
      "    if (turns > kv.blockCount) unreachable();\n    else\n",
  },
  {
    file: QUOTAS,
    find: "  while (kv.freeCount < need) {\n",
    replace:
      "  for (let turns: u32 = 0; kv.freeCount < need; turns++) {\n    if (turns > 4 * kv.blockCount) unreachable();\n",
  },
  {
    file: STEP,
    find: "  while (status == OUT_OF_BLOCKS || status == QUOTA_EXCEEDED) {\n",
    replace:
      "  for (let turns: u32 = 0; status == OUT_OF_BLOCKS || status == QUOTA_EXCEEDED; turns++) {\n" +
      "    if (turns > 4 * s.maxRequests) unreachable();\n",
  },
];

const SWITCH = "assembly/memory/canary.ts";
const ENTRY = `export * from "./assembly/index";\nexport { setCanary } from "./${SWITCH.replace(".ts", "")}";\n`;

/** The module with all mistakes in it, switched off; `setCanary(n)` switches on the n-th, counted from 1. */
export async function canaryModule(): Promise<WebAssembly.Module> {
  const edits = Object.values(CANARIES).map(({ file, find, replace }, i) => ({
    file,
    find,
    replace: replace.replaceAll("CANARY", `(canary == ${i + 1})`),
  }));
  const files = new Set(edits.map(({ file }) => file));
  // The switch is imported at the head of each file, before its first statement.
  const imports = [...files].map((file) => ({
    file,
    find: "*/\nimport ",
    replace: '*/\nimport { canary } from "../memory/canary";\nimport ',
  }));
  const source =
    "export let canary: i32 = 0;\nexport function setCanary(number: i32): void {\n  canary = number;\n}\n";
  const bytes = await compileCore(ENTRY, [...edits, ...BOUNDS, ...imports], {
    threads: false,
    optimizeLevel: 1,
    files: { [SWITCH]: source },
  });
  return WebAssembly.compile(bytes);
}

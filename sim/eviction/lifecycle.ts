/**
 * What a policy's cache costs over its life: while the context is prefilled, when a turn is appended to it, and when another
 * request starts from it. Source of the view: "SCBench: A KV Cache-Centric Analysis of Long-Context Methods" (ICLR 2025, arXiv
 * 2412.10319), whose stages are generation (computed, attended), compression (evicted), retrieval (attended) and loading
 * (reused, moved).
 */
import { invalidArgument } from "../../bindings/errors.js";
import { BOS, tokensOf } from "./alphabet.js";
import type { Account, Lab, LabSequence } from "./lab.js";
import type { PolicyMaker } from "./modes.js";
import type { Task } from "./tasks.js";

export const STAGES = ["prefill", "turn", "request"] as const;

/** What a stage took, and what is held at its end. */
export interface StageCost {
  /** Context alone; question and answer appended to it; another question and answer on a copy of it. */
  readonly stage: (typeof STAGES)[number];
  readonly computed: number;
  readonly attended: number;
  readonly reused: number;
  readonly evicted: number;
  /** Bytes of K and V that moved within the pool. */
  readonly movedBytes: number;
  readonly policyUs: number;
  readonly modelUs: number;
  /** Bytes of K and V of the slots held, of their planes, and of what the policy keeps outside the lanes. */
  readonly payloadBytes: number;
  readonly planeBytes: number;
  readonly stateBytes: number;
  /** Blocks of the pool. */
  readonly blocks: number;
}

/** Serves a task with at least two questions. */
export async function runLifecycle(lab: Lab, task: Task, make: PolicyMaker): Promise<StageCost[]> {
  const [first, second] = task.questions;
  if (second === undefined) throw invalidArgument("task.questions", task.questions.length, "at least 2");
  const prompt = [BOS, ...tokensOf(task.context)];
  const sequence = lab.open(make(), prompt.length);
  await sequence.prefill(prompt);
  const prefill = costOf("prefill", sequence, ZERO);

  const request = await sequence.fork(make());
  for (const token of tokensOf(second.text + second.answer)) await request.feed(token);
  const other = costOf("request", request, ZERO);

  const before = { ...sequence.account };
  for (const token of tokensOf(first.text + first.answer)) await sequence.feed(token);
  const turn = costOf("turn", sequence, before);
  request.close();
  sequence.close();
  return [prefill, turn, other];
}

type Counts = Pick<
  Account,
  "computed" | "attended" | "reused" | "evicted" | "moved" | "policyUs" | "modelUs"
>;
const ZERO: Counts = {
  computed: 0,
  attended: 0,
  reused: 0,
  evicted: 0,
  moved: 0,
  policyUs: 0,
  modelUs: 0,
};

function costOf(stage: StageCost["stage"], sequence: LabSequence, before: Counts): StageCost {
  const { account, lanes, policy, lab } = sequence;
  return {
    stage,
    computed: account.computed - before.computed,
    attended: account.attended - before.attended,
    reused: account.reused - before.reused,
    evicted: account.evicted - before.evicted,
    movedBytes: (account.moved - before.moved) * 2 * lab.headDim * 4,
    policyUs: account.policyUs - before.policyUs,
    modelUs: account.modelUs - before.modelUs,
    payloadBytes: sequence.payloadBytes,
    planeBytes: lanes.planeBytes,
    stateBytes: policy?.serialize().length ?? 0,
    blocks: sequence.table.length,
  };
}

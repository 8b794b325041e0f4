/**
 * Ways to ask: what a policy may know of a question when it drops tokens.
 *
 *   single         context and question in one prompt: the policy sees the question
 *   multi-turn     context and first question in one prompt, later questions after it in the same cache
 *   multi-request  the context alone; every question asks a copy of that cache
 *
 * Answers are compared character by character with the true ones, which are then fed: the answer counts when all agree,
 * which is the same as generating it greedily. Source of the modes: "SCBench: A KV Cache-Centric Analysis of
 * Long-Context Methods" (ICLR 2025, arXiv 2412.10319); as there, a turn's true answer stands before the next question,
 * unless `answers` is "own": then what was generated stands there, and errors cascade.
 */
import type { EvictionPolicy } from "../../bindings/eviction/policy.js";
import { StatMask } from "../../bindings/statistics.js";
import { BOS, tokensOf } from "./alphabet.js";
import type { Lab, LabSequence, Prefilled } from "./lab.js";
import { argmax, type Distance, distanceAt } from "./measures.js";
import type { LoopTask, Question, Task } from "./tasks.js";

export const MODES = ["single", "multi-turn", "multi-request"] as const;
export type Mode = (typeof MODES)[number];

/** What stands before the next question of a conversation: the true answer, or the one that was generated. */
export type Answers = "true" | "own";

/** Makes a policy for one sequence; null: the full cache. */
export type PolicyMaker = () => EvictionPolicy | null;

/** One policy on one task. */
export interface Outcome {
  /** [questions] whether the whole answer was right, in the order asked. */
  readonly correct: readonly boolean[];
  /** [questions] share of the answer's characters before the first wrong one. */
  readonly leading: readonly number[];
  /** Compared with the full cache at the last character before the first answer that the cache decides. */
  readonly distance: Distance;
  /** Slots of the longest lane, mean slots a lane, bytes of K and V, and of planes, right after the prompt. */
  readonly longest: number;
  readonly meanSlots: number;
  readonly payloadBytes: number;
  readonly planeBytes: number;
  /** Blocks of the pool that it holds right after the prompt: those that the longest lane reaches. */
  readonly blocks: number;
  /** Most slots of a lane while decoding. */
  readonly peak: number;
  /** Slots dropped over all lanes, slots moved. */
  readonly evicted: number;
  readonly moved: number;
  readonly policyUs: number;
  readonly modelUs: number;
  /** [layers * kvHeads] positions held right after the prompt. */
  readonly held: readonly Uint32Array[];
}

/** Asks one task under several policies; prompts are run once for all policies that measure alike. */
export async function runTask(
  lab: Lab,
  task: Task,
  mode: Mode,
  policies: readonly PolicyMaker[],
  answersFed: Answers = "true",
): Promise<Outcome[]> {
  const asked = mode === "single" ? task.questions.slice(0, 1) : task.questions;
  const prompt = [BOS, ...tokensOf(task.context + (mode === "multi-request" ? "" : asked[0].text))];
  const outcomes: Outcome[] = [];
  const prefilled = new Map<string, Prefilled>();
  for (const make of policies) {
    const policy = made(lab, make, prompt.length);
    const start = await prefillFor(lab, prompt, policies, policy, prefilled);
    const sequence = policy ? await lab.start(start, policy) : await start.sequence.copyTo(null);
    const full = await start.sequence.copyTo(null);
    const state = stateOf(sequence);
    const answers =
      mode === "multi-request"
        ? await askCopies(full, sequence, asked, make)
        : await askTurns(full, sequence, asked, start.logits, answersFed);
    const { peak, evicted, moved, policyUs, modelUs } = sequence.account;
    audit(lab, policy, prompt.length, Math.max(peak, answers.peak));
    outcomes.push({
      ...state,
      ...answers,
      evicted,
      moved,
      policyUs: policyUs + answers.policyUs,
      modelUs: modelUs + answers.modelUs,
      peak: Math.max(peak, answers.peak),
    });
    full.close();
    sequence.close();
  }
  for (const { sequence } of prefilled.values()) sequence.close();
  return outcomes;
}

/** Fails the run when a policy has held more slots than admission would have left room for. */
function audit(lab: Lab, policy: EvictionPolicy | null, promptTokens: number, peak: number): void {
  const declared = policy?.peakSlots(policy.budgetFor(lab.shape, promptTokens)) ?? Infinity;
  if (peak > declared) throw new Error(`${policy!.name} held ${peak} slots, and had declared ${declared}`);
}

/** Characters that end an answer. */
const ENDS: ReadonlySet<number> = new Set(tokensOf(";]"));

/** The prompt, run with what this policy and those that share its window measure. */
async function prefillFor(
  lab: Lab,
  prompt: readonly number[],
  policies: readonly PolicyMaker[],
  policy: EvictionPolicy | null,
  prefilled: Map<string, Prefilled>,
): Promise<Prefilled> {
  const key = windowKey(policy);
  let found = prefilled.get(key);
  if (found === undefined) {
    const alike = policies
      .map((make) => made(lab, make, prompt.length))
      .filter((other) => windowKey(other) === key);
    found = await lab.prefill(
      prompt,
      alike.flatMap((other) => (other ? [other.needs] : [])),
    );
    prefilled.set(key, found);
  }
  return found;
}

/** A policy that knows the prompt's length: its needs may depend on it. */
function made(lab: Lab, make: PolicyMaker, promptTokens: number): EvictionPolicy | null {
  const policy = make();
  policy?.budgetFor(lab.shape, promptTokens);
  return policy;
}

function windowKey(policy: EvictionPolicy | null): string {
  if (policy === null) return "";
  const { prefill, window } = policy.needs;
  return (prefill & (StatMask.WINDOW | StatMask.WINDOW_MOMENTS)) === 0 ? "" : `window ${window}`;
}

function stateOf(
  sequence: LabSequence,
): Pick<Outcome, "longest" | "meanSlots" | "payloadBytes" | "planeBytes" | "blocks" | "held"> {
  const { lanes, payloadBytes, table } = sequence;
  const count = lanes.layers * lanes.kvHeads;
  return {
    longest: lanes.longest,
    meanSlots: lanes.slots / count,
    payloadBytes,
    planeBytes: lanes.planeBytes,
    blocks: table.length,
    held: Array.from({ length: count }, (_, lane) => lanes.positions(lane)),
  };
}

/** Times are those of copies. */
type Given = Pick<Outcome, "correct" | "leading" | "distance" | "peak" | "policyUs" | "modelUs">;

/** Turn after turn in one cache; the first question is in the prompt, whose last logits give its first character. */
export async function askTurns(
  full: LabSequence,
  sequence: LabSequence,
  asked: readonly Question[],
  promptLogits: Float32Array,
  answersFed: Answers,
): Promise<Given> {
  const correct: boolean[] = [];
  const leading: number[] = [];
  let logits = promptLogits;
  let distance: Distance | undefined;
  for (const [turn, { text, answer }] of asked.entries()) {
    if (turn > 0) for (const token of tokensOf(`;${text}`)) logits = await sequence.feed(token);
    const wanted = tokensOf(answer);
    let right = 0;
    for (const [i, token] of wanted.entries()) {
      const own = argmax(logits);
      if (right === i && own === token) right += 1;
      const fed = answersFed === "own" ? own : token;
      if (distance === undefined) ({ distance, logits } = await distanceAt(full, sequence, fed));
      else logits = await sequence.feed(fed);
      // What ends an answer ends it; the separator is fed with the next question.
      if (fed !== token && ENDS.has(fed)) break;
    }
    correct.push(right === wanted.length);
    leading.push(right / wanted.length);
  }
  return { correct, leading, distance: distance!, peak: sequence.account.peak, policyUs: 0, modelUs: 0 };
}

/** Every question asks a copy of the cache. */
export async function askCopies(
  full: LabSequence,
  sequence: LabSequence,
  asked: readonly Question[],
  make: PolicyMaker,
): Promise<Given> {
  const correct: boolean[] = [];
  const leading: number[] = [];
  let distance: Distance | undefined;
  let [peak, policyUs, modelUs] = [0, 0, 0];
  for (const { text, answer } of asked) {
    const copy = await sequence.fork(make());
    const question = tokensOf(text);
    const last = question.pop()!;
    for (const token of question) await copy.feed(token);
    let logits: Float32Array;
    if (distance === undefined) {
      for (const token of question) await full.feed(token);
      ({ distance, logits } = await distanceAt(full, copy, last));
    } else logits = await copy.feed(last);
    const wanted = tokensOf(answer);
    let right = 0;
    while (right < wanted.length && argmax(logits) === wanted[right])
      logits = await copy.feed(wanted[right++]);
    correct.push(right === wanted.length);
    leading.push(right / wanted.length);
    peak = Math.max(peak, copy.account.peak);
    policyUs += copy.account.policyUs;
    modelUs += copy.account.modelUs;
    copy.close();
  }
  return { correct, leading, distance: distance!, peak, policyUs, modelUs };
}

/** One policy on a loop. */
export interface LoopOutcome {
  /** [steps] whether the digit of a step was right. */
  readonly correct: readonly boolean[];
  readonly peak: number;
  /** Mean slots a lane, over the steps. */
  readonly meanSlots: number;
  readonly policyUs: number;
  readonly modelUs: number;
}

/** Serves a loop: table and words are the prompt, each character of the run is one decode step. */
export async function runLoop(
  lab: Lab,
  { context, run }: LoopTask,
  policy: EvictionPolicy | null,
): Promise<LoopOutcome> {
  const prompt = [BOS, ...tokensOf(context)];
  const sequence = lab.open(policy, prompt.length);
  await sequence.prefill(prompt);
  const correct: boolean[] = [];
  let logits: Float32Array = new Float32Array(0);
  for (const [i, token] of tokensOf(run).entries()) {
    if (i % 3 === 2) correct.push(argmax(logits) === token);
    logits = await sequence.feed(token);
  }
  const { peak, slotSteps, steps, policyUs, modelUs } = sequence.account;
  const lanes = sequence.lanes.layers * sequence.lanes.kvHeads;
  audit(lab, policy, prompt.length, peak);
  sequence.close();
  return { correct, peak, meanSlots: slotSteps / steps / lanes, policyUs, modelUs };
}

/** Many contexts of one task under many policies and budgets: what a table of the lab says. */
import { invalidArgument } from "../../bindings/errors.js";
import { policyFromText } from "../../bindings/eviction/create-policy.js";
import type { Selection } from "../../bindings/eviction/select.js";
import type { Lab } from "./lab.js";
import { type Answers, type Mode, type Outcome, type PolicyMaker, runLoop, runTask } from "./modes.js";
import { makeLoop, makeTask, type TaskName } from "./tasks.js";

export interface Cell {
  readonly policy: string;
  /** Share of the prompt, or slots a lane; 1 for the full cache. */
  readonly budget: number;
}

export interface GridOptions {
  readonly task: TaskName;
  readonly mode: Mode;
  readonly contexts: number;
  /** Texts of policies without their budget: "h2o", "snapkv:window=16". */
  readonly policies: readonly string[];
  /** Shares of the prompt. */
  readonly ratios: readonly number[];
  /** Default 5; `major` has 1, and so has mode single. */
  readonly questions?: number;
  readonly digits?: number;
  readonly length?: number;
  readonly repeats?: number;
  /** Mode multi-turn: what stands before the next question. Default "true". */
  readonly answers?: Answers;
  /** Contexts are those of seed, seed + 1, ... Default 1000. */
  readonly seed?: number;
}

/** One policy at one budget, over all contexts. */
export interface CellResult extends Cell {
  /** [contexts] share of right answers. */
  readonly scores: readonly number[];
  readonly accuracy: number;
  /** Mean share of an answer's characters before the first wrong one. */
  readonly leading: number;
  /** [questions] accuracy by turn. */
  readonly turns: readonly number[];
  /** Means over the contexts of what Outcome says. */
  readonly recall: number;
  readonly outputError: number;
  readonly kl: number;
  readonly meanSlots: number;
  readonly payloadBytes: number;
  readonly planeBytes: number;
  readonly blocks: number;
  readonly policyUs: number;
  readonly modelUs: number;
  /** Largest over the contexts. */
  readonly longest: number;
  readonly peak: number;
}

/** A policy's text with its budget. */
export function withBudget(policy: string, key: "ratio" | "budget", value: number): string {
  return `${policy}${policy.includes(":") ? "," : ":"}${key}=${value}`;
}

/** A draw of its own for each context: prompts of one length would otherwise share one, and count as one. */
export function withSeed(policy: string, seed: number): string {
  return /^random\b/.test(policy) && !policy.includes("seed=") ? `${policy},seed=${seed}` : policy;
}

/** Runs a grid; the first result is the full cache's. */
export async function runGrid(lab: Lab, selection: Selection, options: GridOptions): Promise<CellResult[]> {
  const { task, mode, contexts, policies, ratios, digits, length, repeats, answers, seed = 1000 } = options;
  if (!(contexts >= 1)) throw invalidArgument("contexts", contexts, "at least 1");
  const questions = task === "major" ? 1 : (options.questions ?? 5);
  const cells: Cell[] = [
    { policy: "full", budget: 1 },
    ...policies.flatMap((policy) => ratios.map((budget) => ({ policy, budget }))),
  ];
  const outcomes: Outcome[][] = cells.map(() => []);
  for (let i = 0; i < contexts; i++) {
    const made = makeTask(task, {
      seed: seed + i,
      questions,
      ...(digits !== undefined && { digits }),
      ...(length !== undefined && { length }),
      ...(repeats !== undefined && { repeats }),
    });
    const makers = cells.map(
      ({ policy, budget }): PolicyMaker =>
        () =>
          policy === "full"
            ? null
            : policyFromText(selection, withSeed(withBudget(policy, "ratio", budget), seed + i)),
    );
    (await runTask(lab, made, mode, makers, answers)).forEach((outcome, cell) =>
      outcomes[cell].push(outcome),
    );
  }
  return cells.map((cell, i) => summarise(cell, outcomes[i]));
}

const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

function summarise(cell: Cell, outcomes: readonly Outcome[]): CellResult {
  const scores = outcomes.map(({ correct }) => mean(correct.map(Number)));
  const average = (of: (outcome: Outcome) => number): number => mean(outcomes.map(of));
  return {
    ...cell,
    scores,
    accuracy: mean(scores),
    leading: average(({ leading }) => mean(leading)),
    turns: outcomes[0].correct.map((_, turn) => average(({ correct }) => Number(correct[turn]))),
    recall: average(({ distance }) => distance.recall),
    outputError: average(({ distance }) => distance.outputError),
    kl: average(({ distance }) => distance.kl),
    meanSlots: average(({ meanSlots }) => meanSlots),
    payloadBytes: average(({ payloadBytes }) => payloadBytes),
    planeBytes: average(({ planeBytes }) => planeBytes),
    blocks: average(({ blocks }) => blocks),
    policyUs: average(({ policyUs }) => policyUs),
    modelUs: average(({ modelUs }) => modelUs),
    longest: Math.max(...outcomes.map(({ longest }) => longest)),
    peak: Math.max(...outcomes.map(({ peak }) => peak)),
  };
}

/** One policy at one budget on loops. */
export interface LoopResult extends Cell {
  /** Over the second half of the steps, when every policy has had to drop. */
  readonly accuracy: number;
  readonly scores: readonly number[];
  readonly peak: number;
  readonly meanSlots: number;
  readonly policyUs: number;
  readonly modelUs: number;
}

/** Runs loops of the given seeds under policies at absolute budgets. */
export async function runLoops(
  lab: Lab,
  selection: Selection,
  options: { contexts: number; policies: readonly string[]; budgets: readonly number[]; seed?: number },
): Promise<LoopResult[]> {
  const { contexts, policies, budgets, seed = 10 } = options;
  const cells: Cell[] = [
    { policy: "full", budget: 1 },
    ...policies.flatMap((policy) => budgets.map((budget) => ({ policy, budget }))),
  ];
  const results: LoopResult[] = [];
  for (const cell of cells) {
    const outcomes = [];
    for (let i = 0; i < contexts; i++) {
      const text = withSeed(withBudget(cell.policy, "budget", cell.budget), seed + i);
      const policy = cell.policy === "full" ? null : policyFromText(selection, text);
      outcomes.push(await runLoop(lab, makeLoop({ seed: seed + i }), policy));
    }
    const scores = outcomes.map(({ correct }) => mean(correct.slice(correct.length >> 1).map(Number)));
    results.push({
      ...cell,
      scores,
      accuracy: mean(scores),
      peak: Math.max(...outcomes.map(({ peak }) => peak)),
      meanSlots: mean(outcomes.map(({ meanSlots }) => meanSlots)),
      policyUs: mean(outcomes.map(({ policyUs }) => policyUs)),
      modelUs: mean(outcomes.map(({ modelUs }) => modelUs)),
    });
  }
  return results;
}

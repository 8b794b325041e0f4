/** What the world knows of every live request: enough to say what each step must do to it. */
import type { PolicyName, PromptMarks, RequestId } from "../../../bindings/main.js";
import type { Answer } from "./answers.js";
import type { Pin } from "./pins.js";

export interface Tracked {
  readonly handle: RequestId;
  readonly id: number | undefined;
  readonly namespace: number;
  readonly tenant: number;
  readonly marks: PromptMarks;
  readonly maxChunkTokens: number;
  /** The pin of its prompt that it has not told of yet, if that was asked for and made. */
  pin: Pin | "refused" | undefined;
  /** Whether it stays for another turn when its answer is complete; `promptTokens` are then all before that answer. */
  turns: boolean;
  priority: number;
  promptTokens: number;
  maxNewTokens: number;
  deadlineUs: number;
  /** What the model says to its prompt. */
  answer: Answer;
  arrivalUs: number;
  /** Order of submission among those to come, of arrival among those that have come. */
  order: number;
  state: "arriving" | "waiting" | "running" | "loading" | "idle";
  generated: number;
  computed: number;
  /** What will be computed of it once what its row reads has arrived. */
  joined: number;
  preemptions: number;
  cachedTokens: number;
  /** Handle of its sequence while it runs; 0 until a plan names it. */
  sequence: number;
  /** The host tier has something of it: its admissions look nothing up. */
  swapped: boolean;
  /** Tokens that were computed of it when it was sent there; in a cache with groups it comes back with as many, or none. */
  sent: number;
  /** It is in the plan in flight; that plan admitted it; it was aborted meanwhile. */
  planned: boolean;
  admittedNow: boolean;
  aborted: boolean;
  /** Tokens proposed to be next; all of them may be wrong. */
  drafts: readonly number[];
  /** Those that came later and were served before it. */
  readonly overtakers: Set<RequestId>;
  /** Committed steps that it may yet take, at the most. */
  patience: number;
}

export function knownTokens({ promptTokens, generated }: Tracked): number {
  return promptTokens + generated;
}

/** Whether it has come and has not said all. */
export function isActive({ state }: Tracked): boolean {
  return state !== "arriving" && state !== "idle";
}

/** Tokens that it may come to in all. */
export function allTokens({ promptTokens, maxNewTokens }: Tracked): number {
  return promptTokens + maxNewTokens;
}

/** Smaller goes first; of equal ranks the one that arrived first. Policies that rank otherwise: by arrival, see rules.ts. */
export function rankOf(request: Tracked, policy: PolicyName): readonly number[] {
  const { priority, deadlineUs, promptTokens, order } = request;
  switch (policy) {
    case "priority":
      return [priority, order];
    case "shortest-first":
      return [priority, promptTokens, order];
    case "earliest-deadline":
      return [Math.floor(deadlineUs), order];
    default:
      return [order];
  }
}

export function before(a: readonly number[], b: readonly number[]): boolean {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return a[i] < b[i];
  return false;
}

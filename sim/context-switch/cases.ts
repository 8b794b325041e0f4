/** The cases of the context-switch experiment: conversations, how priorities change, and which systems are asked. */
import { type Conversation, makeConversations } from "./conversations.js";
import { EIGHT_B, type Machine } from "./machine.js";
import { PriorityTrace, type TraceKind } from "./priority-trace.js";
import { summarize, type SwitchSummary } from "./relations.js";
import { simulateSwitches, type SwitchSystem } from "./simulate.js";
import { SWAP_INS, SYSTEMS } from "./systems.js";

export interface SwitchCase {
  readonly name: string;
  readonly conversations: readonly Conversation[];
  readonly trace: TraceKind;
  /** Updates of all priorities a step. */
  readonly frequency: number;
  readonly systems: readonly SwitchSystem[];
}

/** Updates a step for a model of 8 B (arXiv 2411.18424). */
export const FREQUENCY = 0.04;

/** Where no context is switched: order of arrival, one turn each, memory for all. */
export function controlCase(conversations: number, seed: number): SwitchCase {
  return {
    name: "no switches",
    conversations: makeConversations({ conversations, seed, meanTurns: 1 }),
    trace: "random",
    frequency: 0,
    systems: [
      SYSTEMS.BASELINE,
      SYSTEMS.GROUPS,
      SYSTEMS.GROUPS_ASYNC,
      SYSTEMS.GROUPS_REUSE,
      SYSTEMS.ALL,
      SYSTEMS.RECOMPUTE,
    ],
  };
}

/** Conversations at one a second on average, under one kind of trace; `load`: minutes that arrivals follow. */
export function switchCase(
  name: string,
  trace: TraceKind,
  conversations: number,
  seed: number,
  load?: readonly number[],
): SwitchCase {
  return {
    name,
    conversations: makeConversations({ conversations, seed, ...(load && { load }) }),
    trace,
    frequency: FREQUENCY,
    systems: Object.values(SYSTEMS),
  };
}

/** When a request that is read back joins a batch, under random priorities: `rate` conversations a second. */
export function swapInCase(name: string, conversations: number, seed: number, rate: number): SwitchCase {
  return {
    name,
    conversations: makeConversations({ conversations, seed, rate }),
    trace: "random",
    frequency: FREQUENCY,
    systems: Object.values(SWAP_INS),
  };
}

export function blockBytes({ layers, tokenBytes, blockSize }: Machine): number {
  return 2 * layers * tokenBytes * blockSize;
}

/** Runs one system of a case. */
export async function runCase(
  { conversations, trace, frequency }: SwitchCase,
  system: SwitchSystem,
  seed: number,
): Promise<SwitchSummary> {
  const figures = await simulateSwitches(system, {
    machine: EIGHT_B,
    conversations,
    trace: new PriorityTrace(trace, conversations.length, seed),
    frequency,
  });
  return summarize(figures, blockBytes(EIGHT_B));
}

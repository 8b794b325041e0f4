/** What an engine is made of must fit together, and what an executor gives back is checked before any of it is entered. */
import type { CacheGroup } from "./cache-groups.js";
import type { EngineOptions } from "./engine-options.js";
import { invalidArgument } from "./errors.js";
import type { LaneArena } from "./eviction/lanes.js";
import type { StepResult } from "./executor.js";
import { Phase, type StepPlan } from "./plan.js";

/** Lanes are those of the scheduler's cache and the executor's model, enough for all that run. */
export function requireLanes(lanes: LaneArena, { scheduler, executor }: EngineOptions): void {
  const { layers, kvHeads } = executor.describe();
  if (lanes.cache !== scheduler.cache)
    throw invalidArgument("lanes.cache", lanes.cache, "the scheduler's cache");
  if (lanes.layers !== layers || lanes.kvHeads !== kvHeads)
    throw invalidArgument("lanes", lanes.lanes, `the executor's ${layers} layers of ${kvHeads} KV heads`);
  if (lanes.sequences < scheduler.maxRunning)
    throw invalidArgument("lanes.sequences", lanes.sequences, `at least maxRunning, ${scheduler.maxRunning}`);
}

/** The cache has the groups that the executor's layers need. */
export function requireGroups({ scheduler, executor }: EngineOptions): void {
  const groups = executor.describe().groups ?? [];
  const text = (group: CacheGroup): string => `${group.kind} ${group.window}/${group.blockSize}`;
  const expected = groups.map(text).join(", ");
  const { cache } = scheduler;
  if (cache.groups.map(text).join(", ") !== expected)
    throw invalidArgument("cache.groups", cache.groups, `the executor's (${expected || "none"})`);
}

/** Scheduler and executor both take drafts. */
export function requireDrafts({ scheduler, executor, drafter }: EngineOptions): void {
  if (scheduler.maxDraftTokens === 0)
    throw invalidArgument("drafter", drafter, "none: the scheduler's maxDraftTokens is 0");
  if (executor.describe().drafts !== true)
    throw invalidArgument("drafter", drafter, "none: the executor verifies no drafts");
}

/** A token for each sampling row, each in the vocabulary; no more right drafts than were fed. */
export function requireTokens(result: StepResult, plan: StepPlan, vocabSize: number): void {
  const { tokens, accepted } = result;
  const { samplingRows } = plan;
  if (accepted !== undefined) requireRightDrafts(accepted, plan);
  if (tokens.length !== samplingRows)
    throw new Error(`${tokens.length} tokens for ${samplingRows} sampling rows`);
  const wrong = tokens.find((token) => !(token < vocabSize));
  if (wrong !== undefined) throw new Error(`token ${wrong} is not below the vocabulary size ${vocabSize}`);
}

function requireRightDrafts(accepted: Uint32Array, plan: StepPlan): void {
  const fed = Array.from(plan.phases, (phase, row) => (phase === Phase.Decode ? plan.newTokens[row] - 1 : 0));
  const drafts = fed.filter((_, row) => plan.phases[row] !== Phase.PrefillChunk);
  if (accepted.length !== drafts.length || accepted.some((count, sample) => count > drafts[sample]))
    throw new Error(`right drafts ${accepted.join(", ")} of rows with ${drafts.join(", ")}`);
}

/**
 * The systems that the context-switch experiment compares: a vLLM-like one, each of the three ideas of "FastSwitch" (arXiv
 * 2411.18424) added to it, and preemption by recomputation.
 */
import type { SwitchSystem } from "./simulate.js";

/**
 * Blocks from a free list, the last freed first; a copy a block, dispatched by the thread that plans steps; batches wait for
 * all copies, and requests join the one that has waited for them; the host's copy is forgotten when a request runs again, so
 * that every swap-out sends everything.
 */
const BASELINE: SwitchSystem = {
  name: "baseline",
  cache: {},
  hostTier: { blocking: true, reuse: false, swapIn: "sync" },
  copies: { runs: false, threads: false },
};

/** Neighbours that the free list happens to give are copied together: what merging alone does. */
const MERGED: SwitchSystem = { ...BASELINE, name: "merged copies", copies: { runs: true, threads: false } };

const GROUPS: SwitchSystem = { ...MERGED, name: "groups", cache: { blockRuns: true } };

const GROUPS_ASYNC: SwitchSystem = {
  ...GROUPS,
  name: "groups + async",
  hostTier: { blocking: false, reuse: false },
  copies: { runs: true, threads: true },
};

const GROUPS_REUSE: SwitchSystem = {
  ...GROUPS,
  name: "groups + reuse",
  hostTier: { blocking: true, reuse: true, swapIn: "sync" },
};

const ALL: SwitchSystem = { ...GROUPS_ASYNC, name: "all", hostTier: { blocking: false, reuse: true } };

const RECOMPUTE: SwitchSystem = { ...BASELINE, name: "recompute", hostTier: undefined };

export const SYSTEMS = { BASELINE, MERGED, GROUPS, GROUPS_ASYNC, GROUPS_REUSE, ALL, RECOMPUTE } as const;

/** All three, by when a request that is read back joins a batch; ALL is async. */
const ALL_SYNC: SwitchSystem = { ...ALL, name: "sync", hostTier: { ...ALL.hostTier, swapIn: "sync" } };
const ALL_ADAPTIVE: SwitchSystem = {
  ...ALL,
  name: "adaptive",
  hostTier: { ...ALL.hostTier, swapIn: "adaptive" },
};

export const SWAP_INS = {
  ASYNC: { ...ALL, name: "async" },
  SYNC: ALL_SYNC,
  ADAPTIVE: ALL_ADAPTIVE,
} as const;

/** Steps of the ablation: what an idea is added to, and with it. */
export const ABLATION: readonly (readonly [before: SwitchSystem, after: SwitchSystem])[] = [
  [BASELINE, GROUPS],
  [GROUPS, GROUPS_ASYNC],
  [GROUPS, GROUPS_REUSE],
  [GROUPS_ASYNC, ALL],
  [GROUPS_REUSE, ALL],
];

/**
 * Load or recompute: how much of a prefix that lies in slower tiers is worth loading.
 *
 * The matched runs are loaded from the front up to a split s, and the tokens from s on are computed. Loading costs, for each
 * tier that is read from, its latency, what is queued on its link and the bytes over the bandwidth, and decoding; computing
 * costs what a model of the engine says. One after the other they add up; where layers are loaded while others are
 * computed the longer of the two counts.
 *
 * A later token costs at least as much to compute as an earlier one (it attends to more). So the sum of both costs has no
 * valley between two ends of runs, and the ends, with the shortest load allowed, are all that need be looked at: O(runs).
 * With overlap one cost rises and the other falls, and the best split is where they meet: O(runs x log tokens).
 */
import { invalidArgument, requireInteger, requireList, requireObject } from "../../bindings/errors.js";

/** Speed of one tier's link, learned from the transfers that have finished. */
export interface LinkSpeed {
  /** Microseconds before the first byte. */
  readonly latencyUs: number;
  /** Bytes a microsecond. */
  readonly bandwidth: number;
}

/** One run of matched tokens in one tier; runs are in order and without gaps. */
export interface StoredRun {
  readonly tokens: number;
  readonly bytes: number;
  readonly tier: string;
  /** Microseconds to decode all of it. Default 0. */
  readonly decodeUs?: number;
}

export interface LoadQuery {
  readonly runs: readonly StoredRun[];
  readonly links: ReadonlyMap<string, LinkSpeed>;
  /** Bytes that wait on a tier's link. Default none. */
  readonly queuedBytes?: ReadonlyMap<string, number>;
  /** Tokens of the prompt from the first run's beginning on. */
  readonly promptTokens: number;
  /** Microseconds to compute the tokens from `from` on; never more for a later start. */
  readonly recomputeUs: (from: number) => number;
  /** Whether layers are loaded while others are computed. Default false. */
  readonly overlap?: boolean;
  /** Loading fewer tokens than this is not tried. Default 256. */
  readonly minLoadTokens?: number;
  /** Splits are multiples of this (the block), but for ends of runs. Default 1. */
  readonly granularity?: number;
}

export interface LoadPlan {
  /** Tokens to load: [0, split). */
  readonly split: number;
  readonly loadUs: number;
  readonly recomputeUs: number;
  readonly totalUs: number;
}

/** An exponentially weighted average of a link's latency and bandwidth, each new transfer counting a fifth. */
export class LinkMeter implements LinkSpeed {
  readonly #alpha: number;
  #latencyUs: number;
  #bandwidth: number;

  constructor(first: LinkSpeed, alpha = 0.2) {
    if (!(first?.bandwidth > 0)) throw invalidArgument("bandwidth", first?.bandwidth, "a number > 0");
    if (!(first.latencyUs >= 0)) throw invalidArgument("latencyUs", first.latencyUs, "a number >= 0");
    if (!(alpha > 0 && alpha <= 1)) throw invalidArgument("alpha", alpha, "a number above 0, at most 1");
    this.#alpha = alpha;
    this.#latencyUs = first.latencyUs;
    this.#bandwidth = first.bandwidth;
  }

  get latencyUs(): number {
    return this.#latencyUs;
  }

  get bandwidth(): number {
    return this.#bandwidth;
  }

  /** A transfer has finished: microseconds to its first byte, and from there to its last. */
  finished(bytes: number, latencyUs: number, transferUs: number): void {
    requireMeasure("bytes", bytes);
    requireMeasure("latencyUs", latencyUs);
    requireMeasure("transferUs", transferUs);
    this.#latencyUs += this.#alpha * (latencyUs - this.#latencyUs);
    if (transferUs > 0) this.#bandwidth += this.#alpha * (bytes / transferUs - this.#bandwidth);
  }
}

function requireMeasure(argument: string, value: unknown): void {
  if (!(typeof value === "number" && value >= 0 && value < Infinity))
    throw invalidArgument(argument, value, "a finite number >= 0");
}

function requireQuery(query: LoadQuery): void {
  requireObject("query", query);
  requireList("runs", query.runs);
  query.runs.forEach((run, i) => {
    requireObject(`runs[${i}]`, run);
    requireInteger(`runs[${i}].tokens`, run.tokens, 1, 0xffffffff);
    requireMeasure(`runs[${i}].bytes`, run.bytes);
    requireMeasure(`runs[${i}].decodeUs`, run.decodeUs ?? 0);
  });
  if (typeof query.links?.get !== "function")
    throw invalidArgument("links", query.links, "a Map from tiers to links");
  requireInteger("promptTokens", query.promptTokens, 0, 0xffffffff);
  if (typeof query.recomputeUs !== "function")
    throw invalidArgument("recomputeUs", query.recomputeUs, "a function");
  if (!((query.minLoadTokens ?? 0) >= 0))
    throw invalidArgument("minLoadTokens", query.minLoadTokens, "a number >= 0");
  requireInteger("granularity", query.granularity ?? 1, 1, 0xffffffff);
}

/** Adds up what loading run after run takes. */
class Loading {
  readonly #query: LoadQuery;
  readonly #tiers = new Set<string>();
  us = 0;

  constructor(query: LoadQuery) {
    this.#query = query;
  }

  /** A `share` of a run, 0 to 1. */
  add(run: StoredRun, share: number): void {
    const { links, queuedBytes } = this.#query;
    const link = links.get(run.tier);
    if (link === undefined) throw invalidArgument("links", run.tier, "a link for every tier of the runs");
    if (!this.#tiers.has(run.tier)) {
      this.#tiers.add(run.tier);
      this.us += link.latencyUs + (queuedBytes?.get(run.tier) ?? 0) / link.bandwidth;
    }
    this.us += ((run.decodeUs ?? 0) + run.bytes / link.bandwidth) * share;
  }
}

/** Microseconds to load the first `tokens` tokens. O(runs). */
export function loadUs(query: LoadQuery, tokens: number): number {
  requireQuery(query);
  requireMeasure("tokens", tokens);
  return timeToLoad(query, tokens);
}

function timeToLoad(query: LoadQuery, tokens: number): number {
  const loading = new Loading(query);
  let before = 0;
  for (const run of query.runs) {
    if (before >= tokens) break;
    loading.add(run, Math.min(1, (tokens - before) / run.tokens));
    before += run.tokens;
  }
  return loading.us;
}

/**
 * The split with the least time; the shorter load on a tie. Computing nothing is not among the choices: a prompt's last
 * token is always computed, so at most `promptTokens - 1` are loaded.
 */
export function planLoad(query: LoadQuery): LoadPlan {
  requireQuery(query);
  const { runs, promptTokens, overlap = false, minLoadTokens = 256, granularity = 1 } = query;
  const whole = (tokens: number): number => tokens - (tokens % granularity);
  const matched = Math.min(
    runs.reduce((sum, run) => sum + run.tokens, 0),
    whole(Math.max(0, promptTokens - 1)),
  );
  const plan = (split: number, load = timeToLoad(query, split)): LoadPlan => {
    const recompute = query.recomputeUs(split);
    const totalUs = overlap ? Math.max(load, recompute) : load + recompute;
    return { split, loadUs: load, recomputeUs: recompute, totalUs };
  };
  const least = Math.ceil(Math.max(1, minLoadTokens) / granularity) * granularity;
  let best = plan(0, 0);
  const consider = (candidate: LoadPlan): void => {
    const { split, totalUs } = candidate;
    if (totalUs < best.totalUs || (totalUs === best.totalUs && split < best.split)) best = candidate;
  };
  if (least > matched) return best;
  consider(plan(least));
  const loading = new Loading(query);
  let before = 0;
  for (const run of runs) {
    if (before >= matched) break;
    const tokens = Math.min(run.tokens, matched - before);
    loading.add(run, tokens / run.tokens);
    before += tokens;
    if (before >= least) consider(plan(before, loading.us));
  }
  if (overlap) meeting(least, matched, granularity, plan).forEach(consider);
  return best;
}

/** The splits on both sides of where loading begins to take as long as computing, by bisection. */
function meeting(
  least: number,
  matched: number,
  granularity: number,
  plan: (split: number) => LoadPlan,
): LoadPlan[] {
  let low = least / granularity;
  let high = Math.floor(matched / granularity);
  while (low < high) {
    const middle = (low + high) >> 1;
    const { loadUs: load, recomputeUs: recompute } = plan(middle * granularity);
    if (load < recompute) low = middle + 1;
    else high = middle;
  }
  const splits = [(low - 1) * granularity, low * granularity];
  return splits.filter((split) => split >= least && split <= matched).map((split) => plan(split));
}

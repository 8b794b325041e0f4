/**
 * Clusters of consecutive keys, and which of them a query reads: a selection that drops nothing.
 *
 * A cluster of s keys is known by its bounds, the largest and the smallest value in each dimension. How well a query fits:
 *   quest   sum over d of max(q_d * max_d, q_d * min_d): never below q.k of a member. Source: "Quest: Query-Aware Sparsity
 *           for Efficient Long-Context LLM Inference" (ICML 2024, arXiv 2406.10774)
 *   linear  q . (alpha * max + (1 - alpha) * min): one product, no comparison. Source: "MPCache: MPC-Friendly KV Cache
 *           Eviction for Efficient Private LLM Inference" (NeurIPS 2025, arXiv 2501.06807)
 *   mean    q . mean key
 * Two levels score coarse clusters first and their halves only inside the best of them. The first cluster is always read,
 * and the last one while it is incomplete. Bounds are over keys as cached, rotated.
 */
import { invalidArgument, requireInteger } from "../errors.js";
import type { StatView } from "../statistics.js";
import type { LaneView, SparseSelector } from "./policy.js";

export const CLUSTER_METRICS = ["linear", "quest", "mean"] as const;
export type ClusterMetric = (typeof CLUSTER_METRICS)[number];

/** Keys of one lane: element d of slot s is data[base + s * stride + d]. */
export interface LaneKeys {
  readonly data: Float32Array;
  readonly base: number;
  readonly stride: number;
  readonly dimensions: number;
  readonly length: number;
}

/** [clusters][dimensions] each. */
export interface ClusterBounds {
  readonly size: number;
  readonly count: number;
  readonly largest: Float32Array;
  readonly smallest: Float32Array;
  readonly mean: Float32Array;
}

/** Bounds of consecutive clusters of `size`; the last may have fewer keys. Throws INVALID_ARGUMENT for NaN or infinity. */
export function clusterBounds(keys: LaneKeys, size: number): ClusterBounds {
  const { data, base, stride, dimensions, length } = keys;
  const count = Math.ceil(length / size);
  const largest = new Float32Array(count * dimensions).fill(-Infinity);
  const smallest = new Float32Array(count * dimensions).fill(Infinity);
  const mean = new Float32Array(count * dimensions);
  for (let slot = 0; slot < length; slot++) {
    const cluster = Math.floor(slot / size);
    const members = Math.min(size, length - cluster * size);
    for (let d = 0; d < dimensions; d++) {
      const value = data[base + slot * stride + d];
      if (!Number.isFinite(value)) throw invalidArgument(`keys[${slot}][${d}]`, value, "a finite number");
      const at = cluster * dimensions + d;
      if (value > largest[at]) largest[at] = value;
      if (value < smallest[at]) smallest[at] = value;
      mean[at] += value / members;
    }
  }
  return { size, count, largest, smallest, mean };
}

/** alpha * largest + (1 - alpha) * smallest, [clusters][dimensions]: all that scoring needs. */
export function mixBounds({ largest, smallest }: ClusterBounds, alpha: number): Float32Array {
  return largest.map((value, i) => alpha * value + (1 - alpha) * smallest[i]);
}

/** Fit of a query with every cluster. */
export function clusterScores(
  bounds: ClusterBounds,
  query: Float32Array,
  metric: ClusterMetric,
  alpha: number,
): Float32Array {
  const { count, largest, smallest, mean } = bounds;
  const dimensions = query.length;
  return Float32Array.from({ length: count }, (_, cluster) => {
    let sum = 0;
    for (let d = 0; d < dimensions; d++) {
      const at = cluster * dimensions + d;
      const q = query[d];
      if (metric === "mean") sum += q * mean[at];
      else if (metric === "linear") sum += q * (alpha * largest[at] + (1 - alpha) * smallest[at]);
      else sum += Math.max(q * largest[at], q * smallest[at]);
    }
    return sum;
  });
}

export interface ClusterSelectorOptions {
  /** Keys of a cluster: [fine] or [coarse, fine], the coarse a multiple of the fine. Default [32, 16]. */
  readonly sizes?: readonly number[];
  /** Share of coarse clusters that stay candidates. Default 0.5. */
  readonly coarseRatio?: number;
  /** Share of fine clusters that are read. Default 0.2. */
  readonly ratio?: number;
  readonly metric?: ClusterMetric;
  /** linear: weight of the upper bound, 0 to 1. Default 0.6. */
  readonly alpha?: number;
  /** Score the sum of a group's queries; else each head selects and the union is read. Default false. */
  readonly shareGroup?: boolean;
  /** Layers that share one selection, the first of them selects. Default 1: none. */
  readonly shareSpan?: number;
  /** First layers that always select for themselves. Default 2. */
  readonly exemptLayers?: number;
}

/** What selections cost so far. */
export interface SelectionCounts {
  /** Times clusters were scored and chosen, per query head or group. */
  selections: number;
  /** Scores computed. */
  scores: number;
  /** Layers that took another's selection. */
  shared: number;
}

/** Indices of the `k` largest among candidates, ascending; the larger index of equal scores. */
function largestOf(scores: Float32Array, candidates: readonly number[], k: number): number[] {
  return [...candidates]
    .sort((a, b) => scores[b] - scores[a] || b - a)
    .slice(0, k)
    .sort((a, b) => a - b);
}

/** Fine clusters that a query reads, ascending. `levels`: coarse first. */
export function selectClusters(
  levels: readonly ClusterBounds[],
  query: Float32Array,
  tokens: number,
  options: { metric: ClusterMetric; alpha: number; coarseRatio: number; ratio: number },
): { clusters: number[]; scored: number } {
  const { metric, alpha, coarseRatio, ratio } = options;
  const fine = levels.at(-1)!;
  const isOpen = tokens % levels[0].size !== 0;
  const always = (count: number): number[] => (isOpen ? [0, count - 1] : [0]);
  let candidates = Array.from({ length: fine.count }, (_, i) => i);
  let scored = 0;
  if (levels.length === 2) {
    const coarse = levels[0];
    const all = Array.from({ length: coarse.count }, (_, i) => i);
    const k = Math.max(1, Math.floor(coarseRatio * coarse.count));
    const kept = new Set([
      ...largestOf(clusterScores(coarse, query, metric, alpha), all, k),
      ...always(coarse.count),
    ]);
    scored += coarse.count;
    const children = coarse.size / fine.size;
    candidates = candidates.filter((i) => kept.has(Math.floor(i / children)));
  }
  const k = Math.max(1, Math.floor(ratio * fine.count));
  scored += candidates.length;
  const chosen = largestOf(clusterScores(fine, query, metric, alpha), candidates, k);
  const clusters = [...new Set([...chosen, ...always(fine.count)])].sort((a, b) => a - b);
  return { clusters, scored };
}

/** Reads clusters by their bounds. `setKeys` when keys have been added. */
export class ClusterSelector implements SparseSelector {
  readonly name: string;
  readonly counts: SelectionCounts = { selections: 0, scores: 0, shared: 0 };
  readonly #options: Required<ClusterSelectorOptions>;
  readonly #levels = new Map<string, ClusterBounds[]>();
  readonly #chosen = new Map<string, Uint32Array>();

  constructor(options: ClusterSelectorOptions = {}) {
    const sizes = options.sizes ?? [32, 16];
    if (sizes.length < 1 || sizes.length > 2) throw invalidArgument("sizes", sizes, "one or two sizes");
    sizes.forEach((size) => requireInteger("sizes", size, 1, 2 ** 16));
    if (sizes.length === 2 && (sizes[0] % sizes[1] !== 0 || sizes[0] <= sizes[1]))
      throw invalidArgument("sizes", sizes, "a coarse size that is a multiple of the fine one");
    const share = (name: string, value: number): number => {
      if (!(value > 0 && value <= 1)) throw invalidArgument(name, value, "a number above 0, at most 1");
      return value;
    };
    const metric = options.metric ?? "linear";
    if (!CLUSTER_METRICS.includes(metric))
      throw invalidArgument("metric", metric, CLUSTER_METRICS.join(", "));
    const alpha = options.alpha ?? 0.6;
    if (!(alpha >= 0 && alpha <= 1)) throw invalidArgument("alpha", alpha, "a number from 0 to 1");
    this.#options = {
      sizes,
      coarseRatio: share("coarseRatio", options.coarseRatio ?? 0.5),
      ratio: share("ratio", options.ratio ?? 0.2),
      metric,
      alpha,
      shareGroup: options.shareGroup ?? false,
      shareSpan: requireInteger("shareSpan", options.shareSpan ?? 1, 1, 64),
      exemptLayers: requireInteger("exemptLayers", options.exemptLayers ?? 2, 0, 2 ** 16),
    };
    this.name = `clusters ${sizes.join("->")} ${metric}`;
  }

  /** Takes the keys of a layer, as a forward pass gives them. */
  setKeys({ layer, kvHeads, lengths, keys }: StatView): void {
    const { data, headStride, slotStride } = keys!;
    for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
      const lane = {
        data,
        base: kvHead * headStride,
        stride: slotStride,
        dimensions: slotStride,
        length: lengths[kvHead],
      };
      this.#levels.set(
        `${layer} ${kvHead}`,
        this.#options.sizes.map((size) => clusterBounds(lane, size)),
      );
    }
  }

  select(layer: number, kvHead: number, query: Float32Array, lane: LaneView): Uint32Array {
    const { shareSpan, exemptLayers, shareGroup, metric, alpha, coarseRatio, ratio } = this.#options;
    const leader =
      layer < exemptLayers
        ? layer
        : exemptLayers + Math.floor((layer - exemptLayers) / shareSpan) * shareSpan;
    const shared = leader === layer ? undefined : this.#chosen.get(`${leader} ${kvHead}`);
    if (shared !== undefined) {
      this.counts.shared += 1;
      return shared.filter((slot) => slot < lane.length);
    }
    const levels = this.#levels.get(`${layer} ${kvHead}`);
    if (levels === undefined) throw invalidArgument("layer", layer, "a layer whose keys have been set");
    const dimensions = levels[0].largest.length / levels[0].count;
    const heads = Array.from({ length: query.length / dimensions }, (_, head) =>
      query.subarray(head * dimensions, (head + 1) * dimensions),
    );
    const queries = shareGroup
      ? [heads[0].map((_, d) => heads.reduce((sum, head) => sum + head[d], 0))]
      : heads;
    const fine = levels.at(-1)!;
    const slots = new Set<number>();
    for (const own of queries) {
      const { clusters, scored } = selectClusters(levels, own, lane.length, {
        metric,
        alpha,
        coarseRatio,
        ratio,
      });
      this.counts.selections += 1;
      this.counts.scores += scored;
      for (const cluster of clusters)
        for (let i = 0; i < fine.size; i++) {
          const slot = cluster * fine.size + i;
          if (slot < lane.length) slots.add(slot);
        }
    }
    const chosen = Uint32Array.from(slots).sort();
    this.#chosen.set(`${layer} ${kvHead}`, chosen);
    return chosen;
  }
}

/** Reads the single keys that fit a query best: what clusters approximate. */
export class TokenSelector implements SparseSelector {
  readonly name = "tokens";
  readonly #ratio: number;
  readonly #keys = new Map<string, LaneKeys>();

  constructor({ ratio = 0.2 } = {}) {
    this.#ratio = ratio;
  }

  setKeys({ layer, kvHeads, lengths, keys }: StatView): void {
    const { data, headStride, slotStride } = keys!;
    for (let kvHead = 0; kvHead < kvHeads; kvHead++)
      this.#keys.set(`${layer} ${kvHead}`, {
        data: data.slice(kvHead * headStride, kvHead * headStride + lengths[kvHead] * slotStride),
        base: 0,
        stride: slotStride,
        dimensions: slotStride,
        length: lengths[kvHead],
      });
  }

  select(layer: number, kvHead: number, query: Float32Array): Uint32Array {
    const { data, dimensions, length } = this.#keys.get(`${layer} ${kvHead}`)!;
    const slots = new Set<number>();
    for (let head = 0; head < query.length / dimensions; head++) {
      const scores = Float32Array.from({ length }, (_, slot) => {
        let sum = 0;
        for (let d = 0; d < dimensions; d++)
          sum += query[head * dimensions + d] * data[slot * dimensions + d];
        return sum;
      });
      const all = Array.from({ length }, (_, slot) => slot);
      for (const slot of largestOf(scores, all, Math.max(1, Math.floor(this.#ratio * length))))
        slots.add(slot);
    }
    return Uint32Array.from(slots).sort();
  }
}

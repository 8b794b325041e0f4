/** Which cached block a KvCache forgets first when it needs room: names, options and their defaults. */
import { invalidArgument, requireInteger } from "./errors.js";

/** Names of the orders; the position is the core's number (docs/abi.md). */
export const ORDER_KINDS = [
  "lru",
  "fifo",
  "lfu",
  "s3-fifo",
  "gdsf",
  "scored",
  "gittins",
  "marker",
  "flush-all-0s",
  "mark0",
  "mark-and-predict",
  "priority",
  "seen-twice",
] as const;
export type BlockOrderKind = (typeof ORDER_KINDS)[number];

export interface BlockOrderOptions {
  /**
   * - `lru` least recently used; a linked list, no memory of its own
   * - `fifo` first in, first out
   * - `lfu` least frequently used, least recently used among equals
   * - `s3-fifo` small, main and ghost queue ("FIFO queues are all you need for cache eviction", SOSP 2023)
   * - `gdsf` uses times cost to recompute, aged by what has been evicted (GreedyDual-Size-Frequency, HPL TR-98-69R1)
   * - `scored` by the number that the host gives with `cache.score`, the lowest first
   * - `gittins` fewest uses to be expected per unit of time kept, learned from how long blocks like it have waited for
   *   their next use; takes at least 128 KiB of its own
   * - `marker` a random block that was not used in this phase; a phase ends when there is none
   * - `flush-all-0s`, `mark0`, `mark-and-predict` by one bit for each use, `cache.advise(sequence, "discard" or "keep")`,
   *   else predicted by whether the block came back while it was still cached ("Paging with Succinct Predictions",
   *   arXiv 2210.02775)
   * - `priority` what has outlived its time to live, then the lowest of the priorities given with `cache.prioritize`,
   *   then least recently used
   * - `seen-twice` those used once, then those used more often, least recently used first: what is asked for once never
   *   pushes out what is asked for again
   *
   * Only blocks that nobody holds and that have no cached children are candidates, in every order. Bytes a block, history
   * apart: `lru` 0, `s3-fifo` 12, `fifo`, `lfu`, `seen-twice` and `flush-all-0s` 16, `marker` and `mark0` 20, `mark-and-predict` and
   * `gittins` 24, `gdsf` and `scored` 28, `priority` 52.
   */
  kind: BlockOrderKind;
  /**
   * Blocks remembered by hash after they have left, 0 to 2^26: the ghost queue of `s3-fifo` (10 to 12 bytes each), the uses
   * that `lfu` and `gdsf` (14 to 16) and `gittins` (22 to 24) go on counting when a block returns, what orders by advice
   * predict (14 to 16). 0 with `lfu`: uses since the block came in.
   * `seen-twice` remembers in 4 to 8 bytes each, the latest so many to twice as many, and takes one in 90 or fewer for seen
   * that was not. Default: as many as the cache has blocks for `s3-fifo` and the orders by advice, 4 times as many for
   * `lfu`, `gdsf`, `gittins` and `seen-twice`, else 0.
   */
  history?: number;
  /** `gdsf`: cost to recompute the first block of a prompt, >= 0. Default 1. */
  baseCost?: number;
  /** `gdsf`: what each block in front of a block adds to its cost (attention over it), >= 0. Default 0. */
  depthCost?: number;
}

/** Blocks that an order remembers for each block of the cache. */
const HISTORY_FACTOR: Readonly<Record<BlockOrderKind, number>> = {
  lru: 0,
  fifo: 0,
  lfu: 4,
  "s3-fifo": 1,
  gdsf: 4,
  scored: 0,
  gittins: 4,
  marker: 0,
  "flush-all-0s": 1,
  mark0: 1,
  "mark-and-predict": 1,
  priority: 0,
  "seen-twice": 4,
};
/** Orders that go by advice. */
export const ADVICE_KINDS: readonly BlockOrderKind[] = ["flush-all-0s", "mark0", "mark-and-predict"];
const MAX_HISTORY = 2 ** 26;

function requireCost(argument: string, value: unknown): number {
  if (typeof value !== "number" || !(value >= 0 && value < Infinity)) {
    throw invalidArgument(argument, value, "a finite number >= 0");
  }
  return value;
}

/** Checks a history, or gives the default of an order for a cache of `blocks` blocks. */
export function historyFor(kind: BlockOrderKind, history: number | undefined, blocks: number): number {
  const factor = HISTORY_FACTOR[kind];
  const entries = history ?? Math.min(MAX_HISTORY, factor * blocks);
  requireInteger("history", entries, 0, MAX_HISTORY);
  if (factor === 0 && entries !== 0) throw invalidArgument("history", entries, `0 for ${kind}`);
  return entries;
}

/** Checks an order and fills in defaults for a cache of `blocks` blocks. */
export function blockOrderShape(
  order: BlockOrderKind | BlockOrderOptions | undefined,
  blocks: number,
): Required<BlockOrderOptions> {
  const options = typeof order === "string" ? { kind: order } : (order ?? { kind: "lru" });
  if (typeof options !== "object" || options === null)
    throw invalidArgument("evictionOrder", order, "a name or an object");
  const kind = options.kind;
  if (!ORDER_KINDS.includes(kind)) throw invalidArgument("evictionOrder", kind, ORDER_KINDS.join(", "));
  const history = historyFor(kind, options.history, blocks);
  const shape = {
    kind,
    history,
    baseCost: requireCost("baseCost", options.baseCost ?? 1),
    depthCost: requireCost("depthCost", options.depthCost ?? 0),
  };
  if (kind !== "gdsf" && (options.baseCost !== undefined || options.depthCost !== undefined))
    throw invalidArgument("baseCost and depthCost", options, "costs only with gdsf");
  return shape;
}

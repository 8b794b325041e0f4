/** What an ordered index is created with, and what it tells of itself. */
import { invalidArgument, requireInteger } from "./errors.js";

export interface OrderedIndexOptions {
  /** Entries to make room for, 1 to 2^27. More may fit; when nodes run out, `set` throws OUT_OF_MEMORY. */
  capacity: number;
  /** Bytes a value, 8 (default) or 4. */
  valueBytes?: 4 | 8;
  /** Bytes a node, a power of two from 128 to 4096. Default 1024. */
  nodeBytes?: number;
  /**
   * Who uses it: one thread at a time ("private", default), or many (build "core-threads"): readers and
   * writers locking nodes ("locked"), or only writers locking while readers validate ("optimistic", faster).
   */
  mode?: IndexMode;
  /**
   * One key in this many, a power of two from 2 to 1024, starts a node of its own. More is denser and costs
   * reads a step to the right now and then. Default: about half of what a leaf holds.
   */
  keysPerPromotion?: number;
}

export type IndexMode = "private" | "locked" | "optimistic";

/** In the order of the core's numbers. */
export const INDEX_MODES: readonly IndexMode[] = ["private", "locked", "optimistic"];

export interface OrderedIndexStats {
  readonly entries: number;
  readonly nodes: number;
  readonly freeNodes: number;
  readonly levels: number;
  readonly mode: IndexMode;
  /** Optimistic reads and descents that met a writer and started again; of these, those that then took locks. */
  readonly retries: number;
  readonly fallbacks: number;
  /** Bytes of used nodes an entry, key and value included. */
  readonly bytesPerEntry: number;
}

export type OrderedIndexShape = Required<Omit<OrderedIndexOptions, "keysPerPromotion">> & {
  keysPerPromotion: number | undefined;
};

/** Checks options and fills in defaults. */
export function orderedIndexShape(options: OrderedIndexOptions): OrderedIndexShape {
  if (typeof options !== "object" || options === null) throw invalidArgument("options", options, "an object");
  const { valueBytes = 8, nodeBytes = 1024, mode = "private", keysPerPromotion } = options;
  if (valueBytes !== 4 && valueBytes !== 8) throw invalidArgument("valueBytes", valueBytes, "4 or 8");
  requirePowerOfTwo("nodeBytes", nodeBytes, 128, 4096);
  if (!INDEX_MODES.includes(mode)) throw invalidArgument("mode", mode, INDEX_MODES.join(", "));
  if (keysPerPromotion !== undefined) requirePowerOfTwo("keysPerPromotion", keysPerPromotion, 2, 1024);
  const capacity = requireInteger("capacity", options.capacity, 1, 2 ** 27);
  return { capacity, valueBytes, nodeBytes, mode, keysPerPromotion };
}

function requirePowerOfTwo(argument: string, value: unknown, lowest: number, highest: number): void {
  if (typeof value !== "number" || value < lowest || value > highest || !Number.isInteger(Math.log2(value))) {
    throw invalidArgument(argument, value, `a power of two from ${lowest} to ${highest}`);
  }
}

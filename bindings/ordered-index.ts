/**
 * OrderedIndex: a map from u64 keys to u64 or u32 values, in key order, in core memory.
 *
 * Keys are 1 to 2^64 - 2. Three ways to call it: on one key (ordered-index-entries.ts), in batches that are
 * copied in and out (the `...Many` forms, `apply`), and in batches that lie in core memory (`region`). One
 * crossing for thousands of keys is what real work wants.
 * Structure: "Bridging Cache-Friendliness and Concurrency: A Locality-Optimized In-Memory B-Skiplist" (arXiv
 * 2507.21492).
 */
import { BatchRegion, REGION_KEYS } from "./batch-region.js";
import { invalidArgument, requireInteger } from "./errors.js";
import type { Operations } from "./operations.js";
import { MAX_KEY, OrderedIndexEntries } from "./ordered-index-entries.js";
import type { OrderedIndexStats } from "./ordered-index-options.js";

/** Entries of the first crossing of an iteration; each that follows moves twice as many. */
const FIRST_ENTRIES = 64;

/** Values of keys, 0 for those missing, and 1 for each that was found. */
export interface Found {
  readonly values: BigUint64Array;
  readonly found: Uint8Array;
}

/** Made by `core.orderedIndex(...)`. */
export class OrderedIndex extends OrderedIndexEntries {
  #region: BatchRegion | undefined;

  /** Batches without a copy. Each read of an array from it is fresh. */
  get region(): BatchRegion {
    return (this.#region ??= new BatchRegion(this));
  }

  /**
   * Looks many keys up. Returns their values, 0 when missing, and whether each was found: in new arrays, or in
   * `out`, which then holds at least as many.
   */
  getMany(keys: BigUint64Array, out: Found = newFound(keys)): Found {
    const { values, found } = out;
    if (!(values.length >= keys.length && found.length >= keys.length))
      throw invalidArgument("out", values.length, `arrays of at least ${keys.length}`);
    const { region } = this;
    for (let from = 0; from < keys.length; from += REGION_KEYS) {
      const count = copyIn(region.keys, keys, from);
      region.getMany(count);
      values.set(region.values.subarray(0, count), from);
      found.set(region.found.subarray(0, count), from);
    }
    return out;
  }

  /**
   * Enters many. Throws at the first key that cannot be entered (INVALID_ARGUMENT, OUT_OF_MEMORY); those
   * before it are in.
   */
  setMany(keys: BigUint64Array, values: BigUint64Array): void {
    if (keys.length !== values.length)
      throw invalidArgument("values", values, `${keys.length} values, one for each key`);
    const { region } = this;
    for (let from = 0; from < keys.length; from += REGION_KEYS) {
      copyIn(region.values, values, from);
      region.setMany(copyIn(region.keys, keys, from));
    }
  }

  /** Removes many; returns how many were there. */
  deleteMany(keys: BigUint64Array): number {
    const { region } = this;
    let removed = 0;
    for (let from = 0; from < keys.length; from += REGION_KEYS)
      removed += region.deleteMany(copyIn(region.keys, keys, from));
    return removed;
  }

  /**
   * Runs recorded operations in order, a thousand in one crossing. Their results are then in `operations`; a
   * refused one (OUT_OF_MEMORY, an invalid key) has a negative status and the others go on.
   */
  apply(operations: Operations): void {
    if (operations.inRegion)
      throw invalidArgument("operations", operations, "operations of their own; a region applies its own");
    this.region.applyCopied(operations);
  }

  /** Up to `limit` entries from `from` on, in key order. */
  scan(from: bigint, limit: number): [key: bigint, value: bigint][] {
    requireInteger("limit", limit, 0, 2 ** 31 - 1);
    const { region } = this;
    const entries: [bigint, bigint][] = [];
    for (let next = from; entries.length < limit; next = entries[entries.length - 1][0] + 1n) {
      const asked = Math.min(REGION_KEYS, limit - entries.length);
      const count = region.scan(next, asked);
      const { keys, values } = region;
      for (let i = 0; i < count; i++) entries.push([keys[i], values[i]]);
      if (count < asked) break;
    }
    return entries;
  }

  /** As `scan`, into arrays that hold at least `limit` entries each. Returns how many entries there were. */
  scanInto(from: bigint, limit: number, keys: BigUint64Array, values: BigUint64Array): number {
    requireInteger("limit", limit, 0, Math.min(keys.length, values.length));
    const { region } = this;
    let written = 0;
    for (let next = from; written < limit; next = keys[written - 1] + 1n) {
      const asked = Math.min(REGION_KEYS, limit - written);
      const count = region.scan(next, asked);
      keys.set(region.keys.subarray(0, count), written);
      values.set(region.values.subarray(0, count), written);
      written += count;
      if (count < asked) break;
    }
    return written;
  }

  /**
   * Entries with lowest <= key <= highest, in key order, read in batches: entries changed meanwhile may or
   * may not show.
   */
  *range(lowest: bigint, highest: bigint): Generator<[key: bigint, value: bigint]> {
    const { region } = this;
    let asked = FIRST_ENTRIES;
    for (let next = lowest; ; asked = Math.min(asked * 2, REGION_KEYS)) {
      const count = region.scan(next, asked, highest);
      // Copies: whoever takes the entries may call anything in between.
      const keys = region.keys.slice(0, count);
      const values = region.values.slice(0, count);
      for (let i = 0; i < count; i++) yield [keys[i], values[i]];
      if (count < asked) return;
      next = keys[count - 1] + 1n;
    }
  }

  /** All entries in key order. */
  entries(): Generator<[key: bigint, value: bigint]> {
    return this.range(1n, MAX_KEY);
  }

  [Symbol.iterator](): Generator<[key: bigint, value: bigint]> {
    return this.entries();
  }

  get size(): number {
    return this.core.exports.orderedIndexSize(this.pointer);
  }

  clear(): void {
    this.core.requireUsable();
    this.core.exports.orderedIndexClear(this.pointer);
  }

  stats(): OrderedIndexStats {
    const { exports } = this.core;
    const nodes = exports.orderedIndexNodes(this.pointer);
    const freeNodes = exports.orderedIndexFreeNodes(this.pointer);
    const entries = this.size;
    const bytes = (nodes - freeNodes) * exports.orderedIndexNodeBytes(this.pointer);
    return {
      entries,
      nodes,
      freeNodes,
      levels: exports.orderedIndexLevels(this.pointer),
      mode: this.mode,
      retries: exports.orderedIndexRetries(this.pointer) >>> 0,
      fallbacks: exports.orderedIndexFallbacks(this.pointer) >>> 0,
      bytesPerEntry: entries === 0 ? 0 : bytes / entries,
    };
  }

  /** Full check, O(n); throws CORRUPT. */
  validate(): void {
    this.core.call(() => this.core.exports.orderedIndexValidate(this.pointer), "orderedIndex");
  }
}

function newFound({ length }: BigUint64Array): Found {
  return { values: new BigUint64Array(length), found: new Uint8Array(length) };
}

/** Copies the next keys (or values) of a batch into the region; returns how many. */
function copyIn(to: BigUint64Array, batch: BigUint64Array, from: number): number {
  if (!(batch instanceof BigUint64Array)) throw invalidArgument("keys", batch, "a BigUint64Array");
  const next = from === 0 && batch.length <= to.length ? batch : batch.subarray(from, from + to.length);
  to.set(next);
  return next.length;
}

/**
 * BatchRegion: batches of an ordered index without a copy. The caller writes keys and values where the core
 * reads them, and reads what the core has written there.
 *
 *   keys u64[2048] | values u64[2048] | found u8[2048]              getMany, setMany, deleteMany, scan
 *   records, 32 bytes [1024] | keys u64[2048] | values u64[2048]    operations and apply, over the same bytes
 *
 * It is this thread's scratch in the core. What lies there is good until the next call of anything else of the
 * core; only calls on single keys of indexes leave it alone. The arrays are stale (of length 0 in a plain
 * memory) once the core has created another structure: take them from the region anew, what lies there stays.
 */
import type { Core } from "./core.js";
import { requireInteger } from "./errors.js";
import { Operations, RECORD_WORDS } from "./operations.js";
import { MAX_KEY, type OrderedIndexEntries, requireBigint } from "./ordered-index-entries.js";

/** Keys of one call. */
export const REGION_KEYS = 2048;
/** Operations of one call, and entries that its scans may find together. */
export const REGION_OPERATIONS = 1024;
export const REGION_ENTRIES = 2048;

const VALUES = REGION_KEYS * 8;
const FOUND = VALUES * 2;
const ENTRY_KEYS = REGION_OPERATIONS * RECORD_WORDS * 4;
const ENTRY_VALUES = ENTRY_KEYS + REGION_ENTRIES * 8;
const REGION_BYTES = ENTRY_VALUES + REGION_ENTRIES * 8;

class Arrays {
  readonly keys: BigUint64Array;
  readonly values: BigUint64Array;
  readonly found: Uint8Array;
  readonly keyHalves: Uint32Array;
  readonly valueHalves: Uint32Array;
  readonly records: Uint32Array;
  readonly entryKeys: BigUint64Array;
  readonly entryValues: BigUint64Array;

  constructor({ buffer }: WebAssembly.Memory, at: number) {
    this.keys = new BigUint64Array(buffer, at, REGION_KEYS);
    this.values = new BigUint64Array(buffer, at + VALUES, REGION_KEYS);
    this.found = new Uint8Array(buffer, at + FOUND, REGION_KEYS);
    this.keyHalves = new Uint32Array(buffer, at, REGION_KEYS * 2);
    this.valueHalves = new Uint32Array(buffer, at + VALUES, REGION_KEYS * 2);
    this.records = new Uint32Array(buffer, at, REGION_OPERATIONS * RECORD_WORDS);
    this.entryKeys = new BigUint64Array(buffer, at + ENTRY_KEYS, REGION_ENTRIES);
    this.entryValues = new BigUint64Array(buffer, at + ENTRY_VALUES, REGION_ENTRIES);
  }
}

export class BatchRegion {
  /** Most keys of one call. */
  readonly capacity: number = REGION_KEYS;
  /** Recorded straight into the region; `apply` runs them. */
  readonly operations: Operations;
  readonly #index: OrderedIndexEntries;
  readonly #core: Core;
  readonly #at: number;
  #arrays: Arrays;

  /** Made by `index.region`. */
  constructor(index: OrderedIndexEntries) {
    this.#index = index;
    this.#core = index.core;
    this.#at = index.core.scratch(REGION_BYTES);
    this.#arrays = new Arrays(index.core.memory, this.#at);
    this.operations = new Operations(REGION_OPERATIONS, {
      records: () => this.#live().records,
      scanned: () => ({ keys: this.#live().entryKeys, values: this.#live().entryValues }),
    });
  }

  get keys(): BigUint64Array {
    return this.#live().keys;
  }

  /** The keys as u32 halves, the low one first. */
  get keyHalves(): Uint32Array {
    return this.#live().keyHalves;
  }

  get values(): BigUint64Array {
    return this.#live().values;
  }

  /** The values as u32 halves, the low one first. */
  get valueHalves(): Uint32Array {
    return this.#live().valueHalves;
  }

  /** 1 where `getMany` found the key. */
  get found(): Uint8Array {
    return this.#live().found;
  }

  /** Looks the first `count` keys up; writes `values` (0 when missing) and `found`. Returns how many were. */
  getMany(count: number): number {
    const at = this.#checked(count);
    const { exports } = this.#core;
    try {
      return exports.orderedIndexGetMany(this.#index.pointer, at, count, at + VALUES, at + FOUND);
    } catch (error) {
      throw this.#core.trapped(error, "getMany");
    }
  }

  /**
   * Enters the first `count` keys with their values. Throws at the first that cannot be entered
   * (INVALID_ARGUMENT, OUT_OF_MEMORY); those before it are in.
   */
  setMany(count: number): void {
    const at = this.#checked(count);
    let entered: number;
    try {
      entered = this.#core.exports.orderedIndexSetMany(this.#index.pointer, at, at + VALUES, count);
    } catch (error) {
      throw this.#core.trapped(error, "setMany");
    }
    // Entering the first key that was refused again says why it was.
    if (entered < count) this.#index.set(this.keys[entered], this.values[entered]);
  }

  /** Removes the first `count` keys; returns how many were there. */
  deleteMany(count: number): number {
    const at = this.#checked(count);
    try {
      return this.#core.exports.orderedIndexDeleteMany(this.#index.pointer, at, count);
    } catch (error) {
      throw this.#core.trapped(error, "deleteMany");
    }
  }

  /** Writes up to `limit` entries with lowest <= key <= highest, in key order; returns how many there were. */
  scan(lowest: bigint, limit: number, highest: bigint = MAX_KEY): number {
    const at = this.#checked(limit, "limit");
    requireBigint("lowest", lowest);
    requireBigint("highest", highest);
    if (highest < 1n || lowest > MAX_KEY) return 0;
    const from = lowest < 1n ? 1n : lowest;
    const to = highest > MAX_KEY ? MAX_KEY : highest;
    const { exports } = this.#core;
    try {
      return exports.orderedIndexRange(this.#index.pointer, from, to, limit, at, at + VALUES);
    } catch (error) {
      throw this.#core.trapped(error, "scan");
    }
  }

  /** Runs `operations` in order; the results are then in them, the entries of their scans as well. */
  apply(): void {
    const { operations } = this;
    this.#run(operations.length);
    operations.markScans(0, operations.length, 0);
  }

  /** Runs operations that lie elsewhere: copies them in and their results back. */
  applyCopied(source: Operations): void {
    let entries = 0;
    for (let from = 0; from < source.length;) {
      const { records, entryKeys, entryValues } = this.#live();
      const count = source.countFitting(from, REGION_OPERATIONS, REGION_ENTRIES);
      const words = source.words.subarray(from * RECORD_WORDS, (from + count) * RECORD_WORDS);
      records.set(words);
      this.#run(count);
      words.set(records.subarray(0, count * RECORD_WORDS));
      const found = source.markScans(from, from + count, entries);
      source.appendEntries(entryKeys, entryValues, entries, found);
      entries += found;
      from += count;
    }
  }

  #run(count: number): number {
    this.#core.requireUsable();
    const { exports } = this.#core;
    const at = this.#at;
    try {
      return exports.orderedIndexApply(
        this.#index.pointer,
        at,
        count,
        at + ENTRY_KEYS,
        at + ENTRY_VALUES,
        REGION_ENTRIES,
      );
    } catch (error) {
      throw this.#core.trapped(error, "apply");
    }
  }

  /** Address of the region, for a call on `count` keys. */
  #checked(count: number, argument = "count"): number {
    this.#core.requireUsable();
    requireInteger(argument, count, 0, REGION_KEYS);
    return this.#at;
  }

  #live(): Arrays {
    if (this.#arrays.keys.length === 0) this.#arrays = new Arrays(this.#core.memory, this.#at);
    return this.#arrays;
  }
}

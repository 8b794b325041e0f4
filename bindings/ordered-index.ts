/**
 * OrderedIndex: a map from u64 keys to u64 or u32 values, in key order, in core memory.
 *
 * Keys are 1 to 2^64 - 2. The `...Many` forms are for real work: one crossing for thousands of keys.
 * Structure: "Bridging Cache-Friendliness and Concurrency: A Locality-Optimized In-Memory B-Skiplist" (arXiv
 * 2507.21492).
 */
import { type Core, statusError } from "./core.js";
import { invalidArgument, requireInteger } from "./errors.js";
import { type Operations, RECORD_WORDS } from "./operations.js";

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

const MAX_KEY = (1n << 64n) - 2n;
const MAX_U64 = (1n << 64n) - 1n;
/** Keys moved in one crossing: keys, values and flags of a batch fit the core's scratch. */
const BATCH = 2048;
/** Operation records and scanned entries of one crossing of `apply`. */
const APPLY_RECORDS = 1024;
const APPLY_ENTRIES = 2048;

export class OrderedIndex {
  readonly core: Core;
  /** Address of the structure in core memory. */
  readonly pointer: number;
  readonly valueBytes: 4 | 8;
  readonly mode: IndexMode;

  /** Made by `core.orderedIndex(...)`. */
  constructor(core: Core, pointer: number) {
    this.core = core;
    this.pointer = pointer;
    this.valueBytes = core.exports.orderedIndexValueBytes(pointer) as 4 | 8;
    this.mode = INDEX_MODES[core.exports.orderedIndexMode(pointer)];
  }

  /** Checks options and fills in defaults. */
  static shape(options: OrderedIndexOptions): Required<Omit<OrderedIndexOptions, "keysPerPromotion">> & {
    keysPerPromotion: number | undefined;
  } {
    if (typeof options !== "object" || options === null)
      throw invalidArgument("options", options, "an object");
    const { valueBytes = 8, nodeBytes = 1024, mode = "private", keysPerPromotion } = options;
    if (valueBytes !== 4 && valueBytes !== 8) throw invalidArgument("valueBytes", valueBytes, "4 or 8");
    requirePowerOfTwo("nodeBytes", nodeBytes, 128, 4096);
    if (!INDEX_MODES.includes(mode)) throw invalidArgument("mode", mode, INDEX_MODES.join(", "));
    if (keysPerPromotion !== undefined) requirePowerOfTwo("keysPerPromotion", keysPerPromotion, 2, 1024);
    const capacity = requireInteger("capacity", options.capacity, 1, 2 ** 27);
    return { capacity, valueBytes, nodeBytes, mode, keysPerPromotion };
  }

  get(key: bigint): bigint | undefined {
    const at = this.#find(key);
    return at === 0 ? undefined : this.#valueAt(at);
  }

  has(key: bigint): boolean {
    return this.#find(key) !== 0;
  }

  /** Enters or overwrites; returns whether the key is new. Throws OUT_OF_MEMORY, then nothing has changed. */
  set(key: bigint, value: bigint): boolean {
    const checkedKey = this.#key(key);
    const checkedValue = this.#value(value);
    return (
      this.core.call(
        () => this.core.exports.orderedIndexSet64(this.pointer, checkedKey, checkedValue),
        "set",
      ) === 1
    );
  }

  /** As `get`, without BigInt: the low 32 bits of the value, or undefined. */
  getLow(keyLow: number, keyHigh: number): number | undefined {
    const at = this.#findHalves(keyLow, keyHigh);
    return at === 0 ? undefined : new DataView(this.core.memory.buffer).getUint32(at, true);
  }

  /** As `has`, without BigInt. */
  hasHalves(keyLow: number, keyHigh: number): boolean {
    return this.#findHalves(keyLow, keyHigh) !== 0;
  }

  /** As `set`, without BigInt: key and value as two u32 halves each. */
  setHalves(keyLow: number, keyHigh: number, valueLow: number, valueHigh = 0): boolean {
    const { exports } = this.core;
    return (
      this.core.call(
        () => exports.orderedIndexSet(this.pointer, keyLow, keyHigh, valueLow, valueHigh),
        "set",
      ) === 1
    );
  }

  /** Removes a key; returns whether it was there. */
  delete(key: bigint): boolean {
    const checkedKey = this.#key(key);
    return (
      this.core.call(() => this.core.exports.orderedIndexDelete64(this.pointer, checkedKey), "delete") === 1
    );
  }

  /** As `delete`, without BigInt. */
  deleteHalves(keyLow: number, keyHigh: number): boolean {
    const { exports } = this.core;
    return this.core.call(() => exports.orderedIndexDelete(this.pointer, keyLow, keyHigh), "delete") === 1;
  }

  /** Stores `value` if the key's value is `expected`; returns whether it was. Throws NOT_FOUND. */
  compareExchange(key: bigint, expected: bigint, value: bigint): boolean {
    const { exports } = this.core;
    const [k, e, v] = [this.#key(key), this.#value(expected), this.#value(value)];
    return (
      this.core.call(
        () => exports.orderedIndexCompareExchange64(this.pointer, k, e, v),
        "compareExchange",
      ) === 1
    );
  }

  /** Adds to a value, modulo its width; returns the value before. Throws NOT_FOUND. */
  fetchAdd(key: bigint, delta: bigint): bigint {
    const { exports } = this.core;
    const [k, d] = [this.#key(key), BigInt.asUintN(64, delta)];
    const at = this.core.run(() => exports.orderedIndexFetchAdd64(this.pointer, k, d), "fetchAdd") >>> 0;
    if (at === 0)
      throw statusError(-19, `key ${key}`, { argument: "key", value: key, range: "a key in the index" });
    return new DataView(this.core.memory.buffer).getBigUint64(at, true);
  }

  /** Looks many keys up. Returns their values, 0 when missing, and whether each was found. */
  getMany(keys: BigUint64Array): { values: BigUint64Array; found: Uint8Array } {
    const values = new BigUint64Array(keys.length);
    const found = new Uint8Array(keys.length);
    this.#inBatches(keys.length, (from, count, at) => {
      const { exports, memory } = this.core;
      new BigUint64Array(memory.buffer, at, count).set(keys.subarray(from, from + count));
      const valuesAt = at + BATCH * 8;
      const foundAt = valuesAt + BATCH * 8;
      this.core.run(() => exports.orderedIndexGetMany(this.pointer, at, count, valuesAt, foundAt), "getMany");
      values.set(new BigUint64Array(memory.buffer, valuesAt, count), from);
      found.set(new Uint8Array(memory.buffer, foundAt, count), from);
    });
    return { values, found };
  }

  /**
   * Enters many. Throws at the first key that cannot be entered (INVALID_ARGUMENT, OUT_OF_MEMORY); those
   * before it are in.
   */
  setMany(keys: BigUint64Array, values: BigUint64Array): void {
    if (keys.length !== values.length)
      throw invalidArgument("values", values, `${keys.length} values, one for each key`);
    this.#inBatches(keys.length, (from, count, at) => {
      const { exports, memory } = this.core;
      const valuesAt = at + BATCH * 8;
      new BigUint64Array(memory.buffer, at, count).set(keys.subarray(from, from + count));
      new BigUint64Array(memory.buffer, valuesAt, count).set(values.subarray(from, from + count));
      const entered = this.core.run(
        () => exports.orderedIndexSetMany(this.pointer, at, valuesAt, count),
        "setMany",
      );
      // Entering the first key that was refused again says why it was.
      if (entered < count) this.set(keys[from + entered], values[from + entered]);
    });
  }

  /** Removes many; returns how many were there. */
  deleteMany(keys: BigUint64Array): number {
    let removed = 0;
    this.#inBatches(keys.length, (from, count, at) => {
      const { exports, memory } = this.core;
      new BigUint64Array(memory.buffer, at, count).set(keys.subarray(from, from + count));
      removed += this.core.run(() => exports.orderedIndexDeleteMany(this.pointer, at, count), "deleteMany");
    });
    return removed;
  }

  /**
   * Runs recorded operations in order, thousands in one crossing. Their results are then in `operations`; a
   * refused one (OUT_OF_MEMORY, an invalid key) has a negative status and the others go on.
   */
  apply(operations: Operations): void {
    this.core.requireUsable();
    const { words, length } = operations;
    const at = this.core.scratch(APPLY_RECORDS * RECORD_WORDS * 4 + APPLY_ENTRIES * 16);
    const keysAt = at + APPLY_RECORDS * RECORD_WORDS * 4;
    const valuesAt = keysAt + APPLY_ENTRIES * 8;
    let entries = 0;
    for (let from = 0; from < length;) {
      const { exports, memory } = this.core;
      const count = Math.min(APPLY_RECORDS, length - from);
      const records = new Uint32Array(memory.buffer, at, count * RECORD_WORDS);
      records.set(words.subarray(from * RECORD_WORDS, (from + count) * RECORD_WORDS));
      const done = this.core.run(
        () => exports.orderedIndexApply(this.pointer, at, count, keysAt, valuesAt, APPLY_ENTRIES),
        "apply",
      );
      words.set(records.subarray(0, done * RECORD_WORDS), from * RECORD_WORDS);
      const found = operations.markScans(from, from + done, entries);
      operations.appendEntries(memory.buffer, keysAt, valuesAt, entries, found);
      entries += found;
      from += done;
    }
  }

  /** Up to `limit` entries from `from` on, in key order. */
  scan(from: bigint, limit: number): [key: bigint, value: bigint][] {
    requireInteger("limit", limit, 0, 2 ** 31 - 1);
    const entries: [bigint, bigint][] = [];
    for (const entry of this.range(from, MAX_KEY)) {
      if (entries.length === limit) break;
      entries.push(entry);
    }
    return entries;
  }

  /** As `scan`, into arrays that hold at least `limit` entries each. Returns how many entries there were. */
  scanInto(from: bigint, limit: number, keys: BigUint64Array, values: BigUint64Array): number {
    requireInteger("limit", limit, 0, Math.min(keys.length, values.length));
    let written = 0;
    for (let next = clamp(from); written < limit;) {
      const { exports, memory } = this.core;
      this.core.requireUsable();
      const at = this.core.scratch(BATCH * 16);
      const asked = Math.min(BATCH, limit - written);
      const count = exports.orderedIndexRange(this.pointer, next, MAX_KEY, asked, at, at + BATCH * 8);
      keys.set(new BigUint64Array(memory.buffer, at, count), written);
      values.set(new BigUint64Array(memory.buffer, at + BATCH * 8, count), written);
      written += count;
      if (count < asked || keys[written - 1] === MAX_KEY) break;
      next = keys[written - 1] + 1n;
    }
    return written;
  }

  /**
   * Entries with lowest <= key <= highest, in key order, read in batches: entries changed meanwhile may or
   * may not show.
   */
  *range(lowest: bigint, highest: bigint): Generator<[key: bigint, value: bigint]> {
    const last = clamp(highest);
    for (let next = clamp(lowest); next <= last;) {
      const { exports, memory } = this.core;
      this.core.requireUsable();
      const at = this.core.scratch(BATCH * 16);
      const from = next;
      const count = this.core.run(
        () => exports.orderedIndexRange(this.pointer, from, last, BATCH, at, at + BATCH * 8),
        "range",
      );
      const keys = new BigUint64Array(memory.buffer, at, count).slice();
      const values = new BigUint64Array(memory.buffer, at + BATCH * 8, count).slice();
      for (let i = 0; i < count; i++) yield [keys[i], values[i]];
      if (count < BATCH) return;
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

  /** Address of the key's value, 0 when it is not there. */
  #find(key: bigint): number {
    const checkedKey = this.#key(key);
    try {
      return this.core.exports.orderedIndexFind64(this.pointer, checkedKey) >>> 0;
    } catch (error) {
      throw this.core.trapped(error, "get");
    }
  }

  #findHalves(keyLow: number, keyHigh: number): number {
    this.core.requireUsable();
    try {
      return this.core.exports.orderedIndexFind(this.pointer, keyLow, keyHigh) >>> 0;
    } catch (error) {
      throw this.core.trapped(error, "get");
    }
  }

  #key(key: bigint): bigint {
    this.core.requireUsable();
    if (typeof key !== "bigint" || key < 1n || key > MAX_KEY) {
      throw invalidArgument("key", key, "a bigint from 1 to 2^64 - 2");
    }
    return key;
  }

  #value(value: bigint): bigint {
    const highest = this.valueBytes === 8 ? MAX_U64 : 0xffffffffn;
    if (typeof value !== "bigint" || value < 0n || value > highest) {
      throw invalidArgument("value", value, `a bigint from 0 to ${highest}`);
    }
    return value;
  }

  #valueAt(at: number): bigint {
    const view = new DataView(this.core.memory.buffer);
    // A shared index hands out a copy, always eight bytes wide.
    const wide = this.valueBytes === 8 || this.mode !== "private";
    return wide ? view.getBigUint64(at, true) : BigInt(view.getUint32(at, true));
  }

  #inBatches(length: number, run: (from: number, count: number, at: number) => void): void {
    this.core.requireUsable();
    const at = this.core.scratch(BATCH * 17);
    for (let from = 0; from < length; from += BATCH) run(from, Math.min(BATCH, length - from), at);
  }
}

function requirePowerOfTwo(argument: string, value: unknown, lowest: number, highest: number): void {
  if (typeof value !== "number" || value < lowest || value > highest || !Number.isInteger(Math.log2(value))) {
    throw invalidArgument(argument, value, `a power of two from ${lowest} to ${highest}`);
  }
}

function clamp(key: bigint): bigint {
  if (typeof key !== "bigint") throw invalidArgument("key", key, "a bigint");
  return key < 1n ? 1n : key > MAX_KEY ? MAX_KEY : key;
}

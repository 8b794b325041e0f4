/**
 * OrderedIndex: a map from u64 keys to u64 or u32 values, in key order, in core memory.
 *
 * Keys are 1 to 2^64 - 2. The `...Many` forms are for real work: one crossing for thousands of keys.
 * Structure: "Bridging Cache-Friendliness and Concurrency: A Locality-Optimized In-Memory B-Skiplist" (arXiv
 * 2507.21492).
 */
import { type Core, statusError } from "./core.js";
import { invalidArgument, requireInteger } from "./errors.js";

export interface OrderedIndexOptions {
  /** Entries to make room for, 1 to 2^27. More may fit; when nodes run out, `set` throws OUT_OF_MEMORY. */
  capacity: number;
  /** Bytes a value, 8 (default) or 4. */
  valueBytes?: 4 | 8;
  /** Bytes a node, a multiple of 64 from 128 to 4096. Default 1024. */
  nodeBytes?: number;
}

export interface OrderedIndexStats {
  readonly entries: number;
  readonly nodes: number;
  readonly freeNodes: number;
  readonly levels: number;
  /** Bytes of used nodes an entry, key and value included. */
  readonly bytesPerEntry: number;
}

export interface OrderedIndexExports {
  orderedIndexNodesFor(entries: number, nodeBytes: number, valueBytes: number): number;
  orderedIndexBytes(nodes: number, nodeBytes: number, valueBytes: number): number;
  orderedIndexCreate(nodes: number, nodeBytes: number, valueBytes: number): number;
  orderedIndexSet(
    index: number,
    keyLow: number,
    keyHigh: number,
    valueLow: number,
    valueHigh: number,
  ): number;
  orderedIndexSet64(index: number, key: bigint, value: bigint): number;
  orderedIndexFind(index: number, keyLow: number, keyHigh: number): number;
  orderedIndexFind64(index: number, key: bigint): number;
  orderedIndexDelete64(index: number, key: bigint): number;
  orderedIndexCompareExchange64(index: number, key: bigint, expected: bigint, value: bigint): number;
  orderedIndexAdd64(index: number, key: bigint, delta: bigint): number;
  orderedIndexGetMany(index: number, keys: number, count: number, values: number, found: number): number;
  orderedIndexSetMany(index: number, keys: number, values: number, count: number): number;
  orderedIndexDeleteMany(index: number, keys: number, count: number): number;
  orderedIndexRange(
    index: number,
    lowest: bigint,
    highest: bigint,
    limit: number,
    keys: number,
    values: number,
  ): number;
  orderedIndexSize(index: number): number;
  orderedIndexClear(index: number): void;
  orderedIndexFreeNodes(index: number): number;
  orderedIndexNodes(index: number): number;
  orderedIndexNodeBytes(index: number): number;
  orderedIndexValueBytes(index: number): number;
  orderedIndexLevels(index: number): number;
  orderedIndexValidate(index: number): number;
}

const MAX_KEY = (1n << 64n) - 2n;
const MAX_U64 = (1n << 64n) - 1n;
/** Keys moved in one crossing: keys, values and flags of a batch fit the core's scratch. */
const BATCH = 2048;

export class OrderedIndex {
  readonly core: Core;
  /** Address of the structure in core memory. */
  readonly pointer: number;
  readonly valueBytes: 4 | 8;

  /** Made by `core.orderedIndex(...)`. */
  constructor(core: Core, pointer: number) {
    this.core = core;
    this.pointer = pointer;
    this.valueBytes = core.exports.orderedIndexValueBytes(pointer) as 4 | 8;
  }

  /** Checks options and fills in defaults. */
  static shape(options: OrderedIndexOptions): Required<OrderedIndexOptions> {
    if (typeof options !== "object" || options === null)
      throw invalidArgument("options", options, "an object");
    const valueBytes = options.valueBytes ?? 8;
    if (valueBytes !== 4 && valueBytes !== 8) throw invalidArgument("valueBytes", valueBytes, "4 or 8");
    const nodeBytes = requireInteger("nodeBytes", options.nodeBytes ?? 1024, 128, 4096);
    if (nodeBytes % 64 !== 0)
      throw invalidArgument("nodeBytes", nodeBytes, "a multiple of 64 from 128 to 4096");
    return { capacity: requireInteger("capacity", options.capacity, 1, 2 ** 27), valueBytes, nodeBytes };
  }

  get(key: bigint): bigint | undefined {
    const at = this.core.exports.orderedIndexFind64(this.pointer, this.#key(key)) >>> 0;
    return at === 0 ? undefined : this.#valueAt(at);
  }

  has(key: bigint): boolean {
    return this.core.exports.orderedIndexFind64(this.pointer, this.#key(key)) !== 0;
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
    const at = this.core.exports.orderedIndexFind(this.pointer, keyLow, keyHigh) >>> 0;
    return at === 0 ? undefined : new DataView(this.core.memory.buffer).getUint32(at, true);
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
    const checkedKey = this.#key(key);
    const at = this.core.exports.orderedIndexAdd64(this.pointer, checkedKey, BigInt.asUintN(64, delta)) >>> 0;
    if (at === 0)
      throw statusError(-19, `key ${key}`, { argument: "key", value: key, range: "a key in the index" });
    return BigInt.asUintN(this.valueBytes * 8, this.#valueAt(at) - delta);
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
      exports.orderedIndexGetMany(this.pointer, at, count, valuesAt, foundAt);
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
      const entered = exports.orderedIndexSetMany(this.pointer, at, valuesAt, count);
      // Entering the first key that was refused again says why it was.
      if (entered < count) this.set(keys[from + entered], values[from + entered]);
    });
  }

  /** Removes many; returns how many were there. */
  deleteMany(keys: BigUint64Array): number {
    let removed = 0;
    this.#inBatches(keys.length, (from, count, at) => {
      new BigUint64Array(this.core.memory.buffer, at, count).set(keys.subarray(from, from + count));
      removed += this.core.exports.orderedIndexDeleteMany(this.pointer, at, count);
    });
    return removed;
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
      const count = exports.orderedIndexRange(this.pointer, next, last, BATCH, at, at + BATCH * 8);
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
      bytesPerEntry: entries === 0 ? 0 : bytes / entries,
    };
  }

  /** Full check, O(n); throws CORRUPT. */
  validate(): void {
    this.core.call(() => this.core.exports.orderedIndexValidate(this.pointer), "orderedIndex");
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
    return this.valueBytes === 8 ? view.getBigUint64(at, true) : BigInt(view.getUint32(at, true));
  }

  #inBatches(length: number, run: (from: number, count: number, at: number) => void): void {
    this.core.requireUsable();
    const at = this.core.scratch(BATCH * 17);
    for (let from = 0; from < length; from += BATCH) run(from, Math.min(BATCH, length - from), at);
  }
}

function clamp(key: bigint): bigint {
  if (typeof key !== "bigint") throw invalidArgument("key", key, "a bigint");
  return key < 1n ? 1n : key > MAX_KEY ? MAX_KEY : key;
}

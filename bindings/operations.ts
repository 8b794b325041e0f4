/**
 * Operations: a batch of index operations for `OrderedIndex.apply`, recorded without a crossing each.
 *
 * Keys and values go in as bigint, or (the `...Halves` forms, faster) as two u32 halves.
 */
import { invalidArgument, requireInteger } from "./errors.js";

const enum Kind {
  Get = 0,
  Put = 1,
  Delete = 2,
  FetchAdd = 3,
  CompareExchange = 4,
  Scan = 5,
}

/** u32 words of a record: operation, status, key, value, expected (assembly/index/batch.ts). */
export const RECORD_WORDS = 8;
const [OPERATION, STATUS, KEY, VALUE, EXPECTED] = [0, 1, 2, 4, 6];

export class Operations {
  /** Records as the core reads them: RECORD_WORDS words each. */
  readonly words: Uint32Array;
  /** Entries that the scans found, in order of the scans. */
  scanKeys: BigUint64Array = new BigUint64Array(0);
  scanValues: BigUint64Array = new BigUint64Array(0);
  /** Where the entries of each scan start; set by `apply`. */
  readonly scanStarts: Uint32Array;
  readonly #wide: BigUint64Array;
  #length = 0;

  /** @param capacity most operations, 1 to 2^24. */
  constructor(capacity: number) {
    requireInteger("capacity", capacity, 1, 2 ** 24);
    this.words = new Uint32Array(capacity * RECORD_WORDS);
    this.#wide = new BigUint64Array(this.words.buffer);
    this.scanStarts = new Uint32Array(capacity);
  }

  get length(): number {
    return this.#length;
  }

  get capacity(): number {
    return this.scanStarts.length;
  }

  /** Forgets all operations; the object can be filled anew. */
  clear(): void {
    this.#length = 0;
  }

  get(key: bigint): number {
    return this.#add(Kind.Get, key, 0n);
  }

  put(key: bigint, value: bigint): number {
    return this.#add(Kind.Put, key, value);
  }

  delete(key: bigint): number {
    return this.#add(Kind.Delete, key, 0n);
  }

  fetchAdd(key: bigint, summand: bigint): number {
    return this.#add(Kind.FetchAdd, key, summand);
  }

  compareExchange(key: bigint, expected: bigint, value: bigint): number {
    const i = this.#add(Kind.CompareExchange, key, value);
    this.#wide[(i * RECORD_WORDS + EXPECTED) >> 1] = expected;
    return i;
  }

  /** Up to `limit` entries from `key` on. */
  scan(key: bigint, limit: number): number {
    requireInteger("limit", limit, 0, 1024);
    return this.#add(Kind.Scan, key, BigInt(limit));
  }

  getHalves(keyLow: number, keyHigh: number): number {
    return this.#addHalves(Kind.Get, keyLow, keyHigh, 0, 0);
  }

  putHalves(keyLow: number, keyHigh: number, valueLow: number, valueHigh = 0): number {
    return this.#addHalves(Kind.Put, keyLow, keyHigh, valueLow, valueHigh);
  }

  deleteHalves(keyLow: number, keyHigh: number): number {
    return this.#addHalves(Kind.Delete, keyLow, keyHigh, 0, 0);
  }

  scanHalves(keyLow: number, keyHigh: number, limit: number): number {
    requireInteger("limit", limit, 0, 1024);
    return this.#addHalves(Kind.Scan, keyLow, keyHigh, limit, 0);
  }

  /**
   * Result of operation `i` once applied: get, put, delete, compareExchange as the single calls (1 found, new,
   * removed, stored; 0 not), entries of a scan; negative: a refusal (errors.ts).
   */
  status(i: number): number {
    return this.words[i * RECORD_WORDS + STATUS] | 0;
  }

  /** Value read by get, value before a fetchAdd. */
  value(i: number): bigint {
    return this.#wide[(i * RECORD_WORDS + VALUE) >> 1];
  }

  /** As `value`, without BigInt: its low 32 bits. */
  valueLow(i: number): number {
    return this.words[i * RECORD_WORDS + VALUE];
  }

  /** Entries of scan `i`, in key order. */
  entries(i: number): [key: bigint, value: bigint][] {
    const start = this.scanStarts[i];
    return Array.from({ length: this.status(i) }, (_, k) => [
      this.scanKeys[start + k],
      this.scanValues[start + k],
    ]);
  }

  /** Notes where the entries of the scans among operations `from` to `to` start; returns how many they are. */
  markScans(from: number, to: number, start: number): number {
    let next = start;
    for (let i = from; i < to; i++) {
      if (this.words[i * RECORD_WORDS + OPERATION] !== Kind.Scan) continue;
      this.scanStarts[i] = next;
      next += this.status(i);
    }
    return next - start;
  }

  /** Takes scanned entries over from core memory. */
  appendEntries(
    buffer: ArrayBufferLike,
    keysAt: number,
    valuesAt: number,
    start: number,
    count: number,
  ): void {
    if (count === 0) return;
    if (start + count > this.scanKeys.length) {
      const capacity = Math.max(1024, (start + count) * 2);
      this.scanKeys = grown(this.scanKeys, capacity, start);
      this.scanValues = grown(this.scanValues, capacity, start);
    }
    this.scanKeys.set(new BigUint64Array(buffer, keysAt, count), start);
    this.scanValues.set(new BigUint64Array(buffer, valuesAt, count), start);
  }

  #add(kind: Kind, key: bigint, value: bigint): number {
    const i = this.#next(kind);
    const at = (i * RECORD_WORDS) >> 1;
    this.#wide[at + KEY / 2] = key;
    this.#wide[at + VALUE / 2] = value;
    return i;
  }

  #addHalves(kind: Kind, keyLow: number, keyHigh: number, valueLow: number, valueHigh: number): number {
    const i = this.#next(kind);
    const { words } = this;
    const at = i * RECORD_WORDS;
    words[at + KEY] = keyLow;
    words[at + KEY + 1] = keyHigh;
    words[at + VALUE] = valueLow;
    words[at + VALUE + 1] = valueHigh;
    return i;
  }

  #next(kind: Kind): number {
    const i = this.#length;
    if (i === this.capacity) throw invalidArgument("operations", i + 1, `at most ${i}, the capacity`);
    this.words[i * RECORD_WORDS + OPERATION] = kind;
    this.#length = i + 1;
    return i;
  }
}

function grown(entries: BigUint64Array, capacity: number, used: number): BigUint64Array {
  const larger = new BigUint64Array(capacity);
  larger.set(entries.subarray(0, used));
  return larger;
}

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

/** Operations whose places the core finds together (assembly/index/probe.ts). */
const PROBES = 8;
/** u32 words of a record: operation, status, key, value, expected (assembly/index/batch.ts). */
export const RECORD_WORDS = 8;
const [OPERATION, STATUS, KEY, VALUE, EXPECTED] = [0, 1, 2, 4, 6];

/** Core memory that operations are recorded into. */
export interface OperationsPlace {
  /** The records, RECORD_WORDS words each: fresh after the memory has grown. */
  records(): Uint32Array;
  /** What the scans have found, fresh as well. Its length is the room there is: no more scans are recorded. */
  scanned(): { readonly keys: BigUint64Array; readonly values: BigUint64Array };
}

export class Operations {
  /** Where the entries of each scan start; set by `apply`. */
  readonly scanStarts: Uint32Array;
  #scanKeys: BigUint64Array = new BigUint64Array(0);
  #scanValues: BigUint64Array = new BigUint64Array(0);
  readonly #place: OperationsPlace | undefined;
  #words: Uint32Array;
  #wide: BigUint64Array;
  #length = 0;
  #scanned = 0;

  /**
   * @param capacity most operations, 1 to 2^24.
   * @param place where the records lie, for those of a region (batch-region.ts); otherwise outside the core.
   */
  constructor(capacity: number, place?: OperationsPlace) {
    requireInteger("capacity", capacity, 1, 2 ** 24);
    this.#place = place;
    this.#words = place?.records() ?? new Uint32Array(capacity * RECORD_WORDS);
    this.#wide = wideOf(this.#words);
    this.scanStarts = new Uint32Array(capacity);
  }

  /** Records as the core reads them: RECORD_WORDS words each. */
  get words(): Uint32Array {
    if (this.#words.length === 0) this.#renew();
    return this.#words;
  }

  /** Keys of the entries that the scans found, in order of the scans. */
  get scanKeys(): BigUint64Array {
    return this.#place?.scanned().keys ?? this.#scanKeys;
  }

  get scanValues(): BigUint64Array {
    return this.#place?.scanned().values ?? this.#scanValues;
  }

  /** Whether they lie in a region, whose `apply` alone runs them. */
  get inRegion(): boolean {
    return this.#place !== undefined;
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
    this.#scanned = 0;
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
    this.wide[(i * RECORD_WORDS + EXPECTED) >> 1] = expected;
    return i;
  }

  /** Up to `limit` entries from `key` on, 0 to 1024. */
  scan(key: bigint, limit: number): number {
    this.#roomFor(limit);
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
    this.#roomFor(limit);
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
    return this.wide[(i * RECORD_WORDS + VALUE) >> 1];
  }

  /** As `value`, without BigInt: its low 32 bits. */
  valueLow(i: number): number {
    return this.words[i * RECORD_WORDS + VALUE];
  }

  /** Entries of scan `i`, in key order. */
  entries(i: number): [key: bigint, value: bigint][] {
    const { scanKeys, scanValues } = this;
    const start = this.scanStarts[i];
    return Array.from({ length: this.status(i) }, (_, k) => [scanKeys[start + k], scanValues[start + k]]);
  }

  /**
   * How many operations from `from` on, `most` at most, ask for no more than `entries` entries together, in whole
   * groups of eight, which the core probes together, if that leaves any. One scan always fits.
   */
  countFitting(from: number, most: number, entries: number): number {
    const end = Math.min(this.#length, from + most);
    const { words } = this;
    let room = entries;
    for (let i = from; i < end; i++) {
      if (words[i * RECORD_WORDS + OPERATION] !== Kind.Scan) continue;
      room -= words[i * RECORD_WORDS + VALUE];
      if (room < 0) return i - from < PROBES ? i - from : (i - from) & -PROBES;
    }
    return end - from;
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
  appendEntries(keys: BigUint64Array, values: BigUint64Array, start: number, count: number): void {
    if (count === 0) return;
    if (start + count > this.#scanKeys.length) {
      const capacity = Math.max(1024, (start + count) * 2);
      this.#scanKeys = grown(this.#scanKeys, capacity, start);
      this.#scanValues = grown(this.#scanValues, capacity, start);
    }
    this.#scanKeys.set(keys.subarray(0, count), start);
    this.#scanValues.set(values.subarray(0, count), start);
  }

  private get wide(): BigUint64Array {
    if (this.#wide.length === 0) this.#renew();
    return this.#wide;
  }

  /** Growth of the core's memory has detached the arrays; what lies there has stayed. */
  #renew(): void {
    this.#words = this.#place!.records();
    this.#wide = wideOf(this.#words);
  }

  /** Checks the entries that one more scan may find. */
  #roomFor(limit: number): void {
    requireInteger("limit", limit, 0, 1024);
    if (!this.#place) return;
    requireInteger("entries of all scans", this.#scanned + limit, 0, this.scanKeys.length);
    this.#scanned += limit;
  }

  #add(kind: Kind, key: bigint, value: bigint): number {
    const i = this.#next(kind);
    const at = (i * RECORD_WORDS) >> 1;
    const { wide } = this;
    wide[at + KEY / 2] = key;
    wide[at + VALUE / 2] = value;
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

function wideOf(words: Uint32Array): BigUint64Array {
  return new BigUint64Array(words.buffer, words.byteOffset, words.length / 2);
}

function grown(entries: BigUint64Array, capacity: number, used: number): BigUint64Array {
  const larger = new BigUint64Array(capacity);
  larger.set(entries.subarray(0, used));
  return larger;
}

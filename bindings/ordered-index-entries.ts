/**
 * The calls of an ordered index on one key, each in two forms: keys and values as bigint, or (`...Halves`) as
 * two u32 halves each, which allocates nothing. Halves are taken modulo 2^32.
 */
import type { Core } from "./core.js";
import { invalidArgument, statusError } from "./errors.js";
import type { CoreExports } from "./exports.js";
import type { MemoryViews } from "./memory-views.js";
import { INDEX_MODES, type IndexMode } from "./ordered-index-options.js";

export const MAX_KEY = (1n << 64n) - 2n;
const KEY_RANGE = "a bigint from 1 to 2^64 - 2";
const NOT_FOUND = -19;
const INVALID_ARGUMENT = -1;

export class OrderedIndexEntries {
  readonly core: Core;
  /** Address of the structure in core memory. */
  readonly pointer: number;
  readonly valueBytes: 4 | 8;
  readonly mode: IndexMode;
  /** Halves of the value that the last `getHalves` found or the last `fetchAddHalves` replaced. */
  valueLow = 0;
  valueHigh = 0;
  readonly #exports: CoreExports;
  readonly #views: MemoryViews;
  /** Whether values are handed out eight bytes wide: a shared index hands out such copies of narrow ones. */
  readonly #wide: boolean;

  constructor(core: Core, pointer: number) {
    this.core = core;
    this.pointer = pointer;
    this.#exports = core.exports;
    this.#views = core.views;
    this.valueBytes = core.exports.orderedIndexValueBytes(pointer) as 4 | 8;
    this.mode = INDEX_MODES[core.exports.orderedIndexMode(pointer)];
    this.#wide = this.valueBytes === 8 || this.mode !== "private";
  }

  get(key: bigint): bigint | undefined {
    const at = this.#find(key);
    if (at === 0) return void this.#checkInRange(key);
    return this.#wide ? this.#views.wide(at) : BigInt(this.#views.word(at));
  }

  /** As `get`: whether the key is there; its value is then in `valueLow` and `valueHigh`. */
  getHalves(keyLow: number, keyHigh: number): boolean {
    const at = this.#findHalves(keyLow, keyHigh);
    if (at === 0) return false;
    this.valueLow = this.#views.word(at);
    this.valueHigh = this.#wide ? this.#views.word(at + 4) : 0;
    return true;
  }

  /** As `get`, for values below 2^32: the low 32 bits of the value, or undefined. */
  getLow(keyLow: number, keyHigh: number): number | undefined {
    const at = this.#findHalves(keyLow, keyHigh);
    return at === 0 ? undefined : this.#views.word(at);
  }

  has(key: bigint): boolean {
    if (this.#find(key) !== 0) return true;
    this.#checkInRange(key);
    return false;
  }

  hasHalves(keyLow: number, keyHigh: number): boolean {
    return this.#findHalves(keyLow, keyHigh) !== 0;
  }

  /** Enters or overwrites; returns whether the key is new. Throws OUT_OF_MEMORY, then nothing has changed. */
  set(key: bigint, value: bigint): boolean {
    this.#checkKey(key);
    this.#checkValue("value", value);
    let status: number;
    try {
      status = this.#exports.orderedIndexSet64(this.pointer, key, value);
    } catch (error) {
      throw this.core.trapped(error, "set");
    }
    return status < 0 ? this.#refuse(status, "set", key) : status === 1;
  }

  setHalves(keyLow: number, keyHigh: number, valueLow: number, valueHigh = 0): boolean {
    this.core.requireUsable();
    if (valueHigh !== 0) this.#checkHigh("valueHigh", valueHigh);
    let status: number;
    try {
      status = this.#exports.orderedIndexSet(this.pointer, keyLow, keyHigh, valueLow, valueHigh);
    } catch (error) {
      throw this.core.trapped(error, "set");
    }
    return status < 0 ? this.#refuseHalves(status, "set", keyLow, keyHigh) : status === 1;
  }

  /** Removes a key; returns whether it was there. */
  delete(key: bigint): boolean {
    this.#checkKey(key);
    let status: number;
    try {
      status = this.#exports.orderedIndexDelete64(this.pointer, key);
    } catch (error) {
      throw this.core.trapped(error, "delete");
    }
    if (status !== 1) this.#checkInRange(key);
    return status === 1;
  }

  deleteHalves(keyLow: number, keyHigh: number): boolean {
    this.core.requireUsable();
    try {
      return this.#exports.orderedIndexDelete(this.pointer, keyLow, keyHigh) === 1;
    } catch (error) {
      throw this.core.trapped(error, "delete");
    }
  }

  /** Stores `value` if the key's value is `expected`; returns whether it was. Throws NOT_FOUND. */
  compareExchange(key: bigint, expected: bigint, value: bigint): boolean {
    this.#checkKey(key);
    this.#checkValue("expected", expected);
    this.#checkValue("value", value);
    let status: number;
    try {
      status = this.#exports.orderedIndexCompareExchange64(this.pointer, key, expected, value);
    } catch (error) {
      throw this.core.trapped(error, "compareExchange");
    }
    return status < 0 ? this.#refuse(status, "compareExchange", key) : status === 1;
  }

  compareExchangeHalves(
    keyLow: number,
    keyHigh: number,
    expectedLow: number,
    expectedHigh: number,
    valueLow: number,
    valueHigh: number,
  ): boolean {
    this.core.requireUsable();
    if (expectedHigh !== 0) this.#checkHigh("expectedHigh", expectedHigh);
    if (valueHigh !== 0) this.#checkHigh("valueHigh", valueHigh);
    let status: number;
    try {
      status = this.#exports.orderedIndexCompareExchange(
        this.pointer,
        keyLow,
        keyHigh,
        expectedLow,
        expectedHigh,
        valueLow,
        valueHigh,
      );
    } catch (error) {
      throw this.core.trapped(error, "compareExchange");
    }
    return status < 0 ? this.#refuseHalves(status, "compareExchange", keyLow, keyHigh) : status === 1;
  }

  /** Adds to a value, modulo its width; returns the value before. Throws NOT_FOUND. */
  fetchAdd(key: bigint, delta: bigint): bigint {
    this.#checkKey(key);
    requireBigint("delta", delta);
    let at: number;
    try {
      // The crossing takes a bigint modulo 2^64.
      at = this.#exports.orderedIndexFetchAdd64(this.pointer, key, delta) >>> 0;
    } catch (error) {
      throw this.core.trapped(error, "fetchAdd");
    }
    if (at === 0) this.#refuse(NOT_FOUND, "fetchAdd", key);
    return this.#views.wide(at);
  }

  /** As `fetchAdd`: returns the low half of the value before; both are in `valueLow` and `valueHigh`. */
  fetchAddHalves(keyLow: number, keyHigh: number, deltaLow: number, deltaHigh = 0): number {
    this.core.requireUsable();
    let at: number;
    try {
      at = this.#exports.orderedIndexFetchAdd(this.pointer, keyLow, keyHigh, deltaLow, deltaHigh) >>> 0;
    } catch (error) {
      throw this.core.trapped(error, "fetchAdd");
    }
    if (at === 0) this.#refuseHalves(NOT_FOUND, "fetchAdd", keyLow, keyHigh);
    this.valueHigh = this.#views.word(at + 4);
    return (this.valueLow = this.#views.word(at));
  }

  /** Address of the key's value, 0 when it is not there. */
  #find(key: bigint): number {
    this.#checkKey(key);
    try {
      return this.#exports.orderedIndexFind64(this.pointer, key) >>> 0;
    } catch (error) {
      throw this.core.trapped(error, "get");
    }
  }

  #findHalves(keyLow: number, keyHigh: number): number {
    this.core.requireUsable();
    try {
      return this.#exports.orderedIndexFind(this.pointer, keyLow, keyHigh) >>> 0;
    } catch (error) {
      throw this.core.trapped(error, "get");
    }
  }

  #checkKey(key: bigint): void {
    this.core.requireUsable();
    // Comparing with the bounds would cost as much as the search; the core refuses, or misses, 0 and 2^64 - 1.
    if (typeof key !== "bigint" || BigInt.asUintN(64, key) !== key)
      throw invalidArgument("key", key, KEY_RANGE);
  }

  /** After a miss: 0 and 2^64 - 1 are never there. */
  #checkInRange(key: bigint): void {
    if (key < 1n || key > MAX_KEY) throw invalidArgument("key", key, KEY_RANGE);
  }

  #checkValue(argument: string, value: bigint): void {
    if (typeof value === "bigint") {
      if (this.valueBytes === 8 ? BigInt.asUintN(64, value) === value : BigInt.asUintN(32, value) === value)
        return;
    }
    throw invalidArgument(argument, value, `a bigint from 0 to 2^${this.valueBytes * 8} - 1`);
  }

  #checkHigh(argument: string, high: number): void {
    if (this.valueBytes === 4) throw invalidArgument(argument, high, "0, since values are 4 bytes wide");
  }

  #refuse(status: number, call: string, key: bigint): never {
    if (status === INVALID_ARGUMENT || status === NOT_FOUND) this.#checkInRange(key);
    if (status !== NOT_FOUND) throw statusError(status, call);
    throw statusError(status, `${call}: key ${key}`, {
      argument: "key",
      value: key,
      range: "a key in the index",
    });
  }

  #refuseHalves(status: number, call: string, keyLow: number, keyHigh: number): never {
    this.#refuse(status, call, (BigInt(keyHigh >>> 0) << 32n) | BigInt(keyLow >>> 0));
  }
}

export function requireBigint(argument: string, value: unknown): void {
  if (typeof value !== "bigint") throw invalidArgument(argument, value, "a bigint");
}

/**
 * The ordered index as the host sees it. `index` is the pointer of a region of kind OrderedIndex. Single keys
 * go as two u32 halves (no BigInt) or as i64; many keys go through memory. In the debug build every changing
 * call is followed by a full check.
 */
import { indexApply, indexDeleteMany, indexGetMany, indexSetMany } from "../index/batch";
import { indexDelete } from "../index/delete";
import { indexClear, indexCreateShaped, indexSize } from "../index/ordered-index";
import {
  defaultDigitBits,
  Index,
  indexRegionBytes,
  isShared,
  leafCapacityOf,
  Mode,
  nodesFor,
  stripe,
  stripeCount,
} from "../index/layout";
import { indexPut } from "../index/put";
import { indexGet } from "../index/read";
import { indexRange } from "../index/scan";
import { indexCompareExchange, indexFetchAdd } from "../index/update";
import { indexValidate } from "../index/validate";
import { ARENA, arenaSeed, arenaTake, RegionKind } from "../memory/arena";
import { INVALID_ARGUMENT, OK, OUT_OF_MEMORY, Status } from "../memory/status";
import { workerId } from "../memory/workers";

/** Marks that this worker may hold locks of the index from here on: what it leaves behind if it dies. */
// @ts-ignore: decorator
@inline
function enter(ptr: usize): void {
  const index = changetype<Index>(ptr);
  if (isShared(index)) stripe(index, workerId()).inside = 1;
}

/** Ends what `enter` began. */
// @ts-ignore: decorator
@inline
function leave(ptr: usize, result: i32): i32 {
  const index = changetype<Index>(ptr);
  if (isShared(index)) stripe(index, workerId()).inside = 0;
  else if (ASC_OPTIMIZE_LEVEL == 0) assert(indexValidate(ptr) == OK);
  return result;
}

// @ts-ignore: decorator
@inline
function join(low: u32, high: u32): u64 {
  return ((<u64>high) << 32) | (<u64>low);
}

function shapeValid(nodes: u32, nodeBytes: u32, valueBytes: u32, digitBits: u32, mode: u32): bool {
  return (
    nodes >= 16 &&
    nodes <= 1 << 22 &&
    nodeBytes >= 128 &&
    nodeBytes <= 4096 &&
    popcnt(nodeBytes) == 1 &&
    (valueBytes == 4 || valueBytes == 8) &&
    digitBits >= 1 &&
    digitBits <= 10 &&
    (mode == Mode.Private || (ASC_FEATURE_THREADS && mode <= <u32>Mode.Optimistic))
  );
}

/** log2 of the keys for each one promoted that suits the shape best. */
export function orderedIndexDigitBits(nodeBytes: u32, valueBytes: u32): u32 {
  return defaultDigitBits(nodeBytes, valueBytes);
}

/** Nodes to ask for so that `entries` entries fit. */
export function orderedIndexNodesFor(entries: u32, nodeBytes: u32, valueBytes: u32, digitBits: u32): u32 {
  return nodesFor(entries, nodeBytes, valueBytes, digitBits);
}

/** Bytes of an index of this shape, or INVALID_ARGUMENT. `mode`: 0 private, 1 locked, 2 optimistic. */
export function orderedIndexBytes(
  nodes: u32,
  nodeBytes: u32,
  valueBytes: u32,
  digitBits: u32,
  mode: u32,
): f64 {
  return shapeValid(nodes, nodeBytes, valueBytes, digitBits, mode)
    ? <f64>indexRegionBytes(nodes, nodeBytes, mode)
    : INVALID_ARGUMENT;
}

/** Creates an index in a region of its own; afterwards it is the arena's last region. */
export function orderedIndexCreate(
  nodes: u32,
  nodeBytes: u32,
  valueBytes: u32,
  digitBits: u32,
  mode: u32,
): Status {
  if (!shapeValid(nodes, nodeBytes, valueBytes, digitBits, mode)) return INVALID_ARGUMENT;
  const index = arenaTake(ARENA, RegionKind.OrderedIndex, indexRegionBytes(nodes, nodeBytes, mode));
  if (index == 0) return OUT_OF_MEMORY;
  indexCreateShaped(index, nodes, nodeBytes, valueBytes, digitBits, mode, arenaSeed(ARENA));
  return OK;
}

/** 1 inserted, 0 overwritten. */
export function orderedIndexSet(
  index: usize,
  keyLow: u32,
  keyHigh: u32,
  valueLow: u32,
  valueHigh: u32,
): Status {
  enter(index);
  return leave(index, indexPut(index, join(keyLow, keyHigh), join(valueLow, valueHigh)));
}

export function orderedIndexSet64(index: usize, key: u64, value: u64): Status {
  enter(index);
  return leave(index, indexPut(index, key, value));
}

/**
 * Address of the value, or 0. In a private index the value itself (4 or 8 bytes), valid until the next change;
 * in a shared one a copy of it (8 bytes), valid until this worker's next call.
 */
export function orderedIndexFind(index: usize, keyLow: u32, keyHigh: u32): usize {
  return indexGet(index, join(keyLow, keyHigh));
}

export function orderedIndexFind64(index: usize, key: u64): usize {
  return indexGet(index, key);
}

/** 1 removed, 0 not there. */
export function orderedIndexDelete(index: usize, keyLow: u32, keyHigh: u32): Status {
  enter(index);
  return leave(index, indexDelete(index, join(keyLow, keyHigh)));
}

export function orderedIndexDelete64(index: usize, key: u64): Status {
  enter(index);
  return leave(index, indexDelete(index, key));
}

/** Stores `value` if the key has the value `expected`. 1 stored, 0 it has another, NOT_FOUND. */
export function orderedIndexCompareExchange(
  index: usize,
  keyLow: u32,
  keyHigh: u32,
  expectedLow: u32,
  expectedHigh: u32,
  valueLow: u32,
  valueHigh: u32,
): Status {
  const expected = join(expectedLow, expectedHigh);
  enter(index);
  return leave(
    index,
    indexCompareExchange(index, join(keyLow, keyHigh), expected, join(valueLow, valueHigh)),
  );
}

export function orderedIndexCompareExchange64(index: usize, key: u64, expected: u64, value: u64): Status {
  enter(index);
  return leave(index, indexCompareExchange(index, key, expected, value));
}

/**
 * Adds to the value of a key, modulo its width. Address of a copy of the value before (8 bytes), 0 when the key
 * is not there.
 */
export function orderedIndexFetchAdd(
  index: usize,
  keyLow: u32,
  keyHigh: u32,
  deltaLow: u32,
  deltaHigh: u32,
): usize {
  return orderedIndexFetchAdd64(index, join(keyLow, keyHigh), join(deltaLow, deltaHigh));
}

export function orderedIndexFetchAdd64(index: usize, key: u64, delta: u64): usize {
  enter(index);
  const before = indexFetchAdd(index, key, delta);
  leave(index, OK);
  return before;
}

/**
 * Looks `count` u64 keys up; writes u64 values (0 when missing) and one byte each, 1 found. Returns how many
 * were.
 */
export function orderedIndexGetMany(index: usize, keys: usize, count: u32, values: usize, found: usize): u32 {
  return indexGetMany(index, keys, count, values, found);
}

/** Enters `count` u64 keys and values; stops at the first refusal. Returns how many were entered. */
export function orderedIndexSetMany(index: usize, keys: usize, values: usize, count: u32): u32 {
  enter(index);
  return leave(index, <i32>indexSetMany(index, keys, values, count));
}

/** Removes `count` u64 keys; returns how many were there. */
export function orderedIndexDeleteMany(index: usize, keys: usize, count: u32): u32 {
  enter(index);
  return leave(index, <i32>indexDeleteMany(index, keys, count));
}

/** Runs `count` records of 32 bytes; see `indexApply`. Returns how many were run. */
export function orderedIndexApply(
  index: usize,
  records: usize,
  count: u32,
  outKeys: usize,
  outValues: usize,
  outCapacity: u32,
): u32 {
  enter(index);
  return leave(index, <i32>indexApply(index, records, count, outKeys, outValues, outCapacity));
}

/** Entries with lowest <= key <= highest, in order, at most `limit`, as u64 keys and u64 values. */
export function orderedIndexRange(
  index: usize,
  lowest: u64,
  highest: u64,
  limit: u32,
  keys: usize,
  values: usize,
): u32 {
  return indexRange(index, lowest, highest, limit, keys, values);
}

export function orderedIndexSize(index: usize): u32 {
  return indexSize(index);
}

/** Nobody else may be in a call on the index. */
export function orderedIndexClear(index: usize): void {
  indexClear(index);
}

export function orderedIndexFreeNodes(index: usize): u32 {
  return changetype<Index>(index).freeCount;
}

export function orderedIndexNodes(index: usize): u32 {
  return changetype<Index>(index).nodeCapacity;
}

export function orderedIndexNodeBytes(index: usize): u32 {
  return changetype<Index>(index).nodeBytes;
}

export function orderedIndexLeafCapacity(index: usize): u32 {
  return leafCapacityOf(changetype<Index>(index).nodeBytes, changetype<Index>(index).valueBytes);
}

export function orderedIndexValueBytes(index: usize): u32 {
  return changetype<Index>(index).valueBytes;
}

export function orderedIndexLevels(index: usize): u32 {
  return changetype<Index>(index).levels;
}

/** 0 private, 1 locked, 2 optimistic. */
export function orderedIndexMode(index: usize): u32 {
  return changetype<Index>(index).mode;
}

/** Optimistic reads and descents of all workers that started again; modulo 2^32. */
export function orderedIndexRetries(index: usize): u32 {
  let retries: u32 = 0;
  for (let worker: u32 = 0; worker < stripeCount(changetype<Index>(index)); worker++)
    retries += stripe(changetype<Index>(index), worker).retries;
  return retries;
}

/** Those that gave up and took locks. */
export function orderedIndexFallbacks(index: usize): u32 {
  let fallbacks: u32 = 0;
  for (let worker: u32 = 0; worker < stripeCount(changetype<Index>(index)); worker++)
    fallbacks += stripe(changetype<Index>(index), worker).fallbacks;
  return fallbacks;
}

/** 1 if the worker was in a call that may hold locks of this index: after its death they stay held. */
export function orderedIndexInside(index: usize, worker: u32): u32 {
  return worker < stripeCount(changetype<Index>(index)) ? stripe(changetype<Index>(index), worker).inside : 0;
}

/** Full check, O(n); nobody else may be in a changing call. */
export function orderedIndexValidate(index: usize): Status {
  return indexValidate(index);
}

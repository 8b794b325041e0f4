/**
 * The ordered index as the host sees it. `index` is the pointer of a region of kind OrderedIndex. Single keys
 * go as two u32 halves (no BigInt) or as i64; many keys go through memory. In the debug build every changing
 * call is followed by a full check.
 */
import {
  indexClear,
  indexCreateSized,
  indexDelete,
  indexFind,
  indexPut,
  indexRange,
  indexSize,
} from "../index/ordered-index";
import { Index, indexRegionBytes, loadValue, nodesFor, storeValue } from "../index/layout";
import { indexValidate } from "../index/validate";
import { ARENA, arenaSeed, arenaTake, RegionKind } from "../memory/arena";
import { INVALID_ARGUMENT, NOT_FOUND, OK, OUT_OF_MEMORY, Status } from "../memory/status";

// @ts-ignore: decorator
@inline
function checked(index: usize, result: i32): i32 {
  if (ASC_OPTIMIZE_LEVEL == 0) assert(indexValidate(index) == OK);
  return result;
}

// @ts-ignore: decorator
@inline
function join(low: u32, high: u32): u64 {
  return ((<u64>high) << 32) | (<u64>low);
}

function shapeValid(nodes: u32, nodeBytes: u32, valueBytes: u32): bool {
  return (
    nodes >= 16 &&
    nodes <= 1 << 22 &&
    nodeBytes >= 128 &&
    nodeBytes <= 4096 &&
    (nodeBytes & 63) == 0 &&
    (valueBytes == 4 || valueBytes == 8)
  );
}

/** Nodes to ask for so that `entries` entries fit. */
export function orderedIndexNodesFor(entries: u32, nodeBytes: u32, valueBytes: u32): u32 {
  return nodesFor(entries, nodeBytes, valueBytes);
}

/** Bytes of an index of this shape, or INVALID_ARGUMENT. */
export function orderedIndexBytes(nodes: u32, nodeBytes: u32, valueBytes: u32): f64 {
  return shapeValid(nodes, nodeBytes, valueBytes)
    ? <f64>indexRegionBytes(nodes, nodeBytes)
    : INVALID_ARGUMENT;
}

/** Creates an index in a region of its own; afterwards it is the arena's last region. */
export function orderedIndexCreate(nodes: u32, nodeBytes: u32, valueBytes: u32): Status {
  if (!shapeValid(nodes, nodeBytes, valueBytes)) return INVALID_ARGUMENT;
  const index = arenaTake(ARENA, RegionKind.OrderedIndex, indexRegionBytes(nodes, nodeBytes));
  if (index == 0) return OUT_OF_MEMORY;
  indexCreateSized(index, nodes, nodeBytes, valueBytes, arenaSeed(ARENA));
  return checked(index, OK);
}

/** 1 inserted, 0 overwritten. */
export function orderedIndexSet(
  index: usize,
  keyLow: u32,
  keyHigh: u32,
  valueLow: u32,
  valueHigh: u32,
): Status {
  return checked(index, indexPut(index, join(keyLow, keyHigh), join(valueLow, valueHigh)));
}

export function orderedIndexSet64(index: usize, key: u64, value: u64): Status {
  return checked(index, indexPut(index, key, value));
}

/** Address of the value (4 or 8 bytes, little-endian), or 0: valid until the next change. */
export function orderedIndexFind(index: usize, keyLow: u32, keyHigh: u32): usize {
  return indexFind(index, join(keyLow, keyHigh));
}

export function orderedIndexFind64(index: usize, key: u64): usize {
  return indexFind(index, key);
}

/** 1 removed, 0 not there. */
export function orderedIndexDelete64(index: usize, key: u64): Status {
  return checked(index, indexDelete(index, key));
}

/** Stores `value` if the key has the value `expected`. 1 stored, 0 it has another, NOT_FOUND. */
export function orderedIndexCompareExchange64(index: usize, key: u64, expected: u64, value: u64): Status {
  const at = indexFind(index, key);
  if (at == 0) return NOT_FOUND;
  if (loadValue(changetype<Index>(index), at) != expected) return 0;
  storeValue(changetype<Index>(index), at, value);
  return 1;
}

/**
 * Adds to the value of a key, modulo its width; the sum is then at the address returned, 0 when the key is
 * not there.
 */
export function orderedIndexAdd64(index: usize, key: u64, delta: u64): usize {
  const at = indexFind(index, key);
  if (at != 0) storeValue(changetype<Index>(index), at, loadValue(changetype<Index>(index), at) + delta);
  return at;
}

/**
 * Looks `count` u64 keys up; writes u64 values (0 when missing) and one byte each, 1 found. Returns how many
 * were.
 */
export function orderedIndexGetMany(index: usize, keys: usize, count: u32, values: usize, found: usize): u32 {
  let hits: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const at = indexFind(index, load<u64>(keys + ((<usize>i) << 3)));
    store<u64>(values + ((<usize>i) << 3), at == 0 ? 0 : loadValue(changetype<Index>(index), at));
    store<u8>(found + <usize>i, <u8>u32(at != 0));
    hits += u32(at != 0);
  }
  return hits;
}

/** Enters `count` u64 keys and values; stops at the first refusal. Returns how many were entered. */
export function orderedIndexSetMany(index: usize, keys: usize, values: usize, count: u32): u32 {
  for (let i: u32 = 0; i < count; i++) {
    if (indexPut(index, load<u64>(keys + ((<usize>i) << 3)), load<u64>(values + ((<usize>i) << 3))) < 0)
      return i;
  }
  return checked(index, <i32>count);
}

/** Removes `count` u64 keys; returns how many were there. */
export function orderedIndexDeleteMany(index: usize, keys: usize, count: u32): u32 {
  let removed: u32 = 0;
  for (let i: u32 = 0; i < count; i++)
    removed += <u32>indexDelete(index, load<u64>(keys + ((<usize>i) << 3)));
  return checked(index, <i32>removed);
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

export function orderedIndexValueBytes(index: usize): u32 {
  return changetype<Index>(index).valueBytes;
}

export function orderedIndexLevels(index: usize): u32 {
  return changetype<Index>(index).levels;
}

export function orderedIndexValidate(index: usize): Status {
  return indexValidate(index);
}

/**
 * Many operations in one call. The places of eight keys are found together (probe.ts); each operation then
 * starts at its place, and takes the ordinary way if that does not do.
 */
import { NO_VERSION, tryUpgrade, unlockExclusive } from "../memory/locks";
import { INVALID_ARGUMENT, NOT_FOUND, Status } from "../memory/status";
import { workerId } from "../memory/workers";
import { insertAt, leaveGrown, leaveUnchanged, removeSlot } from "./edit";
import { indexDelete } from "./delete";
import {
  Index,
  isOptimistic,
  isShared,
  KEY_MAX,
  KEY_MIN,
  keyAt,
  loadValue,
  Mode,
  node,
  storeValue,
  Stripe,
  stripe,
  valuePtr,
} from "./layout";
import { askPlaces, askScans } from "./ahead";
import { Operation, OPERATION_BYTES, OperationRecord } from "./operation";
import { hintedLeaf, hintedSlot, hintsOf, PROBES, probeLeaves } from "./probe";
import { indexPut } from "./put";
import { heightHere, heightOf, rankNear } from "./rank";
import { indexGet, provenLeaf, readLeaf } from "./read";
import { indexRange, rangeFrom, rangeOptimistic } from "./scan";
import { indexCompareExchange, indexFetchAdd } from "./update";

/** In the paper's protocol readers lock their way down; there is nothing to find ahead. */
// @ts-ignore: decorator
@inline
function probes(index: Index): bool {
  return index.mode != Mode.Locked;
}

// @ts-ignore: decorator
@inline
function resultOf(own: Stripe): usize {
  return changetype<usize>(own) + offsetof<Stripe>("result");
}

/** `indexGet` from the place found ahead. */
// @ts-ignore: decorator
@inline
function getFrom(index: Index, own: Stripe, at: u32, near: u32, key: u64): usize {
  if (isOptimistic(index)) {
    const version = provenLeaf(at, key);
    if (version != NO_VERSION && key != KEY_MIN) {
      const found = readLeaf(index, own, at, near, version, key);
      if (found >= 0) return found == 1 ? resultOf(own) : 0;
    }
    return indexGet(changetype<usize>(index), key);
  }
  const slot = rankNear(at, key, near, <u32>node(at).count);
  return keyAt(at, slot) == key && key != KEY_MIN ? valuePtr(index, at, slot) : 0;
}

/** Takes the leaf found ahead for a change, if it is the right one. */
// @ts-ignore: decorator
@inline
function holds(index: Index, at: u32, key: u64): bool {
  const version = provenLeaf(at, key);
  return version != NO_VERSION && key != KEY_MIN && (!isShared(index) || tryUpgrade(at, version));
}

/** `indexPut` from the place found ahead. */
function putFrom(index: Index, own: Stripe, at: u32, near: u32, key: u64, value: u64): Status {
  if (!holds(index, at, key)) return indexPut(changetype<usize>(index), key, value);
  const slot = rankNear(at, key, near, <u32>node(at).count);
  if (keyAt(at, slot) == key) {
    storeValue(index, valuePtr(index, at, slot), value);
    if (isShared(index)) unlockExclusive(at);
    return 0;
  }
  if (<u32>node(at).count == index.leafCapacity || heightHere(index, key) > 0) {
    leaveUnchanged(index, 0, at);
    return indexPut(changetype<usize>(index), key, value);
  }
  insertAt(index, at, slot + 1, 0, key, value);
  leaveGrown(index, 0, at);
  own.entries += 1;
  return 1;
}

/** `indexDelete` from the place found ahead. */
function deleteFrom(index: Index, own: Stripe, at: u32, near: u32, key: u64): Status {
  if (!holds(index, at, key)) return indexDelete(changetype<usize>(index), key);
  const slot = rankNear(at, key, near, <u32>node(at).count);
  if (keyAt(at, slot) != key) {
    leaveUnchanged(index, 0, at);
    return 0;
  }
  // A promoted key is on other levels too; a leaf from an overflow may have to be merged into its neighbour.
  const first = keyAt(at, 0);
  if (slot == 0 || heightHere(index, key) > 0 || (first != KEY_MIN && heightOf(index, first) == 0)) {
    leaveUnchanged(index, 0, at);
    return indexDelete(changetype<usize>(index), key);
  }
  removeSlot(index, 0, at, slot, 0);
  own.entries -= 1;
  return 1;
}

/**
 * Looks `count` u64 keys up; writes u64 values (0 when missing) and one byte each, 1 found. Returns how many
 * were.
 */
export function indexGetMany(ptr: usize, keys: usize, count: u32, values: usize, found: usize): u32 {
  const index = changetype<Index>(ptr);
  const own = stripe(index, workerId());
  const hints = hintsOf(own);
  const grouped = probes(index) ? count & ~(PROBES - 1) : 0;
  let hits: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const lane = i & (PROBES - 1);
    const key = load<u64>(keys + ((<usize>i) << 3));
    if (i < grouped && lane == 0) probeLeaves(index, keys + ((<usize>i) << 3), 8, hints);
    const at =
      i < grouped
        ? getFrom(index, own, hintedLeaf(hints, lane), hintedSlot(hints, lane), key)
        : indexGet(ptr, key);
    store<u64>(values + ((<usize>i) << 3), at == 0 ? 0 : valueOf(index, at));
    store<u8>(found + <usize>i, <u8>u32(at != 0));
    hits += u32(at != 0);
  }
  return hits;
}

/** Value at an address that `indexGet` returned. */
// @ts-ignore: decorator
@inline
function valueOf(index: Index, at: usize): u64 {
  return isShared(index) ? load<u64>(at) : loadValue(index, at);
}

/** Enters `count` u64 keys and values; stops at the first refusal. Returns how many were entered. */
export function indexSetMany(ptr: usize, keys: usize, values: usize, count: u32): u32 {
  const index = changetype<Index>(ptr);
  const own = stripe(index, workerId());
  const hints = hintsOf(own);
  const grouped = probes(index) ? count & ~(PROBES - 1) : 0;
  for (let i: u32 = 0; i < count; i++) {
    const lane = i & (PROBES - 1);
    const key = load<u64>(keys + ((<usize>i) << 3));
    const value = load<u64>(values + ((<usize>i) << 3));
    if (i < grouped && lane == 0) {
      probeLeaves(index, keys + ((<usize>i) << 3), 8, hints);
      askPlaces(index, own, hints);
    }
    const status =
      i < grouped
        ? putFrom(index, own, hintedLeaf(hints, lane), hintedSlot(hints, lane), key, value)
        : indexPut(ptr, key, value);
    if (status < 0) return i;
  }
  return count;
}

/** Removes `count` u64 keys; returns how many were there. */
export function indexDeleteMany(ptr: usize, keys: usize, count: u32): u32 {
  const index = changetype<Index>(ptr);
  const own = stripe(index, workerId());
  const hints = hintsOf(own);
  const grouped = probes(index) ? count & ~(PROBES - 1) : 0;
  let removed: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const lane = i & (PROBES - 1);
    const key = load<u64>(keys + ((<usize>i) << 3));
    if (i < grouped && lane == 0) probeLeaves(index, keys + ((<usize>i) << 3), 8, hints);
    removed +=
      i < grouped
        ? deleteFrom(index, own, hintedLeaf(hints, lane), hintedSlot(hints, lane), key)
        : indexDelete(ptr, key);
  }
  return removed;
}

/**
 * Runs `count` operation records in order. Scans append their entries to `outKeys` and `outValues` (u64,
 * `outCapacity` entries). Returns how many records were run: fewer than `count` when the next scan might not
 * fit what is left of the output.
 */
export function indexApply(
  ptr: usize,
  records: usize,
  count: u32,
  outKeys: usize,
  outValues: usize,
  outCapacity: u32,
): u32 {
  const index = changetype<Index>(ptr);
  const own = stripe(index, workerId());
  const hints = hintsOf(own);
  const grouped = probes(index) ? count & ~(PROBES - 1) : 0;
  let written: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const at = records + <usize>i * OPERATION_BYTES;
    const lane = i & (PROBES - 1);
    if (i < grouped && lane == 0) {
      probeLeaves(index, at + offsetof<OperationRecord>("key"), OPERATION_BYTES, hints);
      askScans(index, own, hints, at);
    }
    const record = changetype<OperationRecord>(at);
    const leaf = i < grouped ? hintedLeaf(hints, lane) : 0;
    const near = i < grouped ? hintedSlot(hints, lane) : 0;
    if (record.operation == Operation.Scan) {
      if (record.value > <u64>(outCapacity - written)) return i;
      const offset = (<usize>written) << 3;
      record.status = scanFrom(
        index,
        leaf,
        near,
        record.key,
        <u32>record.value,
        outKeys + offset,
        outValues + offset,
      );
      written += <u32>record.status;
    } else {
      apply(index, own, leaf, near, record);
    }
  }
  return count;
}

/** Up to `limit` entries from `key` on, from the place found ahead (leaf 0: none). */
function scanFrom(
  index: Index,
  at: u32,
  near: u32,
  key: u64,
  limit: u32,
  keysPtr: usize,
  valuesPtr: usize,
): i32 {
  const last = KEY_MAX - 1;
  if (limit == 0 || key > last) return 0;
  const lowest = max<u64>(key, 1);
  if (isOptimistic(index))
    return <i32>rangeOptimistic(index, at, near, lowest, last, limit, keysPtr, valuesPtr);
  if (at != 0 && provenLeaf(at, lowest) != NO_VERSION)
    return <i32>rangeFrom(index, at, near, lowest, last, limit, keysPtr, valuesPtr);
  return <i32>indexRange(changetype<usize>(index), lowest, last, limit, keysPtr, valuesPtr);
}

function apply(index: Index, own: Stripe, leaf: u32, near: u32, record: OperationRecord): void {
  const ptr = changetype<usize>(index);
  const key = record.key;
  switch (record.operation) {
    case Operation.Get: {
      // Leaves found ahead may have changed hands since: an earlier record may have split or merged them.
      const usable = leaf != 0 && (isShared(index) || provenLeaf(leaf, key) != NO_VERSION);
      const at = usable ? getFrom(index, own, leaf, near, key) : indexGet(ptr, key);
      record.value = at == 0 ? 0 : valueOf(index, at);
      record.status = i32(at != 0);
      break;
    }
    case Operation.Put: {
      record.status =
        leaf != 0 && key != KEY_MAX
          ? putFrom(index, own, leaf, near, key, record.value)
          : indexPut(ptr, key, record.value);
      break;
    }
    case Operation.Delete: {
      record.status = leaf != 0 ? deleteFrom(index, own, leaf, near, key) : indexDelete(ptr, key);
      break;
    }
    case Operation.FetchAdd: {
      const at = indexFetchAdd(ptr, key, record.value);
      record.status = at == 0 ? NOT_FOUND : 1;
      record.value = at == 0 ? 0 : load<u64>(at);
      break;
    }
    case Operation.CompareExchange: {
      record.status = indexCompareExchange(ptr, key, record.expected, record.value);
      break;
    }
    default:
      record.status = INVALID_ARGUMENT;
  }
}

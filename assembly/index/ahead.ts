/**
 * What a group of eight operations is going to read or move, asked for before the first of them runs. Each operation
 * alone waits for its lines, and a scan for one leaf after the other; here eight wait together, leaf by leaf.
 *
 * A load whose value is summed up and kept is what asks for a line: WebAssembly has no prefetch. Nothing here decides
 * anything: in an optimistic index what is read may be stale, and is bounded so that it stays within the index.
 */
import { Index, isNode, isOptimistic, keyPtr, node, Stripe, valuePtr } from "./layout";
import { Operation, OPERATION_BYTES, OperationRecord } from "./operation";
import { hintedLeaf, hintedSlot, Hints, hintsOf, PROBES } from "./probe";

/** Entries of one scan that are asked for: more would push out what the group needs first. */
// @ts-ignore: decorator
@inline const AHEAD: u64 = 256;

/** Where a lane's scan goes on, in the worker's stripe: u32 leaf and u32 entries left, 8 B a lane. */
type Lanes = usize;

// @ts-ignore: decorator
@inline
function lanesOf(own: Stripe): Lanes {
  return hintsOf(own) + 6 * PROBES;
}

// @ts-ignore: decorator
@inline
function setLane(lanes: Lanes, lane: u32, leaf: u32, left: u32): void {
  store<u32>(lanes + ((<usize>lane) << 3), leaf);
  store<u32>(lanes + ((<usize>lane) << 3), left, 4);
}

// @ts-ignore: decorator
@inline
function leafOf(lanes: Lanes, lane: u32): u32 {
  return load<u32>(lanes + ((<usize>lane) << 3));
}

// @ts-ignore: decorator
@inline
function leftOf(lanes: Lanes, lane: u32): u32 {
  return load<u32>(lanes + ((<usize>lane) << 3), 4);
}

// @ts-ignore: decorator
@inline
function countOf(index: Index, leaf: u32): u32 {
  return min(<u32>node(leaf).count, index.leafCapacity);
}

/** The leaf behind `leaf`, or 0. */
// @ts-ignore: decorator
@inline
function nextOf(index: Index, leaf: u32): u32 {
  const next = node(leaf).next;
  return next != 0 && (!isOptimistic(index) || isNode(index, next)) ? next : 0;
}

/** One word of every line from `from` up to `last`. */
// @ts-ignore: decorator
@inline
function askWords(from: usize, last: usize): u64 {
  let sum = load<u64>(last);
  for (; from < last; from += 64) sum += load<u64>(from);
  return sum;
}

/** Asks for the entries of a leaf from `slot` up to `end`. */
// @ts-ignore: decorator
@inline
function askRun(index: Index, leaf: u32, slot: u32, end: u32): u64 {
  if (slot >= end) return 0;
  const first = valuePtr(index, leaf, slot) & ~7;
  const last = valuePtr(index, leaf, end - 1) & ~7;
  return askWords(keyPtr(leaf, slot), keyPtr(leaf, end - 1)) + askWords(first, last);
}

/** Asks for what entering keys at the places found ahead would move: the rest of each leaf. */
export function askPlaces(index: Index, own: Stripe, hints: Hints): void {
  let sum: u64 = 0;
  for (let lane: u32 = 0; lane < PROBES; lane++) {
    const leaf = hintedLeaf(hints, lane);
    sum += askRun(index, leaf, hintedSlot(hints, lane), countOf(index, leaf));
  }
  own.asked = sum;
}

/** Asks for all that the scans among eight operation records are going to read. */
export function askScans(index: Index, own: Stripe, hints: Hints, records: usize): void {
  const lanes = lanesOf(own);
  let scans: u32 = 0;
  let sum: u64 = 0;
  for (let lane: u32 = 0; lane < PROBES; lane++) {
    const record = changetype<OperationRecord>(records + <usize>lane * OPERATION_BYTES);
    if (record.operation != Operation.Scan) {
      setLane(lanes, lane, 0, 0);
      continue;
    }
    const leaf = hintedLeaf(hints, lane);
    const slot = hintedSlot(hints, lane);
    const count = countOf(index, leaf);
    const wanted = <u32>min<u64>(record.value, AHEAD);
    const end = min(count, slot + wanted);
    sum += askRun(index, leaf, slot, end);
    const read = end > slot ? end - slot : 0;
    setLane(lanes, lane, nextOf(index, leaf), wanted - read);
    scans += 1;
  }
  while (scans != 0) {
    scans = 0;
    for (let lane: u32 = 0; lane < PROBES; lane++) {
      const leaf = leafOf(lanes, lane);
      const left = leftOf(lanes, lane);
      if (left == 0 || leaf == 0) continue;
      const run = min(left, countOf(index, leaf));
      sum += askRun(index, leaf, 0, run);
      setLane(lanes, lane, nextOf(index, leaf), left - run);
      scans += u32(left != run);
    }
  }
  own.asked = sum;
}

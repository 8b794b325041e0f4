/**
 * History: the last `capacity` ids that have left an order, found by the key of their content. An entry goes when
 * it is taken (the content came back) or when `capacity` others have been added since.
 *
 *   header  (32 B): entries, buckets, capacity, bucket mask, next ring slot, used entries
 *   entries [capacity] Trace, 32 B   a ring
 *   buckets [2^k >= capacity] u32    first entry of each hash chain
 *
 * Keys are hashes: two contents with one key share their traces, which costs quality and never correctness.
 * Add, take: O(1).
 */
import { NONE } from "./layout";

// @ts-ignore: decorator
@inline const HEADER_BYTES: usize = 32;


@unmanaged
class History {
  entries: u32;
  buckets: u32;
  capacity: u32;
  bucketMask: u32;
  /** Ring slot that the next entry takes. */
  next: u32;
  used: u32;
}


@unmanaged
export class Trace {
  key: u64;
  stamp: u64;
  /** Next entry in the hash chain. */
  chain: u32;
  count: u32;
  state: u32;
  /** 0: the entry has been taken. */
  used: u32;
}

// @ts-ignore: decorator
@inline
function bucketCount(capacity: u32): u32 {
  return capacity <= 1 ? 1 : 1 << (32 - clz(capacity - 1));
}

export function historyBytes(capacity: u32): u64 {
  if (capacity == 0) return 0;
  return <u64>HEADER_BYTES + <u64>capacity * offsetof<Trace>() + <u64>bucketCount(capacity) * 4;
}

/** An empty history in a zeroed region of `historyBytes` bytes; capacity >= 1. */
export function historyCreate(ptr: usize, capacity: u32): void {
  const history = changetype<History>(ptr);
  history.entries = <u32>(ptr + HEADER_BYTES);
  history.buckets = history.entries + capacity * <u32>offsetof<Trace>();
  history.capacity = capacity;
  history.bucketMask = bucketCount(capacity) - 1;
  memory.fill(history.buckets, 0xff, (<usize>history.bucketMask + 1) << 2);
}

// @ts-ignore: decorator
@inline
function trace(history: History, slot: u32): Trace {
  return changetype<Trace>(<usize>history.entries + <usize>slot * offsetof<Trace>());
}

// @ts-ignore: decorator
@inline
function bucketPtr(history: History, key: u64): usize {
  return <usize>history.buckets + ((<usize>((<u32>key) & history.bucketMask)) << 2);
}

function unlink(history: History, slot: u32, entry: Trace): void {
  let link = bucketPtr(history, entry.key);
  while (load<u32>(link) != slot)
    link = changetype<usize>(trace(history, load<u32>(link))) + offsetof<Trace>("chain");
  store<u32>(link, entry.chain);
  entry.used = 0;
  history.used -= 1;
}

/** Enters a key; returns its entry for the caller to fill in. */
export function historyAdd(ptr: usize, key: u64): Trace {
  const history = changetype<History>(ptr);
  const slot = history.next;
  history.next = slot + 1 == history.capacity ? 0 : slot + 1;
  const entry = trace(history, slot);
  if (entry.used != 0) unlink(history, slot, entry);
  const bucket = bucketPtr(history, key);
  entry.key = key;
  entry.used = 1;
  entry.chain = load<u32>(bucket);
  store<u32>(bucket, slot);
  history.used += 1;
  return entry;
}

/** Takes the latest entry of a key out and returns it (it stays readable until the next add), or null. */
export function historyTake(ptr: usize, key: u64): Trace | null {
  const history = changetype<History>(ptr);
  let slot = load<u32>(bucketPtr(history, key));
  while (slot != NONE) {
    const entry = trace(history, slot);
    if (entry.key == key) {
      unlink(history, slot, entry);
      return entry;
    }
    slot = entry.chain;
  }
  return null;
}

/** Whether every used entry is in the chain of its key, once, and nothing else is. */
export function historyValid(ptr: usize): bool {
  const history = changetype<History>(ptr);
  let used: u32 = 0;
  for (let slot: u32 = 0; slot < history.capacity; slot++) used += u32(trace(history, slot).used != 0);
  if (used != history.used || history.next >= history.capacity) return false;
  let chained: u32 = 0;
  for (let bucket: u32 = 0; bucket <= history.bucketMask; bucket++) {
    let slot = load<u32>(<usize>history.buckets + ((<usize>bucket) << 2));
    while (slot != NONE) {
      if (slot >= history.capacity || chained == used) return false;
      const entry = trace(history, slot);
      if (entry.used == 0 || ((<u32>entry.key) & history.bucketMask) != bucket) return false;
      chained += 1;
      slot = entry.chain;
    }
  }
  return chained == used;
}

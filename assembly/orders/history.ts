/**
 * History: the last `capacity` ids that have left an order, found by the key of their content. A trace goes when
 * it is taken (the content came back) or when `capacity` others have been added since.
 *
 *   header  (32 B)
 *   traces  [capacity] | fingerprint u32 | chain u32 | what the order notes |    a ring
 *   buckets [2^k >= capacity / 2] u32                                           youngest trace of each hash chain
 *
 * A chain leads from a trace to older ones. Nothing is ever unlinked: where a link leads to a trace that is not older, the
 * one that it meant has been overwritten, and with it whatever lay behind. A taken trace stays as a link.
 *
 * A key, which is a hash of 64 bits, is known by its bucket and its upper half, and the few traces of one chain are all that
 * is compared: one key in some 10^9 is taken for another, which costs quality and never correctness. Add, take: O(1).
 */
// @ts-ignore: decorator
@inline const HEADER_BYTES: usize = 32;
/** Of a trace, before what the order notes. */
// @ts-ignore: decorator
@inline const LINK_BYTES: u32 = 8;


@unmanaged
class History {
  traces: u32;
  stride: u32;
  buckets: u32;
  capacity: u32;
  bucketMask: u32;
  /** Ring slot that the next trace takes. */
  next: u32;
}

// @ts-ignore: decorator
@inline
function bucketCount(capacity: u32): u32 {
  return 1 << (32 - clz((capacity - 1) >> 1));
}

/** `noted`: bytes of a trace that are the order's. */
export function historyBytes(capacity: u32, noted: u32): u64 {
  if (capacity == 0) return 0;
  return <u64>HEADER_BYTES + <u64>capacity * (LINK_BYTES + noted) + <u64>bucketCount(capacity) * 4;
}

/** An empty history in a zeroed region of `historyBytes` bytes; capacity >= 1. */
export function historyCreate(ptr: usize, capacity: u32, noted: u32): void {
  const history = changetype<History>(ptr);
  history.stride = LINK_BYTES + noted;
  history.traces = <u32>(ptr + HEADER_BYTES);
  history.buckets = history.traces + capacity * history.stride;
  history.capacity = capacity;
  history.bucketMask = bucketCount(capacity) - 1;
}

// @ts-ignore: decorator
@inline
function trace(history: History, slot: u32): usize {
  return <usize>history.traces + <usize>slot * <usize>history.stride;
}

// @ts-ignore: decorator
@inline
function bucketPtr(history: History, key: u64): usize {
  return <usize>history.buckets + ((<usize>((<u32>key) & history.bucketMask)) << 2);
}

/** Never 0, which is no trace's, or a taken one's. */
// @ts-ignore: decorator
@inline
function fingerprint(key: u64): u32 {
  return max(1, <u32>(key >> 32));
}

/** Enters a key; returns where the order may note what it wants to know of it. */
export function historyAdd(ptr: usize, key: u64): usize {
  const history = changetype<History>(ptr);
  const slot = history.next;
  history.next = slot + 1 == history.capacity ? 0 : slot + 1;
  const own = trace(history, slot);
  const bucket = bucketPtr(history, key);
  store<u32>(own, fingerprint(key));
  store<u32>(own, load<u32>(bucket), 4);
  store<u32>(bucket, slot);
  return own + LINK_BYTES;
}

/** Traces that have been added since the one in a slot. */
// @ts-ignore: decorator
@inline
function ageOf(history: History, slot: u32): i32 {
  return <i32>(history.next - 1 - slot + (slot < history.next ? 0 : history.capacity));
}

/** Takes the latest trace of a key out; returns what was noted (it stays readable until the next add), or 0. */
export function historyTake(ptr: usize, key: u64): usize {
  const history = changetype<History>(ptr);
  let slot = load<u32>(bucketPtr(history, key));
  let younger: i32 = -1;
  for (let age = ageOf(history, slot); age > younger; age = ageOf(history, slot)) {
    const own = trace(history, slot);
    if (load<u32>(own) == fingerprint(key)) {
      store<u32>(own, 0);
      return own + LINK_BYTES;
    }
    slot = load<u32>(own, 4);
    younger = age;
  }
  return 0;
}

/** Whether the ring and every link stay within bounds; what the links mean only a model can tell. */
export function historyValid(ptr: usize): bool {
  const history = changetype<History>(ptr);
  if (history.next >= history.capacity) return false;
  for (let slot: u32 = 0; slot < history.capacity; slot++)
    if (load<u32>(trace(history, slot), 4) >= history.capacity) return false;
  for (let bucket: u32 = 0; bucket <= history.bucketMask; bucket++)
    if (load<u32>(<usize>history.buckets + ((<usize>bucket) << 2)) >= history.capacity) return false;
  return true;
}

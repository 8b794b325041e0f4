/**
 * Priority order with times: what has outlived its time to live first, then the lowest priority, then least recently
 * used. A priority may be given for a while, after which the default holds again; so may a time to live.
 *
 *   deadlines  heap of ids by the next time at which something about them changes
 *   terms      [capacity] Term, 32 B
 *
 * Priorities 0 to 100, default 35, and their fall back, are those of TensorRT-LLM's retention configuration. The clock
 * is the host's: nothing changes but in `priorityAdvance`. A use ends a time to live, passed or not. Give, advance:
 * O(log n) for each id that changes.
 */
import { heapAdd, heapBytes, heapCreate, heapMoved, heapRemove, heapSize, heapTop, heapValid } from "./heap";
import { isPlaced, NONE, Order, recordPtr, STAMP, STAMP_BITS } from "./layout";

// @ts-ignore: decorator
@inline export const MAX_PRIORITY: u32 = 100;
// @ts-ignore: decorator
@inline export const DEFAULT_PRIORITY: u32 = 35;


@unmanaged
class Term {
  /** Key in the heap of deadlines, and between equals the next. */
  nextUs: u64;
  /** When the priority falls back, and below when the id has outlived its time; Infinity: never. */
  priorityUntilUs: f64;
  place: u32;
  priority: u32;
  liveUntilUs: f64;
}

// @ts-ignore: decorator
@inline
function align(bytes: u64): u64 {
  return (bytes + 63) & ~63;
}

export function termsBytes(capacity: u32): u64 {
  return align(<u64>capacity * offsetof<Term>()) + align(heapBytes(capacity));
}

/** No deadlines, in a zeroed region of `termsBytes` bytes. */
export function termsCreate(order: Order, ptr: usize): void {
  order.terms = <u32>ptr;
  order.deadlines = <u32>(ptr + <usize>align(<u64>order.capacity * offsetof<Term>()));
  for (let id: u32 = 0; id < order.capacity; id++) term(order, id).place = NONE;
  heapCreate(order.deadlines, ptr, <u32>offsetof<Term>());
}

// @ts-ignore: decorator
@inline
function term(order: Order, id: u32): Term {
  return changetype<Term>(<usize>order.terms + <usize>id * offsetof<Term>());
}

/** What matters in the key of the order: 0 outlived, else the priority plus 1. */
function setLevel(order: Order, id: u32, level: u32): void {
  const key = recordPtr(order, id);
  store<u64>(key, (load<u64>(key) & STAMP) | ((<u64>level) << STAMP_BITS));
  if (isPlaced(order, id)) heapMoved(order.heap, id);
}

function schedule(order: Order, id: u32, t: Term): void {
  const next = min(t.priorityUntilUs, t.liveUntilUs);
  t.nextUs = reinterpret<u64>(next + 0.0);
  if (next == Infinity) {
    if (t.place != NONE) heapRemove(order.deadlines, id);
  } else if (t.place == NONE) heapAdd(order.deadlines, id);
  else heapMoved(order.deadlines, id);
}

export function priorityEnter(order: Order, id: u32): void {
  const t = term(order, id);
  t.priorityUntilUs = Infinity;
  t.liveUntilUs = Infinity;
  t.priority = DEFAULT_PRIORITY;
  setLevel(order, id, DEFAULT_PRIORITY + 1);
}

export function priorityUse(order: Order, id: u32): void {
  const t = term(order, id);
  t.liveUntilUs = Infinity;
  schedule(order, id, t);
  setLevel(order, id, t.priority + 1);
}

export function priorityLeave(order: Order, id: u32): void {
  if (term(order, id).place != NONE) heapRemove(order.deadlines, id);
}

/** A priority until a time and a time to live, both in microseconds of the host's clock or Infinity. */
export function priorityGive(
  order: Order,
  id: u32,
  priority: u32,
  priorityUntilUs: f64,
  liveUntilUs: f64,
): void {
  const t = term(order, id);
  t.priorityUntilUs = priorityUntilUs;
  t.liveUntilUs = liveUntilUs;
  schedule(order, id, t);
  t.priority = priority;
  setLevel(order, id, priority + 1);
}

/** The host's clock has come to `nowUs`: changes one id and returns it, NONE when nothing is due any more. */
export function priorityAdvance(order: Order, nowUs: f64): u32 {
  if (heapSize(order.deadlines) == 0) return NONE;
  const id = heapTop(order.deadlines);
  const t = term(order, id);
  if (reinterpret<f64>(t.nextUs) > nowUs) return NONE;
  if (t.priorityUntilUs <= nowUs) {
    t.priorityUntilUs = Infinity;
    t.priority = DEFAULT_PRIORITY;
    if (load<u64>(recordPtr(order, id)) > STAMP) setLevel(order, id, DEFAULT_PRIORITY + 1);
  }
  if (t.liveUntilUs <= nowUs) {
    t.liveUntilUs = Infinity;
    setLevel(order, id, 0);
  }
  schedule(order, id, t);
  return id;
}

/** Earliest time at which something changes, or Infinity. */
export function priorityNextUs(order: Order): f64 {
  if (heapSize(order.deadlines) == 0) return Infinity;
  return reinterpret<f64>(term(order, heapTop(order.deadlines)).nextUs);
}

/** Whether the deadlines are sound and are those of ids that have one. */
export function priorityValid(order: Order): bool {
  if (!heapValid(order.deadlines, order.capacity)) return false;
  let waiting: u32 = 0;
  for (let id: u32 = 0; id < order.capacity; id++) waiting += u32(term(order, id).place != NONE);
  return waiting == heapSize(order.deadlines);
}

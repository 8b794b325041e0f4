/**
 * Arrivals: a binary min-heap of requests whose arrival time lies ahead, ordered by (arrivalUs, order of
 * submission). Each request knows its position, so an abort takes it out in O(log n).
 */
import { Request, request, Scheduler } from "./layout";

// @ts-ignore: decorator
@inline
function at(s: Scheduler, index: u32): u32 {
  return load<u32>(<usize>s.arrivals + ((<usize>index) << 2));
}

// @ts-ignore: decorator
@inline
function put(s: Scheduler, index: u32, slot: u32): void {
  store<u32>(<usize>s.arrivals + ((<usize>index) << 2), slot);
  request(s, slot).heapIndex = index;
}

// @ts-ignore: decorator
@inline
function before(a: Request, b: Request): bool {
  return a.arrivalUs < b.arrivalUs || (a.arrivalUs == b.arrivalUs && a.key < b.key);
}

function rise(s: Scheduler, index: u32, slot: u32): void {
  const r = request(s, slot);
  while (index > 0) {
    const parent = (index - 1) >> 1;
    const above = at(s, parent);
    if (!before(r, request(s, above))) break;
    put(s, index, above);
    index = parent;
  }
  put(s, index, slot);
}

function sink(s: Scheduler, index: u32, slot: u32): void {
  const r = request(s, slot);
  while (true) {
    let child: u32 = 2 * index + 1;
    if (child >= s.arrivalCount) break;
    if (child + 1 < s.arrivalCount && before(request(s, at(s, child + 1)), request(s, at(s, child))))
      child += 1;
    if (!before(request(s, at(s, child)), r)) break;
    put(s, index, at(s, child));
    index = child;
  }
  put(s, index, slot);
}

export function pushArrival(s: Scheduler, slot: u32): void {
  s.arrivalCount += 1;
  rise(s, s.arrivalCount - 1, slot);
}

/** Time of the next arrival, infinity if none. */
// @ts-ignore: decorator
@inline
export function nextArrivalUs(s: Scheduler): f64 {
  return s.arrivalCount == 0 ? Infinity : request(s, at(s, 0)).arrivalUs;
}

/** Takes out the request that arrives first. */
export function popArrival(s: Scheduler): u32 {
  const slot = at(s, 0);
  removeArrival(s, slot);
  return slot;
}

export function removeArrival(s: Scheduler, slot: u32): void {
  const index = request(s, slot).heapIndex;
  s.arrivalCount -= 1;
  if (index == s.arrivalCount) return;
  const moved = at(s, s.arrivalCount);
  sink(s, index, moved);
  rise(s, request(s, moved).heapIndex, moved);
}

/** Whether the heap order and the positions hold. */
export function validArrivals(s: Scheduler): bool {
  for (let i: u32 = 0; i < s.arrivalCount; i++) {
    const r = request(s, at(s, i));
    if (r.heapIndex != i) return false;
    if (i > 0 && before(r, request(s, at(s, (i - 1) >> 1)))) return false;
  }
  return true;
}

/** Full check of an Order, O(capacity + history). */
import { adviceListed } from "./advice";
import { gittinsCandidate, gittinsListed } from "./gittins";
import { heapSize, heapValid } from "./heap";
import { historyValid } from "./history";
import { isPlaced, Order, OrderKind, Stride } from "./layout";
import { lifetimesValid } from "./lifetimes";
import { priorityValid } from "./priority";

/** Whether an id is a candidate for `orderVictim`. */
export function isCandidate(order: Order, id: u32): bool {
  return order.stride == Stride.Learned ? gittinsCandidate(order, id) : isPlaced(order, id);
}

/** Whether heaps, lists and history are sound and hold as many ids as say that they are in one. */
export function orderValid(order: Order): bool {
  if (order.entered > order.capacity || order.smallCount > order.entered) return false;
  if (order.history != 0 && !historyValid(order.history)) return false;
  let placed: u32 = 0;
  for (let id: u32 = 0; id < order.capacity; id++) placed += u32(isPlaced(order, id));
  if (order.stride == Stride.Learned)
    return lifetimesValid(order.lifetimes) && gittinsListed(order) == <i32>placed;
  if (order.stride == Stride.Advised) return adviceListed(order) == <i32>placed;
  if (order.kind == OrderKind.Priority && !priorityValid(order)) return false;
  if (!heapValid(order.heap, order.capacity)) return false;
  let held = heapSize(order.heap);
  if (order.secondHeap != 0) {
    if (!heapValid(order.secondHeap, order.capacity)) return false;
    held += heapSize(order.secondHeap);
  }
  return held == placed;
}

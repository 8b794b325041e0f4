/** Full check of an Order, O(capacity + history). */
import { heapSize, heapValid } from "./heap";
import { historyValid } from "./history";
import { NONE, Order, OrderKind, record } from "./layout";

/** Whether an id is a candidate for `orderVictim`. */
// @ts-ignore: decorator
@inline
export function isCandidate(order: Order, id: u32): bool {
  return record(order, id).position != NONE;
}

/** Whether heaps and history are sound and as many ids are candidates as the heaps hold. */
export function orderValid(order: Order): bool {
  if (!heapValid(order.heap, order.capacity) || !heapValid(order.secondHeap, order.capacity)) return false;
  if (order.kind != OrderKind.S3Fifo && heapSize(order.secondHeap) != 0) return false;
  let candidates: u32 = 0;
  for (let id: u32 = 0; id < order.capacity; id++) candidates += u32(isCandidate(order, id));
  if (candidates != heapSize(order.heap) + heapSize(order.secondHeap)) return false;
  if (order.entered > order.capacity || order.smallCount > order.entered) return false;
  return order.history == 0 || historyValid(order.history);
}

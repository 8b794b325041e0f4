/** A new order in its region: what each kind has beside its records, and where (the drawing is in layout.ts). */
import { ADVICE_LISTS } from "./advice";
import { heapBytes, heapCreate, heapFromTheEnd } from "./heap";
import { historyBytes, historyCreate } from "./history";
import { CLASSES, lifetimesBytes, lifetimesCreate } from "./lifetimes";
import { listsBytes, listsCreate } from "./lists";
import { seenFilterBytes, seenFilterCreate } from "./seen-filter";
import { termsBytes, termsCreate } from "./priority";
import { Order, OrderKind, Stride, strideOf, takesAdvice } from "./layout";

// @ts-ignore: decorator
@inline
function align(bytes: u64): u64 {
  return (bytes + 63) & ~63;
}

// @ts-ignore: decorator
@inline
function heapsOf(kind: u32): u32 {
  if (kind == OrderKind.Gittins || kind == OrderKind.FlushAll0) return 0;
  return kind == OrderKind.MarkPredict ? 2 : 1;
}

// @ts-ignore: decorator
@inline
function listsOf(kind: u32): u32 {
  return kind == OrderKind.Gittins ? CLASSES : takesAdvice(kind) ? ADVICE_LISTS : 0;
}

/** Bytes that the kind notes of an id that has left. */
// @ts-ignore: decorator
@inline
function notedBy(kind: u32): u32 {
  if (kind == OrderKind.Gittins) return 12;
  return kind == OrderKind.S3Fifo ? 0 : 4;
}

/** Exact bytes of an order of this kind over `capacity` ids that remembers `history` of those that have left. */
export function orderBytes(kind: u32, capacity: u32, history: u32): u64 {
  let bytes = align(offsetof<Order>()) + align(<u64>capacity * strideOf(kind));
  bytes += align(
    kind == OrderKind.SeenTwice ? seenFilterBytes(history) : historyBytes(history, notedBy(kind)),
  );
  bytes += <u64>heapsOf(kind) * align(heapBytes(capacity));
  if (kind == OrderKind.S3Fifo) bytes += align(heapBytes(0));
  bytes += align(listsBytes(listsOf(kind)));
  if (kind == OrderKind.Gittins) bytes += align(lifetimesBytes(capacity));
  if (kind == OrderKind.Priority) bytes += termsBytes(capacity);
  return bytes;
}

/** An order without ids in a zeroed region of `orderBytes` bytes. */
export function orderLayOut(order: Order, kind: u32, capacity: u32, history: u32, seed: u64): void {
  order.kind = kind;
  order.capacity = capacity;
  let at = changetype<usize>(order) + <usize>align(offsetof<Order>());
  const records = at;
  const stride = strideOf(kind);
  order.records = <u32>at;
  order.stride = stride;
  order.placeAt = stride == Stride.Deep ? 16 : stride == Stride.Keyed ? 8 : 0;
  // In no heap, list or bag.
  memory.fill(at, 0xff, <usize>capacity * <usize>stride);
  at += <usize>align(<u64>capacity * stride);
  if (history != 0 && kind == OrderKind.SeenTwice) {
    order.filter = <u32>at;
    seenFilterCreate(at, history);
    at += <usize>align(seenFilterBytes(history));
  } else if (history != 0) {
    order.history = <u32>at;
    historyCreate(at, history, notedBy(kind));
    at += <usize>align(historyBytes(history, notedBy(kind)));
  }
  const lists = listsOf(kind);
  if (lists != 0) {
    order.lists = <u32>at;
    listsCreate(at, lists);
    at += <usize>align(listsBytes(lists));
  }
  if (kind == OrderKind.Gittins) {
    order.lifetimes = <u32>at;
    lifetimesCreate(at, capacity);
  }
  if (kind == OrderKind.Priority) {
    termsCreate(order, at);
    at += <usize>termsBytes(capacity);
  }
  order.phase = 1;
  order.random = seed;
  if (heapsOf(kind) == 0) return;
  order.heap = <u32>at;
  if (kind == OrderKind.MarkPredict || kind == OrderKind.S3Fifo)
    order.secondHeap = <u32>(at + <usize>align(heapBytes(capacity)));
  if (stride == Stride.Advised) return; // zeroed memory is an empty bag
  heapCreate(order.heap, records, stride, order.placeAt);
  if (kind == OrderKind.S3Fifo) heapFromTheEnd(order.secondHeap, order.heap, capacity);
}

/**
 * PageSet: which of `pages` pages are in one of `slots` slots, under any order. For caches of things that stand alone,
 * one slot each: experts, adapters, whole objects. A request makes its page present.
 *
 *   header (PageSet, 1 line)
 *   slotOf [pages] u32     NONE: not present
 *   pageOf [slots] u32     NONE: free
 *   free   [slots] u32     stack of free slots
 *   order  (layout.ts)     over the slots
 */
import { finalize64 } from "../memory/hash";
import { CORRUPT, OK, Status } from "../memory/status";
import { adviceSet, firstLeftover } from "./advice";
import { NONE, Order, takesAdvice } from "./layout";
import { orderEnter, orderHold, orderLeave, orderRest, orderUse, orderVictim } from "./order";
import { orderValid } from "./validate";
import { orderBytes, orderLayOut } from "./create";

/** Advice that leaves the bit to the order's own prediction. */
// @ts-ignore: decorator
@inline export const NO_ADVICE: u32 = 2;


@unmanaged
export class PageSet {
  slots: u32;
  pages: u32;
  slotOf: u32;
  pageOf: u32;
  free: u32;
  freeCount: u32;
  order: u32;
  /** Whether what an order throws out goes at once, and not when its room is needed. */
  eager: u32;
  requests: u64;
  faults: u64;
  history: u32;
  unused: u32;
}

// @ts-ignore: decorator
@inline
function align(bytes: u64): u64 {
  return (bytes + 63) & ~63;
}

export function pageSetBytesFor(kind: u32, slots: u32, pages: u32, history: u32): u64 {
  return (
    align(offsetof<PageSet>()) +
    align(<u64>pages * 4) +
    2 * align(<u64>slots * 4) +
    orderBytes(kind, slots, history)
  );
}

/** An empty set in a zeroed region of `pageSetBytesFor` bytes. */
export function pageSetLayOut(
  ptr: usize,
  kind: u32,
  slots: u32,
  pages: u32,
  history: u32,
  eager: u32,
  seed: u64,
): void {
  const set = changetype<PageSet>(ptr);
  set.slots = slots;
  set.pages = pages;
  set.eager = eager;
  set.history = history;
  set.slotOf = <u32>(ptr + <usize>align(offsetof<PageSet>()));
  set.pageOf = set.slotOf + <u32>align(<u64>pages * 4);
  set.free = set.pageOf + <u32>align(<u64>slots * 4);
  set.order = set.free + <u32>align(<u64>slots * 4);
  memory.fill(set.slotOf, 0xff, (<usize>pages) << 2);
  memory.fill(set.pageOf, 0xff, (<usize>slots) << 2);
  for (let slot: u32 = 0; slot < slots; slot++)
    store<u32>(<usize>set.free + ((<usize>slot) << 2), slots - 1 - slot);
  set.freeCount = slots;
  orderLayOut(changetype<Order>(<usize>set.order), kind, slots, history, seed);
  changetype<Order>(<usize>set.order).baseCost = 1;
}

// @ts-ignore: decorator
@inline
function slotPtr(set: PageSet, page: u32): usize {
  return <usize>set.slotOf + ((<usize>page) << 2);
}

// @ts-ignore: decorator
@inline
function pagePtr(set: PageSet, slot: u32): usize {
  return <usize>set.pageOf + ((<usize>slot) << 2);
}

/** Takes every page out and forgets the past; random draws start from `seed`. */
export function clearPages(set: PageSet, seed: u64): void {
  const order = changetype<Order>(<usize>set.order);
  const kind = order.kind;
  const history = set.history;
  const bytes = pageSetBytesFor(kind, set.slots, set.pages, history);
  const slots = set.slots;
  const pages = set.pages;
  const eager = set.eager;
  memory.fill(changetype<usize>(set), 0, <usize>bytes);
  pageSetLayOut(changetype<usize>(set), kind, slots, pages, history, eager, seed);
}

/** Slot of a page below `pages`, or NONE. */
// @ts-ignore: decorator
@inline
export function slotOfPage(set: PageSet, page: u32): u32 {
  return load<u32>(slotPtr(set, page));
}

/** Key of a page in the order's history. */
function keyOf(page: u32): u64 {
  return finalize64(page);
}

/** Makes a slot free. */
function vacate(set: PageSet, order: Order, slot: u32): void {
  const page = load<u32>(pagePtr(set, slot));
  orderLeave(order, slot, keyOf(page), true);
  store<u32>(slotPtr(set, page), NONE);
  store<u32>(pagePtr(set, slot), NONE);
  store<u32>(<usize>set.free + ((<usize>set.freeCount) << 2), slot);
  set.freeCount += 1;
}

/** Makes `page` present. Returns 1 when it was, 0 when it had to be fetched (a fault). */
export function requestPage(set: PageSet, page: u32, advice: u32): u32 {
  const order = changetype<Order>(<usize>set.order);
  set.requests += 1;
  let slot = slotOfPage(set, page);
  const present = slot != NONE;
  if (present) {
    orderHold(order, slot);
    orderUse(order, slot);
  } else {
    set.faults += 1;
    if (set.freeCount == 0) vacate(set, order, orderVictim(order));
    set.freeCount -= 1;
    slot = load<u32>(<usize>set.free + ((<usize>set.freeCount) << 2));
    store<u32>(slotPtr(set, page), slot);
    store<u32>(pagePtr(set, slot), page);
    orderEnter(order, slot, NONE, keyOf(page));
  }
  const advised = takesAdvice(order.kind);
  if (advised && advice != NO_ADVICE) adviceSet(order, slot, advice != 0);
  orderRest(order, slot, true);
  if (advised && set.eager != 0) {
    for (let left = firstLeftover(order); left != NONE; left = firstLeftover(order)) vacate(set, order, left);
  }
  return u32(present);
}

/** OK, or CORRUPT when a map or the order is broken. */
export function pageSetCheck(set: PageSet): Status {
  const order = changetype<Order>(<usize>set.order);
  if (!orderValid(order) || order.entered + set.freeCount != set.slots || set.faults > set.requests)
    return CORRUPT;
  let present: u32 = 0;
  for (let slot: u32 = 0; slot < set.slots; slot++) {
    const page = load<u32>(pagePtr(set, slot));
    if (page == NONE) continue;
    if (page >= set.pages || slotOfPage(set, page) != slot) return CORRUPT;
    present += 1;
  }
  return present == order.entered ? OK : CORRUPT;
}

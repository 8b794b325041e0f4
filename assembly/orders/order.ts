/**
 * What a pool reports to an Order, and what it asks. The life of an id:
 *
 *   enter --> use, use, ... --> rest --> hold --> ... --> rest --> leave
 *                                 |                         ^
 *                                 +-> candidate, once it has no child --> victim
 *
 * enter   the id becomes cached; somebody holds it        rest    the last holder has let go
 * use     a look-up has found it                          hold    somebody holds it again
 * bare    its last cached child has left while it rests   leave   it is not cached any more
 *
 * Invariants (checked by `orderValid`):
 * 1. Candidates are the ids that rest and have no cached child: a victim never has cached children.
 * 2. The state is a function of the calls.
 *
 * The dispatch is a comparison of small numbers; nothing is called through a table.
 */
import {
  adviceEnter,
  adviceHold,
  adviceLeave,
  adviceOffer,
  adviceRest,
  adviceUse,
  adviceVictim,
} from "./advice";
import {
  gittinsBare,
  gittinsEnter,
  gittinsHold,
  gittinsLeave,
  gittinsRest,
  gittinsUse,
  gittinsVictim,
} from "./gittins";
import { isPlaced, Order, OrderKind, Stride } from "./layout";
import { priorityEnter, priorityLeave, priorityUse } from "./priority";
import {
  rankedEnter,
  rankedLeave,
  rankedOffer,
  rankedRest,
  rankedUse,
  rankedVictim,
  rankedWithdraw,
} from "./ranked";
import { s3Enter, s3Leave, s3Offer, s3Use, s3Victim, s3Withdraw } from "./s3-fifo";

/** `parent`: the id before it in its chain, or NONE. `key`: hash of its content, for the history. */
export function orderEnter(order: Order, id: u32, parent: u32, key: u64): void {
  order.entered += 1;
  if (order.stride == Stride.Learned) gittinsEnter(order, id, key);
  else if (order.stride == Stride.Queued) s3Enter(order, id, key);
  else if (order.stride == Stride.Advised) adviceEnter(order, id, key);
  else if (order.kind == OrderKind.Priority) priorityEnter(order, id);
  else rankedEnter(order, id, parent, key);
}

export function orderUse(order: Order, id: u32): void {
  if (order.stride == Stride.Learned) gittinsUse(order, id);
  else if (order.stride == Stride.Queued) s3Use(order, id);
  else if (order.stride == Stride.Advised) adviceUse(order, id);
  else if (order.kind == OrderKind.Priority) priorityUse(order, id);
  else rankedUse(order, id);
}

/** `childless`: it has no cached child. */
export function orderRest(order: Order, id: u32, childless: bool): void {
  if (order.stride == Stride.Learned) {
    gittinsRest(order, id, childless);
    return;
  }
  if (order.stride == Stride.Advised) {
    adviceRest(order, id, childless);
    return;
  }
  if (order.stride != Stride.Queued) rankedRest(order, id);
  if (childless) offer(order, id);
}

/** An id that rests has lost its last child. */
export function orderBare(order: Order, id: u32): void {
  if (order.stride == Stride.Learned) gittinsBare(order, id);
  else if (order.stride == Stride.Advised) adviceOffer(order, id);
  else offer(order, id);
}

// @ts-ignore: decorator
@inline
function offer(order: Order, id: u32): void {
  if (order.stride == Stride.Queued) s3Offer(order, id);
  else rankedOffer(order, id);
}

/** Somebody holds an id that rested. */
export function orderHold(order: Order, id: u32): void {
  if (!isPlaced(order, id)) return;
  if (order.stride == Stride.Learned) gittinsHold(order, id);
  else if (order.stride == Stride.Queued) s3Withdraw(order, id);
  else if (order.stride == Stride.Advised) adviceHold(order, id);
  else rankedWithdraw(order, id);
}

/** The candidate to forget next; there must be one. It stays a candidate until it leaves. */
export function orderVictim(order: Order): u32 {
  if (order.stride == Stride.Learned) return gittinsVictim(order);
  if (order.stride == Stride.Queued) return s3Victim(order);
  if (order.stride == Stride.Advised) return adviceVictim(order);
  return rankedVictim(order);
}

/** A candidate is not cached any more. `evicted`: for room. */
export function orderLeave(order: Order, id: u32, key: u64, evicted: bool): void {
  orderHold(order, id);
  order.entered -= 1;
  if (order.stride == Stride.Learned) gittinsLeave(order, id, key);
  else if (order.stride == Stride.Queued) s3Leave(order, id, key);
  else if (order.stride == Stride.Advised) adviceLeave(order, id, key);
  else if (order.kind == OrderKind.Priority) priorityLeave(order, id);
  else rankedLeave(order, id, key, evicted);
}

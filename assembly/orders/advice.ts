/**
 * Orders that go by one bit of advice for each use, "discard" (1) or "keep" (0), and Marker, which goes by none:
 * "Paging with Succinct Predictions" (arXiv 2210.02775).
 *
 *   Flush-When-All-0s   forgets an id advised 1, least recently used first; when there is none, everything.
 *                       The bit: will the optimum forget it before its next use?  At most OPT + (k-1) e0 + e1 faults.
 *   Mark0               an id advised 1 is given up at once; of the others a random unmarked one goes. A use marks;
 *                       when none is unmarked a phase ends and the marks with it. Who comes back in the phase in which
 *                       it was thrown out unmarked throws another out.  The same bit; OPT + 2 H_k e0 + e1.
 *   Mark and Predict    marking; of the unmarked a random one advised 1 goes first. The bit: will the next phase do
 *                       without it?  2 OPT + H_k e0 + e1, and O(log k) OPT whatever the advice.
 *   Marker              marking without advice
 *
 * (e0, e1: bits that were wrongly 0 and 1; k ids fit; H_k = 1 + 1/2 + ... + 1/k.)
 *
 * What an algorithm throws out stays readable until its room is needed: it goes to the list of leftovers, from which
 * victims are taken first. The algorithm's own cache is then a part of what there is, so there are no more faults
 * than the bounds say, and a use of a leftover is none. Of ids that rest and have no child, each is in one of:
 *
 *   lists 0 leftovers   1 advised 1   2 advised 0 (Flush-When-All-0s)       bags: unmarked | marked, by advice
 *
 * Without advice from the host the bit is predicted: 1 unless the id's last uses came while it was still there, by a
 * two-bit counter that the history keeps. All operations O(1), amortised for the flush.
 */
import { nextRandom } from "../memory/rng";
import { bagAdd, bagItem, bagRemove, bagUnmarkAll, bagUnmarked, bagValid, bagSize } from "./bag";
import { historyAdd, historyTake } from "./history";
import { NONE, Order, OrderKind } from "./layout";
import { listAppend, listHead, listLength, listRemove } from "./lists";

/** State of an id: counter of the prediction, the bit, whether the algorithm has it, and where it is. */
// @ts-ignore: decorator
@inline const COUNTER: u32 = 3;
// @ts-ignore: decorator
@inline const DISCARD: u32 = 4;
// @ts-ignore: decorator
@inline const INSIDE: u32 = 8;
// @ts-ignore: decorator
@inline const WHERE_SHIFT: u32 = 4;
// @ts-ignore: decorator
@inline const WHERE: u32 = 0xf0;
/** Above them the phase in which it was marked last, its lower 24 bits. */
// @ts-ignore: decorator
@inline const MARKED_SHIFT: u32 = 8;
/** Where: a list's number, or one of the bags. */
// @ts-ignore: decorator
@inline const LEFTOVERS: u32 = 0;
// @ts-ignore: decorator
@inline const ADVISED_1: u32 = 1;
// @ts-ignore: decorator
@inline const ADVISED_0: u32 = 2;
// @ts-ignore: decorator
@inline const BAG_0: u32 = 3;
// @ts-ignore: decorator
@inline const BAG_1: u32 = 4;
// @ts-ignore: decorator
@inline export const ADVICE_LISTS: u32 = 3;
/** A counter of 2 or 3 predicts 1; an id that was never seen starts with 2. */
// @ts-ignore: decorator
@inline const UNKNOWN: u32 = 2;
/** The history notes the counter, and above it the lower 30 bits of the phase in which an id was thrown out. */
// @ts-ignore: decorator
@inline const NOTED_SHIFT: u32 = 2;


@unmanaged
class Advised {
  place: u32;
  next: u32;
  /** In which it was thrown out unmarked, or 0. Flush-When-All-0s: in which it was let go of. */
  phase: u32;
  state: u32;
}

// @ts-ignore: decorator
@inline
function adviceOf(order: Order, id: u32): Advised {
  return changetype<Advised>(<usize>order.records + ((<usize>id) << 4));
}

// @ts-ignore: decorator
@inline
function isMarked(order: Order, r: Advised): bool {
  return (r.state ^ ((<u32>order.phase) << MARKED_SHIFT)) >> MARKED_SHIFT == 0;
}

// @ts-ignore: decorator
@inline
function mark(order: Order, r: Advised): void {
  r.state = (r.state & ((1 << MARKED_SHIFT) - 1)) | ((<u32>order.phase) << MARKED_SHIFT);
}

/** The bit of an id that somebody holds, until its next use. */
export function adviceSet(order: Order, id: u32, discard: bool): void {
  const r = adviceOf(order, id);
  r.state = discard ? r.state | DISCARD : r.state & ~DISCARD;
}

// @ts-ignore: decorator
@inline
function predict(r: Advised, counter: u32): void {
  r.state = (r.state & ~(COUNTER | DISCARD)) | counter | (counter >= UNKNOWN ? DISCARD : 0);
}

export function adviceEnter(order: Order, id: u32, key: u64): void {
  let counter = UNKNOWN;
  let thrownOut = false;
  if (order.history != 0) {
    const trace = historyTake(order.history, key);
    if (trace != 0) {
      const noted = load<u32>(trace);
      counter = min(COUNTER, (noted & COUNTER) + 1);
      thrownOut = (noted ^ ((<u32>order.phase) << NOTED_SHIFT)) >> NOTED_SHIFT == 0;
    }
  }
  const r = adviceOf(order, id);
  arrive(order, r, thrownOut);
  predict(r, counter);
}

export function adviceUse(order: Order, id: u32): void {
  const r = adviceOf(order, id);
  const counter = r.state & COUNTER;
  if ((r.state & INSIDE) == 0) arrive(order, r, r.phase == <u32>order.phase);
  mark(order, r);
  predict(r, counter == 0 ? 0 : counter - 1);
}

/** An id comes into the algorithm's cache. */
function arrive(order: Order, r: Advised, thrownOut: bool): void {
  if (thrownOut && order.kind == OrderKind.Mark0 && order.madeRoom == 0 && bagUnmarked(order.heap) != 0)
    throwOut(order, drawUnmarked(order, order.heap));
  order.madeRoom = 0;
  r.state = INSIDE;
  mark(order, r);
  r.phase = 0;
}

// @ts-ignore: decorator
@inline
function drawUnmarked(order: Order, bag: usize): u32 {
  const random = nextRandom(changetype<usize>(order) + offsetof<Order>("random"));
  return bagItem(bag, <u32>(((random >> 32) * <u64>bagUnmarked(bag)) >> 32));
}

/** From the algorithm's cache to the leftovers. */
function throwOut(order: Order, id: u32): void {
  const r = adviceOf(order, id);
  adviceHold(order, id);
  r.state &= ~INSIDE;
  r.phase = <u32>order.phase;
  settle(order, id, r, LEFTOVERS);
}

export function adviceRest(order: Order, id: u32, childless: bool): void {
  if (order.kind == OrderKind.FlushAll0) adviceOf(order, id).phase = <u32>order.phase;
  if (childless) adviceOffer(order, id);
}

/** A candidate takes its place. */
export function adviceOffer(order: Order, id: u32): void {
  const r = adviceOf(order, id);
  const flushed = order.kind == OrderKind.FlushAll0 && r.phase != <u32>order.phase;
  const givenUp = order.kind == OrderKind.Mark0 && (r.state & DISCARD) != 0;
  if (flushed || givenUp) r.state &= ~INSIDE;
  if ((r.state & INSIDE) == 0) settle(order, id, r, LEFTOVERS);
  else if (order.kind == OrderKind.FlushAll0) settle(order, id, r, r.state & DISCARD ? ADVISED_1 : ADVISED_0);
  else settle(order, id, r, order.kind == OrderKind.MarkPredict && (r.state & DISCARD) != 0 ? BAG_1 : BAG_0);
}

function settle(order: Order, id: u32, r: Advised, where: u32): void {
  r.state = (r.state & ~WHERE) | (where << WHERE_SHIFT);
  if (where < ADVICE_LISTS) listAppend(order, where, id);
  else bagAdd(order, where == BAG_0 ? order.heap : order.secondHeap, id, isMarked(order, r));
}

export function adviceHold(order: Order, id: u32): void {
  const where = (adviceOf(order, id).state & WHERE) >> WHERE_SHIFT;
  if (where < ADVICE_LISTS) listRemove(order, where, id);
  else bagRemove(order, where == BAG_0 ? order.heap : order.secondHeap, id);
}

export function adviceVictim(order: Order): u32 {
  if (listHead(order, LEFTOVERS) != NONE) return listHead(order, LEFTOVERS);
  order.madeRoom = 1;
  if (order.kind == OrderKind.FlushAll0) {
    if (listHead(order, ADVISED_1) != NONE) return listHead(order, ADVISED_1);
    flush(order);
    return listHead(order, LEFTOVERS);
  }
  if (unmarked(order) == 0) {
    order.phase += 1;
    bagUnmarkAll(order.heap);
    if (order.secondHeap != 0) bagUnmarkAll(order.secondHeap);
  }
  const advised = order.secondHeap != 0 && bagUnmarked(order.secondHeap) != 0;
  const id = drawUnmarked(order, advised ? order.secondHeap : order.heap);
  adviceOf(order, id).phase = <u32>order.phase;
  return id;
}

// @ts-ignore: decorator
@inline
function unmarked(order: Order): u32 {
  return bagUnmarked(order.heap) + (order.secondHeap != 0 ? bagUnmarked(order.secondHeap) : 0);
}

/** Everything that rests is left over; what is held is not. */
function flush(order: Order): void {
  order.phase += 1;
  for (let id = listHead(order, ADVISED_0); id != NONE; id = listHead(order, ADVISED_0)) throwOut(order, id);
}

export function adviceLeave(order: Order, id: u32, key: u64): void {
  if (order.history == 0) return;
  const r = adviceOf(order, id);
  store<u32>(historyAdd(order.history, key), (r.phase << NOTED_SHIFT) | (r.state & COUNTER));
}

/** A leftover to give back before its room is needed, or NONE. */
// @ts-ignore: decorator
@inline
export function firstLeftover(order: Order): u32 {
  return listHead(order, LEFTOVERS);
}

/** Ids in lists and bags that are sound, or -1. */
export function adviceListed(order: Order): i32 {
  let listed = 0;
  for (let list: u32 = 0; list < ADVICE_LISTS; list++) {
    const length = listLength(order, list);
    if (length < 0) return -1;
    listed += length;
  }
  if (order.kind == OrderKind.FlushAll0) return listed;
  if (!bagValid(order, order.heap)) return -1;
  listed += bagSize(order.heap);
  if (order.secondHeap == 0) return listed;
  return bagValid(order, order.secondHeap) ? listed + <i32>bagSize(order.secondHeap) : -1;
}

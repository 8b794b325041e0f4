/**
 * Pins: cached prefixes that stay though no sequence holds them, until they are unpinned or their time has come.
 *
 *   hard   never forgotten; all hard-pinned blocks together are at most a share of the pool
 *   soft   given up when room runs out otherwise: the pin of the lowest priority first, of equals the oldest, as a whole
 *
 *   header  (Pins)
 *   pins    [capacity] Pin, 40 B
 *   counts  [blocks] { hard, soft }    1, 2 or 4 bytes each, as the capacity needs
 *
 * A pin holds every block from the beginning of a prefix to its leaf, as a sequence would, so pins mean the same under every
 * eviction order; with groups (groups.ts) also the twins that a sequence of that length needs, which stay what they are as
 * long. A soft pin is a hold that gives way; `yielding` counts the blocks that only such holds keep.
 *
 * Invariants (`pinsValid`):
 * 1. counts of a block = pins of either kind whose prefix it is in; refs >= hard + soft.
 * 2. hardBlocks = blocks with hard > 0, at most the limit; yielding = blocks with refs = soft > 0.
 *
 * Pin, unpin: O(blocks of the prefix). Giving way and expiry look at all pins, and happen to a pin once.
 */
import { INVALID_TIME, NOT_FOUND, OK, PIN_LIMIT, Status, UNKNOWN_SEQUENCE } from "../memory/status";
import { share } from "./accounts";
import { fitting } from "./group-match";
import { firstNeeded, groupAt, groupsOf, twinPtr } from "./groups";
import {
  block,
  BlockId,
  isOpen,
  KvCache,
  MAX_GENERATION,
  NONE,
  sequenceOf,
  SLOT_BITS,
  SLOT_MASK,
  tableOf,
} from "./layout";
import { addToCount, countBits, countOf, isPinned, Pins, pinsHold, pinsOf, softOf } from "./pin-counts";
import { hold, letGo } from "./pool";

// @ts-ignore: decorator
@inline export const MAX_PINS: u32 = 1 << 20;

export const enum PinState {
  Free = 0,
  Soft = 1,
  Hard = 2,
}


@unmanaged
class Pin {
  untilUs: f64;
  order: u64;
  leaf: u32;
  tenant: u32;
  priority: u32;
  generation: u32;
  state: u32;
  /** Free: the next one. In use: blocks of the cache's own tables that it holds. */
  count: u32;
}

/** What is to be done with each block that a pin holds. */
const enum Visit {
  /** Count those that no hard pin holds. */
  Fresh = 0,
  Hold = 1,
  LetGo = 2,
  /** Take its hold out of the figures, put it back: for a validation. */
  Uncount = 3,
  Count = 4,
}

function pinAt(kv: KvCache, slot: u32): Pin {
  return changetype<Pin>(<usize>kv.pins + offsetof<Pins>() + <usize>slot * offsetof<Pin>());
}

export function pinsBytes(blocks: u32, capacity: u32): u64 {
  // Counts are read and written by 8 bytes.
  return (
    <u64>offsetof<Pins>() + <u64>capacity * offsetof<Pin>() + <u64>blocks * (countBits(capacity) >> 2) + 8
  );
}

/** Room for pins in a zeroed region of `pinsBytes` bytes. */
export function pinsCreate(kv: KvCache, region: usize, capacity: u32, limit: u32): void {
  kv.pins = <u32>region;
  const p = pinsOf(kv);
  p.capacity = capacity;
  p.limit = limit;
  p.bits = countBits(capacity);
  p.counts = <u32>changetype<usize>(pinAt(kv, capacity));
  p.nextUs = Infinity;
  for (let slot: u32 = 0; slot < capacity; slot++)
    pinAt(kv, slot).count = slot + 1 == capacity ? NONE : slot + 1;
}

function visit(kv: KvCache, id: BlockId, hard: bool, tenant: u32, what: Visit): u32 {
  const record = block(kv, id);
  const count = countOf(kv, id, hard);
  if (what == Visit.Fresh) return u32(count == 0);
  if (what == Visit.Hold) {
    hold(kv, id);
    addToCount(kv, id, hard, 1);
    // A twin may have had no holder but soft pins, and none of this tenant.
    if (record.refs == softOf(kv, id)) pinsOf(kv).yielding += 1;
    if (kv.accounts != 0) share(kv, id, tenant);
  } else if (what == Visit.LetGo) {
    if (softOf(kv, id) != 0) pinsHold(kv, id, record.refs);
    addToCount(kv, id, hard, -1);
    if (hard && count == 1) pinsOf(kv).hardBlocks -= 1;
    letGo(kv, id);
  } else {
    const delta: i32 = what == Visit.Count ? 1 : -1;
    addToCount(kv, id, hard, delta);
    record.refs += delta;
  }
  return 0;
}

/** Visits the blocks of a pin of `count` blocks, the last one first, each behind its twins; returns the sum. */
function visitAll(kv: KvCache, leaf: BlockId, count: u32, hard: bool, tenant: u32, what: Visit): u32 {
  const length = count << kv.blockShift;
  let sum: u32 = 0;
  for (let id = leaf; count != 0; count--) {
    const parent = block(kv, id).parent;
    for (let g: u32 = 0; kv.groups != 0 && g < groupsOf(kv).count; g++) {
      const group = groupAt(kv, g);
      if ((count & ((1 << group.ratio) - 1)) != 0 || count >> group.ratio <= firstNeeded(group, length))
        continue;
      sum += visit(kv, load<u32>(twinPtr(group, id)), hard, tenant, what);
    }
    sum += visit(kv, id, hard, tenant, what);
    id = parent;
  }
  return sum;
}

/**
 * Pins the cached prefix of a sequence, with groups as far as another could go on from it, until `untilUs`, Infinity for
 * ever. Returns the pin's handle; NOT_FOUND when nothing of it is cached, PIN_LIMIT when it would be more than there may be:
 * then nothing has changed.
 */
export function pin(kv: KvCache, handle: u32, hard: bool, priority: u32, untilUs: f64): i32 {
  if (!isOpen(kv, handle)) return UNKNOWN_SEQUENCE;
  if (!(untilUs >= 0)) return INVALID_TIME;
  const sequence = sequenceOf(kv, handle);
  const p = pinsOf(kv);
  const table = tableOf(kv, handle & SLOT_MASK);
  let count = sequence.published;
  if (kv.groups != 0) {
    const whole = (count << kv.blockShift) & ~(groupsOf(kv).unit - 1);
    count = fitting(kv, table, whole, NONE) >> kv.blockShift;
  }
  if (count == 0) return NOT_FOUND;
  if (p.free == NONE) return PIN_LIMIT;
  const leaf = load<u32>(table + ((<usize>(count - 1)) << 2));
  if (hard) {
    const fresh = visitAll(kv, leaf, count, hard, 0, Visit.Fresh);
    if (fresh > p.limit - p.hardBlocks) return PIN_LIMIT;
    p.hardBlocks += fresh;
  }
  visitAll(kv, leaf, count, hard, sequence.tenant, Visit.Hold);
  const slot = p.free;
  const own = pinAt(kv, slot);
  p.free = own.count;
  p.used += 1;
  p.made += 1;
  p.nextUs = min(p.nextUs, untilUs);
  own.untilUs = untilUs;
  own.order = p.made;
  own.leaf = leaf;
  own.count = count;
  own.tenant = sequence.tenant;
  own.priority = priority;
  own.generation = own.generation == MAX_GENERATION ? 1 : own.generation + 1;
  own.state = hard ? PinState.Hard : PinState.Soft;
  return <i32>((own.generation << SLOT_BITS) | slot);
}

/** Lets go of a pin's blocks, the last one first. */
function letPinGo(kv: KvCache, slot: u32): void {
  const p = pinsOf(kv);
  const own = pinAt(kv, slot);
  visitAll(kv, own.leaf, own.count, own.state == PinState.Hard, 0, Visit.LetGo);
  own.state = PinState.Free;
  own.count = p.free;
  p.free = slot;
  p.used -= 1;
}

/** Ends a pin; NOT_FOUND when it has ended already. */
export function unpin(kv: KvCache, handle: u32): Status {
  const slot = handle & SLOT_MASK;
  if (kv.pins == 0 || slot >= pinsOf(kv).capacity) return NOT_FOUND;
  const own = pinAt(kv, slot);
  if (own.state == PinState.Free || own.generation != handle >> SLOT_BITS) return NOT_FOUND;
  letPinGo(kv, slot);
  return OK;
}

/** The host's clock has come to `nowUs`: pins end. Whoever calls it trims. */
export function pinsAdvance(kv: KvCache, nowUs: f64): void {
  const p = pinsOf(kv);
  if (p.nextUs > nowUs) return;
  p.nextUs = Infinity;
  for (let slot: u32 = 0; slot < p.capacity; slot++) {
    const own = pinAt(kv, slot);
    if (own.state == PinState.Free) continue;
    if (own.untilUs <= nowUs) letPinGo(kv, slot);
    else p.nextUs = min(p.nextUs, own.untilUs);
  }
}

/** Gives up the soft pin that is worth least, of a tenant or, with NONE, of anybody; whether there was one. */
export function giveWay(kv: KvCache, tenant: u32): bool {
  if (kv.pins == 0) return false;
  const p = pinsOf(kv);
  let least = NONE;
  for (let slot: u32 = 0; slot < p.capacity; slot++) {
    const own = pinAt(kv, slot);
    if (own.state != PinState.Soft || (tenant != NONE && own.tenant != tenant)) continue;
    if (least != NONE) {
      const other = pinAt(kv, least);
      if (own.priority > other.priority) continue;
      if (own.priority == other.priority && own.order > other.order) continue;
    }
    least = slot;
  }
  if (least == NONE) return false;
  letPinGo(kv, least);
  p.given += 1;
  return true;
}

/** Adds `delta` to the references of every block that a pin holds, and to the pins counted there. */
export function shiftPins(kv: KvCache, delta: i32): void {
  const what = delta > 0 ? Visit.Count : Visit.Uncount;
  for (let slot: u32 = 0; slot < pinsOf(kv).capacity; slot++) {
    const own = pinAt(kv, slot);
    if (own.state != PinState.Free) visitAll(kv, own.leaf, own.count, own.state == PinState.Hard, 0, what);
  }
}

/** Whether blocks are counted right; what pins count is checked with references, while they are shifted away. */
export function pinsValid(kv: KvCache): bool {
  const p = pinsOf(kv);
  let hard: u32 = 0;
  let yielding: u32 = 0;
  for (let id: u32 = 0; id < kv.blockCount; id++) {
    hard += u32(countOf(kv, id, true) != 0);
    yielding += u32(softOf(kv, id) != 0 && softOf(kv, id) == block(kv, id).refs);
  }
  return hard == p.hardBlocks && hard <= p.limit && yielding == p.yielding;
}

/** Whether no pin is counted at a block. */
// @ts-ignore: decorator
@inline
export function uncounted(kv: KvCache, id: BlockId): bool {
  return kv.pins == 0 || !isPinned(kv, id);
}

/** Slots of the host tier and the copies that name them: taken, shared, given back. */
import { extentsFree, FreeExtents } from "../../index/free-extents";
import { KvCache, NONE } from "../layout";
import {
  addressOf,
  copyAtIndex,
  copyFrom,
  copyOfPtr,
  entryPtr,
  HostCopy,
  HostSlot,
  HostTier,
  linkPtr,
  slotAt,
  TransferOp,
} from "./layout";

/** Slots that hold nothing. */
// @ts-ignore: decorator
@inline
export function freeSlots(t: HostTier): u32 {
  return changetype<FreeExtents>(<usize>t.extents).freeBlocks;
}

/** The slot and its device block have nothing to do with each other any more. */
export function unlink(t: HostTier, slot: HostSlot): void {
  if (slot.device == NONE) return;
  store<u32>(linkPtr(t, slot.device), NONE);
  slot.device = NONE;
}

/** A cached device block is forgotten. */
export function forgetLink(kv: KvCache, device: u32): void {
  const t = changetype<HostTier>(<usize>kv.tier);
  const id = load<u32>(linkPtr(t, device));
  if (id != NONE) unlink(t, slotAt(t, id));
}

/** Gives back the entries of a row from `keep` on, last first. */
export function truncateRow(t: HostTier, copy: HostCopy, keep: u32): void {
  while (copy.blocks > keep) {
    copy.blocks -= 1;
    const id = load<u32>(entryPtr(copy, copy.blocks));
    const slot = slotAt(t, id);
    slot.refs -= 1;
    if (slot.refs != 0) continue;
    unlink(t, slot);
    const status = extentsFree(t.extents, id, 1);
    assert(status == 0);
  }
}

/** The copy keeps no slots for later. */
function dropTail(t: HostTier, copy: HostCopy): void {
  if (copy.tailLength != 0) extentsFree(t.extents, copy.tailStart, copy.tailLength);
  copy.tailLength = 0;
}

/** The copy to take slots back from: of the least urgent request that is on the device. */
function worstResident(t: HostTier): HostCopy | null {
  let worst: HostCopy | null = null;
  for (let i: u32 = 0; i < t.copyCount; i++) {
    const copy = copyAtIndex(t, i);
    if (copy.resident == 0 || copy.op != TransferOp.None || copy.blocks == 0) continue;
    if (worst === null || copy.priority >= worst.priority) worst = copy;
  }
  return worst;
}

/**
 * Frees slots until `wanted` are free, as far as it can: what copies keep for later, then from the end of copies whose
 * requests are on the device, the least urgent first. Several at a time, so that what is sent there lies in a run. Whether
 * there are as many.
 */
export function reclaim(t: HostTier, wanted: u32): bool {
  if (freeSlots(t) < wanted) for (let i: u32 = 0; i < t.copyCount; i++) dropTail(t, copyAtIndex(t, i));
  while (freeSlots(t) < wanted) {
    const copy = worstResident(t);
    if (copy === null) return false;
    truncateRow(t, copy, copy.blocks - min(wanted - freeSlots(t), copy.blocks));
  }
  return true;
}

/** An empty copy for a request; null: there is none. */
export function takeCopy(t: HostTier, owner: u32): HostCopy | null {
  if (t.freeCopies == 0) return null;
  const copy = copyFrom(t.freeCopies);
  t.freeCopies = copy.next;
  copy.owner = owner;
  store<u32>(copyOfPtr(t, owner), addressOf(copy));
  return copy;
}

/** The request of a copy has none any more. */
export function disown(t: HostTier, copy: HostCopy): void {
  if (copy.owner != NONE) store<u32>(copyOfPtr(t, copy.owner), 0);
  copy.owner = NONE;
}

/** Ends a copy that has nothing in flight. */
export function freeCopy(t: HostTier, copy: HostCopy): void {
  truncateRow(t, copy, 0);
  dropTail(t, copy);
  disown(t, copy);
  copy.resident = 0;
  copy.seen = 0;
  copy.next = t.freeCopies;
  t.freeCopies = addressOf(copy);
}

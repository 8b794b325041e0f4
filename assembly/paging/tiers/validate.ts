/** Full check of a HostTier. */
import { extentsValidate } from "../../index/free-extents";
import { CORRUPT, OK, Status } from "../../memory/status";
import { block, isCached, isOpen, NONE } from "../layout";
import {
  copyAtIndex,
  copyFrom,
  copyOf,
  entryPtr,
  HostTier,
  linkPtr,
  SEND,
  slotAt,
  TransferOp,
} from "./layout";
import { freeSlots } from "./slots";

/** OK, or CORRUPT when an invariant is broken. O(slots + rows). */
export function tierValidate(t: HostTier): Status {
  let wrong = u32(extentsValidate(t.extents) != OK) | wrongSlots(t);
  let owned: u32 = 0;
  for (let owner: u32 = 0; owner < t.owners; owner++) {
    const copy = copyOf(t, owner);
    if (copy === null) continue;
    wrong |= u32(copy.owner != owner);
    owned += 1;
  }
  for (let at = t.freeCopies; at != 0 && owned <= t.copyCount; at = copyFrom(at).next) owned += 1;
  // The rows' references are taken away, and put back: in between none is left.
  let flying: u32 = 0;
  for (let delta: i32 = -1; delta <= 1; delta += 2) {
    for (let i: u32 = 0; i < t.copyCount; i++) {
      const copy = copyAtIndex(t, i);
      if (delta < 0 && copy.op != TransferOp.None) {
        flying += 1;
        owned += u32(copy.owner == NONE);
        wrong |= u32(copy.sequence != NONE && !isOpen(t.kv, copy.sequence));
      }
      for (let k: u32 = 0; k < copy.blocks; k++) {
        const entry = load<u32>(entryPtr(copy, k));
        const slot = slotAt(t, entry & ~SEND);
        slot.refs = <u32>(<i32>slot.refs + delta);
        if ((entry & SEND) == 0) continue;
        wrong |= u32(copy.op == TransferOp.None);
        // Others may count on what is on its way to a linked slot: its block must be kept until it has been read.
        if (copy.op != TransferOp.SwapOut || slot.device == NONE || copy.awaited != 0) continue;
        wrong |= u32((copy.owner & copy.sequence) == NONE);
      }
    }
    if (delta < 0) for (let id: u32 = 0; id < t.blocks; id++) wrong |= slotAt(t, id).refs;
  }
  return wrong == 0 && flying == t.inFlight && owned == t.copyCount ? OK : CORRUPT;
}

/** 0: links are mutual, to cached blocks, and of slots in rows; a slot in no row is free. */
function wrongSlots(t: HostTier): u32 {
  let taken: u32 = 0;
  let wrong: u32 = 0;
  for (let i: u32 = 0; i < t.copyCount; i++) {
    const copy = copyAtIndex(t, i);
    taken += copy.tailLength;
    for (let k: u32 = 0; k < copy.tailLength; k++) wrong |= slotAt(t, copy.tailStart + k).refs;
  }
  for (let id: u32 = 0; id < t.blocks; id++) {
    const slot = slotAt(t, id);
    if (slot.device != NONE)
      wrong |= u32(load<u32>(linkPtr(t, slot.device)) != id || !isCached(block(t.kv, slot.device)));
    taken += u32(slot.refs != 0);
  }
  return wrong | u32(taken + freeSlots(t) != t.blocks);
}

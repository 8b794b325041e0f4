/** Slots: who gets one, what stays behind when it is given back, and prefixes that two of them share. */
import { INVALID_ARGUMENT, OK, OUT_OF_BLOCKS, OUT_OF_SEQUENCES, Status, TOO_LONG } from "../memory/status";
import { entryOf, pagesFor, physicalAt, slotAt, VirtualMemory } from "./layout";
import { mapPage, reclaim, setLength, sharedPages, shrinkTo, unmapPage } from "./mapping";

// @ts-ignore: decorator
@inline
export function isActive(vm: VirtualMemory, slot: u32): bool {
  return slot < vm.slotCount && slotAt(vm, slot).length != 0;
}

/**
 * KV blocks that can be had: those that no token of an active slot lies in, whether free or still mapped, less what
 * active slots have been promised and not been given. O(slots).
 */
export function availableBlocks(vm: VirtualMemory): u32 {
  let owed: u32 = 0;
  for (let slot: u32 = 0; slot < vm.slotCount; slot++) {
    const s = slotAt(vm, slot);
    if (s.needed > s.mapped) owed += s.needed - s.mapped;
  }
  const unheld = vm.blockCount - vm.heldCount;
  return owed < unheld ? unheld - owed : 0;
}

/** Pages of an inactive slot before the first one that another slot has too: what its next sequence can use. */
function usablePages(vm: VirtualMemory, slot: u32): u32 {
  const s = slotAt(vm, slot);
  const end = min(s.shared, s.mapped);
  for (let page: u32 = 0; page < end; page++)
    if (physicalAt(vm, load<u32>(entryOf(vm, slot, page))).refs > 1) return page;
  return s.mapped;
}

/**
 * Best fit over inactive slots by what they have mapped: the least that is enough, else the most; ties to the lowest
 * id. OUT_OF_SEQUENCES when all are active.
 */
function bestSlot(vm: VirtualMemory, pages: u32): i32 {
  let best: i32 = OUT_OF_SEQUENCES;
  let bestPages: u32 = 0;
  for (let slot: u32 = 0; slot < vm.slotCount; slot++) {
    if (slotAt(vm, slot).length != 0) continue;
    const usable = usablePages(vm, slot);
    const fits = usable >= pages;
    const better =
      best < 0 || (fits ? bestPages < pages || usable < bestPages : bestPages < pages && usable > bestPages);
    if (!better) continue;
    best = <i32>slot;
    bestPages = usable;
  }
  return best;
}

/** Pages of `from` that the first `tokens` tokens fill and that end with a token: those another slot can read. */
// @ts-ignore: decorator
@inline
function sharablePages(vm: VirtualMemory, from: u32, tokens: u32): u32 {
  const pages = min(<u32>((<u64>tokens * <u64>vm.tokenBytes) >> vm.pageShift), slotAt(vm, from).mapped);
  return pages - (pages % vm.sharePages);
}

/**
 * Gives a slot to a sequence of `tokens` tokens, of which the first `prefix` are those of slot `from`, and promises it
 * their KV blocks; the next step maps what is missing. Pages left over from the slot's last sequence are used again,
 * except those that another slot shares. `from` is active, and `prefix` not above either length.
 */
export function allocateSlot(vm: VirtualMemory, tokens: u32, from: u32, prefix: u32): i32 {
  const pages = pagesFor(vm, tokens);
  const slot = bestSlot(vm, pages);
  if (slot < 0) return slot;
  // Usable pages have one holder and are not held: mapped or not, a page that is not shared costs one KV block.
  if (availableBlocks(vm) < pages - (prefix == 0 ? 0 : sharablePages(vm, from, prefix))) return OUT_OF_BLOCKS;
  const s = slotAt(vm, slot);
  shrinkTo(vm, slot, usablePages(vm, slot));
  s.shared = 0;
  setLength(vm, slot, tokens);
  if (prefix > 0) sharePrefix(vm, from, slot, prefix);
  return slot;
}

/** Ends a slot's sequence. Its pages stay mapped for the next one, unless `unmap` is set. */
export function freeSlot(vm: VirtualMemory, slot: u32, unmap: bool): void {
  setLength(vm, slot, 0);
  if (unmap) shrinkTo(vm, slot, 0);
}

/**
 * Puts the first pages of `from` behind those of `to`, as many as `tokens` tokens, which both have, allow; returns the
 * tokens that they hold. What `to` had there is unmapped.
 */
export function sharePrefix(vm: VirtualMemory, from: u32, to: u32, tokens: u32): i32 {
  const source = slotAt(vm, from);
  const target = slotAt(vm, to);
  const pages = sharablePages(vm, from, tokens);
  for (let page: u32 = 0; page < pages; page++) {
    const block = load<u32>(entryOf(vm, from, page));
    if (page < target.mapped) {
      if (load<u32>(entryOf(vm, to, page)) == block) continue;
      unmapPage(vm, to, page);
    }
    mapPage(vm, to, page, block);
  }
  target.mapped = max(target.mapped, pages);
  target.shared = max(target.shared, pages);
  source.shared = max(source.shared, pages);
  return <i32>(((<u64>pages) << vm.pageShift) / <u64>vm.tokenBytes);
}

/** Unmaps everything that no token lies in. */
export function trimSlots(vm: VirtualMemory): void {
  reclaim(vm, vm.blockCount, 0);
}

/** OK, or why slots cannot have `lengths` tokens (u32 a slot, 0 for inactive ones). */
export function checkLengths(vm: VirtualMemory): Status {
  for (let slot: u32 = 0; slot < vm.slotCount; slot++) {
    const tokens = load<u32>(<usize>vm.lengths + ((<usize>slot) << 2));
    if (tokens > vm.maxTokens) return TOO_LONG;
    const s = slotAt(vm, slot);
    if ((s.length != 0) != (tokens != 0)) return INVALID_ARGUMENT;
    if (s.shared == 0) continue;
    s.shared = sharedPages(vm, slot);
    // Tokens behind the new end will be written: not where another slot reads.
    if (tokens != 0 && <u64>tokens * <u64>vm.tokenBytes < (<u64>s.shared) << vm.pageShift)
      return INVALID_ARGUMENT;
  }
  return OK;
}

/**
 * Mapping: what moves KV blocks between the free stack and the pages of slots, and writes the map plan.
 *
 * Invariants (checked by `validateVirtualMemory` of the bindings: the core has no room for it):
 * 1. A slot's pages [0, mapped) have a KV block, the others none; a KV block is in the free stack <=> refs = 0.
 * 2. refs = pages that a KV block is behind; held = those of them below `needed` of their slot;
 *    heldCount = KV blocks with held > 0. So blockCount - heldCount is exactly what unmapping can bring together,
 *    also where two idle slots share a KV block.
 * 3. A page with refs > 1 lies below its slot's `shared`, and the slot's tokens reach to its end or the slot is inactive:
 *    nothing is ever written to it.
 *
 * A KV block is taken and given back whole, so no tensor is ever half mapped.
 */
import { Change, entryOf, freeAt, MAP, pagesFor, physicalAt, slotAt, UNMAP, VirtualMemory } from "./layout";

/** Whether the host has taken enough of the plan for one more call, whatever it does. */
export function ringHasRoom(vm: VirtualMemory): bool {
  const most = <u64>vm.entries + vm.blockCount + 2 * <u64>vm.slotPages;
  return <u64>(vm.made - vm.taken) + most <= <u64>vm.ringMask + 1;
}

function record(vm: VirtualMemory, op: u32, slot: u32, page: u32, block: u32): void {
  const change = changetype<Change>(<usize>vm.ring + <usize>(vm.made & vm.ringMask) * offsetof<Change>());
  change.op = op;
  change.slot = slot;
  change.page = page;
  change.block = block;
  vm.made += 1;
}

function hold(vm: VirtualMemory, block: u32): void {
  const physical = physicalAt(vm, block);
  if (physical.held == 0) vm.heldCount += 1;
  physical.held += 1;
}

function letGo(vm: VirtualMemory, block: u32): void {
  const physical = physicalAt(vm, block);
  physical.held -= 1;
  if (physical.held == 0) vm.heldCount -= 1;
}

/** Puts a KV block behind a page that has none. */
export function mapPage(vm: VirtualMemory, slot: u32, page: u32, block: u32): void {
  store<u32>(entryOf(vm, slot, page), block);
  physicalAt(vm, block).refs += 1;
  if (page < slotAt(vm, slot).needed) hold(vm, block);
  vm.entries += 1;
  record(vm, MAP, slot, page, block);
}

/** Takes the KV block of a page away; the last page that had it gives it back to the stack. */
export function unmapPage(vm: VirtualMemory, slot: u32, page: u32): void {
  const block = load<u32>(entryOf(vm, slot, page));
  const physical = physicalAt(vm, block);
  if (page < slotAt(vm, slot).needed) letGo(vm, block);
  physical.refs -= 1;
  if (physical.refs == 0) {
    store<u32>(freeAt(vm, vm.freeCount), block);
    vm.freeCount += 1;
  }
  vm.entries -= 1;
  record(vm, UNMAP, slot, page, block);
}

/** Unmaps from the tail until `pages` are left. */
export function shrinkTo(vm: VirtualMemory, slot: u32, pages: u32): void {
  const s = slotAt(vm, slot);
  while (s.mapped > pages) {
    s.mapped -= 1;
    unmapPage(vm, slot, s.mapped);
  }
}

/** Maps free KV blocks until `pages` are there; the stack has them. */
export function growTo(vm: VirtualMemory, slot: u32, pages: u32): void {
  const s = slotAt(vm, slot);
  for (let page = s.mapped; page < pages; page++) {
    vm.freeCount -= 1;
    mapPage(vm, slot, page, load<u32>(freeAt(vm, vm.freeCount)));
    s.mapped = page + 1;
  }
}

/** Sets how many tokens a slot has; what is mapped stays. */
export function setLength(vm: VirtualMemory, slot: u32, tokens: u32): void {
  const s = slotAt(vm, slot);
  const before = min(s.needed, s.mapped);
  s.length = tokens;
  s.needed = pagesFor(vm, tokens);
  const after = min(s.needed, s.mapped);
  for (let page = before; page < after; page++) hold(vm, load<u32>(entryOf(vm, slot, page)));
  for (let page = after; page < before; page++) letGo(vm, load<u32>(entryOf(vm, slot, page)));
}

/** Pages that a slot needs `ahead` tokens from now, never more than it can have. */
// @ts-ignore: decorator
@inline
export function pagesAhead(vm: VirtualMemory, slot: u32, ahead: u32): u32 {
  const s = slotAt(vm, slot);
  return s.length == 0 ? 0 : pagesFor(vm, min(s.length + ahead, vm.maxTokens));
}

/**
 * Unmaps, from the highest slot down and from each tail, what no slot needs `ahead` tokens from now, until `blocks` KV
 * blocks are free or nothing is left to unmap.
 */
export function reclaim(vm: VirtualMemory, blocks: u32, ahead: u32): void {
  for (let slot = vm.slotCount; slot > 0 && vm.freeCount < blocks; slot--) {
    const s = slotAt(vm, slot - 1);
    const keep = pagesAhead(vm, slot - 1, ahead);
    while (s.mapped > keep && vm.freeCount < blocks) shrinkTo(vm, slot - 1, s.mapped - 1);
  }
}

/** Leading pages up to the last one that another slot has too. */
export function sharedPages(vm: VirtualMemory, slot: u32): u32 {
  const s = slotAt(vm, slot);
  let pages = min(s.shared, s.mapped);
  while (pages > 0 && physicalAt(vm, load<u32>(entryOf(vm, slot, pages - 1))).refs == 1) pages -= 1;
  return pages;
}

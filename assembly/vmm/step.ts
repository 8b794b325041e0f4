/**
 * A step of the virtually contiguous allocator, before the kernels of an iteration and beside them.
 *
 * `stepLengths` gives every active slot the pages of its tokens, at once: what it maps, the kernels wait for.
 * `background` plans ahead, so that the host can map during the iteration what the next ones need; decoding then finds
 * its pages there. Algorithm and constants of the background plan: arXiv 2405.04437 and its published code.
 */
import { slotAt, VirtualMemory } from "./layout";
import { growTo, pagesAhead, reclaim, setLength, shrinkTo } from "./mapping";

/**
 * Sets the lengths that the host has written (`checkLengths` has passed) and maps what is missing, taking from idle and
 * over-mapped slots where the stack has too little. A slot whose pages cannot be had keeps its length and is listed in
 * `short`; the others are served. Returns how many are listed.
 */
export function stepLengths(vm: VirtualMemory): u32 {
  // All lengths first: a page mapped ahead for one slot must not be taken for another that comes before it. `lengths`
  // keeps the old ones meanwhile.
  for (let slot: u32 = 0; slot < vm.slotCount; slot++) {
    const at = <usize>vm.lengths + ((<usize>slot) << 2);
    const before = slotAt(vm, slot).length;
    setLength(vm, slot, load<u32>(at));
    store<u32>(at, before);
  }
  let refused: u32 = 0;
  for (let slot: u32 = 0; slot < vm.slotCount; slot++) {
    const s = slotAt(vm, slot);
    if (s.needed <= s.mapped) continue;
    const missing = s.needed - s.mapped;
    if (missing > vm.blockCount - vm.heldCount) {
      setLength(vm, slot, load<u32>(<usize>vm.lengths + ((<usize>slot) << 2)));
      store<u32>(<usize>vm.short + ((<usize>refused) << 2), slot);
      refused += 1;
      continue;
    }
    reclaim(vm, missing, 0);
    growTo(vm, slot, s.needed);
  }
  return refused;
}

/** KV blocks that the slots lack for one token more each. */
function lackingNext(vm: VirtualMemory): u32 {
  let lacking: u32 = 0;
  for (let slot: u32 = 0; slot < vm.slotCount; slot++) {
    const pages = pagesAhead(vm, slot, 1);
    const mapped = slotAt(vm, slot).mapped;
    if (pages > mapped) lacking += pages - mapped;
  }
  return lacking;
}

/** Maps what slots will need up to `eagerSteps` tokens from now; beyond the next token at most `eagerBlocks` KV blocks. */
function mapAhead(vm: VirtualMemory): void {
  let ahead: u32 = 0;
  for (let step: u32 = 1; step <= vm.eagerSteps; step++) {
    for (let slot: u32 = 0; slot < vm.slotCount; slot++) {
      const pages = pagesAhead(vm, slot, step);
      const mapped = slotAt(vm, slot).mapped;
      if (pages > mapped && pages - mapped <= vm.freeCount) {
        growTo(vm, slot, pages);
        ahead += pages - mapped;
      }
      if (step > 1 && ahead >= vm.eagerBlocks) return;
    }
  }
}

/** Takes one KV block from the highest inactive slot that has one, leaving the lowest inactive slot alone. */
function reclaimOne(vm: VirtualMemory): void {
  let spared: u32 = 0;
  while (spared < vm.slotCount && slotAt(vm, spared).length != 0) spared += 1;
  for (let slot = vm.slotCount; slot > spared + 1; slot--) {
    const s = slotAt(vm, slot - 1);
    if (s.length != 0 || s.mapped == 0) continue;
    shrinkTo(vm, slot - 1, s.mapped - 1);
    return;
  }
}

/** Plans for the steps to come. Every change is outside what this iteration's kernels touch. */
export function background(vm: VirtualMemory): void {
  if (vm.eagerSteps == 0) return;
  const lacking = lackingNext(vm);
  if (vm.freeCount < lacking) {
    // Pages for the next token of every slot are spared, or they would be unmapped here and mapped again below.
    reclaim(vm, lacking, 1);
    if (vm.freeCount < lacking) return;
  }
  mapAhead(vm);
  if (lacking == 0 && vm.eagerReclaim != 0) reclaimOne(vm);
}

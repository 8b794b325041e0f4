/** How far a cached prefix can be gone on from, by what cache groups (groups.ts) have of it. */
import {
  entryPtr,
  firstNeeded,
  Group,
  groupAt,
  groupBlocks,
  GroupKind,
  groupsOf,
  spanOf,
  twinPtr,
} from "./groups";
import { BlockId, KvCache, NONE } from "./layout";

/** Twin of the block that ends with entry `index` of a group, in a table of the cache's own blocks. */
export function twinAt(group: Group, primaries: usize, index: u32): BlockId {
  const primary = load<u32>(primaries + ((<usize>(((index + 1) << group.ratio) - 1)) << 2));
  return load<u32>(twinPtr(group, primary));
}

/** Whether entry `index` is held by the sequence in `slot` (NONE: nothing is), or can be had from the cache for `length` tokens. */
function has(group: Group, primaries: usize, slot: u32, index: u32, length: u32): bool {
  if (slot != NONE && index < spanOf(group, slot).count && load<u32>(entryPtr(group, slot, index)) != NONE)
    return true;
  return (index + 1) << group.shift <= length && twinAt(group, primaries, index) != NONE;
}

/**
 * Longest prefix of up to `length` tokens that can be gone on from: every group has what the next token needs. `length`
 * itself, or a multiple of the unit. O(blocks that the groups need), windows from the right.
 */
export function fitting(kv: KvCache, primaries: usize, length: u32, slot: u32): u32 {
  const groups = groupsOf(kv);
  const aligned = ~(groups.unit - 1);
  let n = length;
  for (let g: u32 = 0; g < groups.count; g++) {
    const group = groupAt(kv, g);
    if (group.kind == GroupKind.Recurrent && (n & ((1 << group.shift) - 1)) != 0) n &= aligned;
  }
  let fullChecked = false;
  while (true) {
    let cut = n;
    for (let g: u32 = 0; g < groups.count; g++) {
      const group = groupAt(kv, g);
      const end = groupBlocks(group, n);
      if (group.kind == GroupKind.Full) {
        if (fullChecked) continue;
        let index: u32 = 0;
        while (index < end && has(group, primaries, slot, index, n)) index += 1;
        if (index < end) cut = min(cut, index << group.shift);
        continue;
      }
      const first = firstNeeded(group, n);
      let index = end;
      while (index > first && has(group, primaries, slot, index - 1, n)) index -= 1;
      if (index > first) cut = min(cut, (index - 1) << group.shift);
    }
    if (cut == n) return n;
    n = cut & aligned;
    fullChecked = true;
  }
}

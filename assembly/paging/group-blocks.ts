/**
 * All blocks of a sequence in a cache with groups, in one order: those of the cache's own table, then of each group those that
 * hold what the next token needs. Two sequences of one length have as many, and the same ones in the same places: so the
 * host tier copies one sequence's into another's.
 */
import { entryPtr, firstNeeded, groupAt, groupBlocks, groupsOf, spanOf } from "./groups";
import { BlockId, blocksFor, KvCache, sequenceAt, tableOf } from "./layout";

/** Blocks that the sequence in `slot` holds, reserved ones included. Without groups those of its table. */
export function heldBlocks(kv: KvCache, slot: u32): u32 {
  let blocks = sequenceAt(kv, slot).blockCount;
  if (kv.groups == 0) return blocks;
  for (let g: u32 = 0; g < groupsOf(kv).count; g++) {
    const span = spanOf(groupAt(kv, g), slot);
    blocks += span.count - span.first;
  }
  return blocks;
}

/** The `i`-th of the blocks with content; in a cache with groups. */
export function blockInOrder(kv: KvCache, slot: u32, i: u32): BlockId {
  const length = sequenceAt(kv, slot).length;
  let behind = blocksFor(kv, length);
  let entry = tableOf(kv, slot) + ((<usize>i) << 2);
  for (let g: u32 = 0; i >= behind; g++) {
    i -= behind;
    const group = groupAt(kv, g);
    const first = spanOf(group, slot).first;
    behind = groupBlocks(group, length) - first;
    entry = entryPtr(group, slot, first + i);
  }
  return load<u32>(entry);
}

/** A new sequence gets `length` tokens, but no blocks yet: its tables begin with the first ones that those need. */
export function groupsSkip(kv: KvCache, slot: u32, length: u32): void {
  for (let g: u32 = 0; g < groupsOf(kv).count; g++) {
    const group = groupAt(kv, g);
    const span = spanOf(group, slot);
    span.first = firstNeeded(group, length);
    span.count = span.first;
    memory.fill(entryPtr(group, slot, 0), 0xff, (<usize>span.first) << 2);
  }
}

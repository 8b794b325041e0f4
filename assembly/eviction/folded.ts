/**
 * Folded lanes: a table a layer, of slices. A block of L layers is L slices, each a place for `blockSize` slots of one layer,
 * whichever; blocks follow the sum over layers instead of the longest lane, and while a prompt is computed layer by layer one
 * layer may hold all of it.
 *
 *   slab   ... planes | slices [layers][stride] u32        slice j of a layer: index in the sequence's table * L + slice
 *
 * Which slice is whose is the host's to say (bindings/eviction/folded.ts): it lives in the slab and goes with snapshots and
 * forks, and no call here looks at it. The core is told how many blocks all slices take after a compaction, and of how many
 * slots that is (`foldBlocks`, `foldSlots` of the arena), and accounts as for any lossy sequence. Blocks are shared by forks
 * alone, and then all of them.
 */
import { INVALID_ARGUMENT, OK, Status } from "../memory/status";
import { stage } from "../paging/compaction";
import { isOpen, sequenceOf } from "../paging/layout";
import { headOf, LaneArena, planeCount, setWordAt, Slab, slabOf } from "./layout";
import { enter, slabIsOpen } from "./lanes";

/** Plans the table of a compaction: the first `foldBlocks` blocks stay. While a prompt is being filled in all of them do. */
export function planFolded(arena: LaneArena, slab: Slab): Status {
  const kv = arena.kv;
  const sequence = sequenceOf(kv, slab.sequence);
  const filling = slab.filling != 0;
  const held: u32 = filling ? 0 : arena.foldBlocks;
  if (held > sequence.blockCount || arena.foldSlots > held << kv.blockShift) return INVALID_ARGUMENT;
  if (arena.foldSlots > sequence.length) return INVALID_ARGUMENT;
  const sources = <usize>kv.staged + ((<usize>kv.tableStride) << 2);
  for (let b: u32 = 0; b < held; b++) setWordAt(sources, b, b);
  arena.slots = filling ? 0 : arena.foldSlots;
  arena.reuse = filling ? sequence.reuse : 0;
  arena.writeFrom = 0;
  return stage(kv, slab.sequence, held, 0);
}

/**
 * A layer of a prompt of `count` tokens, which is computed layer by layer, has K and V: they enter its lanes. With layer 0
 * the prompt begins: all of it has been seen from then on. `count` 0, after the last layer: the sequence's next append takes
 * the `foldSlots` slots that the lanes hold. INVALID_ARGUMENT unless the lanes of the layer are empty.
 */
export function lanesLayer(arena: LaneArena, handle: u32, layer: u32, count: u32): Status {
  if (!slabIsOpen(arena, handle) || arena.folded == 0 || layer >= arena.layers || count > arena.capacity)
    return INVALID_ARGUMENT;
  const slab = slabOf(arena, handle);
  if (!isOpen(arena.kv, slab.sequence)) return INVALID_ARGUMENT;
  if (count == 0) {
    if (slab.filling == 0 || arena.foldSlots > slab.seen) return INVALID_ARGUMENT;
    slab.filling = 0;
    sequenceOf(arena.kv, slab.sequence).reuse = slab.seen - arena.foldSlots;
    return OK;
  }
  if (layer == 0 ? slab.seen != 0 : slab.filling != count) return INVALID_ARGUMENT;
  slab.seen = count;
  slab.filling = count;
  const planes = planeCount(arena);
  for (let lane = layer * arena.kvHeads; lane < (layer + 1) * arena.kvHeads; lane++) {
    for (let i: u32 = 0; i < count; i++) enter(arena, slab, lane, i, i, planes);
    headOf(slab, lane).length = count;
  }
  return OK;
}

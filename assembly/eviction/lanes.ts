/**
 * The life of a sequence's lanes: open, append, copy to a fork, close.
 *
 * Invariants:
 * 1. Every lane has length <= capacity and length <= seen; positions are distinct and below seen.
 * 2. A hole is below the lane's length; all holes are filled by the next token.
 *
 * The lanes follow their sequence: who appends to one appends to the other. O(lanes) for an append, whatever the length.
 */
import {
  COMPACTION_PENDING,
  CORRUPT,
  INVALID_ARGUMENT,
  OK,
  OUT_OF_SEQUENCES,
  Status,
  TOO_LONG,
  UNKNOWN_SEQUENCE,
} from "../memory/status";
import { isOpen, LOSSY, MAX_GENERATION, NONE, sequenceOf, SLOT_BITS, SLOT_MASK } from "../paging/layout";
import {
  headOf,
  LaneArena,
  planeCount,
  planeOf,
  setWordAt,
  Slab,
  slabAt,
  slabOf,
  slicesOf,
  wordAt,
} from "./layout";

/** Whether the handle names an open slab. */
// @ts-ignore: decorator
@inline
export function slabIsOpen(arena: LaneArena, handle: u32): bool {
  const index = handle & SLOT_MASK;
  if (index >= arena.slabs) return false;
  const slab = slabAt(arena, index);
  return slab.open != 0 && slab.generation == handle >> SLOT_BITS;
}

/** Whether a compaction of these lanes is planned; closing their sequence gives it up. */
// @ts-ignore: decorator
@inline
export function isPlanned(arena: LaneArena, index: u32): bool {
  return arena.planned == index && arena.kv.stagedSequence == slabAt(arena, index).sequence;
}

/** Empty lanes for a sequence; returns a handle. */
export function lanesOpen(arena: LaneArena, sequence: u32): i32 {
  if (!isOpen(arena.kv, sequence)) return UNKNOWN_SEQUENCE;
  if (arena.freeSlab == NONE) return OUT_OF_SEQUENCES;
  const index = arena.freeSlab;
  const slab = slabAt(arena, index);
  arena.freeSlab = slab.nextFree;
  arena.openSlabs += 1;
  slab.generation = slab.generation == MAX_GENERATION ? 1 : slab.generation + 1;
  slab.open = 1;
  slab.bySlot = 0;
  slab.sequence = sequence;
  empty(arena, slab);
  return <i32>((slab.generation << SLOT_BITS) | index);
}

function empty(arena: LaneArena, slab: Slab): void {
  slab.seen = 0;
  slab.filling = 0;
  for (let lane: u32 = 0; lane < arena.lanes; lane++) {
    const head = headOf(slab, lane);
    head.length = 0;
    head.hole = NONE;
    head.evicted = 0;
  }
}

/** Empties the lanes and gives them to another sequence: the same request, computed anew. */
export function lanesReset(arena: LaneArena, handle: u32, sequence: u32): Status {
  if (!slabIsOpen(arena, handle)) return INVALID_ARGUMENT;
  if (!isOpen(arena.kv, sequence)) return UNKNOWN_SEQUENCE;
  const slab = slabOf(arena, handle);
  if (isPlanned(arena, handle & SLOT_MASK)) return COMPACTION_PENDING;
  slab.sequence = sequence;
  empty(arena, slab);
  return OK;
}

/** Gives the slab back, unless a compaction of it is planned. */
export function lanesClose(arena: LaneArena, handle: u32): Status {
  if (!slabIsOpen(arena, handle)) return INVALID_ARGUMENT;
  const slab = slabOf(arena, handle);
  if (isPlanned(arena, handle & SLOT_MASK)) return COMPACTION_PENDING;
  slab.open = 0;
  slab.nextFree = arena.freeSlab;
  arena.freeSlab = handle & SLOT_MASK;
  arena.openSlabs -= 1;
  return OK;
}

/** Enters `count` tokens with zeroed planes into every lane, the first into its hole where it has one. */
export function lanesAppend(arena: LaneArena, handle: u32, count: u32): Status {
  if (!slabIsOpen(arena, handle)) return INVALID_ARGUMENT;
  if (isPlanned(arena, handle & SLOT_MASK)) return COMPACTION_PENDING;
  const slab = slabOf(arena, handle);
  if (count == 0) return OK;
  if (count > arena.kv.maxSequenceTokens - slab.seen) return TOO_LONG;
  for (let lane: u32 = 0; lane < arena.lanes; lane++) {
    const head = headOf(slab, lane);
    if (<u64>head.length + count - u64(head.hole != NONE) > <u64>arena.capacity) return TOO_LONG;
  }
  const planes = planeCount(arena);
  let shortest = u32.MAX_VALUE;
  for (let lane: u32 = 0; lane < arena.lanes; lane++) {
    const head = headOf(slab, lane);
    const reused = u32(head.hole != NONE);
    if (reused != 0) enter(arena, slab, lane, head.hole, slab.seen, planes);
    for (let i = reused; i < count; i++)
      enter(arena, slab, lane, head.length + i - reused, slab.seen + i, planes);
    head.length += count - reused;
    head.hole = NONE;
    shortest = min(shortest, head.length);
  }
  slab.seen += count;
  follow(arena, slab, arena.folded != 0 ? 0 : shortest);
  return OK;
}

export function enter(arena: LaneArena, slab: Slab, lane: u32, slot: u32, position: u32, planes: u32): void {
  setWordAt(planeOf(arena, slab, 0, lane), slot, position);
  for (let plane: u32 = 1; plane < planes; plane++) setWordAt(planeOf(arena, slab, plane, lane), slot, 0);
}

/** Tells a lossy sequence where its next tokens go. */
function follow(arena: LaneArena, slab: Slab, writeFrom: u32): void {
  if (!isOpen(arena.kv, slab.sequence)) return;
  const sequence = sequenceOf(arena.kv, slab.sequence);
  if ((sequence.flags & LOSSY) != 0 && sequence.length == slab.seen) sequence.writeFrom = writeFrom;
}

/** Lanes for a fork of the sequence: a copy of everything; returns a handle. */
export function lanesFork(arena: LaneArena, handle: u32, sequence: u32): i32 {
  if (!slabIsOpen(arena, handle)) return INVALID_ARGUMENT;
  const twin = lanesOpen(arena, sequence);
  if (twin < 0) return twin;
  const from = slabOf(arena, handle);
  const to = slabOf(arena, twin);
  to.seen = from.seen;
  to.bySlot = from.bySlot;
  if (arena.folded != 0)
    memory.copy(slicesOf(arena, to), slicesOf(arena, from), (<usize>arena.layers * <usize>arena.stride) << 2);
  const planes = planeCount(arena);
  for (let lane: u32 = 0; lane < arena.lanes; lane++) {
    const source = headOf(from, lane);
    const target = headOf(to, lane);
    target.length = source.length;
    target.hole = source.hole;
    target.evicted = source.evicted;
    for (let plane: u32 = 0; plane < planes; plane++)
      memory.copy(
        planeOf(arena, to, plane, lane),
        planeOf(arena, from, plane, lane),
        (<usize>source.length) << 2,
      );
  }
  return twin;
}

/** Checks both invariants, the slabs' list, and that lossy sequences have room for their lanes. O(slots^2) in a lane. */
export function lanesValidate(arena: LaneArena): Status {
  let opened: u32 = 0;
  for (let i: u32 = 0; i < arena.slabs; i++) {
    const slab = slabAt(arena, i);
    if (slab.open == 0) continue;
    opened += 1;
    if (!validSlab(arena, slab)) return CORRUPT;
  }
  let free: u32 = 0;
  for (let i = arena.freeSlab; i != NONE && free <= arena.slabs; i = slabAt(arena, i).nextFree) free += 1;
  return opened == arena.openSlabs && opened + free == arena.slabs ? OK : CORRUPT;
}

function validSlab(arena: LaneArena, slab: Slab): bool {
  let longest: u32 = 0;
  for (let lane: u32 = 0; lane < arena.lanes; lane++) {
    const head = headOf(slab, lane);
    if (head.length > arena.capacity || head.length > slab.seen) return false;
    if (head.hole != NONE && head.hole >= head.length) return false;
    longest = max(longest, head.length);
    if (!validPositions(planeOf(arena, slab, 0, lane), head.length, head.hole, slab.seen)) return false;
  }
  if (!isOpen(arena.kv, slab.sequence)) return true;
  const sequence = sequenceOf(arena.kv, slab.sequence);
  const follows = (sequence.flags & LOSSY) != 0 && sequence.length == slab.seen;
  return !follows || (arena.folded == 0 ? sequence.slots == longest : sequence.slots <= slab.seen);
}

/** Whether the positions of a lane's tokens are below `seen` and distinct; the hole has none. */
function validPositions(positions: usize, length: u32, hole: u32, seen: u32): bool {
  let above: u32 = 0; // all positions so far are below it, and it may be taken without a search
  for (let i: u32 = 0; i < length; i++) {
    if (i == hole) continue;
    const position = wordAt(positions, i);
    if (position >= seen) return false;
    if (position < above) {
      for (let j: u32 = 0; j < i; j++) if (j != hole && wordAt(positions, j) == position) return false;
    }
    above = max(above, position + 1);
  }
  return true;
}

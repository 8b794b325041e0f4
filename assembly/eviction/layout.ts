/**
 * Lanes: what is known of every cached token of a sequence, by layer and KV head.
 *
 *   header   LaneArena, 3 lines
 *   slabs    [slabs] of slabBytes:   Slab, 64 B | heads [lanes] LaneHead, 32 B | pos | score | lastImp | mri | aux
 *            and in folded arenas slices [layers][stride] u32 (folded.ts)
 *   keep     [lanes][stride] u32     input: slots that stay, ascending
 *   counts   [lanes] u32             input: how many, or ALL
 *   victims  [lanes] u32             input: slot whose place the next token takes, or NONE
 *   moves    [lanes] u32             input: slot that moves to the victim's first, or NONE
 *   records  [moveCapacity][8] u32   output: K and V to move
 *
 * A plane is [lanes][stride] words, stride being the capacity rounded up to 4: a kernel runs over all lanes of a layer
 * in one call. Only the planes that the arena was made with are there. Lane `layer * kvHeads + kvHead`; its slot s lies
 * in block table[s / blockSize] of the sequence. Slots from `length` on are undefined.
 *
 * A slab serves one sequence. Slabs are fixed: nothing is taken inside a step. The idea of original positions kept
 * beside the slots: "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models" (arXiv
 * 2306.14048).
 */
import { alignToLine } from "../memory/arena";
import { KvCache, NONE, SLOT_MASK } from "../paging/layout";

/** In `counts`: every slot stays. */
// @ts-ignore: decorator
@inline export const ALL: u32 = 0xffffffff;
// @ts-ignore: decorator
@inline export const MAX_LANES: u32 = 1 << 16;
// @ts-ignore: decorator
@inline export const MAX_SLABS: u32 = 1 << 16;
// @ts-ignore: decorator
@inline export const MAX_MOVES: u32 = 1 << 20;
/** Words of a move record: layer, KV head, source block, offset, target block, offset, slots, slots back << 1 where keys turn. */
// @ts-ignore: decorator
@inline export const MOVE_BYTES: usize = 32;
/** Planes besides the positions: score, lastImp, mri, aux. */
// @ts-ignore: decorator
@inline export const ALL_PLANES: u32 = 15;
/** Beside the planes: a table a layer (folded.ts). */
// @ts-ignore: decorator
@inline export const FOLDED: u32 = 16;


@unmanaged
export class LaneArena {
  kv: KvCache;
  layers: u32;
  kvHeads: u32;
  lanes: u32;
  /** Slots that a lane can hold. */
  capacity: u32;
  stride: u32;
  /** Bits of the planes that there are besides the positions. */
  planes: u32;
  slabs: u32;
  slabBytes: u32;
  slabsAt: u32;
  freeSlab: u32;
  openSlabs: u32;
  // Inputs and outputs.
  keep: u32;
  counts: u32;
  victims: u32;
  successors: u32;
  records: u32;
  moveCapacity: u32;
  // The planned compaction: its slab, what it will set, and how far its moves have been read.
  planned: u32;
  slots: u32;
  reuse: u32;
  writeFrom: u32;
  /** First slot of any lane whose K and V may move. */
  moveFrom: u32;
  cursorLane: u32;
  cursorSlot: u32;
  // Sums since creation.
  evicted: u64;
  moved: u64;
  /** 1: a table a layer. Blocks and slots of the sequence after the compaction to plan: inputs. */
  folded: u32;
  foldBlocks: u32;
  foldSlots: u32;
}


@unmanaged
export class Slab {
  generation: u32;
  open: u32;
  /** Handle of the sequence. */
  sequence: u32;
  /** Positions that the lanes have seen. */
  seen: u32;
  nextFree: u32;
  /** Tokens of a prompt that is computed layer by layer, while it is. */
  filling: u32;
  /** 1: keys are rotated by their slot, not by their token's position: moves turn them. An input. */
  bySlot: u32;
  reserved1: u32;
}


@unmanaged
export class LaneHead {
  length: u32;
  /** Slot that the next token takes, or NONE: it is appended. */
  hole: u32;
  /** Tokens dropped so far. */
  evicted: u32;
  /** Slots once the planned compaction is committed. */
  planned: u32;
  reserved0: u64;
  reserved1: u64;
}

// @ts-ignore: decorator
@inline const SLAB_HEADER: usize = 64;

// @ts-ignore: decorator
@inline
function align(bytes: u64): u64 {
  return (bytes + 63) & ~63;
}

// @ts-ignore: decorator
@inline
function strideOf(capacity: u32): u32 {
  return (capacity + 3) & ~3;
}

function slabBytesOf(lanes: u32, capacity: u32, planes: u32): u64 {
  const plane = align((<u64>lanes * strideOf(capacity)) << 2);
  // Slices take a plane: no more layers than lanes.
  return SLAB_HEADER + align(<u64>lanes * offsetof<LaneHead>()) + plane * <u64>(1 + popcnt(planes));
}

/** Bytes of an arena; the ranges are the caller's to check. */
export function laneArenaBytes(lanes: u32, capacity: u32, planes: u32, slabs: u32, moveCapacity: u32): u64 {
  return (
    align(offsetof<LaneArena>()) +
    <u64>slabs * slabBytesOf(lanes, capacity, planes) +
    align((<u64>lanes * strideOf(capacity)) << 2) +
    3 * align((<u64>lanes) << 2) +
    <u64>moveCapacity * MOVE_BYTES
  );
}

/** Lays an arena out at `arena`, a zeroed region of `laneArenaBytes` bytes. */
export function laneArenaCreate(
  arena: LaneArena,
  kv: KvCache,
  layers: u32,
  kvHeads: u32,
  capacity: u32,
  planes: u32,
  slabs: u32,
  moveCapacity: u32,
): void {
  const lanes = layers * kvHeads;
  arena.kv = kv;
  arena.layers = layers;
  arena.kvHeads = kvHeads;
  arena.lanes = lanes;
  arena.capacity = capacity;
  arena.stride = strideOf(capacity);
  arena.planes = planes & ALL_PLANES;
  arena.slabs = slabs;
  arena.slabBytes = <u32>slabBytesOf(lanes, capacity, planes);
  let at = changetype<usize>(arena) + alignToLine(offsetof<LaneArena>());
  arena.slabsAt = <u32>at;
  at += <usize>slabs * <usize>arena.slabBytes;
  arena.keep = <u32>at;
  at += alignToLine((<usize>lanes * <usize>arena.stride) << 2);
  const list = alignToLine((<usize>lanes) << 2);
  arena.counts = <u32>at;
  arena.victims = <u32>(at + list);
  arena.successors = <u32>(at + 2 * list);
  arena.records = <u32>(at + 3 * list);
  arena.moveCapacity = moveCapacity;
  arena.folded = u32((planes & FOLDED) != 0);
  arena.planned = NONE;
  arena.openSlabs = 0;
  arena.freeSlab = 0;
  arena.evicted = 0;
  arena.moved = 0;
  for (let i: u32 = 0; i < slabs; i++) slabAt(arena, i).nextFree = i + 1 == slabs ? NONE : i + 1;
}

// @ts-ignore: decorator
@inline
export function slabAt(arena: LaneArena, index: u32): Slab {
  return changetype<Slab>(<usize>arena.slabsAt + <usize>index * <usize>arena.slabBytes);
}

/** The slab of a handle; `slabIsOpen` says whether it is right. */
// @ts-ignore: decorator
@inline
export function slabOf(arena: LaneArena, handle: u32): Slab {
  return slabAt(arena, handle & SLOT_MASK);
}

// @ts-ignore: decorator
@inline
export function headOf(slab: Slab, lane: u32): LaneHead {
  return changetype<LaneHead>(changetype<usize>(slab) + SLAB_HEADER + <usize>lane * offsetof<LaneHead>());
}

/** Address of a lane's part of the n-th plane that there is; 0: the positions. */
// @ts-ignore: decorator
@inline
export function planeOf(arena: LaneArena, slab: Slab, plane: u32, lane: u32): usize {
  const heads = alignToLine(<usize>arena.lanes * offsetof<LaneHead>());
  const bytes = alignToLine((<usize>arena.lanes * <usize>arena.stride) << 2);
  const within = (<usize>lane * <usize>arena.stride) << 2;
  return changetype<usize>(slab) + SLAB_HEADER + heads + <usize>plane * bytes + within;
}

/** Planes that there are, the positions included. */
// @ts-ignore: decorator
@inline
export function planeCount(arena: LaneArena): u32 {
  return 1 + popcnt(arena.planes);
}

/** Address of the slices of a slab, behind its planes. */
export function slicesOf(arena: LaneArena, slab: Slab): usize {
  return planeOf(arena, slab, planeCount(arena), 0);
}

// @ts-ignore: decorator
@inline
export function wordAt(list: usize, index: u32): u32 {
  return load<u32>(list + ((<usize>index) << 2));
}

// @ts-ignore: decorator
@inline
export function setWordAt(list: usize, index: u32, value: u32): void {
  store<u32>(list + ((<usize>index) << 2), value);
}

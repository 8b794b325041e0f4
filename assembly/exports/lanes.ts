/**
 * Lanes as the host sees them. `arena` is the pointer of a region of kind Lanes, `lanes` a handle, `sequence` a
 * sequence of the arena's cache. In the debug build every changing call is followed by a full check.
 */
import { lanesCommit as commit, lanesMoves as moves, lanesPlan as plan } from "../eviction/compact";
import { lanesRollback as rollback } from "../eviction/compact";
import { lanesLayer as enterLayer } from "../eviction/folded";
import {
  ALL_PLANES,
  FOLDED,
  LaneArena,
  laneArenaBytes,
  laneArenaCreate,
  MAX_LANES,
  MAX_MOVES,
  MAX_SLABS,
  slabAt,
} from "../eviction/layout";
import {
  lanesAppend as append,
  lanesClose as close,
  lanesFork as fork,
  lanesOpen as open,
  lanesReset as reset,
  lanesValidate,
} from "../eviction/lanes";
import { ARENA, arenaTake, RegionKind } from "../memory/arena";
import { INVALID_ARGUMENT, NOT_FOUND, OK, OUT_OF_MEMORY, Status } from "../memory/status";
import { KvCache, MAX_SEQUENCE_TOKENS, SLOT_BITS } from "../paging/layout";
import { kvValidate } from "../paging/validate";

// @ts-ignore: decorator
@inline
function checked(arena: LaneArena, result: i32): i32 {
  if (ASC_OPTIMIZE_LEVEL == 0) assert(lanesValidate(arena) == OK && kvValidate(arena.kv) == OK);
  return result;
}

function shapeValid(
  layers: u32,
  kvHeads: u32,
  capacity: u32,
  planes: u32,
  slabs: u32,
  moveCapacity: u32,
): bool {
  return (
    layers >= 1 &&
    kvHeads >= 1 &&
    <u64>layers * kvHeads <= <u64>MAX_LANES &&
    capacity >= 1 &&
    capacity <= MAX_SEQUENCE_TOKENS &&
    planes <= (ALL_PLANES | FOLDED) &&
    slabs >= 1 &&
    slabs <= MAX_SLABS &&
    moveCapacity >= 1 &&
    moveCapacity <= MAX_MOVES &&
    laneArenaBytes(layers * kvHeads, capacity, planes, 1, 0) <= <u64>u32.MAX_VALUE
  );
}

/** Bytes of an arena of this shape, or INVALID_ARGUMENT. */
export function lanesBytes(
  layers: u32,
  kvHeads: u32,
  capacity: u32,
  planes: u32,
  slabs: u32,
  moveCapacity: u32,
): f64 {
  return shapeValid(layers, kvHeads, capacity, planes, slabs, moveCapacity)
    ? <f64>laneArenaBytes(layers * kvHeads, capacity, planes, slabs, moveCapacity)
    : INVALID_ARGUMENT;
}

/** Creates an arena for sequences of `cache` in a region of its own; afterwards it is the core's last region. */
export function lanesCreate(
  cache: usize,
  layers: u32,
  kvHeads: u32,
  capacity: u32,
  planes: u32,
  slabs: u32,
  moveCapacity: u32,
): Status {
  if (!shapeValid(layers, kvHeads, capacity, planes, slabs, moveCapacity)) return INVALID_ARGUMENT;
  const bytes = laneArenaBytes(layers * kvHeads, capacity, planes, slabs, moveCapacity);
  const arena = changetype<LaneArena>(arenaTake(ARENA, RegionKind.Lanes, bytes));
  if (changetype<usize>(arena) == 0) return OUT_OF_MEMORY;
  laneArenaCreate(arena, changetype<KvCache>(cache), layers, kvHeads, capacity, planes, slabs, moveCapacity);
  return OK;
}

/** Empty lanes for an open sequence. Returns a handle. */
export function lanesOpen(arena: usize, sequence: u32): i32 {
  const a = changetype<LaneArena>(arena);
  return checked(a, open(a, sequence));
}

/** Handle of the open lanes in slab `index`, NOT_FOUND when it serves nobody. */
export function lanesAt(arena: usize, index: u32): i32 {
  const a = changetype<LaneArena>(arena);
  if (index >= a.slabs || slabAt(a, index).open == 0) return NOT_FOUND;
  return <i32>((slabAt(a, index).generation << SLOT_BITS) | index);
}

export function lanesReset(arena: usize, lanes: u32, sequence: u32): Status {
  const a = changetype<LaneArena>(arena);
  return checked(a, reset(a, lanes, sequence));
}

export function lanesClose(arena: usize, lanes: u32): Status {
  const a = changetype<LaneArena>(arena);
  return checked(a, close(a, lanes));
}

/** Enters `count` tokens with zeroed planes. */
export function lanesAppend(arena: usize, lanes: u32, count: u32): Status {
  const a = changetype<LaneArena>(arena);
  return checked(a, append(a, lanes, count));
}

/** Lanes for a fork of the sequence, with all that is known. Returns a handle. */
export function lanesFork(arena: usize, lanes: u32, sequence: u32): i32 {
  const a = changetype<LaneArena>(arena);
  return checked(a, fork(a, lanes, sequence));
}

/** Plans what the input sections ask for; see `lanesPlan` in eviction/compact. */
export function lanesPlan(arena: usize, lanes: u32, privateFrom: u32): Status {
  const a = changetype<LaneArena>(arena);
  return checked(a, plan(a, lanes, privateFrom));
}

/** Folded lanes: one layer of a prompt has been computed, or with `count` 0 all have; see `lanesLayer` in eviction/folded. */
export function lanesLayer(arena: usize, lanes: u32, layer: u32, count: u32): Status {
  const a = changetype<LaneArena>(arena);
  return checked(a, enterLayer(a, lanes, layer, count));
}

/** Writes the next move records; how many, 0 when there are no more. */
export function lanesMoves(arena: usize): i32 {
  return moves(changetype<LaneArena>(arena));
}

export function lanesCommit(arena: usize): Status {
  const a = changetype<LaneArena>(arena);
  return checked(a, commit(a));
}

export function lanesRollback(arena: usize): Status {
  const a = changetype<LaneArena>(arena);
  return checked(a, rollback(a));
}

export function lanesValidateAll(arena: usize): Status {
  return lanesValidate(changetype<LaneArena>(arena));
}

/**
 * Arena: one core's linear memory, handed out once in fixed regions.
 *
 * Structures never grow, shrink or move: each states its exact need up front, takes one region and keeps it.
 * A core is therefore one contiguous run of bytes, and a snapshot is a copy of it.
 *
 *   0            64              1152
 *   | unused     | header, directory | region | guard | region | guard | ...          | not taken yet
 *                  ^ ARENA                                               ^ top          ^ end
 *
 *   header   0 magic u64 | 8 abi version u32 | 12 regions u32 | 16 top u64 | 24 end u64 | 32 seed u64 | 40 random u64
 *            48 poison u32 | 52 unused | 56 workers u64 (memory/workers.ts)
 *   directory from 64: MAX_REGIONS x { kind u32, pointer u32, bytes u64 }, in creation order
 *
 * Invariants:
 * 1. Regions start on a cache line; top is a multiple of the line; top <= end.
 * 2. The 8 bytes behind each region hold GUARD: an overrun of one structure shows in `arenaValidate`.
 *
 * Only the engine thread takes regions. Taking is O(1) and writes nothing inside the region.
 */
import { BAD_SNAPSHOT, CORRUPT, INVALID_ARGUMENT, OK, OUT_OF_MEMORY, Status } from "./status";
import { nextRandom } from "./rng";

/** Changes whenever the layout of the arena, of a structure in it or of an exported record changes. */
// @ts-ignore: decorator
@inline export const ABI_VERSION: u32 = 3;
/** Where a core's arena starts; address 0 stays "no structure". */
// @ts-ignore: decorator
@inline export const ARENA: usize = 64;
// @ts-ignore: decorator
@inline export const LINE: usize = 64;
// @ts-ignore: decorator
@inline export const MAX_REGIONS: u32 = 64;

/** "QMCORE" and two zero bytes, little-endian. */
// @ts-ignore: decorator
@inline const MAGIC: u64 = 0x000045524f434d51;
// @ts-ignore: decorator
@inline const GUARD: u64 = 0x5afe5afe5afe5afe;
// @ts-ignore: decorator
@inline const HEADER_BYTES: usize = 64;
// @ts-ignore: decorator
@inline const ENTRY_BYTES: usize = 16;

/** What a region holds; the directory records it so that a restored core finds its structures again. */
export const enum RegionKind {
  Scratch = 1,
  OrderedIndex = 2,
  KvCache = 3,
  Scheduler = 4,
  OrderedView = 5,
  FreeExtents = 6,
  Selection = 7,
  EvictionOrder = 8,
  Lanes = 9,
  PageSet = 10,
  /** What an add-on of a KV cache keeps. */
  CacheAddOn = 11,
  /** What an add-on of a scheduler keeps. */
  SchedulerAddOn = 12,
  KeyedPool = 13,
  VirtualMemory = 16,
}


@unmanaged
class Arena {
  magic: u64;
  abiVersion: u32;
  regions: u32;
  top: u64;
  end: u64;
  seed: u64;
  random: u64;
  poison: u32;
  unused: u32;
  workers: u64;
}


@unmanaged
class Region {
  kind: u32;
  pointer: u32;
  bytes: u64;
}

// @ts-ignore: decorator
@inline
export function alignToLine(bytes: usize): usize {
  return (bytes + (LINE - 1)) & ~(LINE - 1);
}

// @ts-ignore: decorator
@inline
function region(base: usize, index: u32): Region {
  return changetype<Region>(base + HEADER_BYTES + <usize>index * ENTRY_BYTES);
}

/** Lays the header at `base` over a memory of `end` bytes. */
export function arenaCreate(base: usize, end: u64, seed: u64): Status {
  const top = <u64>alignToLine(base + HEADER_BYTES + <usize>MAX_REGIONS * ENTRY_BYTES);
  if (end < top) return OUT_OF_MEMORY;
  const arena = changetype<Arena>(base);
  arena.magic = MAGIC;
  arena.abiVersion = ABI_VERSION;
  arena.regions = 0;
  arena.top = top;
  arena.end = end;
  arena.seed = seed;
  arena.random = seed;
  arena.poison = 0;
  arena.workers = 0;
  return OK;
}

/** Checks the header of an arena that was copied in from a snapshot, and fits it to this memory's size. */
export function arenaAdopt(base: usize, end: u64): Status {
  const arena = changetype<Arena>(base);
  if (arena.magic != MAGIC || arena.abiVersion != ABI_VERSION || arena.regions > MAX_REGIONS)
    return BAD_SNAPSHOT;
  if (arena.top > end) return BAD_SNAPSHOT;
  const grown = arena.end;
  arena.end = end;
  if (arenaValidate(base) == OK) return OK;
  arena.end = grown;
  return BAD_SNAPSHOT;
}

/** Tells the arena that the host has grown the memory to `end` bytes. */
export function arenaExtend(base: usize, end: u64): Status {
  const arena = changetype<Arena>(base);
  if (end < arena.top) return INVALID_ARGUMENT;
  arena.end = end;
  return OK;
}

/** Bytes that taking a region of `bytes` uses up, its guard included. */
// @ts-ignore: decorator
@inline
export function arenaCost(bytes: u64): u64 {
  return (bytes + 8 + <u64>(LINE - 1)) & ~(<u64>(LINE - 1));
}

/** Takes a region and returns its address, or 0 when there is no room for it. */
export function arenaTake(base: usize, kind: RegionKind, bytes: u64): usize {
  const arena = changetype<Arena>(base);
  const cost = arenaCost(bytes);
  if (arena.regions == MAX_REGIONS || cost < bytes || arena.top + cost > arena.end) return 0;
  const pointer = <usize>arena.top;
  const entry = region(base, arena.regions);
  entry.kind = kind;
  entry.pointer = <u32>pointer;
  entry.bytes = bytes;
  store<u64>(pointer + <usize>cost - 8, GUARD);
  arena.top += cost;
  arena.regions += 1;
  return pointer;
}

/** What `arenaMark` saw: part of no state, and good until the next creation that succeeds. */
let markedRegions: u32 = 0;
let markedTop: u64 = 0;
let markedRandom: u64 = 0;

/** Remembers what is taken now, for `arenaRewind`. */
export function arenaMark(base: usize): void {
  const arena = changetype<Arena>(base);
  markedRegions = arena.regions;
  markedTop = arena.top;
  markedRandom = arena.random;
}

/** Gives back the regions taken since `arenaMark`: the arena is, byte for byte, as it was, and zero behind. */
export function arenaRewind(base: usize): void {
  const arena = changetype<Arena>(base);
  memory.fill(<usize>markedTop, 0, <usize>(arena.top - markedTop));
  const taken = <usize>(arena.regions - markedRegions) * ENTRY_BYTES;
  memory.fill(changetype<usize>(region(base, markedRegions)), 0, taken);
  arena.regions = markedRegions;
  arena.top = markedTop;
  arena.random = markedRandom;
}

// @ts-ignore: decorator
@inline
export function arenaTop(base: usize): u64 {
  return changetype<Arena>(base).top;
}

// @ts-ignore: decorator
@inline
export function arenaRegions(base: usize): u32 {
  return changetype<Arena>(base).regions;
}

// @ts-ignore: decorator
@inline
export function arenaRegionKind(base: usize, index: u32): u32 {
  return region(base, index).kind;
}

// @ts-ignore: decorator
@inline
export function arenaRegionPointer(base: usize, index: u32): usize {
  return region(base, index).pointer;
}

// @ts-ignore: decorator
@inline
export function arenaRegionBytes(base: usize, index: u32): u64 {
  return region(base, index).bytes;
}

/** A fresh seed for one structure, derived from the core's seed. */
export function arenaSeed(base: usize): u64 {
  return nextRandom(base + offsetof<Arena>("random"));
}

/** Checks both invariants over all regions. */
export function arenaValidate(base: usize): Status {
  const arena = changetype<Arena>(base);
  if (arena.magic != MAGIC || arena.top > arena.end) return CORRUPT;
  let expected = <u64>alignToLine(base + HEADER_BYTES + <usize>MAX_REGIONS * ENTRY_BYTES);
  for (let i: u32 = 0; i < arena.regions; i++) {
    const entry = region(base, i);
    if (<u64>entry.pointer != expected) return CORRUPT;
    expected += arenaCost(entry.bytes);
    if (expected > arena.top || load<u64>(<usize>expected - 8) != GUARD) return CORRUPT;
  }
  return expected == arena.top ? OK : CORRUPT;
}

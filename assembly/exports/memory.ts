/** The core's memory as the host sees it: one arena at a fixed address. */
import {
  ABI_VERSION,
  ARENA,
  arenaAdopt,
  arenaCost,
  arenaCreate,
  arenaExtend,
  arenaMark,
  arenaRegionBytes,
  arenaRegionKind,
  arenaRegionPointer,
  arenaRegions,
  arenaRewind,
  arenaTake,
  arenaTop,
  arenaValidate,
  RegionKind,
} from "../memory/arena";
import { OK, OUT_OF_MEMORY, Status } from "../memory/status";
import { attachWorker, detachWorker, poison, poisonStatus, resetWorkers } from "../memory/workers";

/** Version of the layout of the arena, its structures and all exported records. */
export function abiVersion(): i32 {
  return ABI_VERSION;
}

// @ts-ignore: decorator
@inline
function memoryBytes(): u64 {
  return (<u64>memory.size()) << 16;
}

/** Lays the arena over the whole memory. Call once, first, unless a snapshot is adopted. */
export function coreCreate(seed: u64): Status {
  return arenaCreate(ARENA, memoryBytes(), seed);
}

/** Takes over an arena that was copied to its place from a snapshot. */
export function coreAdopt(): Status {
  const adopted = arenaAdopt(ARENA, memoryBytes());
  if (adopted == OK) resetWorkers();
  return adopted;
}

/** Call after the host has grown the memory. */
export function coreExtend(): Status {
  return arenaExtend(ARENA, memoryBytes());
}

/** Bytes from address 0 that make up a snapshot; f64 because it may pass 2^31. */
export function coreTop(): f64 {
  return <f64>arenaTop(ARENA);
}

/** Bytes that a region of `bytes` costs. */
export function coreCost(bytes: f64): f64 {
  return <f64>arenaCost(<u64>bytes);
}

export function coreRegions(): u32 {
  return arenaRegions(ARENA);
}

export function coreRegionKind(index: u32): u32 {
  return arenaRegionKind(ARENA, index);
}

export function coreRegionPointer(index: u32): usize {
  return arenaRegionPointer(ARENA, index);
}

/** Bytes of a region, its guard not counted. */
export function coreRegionBytes(index: u32): f64 {
  return <f64>arenaRegionBytes(ARENA, index);
}

/** Before structures that are made together, such as a cache and its add-ons. */
export function coreMark(): void {
  arenaMark(ARENA);
}

/** When one of them was refused: those made since `coreMark` are gone, and the core is as it was. */
export function coreRewind(): void {
  arenaRewind(ARENA);
}

export function coreValidate(): Status {
  return arenaValidate(ARENA);
}

/** A region for the host's own bulk arguments. */
export function scratchCreate(bytes: u32): Status {
  return arenaTake(ARENA, RegionKind.Scratch, bytes) == 0 ? OUT_OF_MEMORY : OK;
}

/**
 * Gives this instance the lowest free worker id; OUT_OF_WORKERS when all 64 are in use. `strongOrder`: this host
 * never reorders loads (x64), so optimistic reads need no fence. Without threads: 0.
 */
export function coreAttach(strongOrder: u32): i32 {
  return attachWorker(strongOrder != 0);
}

/** Gives a worker id back. */
export function coreDetach(worker: u32): Status {
  return detachWorker(worker);
}

/** Makes all workers stop: what they wait for may never come. */
export function corePoison(): void {
  poison();
}

/** OK or POISONED. */
export function corePoisoned(): Status {
  return poisonStatus();
}

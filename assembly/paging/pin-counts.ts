/** What pins (pins.ts) hold of each block, for the pool: a block that only soft pins hold can be had. */
import { BlockId, KvCache } from "./layout";


@unmanaged
export class Pins {
  capacity: u32;
  /** Most hard-pinned blocks. */
  limit: u32;
  counts: u32;
  free: u32;
  used: u32;
  hardBlocks: u32;
  yielding: u32;
  /** Soft pins that have given way, since creation. */
  given: u32;
  /** No pin ends before. */
  nextUs: f64;
  /** Pins made since creation. */
  made: u64;
  /** Bits of a count: 8, 16 or 32, as the capacity needs. */
  bits: u32;
  unused: u32;
}

// @ts-ignore: decorator
@inline
export function pinsOf(kv: KvCache): Pins {
  return changetype<Pins>(<usize>kv.pins);
}

// @ts-ignore: decorator
@inline
export function countBits(capacity: u32): u32 {
  return capacity >= 1 << 16 ? 32 : capacity >= 1 << 8 ? 16 : 8;
}

/** Address of the hard pins of a block, with its soft ones above; what lies above them is of other blocks. */
// @ts-ignore: decorator
@inline
function countsPtr(p: Pins, id: BlockId): usize {
  return <usize>p.counts + <usize>id * <usize>(p.bits >> 2);
}

export function countOf(kv: KvCache, id: BlockId, hard: bool): u32 {
  const p = pinsOf(kv);
  const counts = load<u64>(countsPtr(p, id)) << (64 - (hard ? p.bits : 2 * p.bits));
  return <u32>(counts >> (64 - p.bits));
}

/** Adds to a count that has room for it. */
export function addToCount(kv: KvCache, id: BlockId, hard: bool, delta: i32): void {
  const p = pinsOf(kv);
  const at = countsPtr(p, id);
  store<u64>(at, load<u64>(at) + ((<u64>(<i64>delta)) << (hard ? 0 : p.bits)));
}

export function softOf(kv: KvCache, id: BlockId): u32 {
  return countOf(kv, id, false);
}

/** Whether a pin holds the block. */
export function isPinned(kv: KvCache, id: BlockId): bool {
  return (countOf(kv, id, true) | countOf(kv, id, false)) != 0;
}

/** A block that several hold is about to have another holder. */
export function pinsHold(kv: KvCache, id: BlockId, refs: u32): void {
  if (refs == softOf(kv, id)) pinsOf(kv).yielding -= 1;
}

/** A block has lost a holder, and not the last. */
export function pinsRelease(kv: KvCache, id: BlockId, refs: u32): void {
  if (refs == softOf(kv, id)) pinsOf(kv).yielding += 1;
}

/** Blocks that only soft pins keep. */
export function yieldingBlocks(kv: KvCache): u32 {
  return kv.pins == 0 ? 0 : pinsOf(kv).yielding;
}

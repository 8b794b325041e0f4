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
}

// @ts-ignore: decorator
@inline
export function pinsOf(kv: KvCache): Pins {
  return changetype<Pins>(<usize>kv.pins);
}

/** Address of the hard pins of a block, with its soft ones behind. */
export function hardPtr(kv: KvCache, id: BlockId): usize {
  return <usize>pinsOf(kv).counts + ((<usize>id) << 3);
}

export function softOf(kv: KvCache, id: BlockId): u32 {
  return load<u32>(hardPtr(kv, id), 4);
}

/** Whether a pin holds the block. */
export function isPinned(kv: KvCache, id: BlockId): bool {
  return load<u64>(hardPtr(kv, id)) != 0;
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

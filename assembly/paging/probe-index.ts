/**
 * Shared probe index: which cached block carries a prefix key, readable by any number of threads while the
 * engine thread writes. An optimistic ordered index in the cache's own region: key + 1 -> block id.
 *
 * Invariants:
 * 1. The index holds the key of every cached block, and for each the first block with that key in its hash chain.
 * 2. A key enters after its parent's and leaves before it: at any moment, a prefix whose last block is in the index is
 *    in it as a whole.
 * 3. A block that is not cached any more carries NO_KEY before anything of it is overwritten (`storeFence`): who reads
 *    a block's tokens and then still finds the key there has read the tokens of that key.
 *
 * With it keys have 63 bits, so key + 1 is never one of the index's sentinels. Should the nodes run out (they are
 * counted for six standard deviations and a quarter more), prefixes are hidden from probes and nothing else happens.
 */
import { indexDelete } from "../index/delete";
import {
  DEFAULT_NODE_BYTES,
  defaultDigitBits,
  Index,
  indexRegionBytes,
  Mode,
  nodesFor,
  stripe,
} from "../index/layout";
import { indexCreateShaped, indexSize } from "../index/ordered-index";
import { indexPut } from "../index/put";
import { indexGet } from "../index/read";
import { indexValidate } from "../index/validate";
import { CORRUPT, OK, Status } from "../memory/status";
import { storeFence, workerId } from "../memory/workers";
import { Block, BlockId, KvCache, NO_KEY, NONE } from "./layout";

// @ts-ignore: decorator
@inline const VALUE_BYTES: u32 = 4;

function nodesOf(blocks: u32): u32 {
  const digitBits = defaultDigitBits(DEFAULT_NODE_BYTES, VALUE_BYTES);
  return nodesFor(blocks, DEFAULT_NODE_BYTES, VALUE_BYTES, digitBits);
}

/** Exact bytes of the index for so many blocks. */
export function probeIndexBytes(blocks: u32): u64 {
  return indexRegionBytes(nodesOf(blocks), DEFAULT_NODE_BYTES, Mode.Optimistic);
}

export function probeIndexCreate(kv: KvCache, seed: u64): void {
  const digitBits = defaultDigitBits(DEFAULT_NODE_BYTES, VALUE_BYTES);
  const nodes = nodesOf(kv.blockCount);
  kv.probeIncomplete = 0;
  indexCreateShaped(kv.probeIndex, nodes, DEFAULT_NODE_BYTES, VALUE_BYTES, digitBits, Mode.Optimistic, seed);
}

/** Key of the index for a prefix key. */
// @ts-ignore: decorator
@inline
export function probeKey(key: u64): u64 {
  return key + 1;
}

/** Marks that this thread may hold locks of the index: what it leaves behind if it dies. */
// @ts-ignore: decorator
@inline
function setInside(kv: KvCache, inside: u32): void {
  stripe(changetype<Index>(<usize>kv.probeIndex), workerId()).inside = inside;
}

/** Shows a block that has just become the first with its key in its hash chain. */
export function announce(kv: KvCache, key: u64, id: BlockId): void {
  setInside(kv, 1);
  if (indexPut(kv.probeIndex, probeKey(key), id) < 0) kv.probeIncomplete = 1;
  setInside(kv, 0);
}

/**
 * Hides a block that has just left its hash chain; `next` is the first with its key there now, or NONE. Its
 * tokens may be overwritten from here on.
 */
export function withdraw(kv: KvCache, record: Block, next: BlockId): void {
  const key = record.key;
  if (next != NONE) {
    announce(kv, key, next);
  } else {
    setInside(kv, 1);
    indexDelete(kv.probeIndex, probeKey(key));
    setInside(kv, 0);
  }
  record.key = NO_KEY;
  storeFence();
}

/** Whether the block at this record is the one that the index holds for its key. */
export function announced(kv: KvCache, id: BlockId, key: u64): bool {
  const at = indexGet(kv.probeIndex, probeKey(key));
  return at == 0 ? kv.probeIncomplete != 0 : load<u32>(at) == id;
}

/** Checks the index itself, and that it holds `keys` keys. */
export function probeIndexValidate(kv: KvCache, keys: u32): Status {
  if (indexValidate(kv.probeIndex) != OK) return CORRUPT;
  const size = indexSize(kv.probeIndex);
  return size == keys || (kv.probeIncomplete != 0 && size < keys) ? OK : CORRUPT;
}

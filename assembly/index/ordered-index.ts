/**
 * Ordered index: a map from u64 keys to u64 (or u32) values in key order. A concurrent B-skiplist.
 *
 * A skip list whose nodes hold up to a node full of sorted keys. Whether a key is promoted depends on its
 * hash alone, so its height is known before the descent and one top-down pass inserts it. Three modes from one
 * source: private to a thread, with reader-writer locks, with locks for writers and validation for readers
 * (`Mode`); a build without threads has only the first and not one atomic instruction.
 *
 * Invariants (checked by `indexValidate`):
 * 1. Keys strictly increase along a level; nextHeader equals the neighbour's first key.
 * 2. A key of height h is on the levels 0..h and on no other; at level l > 0 its child is the node of level l - 1 that
 *    starts with it.
 * 3. A node that starts with a key not promoted past its level (it came from an overflow) holds, together with its left
 *    neighbour, more than one node can: space is bounded whatever is deleted.
 * 4. Nodes in levels + free nodes + nodes never taken = capacity.
 *
 * get, put, delete: O(log n) expected; a few runs of consecutive cache lines each. Out of nodes is an
 * ordinary status that leaves the index unchanged.
 */
import {
  childPtr,
  DEFAULT_NODE_BYTES,
  defaultDigitBits,
  head,
  Index,
  indexRegionBytes,
  KEY_MAX,
  KEY_MIN,
  keyPtr,
  layOut,
  Mode,
  node,
  nodesFor,
  storeValue,
  stripe,
  stripeCount,
  valuePtr,
} from "./layout";

/** Exact bytes of a private index of `nodeCapacity` nodes of the default size. */
export function indexBytes(nodeCapacity: u32): u64 {
  return indexRegionBytes(nodeCapacity, DEFAULT_NODE_BYTES, Mode.Private);
}

/** Node capacity that holds `entries` entries in nodes of the default size. */
export function indexNodesFor(entries: u32, valueBytes: u32): u32 {
  const digitBits = defaultDigitBits(DEFAULT_NODE_BYTES, valueBytes);
  return nodesFor(entries, DEFAULT_NODE_BYTES, valueBytes, digitBits);
}

/** A private index in nodes of the default size, in a zeroed region of `indexBytes` bytes. */
export function indexCreate(ptr: usize, nodeCapacity: u32, valueBytes: u32, seed: u64): void {
  const digitBits = defaultDigitBits(DEFAULT_NODE_BYTES, valueBytes);
  indexCreateShaped(ptr, nodeCapacity, DEFAULT_NODE_BYTES, valueBytes, digitBits, Mode.Private, seed);
}

/**
 * As `indexCreate`, of another shape: `nodeBytes` a power of two from 128 to 4096, one key in 2^`digitBits`
 * promoted.
 */
export function indexCreateShaped(
  ptr: usize,
  nodeCapacity: u32,
  nodeBytes: u32,
  valueBytes: u32,
  digitBits: u32,
  mode: Mode,
  seed: u64,
): void {
  layOut(changetype<Index>(ptr), nodeCapacity, nodeBytes, valueBytes, digitBits, mode, seed);
  indexClear(ptr);
}

/** Forgets every entry. Nobody else may be in a call on the index. */
export function indexClear(ptr: usize): void {
  const index = changetype<Index>(ptr);
  for (let worker: u32 = 0; worker < stripeCount(index); worker++) stripe(index, worker).entries = 0;
  index.free = 0;
  index.freeCount = index.nodeCapacity - index.levels;
  index.fresh = index.levels;
  for (let level: u32 = 0; level < index.levels; level++) {
    const at = head(index, level);
    const n = node(at);
    n.count = 1;
    n.level = <u8>level;
    n.flags = 0;
    n.next = 0;
    n.nextHeader = KEY_MAX;
    store<u64>(keyPtr(at, 0), KEY_MIN);
    if (level > 0) store<u32>(childPtr(index, at, 0), head(index, level - 1));
    else storeValue(index, valuePtr(index, at, 0), 0);
  }
}

/** Entries; exact while nobody is in a changing call. */
export function indexSize(ptr: usize): u32 {
  const index = changetype<Index>(ptr);
  let size: u32 = 0;
  for (let worker: u32 = 0; worker < stripeCount(index); worker++) size += stripe(index, worker).entries;
  return size;
}

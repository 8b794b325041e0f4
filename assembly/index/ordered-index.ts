/**
 * Ordered index: a map from u64 keys to u64 (or u32) values in key order. One-thread build of the B-skiplist.
 *
 * A skip list whose nodes hold up to a node full of sorted keys. Whether a key is promoted depends on its
 * hash alone, so its height is known before the descent and one top-down pass inserts it.
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
import { finalize64 } from "../memory/hash";
import { INVALID_ARGUMENT, OUT_OF_MEMORY, Status } from "../memory/status";
import {
  capacityOf,
  childPtr,
  DEFAULT_NODE_BYTES,
  head,
  Index,
  indexRegionBytes,
  KEY_MAX,
  KEY_MIN,
  keyAt,
  keyPtr,
  layOut,
  loadValue,
  node,
  nodesFor,
  storeValue,
  valuePtr,
} from "./layout";

/** Exact bytes of an index of `nodeCapacity` nodes of the default size. */
export function indexBytes(nodeCapacity: u32): u64 {
  return indexRegionBytes(nodeCapacity, DEFAULT_NODE_BYTES);
}

/** Node capacity that holds `entries` entries. */
export function indexNodesFor(entries: u32, valueBytes: u32): u32 {
  return nodesFor(entries, DEFAULT_NODE_BYTES, valueBytes);
}

export function indexCreate(ptr: usize, nodeCapacity: u32, valueBytes: u32, seed: u64): void {
  indexCreateSized(ptr, nodeCapacity, DEFAULT_NODE_BYTES, valueBytes, seed);
}

/** As `indexCreate`, with another node size: a multiple of 64, 128 to 4096. */
export function indexCreateSized(
  ptr: usize,
  nodeCapacity: u32,
  nodeBytes: u32,
  valueBytes: u32,
  seed: u64,
): void {
  layOut(changetype<Index>(ptr), nodeCapacity, nodeBytes, valueBytes, seed);
  indexClear(ptr);
}

/** Forgets every entry. */
export function indexClear(ptr: usize): void {
  const index = changetype<Index>(ptr);
  index.size = 0;
  index.freeHead = 0;
  index.freeCount = index.nodeCapacity - index.levels;
  index.fresh = index.levels;
  for (let level: u32 = 0; level < index.levels; level++) {
    const at = head(index, level);
    start(at, level);
    node(at).count = 1;
    store<u64>(keyPtr(at, 0), KEY_MIN);
    if (level > 0) store<u32>(childPtr(index, at, 0), head(index, level - 1));
    else storeValue(index, valuePtr(index, at, 0), 0);
  }
}

function start(at: u32, level: u32): void {
  const n = node(at);
  n.lock = 0;
  n.count = 0;
  n.level = <u8>level;
  n.flags = 0;
  n.next = 0;
  n.nextHeader = KEY_MAX;
  n.link = 0;
  n.owner = 0;
}

function takeNode(index: Index, level: u32): u32 {
  let at = index.freeHead;
  if (at != 0) index.freeHead = node(at).link;
  else at = index.nodes + index.fresh++ * index.nodeBytes;
  index.freeCount -= 1;
  start(at, level);
  return at;
}

function giveNode(index: Index, at: u32): void {
  node(at).link = index.freeHead;
  index.freeHead = at;
  index.freeCount += 1;
}

/**
 * Highest level of a key: the zero digits at the end of its hash. A pure function of key and seed, so that
 * equal keys always meet on the same level; hashed, so that regular keys (multiples of a power of two) stay
 * geometric.
 */
// @ts-ignore: decorator
@inline
export function heightOf(index: Index, key: u64): u32 {
  const zeros = <u32>ctz(finalize64(key ^ index.seed));
  return min(zeros / index.digitBits, index.levels - 1);
}

/**
 * Slot of the largest key <= `key`; slot 0 is always one. Branch-free: the comparison becomes a conditional
 * move.
 */
// @ts-ignore: decorator
@inline
function rank(at: u32, key: u64): u32 {
  let base: u32 = 0;
  let length = <u32>node(at).count;
  while (length > 1) {
    const half = length >> 1;
    base = select<u32>(base + half, base, keyAt(at, base + half) <= key);
    length -= half;
  }
  return base;
}

// @ts-ignore: decorator
@inline
function goRight(at: u32, key: u64): u32 {
  while (node(at).nextHeader <= key) at = node(at).next;
  return at;
}

/** Node of `level` where the search for `key` arrives; its place is there or to the right. */
// @ts-ignore: decorator
@inline
function descend(index: Index, key: u64, level: u32): u32 {
  let at = head(index, index.levels - 1);
  for (let above = index.levels - 1; above > level; above--) {
    at = goRight(at, key);
    at = load<u32>(childPtr(index, at, rank(at, key)));
  }
  return at;
}

/** Leaf whose range holds `key`. */
// @ts-ignore: decorator
@inline
function leafFor(index: Index, key: u64): u32 {
  return goRight(descend(index, key, 0), key);
}

/** Address of the value of `key`, or 0. Valid until the next change of the index. */
export function indexFind(ptr: usize, key: u64): usize {
  const index = changetype<Index>(ptr);
  if (key == KEY_MIN || key == KEY_MAX) return 0;
  const at = leafFor(index, key);
  const slot = rank(at, key);
  return keyAt(at, slot) == key ? valuePtr(index, at, slot) : 0;
}

/** Moves the slots from `slot` on one to the right and writes key and payload there. */
function insertAt(index: Index, at: u32, slot: u32, level: u32, key: u64, payload: u64): void {
  const n = node(at);
  const moved = <usize>n.count - <usize>slot;
  memory.copy(keyPtr(at, slot + 1), keyPtr(at, slot), moved << 3);
  store<u64>(keyPtr(at, slot), key);
  if (level > 0) {
    memory.copy(childPtr(index, at, slot + 1), childPtr(index, at, slot), moved << 2);
    store<u32>(childPtr(index, at, slot), <u32>payload);
  } else {
    memory.copy(valuePtr(index, at, slot + 1), valuePtr(index, at, slot), moved * <usize>index.valueBytes);
    storeValue(index, valuePtr(index, at, slot), payload);
  }
  n.count += 1;
}

/** Copies `count` slots from one node to another of the same level; ranges of one node may overlap. */
function copySlots(
  index: Index,
  level: u32,
  to: u32,
  toSlot: u32,
  from: u32,
  fromSlot: u32,
  count: u32,
): void {
  memory.copy(keyPtr(to, toSlot), keyPtr(from, fromSlot), (<usize>count) << 3);
  if (level > 0)
    memory.copy(childPtr(index, to, toSlot), childPtr(index, from, fromSlot), (<usize>count) << 2);
  else
    memory.copy(
      valuePtr(index, to, toSlot),
      valuePtr(index, from, fromSlot),
      <usize>count * <usize>index.valueBytes,
    );
}

/** Puts `right` behind `at` on its level. */
function link(at: u32, right: u32): void {
  const n = node(at);
  const m = node(right);
  m.next = n.next;
  m.nextHeader = n.nextHeader;
  n.next = right;
  n.nextHeader = keyAt(right, 0);
}

function unlink(at: u32, right: u32): void {
  node(at).next = node(right).next;
  node(at).nextHeader = node(right).nextHeader;
}

/**
 * Takes the right neighbour's slots over if it came from an overflow and both fit one node: keeps invariant
 * 3.
 */
function absorbNext(index: Index, at: u32, level: u32): void {
  const right = node(at).next;
  if (right == 0 || heightOf(index, keyAt(right, 0)) > level) return;
  const count = <u32>node(at).count;
  const more = <u32>node(right).count;
  if (count + more > capacityOf(index, level)) return;
  copySlots(index, level, at, count, right, 0, more);
  node(at).count = <u16>(count + more);
  unlink(at, right);
  giveNode(index, right);
}

/**
 * Enters a key into a full node: its upper half moves to a new right neighbour first. `left`: the node's left
 * neighbour, 0 if it starts with a key of a higher level.
 */
function insertIntoFull(index: Index, left: u32, at: u32, level: u32, key: u64, payload: u64): void {
  const n = node(at);
  const keep = (<u32>n.count + 1) >> 1;
  const right = takeNode(index, level);
  const moved = <u32>n.count - keep;
  copySlots(index, level, right, 0, at, keep, moved);
  node(right).count = <u16>moved;
  n.count = <u16>keep;
  link(at, right);
  const half = keyAt(right, 0) <= key ? right : at;
  insertAt(index, half, rank(half, key) + 1, level, key, payload);
  absorbNext(index, right, level);
  if (left != 0) absorbNext(index, left, level);
}

/** Moves everything behind `slot` to `right`, which starts with the new key. `left` as above. */
function splitAtPromoted(
  index: Index,
  left: u32,
  at: u32,
  slot: u32,
  level: u32,
  right: u32,
  key: u64,
  payload: u64,
): void {
  const n = node(at);
  const moved = <u32>n.count - (slot + 1);
  insertAt(index, right, 0, level, key, payload);
  copySlots(index, level, right, 1, at, slot + 1, moved);
  node(right).count = <u16>(moved + 1);
  n.count = <u16>(slot + 1);
  link(at, right);
  absorbNext(index, right, level);
  if (left != 0) absorbNext(index, left, level);
}

/**
 * Enters or overwrites. Returns 1 inserted, 0 overwritten, INVALID_ARGUMENT for a sentinel key,
 * OUT_OF_MEMORY.
 */
export function indexPut(ptr: usize, key: u64, value: u64): Status {
  const index = changetype<Index>(ptr);
  if (key == KEY_MIN || key == KEY_MAX) return INVALID_ARGUMENT;
  const height = heightOf(index, key);
  let at = descend(index, key, height);
  let left: u32 = 0;
  while (node(at).nextHeader <= key) {
    left = at;
    at = node(at).next;
  }
  let slot = rank(at, key);
  if (keyAt(at, slot) == key) {
    // Every node below that belongs to the key starts with it.
    for (let level = height; level > 0; level--) {
      at = load<u32>(childPtr(index, at, slot));
      slot = 0;
    }
    storeValue(index, valuePtr(index, at, slot), value);
    return 0;
  }
  const full = <u32>node(at).count == capacityOf(index, height);
  if (index.freeCount < height + u32(full)) return OUT_OF_MEMORY;

  let below = height > 0 ? takeNode(index, height - 1) : 0;
  let child = height > 0 ? load<u32>(childPtr(index, at, slot)) : 0;
  const payload = height > 0 ? <u64>below : value;
  if (full) insertIntoFull(index, left, at, height, key, payload);
  else insertAt(index, at, slot + 1, height, key, payload);
  for (let level = height; level > 0;) {
    level -= 1;
    left = 0;
    at = child;
    while (node(at).nextHeader <= key) {
      left = at;
      at = node(at).next;
    }
    slot = rank(at, key);
    const fresh = below;
    if (level > 0) {
      child = load<u32>(childPtr(index, at, slot));
      below = takeNode(index, level - 1);
    }
    splitAtPromoted(index, left, at, slot, level, fresh, key, level > 0 ? <u64>below : value);
  }
  index.size += 1;
  return 1;
}

function removeAt(index: Index, at: u32, slot: u32, level: u32): void {
  const n = node(at);
  copySlots(index, level, at, slot, at, slot + 1, <u32>n.count - slot - 1);
  n.count -= 1;
}

/** Takes slot 0 out of `at`, whose left neighbour is `left`. */
function removeFirst(index: Index, left: u32, at: u32, level: u32): void {
  removeAt(index, at, 0, level);
  if (node(at).count == 0) {
    unlink(left, at);
    giveNode(index, at);
  } else {
    // What starts the node now was not promoted past this level: it is like a node from an overflow.
    node(left).nextHeader = keyAt(at, 0);
    absorbNext(index, at, level);
  }
  absorbNext(index, left, level);
}

/** Removes a key. Returns 1, or 0 when it is not there. */
export function indexDelete(ptr: usize, key: u64): Status {
  const index = changetype<Index>(ptr);
  if (key == KEY_MIN || key == KEY_MAX) return 0;
  const height = heightOf(index, key);
  let at = descend(index, key, height);
  let left: u32 = 0;
  while (node(at).nextHeader <= key) {
    left = at;
    at = node(at).next;
  }
  let slot = rank(at, key);
  if (keyAt(at, slot) != key) return 0;
  for (let level = height; ; level--) {
    let below: u32 = 0;
    if (level > 0) {
      below =
        slot > 0
          ? load<u32>(childPtr(index, at, slot - 1))
          : load<u32>(childPtr(index, left, <u32>node(left).count - 1));
    }
    if (slot == 0) {
      removeFirst(index, left, at, level);
    } else {
      removeAt(index, at, slot, level);
      absorbNext(index, at, level);
      if (left != 0) absorbNext(index, left, level);
    }
    if (level == 0) break;
    left = below;
    while (node(left).nextHeader != key) left = node(left).next;
    at = node(left).next;
    slot = 0;
  }
  index.size -= 1;
  return 1;
}

// @ts-ignore: decorator
@inline
export function indexSize(ptr: usize): u32 {
  return changetype<Index>(ptr).size;
}

/**
 * Finds the smallest key >= `key` and writes it and its value (u64 each). Returns 1, or 0 when there is none.
 */
export function indexSeek(ptr: usize, key: u64, outKeyPtr: usize, outValuePtr: usize): Status {
  const index = changetype<Index>(ptr);
  if (key == KEY_MIN) key = 1;
  let at = leafFor(index, key);
  let slot = rank(at, key);
  if (keyAt(at, slot) != key) slot += 1;
  if (slot == <u32>node(at).count) {
    at = node(at).next;
    slot = 0;
  }
  if (at == 0) return 0;
  store<u64>(outKeyPtr, keyAt(at, slot));
  store<u64>(outValuePtr, loadValue(index, valuePtr(index, at, slot)));
  return 1;
}

/**
 * Writes up to `limit` entries with lowest <= key <= highest, in order, as u64 keys and u64 values. Returns
 * how many.
 */
export function indexRange(
  ptr: usize,
  lowest: u64,
  highest: u64,
  limit: u32,
  keysPtr: usize,
  valuesPtr: usize,
): u32 {
  const index = changetype<Index>(ptr);
  if (lowest == KEY_MIN) lowest = 1;
  let at = leafFor(index, lowest);
  let slot = rank(at, lowest);
  if (keyAt(at, slot) != lowest) slot += 1;
  let written: u32 = 0;
  while (at != 0 && written < limit) {
    const count = <u32>node(at).count;
    for (; slot < count && written < limit; slot++) {
      const key = keyAt(at, slot);
      if (key > highest) return written;
      store<u64>(keysPtr + ((<usize>written) << 3), key);
      store<u64>(valuesPtr + ((<usize>written) << 3), loadValue(index, valuePtr(index, at, slot)));
      written += 1;
    }
    at = node(at).next;
    slot = 0;
  }
  return written;
}

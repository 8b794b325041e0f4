/**
 * Ordered reads: entries from a key on, leaf by leaf. Every leaf is read at one moment; keys strictly increase,
 * and a key that is there during the whole scan shows exactly once. It is no snapshot of all leaves together.
 */
import { lockShared, NO_VERSION, readVersion, unchanged, unlockShared } from "../memory/locks";
import { Status } from "../memory/status";
import { workerId } from "../memory/workers";
import {
  Index,
  isNode,
  isOptimistic,
  isShared,
  KEY_MIN,
  keyAt,
  keyPtr,
  loadValue,
  node,
  stripe,
  valuePtr,
} from "./layout";
import { ATTEMPTS, descend, goRight, lockLeafShared, versionOfPlace, walkOptimistic } from "./place";
import { NOWHERE, rankAmong, rankNear } from "./rank";
import { provenLeaf } from "./read";

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
  if (lowest > highest || limit == 0) return 0;
  if (isOptimistic(index))
    return rangeOptimistic(index, 0, NOWHERE, lowest, highest, limit, keysPtr, valuesPtr);
  if (isShared(index)) return rangeLocked(index, lowest, highest, limit, keysPtr, valuesPtr);
  return rangeFrom(
    index,
    goRight(descend(index, lowest, 0), lowest),
    NOWHERE,
    lowest,
    highest,
    limit,
    keysPtr,
    valuesPtr,
  );
}

/** A scan of a private index from the leaf that holds `lowest`; `near` is a guess of its slot. */
export function rangeFrom(
  index: Index,
  at: u32,
  near: u32,
  lowest: u64,
  highest: u64,
  limit: u32,
  keysPtr: usize,
  valuesPtr: usize,
): u32 {
  let written = copyRun(index, at, near, lowest, highest, limit, keysPtr, valuesPtr);
  while (written < limit && node(at).nextHeader <= highest) {
    at = node(at).next;
    if (at == 0) break;
    const offset = (<usize>written) << 3;
    written += copyRun(
      index,
      at,
      NOWHERE,
      lowest,
      highest,
      limit - written,
      keysPtr + offset,
      valuesPtr + offset,
    );
  }
  return written;
}

/**
 * Copies the slots of one leaf with lowest <= key <= highest, at most `limit`. Returns how many. `near`: a guess of
 * the slot of `lowest`.
 */
function copyRun(
  index: Index,
  at: u32,
  near: u32,
  lowest: u64,
  highest: u64,
  limit: u32,
  keysPtr: usize,
  valuesPtr: usize,
): u32 {
  const count = min(<u32>node(at).count, index.leafCapacity);
  let from: u32 = 0;
  if (count == 0) return 0;
  if (keyAt(at, 0) < lowest) {
    from = rankNear(at, lowest, near, count);
    if (keyAt(at, from) < lowest) from += 1;
  }
  let length = min(count - from, limit);
  if (length == 0) return 0;
  if (keyAt(at, from + length - 1) > highest) {
    if (keyAt(at, from) > highest) return 0;
    length = rankAmong(<u32>(keyPtr(at, from) - keyPtr(0, 0)), highest, length) + 1;
  }
  const values = valuePtr(index, at, from);
  if (index.valueBytes == 8) {
    copyEntries(keysPtr, keyPtr(at, from), valuesPtr, values, length);
  } else {
    copyWords(keysPtr, keyPtr(at, from), length);
    widen(valuesPtr, values, length);
  }
  return length;
}

/** Copies `count` keys and as many values of 8 bytes, in one loop: its end is mispredicted once, not twice. */
// @ts-ignore: decorator
@inline
function copyEntries(keysTo: usize, keysFrom: usize, valuesTo: usize, valuesFrom: usize, count: u32): void {
  if (ASC_FEATURE_SIMD) {
    for (let left = count >> 2; left > 0; left--) {
      v128.store(keysTo, v128.load(keysFrom));
      v128.store(keysTo, v128.load(keysFrom, 16), 16);
      v128.store(valuesTo, v128.load(valuesFrom));
      v128.store(valuesTo, v128.load(valuesFrom, 16), 16);
      keysTo += 32;
      keysFrom += 32;
      valuesTo += 32;
      valuesFrom += 32;
    }
    count &= 3;
  }
  const end = keysTo + ((<usize>count) << 3);
  for (; keysTo < end; keysTo += 8, keysFrom += 8, valuesTo += 8, valuesFrom += 8) {
    store<u64>(keysTo, load<u64>(keysFrom));
    store<u64>(valuesTo, load<u64>(valuesFrom));
  }
}

/** Copies u64 words: runs this short are copied faster here than by a call of memory.copy. */
// @ts-ignore: decorator
@inline
function copyWords(to: usize, from: usize, count: u32): void {
  const end = to + ((<usize>count) << 3);
  for (; to < end; to += 8, from += 8) store<u64>(to, load<u64>(from));
}

function widen(to: usize, from: usize, count: u32): void {
  for (let i: usize = 0; i < <usize>count; i++) store<u64>(to + (i << 3), <u64>load<u32>(from + (i << 2)));
}

/** A scan of an optimistic index, from a place found ahead if `hint` is not 0. */
export function rangeOptimistic(
  index: Index,
  hint: u32,
  near: u32,
  lowest: u64,
  highest: u64,
  limit: u32,
  keysPtr: usize,
  valuesPtr: usize,
): u32 {
  let written: u32 = 0;
  const own = stripe(index, workerId());
  let attempts: u32 = 0;
  while (attempts < ATTEMPTS) {
    let at = hint;
    let version = hint != 0 ? provenLeaf(hint, lowest) : NO_VERSION;
    hint = 0;
    if (version == NO_VERSION) {
      near = NOWHERE;
      at = walkOptimistic(index, lowest, 0);
      version = versionOfPlace();
    }
    while (at != 0) {
      const offset = (<usize>written) << 3;
      const count = copyRun(
        index,
        at,
        near,
        lowest,
        highest,
        limit - written,
        keysPtr + offset,
        valuesPtr + offset,
      );
      near = NOWHERE;
      const next = node(at).next;
      const more = written + count < limit && node(at).nextHeader <= highest && next != 0;
      const nextVersion = more && isNode(index, next) ? readVersion(next) : NO_VERSION;
      if (!unchanged(at, version)) break;
      written += count;
      if (!more) return written;
      if (count > 0) attempts = 0;
      // What follows starts behind the last entry handed out, whatever moves meanwhile.
      if (written > 0) lowest = load<u64>(keysPtr + ((<usize>written) << 3) - 8) + 1;
      if (nextVersion == NO_VERSION) break;
      at = next;
      version = nextVersion;
    }
    attempts += 1;
    own.retries += 1;
  }
  own.fallbacks += 1;
  const offset = (<usize>written) << 3;
  return written + rangeLocked(index, lowest, highest, limit - written, keysPtr + offset, valuesPtr + offset);
}

function rangeLocked(
  index: Index,
  lowest: u64,
  highest: u64,
  limit: u32,
  keysPtr: usize,
  valuesPtr: usize,
): u32 {
  const own = stripe(index, workerId());
  own.inside += 1;
  let at = lockLeafShared(index, lowest);
  let written = copyRun(index, at, NOWHERE, lowest, highest, limit, keysPtr, valuesPtr);
  while (written < limit && node(at).nextHeader <= highest && node(at).next != 0) {
    const next = node(at).next;
    lockShared(next);
    unlockShared(at);
    at = next;
    const offset = (<usize>written) << 3;
    written += copyRun(
      index,
      at,
      NOWHERE,
      lowest,
      highest,
      limit - written,
      keysPtr + offset,
      valuesPtr + offset,
    );
  }
  unlockShared(at);
  own.inside -= 1;
  return written;
}

/**
 * Finds the smallest key >= `key` and writes it and its value (u64 each). Returns 1, or 0 when there is none.
 */
export function indexSeek(ptr: usize, key: u64, outKeyPtr: usize, outValuePtr: usize): Status {
  return <Status>indexRange(ptr, key, u64.MAX_VALUE - 1, 1, outKeyPtr, outValuePtr);
}

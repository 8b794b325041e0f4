/** Point reads, in each mode. */
import { NO_VERSION, readVersion, unchanged, unlockShared } from "../memory/locks";
import { workerId } from "../memory/workers";
import {
  Index,
  isOptimistic,
  isShared,
  KEY_MAX,
  KEY_MIN,
  keyAt,
  loadValue,
  node,
  Stripe,
  stripe,
  valuePtr,
} from "./layout";
import { ATTEMPTS, descend, goRight, lockLeafShared, versionOfPlace, walkOptimistic } from "./place";
import { NOWHERE, rankCounting, rankNear } from "./rank";

/** Address of the value of `key` in a private index, or 0. Valid until the next change of the index. */
export function indexFind(ptr: usize, key: u64): usize {
  const index = changetype<Index>(ptr);
  if (key == KEY_MIN || key == KEY_MAX) return 0;
  const at = goRight(descend(index, key, 0), key);
  const slot = rankCounting(at, key, <u32>node(at).count);
  return keyAt(at, slot) == key ? valuePtr(index, at, slot) : 0;
}

/**
 * Address of the value of `key`, or 0: in a shared index that of a copy, valid until this worker's next call.
 */
export function indexGet(ptr: usize, key: u64): usize {
  const index = changetype<Index>(ptr);
  if (!isShared(index)) return indexFind(ptr, key);
  if (key == KEY_MIN || key == KEY_MAX) return 0;
  const own = stripe(index, workerId());
  if (isOptimistic(index)) {
    for (let attempt: u32 = 0; attempt < ATTEMPTS; attempt++) {
      const at = walkOptimistic(index, key, 0);
      if (at != 0) {
        const found = readLeaf(index, own, at, NOWHERE, versionOfPlace(), key);
        if (found >= 0) return found == 1 ? resultOf(own) : 0;
      }
      own.retries += 1;
    }
    own.fallbacks += 1;
  }
  return getLocked(index, own, key);
}

// @ts-ignore: decorator
@inline
function resultOf(own: Stripe): usize {
  return changetype<usize>(own) + offsetof<Stripe>("result");
}

/** Reads a leaf without its lock. 1 found, 0 not there, -1 the leaf has changed meanwhile. `near`: a guess of the slot. */
// @ts-ignore: decorator
@inline
export function readLeaf(index: Index, own: Stripe, at: u32, near: u32, version: u64, key: u64): i32 {
  const count = min(<u32>node(at).count, index.leafCapacity);
  const slot = near == NOWHERE ? rankCounting(at, key, count) : rankNear(at, key, near, count);
  const found = keyAt(at, slot) == key;
  const value = loadValue(index, valuePtr(index, at, slot));
  if (!unchanged(at, version)) return -1;
  if (!found) return 0;
  own.result = value;
  return 1;
}

/** Version of `at` if it is a live leaf whose range holds `key`, else NO_VERSION: proves a hint. */
// @ts-ignore: decorator
@inline
export function provenLeaf(at: u32, key: u64): u64 {
  const version = readVersion(at);
  const n = node(at);
  return n.level == 0 && n.count > 0 && keyAt(at, 0) <= key && key < n.nextHeader ? version : NO_VERSION;
}

function getLocked(index: Index, own: Stripe, key: u64): usize {
  own.inside += 1;
  const at = lockLeafShared(index, key);
  const slot = rankCounting(at, key, <u32>node(at).count);
  const found = keyAt(at, slot) == key;
  if (found) own.result = loadValue(index, valuePtr(index, at, slot));
  unlockShared(at);
  own.inside -= 1;
  return found ? resultOf(own) : 0;
}

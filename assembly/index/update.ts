/** Changing the value of a key that is there, atomically. */
import { releaseExclusive, unlockExclusive } from "../memory/locks";
import { NOT_FOUND, Status } from "../memory/status";
import { workerId } from "../memory/workers";
import { leaveUnchanged } from "./edit";
import {
  Index,
  isShared,
  KEY_MAX,
  KEY_MIN,
  keyAt,
  loadValue,
  storeValue,
  Stripe,
  stripe,
  valuePtr,
} from "./layout";
import { leftOfPlace, lockPlace } from "./place";
import { descendToEntry } from "./put";
import { heightOf, rank } from "./rank";

/** Address of the value of `key` with its leaf locked, or 0; the leaf is then `leafOfEntry`. */
function lockEntry(index: Index, key: u64): usize {
  if (key == KEY_MIN || key == KEY_MAX) return 0;
  const height = heightOf(index, key);
  const at = lockPlace(index, key, height);
  const left = leftOfPlace();
  const slot = rank(at, key);
  if (keyAt(at, slot) != key) {
    leaveUnchanged(index, left, at);
    return 0;
  }
  entryLeaf = descendToEntry(index, left, at, slot, height);
  return valuePtr(index, entryLeaf, height > 0 ? 0 : slot);
}

/** Second result of `lockEntry`. */
let entryLeaf: u32 = 0;

/** Stores `value` if the key has the value `expected`. 1 stored, 0 it has another, NOT_FOUND. */
export function indexCompareExchange(ptr: usize, key: u64, expected: u64, value: u64): Status {
  const index = changetype<Index>(ptr);
  const entry = lockEntry(index, key);
  if (entry == 0) return NOT_FOUND;
  const equal = loadValue(index, entry) == expected;
  if (equal) storeValue(index, entry, value);
  if (isShared(index)) {
    if (equal) unlockExclusive(entryLeaf);
    else releaseExclusive(entryLeaf);
  }
  return i32(equal);
}

/**
 * Adds to the value of a key, modulo its width. Returns the address of a copy of the value before, valid until
 * this worker's next call, or 0 when the key is not there.
 */
export function indexFetchAdd(ptr: usize, key: u64, delta: u64): usize {
  const index = changetype<Index>(ptr);
  const entry = lockEntry(index, key);
  if (entry == 0) return 0;
  const own = stripe(index, workerId());
  own.result = loadValue(index, entry);
  storeValue(index, entry, own.result + delta);
  if (isShared(index)) unlockExclusive(entryLeaf);
  return changetype<usize>(own) + offsetof<Stripe>("result");
}

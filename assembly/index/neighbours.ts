/**
 * The nearest keys of a private index: floor and ceiling, one descent each.
 *
 * A search ends at the largest key that is not above the one looked for, so the floor is where it ends and
 * the ceiling is there or one slot further.
 */
import { Index, KEY_MAX, KEY_MIN, keyAt, loadValue, node, valuePtr } from "./layout";
import { descend, goRight } from "./place";
import { rank } from "./rank";

/** Second result of a search, which a call cannot return beside the first. */
let valueAddress: usize = 0;

/** Address of the value of the key found last; valid until the next change of the index. */
// @ts-ignore: decorator
@inline
export function neighbourPtr(): usize {
  return valueAddress;
}

/** Value of the key found last. */
// @ts-ignore: decorator
@inline
export function neighbourValue(ptr: usize): u64 {
  return loadValue(changetype<Index>(ptr), valueAddress);
}

/** Largest key <= `key`, or KEY_MIN when there is none. */
export function indexFloor(ptr: usize, key: u64): u64 {
  const index = changetype<Index>(ptr);
  // The end sentinel is not stored: searching for it would walk past the last node.
  key = min(key, KEY_MAX - 1);
  const at = goRight(descend(index, key, 0), key);
  const slot = rank(at, key);
  valueAddress = valuePtr(index, at, slot);
  return keyAt(at, slot);
}

/** Smallest key >= `key`, or KEY_MAX when there is none. */
export function indexCeiling(ptr: usize, key: u64): u64 {
  const index = changetype<Index>(ptr);
  if (key == KEY_MAX) return KEY_MAX;
  let at = goRight(descend(index, key, 0), key);
  let slot = rank(at, key);
  if (keyAt(at, slot) != key || key == KEY_MIN) slot += 1;
  if (slot == <u32>node(at).count) {
    at = node(at).next;
    slot = 0;
    if (at == 0) return KEY_MAX;
  }
  valueAddress = valuePtr(index, at, slot);
  return keyAt(at, slot);
}

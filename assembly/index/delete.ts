/**
 * Removing a key: from its highest level down, the node to the left held as well, so that the lock order is
 * everybody's. (The paper's code locks right before left here.)
 */
import { releaseExclusive } from "../memory/locks";
import { Status } from "../memory/status";
import { workerId } from "../memory/workers";
import { leaveUnchanged, removeSlot } from "./edit";
import { childAt, Index, isShared, KEY_MAX, KEY_MIN, keyAt, node, stripe } from "./layout";
import { leftOfPlace, lockPlace } from "./place";
import { heightOf, rank } from "./rank";
import { lockNode } from "./reading";

/** Removes a key. Returns 1, or 0 when it is not there. */
export function indexDelete(ptr: usize, key: u64): Status {
  const index = changetype<Index>(ptr);
  if (key == KEY_MIN || key == KEY_MAX) return 0;
  const height = heightOf(index, key);
  let at = lockPlace(index, key, height);
  let left = leftOfPlace();
  let slot = rank(at, key);
  if (keyAt(at, slot) != key) {
    leaveUnchanged(index, left, at);
    return 0;
  }
  for (let level = height; ; level--) {
    let below: u32 = 0;
    if (level > 0) {
      // The key's node below lies to the right of where the key before it leads.
      below = slot > 0 ? childAt(index, at, slot - 1) : childAt(index, left, <u32>node(left).count - 1);
      if (isShared(index)) lockNode(index, below);
    }
    removeSlot(index, left, at, slot, level);
    if (level == 0) break;
    left = neighbourBefore(index, below, key);
    at = node(left).next;
    if (isShared(index)) lockNode(index, at);
    slot = 0;
  }
  stripe(index, workerId()).entries -= 1;
  return 1;
}

/** The node whose right neighbour starts with `key`, from `at` on, locks hand over hand. */
function neighbourBefore(index: Index, at: u32, key: u64): u32 {
  while (node(at).nextHeader != key) {
    const next = node(at).next;
    if (isShared(index)) {
      lockNode(index, next);
      releaseExclusive(at);
    }
    at = next;
  }
  return at;
}

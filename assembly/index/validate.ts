/** Full structural check of an ordered index, O(n). */
import { CORRUPT, OK, Status } from "../memory/status";
import { capacityOf, childAt, head, Index, isNode, isShared, KEY_MAX, KEY_MIN, keyAt, node } from "./layout";
import { indexSize } from "./ordered-index";
import { heightOf } from "./rank";

/**
 * OK, or CORRUPT when one of the invariants of ordered-index.ts is broken or a lock was left held; follows no
 * address before it has proved to be one of a node. Nobody else may be in a changing call.
 */
export function indexValidate(ptr: usize): Status {
  const index = changetype<Index>(ptr);
  let nodes: u32 = 0;
  for (let level: u32 = 0; level < index.levels; level++) {
    const counted = validLevel(index, level);
    if (counted == 0) return CORRUPT;
    nodes += counted;
  }
  let free: u32 = 0;
  for (let at = <u32>index.free; at != 0; at = node(at).link) {
    if (!isNode(index, at) || free == index.nodeCapacity || node(at).count != 0 || isHeld(index, at))
      return CORRUPT;
    free += 1;
  }
  if (free + index.nodeCapacity - index.fresh != index.freeCount) return CORRUPT;
  return nodes + index.freeCount == index.nodeCapacity ? OK : CORRUPT;
}

/** Whether a reader or writer holds the node's lock. */
// @ts-ignore: decorator
@inline
function isHeld(index: Index, at: u32): bool {
  return isShared(index) && (node(at).lock & 0xffff) != 0;
}

/** Number of nodes of a level, or 0 when something is wrong on it. */
function validLevel(index: Index, level: u32): u32 {
  let nodes: u32 = 0;
  let entries: u32 = 0;
  let previous: u64 = KEY_MIN;
  let leftCount: u32 = 0;
  // The node one level down that the walk has reached: children appear on it in order.
  let below = level > 0 ? head(index, level - 1) : 0;
  for (let at = head(index, level); at != 0; at = node(at).next) {
    const n = node(at);
    const count = <u32>n.count;
    if (
      (n.next != 0 && !isNode(index, n.next)) ||
      nodes == index.nodeCapacity ||
      n.level != <u8>level ||
      isHeld(index, at) ||
      count == 0 ||
      count > capacityOf(index, level)
    )
      return 0;
    if (n.nextHeader != (n.next == 0 ? KEY_MAX : keyAt(n.next, 0))) return 0;
    if (nodes > 0 && heightOf(index, keyAt(at, 0)) <= level && leftCount + count <= capacityOf(index, level))
      return 0;
    for (let slot: u32 = 0; slot < count; slot++) {
      const key = keyAt(at, slot);
      const first = nodes == 0 && slot == 0;
      if (first ? key != KEY_MIN : key <= previous || heightOf(index, key) < level) return 0;
      // A promoted key starts its node on every level below its own.
      if (!first && slot > 0 && heightOf(index, key) > level) return 0;
      if (level > 0) {
        const child = childAt(index, at, slot);
        while (below != 0 && below != child) {
          if (heightOf(index, keyAt(below, 0)) >= level && keyAt(below, 0) != KEY_MIN) return 0;
          below = node(below).next;
        }
        if (below == 0 || keyAt(below, 0) != key) return 0;
        below = node(below).next;
      }
      previous = key;
      entries += 1;
    }
    leftCount = count;
    nodes += 1;
  }
  for (; below != 0; below = node(below).next) if (heightOf(index, keyAt(below, 0)) >= level) return 0;
  if (level == 0 && entries != indexSize(changetype<usize>(index)) + 1) return 0;
  return nodes;
}

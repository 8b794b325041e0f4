/**
 * Children of cached blocks, so that a prompt which leaves a cached prefix inside a block still gets what the two have in
 * common: a block of its own with the first tokens copied.
 *
 *   header  (Children)
 *   heads   [blocks] u32            first cached child of each block
 *   roots   [ROOTS] u32             first blocks of prefixes, by namespace: lists like those of children
 *   links   [blocks] Link, 8 B      the siblings beside a cached block; with an eviction order they lie in the blocks, whose
 *                                   links no cached block needs then
 *
 * Invariants (`childrenValid`):
 * 1. A cached block is in the list of its parent, or of its namespace's root, and in no other.
 * 2. The youngest stands first.
 *
 * Enter, leave: O(1). A look-up compares at most LOOKED_AT children, the youngest first. The copy is the one that a
 * sequence makes before it writes to a shared last block: here it shares it with the cache. "Reuse of partially
 * matched blocks" is what TensorRT-LLM's KV cache manager calls it.
 */
import { Block, block, BlockId, isCached, isFirst, KvCache, NONE, ROOT, tokensOf } from "./layout";
import { commonMarks, wordOf } from "./marks";

// @ts-ignore: decorator
@inline const ROOTS: u32 = 64;
// @ts-ignore: decorator
@inline const LOOKED_AT: u32 = 64;


@unmanaged
export class Children {
  /** Fewest tokens that are worth a copy. */
  threshold: u32;
  /** The last look-up's block. */
  found: u32;
  /** Tokens that sequences have had by copy. */
  copiedTokens: u64;
  links: u32;
  stride: u32;
}


@unmanaged
class Link {
  /** NONE: it is the first of its list. */
  previous: u32;
  next: u32;
}

// @ts-ignore: decorator
@inline
export function childrenOf(kv: KvCache): Children {
  return changetype<Children>(<usize>kv.children);
}

function link(kv: KvCache, id: BlockId): Link {
  const children = childrenOf(kv);
  return changetype<Link>(<usize>children.links + <usize>id * <usize>children.stride);
}

/** Where the head of the list of `parent`'s children is kept; namespaces share lists of first blocks. */
function headPtr(kv: KvCache, parent: u32): usize {
  const head = isFirst(parent) ? kv.blockCount + (parent & (ROOTS - 1)) : parent;
  return <usize>kv.children + offsetof<Children>() + ((<usize>head) << 2);
}

/** `ordered`: for a cache with an eviction order. */
export function childrenBytes(blocks: u32, ordered: bool): u64 {
  return <u64>offsetof<Children>() + <u64>ROOTS * 4 + <u64>blocks * (ordered ? 4 : 4 + offsetof<Link>());
}

/** Gives a cache without cached blocks lists of children, in a region of `childrenBytes` bytes. */
export function childrenCreate(kv: KvCache, region: usize, threshold: u32): void {
  const bytes = <usize>childrenBytes(kv.blockCount, true);
  memory.fill(region, 0xff, bytes);
  kv.children = <u32>region;
  const children = childrenOf(kv);
  children.threshold = threshold;
  children.copiedTokens = 0;
  children.links = kv.order == 0 ? <u32>(region + bytes) : kv.blocks;
  children.stride = <u32>(kv.order == 0 ? offsetof<Link>() : offsetof<Block>());
}

/** A block has become cached behind `parent`. */
export function childrenEnter(kv: KvCache, id: BlockId, parent: u32): void {
  const head = headPtr(kv, parent);
  const own = link(kv, id);
  const next = load<u32>(head);
  own.next = next;
  own.previous = NONE;
  if (next != NONE) link(kv, next).previous = id;
  store<u32>(head, id);
}

/** A cached block is forgotten. */
export function childrenLeave(kv: KvCache, id: BlockId, parent: u32): void {
  const own = link(kv, id);
  if (own.next != NONE) link(kv, own.next).previous = own.previous;
  if (own.previous != NONE) link(kv, own.previous).next = own.next;
  else store<u32>(headPtr(kv, parent), own.next);
}

function commonTokens(a: usize, b: usize, most: u32): u32 {
  let count: u32 = 0;
  while (count < most && load<u32>(a + ((<usize>count) << 2)) == load<u32>(b + ((<usize>count) << 2)))
    count += 1;
  return count;
}

/**
 * Most tokens, up to `most`, that a cached block behind `parent` begins with as the prompt goes on at `tokensPtr`, its
 * position `start`, with the same marks; 0
 * when it is fewer than the threshold. The block is in `found`: of equals the youngest.
 */
export function childrenFind(
  kv: KvCache,
  parent: u32,
  tokensPtr: usize,
  most: u32,
  start: u32,
  marks: u32,
): u32 {
  const children = childrenOf(kv);
  let best: u32 = 0;
  let id = load<u32>(headPtr(kv, parent));
  for (let looked: u32 = 0; looked < LOOKED_AT && id != NONE && best < most; looked++) {
    if (block(kv, id).parent == parent) {
      let common = commonTokens(tokensOf(kv, id), tokensPtr, most);
      if (kv.marks != 0) common = commonMarks(kv, wordOf(kv, id), marks, start, common);
      if (common > best) {
        best = common;
        children.found = id;
      }
    }
    id = link(kv, id).next;
  }
  return best >= children.threshold ? best : 0;
}

/** Whether every cached block is where its parent's list, and its neighbours there, say that it is. */
export function childrenValid(kv: KvCache): bool {
  for (let id: u32 = 0; id < kv.blockCount; id++) {
    const record: Block = block(kv, id);
    if (!isCached(record)) continue;
    const own = link(kv, id);
    const head = headPtr(kv, record.parent);
    if (own.previous == NONE) {
      if (load<u32>(head) != id) return false;
    } else {
      const before: Block = block(kv, own.previous);
      if (link(kv, own.previous).next != id || !isCached(before) || headPtr(kv, before.parent) != head)
        return false;
    }
    if ((load<u32>(headPtr(kv, id)) == NONE) != (record.children == 0)) return false;
    if (own.next != NONE && link(kv, own.next).previous != id) return false;
  }
  return true;
}

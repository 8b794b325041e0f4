/**
 * Cache groups: layers that keep their tokens in another way, each with block tables of its own, in one pool of blocks.
 *
 *   header   (Groups)
 *   groups   [MAX_GROUPS] Group
 *   members  [blocks] u32                      1 + group of a block that is a twin, 0 of the others
 *   scratch  [tableStride] u32                 block ids of a match
 *   copies   [maxSequences * (1 + groups)]     takes the place of the cache's list of copies
 *   of each group:
 *   tables   [maxSequences][stride] u32        block ids, NONE where nothing is held
 *   spans    [maxSequences] Span
 *   twins    [blocks] u32                      block of the group that ends where this cached block ends, or NONE
 *
 * The cache's own tables are those of full attention over all tokens. A further group holds tokens of full attention too
 * (other layers, other block size), only those that a sliding window still sees, or a recurrent state: the state after a
 * token lies in the block of the token's interval and is overwritten by the next token's, so that a block which is left
 * behind is a checkpoint. All blocks are pages of one size; a group's block holds blockSize * 2^k tokens.
 *
 * A full block of a group is cached as the twin of the cached block that ends with the same token, which has been verified
 * with all that is before it. Looking it up is one load. Twins count as children of their block.
 *
 * Invariants (`groupsValid`):
 * 1. Who holds a twin holds its block: released before it, a twin stands before it in the evictable list, and is forgotten
 *    before it. A twin may be forgotten alone.
 * 2. A sequence holds what its next token needs: in full groups all blocks, in windows those that the window reaches, in
 *    recurrent groups the one with the state.
 */
import { orderEnter, orderLeave } from "../orders/order";
import { alignToLine } from "../memory/arena";
import { Block, BlockId, block, blocksFor, Copy, KvCache, NONE, orderOf, sequenceAt } from "./layout";
import { loseChild } from "./pool";

export const enum GroupKind {
  Full = 0,
  Window = 1,
  Recurrent = 2,
}

// @ts-ignore: decorator
@inline export const MAX_GROUPS: u32 = 7;
// @ts-ignore: decorator
@inline export const MAX_GROUP_BLOCK: u32 = 1 << 16;


@unmanaged
export class Groups {
  count: u32;
  /** Tokens of the largest block: a cached prefix is a multiple of it. */
  unit: u32;
  /** Recurrent groups among them. */
  recurrent: u32;
  copyCapacity: u32;
  // Addresses.
  members: u32;
  scratch: u32;
  /** Blocks cached as twins. */
  twinCount: u32;
  reserved: u32;
}


@unmanaged
export class Group {
  kind: u32;
  /** Tokens before the next one that it needs; of a recurrent group 1, its state. */
  reach: u32;
  /** Log2 of the tokens of a block, and of the cache's blocks in one. */
  shift: u32;
  ratio: u32;
  /** Entries of a table. */
  stride: u32;
  tables: u32;
  spans: u32;
  twins: u32;
  /** Entries of all tables that hold a block. */
  held: u32;
  /** Blocks cached. */
  cached: u32;
  evictions: u64;
}

/** Entries of a sequence's table that may hold blocks: those before `first` are NONE. */
@unmanaged
export class Span {
  first: u32;
  count: u32;
}

/** What `kvGroupsCreate` is told of a group. */
@unmanaged
export class GroupSpec {
  kind: u32;
  /** Tokens that a query sees, itself included; 0 unless it is a window. */
  window: u32;
  blockTokens: u32;
}

// @ts-ignore: decorator
@inline
export function groupsOf(kv: KvCache): Groups {
  return changetype<Groups>(<usize>kv.groups);
}

export function groupAt(kv: KvCache, index: u32): Group {
  return changetype<Group>(<usize>kv.groups + offsetof<Groups>() + <usize>index * offsetof<Group>());
}

// @ts-ignore: decorator
@inline
export function spanOf(group: Group, slot: u32): Span {
  return changetype<Span>(<usize>group.spans + <usize>slot * offsetof<Span>());
}

/** Address of an entry of a sequence's table. */
export function entryPtr(group: Group, slot: u32, index: u32): usize {
  return <usize>group.tables + ((<usize>slot * <usize>group.stride + <usize>index) << 2);
}

/** Blocks that hold `tokens` tokens. */
// @ts-ignore: decorator
@inline
export function groupBlocks(group: Group, tokens: u32): u32 {
  return (tokens + (1 << group.shift) - 1) >> group.shift;
}

/** First entry that a sequence of `length` tokens needs. */
export function firstNeeded(group: Group, length: u32): u32 {
  return length > group.reach ? (length - group.reach) >> group.shift : 0;
}

/** Most blocks that a sequence of up to `tokens` tokens needs, in groups too, when it is fed token by token. */
export function peakBlocks(kv: KvCache, tokens: u32): u32 {
  let blocks = blocksFor(kv, tokens);
  for (let g: u32 = 0; kv.groups != 0 && g < groupsOf(kv).count; g++) {
    const group = groupAt(kv, g);
    const all = groupBlocks(group, tokens);
    blocks += group.kind == GroupKind.Full ? all : min(all, groupBlocks(group, group.reach) + 1);
  }
  return blocks;
}

/** Entry of the last, partly filled block of a sequence in a group, or 0. */
export function groupTail(kv: KvCache, g: u32, slot: u32): usize {
  const group = groupAt(kv, g);
  const tail = sequenceAt(kv, slot).length >> group.shift;
  return tail < spanOf(group, slot).count ? entryPtr(group, slot, tail) : 0;
}

/** Address of the twin of a block. */
// @ts-ignore: decorator
@inline
export function twinPtr(group: Group, id: BlockId): usize {
  return <usize>group.twins + ((<usize>id) << 2);
}

// @ts-ignore: decorator
@inline
function memberPtr(kv: KvCache, id: BlockId): usize {
  return <usize>groupsOf(kv).members + ((<usize>id) << 2);
}

/** 1 + group of a twin, else 0. */
// @ts-ignore: decorator
@inline
export function memberOf(kv: KvCache, id: BlockId): u32 {
  return load<u32>(memberPtr(kv, id));
}

/** Whether these groups may be made for a cache of this block size. */
export function specsValid(specs: usize, count: u32, blockSize: u32): bool {
  if (count == 0 || count > MAX_GROUPS) return false;
  for (let g: u32 = 0; g < count; g++) {
    const spec = changetype<GroupSpec>(specs + <usize>g * offsetof<GroupSpec>());
    if (spec.kind > <u32>GroupKind.Recurrent || (spec.kind == GroupKind.Window) != (spec.window != 0))
      return false;
    if (popcnt(spec.blockTokens) != 1 || spec.blockTokens < blockSize || spec.blockTokens > MAX_GROUP_BLOCK)
      return false;
  }
  return true;
}

/** Bytes of so many u32, to the end of the line. */
function words(items: u64): u64 {
  return (items * 4 + 63) & ~63;
}

/** Exact bytes of checked groups of a cache of this shape. */
export function groupsBytes(
  blocks: u32,
  blockSize: u32,
  maxSequences: u32,
  maxSequenceTokens: u32,
  specs: usize,
  count: u32,
): u64 {
  let bytes: u64 = words((offsetof<Groups>() + MAX_GROUPS * offsetof<Group>()) / 4) + words(blocks);
  bytes +=
    words((maxSequenceTokens + blockSize - 1) / blockSize) + words(<u64>maxSequences * (1 + count) * 8);
  for (let g: u32 = 0; g < count; g++) {
    const tokens = changetype<GroupSpec>(specs + <usize>g * offsetof<GroupSpec>()).blockTokens;
    const stride = <u64>((maxSequenceTokens + tokens - 1) / tokens);
    bytes += words(maxSequences * stride) + words(<u64>maxSequences * 2) + words(blocks);
  }
  return bytes;
}

/** Gives a new cache groups, in a zeroed region of `groupsBytes` bytes. */
export function groupsCreate(kv: KvCache, region: usize, specs: usize, count: u32): void {
  kv.groups = <u32>region;
  const groups = groupsOf(kv);
  groups.count = count;
  groups.copyCapacity = kv.maxSequences * (1 + count);
  groups.unit = kv.blockSize;
  let at = region + alignToLine(offsetof<Groups>() + MAX_GROUPS * offsetof<Group>());
  groups.members = <u32>at;
  at += alignToLine((<usize>kv.blockCount) << 2);
  groups.scratch = <u32>at;
  at += alignToLine((<usize>kv.tableStride) << 2);
  kv.copies = <u32>at;
  at += alignToLine(<usize>groups.copyCapacity * offsetof<Copy>());
  for (let g: u32 = 0; g < count; g++) {
    const spec = changetype<GroupSpec>(specs + <usize>g * offsetof<GroupSpec>());
    const group = groupAt(kv, g);
    group.kind = spec.kind;
    group.reach =
      spec.kind == GroupKind.Full ? u32.MAX_VALUE : spec.kind == GroupKind.Window ? spec.window - 1 : 1;
    group.shift = ctz(spec.blockTokens);
    group.ratio = group.shift - kv.blockShift;
    group.stride = (kv.maxSequenceTokens + spec.blockTokens - 1) >> group.shift;
    groups.unit = max(groups.unit, spec.blockTokens);
    groups.recurrent += u32(spec.kind == GroupKind.Recurrent);
    group.tables = <u32>at;
    at += alignToLine((<usize>kv.maxSequences * <usize>group.stride) << 2);
    group.spans = <u32>at;
    at += alignToLine(<usize>kv.maxSequences * offsetof<Span>());
    group.twins = <u32>at;
    memory.fill(at, 0xff, (<usize>kv.blockCount) << 2);
    at += alignToLine((<usize>kv.blockCount) << 2);
  }
}

/** Caches a held block as the twin of `primary`, which is cached and has none in this group. */
export function enterTwin(kv: KvCache, g: u32, primary: BlockId, id: BlockId): void {
  const group = groupAt(kv, g);
  const record = block(kv, id);
  store<u32>(twinPtr(group, primary), id);
  store<u32>(memberPtr(kv, id), g + 1);
  record.parent = primary;
  record.key = block(kv, primary).key ^ ((<u64>(g + 1)) << 56);
  record.children = 0;
  block(kv, primary).children += 1;
  group.cached += 1;
  groupsOf(kv).twinCount += 1;
  kv.cachedCount += 1;
  if (kv.order != 0) orderEnter(orderOf(kv), id, primary, record.key);
}

/** A twin is not cached any more. `evicted`: for room. */
export function leaveTwin(kv: KvCache, id: BlockId, record: Block, evicted: bool): void {
  const group = groupAt(kv, memberOf(kv, id) - 1);
  const primary = record.parent;
  if (kv.order != 0) orderLeave(orderOf(kv), id, record.key, evicted);
  store<u32>(twinPtr(group, primary), NONE);
  store<u32>(memberPtr(kv, id), 0);
  record.parent = NONE;
  group.cached -= 1;
  group.evictions += u64(evicted);
  groupsOf(kv).twinCount -= 1;
  kv.cachedCount -= 1;
  loseChild(kv, primary);
}

/**
 * Tables of cache groups (groups.ts): what each operation on a sequence does in them. sequences.ts calls these, checks
 * come before changes.
 *
 *   tokens of a window group   |   left behind   |<- reach ->|next            |
 *   table                      | - | - | - | - | b4 | b5 | b6 | reserved ...
 *                                                first          count
 */
import { COPIES_PENDING, NOT_RESERVED, OK, Status } from "../memory/status";
import { orderUse } from "../orders/order";
import {
  entryPtr,
  enterTwin,
  firstNeeded,
  Group,
  groupAt,
  groupBlocks,
  GroupKind,
  groupsOf,
  leaveTwin,
  memberOf,
  spanOf,
  twinPtr,
} from "./groups";
import { copyPending, recordCopy, releaseWithCopies } from "./copies";
import {
  block,
  BlockId,
  blocksFor,
  copyAt,
  isCached,
  KvCache,
  NONE,
  orderOf,
  PRIVATE,
  Sequence,
  sequenceAt,
  SLOT_MASK,
  tableOf,
} from "./layout";
import { hold, isShared, letGo } from "./pool";
import { grabBlock, matchPrefix, trim } from "./prefix";

/** Twin of the block that ends with entry `index` of a group, in a table of the cache's own blocks. */
function twinAt(group: Group, primaries: usize, index: u32): BlockId {
  const primary = load<u32>(primaries + ((<usize>(((index + 1) << group.ratio) - 1)) << 2));
  return load<u32>(twinPtr(group, primary));
}

/** Whether entry `index` is held by the sequence in `slot` (NONE: nothing is), or can be had from the cache for `length` tokens. */
function has(group: Group, primaries: usize, slot: u32, index: u32, length: u32): bool {
  if (slot != NONE && index < spanOf(group, slot).count && load<u32>(entryPtr(group, slot, index)) != NONE)
    return true;
  return (index + 1) << group.shift <= length && twinAt(group, primaries, index) != NONE;
}

/**
 * Longest prefix of up to `length` tokens that can be gone on from: every group has what the next token needs. `length`
 * itself, or a multiple of the unit. O(blocks that the groups need), windows from the right.
 */
export function fitting(kv: KvCache, primaries: usize, length: u32, slot: u32): u32 {
  const groups = groupsOf(kv);
  const aligned = ~(groups.unit - 1);
  let n = length;
  for (let g: u32 = 0; g < groups.count; g++) {
    const group = groupAt(kv, g);
    if (group.kind == GroupKind.Recurrent && (n & ((1 << group.shift) - 1)) != 0) n &= aligned;
  }
  let fullChecked = false;
  while (true) {
    let cut = n;
    for (let g: u32 = 0; g < groups.count; g++) {
      const group = groupAt(kv, g);
      const end = groupBlocks(group, n);
      if (group.kind == GroupKind.Full) {
        if (fullChecked) continue;
        let index: u32 = 0;
        while (index < end && has(group, primaries, slot, index, n)) index += 1;
        if (index < end) cut = min(cut, index << group.shift);
        continue;
      }
      const first = firstNeeded(group, n);
      let index = end;
      while (index > first && has(group, primaries, slot, index - 1, n)) index -= 1;
      if (index > first) cut = min(cut, (index - 1) << group.shift);
    }
    if (cut == n) return n;
    n = cut & aligned;
    fullChecked = true;
  }
}

/** Cached tokens of a prompt, `limit` blocks of the cache at most, that an open sequence could go on from. */
export function matchLength(kv: KvCache, namespace: u32, tokensPtr: usize, limit: u32, marks: u32 = 0): u32 {
  if (kv.groups == 0) return matchPrefix(kv, namespace, tokensPtr, limit, 0, marks) << kv.blockShift;
  const scratch = <usize>groupsOf(kv).scratch;
  const length = matchPrefix(kv, namespace, tokensPtr, limit, scratch) << kv.blockShift;
  return fitting(kv, scratch, length & ~(groupsOf(kv).unit - 1), NONE);
}

/** A new sequence holds nothing. */
export function groupsReset(kv: KvCache, slot: u32): void {
  for (let g: u32 = 0; g < groupsOf(kv).count; g++) {
    const span = spanOf(groupAt(kv, g), slot);
    span.first = 0;
    span.count = 0;
  }
}

/** Takes from the cache what the sequence needs at a `length` that `fitting` has given, and does not hold. */
export function groupsRegain(kv: KvCache, slot: u32, primaries: usize, length: u32): void {
  for (let g: u32 = 0; g < groupsOf(kv).count; g++) {
    const group = groupAt(kv, g);
    const span = spanOf(group, slot);
    const end = length >> group.shift;
    const first = firstNeeded(group, length);
    for (let index = span.count; index < first; index++) store<u32>(entryPtr(group, slot, index), NONE);
    for (let index = first; index < end; index++) {
      const entry = entryPtr(group, slot, index);
      if (index < span.count && load<u32>(entry) != NONE) break; // from here on all are held
      const id = twinAt(group, primaries, index);
      store<u32>(entry, id);
      hold(kv, id);
      group.held += 1;
    }
    span.count = max(span.count, end);
    span.first = min(first, span.count);
  }
}

/** Blocks to take before `count` tokens more have room. */
export function groupsAdded(kv: KvCache, slot: u32, length: u32, count: u32): u32 {
  let added: u32 = 0;
  for (let g: u32 = 0; g < groupsOf(kv).count; g++) {
    const group = groupAt(kv, g);
    const needed = groupBlocks(group, length + count);
    const held = spanOf(group, slot).count;
    if (needed > held) added += needed - held;
  }
  return added;
}

/** Whether the block that token `length` goes to is readable by others. */
function tailShared(kv: KvCache, group: Group, slot: u32, length: u32): bool {
  if ((length & ((1 << group.shift) - 1)) == 0) return false;
  return isShared(kv, load<u32>(entryPtr(group, slot, length >> group.shift)));
}

/** Blocks to copy before token `length` is written. */
export function groupsShared(kv: KvCache, slot: u32, length: u32): u32 {
  let shared: u32 = 0;
  for (let g: u32 = 0; g < groupsOf(kv).count; g++)
    shared += u32(tailShared(kv, groupAt(kv, g), slot, length));
  return shared;
}

/**
 * Makes room for `count` tokens; the blocks that `groupsAdded` and `groupsShared` have counted are available. Copies come
 * before those of the cache's own blocks: their sources are released in this order.
 */
export function groupsReserve(kv: KvCache, handle: u32, length: u32, count: u32): void {
  const slot = handle & SLOT_MASK;
  for (let g: u32 = 0; g < groupsOf(kv).count; g++) {
    const group = groupAt(kv, g);
    if (count > 0 && tailShared(kv, group, slot, length)) {
      const entry = entryPtr(group, slot, length >> group.shift);
      const mask = (1 << group.shift) - 1;
      const tokens = group.kind == GroupKind.Recurrent ? mask + 1 : length & mask;
      const target = grabBlock(kv);
      recordCopy(kv, handle, load<u32>(entry), target, tokens, (g + 1) << 8);
      store<u32>(entry, target);
    }
    const span = spanOf(group, slot);
    const needed = groupBlocks(group, length + count);
    for (; span.count < needed; span.count++) {
      store<u32>(entryPtr(group, slot, span.count), grabBlock(kv));
      group.held += 1;
    }
  }
}

/** Tokens behind `length` that the reserved blocks have room for. */
export function groupsRoom(kv: KvCache, slot: u32, length: u32): u32 {
  let room: u32 = u32.MAX_VALUE;
  for (let g: u32 = 0; g < groupsOf(kv).count; g++) {
    const group = groupAt(kv, g);
    room = min(room, (spanOf(group, slot).count << group.shift) - length);
  }
  return room;
}

/** OK, or why `count` tokens cannot be appended. */
export function groupsReady(kv: KvCache, slot: u32, length: u32, count: u32): Status {
  if (groupsRoom(kv, slot, length) < count) return NOT_RESERVED;
  for (let g: u32 = 0; g < groupsOf(kv).count; g++) {
    const group = groupAt(kv, g);
    if (tailShared(kv, group, slot, length)) return NOT_RESERVED;
    if (kv.copyCount == 0 || (length & ((1 << group.shift) - 1)) == 0) continue;
    if (copyPending(kv, load<u32>(entryPtr(group, slot, length >> group.shift)))) return COPIES_PENDING;
  }
  return OK;
}

/** The sequence has grown from `before` tokens: caches what is full, lets go of what its windows have left behind. */
export function groupsAdvance(kv: KvCache, sequence: Sequence, slot: u32, before: u32): void {
  const length = sequence.length;
  const cached = kv.prefixCache != 0 && (sequence.flags & PRIVATE) == 0;
  const primaries = tableOf(kv, slot);
  for (let g: u32 = 0; g < groupsOf(kv).count; g++) {
    const group = groupAt(kv, g);
    const span = spanOf(group, slot);
    const full = length >> group.shift;
    for (let index = before >> group.shift; cached && index < full; index++) {
      const entry = entryPtr(group, slot, index);
      const id = load<u32>(entry);
      const twin = twinAt(group, primaries, index);
      if (twin == NONE) {
        enterTwin(kv, g, load<u32>(primaries + ((<usize>(((index + 1) << group.ratio) - 1)) << 2)), id);
        continue;
      }
      hold(kv, twin);
      if (kv.order != 0) orderUse(orderOf(kv), twin);
      store<u32>(entry, twin);
      letGo(kv, id);
    }
    const first = firstNeeded(group, length);
    for (; span.first < first; span.first++) empty(kv, group, entryPtr(group, slot, span.first));
  }
  trim(kv);
}

/** Releases what an entry holds, if anything. */
function empty(kv: KvCache, group: Group, entry: usize): void {
  const id = load<u32>(entry);
  if (id == NONE) return;
  store<u32>(entry, NONE);
  group.held -= 1;
  if (kv.copyCount == 0) letGo(kv, id);
  else releaseWithCopies(kv, id);
}

/**
 * Releases the entries that hold nothing of the first `keep` blocks of the cache, the last one first, but none that has one
 * of the first `length` tokens.
 */
export function groupsRelease(kv: KvCache, slot: u32, keep: u32, length: u32): void {
  for (let g: u32 = 0; g < groupsOf(kv).count; g++) {
    const group = groupAt(kv, g);
    const span = spanOf(group, slot);
    const kept = max(keep >> group.ratio, groupBlocks(group, length));
    for (; span.count > kept; span.count--) empty(kv, group, entryPtr(group, slot, span.count - 1));
    span.first = min(span.first, span.count);
  }
}

/** Shortens the tables to the longest prefix of up to `length` tokens that can be gone on from; returns its length. */
export function groupsTruncate(kv: KvCache, sequence: Sequence, slot: u32, length: u32): u32 {
  const primaries = tableOf(kv, slot);
  const n = length == sequence.length ? length : fitting(kv, primaries, length, slot);
  groupsRegain(kv, slot, primaries, n);
  groupsRelease(kv, slot, 0, n);
  const kept = blocksFor(kv, n);
  for (let g: u32 = 0; g < groupsOf(kv).count; g++) {
    const group = groupAt(kv, g);
    const tail = n >> group.shift;
    if (tail == spanOf(group, slot).count || (tail + 1) << group.ratio == kept) continue;
    detach(kv, load<u32>(entryPtr(group, slot, tail)));
  }
  return n;
}

/**
 * The block that a tail is the twin of goes, so neither it nor what is to be copied to it stays cached: nobody may hold a
 * twin without its block.
 */
function detach(kv: KvCache, id: BlockId): void {
  if (isCached(block(kv, id))) leaveTwin(kv, id, block(kv, id), false);
  for (let i: u32 = 0; i < kv.copyCount; i++)
    if (copyAt(kv, i).target == id) detach(kv, copyAt(kv, i).source);
}

/** The sequence in `to` holds what that in `from` does, but for what is reserved. */
export function groupsFork(kv: KvCache, from: u32, to: u32, length: u32): void {
  for (let g: u32 = 0; g < groupsOf(kv).count; g++) {
    const group = groupAt(kv, g);
    const span = spanOf(group, to);
    span.first = spanOf(group, from).first;
    span.count = groupBlocks(group, length);
    for (let index: u32 = 0; index < span.count; index++) {
      const id = load<u32>(entryPtr(group, from, index));
      store<u32>(entryPtr(group, to, index), id);
      if (id == NONE) continue;
      hold(kv, id);
      group.held += 1;
    }
  }
}

/** A look-up has found what the sequence holds. */
export function groupsUse(kv: KvCache, slot: u32): void {
  for (let g: u32 = 0; g < groupsOf(kv).count; g++) {
    const group = groupAt(kv, g);
    const span = spanOf(group, slot);
    for (let index = span.first; index < span.count; index++)
      orderUse(orderOf(kv), load<u32>(entryPtr(group, slot, index)));
  }
}

/** Adds `delta` to the reference count of every block that a table holds. */
export function groupsShiftCounts(kv: KvCache, slot: u32, delta: i32): void {
  for (let g: u32 = 0; g < groupsOf(kv).count; g++) {
    const group = groupAt(kv, g);
    for (let index: u32 = 0; index < spanOf(group, slot).count; index++) {
      const id = load<u32>(entryPtr(group, slot, index));
      if (id != NONE) block(kv, id).refs = <u32>(<i32>block(kv, id).refs + delta);
    }
  }
}

/** Whether tables and twins are what groups.ts says. */
export function groupsValid(kv: KvCache): bool {
  const groups = groupsOf(kv);
  let twins: u32 = 0;
  for (let g: u32 = 0; g < groups.count; g++) {
    const group = groupAt(kv, g);
    let cached: u32 = 0;
    let held: u32 = 0;
    for (let id: u32 = 0; id < kv.blockCount; id++) {
      const twin = load<u32>(twinPtr(group, id));
      if (twin == NONE) continue;
      if (twin >= kv.blockCount || memberOf(kv, twin) != g + 1 || block(kv, twin).parent != id) return false;
      if (!isCached(block(kv, id)) || memberOf(kv, id) != 0 || block(kv, twin).children != 0) return false;
      cached += 1;
    }
    for (let slot: u32 = 0; slot < kv.maxSequences; slot++) {
      const sequence = sequenceAt(kv, slot);
      if (sequence.open == 0) continue;
      if (!validTable(kv, group, sequence, slot)) return false;
      for (let index = spanOf(group, slot).first; index < spanOf(group, slot).count; index++)
        held += u32(load<u32>(entryPtr(group, slot, index)) != NONE);
    }
    if (cached != group.cached || held != group.held) return false;
    twins += cached;
  }
  return twins == groups.twinCount;
}

function validTable(kv: KvCache, group: Group, sequence: Sequence, slot: u32): bool {
  const span = spanOf(group, slot);
  const held = groupBlocks(group, sequence.length);
  if (span.count > group.stride || span.count < held || span.first > span.count) return false;
  if (span.first != min(firstNeeded(group, sequence.length), span.count)) return false;
  const primaries = tableOf(kv, slot);
  for (let index: u32 = 0; index < span.count; index++) {
    const id = load<u32>(entryPtr(group, slot, index));
    if ((id == NONE) != index < span.first) return false;
    if (id == NONE) continue;
    if (id >= kv.blockCount) return false;
    const record = block(kv, id);
    if (index >= held && (record.refs != 1 || isCached(record))) return false;
    // Who holds a twin holds its block.
    if (!isCached(record)) continue;
    const end = ((index + 1) << group.ratio) - 1;
    if (end >= sequence.blockCount || load<u32>(primaries + ((<usize>end) << 2)) != record.parent)
      return false;
  }
  return true;
}

/**
 * Tables of cache groups (groups.ts): what each operation on a sequence does in them. sequences.ts and growth.ts call these;
 * checks come before changes.
 *
 *   tokens of a window group   |   left behind   |<- reach ->|next            |
 *   table                      | - | - | - | - | b4 | b5 | b6 | reserved ...
 *                                                first          count
 */
import { COPIES_PENDING, NOT_RESERVED, OK, Status } from "../memory/status";
import { orderUse } from "../orders/order";
import { share } from "./accounts";
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
import { fitting, twinAt } from "./group-match";
import { copyPending, recordCopy, releaseWithCopies } from "./copies";
import { eventRemoved, eventStored } from "./events";
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
import { isPinned } from "./pin-counts";
import { grabBlock, matchPrefix, trim } from "./prefix";

/** Cached tokens of a prompt, `limit` blocks of the cache at most, that an open sequence could go on from. */
export function matchLength(kv: KvCache, namespace: u32, tokensPtr: usize, limit: u32, marks: u32 = 0): u32 {
  if (kv.groups == 0) return matchPrefix(kv, namespace, tokensPtr, limit, 0, marks) << kv.blockShift;
  const scratch = <usize>groupsOf(kv).scratch;
  const length = matchPrefix(kv, namespace, tokensPtr, limit, scratch, marks) << kv.blockShift;
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

/** Holds a twin that the sequence in `slot` has found. */
function holdTwin(kv: KvCache, slot: u32, id: BlockId): void {
  hold(kv, id);
  if (kv.accounts != 0) share(kv, id, sequenceAt(kv, slot).tenant);
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
      holdTwin(kv, slot, id);
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
  const tail = length >> group.shift;
  return tail < spanOf(group, slot).count && isShared(kv, load<u32>(entryPtr(group, slot, tail)));
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
  const tenant = sequenceAt(kv, slot).tenant;
  for (let g: u32 = 0; g < groupsOf(kv).count; g++) {
    const group = groupAt(kv, g);
    if (count > 0 && tailShared(kv, group, slot, length)) {
      const entry = entryPtr(group, slot, length >> group.shift);
      const mask = (1 << group.shift) - 1;
      const tokens = group.kind == GroupKind.Recurrent ? mask + 1 : length & mask;
      const target = grabBlock(kv, tenant);
      recordCopy(kv, handle, load<u32>(entry), target, tokens, (g + 1) << 8);
      store<u32>(entry, target);
    }
    const span = spanOf(group, slot);
    const needed = groupBlocks(group, length + count);
    for (; span.count < needed; span.count++) {
      store<u32>(entryPtr(group, slot, span.count), grabBlock(kv, tenant));
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

/**
 * The sequence has grown from `before` tokens: caches what is full, lets go of what its windows have left behind. Of what a
 * sequence of `whole` tokens does not need nothing has been written: that is not cached.
 */
export function groupsAdvance(kv: KvCache, sequence: Sequence, slot: u32, before: u32, whole: u32): void {
  const length = sequence.length;
  const cached = kv.prefixCache != 0 && (sequence.flags & PRIVATE) == 0;
  const primaries = tableOf(kv, slot);
  for (let g: u32 = 0; g < groupsOf(kv).count; g++) {
    const group = groupAt(kv, g);
    const span = spanOf(group, slot);
    const full = length >> group.shift;
    let index = max(before >> group.shift, firstNeeded(group, whole));
    for (; cached && index < full; index++) {
      const entry = entryPtr(group, slot, index);
      const id = load<u32>(entry);
      const twin = twinAt(group, primaries, index);
      if (twin == NONE) {
        const primary = load<u32>(primaries + ((<usize>(((index + 1) << group.ratio) - 1)) << 2));
        enterTwin(kv, g, primary, id);
        if (kv.events != 0) eventStored(kv, id, sequence.namespace);
        continue;
      }
      holdTwin(kv, slot, twin);
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

/**
 * Shortens the tables to the longest prefix of up to `length` tokens that can be gone on from without taking a pin's block
 * out of the cache; returns its length.
 */
export function groupsTruncate(kv: KvCache, sequence: Sequence, slot: u32, length: u32): u32 {
  const primaries = tableOf(kv, slot);
  let n = length == sequence.length ? length : fitting(kv, primaries, length, slot);
  if (kv.pins != 0 && !detachTails(kv, slot, n, false))
    n = fitting(kv, primaries, n & ~(groupsOf(kv).unit - 1), slot);
  groupsRegain(kv, slot, primaries, n);
  groupsRelease(kv, slot, 0, n);
  detachTails(kv, slot, n, true);
  return n;
}

/** Detaches every tail that is the twin of a block behind the first `length` tokens' (`really`), or says whether that may be. */
function detachTails(kv: KvCache, slot: u32, length: u32, really: bool): bool {
  const kept = blocksFor(kv, length);
  for (let g: u32 = 0; g < groupsOf(kv).count; g++) {
    const group = groupAt(kv, g);
    const tail = length >> group.shift;
    if ((length & ((1 << group.shift) - 1)) == 0 || (tail + 1) << group.ratio == kept) continue;
    if (!detach(kv, load<u32>(entryPtr(group, slot, tail)), really)) return false;
  }
  return true;
}

/**
 * The block that a tail is the twin of goes, so neither it nor what is to be copied to it stays cached: nobody may hold a
 * twin without its block. A pin holds both: false. Nothing changes unless `really`.
 */
function detach(kv: KvCache, id: BlockId, really: bool): bool {
  if (isCached(block(kv, id))) {
    if (!really) {
      if (isPinned(kv, id)) return false;
    } else {
      if (kv.events != 0) eventRemoved(kv, id);
      leaveTwin(kv, id, block(kv, id), false);
    }
  }
  for (let i: u32 = 0; i < kv.copyCount; i++)
    if (copyAt(kv, i).target == id && !detach(kv, copyAt(kv, i).source, really)) return false;
  return true;
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

/** A look-up has found what the sequence holds, as far as that is cached: the rest is reserved. */
export function groupsUse(kv: KvCache, slot: u32): void {
  for (let g: u32 = 0; g < groupsOf(kv).count; g++) {
    const group = groupAt(kv, g);
    const span = spanOf(group, slot);
    for (let index = span.first; index < span.count; index++) {
      const id = load<u32>(entryPtr(group, slot, index));
      if (isCached(block(kv, id))) orderUse(orderOf(kv), id);
    }
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

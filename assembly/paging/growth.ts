/**
 * What an open sequence holds: reserve, append, truncate, and giving blocks back. Under the invariants of sequences.ts.
 */
import {
  COMPACTION_PENDING,
  COPIES_PENDING,
  INVALID_ARGUMENT,
  LANES_SHARED,
  LOSSY_SEQUENCE,
  NOT_RESERVED,
  OK,
  OUT_OF_SEQUENCES,
  Status,
  TOO_LONG,
  UNKNOWN_SEQUENCE,
} from "../memory/status";
import {
  BlockId,
  blocksFor,
  isOpen,
  KvCache,
  LOSSY,
  orderOf,
  PRIVATE,
  ROOT,
  Sequence,
  sequenceOf,
  SLOT_MASK,
  slotsOf,
  tableOf,
  tokensOf,
} from "./layout";
import { charge, setPayer, share } from "./accounts";
import { copyPending, recordCopy, releaseWithCopies } from "./copies";
import {
  groupsAdded,
  groupsAdvance,
  groupsReady,
  groupsRelease,
  groupsReserve,
  groupsShared,
  groupsTruncate,
} from "./group-tables";
import { groupsOf } from "./groups";
import { takeRuns } from "./run-tables";
import { dropTail } from "./runs";
import { listBefore } from "./marks";
import { orderUse } from "../orders/order";
import { eventStored } from "./events";
import { isShared, letGo, reference, release, takeFree } from "./pool";
import { grabBlock, publish, takeBlock, trim } from "./prefix";
import { roomFor } from "./quotas";

/** A sequence of a tenant holds a block that it has found. */
// @ts-ignore: decorator
@inline
export function holdFor(kv: KvCache, id: BlockId, tenant: u32): void {
  reference(kv, id);
  if (kv.accounts != 0) share(kv, id, tenant);
}

/**
 * Whether the block that holds token `length` is readable by others and must be copied before it is written.
 */
// @ts-ignore: decorator
@inline
export function tailIsShared(kv: KvCache, sequence: Sequence, table: usize): bool {
  if ((sequence.length & (kv.blockSize - 1)) == 0) return false;
  const tail = sequence.length >> kv.blockShift;
  // It has no block yet when what it holds is about to be read from the host tier.
  return tail < sequence.blockCount && isShared(kv, load<u32>(table + ((<usize>tail) << 2)));
}

/** Whether a block that lossy lanes may write next is readable by others. */
function lanesAreShared(kv: KvCache, sequence: Sequence, table: usize): bool {
  const held = blocksFor(kv, sequence.slots);
  for (let i = sequence.writeFrom >> kv.blockShift; i < held; i++)
    if (isShared(kv, load<u32>(table + ((<usize>i) << 2)))) return true;
  return false;
}

/** Slots that the longest lane has once `count` tokens more have theirs. */
// @ts-ignore: decorator
@inline
export function slotsAfter(sequence: Sequence, count: u32): u32 {
  return slotsOf(sequence) + count - (count > 0 ? sequence.reuse : 0);
}

/**
 * Gives the sequence a block of its own in place of a shared, partly filled tail. The source keeps this
 * sequence's reference until the copy is settled, so that it is still there when the executor reads it.
 */
function copyTail(kv: KvCache, handle: u32, sequence: Sequence, table: usize): void {
  const entry = table + ((<usize>(sequence.length >> kv.blockShift)) << 2);
  const source = load<u32>(entry);
  const target = grabBlock(kv, sequence.tenant);
  const filled = sequence.length & (kv.blockSize - 1);
  memory.copy(tokensOf(kv, target), tokensOf(kv, source), (<usize>filled) << 2);
  store<u32>(entry, target);
  recordCopy(kv, handle, source, target, filled, 0);
}

/** Fills the table up to `needed` blocks, for which `roomFor` has made room among the free ones. */
function takeFreed(kv: KvCache, sequence: Sequence, table: usize, needed: u32): void {
  const tenant = sequence.tenant;
  for (let i: u32 = sequence.blockCount; i < needed; i++) {
    const id = takeFree(kv);
    setPayer(kv, id, tenant);
    store<u32>(table + ((<usize>i) << 2), id);
  }
  charge(kv, needed - min(needed, sequence.blockCount), tenant);
}

/**
 * Makes room for `count` tokens behind the sequence's length, all or nothing, and un-shares its tail.
 * Returns the number of blocks added to the table.
 */
export function reserve(kv: KvCache, handle: u32, count: u32): i32 {
  return reserveBeside(kv, handle, count, count);
}

/** As `reserve`, with room in the cache's groups for `beside` tokens only. */
export function reserveBeside(kv: KvCache, handle: u32, count: u32, beside: u32): i32 {
  if (!isOpen(kv, handle)) return UNKNOWN_SEQUENCE;
  const sequence = sequenceOf(kv, handle);
  if (<u64>sequence.length + <u64>count > <u64>kv.maxSequenceTokens) return TOO_LONG;
  if (kv.stagedSequence == handle) return COMPACTION_PENDING;
  const table = tableOf(kv, handle & SLOT_MASK);
  const lossy = (sequence.flags & LOSSY) != 0;
  if (lossy && count > 0 && lanesAreShared(kv, sequence, table)) return LANES_SHARED;
  const needed = blocksFor(kv, slotsAfter(sequence, count));
  const added = needed > sequence.blockCount ? needed - sequence.blockCount : 0;
  const shared = !lossy && count > 0 && tailIsShared(kv, sequence, table);
  let copies = u32(shared);
  let most = kv.maxSequences;
  let addedBeside: u32 = 0;
  if (kv.groups != 0) {
    const slot = handle & SLOT_MASK;
    if (beside > 0) copies += groupsShared(kv, slot, sequence.length);
    addedBeside = groupsAdded(kv, slot, sequence.length, beside);
    most = groupsOf(kv).copyCapacity;
  }
  if (kv.copyCount + copies > most) return OUT_OF_SEQUENCES;
  const status = roomFor(kv, sequence.tenant, added + addedBeside + copies);
  if (status != OK) {
    if (kv.pins != 0) trim(kv);
    return status;
  }
  if (kv.groups != 0) groupsReserve(kv, handle, sequence.length, beside);
  if (shared) copyTail(kv, handle, sequence, table);
  if (kv.runs != 0) takeRuns(kv, handle & SLOT_MASK, sequence, table, needed);
  else if (kv.accounts != 0) takeFreed(kv, sequence, table, needed);
  else
    for (let i: u32 = sequence.blockCount; i < needed; i++)
      store<u32>(table + ((<usize>i) << 2), takeBlock(kv));
  sequence.blockCount += added;
  if (kv.pins != 0) trim(kv); // what gave way may be more than is to be retained
  return <i32>added;
}

/**
 * Enters the blocks that are full by now into the prefix index, swapping a duplicate for the block that was
 * first.
 */
function publishFull(kv: KvCache, sequence: Sequence, table: usize): void {
  const full = sequence.length >> kv.blockShift;
  for (let i = sequence.published; i < full; i++) {
    const entry = table + ((<usize>i) << 2);
    const id = load<u32>(entry);
    const parent = i == 0 ? sequence.namespace | ROOT : load<u32>(entry - 4);
    const word = sequence.marks == 0 ? 0 : listBefore(kv, sequence.marks, (i + 1) << kv.blockShift);
    const canonical = publish(kv, id, parent, word);
    if (canonical != id) {
      holdFor(kv, canonical, sequence.tenant);
      if (kv.order != 0) orderUse(orderOf(kv), canonical);
      store<u32>(entry, canonical);
      letGo(kv, id);
    } else if (kv.events != 0) eventStored(kv, id, sequence.namespace);
  }
  sequence.published = full;
}

/**
 * Records `count` tokens whose K and V have been written to the reserved slots; pending copies must be
 * settled first. In the cache's groups, only those that a sequence of `whole` tokens still needs have been.
 */
export function append(kv: KvCache, handle: u32, tokensPtr: usize, count: u32, whole: u32 = 0): Status {
  if (!isOpen(kv, handle)) return UNKNOWN_SEQUENCE;
  const sequence = sequenceOf(kv, handle);
  const table = tableOf(kv, handle & SLOT_MASK);
  const length = sequence.length;
  if (kv.stagedSequence == handle) return COMPACTION_PENDING;
  if (<u64>slotsAfter(sequence, count) > (<u64>sequence.blockCount) << kv.blockShift) return NOT_RESERVED;
  if ((sequence.flags & LOSSY) != 0) {
    // Which token lies in which slot is for its lanes to know.
    if (<u64>length + <u64>count > <u64>kv.maxSequenceTokens) return TOO_LONG;
    if (count > 0 && lanesAreShared(kv, sequence, table)) return LANES_SHARED;
    sequence.slots = slotsAfter(sequence, count);
    if (count > 0) sequence.reuse = 0;
    sequence.length = length + count;
    return OK;
  }
  if (count > 0 && tailIsShared(kv, sequence, table)) return NOT_RESERVED;
  const mask = kv.blockSize - 1;
  if (kv.copyCount != 0 && (length & mask) != 0) {
    if (copyPending(kv, load<u32>(table + ((<usize>(length >> kv.blockShift)) << 2)))) return COPIES_PENDING;
  }
  if (kv.groups != 0 && count > 0) {
    const ready = groupsReady(kv, handle & SLOT_MASK, length, count);
    if (ready != OK) return ready;
  }
  let from = tokensPtr;
  let at = length;
  const end = length + count;
  while (at < end) {
    const run = min(end - at, kv.blockSize - (at & mask));
    const id = load<u32>(table + ((<usize>(at >> kv.blockShift)) << 2));
    const to = tokensOf(kv, id) + ((<usize>(at & mask)) << 2);
    if (run == 1) store<u32>(to, load<u32>(from));
    else memory.copy(to, from, (<usize>run) << 2);
    from += (<usize>run) << 2;
    at += run;
  }
  sequence.length = end;
  if (kv.prefixCache != 0 && (sequence.flags & PRIVATE) == 0 && end >> kv.blockShift > sequence.published) {
    publishFull(kv, sequence, table);
  }
  if (kv.groups != 0) groupsAdvance(kv, sequence, handle & SLOT_MASK, length, whole);
  return OK;
}

// @ts-ignore: decorator
@inline
function slotOf(kv: KvCache, sequence: Sequence): u32 {
  return <u32>((changetype<usize>(sequence) - <usize>kv.sequences) / offsetof<Sequence>());
}

/** Releases the blocks from `keep` on, the last one first. */
export function releaseFrom(kv: KvCache, sequence: Sequence, table: usize, keep: u32): void {
  for (let i = sequence.blockCount; i > keep; i--) {
    if (kv.groups != 0) groupsRelease(kv, slotOf(kv, sequence), i - 1, keep << kv.blockShift);
    const id = load<u32>(table + ((<usize>(i - 1)) << 2));
    if (kv.copyCount == 0) release(kv, id);
    else releaseWithCopies(kv, id);
  }
  sequence.blockCount = keep;
  if (kv.runs != 0) dropTail(kv, slotOf(kv, sequence));
  trim(kv);
}

/**
 * Forgets the tokens from `length` on (rejected drafts) and gives back every block that is no longer needed. With groups
 * it may have to forget more, down to where each still has what the next token needs.
 */
export function truncate(kv: KvCache, handle: u32, length: u32): Status {
  if (!isOpen(kv, handle)) return UNKNOWN_SEQUENCE;
  const sequence = sequenceOf(kv, handle);
  if (length > sequence.length) return INVALID_ARGUMENT;
  if ((sequence.flags & LOSSY) != 0) return LOSSY_SEQUENCE;
  if (kv.groups != 0) length = groupsTruncate(kv, sequence, handle & SLOT_MASK, length);
  const keep = blocksFor(kv, length);
  if (keep < sequence.blockCount) releaseFrom(kv, sequence, tableOf(kv, handle & SLOT_MASK), keep);
  sequence.length = length;
  sequence.published = min(sequence.published, length >> kv.blockShift);
  return OK;
}

/** Gives back reserved blocks from table entry `keep` on; `keep` must still cover the sequence's slots. */
export function unreserve(kv: KvCache, handle: u32, keep: u32): void {
  const sequence = sequenceOf(kv, handle);
  if (keep < sequence.blockCount) releaseFrom(kv, sequence, tableOf(kv, handle & SLOT_MASK), keep);
  if (kv.groups != 0) groupsRelease(kv, handle & SLOT_MASK, 0, sequence.length);
}

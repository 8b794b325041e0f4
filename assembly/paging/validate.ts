/**
 * Full structural check of a KvCache, O(blocks + tables). It borrows the reference and child counters as
 * scratch and puts them back, so it needs no memory of its own.
 */
import { CORRUPT, OK, Status } from "../memory/status";
import {
  block,
  blocksFor,
  copyAt,
  isCached,
  isFirst,
  KvCache,
  NONE,
  orderOf,
  ROOT,
  Sequence,
  sequenceAt,
  slotsOf,
  stagedBlock,
  stagedSource,
  tableOf,
  tokensOf,
} from "./layout";
import { accountsValid } from "./accounts";
import { childrenValid } from "./children";
import { marksValid, wordOf } from "./marks";
import { pinsValid, shiftPins, uncounted } from "./pins";
import { eventsValid } from "./events";
import { groupsShiftCounts, groupsValid } from "./group-tables";
import { groupsOf } from "./groups";
import { isCandidate, orderValid } from "../orders/validate";
import { bucketPtr, keyBehind, withKey } from "./prefix";
import { runsValid } from "./runs";
import { announced, probeIndexValidate } from "./probe-index";

/** OK, or CORRUPT when an invariant of the pool, the index or a table is broken. */
export function kvValidate(kv: KvCache): Status {
  if (!validLists(kv) || !validIndex(kv) || !validProbeIndex(kv) || !validSequences(kv)) return CORRUPT;
  if (kv.children != 0 && !childrenValid(kv)) return CORRUPT;
  if (kv.events != 0 && !eventsValid(kv)) return CORRUPT;
  if (kv.groups != 0 && !groupsValid(kv)) return CORRUPT;
  if (kv.accounts != 0 && !accountsValid(kv)) return CORRUPT;
  if (kv.marks != 0 && !marksValid(kv)) return CORRUPT;
  if (kv.pins != 0 && !pinsValid(kv)) return CORRUPT;
  if (kv.runs != 0 && !runsValid(kv)) return CORRUPT;
  const counted = countsAgree(kv);
  return counted ? OK : CORRUPT;
}

function validList(kv: KvCache, head: u32, tail: u32, count: u32, cached: bool): bool {
  let previous = NONE;
  let seen: u32 = 0;
  for (let id = head; id != NONE; id = block(kv, id).next) {
    if (id >= kv.blockCount || seen == count) return false;
    const record = block(kv, id);
    if (record.prev != previous || record.refs != 0 || isCached(record) != cached) return false;
    previous = id;
    seen += 1;
  }
  return seen == count && previous == tail;
}

function validLists(kv: KvCache): bool {
  if (!validList(kv, kv.freeHead, kv.freeTail, kv.freeCount, false)) return false;
  if (kv.order != 0) {
    if (kv.evictableHead != NONE || !validOrder(kv)) return false;
  } else if (!validList(kv, kv.evictableHead, kv.evictableTail, kv.evictableCount, true)) return false;
  if (kv.evictableCount > kv.retained) return false;
  if (kv.evictableHead != NONE && block(kv, kv.evictableHead).children != 0) return false;
  let held: u32 = 0;
  for (let id: u32 = 0; id < kv.blockCount; id++) held += u32(block(kv, id).refs != 0);
  return held + kv.freeCount + kv.evictableCount == kv.blockCount;
}

/** The order is sound, and its candidates are the unheld cached blocks without children. */
function validOrder(kv: KvCache): bool {
  const order = orderOf(kv);
  if (!orderValid(order) || order.capacity != kv.blockCount || order.entered != kv.cachedCount) return false;
  let evictable: u32 = 0;
  for (let id: u32 = 0; id < kv.blockCount; id++) {
    const record = block(kv, id);
    const unheld = isCached(record) && record.refs == 0;
    if (isCandidate(order, id) != (unheld && record.children == 0)) return false;
    evictable += u32(unheld);
  }
  return evictable == kv.evictableCount;
}

/**
 * Every cached block is in the chain of its key, behind a cached parent, and its key is that of its content.
 */
function validIndex(kv: KvCache): bool {
  let indexed: u32 = 0;
  for (let bucket: u32 = 0; bucket <= kv.bucketMask; bucket++) {
    let id = load<u32>(<usize>kv.buckets + ((<usize>bucket) << 2));
    while (id != NONE) {
      if (id >= kv.blockCount || indexed == kv.cachedCount) return false;
      const record = block(kv, id);
      if (!isCached(record) || ((<u32>record.key) & kv.bucketMask) != bucket) return false;
      if (!isFirst(record.parent) && !isCached(block(kv, record.parent))) return false;
      if (record.key != keyBehind(kv, record.parent, tokensOf(kv, id), wordOf(kv, id))) return false;
      indexed += 1;
      id = record.chain;
    }
  }
  return indexed + (kv.groups == 0 ? 0 : groupsOf(kv).twinCount) == kv.cachedCount;
}

/** The shared probe index, if any, holds the first block of each key in its hash chain and nothing else. */
function validProbeIndex(kv: KvCache): bool {
  if (kv.probeIndex == 0) return true;
  let keys: u32 = 0;
  for (let id: u32 = 0; id < kv.blockCount; id++) {
    const record = block(kv, id);
    if (!isCached(record) || withKey(kv, load<u32>(bucketPtr(kv, record.key)), record.key) != id) continue;
    if (!announced(kv, id, record.key)) return false;
    keys += 1;
  }
  return probeIndexValidate(kv, keys) == OK;
}

function validSequences(kv: KvCache): bool {
  let opened: u32 = 0;
  for (let slot: u32 = 0; slot < kv.maxSequences; slot++) {
    const sequence = sequenceAt(kv, slot);
    if (sequence.open == 0) continue;
    opened += 1;
    if (!validSequence(kv, sequence, tableOf(kv, slot))) return false;
  }
  return opened == kv.openSequences;
}

function validSequence(kv: KvCache, sequence: Sequence, table: usize): bool {
  if (sequence.length > kv.maxSequenceTokens || sequence.blockCount > kv.tableStride) return false;
  const held = blocksFor(kv, slotsOf(sequence));
  if (sequence.blockCount < held || slotsOf(sequence) > sequence.length) return false;
  if (sequence.published > slotsOf(sequence) >> kv.blockShift) return false;
  for (let i: u32 = 0; i < sequence.blockCount; i++) {
    const id = load<u32>(table + ((<usize>i) << 2));
    if (id >= kv.blockCount) return false;
    const record = block(kv, id);
    if (i < sequence.published) {
      const parent = i == 0 ? sequence.namespace | ROOT : load<u32>(table + ((<usize>(i - 1)) << 2));
      if (record.parent != parent) return false;
    } else if (i >= held && (record.refs != 1 || isCached(record))) {
      return false; // a reserved block somebody else can read
    }
  }
  return true;
}

/**
 * Adds `delta` to the reference count of every block held, and to the child count of every cached block's
 * parent.
 */
function shiftCounts(kv: KvCache, delta: i32): void {
  for (let slot: u32 = 0; slot < kv.maxSequences; slot++) {
    const sequence = sequenceAt(kv, slot);
    if (sequence.open == 0) continue;
    const table = tableOf(kv, slot);
    for (let i: u32 = 0; i < sequence.blockCount; i++) {
      const record = block(kv, load<u32>(table + ((<usize>i) << 2)));
      record.refs = <u32>(<i32>record.refs + delta);
    }
    if (kv.groups != 0) groupsShiftCounts(kv, slot, delta);
  }
  if (kv.pins != 0) shiftPins(kv, delta);
  for (let i: u32 = 0; i < kv.copyCount; i++) {
    const record = block(kv, copyAt(kv, i).source);
    record.refs = <u32>(<i32>record.refs + delta);
  }
  if (kv.stagedSequence != 0) {
    for (let i: u32 = 0; i < kv.stagedCount; i++) {
      if (stagedSource(kv, i) != NONE) continue;
      const record = block(kv, stagedBlock(kv, i));
      record.refs = <u32>(<i32>record.refs + delta);
    }
  }
  for (let id: u32 = 0; id < kv.blockCount; id++) {
    const record = block(kv, id);
    if (!isCached(record) || isFirst(record.parent)) continue;
    const parent = block(kv, record.parent);
    parent.children = <u32>(<i32>parent.children + delta);
  }
}

function countsAgree(kv: KvCache): bool {
  shiftCounts(kv, -1);
  let exact = true;
  for (let id: u32 = 0; id < kv.blockCount; id++) {
    const record = block(kv, id);
    if (record.refs != 0 || (isCached(record) && record.children != 0) || !uncounted(kv, id)) exact = false;
  }
  shiftCounts(kv, 1);
  return exact;
}

/**
 * Sequences and their block tables: open, fork, close.
 *
 *   tokens     |<---- length ---->|<-- reserved -->|
 *   table      | b0 | b1 | b2 | b3 ...             |     blockCount entries
 *              |<- published ->|                         leading blocks in the prefix index
 *
 * Invariants (growth.ts and this file keep them):
 * 1. published <= length / blockSize <= blockCount; published blocks are cached and chained one behind the other.
 *    A lossy sequence has slots in place of length.
 * 2. The block that the next token goes to is held by this sequence alone and is not cached, once `reserve` has run:
 *    writes never reach content that somebody else can read.
 * 3. A refused call changes nothing.
 */
import {
  COMPACTION_PENDING,
  INVALID_ARGUMENT,
  OK,
  OUT_OF_SEQUENCES,
  Status,
  TOO_LONG,
  UNKNOWN_SEQUENCE,
} from "../memory/status";
import {
  blocksFor,
  isOpen,
  KvCache,
  LOSSY,
  MAX_GENERATION,
  MAX_NAMESPACE,
  NONE,
  orderOf,
  PRIVATE,
  sequenceAt,
  sequenceOf,
  SLOT_BITS,
  SLOT_MASK,
  slotsOf,
  stagedBlock,
  stagedSource,
  tableOf,
} from "./layout";
import { accountsOf } from "./accounts";
import { childrenFind, childrenOf } from "./children";
import { fitting } from "./group-match";
import { groupsFork, groupsRegain, groupsReset, groupsUse } from "./group-tables";
import { groupsOf } from "./groups";
import { dropList, holdList, isList } from "./marks";
import { orderUse } from "../orders/order";
import { hold, letGo } from "./pool";
import { matchPrefix } from "./prefix";
import { holdFor, releaseFrom } from "./growth";

export function sequencesCreate(kv: KvCache): void {
  for (let slot: u32 = 0; slot < kv.maxSequences; slot++) {
    const sequence = sequenceAt(kv, slot);
    sequence.open = 0;
    sequence.generation = 0;
    sequence.nextFree = slot + 1 == kv.maxSequences ? NONE : slot + 1;
  }
  kv.freeSequence = 0;
  kv.openSequences = 0;
  kv.copyCount = 0;
}

function takeSequence(kv: KvCache, namespace: u32, flags: u32, tenant: u32): u32 {
  const slot = kv.freeSequence;
  const sequence = sequenceAt(kv, slot);
  kv.freeSequence = sequence.nextFree;
  kv.openSequences += 1;
  sequence.generation = sequence.generation == MAX_GENERATION ? 1 : sequence.generation + 1;
  sequence.open = 1;
  sequence.length = 0;
  sequence.blockCount = 0;
  sequence.published = 0;
  sequence.namespace = namespace;
  sequence.flags = flags;
  sequence.slots = 0;
  sequence.reuse = 0;
  sequence.writeFrom = 0;
  if (kv.groups != 0) groupsReset(kv, slot);
  sequence.tenant = tenant;
  sequence.marks = 0;
  return (sequence.generation << SLOT_BITS) | slot;
}

/** Whether blocks can be charged to a tenant of this number; without accounts any number will do. */
// @ts-ignore: decorator
@inline
export function isTenant(kv: KvCache, tenant: u32): bool {
  return kv.accounts == 0 || tenant < accountsOf(kv).tenants;
}

/**
 * Opens a sequence on the longest cached prefix of `count` tokens and references its blocks. The last token
 * is never taken from the cache: somebody has to compute it to get logits. With lists of children the prefix may end
 * inside a cached block, which `reserve` then replaces by a copy as any shared last block. Returns a handle.
 */
export function open(
  kv: KvCache,
  namespace: u32,
  tokensPtr: usize,
  count: u32,
  flags: u32,
  tenant: u32,
  marks: u32 = 0,
): i32 {
  if (namespace > MAX_NAMESPACE || !isTenant(kv, tenant) || !isList(kv, marks)) return INVALID_ARGUMENT;
  if (kv.groups != 0 && (flags & LOSSY) != 0) return INVALID_ARGUMENT;
  if (count > kv.maxSequenceTokens) return TOO_LONG;
  if (kv.freeSequence == NONE) return OUT_OF_SEQUENCES;
  const handle = takeSequence(kv, namespace, flags, tenant);
  const sequence = sequenceOf(kv, handle);
  sequence.marks = marks;
  holdList(kv, marks);
  if (kv.prefixCache == 0 || (flags & PRIVATE) != 0 || count < 2) return handle;

  const table = tableOf(kv, handle & SLOT_MASK);
  let matched = matchPrefix(kv, namespace, tokensPtr, (count - 1) >> kv.blockShift, table, marks);
  if (kv.groups != 0) {
    const length = (matched << kv.blockShift) & ~(groupsOf(kv).unit - 1);
    matched = fitting(kv, table, length, NONE) >> kv.blockShift;
  }
  for (let i: u32 = 0; i < matched; i++) holdFor(kv, load<u32>(table + ((<usize>i) << 2)), tenant);
  sequence.length = matched << kv.blockShift;
  sequence.blockCount = matched;
  sequence.published = matched;
  if (kv.groups != 0) groupsRegain(kv, handle & SLOT_MASK, table, sequence.length);
  if (kv.children != 0 && (flags & LOSSY) == 0) {
    const part = partBehind(kv, tokensPtr, count, sequence.length, marks);
    if (part != 0) {
      store<u32>(table + ((<usize>matched) << 2), childrenOf(kv).found);
      holdFor(kv, childrenOf(kv).found, tenant);
      sequence.length += part;
      sequence.blockCount += 1;
    }
  }
  sequence.slots = sequence.length;
  sequence.writeFrom = sequence.length;
  return handle;
}

/** Tokens that a prompt shares with a cached block behind the prefix of `length` tokens that has just been matched. */
export function partBehind(kv: KvCache, tokensPtr: usize, count: u32, length: u32, marks: u32): u32 {
  const at = tokensPtr + ((<usize>length) << 2);
  return childrenFind(kv, kv.matchedParent, at, min(count - 1 - length, kv.blockSize), length, marks);
}

/** Counts a look-up that led to something: `count` prompt tokens asked for, the sequence's length found. */
export function countLookup(kv: KvCache, handle: u32, count: u32): void {
  const sequence = sequenceOf(kv, handle);
  kv.queriedTokens += count;
  kv.hitTokens += sequence.length;
  if (kv.children != 0) childrenOf(kv).copiedTokens += sequence.length & (kv.blockSize - 1);
  if (kv.order == 0) return;
  if (kv.groups != 0) groupsUse(kv, handle & SLOT_MASK);
  const table = tableOf(kv, handle & SLOT_MASK);
  for (let i: u32 = 0; i < sequence.published; i++)
    orderUse(orderOf(kv), load<u32>(table + ((<usize>i) << 2)));
}

/** The sequence goes before anything was computed for it: its lookup of `count` tokens counts for nothing. */
export function uncountLookup(kv: KvCache, handle: u32, count: u32): void {
  kv.queriedTokens -= count;
  kv.hitTokens -= sequenceOf(kv, handle).length;
  if (kv.children != 0) childrenOf(kv).copiedTokens -= sequenceOf(kv, handle).length & (kv.blockSize - 1);
}

/**
 * A second sequence over the same tokens; the partly filled last block is copied when either one writes to
 * it.
 */
export function fork(kv: KvCache, handle: u32): i32 {
  if (!isOpen(kv, handle)) return UNKNOWN_SEQUENCE;
  if (kv.freeSequence == NONE) return OUT_OF_SEQUENCES;
  if (kv.stagedSequence == handle) return COMPACTION_PENDING;
  const parent = sequenceOf(kv, handle);
  const twin = takeSequence(kv, parent.namespace, parent.flags, parent.tenant);
  const sequence = sequenceOf(kv, twin);
  const from = tableOf(kv, handle & SLOT_MASK);
  const to = tableOf(kv, twin & SLOT_MASK);
  const held = blocksFor(kv, slotsOf(parent));
  for (let i: u32 = 0; i < held; i++) {
    const id = load<u32>(from + ((<usize>i) << 2));
    store<u32>(to + ((<usize>i) << 2), id);
    hold(kv, id);
  }
  sequence.marks = parent.marks;
  holdList(kv, parent.marks);
  sequence.length = parent.length;
  sequence.blockCount = held;
  sequence.published = parent.published;
  sequence.slots = parent.slots;
  sequence.reuse = parent.reuse;
  sequence.writeFrom = parent.writeFrom;
  if (kv.groups != 0) groupsFork(kv, handle & SLOT_MASK, twin & SLOT_MASK, parent.length);
  return <i32>twin;
}

/** Forgets the planned compaction: its fresh blocks are free again. */
export function unstage(kv: KvCache): void {
  for (let i = kv.stagedCount; i > 0; i--)
    if (stagedSource(kv, i - 1) == NONE) letGo(kv, stagedBlock(kv, i - 1));
  kv.stagedSequence = 0;
}

/**
 * Ends a sequence: its blocks lose one holder each, tail first; the handle is dead from here on. What is planned for
 * its lanes is forgotten.
 */
export function close(kv: KvCache, handle: u32): Status {
  if (!isOpen(kv, handle)) return UNKNOWN_SEQUENCE;
  const slot = handle & SLOT_MASK;
  const sequence = sequenceAt(kv, slot);
  if (kv.stagedSequence == handle) unstage(kv);
  releaseFrom(kv, sequence, tableOf(kv, slot), 0);
  if (sequence.marks != 0) dropList(kv, sequence.marks);
  sequence.open = 0;
  sequence.length = 0;
  sequence.published = 0;
  sequence.nextFree = kv.freeSequence;
  kv.freeSequence = slot;
  kv.openSequences -= 1;
  return OK;
}

/**
 * KV events: what has entered and left a cache since somebody last asked, for routers that keep a picture of it.
 *
 *   header (Events, 1 line)
 *   ring   [capacity] Entry, 40 B
 *   states [blocks] u32
 *
 * What happens to a block is noted in a few stores; keys are computed when the ring is read. A block that enters and
 * leaves between two reads leaves no trace. Tokens and key of a stored block are read from the cache: an entry whose
 * block has left is void. A removal carries its key, which was told before.
 *
 * A twin in a group (groups.ts) is told under the key of its block, with the number of its group behind the cache's own, and
 * as the block before it the one that ends where the group's block before it ends.
 *
 * When the ring is full everything in it is given up: the next read begins with a gap, and who keeps a picture asks for
 * a snapshot. Until then whatever is cached counts as told, because the snapshot will tell it.
 *
 * Invariants:
 * 1. The state of a block that is not cached is 0; of a cached one it is TOLD, or PENDING + the slot of its entry, or
 *    VISITED + its namespace: the last snapshot has told of it.
 * 2. Whoever has applied all batches since a snapshot (or since the beginning) without a gap knows exactly the cached
 *    blocks that were there at the last read.
 */
import { alignToLine } from "../memory/arena";
import { copyDigest } from "../memory/blake3";
import { contentKey } from "./content-keys";
import { block, BlockId, isCached, isFirst, KvCache, NONE, ROOT, tokensOf } from "./layout";
import { groupAt, memberOf } from "./groups";
import { wordOf } from "./marks";

// @ts-ignore: decorator
@inline export const MAX_RING: u32 = 1 << 26;
/** Bytes of a record that a read writes. */
// @ts-ignore: decorator
@inline export const EVENT_BYTES: usize = 96;

/** The numbers are the host's; of a twin with 1 + its group from bit MEMBER_SHIFT on. */
const enum Kind {
  Void = 0,
  Stored = 1,
  Removed = 2,
  Cleared = 3,
  Gap = 4,
}

// @ts-ignore: decorator
@inline const MEMBER_SHIFT: u32 = 8;
// @ts-ignore: decorator
@inline const KIND_MASK: u32 = (1 << MEMBER_SHIFT) - 1;
// @ts-ignore: decorator
@inline const TOLD: u32 = 1;
// @ts-ignore: decorator
@inline const PENDING: u32 = 2;
// @ts-ignore: decorator
@inline const VISITED: u32 = ROOT;


@unmanaged
export class Events {
  states: u32;
  ring: u32;
  capacity: u32;
  head: u32;
  count: u32;
  /** 1: the ring was full since the last read. */
  lost: u32;
  tier: u32;
  group: u32;
  /** Block at which a snapshot goes on. */
  cursor: u32;
  unused: u32;
  /** Batches read. */
  batches: u64;
  /** Times that the ring was full. */
  gaps: u64;
}


@unmanaged
class Entry {
  kind: u32;
  block: u32;
  /** Of what was stored its namespace. */
  key: u64;
  key1: u64;
  key2: u64;
  key3: u64;
}

/** What a read writes of an event. */
@unmanaged
class Event {
  kind: u32;
  /** The block, of a twin the one it is the twin of. */
  block: u32;
  /** The block before it in its prefix and group, or ROOT | namespace. */
  parent: u32;
  namespace: u32;
  /** Address of the block's tokens. */
  tokens: u32;
  tier: u32;
  group: u32;
  /** The list of marks before the block's end, 0: none. */
  marks: u32;
  key: u64;
  key1: u64;
  key2: u64;
  key3: u64;
  parentKey: u64;
  parentKey1: u64;
  parentKey2: u64;
  parentKey3: u64;
}

// @ts-ignore: decorator
@inline
export function eventsOf(kv: KvCache): Events {
  return changetype<Events>(<usize>kv.events);
}

// @ts-ignore: decorator
@inline
function stateOf(events: Events, id: BlockId): u32 {
  return load<u32>(<usize>events.states + ((<usize>id) << 2));
}

// @ts-ignore: decorator
@inline
function setState(events: Events, id: BlockId, state: u32): void {
  store<u32>(<usize>events.states + ((<usize>id) << 2), state);
}

// @ts-ignore: decorator
@inline
function entryAt(events: Events, slot: u32): Entry {
  return changetype<Entry>(<usize>events.ring + <usize>slot * offsetof<Entry>());
}

export function eventsBytes(blocks: u32, capacity: u32): u64 {
  return <u64>alignToLine(offsetof<Events>()) + <u64>capacity * offsetof<Entry>() + <u64>blocks * 4;
}

/** Gives a new cache with content keys its events, at `at`, a zeroed region of `eventsBytes` bytes. */
export function eventsCreate(kv: KvCache, at: usize, capacity: u32, tier: u32, group: u32): void {
  const events = changetype<Events>(at);
  events.ring = <u32>(at + alignToLine(offsetof<Events>()));
  events.states = events.ring + capacity * <u32>offsetof<Entry>();
  events.capacity = capacity;
  events.tier = tier;
  events.group = group;
  kv.events = <u32>at;
}

/** Every cached block counts as told, and as not visited. */
function allTold(kv: KvCache, events: Events): void {
  for (let id: u32 = 0; id < kv.blockCount; id++) if (stateOf(events, id) != 0) setState(events, id, TOLD);
}

/** Gives up what is in the ring: the next read begins with a gap. */
export function eventsLose(kv: KvCache): void {
  const events = eventsOf(kv);
  allTold(kv, events);
  events.count = 0;
  events.lost = 1;
  events.gaps += 1;
}

/** 1 + group of a twin, else 0. */
// @ts-ignore: decorator
@inline
function memberAt(kv: KvCache, id: BlockId): u32 {
  return kv.groups == 0 ? 0 : memberOf(kv, id);
}

/** The cached block that has a block's key: itself, or the one it is the twin of. */
function named(kv: KvCache, id: BlockId): BlockId {
  return memberAt(kv, id) == 0 ? id : block(kv, id).parent;
}

/** Slot of a new entry, or NONE when what it would say is lost. */
function push(kv: KvCache, events: Events, kind: u32, id: BlockId): u32 {
  if (events.lost != 0) return NONE;
  if (events.count == events.capacity) {
    eventsLose(kv);
    return NONE;
  }
  let slot = events.head + events.count;
  if (slot >= events.capacity) slot -= events.capacity;
  events.count += 1;
  const entry = entryAt(events, slot);
  entry.kind = id == NONE ? kind : kind | (memberAt(kv, id) << MEMBER_SHIFT);
  entry.block = id;
  return slot;
}

/** A block of a prompt of this namespace has entered the cache. */
export function eventStored(kv: KvCache, id: BlockId, namespace: u32): void {
  const events = eventsOf(kv);
  const slot = push(kv, events, Kind.Stored, id);
  setState(events, id, slot == NONE ? TOLD : PENDING + slot);
  if (slot != NONE) entryAt(events, slot).key = namespace;
}

/** A block is about to leave the cache. */
export function eventRemoved(kv: KvCache, id: BlockId): void {
  const events = eventsOf(kv);
  const state = stateOf(events, id);
  setState(events, id, 0);
  if (<i32>state >= <i32>PENDING) {
    entryAt(events, state - PENDING).kind = Kind.Void;
    return;
  }
  const slot = push(kv, events, Kind.Removed, id);
  if (slot != NONE)
    copyDigest(
      changetype<usize>(entryAt(events, slot)) + offsetof<Entry>("key"),
      contentKey(kv, named(kv, id)),
    );
}

/** Nothing is cached any more: one event says so, whatever else happened before. */
export function eventsCleared(kv: KvCache): void {
  const events = eventsOf(kv);
  events.count = 0;
  events.lost = 0;
  push(kv, events, Kind.Cleared, NONE);
}

function write(kv: KvCache, events: Events, out: usize, kind: u32, id: BlockId, namespace: u32): void {
  memory.fill(out, 0, EVENT_BYTES);
  const event = changetype<Event>(out);
  const member = kind >> MEMBER_SHIFT;
  event.kind = kind & KIND_MASK;
  event.block = id;
  event.tier = events.tier;
  event.group = events.group + member;
  if (event.kind != Kind.Stored) return;
  event.namespace = namespace;
  if (member != 0) id = event.block = block(kv, id).parent;
  let parent = id;
  const steps: u32 = member == 0 ? 1 : 1 << groupAt(kv, member - 1).ratio;
  for (let i: u32 = 0; i < steps; i++) parent = block(kv, parent).parent;
  event.parent = parent;
  event.tokens = <u32>tokensOf(kv, id);
  event.marks = wordOf(kv, id);
  copyDigest(out + offsetof<Event>("key"), contentKey(kv, id));
  if (!isFirst(parent)) copyDigest(out + offsetof<Event>("parentKey"), contentKey(kv, parent));
}

/**
 * Writes up to `limit` records, at least 1, of what happened since the last read to `out`, in order; returns how many.
 * They are a batch with `others`, the events that the host adds itself, and counted if there is any.
 */
export function eventsRead(kv: KvCache, out: usize, limit: u32, others: u32): u32 {
  const events = eventsOf(kv);
  let written: u32 = 0;
  if (events.lost != 0) {
    events.lost = 0;
    write(kv, events, out, Kind.Gap, NONE, 0);
    written = 1;
  }
  while (events.count != 0 && written < limit) {
    const entry = entryAt(events, events.head);
    events.head = events.head + 1 == events.capacity ? 0 : events.head + 1;
    events.count -= 1;
    if (entry.kind == Kind.Void) continue;
    const at = out + <usize>written * EVENT_BYTES;
    write(kv, events, at, entry.kind, entry.block, <u32>entry.key);
    if ((entry.kind & KIND_MASK) == Kind.Stored) setState(events, entry.block, TOLD);
    else copyDigest(at + offsetof<Event>("key"), changetype<usize>(entry) + offsetof<Entry>("key"));
    written += 1;
  }
  if (written + others != 0) events.batches += 1;
  return written;
}

/** Begins a snapshot; everything has been read. */
export function snapshotBegin(kv: KvCache): void {
  allTold(kv, eventsOf(kv));
  eventsOf(kv).cursor = 0;
}

/**
 * Writes the next up to `limit` cached blocks, ancestors first, as records of stored blocks to `out`; returns how many, 0
 * at the end. Nothing may have changed since the beginning.
 */
export function snapshotNext(kv: KvCache, out: usize, limit: u32): u32 {
  const events = eventsOf(kv);
  let written: u32 = 0;
  for (; events.cursor < kv.blockCount; events.cursor++) {
    // Up to the first ancestor that is written, each block's state saying who comes below; then down.
    let at = events.cursor;
    let next = NONE;
    while (!isFirst(at) && stateOf(events, at) == TOLD) {
      setState(events, at, next);
      next = at;
      at = block(kv, at).parent;
    }
    const namespace = (isFirst(at) ? at : stateOf(events, at)) & ~VISITED;
    while (next != NONE && written < limit) {
      at = next;
      next = stateOf(events, at);
      setState(events, at, VISITED | namespace);
      const kind = Kind.Stored | (memberAt(kv, at) << MEMBER_SHIFT);
      write(kv, events, out + <usize>written * EVENT_BYTES, kind, at, namespace);
      written += 1;
    }
    if (next == NONE) continue;
    // There was no room for the rest, which the next call finds again.
    for (; next != NONE; next = at) {
      at = stateOf(events, next);
      setState(events, next, TOLD);
    }
    break;
  }
  return written;
}

/** Invariant 1. */
export function eventsValid(kv: KvCache): bool {
  const events = eventsOf(kv);
  for (let id: u32 = 0; id < kv.blockCount; id++) {
    const state = stateOf(events, id);
    if (isCached(block(kv, id)) != (state != 0)) return false;
    if (<i32>state < <i32>PENDING) continue;
    const slot = state - PENDING;
    if (slot >= events.capacity) return false;
    const entry = entryAt(events, slot);
    const place = slot >= events.head ? slot - events.head : slot + events.capacity - events.head;
    if (place >= events.count || (entry.kind & KIND_MASK) != Kind.Stored || entry.block != id) return false;
  }
  return events.count <= events.capacity;
}

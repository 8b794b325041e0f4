/**
 * Marks: what the K and V of a prompt depend on besides its tokens. A mark stands at a position and has a kind: from here on
 * the tokens belong to a scope (public, a group's or a tenant's salt); the whole prompt is for an adapter; an item (an image,
 * a sound) of this content takes the next places.
 *
 *   header  (Marks)
 *   words   [blocks] u32            cached: the list of marks before the block's end
 *   group   [MATCH_GROUP] u32       scratch of a match: the words that its next blocks must have
 *   list    [MOST] u32              scratch: a list, first mark first
 *   input   [MOST] MarkInput, 32 B  the host writes a prompt's marks here, by position
 *   nodes   [1 + capacity] Mark, 40 B
 *   buckets [2^k >= capacity] u32
 *
 * A list of marks is its last mark, which names the one below it. Marks are interned: equal lists are the same number, 0
 * the empty one, so comparing two numbers compares everything in them: kind, position, length and 128 bits of content each.
 * Nothing of one kind can be mistaken for another, and nothing rests on a hash.
 *
 * Invariants (`marksValid`):
 * 1. A mark is held by marks on top of it, cached blocks, sequences, requests and the host; without any it is gone.
 * 2. Of two cached blocks behind the same parent with the same tokens and the same word there is one.
 */
import { finalize64 } from "../memory/hash";
import { INVALID_ARGUMENT, OK, OUT_OF_SCOPES } from "../memory/status";
import { block, BlockId, isCached, KvCache, MATCH_GROUP } from "./layout";

/** Marks of one prompt at most. */
// @ts-ignore: decorator
@inline const MOST: u32 = 256;
// @ts-ignore: decorator
@inline export const MAX_MARKS: u32 = 1 << 24;
/** Leading bytes of a Mark that say what it is. */
// @ts-ignore: decorator
@inline const IDENTITY: u32 = 32;
/** Bytes of a mark in a message that is hashed. */
// @ts-ignore: decorator
@inline const ENTRY: u32 = 29;

/** The numbers are the host's. */
export const enum MarkKind {
  Public = 1,
  Group = 2,
  Tenant = 3,
  Adapter = 4,
  Item = 5,
}


@unmanaged
export class Marks {
  capacity: u32;
  group: u32;
  list: u32;
  input: u32;
  nodes: u32;
  buckets: u32;
  bucketMask: u32;
  /** First node that is not in use. */
  free: u32;
  used: u32;
  /** A match: marks of its prompt in `list`, and how many of them stand before the blocks looked at so far. */
  listed: u32;
  passed: u32;
  unused: u32;
}


@unmanaged
class MarkInput {
  offset: u32;
  kind: u32;
  /** Item: its tokens. */
  length: u32;
  unused: u32;
  low: u64;
  high: u64;
}


@unmanaged
class Mark {
  low: u64;
  high: u64;
  below: u32;
  offset: u32;
  kind: u32;
  length: u32;
  refs: u32;
  /** Next in its hash chain, or next that is free. */
  chain: u32;
}

// @ts-ignore: decorator
@inline
function marksOf(kv: KvCache): Marks {
  return changetype<Marks>(<usize>kv.marks);
}

function mark(m: Marks, id: u32): Mark {
  return changetype<Mark>(<usize>m.nodes + <usize>id * offsetof<Mark>());
}

// @ts-ignore: decorator
@inline
function wordPtr(kv: KvCache, id: BlockId): usize {
  return <usize>kv.marks + offsetof<Marks>() + ((<usize>id) << 2);
}

/** The list of marks before a cached block's end. */
// @ts-ignore: decorator
@inline
export function wordOf(kv: KvCache, id: BlockId): u32 {
  return kv.marks == 0 ? 0 : load<u32>(wordPtr(kv, id));
}

function bucketsFor(capacity: u32): u32 {
  return 1 << (32 - clz(capacity));
}

export function marksBytes(blocks: u32, capacity: u32): u64 {
  return (
    <u64>offsetof<Marks>() +
    ((<u64>blocks * 4 + 63) & ~63) +
    <u64>(MATCH_GROUP + MOST) * 4 +
    <u64>MOST * offsetof<MarkInput>() +
    (<u64>capacity + 1) * offsetof<Mark>() +
    <u64>bucketsFor(capacity) * 4
  );
}

/** Gives a new cache room for `capacity` marks, in a zeroed region of `marksBytes` bytes. */
export function marksCreate(kv: KvCache, region: usize, capacity: u32): void {
  kv.marks = <u32>region;
  const m = marksOf(kv);
  m.capacity = capacity;
  m.group = <u32>region + <u32>offsetof<Marks>() + ((kv.blockCount * 4 + 63) & ~63);
  m.list = m.group + MATCH_GROUP * 4;
  m.input = m.list + MOST * 4;
  m.nodes = m.input + MOST * <u32>offsetof<MarkInput>();
  m.buckets = m.nodes + (capacity + 1) * <u32>offsetof<Mark>();
  m.bucketMask = bucketsFor(capacity) - 1;
  m.free = 1;
  for (let id: u32 = 1; id < capacity; id++) mark(m, id).chain = id + 1;
}

/** Where the host writes a prompt's marks. */
// @ts-ignore: decorator
@inline
export function marksInput(kv: KvCache): usize {
  return marksOf(kv).input;
}

// @ts-ignore: decorator
@inline
export function holdList(kv: KvCache, list: u32): void {
  if (list != 0) mark(marksOf(kv), list).refs += 1;
}

function bucketPtr(kv: KvCache, own: Mark): usize {
  const m = marksOf(kv);
  const place = ((<u64>own.below) << 32) ^ ((<u64>own.offset) << 3) ^ own.kind ^ ((<u64>own.length) << 40);
  const hash = <u32>finalize64(finalize64(own.low ^ kv.seed) + own.high + place);
  return <usize>m.buckets + ((<usize>(hash & m.bucketMask)) << 2);
}

/** One hold less; marks that nobody needs any more are gone. */
export function dropList(kv: KvCache, list: u32): void {
  const m = marksOf(kv);
  while (list != 0) {
    const own = mark(m, list);
    own.refs -= 1;
    if (own.refs != 0) return;
    let link = bucketPtr(kv, own);
    while (load<u32>(link) != list)
      link = changetype<usize>(mark(m, load<u32>(link))) + offsetof<Mark>("chain");
    store<u32>(link, own.chain);
    own.chain = m.free;
    m.free = list;
    m.used -= 1;
    list = own.below;
  }
}

// @ts-ignore: decorator
@inline
function same(a: usize, b: usize): bool {
  const content = (load<u64>(a) ^ load<u64>(b)) | (load<u64>(a, 8) ^ load<u64>(b, 8));
  return (content | (load<u64>(a, 16) ^ load<u64>(b, 16)) | (load<u64>(a, 24) ^ load<u64>(b, 24))) == 0;
}

/** The mark that lies in the place of number 0, whose hold on `below` it takes over; held once. 0: there is no room. */
function intern(kv: KvCache): u32 {
  const m = marksOf(kv);
  const wanted = mark(m, 0);
  const bucket = bucketPtr(kv, wanted);
  for (let id = load<u32>(bucket); id != 0; id = mark(m, id).chain) {
    if (!same(changetype<usize>(mark(m, id)), changetype<usize>(wanted))) continue;
    mark(m, id).refs += 1;
    dropList(kv, wanted.below);
    return id;
  }
  const id = m.free;
  if (id == 0) return 0;
  const own = mark(m, id);
  m.free = own.chain;
  m.used += 1;
  memory.copy(changetype<usize>(own), changetype<usize>(wanted), IDENTITY);
  own.refs = 1;
  own.chain = load<u32>(bucket);
  store<u32>(bucket, id);
  return id;
}

/**
 * The list of the first `count` marks of the input, held once; marks of no kind, out of order, an adapter elsewhere than at
 * 0, a length of 0 for an item or another for anything else are INVALID_ARGUMENT. OUT_OF_SCOPES when there is no room.
 */
export function listOf(kv: KvCache, count: u32): i32 {
  if (kv.marks == 0 || count > MOST) return INVALID_ARGUMENT;
  const m = marksOf(kv);
  const wanted = mark(m, 0);
  let list: u32 = 0;
  let behind: u32 = 0;
  let status: i32 = OK;
  for (let i: u32 = 0; i < count; i++) {
    const input = changetype<MarkInput>(<usize>m.input + <usize>i * offsetof<MarkInput>());
    const kind = input.kind;
    const offset = input.offset;
    if (
      kind < <u32>MarkKind.Public ||
      kind > <u32>MarkKind.Item ||
      offset < behind ||
      (kind == MarkKind.Adapter && offset != 0) ||
      (input.length != 0) != (kind == MarkKind.Item)
    ) {
      status = INVALID_ARGUMENT;
      break;
    }
    behind = offset;
    wanted.low = input.low;
    wanted.high = input.high;
    wanted.below = list;
    wanted.offset = offset;
    wanted.kind = kind;
    wanted.length = input.length;
    const id = intern(kv);
    if (id == 0) {
      status = OUT_OF_SCOPES;
      break;
    }
    list = id;
  }
  if (status == OK) return <i32>list;
  dropList(kv, list);
  return status;
}

/** Whether a number is that of a list that somebody holds. */
export function isList(kv: KvCache, list: u32): bool {
  if (list == 0) return true;
  return kv.marks != 0 && list <= marksOf(kv).capacity && mark(marksOf(kv), list).refs != 0;
}

/** The part of a list that stands before position `end`. */
export function listBefore(kv: KvCache, list: u32, end: u32): u32 {
  while (list != 0 && mark(marksOf(kv), list).offset >= end) list = mark(marksOf(kv), list).below;
  return list;
}

/** A block with this word becomes cached. */
export function markBlock(kv: KvCache, id: BlockId, word: u32): void {
  store<u32>(wordPtr(kv, id), word);
  holdList(kv, word);
}

/** A cached block is forgotten. */
export function unmarkBlock(kv: KvCache, id: BlockId): void {
  const word = load<u32>(wordPtr(kv, id));
  store<u32>(wordPtr(kv, id), 0);
  dropList(kv, word);
}

/** Begins a match of a prompt with these marks. */
export function matchMarks(kv: KvCache, list: u32): void {
  const m = marksOf(kv);
  let count: u32 = 0;
  for (let id = list; id != 0; id = mark(m, id).below) count += 1;
  m.listed = count;
  m.passed = 0;
  for (let id = list; id != 0; id = mark(m, id).below) {
    count -= 1;
    store<u32>(<usize>m.list + ((<usize>count) << 2), id);
  }
}

/** The word of the prompt's next block, which ends at `end`; it is that of the `index`-th block of its group. */
export function nextWord(kv: KvCache, index: u32, end: u32): u32 {
  const m = marksOf(kv);
  const list = <usize>m.list;
  while (m.passed < m.listed && mark(m, load<u32>(list + ((<usize>m.passed) << 2))).offset < end)
    m.passed += 1;
  const word = m.passed == 0 ? 0 : load<u32>(list + ((<usize>(m.passed - 1)) << 2));
  store<u32>(<usize>m.group + ((<usize>index) << 2), word);
  return word;
}

// @ts-ignore: decorator
@inline
export function groupWord(kv: KvCache, index: u32): u32 {
  return load<u32>(<usize>marksOf(kv).group + ((<usize>index) << 2));
}

/**
 * Tokens, of `common` equal ones from position `start` on, up to which two lists that agree before `start` have the same
 * marks.
 */
export function commonMarks(kv: KvCache, a: u32, b: u32, start: u32, common: u32): u32 {
  const m = marksOf(kv);
  let end = start + common;
  a = listBefore(kv, a, end);
  b = listBefore(kv, b, end);
  while (a != b) {
    // Whatever they share lies below the topmost mark of the two.
    end = max(a == 0 ? 0 : mark(m, a).offset, b == 0 ? 0 : mark(m, b).offset);
    a = listBefore(kv, a, end);
    b = listBefore(kv, b, end);
  }
  return end > start ? end - start : 0;
}

/**
 * Writes the marks of a list on top of another, a block's own on top of its parent's, to the input: { type u8, bytes u32, position u32, length
 * u32, content 16 B } each, first mark first, types 16 + kind. Returns their bytes.
 */
export function writeMarks(kv: KvCache, word: u32, above: u32): u32 {
  const m = marksOf(kv);
  let count: u32 = 0;
  for (let at = word; at != above; at = mark(m, at).below) count += 1;
  const bytes = count * ENTRY;
  for (let at = word; at != above; at = mark(m, at).below) {
    const own = mark(m, at);
    count -= 1;
    const to = <usize>m.input + <usize>(count * ENTRY);
    store<u8>(to, 16 + own.kind);
    store<u32>(to, ENTRY - 5, 1);
    store<u32>(to, own.offset, 5);
    store<u32>(to, own.length, 9);
    store<u64>(to, own.low, 13);
    store<u64>(to, own.high, 21);
  }
  return bytes;
}

/** Writes a list to the input, as the host does; returns how many marks it has. */
export function readList(kv: KvCache, list: u32): u32 {
  const m = marksOf(kv);
  let count: u32 = 0;
  for (let at = list; at != 0; at = mark(m, at).below) count += 1;
  let input = <usize>m.input + <usize>count * offsetof<MarkInput>();
  for (let at = list; at != 0; at = mark(m, at).below) {
    const own = mark(m, at);
    input -= offsetof<MarkInput>();
    store<u32>(input, own.offset);
    store<u32>(input, own.kind, 4);
    store<u32>(input, own.length, 8);
    store<u64>(input, own.low, 16);
    store<u64>(input, own.high, 24);
  }
  return count;
}

/** Whether words are of cached blocks and, like the marks below them, of marks that are held; used ones are not free. */
export function marksValid(kv: KvCache): bool {
  const m = marksOf(kv);
  let used: u32 = 0;
  for (let id: u32 = 1; id <= m.capacity; id++) {
    if (mark(m, id).refs == 0) continue;
    used += 1;
    const below = mark(m, id).below;
    if (!isList(kv, below) || (below != 0 && mark(m, below).offset > mark(m, id).offset)) return false;
  }
  for (let id: u32 = 0; id < kv.blockCount; id++)
    if (wordOf(kv, id) != 0 && !(isList(kv, wordOf(kv, id)) && isCached(block(kv, id)))) return false;
  return used == m.used;
}

/**
 * Dropping tokens: from what each lane keeps to a new block table and the K and V to move.
 *
 *   lanesPlan      checks the answer, plans the table          nothing has changed for anybody else
 *   lanesMoves     writes move records, a buffer full at a time
 *   lanesCommit    packs the lanes, swaps the table in, releases what nobody needs     or lanesRollback
 *
 * Survivors are packed in order: slot keep[i] becomes slot i. The target of a move is never behind its source within
 * the lane, so records run in order, in place; a run of consecutive slots within two blocks is one record. When every
 * lane drops the same whole blocks, they leave the table and nothing moves at all. A block that others can read is
 * never a target: its survivors are moved to a fresh one.
 */
import { INVALID_ARGUMENT, NOT_FOUND, OK, Status } from "../memory/status";
import { canStage, commitStaged, rollbackStaged, stage } from "../paging/compaction";
import {
  block,
  blocksFor,
  isCached,
  KvCache,
  NONE,
  sequenceOf,
  SLOT_MASK,
  slotsOf,
  stagedBlock,
  tableOf,
} from "../paging/layout";
import { unreserve } from "../paging/growth";
import { planFolded } from "./folded";
import {
  ALL,
  headOf,
  LaneArena,
  LaneHead,
  MOVE_BYTES,
  planeCount,
  planeOf,
  setWordAt,
  Slab,
  slabAt,
  slabOf,
  wordAt,
} from "./layout";
import { slabIsOpen } from "./lanes";

// @ts-ignore: decorator
@inline
function keepOf(arena: LaneArena, lane: u32): usize {
  return <usize>arena.keep + ((<usize>lane * <usize>arena.stride) << 2);
}

/** Whether one lane's answer is right: ascending slots below its length, a victim or a keep list. */
function validAnswer(arena: LaneArena, head: LaneHead, lane: u32): bool {
  const count = wordAt(arena.counts, lane);
  const victim = wordAt(arena.victims, lane);
  const successor = wordAt(arena.successors, lane);
  // A place that has been given away already stays the next token's, or the list closes it.
  if (head.hole != NONE && (victim != NONE || successor != NONE)) return false;
  if (victim != NONE) {
    if (count != ALL || victim >= head.length) return false;
    return successor == NONE || (successor < head.length && successor != victim);
  }
  if (successor != NONE) return false;
  if (count == ALL) return true;
  if (count == 0 || count > head.length) return false;
  const keep = keepOf(arena, lane);
  let least: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const slot = wordAt(keep, i);
    if (slot < least || slot >= head.length || slot == head.hole) return false;
    least = slot + 1;
  }
  return true;
}

/** First slot of a lane that gets another's K and V, or its new length. */
function firstMoved(arena: LaneArena, lane: u32, count: u32): u32 {
  const keep = keepOf(arena, lane);
  let i: u32 = 0;
  while (i < count && wordAt(keep, i) == i) i += 1;
  return i;
}

/**
 * Notes in the staged sources which blocks of the old table stay when all lanes drop the same whole blocks; returns how
 * many do, or NONE when they do not, or when nothing but a tail is dropped.
 */
function wholeBlocks(arena: LaneArena, slab: Slab, held: u32): u32 {
  const kv = arena.kv;
  const marks = <usize>kv.staged; // the plan's table is not written yet: 0 unknown, 1 stays, 2 goes
  memory.fill(marks, 0, (<usize>held) << 2);
  for (let lane: u32 = 0; lane < arena.lanes; lane++) {
    const length = headOf(slab, lane).length;
    const count = wordAt(arena.counts, lane);
    if (wordAt(arena.victims, lane) != NONE) return NONE;
    const keep = keepOf(arena, lane);
    let i: u32 = 0;
    for (let b: u32 = 0; b << kv.blockShift < length; b++) {
      const first = b << kv.blockShift;
      const end = min(length, first + kv.blockSize);
      let kept = end - first;
      if (count != ALL) {
        kept = 0;
        for (; i < count && wordAt(keep, i) < end; i++) kept += 1;
      }
      if (kept != 0 && kept != end - first) return NONE;
      const mark: u32 = kept == 0 ? 2 : 1;
      if (wordAt(marks, b) != 0 && wordAt(marks, b) != mark) return NONE;
      setWordAt(marks, b, mark);
    }
  }
  const table = tableOf(kv, slab.sequence & SLOT_MASK);
  const sources = <usize>kv.staged + ((<usize>kv.tableStride) << 2);
  let stays: u32 = 0;
  let gone = false;
  let spliced = false;
  for (let b: u32 = 0; b < held; b++) {
    if (wordAt(marks, b) == 2) gone = true;
    else if (gone) {
      // A cached block must not be held without the ones before it.
      if (isCached(block(kv, wordAt(table, b)))) return NONE;
      spliced = true;
    }
    if (wordAt(marks, b) != 2) setWordAt(sources, stays++, b);
  }
  return spliced ? stays : NONE;
}

/**
 * Plans the compaction that `counts`, `keep`, `victims` and `successors` ask for. Blocks that hold slots from
 * `privateFrom` on become the sequence's own, besides those that are written. Refused, with nothing changed:
 * INVALID_ARGUMENT for a wrong answer or lanes that have not seen what their sequence has, COMPACTION_PENDING,
 * COPIES_PENDING, UNKNOWN_SEQUENCE, OUT_OF_BLOCKS when shared blocks have to be replaced and there are none.
 */
export function lanesPlan(arena: LaneArena, handle: u32, privateFrom: u32): Status {
  if (!slabIsOpen(arena, handle)) return INVALID_ARGUMENT;
  const kv = arena.kv;
  const slab = slabOf(arena, handle);
  const status = canStage(kv, slab.sequence);
  if (status != OK) return status;
  const sequence = sequenceOf(kv, slab.sequence);
  if (sequence.length + slab.filling != slab.seen) return INVALID_ARGUMENT;
  for (let lane: u32 = 0; lane < arena.lanes; lane++)
    if (!validAnswer(arena, headOf(slab, lane), lane)) return INVALID_ARGUMENT;

  let longest: u32 = 0;
  let before: u32 = 0;
  let room: u32 = 0;
  let writeFrom = u32.MAX_VALUE;
  let moveFrom = u32.MAX_VALUE;
  for (let lane: u32 = 0; lane < arena.lanes; lane++) {
    const head = headOf(slab, lane);
    const count = wordAt(arena.counts, lane);
    const victim = wordAt(arena.victims, lane);
    const length = count == ALL ? head.length : count;
    const successor = wordAt(arena.successors, lane);
    // A new token in an old one's slot would have the position of that slot.
    if (slab.bySlot != 0 && victim != NONE) return INVALID_ARGUMENT;
    const left = successor == NONE ? victim : successor;
    const hole = head.hole == NONE ? left : count == ALL ? head.hole : NONE;
    head.planned = length;
    longest = max(longest, length);
    before = max(before, head.length);
    room = max(room, length - u32(hole != NONE));
    writeFrom = min(writeFrom, min(hole, length));
    if (successor != NONE) moveFrom = min(moveFrom, victim);
    if (count != ALL) {
      const moved = firstMoved(arena, lane, count);
      if (moved < count) moveFrom = min(moveFrom, moved);
    }
  }
  arena.planned = handle & SLOT_MASK;
  if (arena.folded != 0) {
    const staged = planFolded(arena, slab);
    if (staged != OK) arena.planned = NONE;
    arena.cursorLane = arena.lanes; // the host has the moves
    return staged;
  }
  // Lanes of another sequence: its table has no blocks for some of their slots.
  if (before > slotsOf(sequence)) {
    arena.planned = NONE;
    return INVALID_ARGUMENT;
  }
  let held: u32 = slab.bySlot != 0 ? NONE : wholeBlocks(arena, slab, blocksFor(kv, slotsOf(sequence)));
  let from = min(writeFrom, privateFrom) >> kv.blockShift;
  if (held == NONE) {
    held = blocksFor(kv, longest);
    from = min(from, moveFrom >> kv.blockShift);
    const sources = <usize>kv.staged + ((<usize>kv.tableStride) << 2);
    for (let b: u32 = 0; b < held; b++) setWordAt(sources, b, b);
  }
  const staged = stage(kv, slab.sequence, held, from);
  if (staged != OK) {
    arena.planned = NONE;
    return staged;
  }
  arena.slots = longest;
  arena.reuse = longest - room;
  arena.writeFrom = writeFrom;
  arena.moveFrom = min(moveFrom, from << kv.blockShift);
  arena.cursorLane = 0;
  arena.cursorSlot = arena.moveFrom;
  return OK;
}

function writeMove(
  arena: LaneArena,
  record: u32,
  lane: u32,
  sourceBlock: u32,
  sourceOffset: u32,
  targetBlock: u32,
  targetOffset: u32,
  slots: u32,
  how: u32,
): void {
  const at = <usize>arena.records + <usize>record * MOVE_BYTES;
  store<u32>(at, lane / arena.kvHeads);
  store<u32>(at, lane % arena.kvHeads, 4);
  store<u32>(at, sourceBlock, 8);
  store<u32>(at, sourceOffset, 12);
  store<u32>(at, targetBlock, 16);
  store<u32>(at, targetOffset, 20);
  store<u32>(at, slots, 24);
  store<u32>(at, how, 28);
  arena.moved += slots;
}

/** Slots from source `s` on that lie behind one another in the old table's block and in the new one's. */
// @ts-ignore: decorator
@inline
function runOf(keep: usize, all: bool, i: u32, count: u32, s: u32, blockSize: u32): u32 {
  const mask = blockSize - 1;
  const most = min(count - i, min(blockSize - (s & mask), blockSize - (i & mask)));
  if (all) return most;
  let run: u32 = 1;
  while (run < most && wordAt(keep, i + run) == s + run) run += 1;
  return run;
}

/** Writes the next move records of the planned compaction; 0: there are no more. NOT_FOUND without a plan. */
export function lanesMoves(arena: LaneArena): i32 {
  if (arena.planned == NONE || arena.kv.stagedSequence == 0) return NOT_FOUND;
  const kv = arena.kv;
  const slab = slabAt(arena, arena.planned);
  const table = tableOf(kv, slab.sequence & SLOT_MASK);
  const shift = kv.blockShift;
  const mask = kv.blockSize - 1;
  let written: u32 = 0;
  while (arena.cursorLane < arena.lanes) {
    const lane = arena.cursorLane;
    const head = headOf(slab, lane);
    const all = wordAt(arena.counts, lane) == ALL;
    const keep = keepOf(arena, lane);
    const count = head.planned;
    while (arena.cursorSlot < count) {
      const i = arena.cursorSlot;
      const s = all ? i : wordAt(keep, i);
      const run = runOf(keep, all, i, count, s, kv.blockSize);
      const source = wordAt(table, s >> shift);
      const target = stagedBlock(kv, i >> shift);
      if (source != target || (s & mask) != (i & mask)) {
        if (written == arena.moveCapacity) return <i32>written;
        const how = slab.bySlot != 0 ? (s - i) << 1 : 0;
        writeMove(arena, written++, lane, source, s & mask, target, i & mask, run, how);
      }
      arena.cursorSlot = i + run;
    }
    const successor = wordAt(arena.successors, lane);
    if (successor != NONE) {
      if (written == arena.moveCapacity) return <i32>written;
      const victim = wordAt(arena.victims, lane);
      writeMove(
        arena,
        written++,
        lane,
        stagedBlock(kv, successor >> shift),
        successor & mask,
        stagedBlock(kv, victim >> shift),
        victim & mask,
        1,
        0,
      );
    }
    arena.cursorLane = lane + 1;
    arena.cursorSlot = arena.moveFrom;
  }
  return <i32>written;
}

/** Packs one lane's planes and sets its new length and hole. */
function settle(arena: LaneArena, slab: Slab, lane: u32): void {
  const head = headOf(slab, lane);
  const count = wordAt(arena.counts, lane);
  const planes = planeCount(arena);
  if (count != ALL) {
    const keep = keepOf(arena, lane);
    const first = firstMoved(arena, lane, count);
    for (let plane: u32 = 0; plane < planes; plane++) {
      const values = planeOf(arena, slab, plane, lane);
      for (let i = first; i < count; i++) setWordAt(values, i, wordAt(values, wordAt(keep, i)));
    }
    const gone = head.length - count - u32(head.hole != NONE); // who left the hole has been counted
    head.evicted += gone;
    arena.evicted += gone;
    head.length = count;
    head.hole = NONE;
    return;
  }
  const victim = wordAt(arena.victims, lane);
  if (victim == NONE) return;
  const successor = wordAt(arena.successors, lane);
  if (successor != NONE) {
    for (let plane: u32 = 0; plane < planes; plane++) {
      const values = planeOf(arena, slab, plane, lane);
      setWordAt(values, victim, wordAt(values, successor));
    }
  }
  head.hole = successor == NONE ? victim : successor;
  head.evicted += 1;
  arena.evicted += 1;
}

/**
 * The moves have been run: the lanes and the sequence are what was planned. NOT_FOUND when there is no plan (any more:
 * closing the sequence gives it up).
 */
export function lanesCommit(arena: LaneArena): Status {
  if (arena.planned == NONE) return NOT_FOUND;
  const slab = slabAt(arena, arena.planned);
  const planned = arena.kv.stagedSequence == slab.sequence;
  arena.planned = NONE;
  if (!planned) return NOT_FOUND;
  for (let lane: u32 = 0; lane < arena.lanes; lane++) settle(arena, slab, lane);
  const status = commitStaged(arena.kv, arena.slots, arena.reuse, arena.writeFrom);
  // Blocks beyond those that the slices need are not kept for a next step.
  if (arena.folded != 0 && slab.filling == 0) unreserve(arena.kv, slab.sequence, arena.foldBlocks);
  return status;
}

/** Gives the plan up: lanes and table are as before it. */
export function lanesRollback(arena: LaneArena): Status {
  if (arena.planned == NONE) return NOT_FOUND;
  const slab = slabAt(arena, arena.planned);
  arena.planned = NONE;
  return arena.kv.stagedSequence == slab.sequence ? rollbackStaged(arena.kv) : NOT_FOUND;
}

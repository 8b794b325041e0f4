/**
 * Compaction of one sequence's blocks, in two steps: `stage` plans the new table, `commitStaged` swaps it in.
 *
 *   old table    | b0 | b1 | b2 | b3 | b4 | reserved ...
 *   new table    | b0 | b1 | F  | b4 | reserved ...         F: fresh, in place of a shared block that would be written
 *
 * Between the two the old table stays valid, and the new one's fresh blocks are held by the plan; the host moves K and
 * V meanwhile. What only the old table held is released by the commit, the last block first. One compaction is planned
 * at a time.
 *
 * Invariants:
 * 1. A block that others can read is never written: from entry `from` on it is replaced by a fresh one.
 * 2. Cached blocks stay a leading run of the table: none is kept behind one that goes (pool.ts, invariant 2).
 */
import {
  COMPACTION_PENDING,
  COPIES_PENDING,
  INVALID_ARGUMENT,
  NOT_FOUND,
  OK,
  Status,
  UNKNOWN_SEQUENCE,
} from "../memory/status";
import {
  blocksFor,
  copyAt,
  isOpen,
  KvCache,
  LOSSY,
  NONE,
  sequenceOf,
  setStaged,
  SLOT_MASK,
  slotsOf,
  stagedBlock,
  stagedSource,
  tableOf,
} from "./layout";
import { hold, isShared, letGo } from "./pool";
import { grabBlock, trim } from "./prefix";
import { roomFor } from "./quotas";
import { unstage } from "./sequences";

/** OK, or why no compaction of this sequence can be planned now. */
export function canStage(kv: KvCache, handle: u32): Status {
  if (!isOpen(kv, handle)) return UNKNOWN_SEQUENCE;
  if (kv.groups != 0) return INVALID_ARGUMENT;
  if (kv.stagedSequence != 0) return COMPACTION_PENDING;
  for (let i: u32 = 0; i < kv.copyCount; i++) if (copyAt(kv, i).sequence == handle) return COPIES_PENDING;
  return OK;
}

// @ts-ignore: decorator
@inline
function entry(table: usize, index: u32): u32 {
  return load<u32>(table + ((<usize>index) << 2));
}

/**
 * Plans a table of `held` blocks and the blocks reserved behind the old ones. The caller has written which old entry
 * each new one is, ascending, to the staged sources. `from`: entries from it on will be written. Call `canStage`
 * first. OUT_OF_BLOCKS when there are fewer blocks than shared ones to replace.
 */
export function stage(kv: KvCache, handle: u32, held: u32, from: u32): Status {
  const sequence = sequenceOf(kv, handle);
  const table = tableOf(kv, handle & SLOT_MASK);
  const heldBefore = blocksFor(kv, slotsOf(sequence));
  let fresh: u32 = 0;
  for (let i = from; i < held; i++) fresh += u32(isShared(kv, entry(table, stagedSource(kv, i))));
  const status = roomFor(kv, sequence.tenant, fresh);
  if (status != OK) return status;
  for (let i: u32 = 0; i < held; i++) {
    const source = stagedSource(kv, i);
    const id = entry(table, source);
    if (i >= from && isShared(kv, id)) setStaged(kv, i, grabBlock(kv, sequence.tenant), NONE);
    else setStaged(kv, i, id, source);
  }
  let count = held;
  for (let i = heldBefore; i < sequence.blockCount; i++) setStaged(kv, count++, entry(table, i), i);
  kv.stagedSequence = handle;
  kv.stagedCount = count;
  kv.stagedFresh = fresh;
  if (kv.pins != 0) trim(kv);
  return OK;
}

/** Swaps the planned table in: the sequence is lossy from here on, its longest lane `slots` long. */
export function commitStaged(kv: KvCache, slots: u32, reuse: u32, writeFrom: u32): Status {
  const handle = kv.stagedSequence;
  if (handle == 0) return NOT_FOUND;
  const sequence = sequenceOf(kv, handle);
  const table = tableOf(kv, handle & SLOT_MASK);
  let same: u32 = 0;
  while (same < kv.stagedCount && stagedSource(kv, same) == same) same += 1;
  for (let i = same; i < kv.stagedCount; i++) if (stagedSource(kv, i) != NONE) hold(kv, stagedBlock(kv, i));
  for (let i = sequence.blockCount; i > same; i--) letGo(kv, entry(table, i - 1));
  memory.copy(table, kv.staged, (<usize>kv.stagedCount) << 2);
  sequence.blockCount = kv.stagedCount;
  sequence.published = min(min(sequence.published, same), slots >> kv.blockShift);
  sequence.flags |= LOSSY;
  sequence.slots = slots;
  sequence.reuse = reuse;
  sequence.writeFrom = writeFrom;
  kv.stagedSequence = 0;
  trim(kv);
  return OK;
}

/** Gives the planned compaction up; NOT_FOUND when there is none. */
export function rollbackStaged(kv: KvCache): Status {
  if (kv.stagedSequence == 0) return NOT_FOUND;
  unstage(kv);
  return OK;
}

/**
 * Pending copies: beginnings of shared blocks that the executor copies before others write behind them.
 *
 * A source keeps a reference of its own until its copy is settled or reverted; a target is held by the sequence whose
 * table has it. Recording is O(1); the rest is O(copies), reverting O(copies * sequences).
 */
import { groupTail } from "./groups";
import { block, BlockId, Copy, copyAt, KvCache, sequenceAt, tableOf } from "./layout";
import { hold, letGo } from "./pool";
import { trim } from "./prefix";

/** Lists a copy of the first `tokens` tokens of a block for the executor. */
export function recordCopy(
  kv: KvCache,
  handle: u32,
  source: BlockId,
  target: BlockId,
  tokens: u32,
  op: u32,
): void {
  const record = copyAt(kv, kv.copyCount);
  kv.copyCount += 1;
  record.op = op;
  record.sourceTier = 0;
  record.source = source;
  record.targetTier = 0;
  record.target = target;
  record.tokens = tokens;
  record.mark = 0;
  record.sequence = handle;
}

/**
 * Releases a block; if nobody holds it any more, the pending copy into it is dropped and its source released
 * in turn. That happens while the sequence still holds the source's ancestors, which keeps every evictable
 * block in front of its ancestors.
 */
export function releaseWithCopies(kv: KvCache, id: BlockId): void {
  letGo(kv, id);
  if (block(kv, id).refs != 0) return;
  for (let i = kv.copyCount; i > 0; i--) {
    const copy = copyAt(kv, i - 1);
    if (copy.target != id) continue;
    const source = copy.source;
    const behind = <usize>(kv.copyCount - i) * offsetof<Copy>();
    memory.copy(changetype<usize>(copy), changetype<usize>(copy) + offsetof<Copy>(), behind);
    kv.copyCount -= 1;
    releaseWithCopies(kv, source);
    return;
  }
}

/** The executor has run the pending copies: their sources lose the reference that kept them. */
export function settleCopies(kv: KvCache): void {
  for (let i: u32 = 0; i < kv.copyCount; i++) letGo(kv, copyAt(kv, i).source);
  kv.copyCount = 0;
  trim(kv);
}

/** The pending copies were not run: every sequence that writes to a target gets its shared tail back. */
export function revertCopies(kv: KvCache): void {
  for (let i = kv.copyCount; i > 0; i--) {
    const source = copyAt(kv, i - 1).source;
    const target = copyAt(kv, i - 1).target;
    const group = copyAt(kv, i - 1).op >> 8;
    for (let slot: u32 = 0; slot < kv.maxSequences; slot++) {
      const sequence = sequenceAt(kv, slot);
      if (sequence.open == 0) continue;
      const tail = sequence.length >> kv.blockShift;
      let entry = tail < sequence.blockCount ? tableOf(kv, slot) + ((<usize>tail) << 2) : 0;
      if (group != 0) entry = groupTail(kv, group - 1, slot);
      if (entry == 0 || load<u32>(entry) != target) continue;
      store<u32>(entry, source);
      hold(kv, source);
      letGo(kv, target);
    }
    letGo(kv, source);
  }
  kv.copyCount = 0;
  trim(kv);
}

/** Whether a copy into this block has not been settled yet. */
export function copyPending(kv: KvCache, id: BlockId): bool {
  for (let i: u32 = 0; i < kv.copyCount; i++) if (copyAt(kv, i).target == id) return true;
  return false;
}

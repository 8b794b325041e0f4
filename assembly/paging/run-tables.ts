/**
 * Blocks of a sequence taken in runs, beside a prefix cache. Where a block comes from, in this order:
 *
 *   1 the sequence's own tail
 *   2 free blocks: right behind its last block, else the run that fits best, else the longest
 *   3 cached blocks that nobody holds, forgotten in the eviction order, a few at a time: what was computed together lies
 *     together, and goes together
 *   4 the far half of the longest tail of another sequence
 *
 * Contiguity never changes which block is forgotten next, and costs at most `FORGOTTEN_TOGETHER` - 1 cached blocks
 * for each run that is taken. With accounts of tenants nothing is forgotten here: quotas have made room (quotas.ts), and what is
 * free in the tails of others is taken before somebody's floor.
 */
import { charge, setPayer } from "./accounts";
import { KvCache, NONE, Sequence } from "./layout";
import { availableBlocks, takeThis } from "./pool";
import { anyVictim, evictBlock } from "./prefix";
import { isUnreserved, reserveRun, runsOf, setTail, tailLength, tailStart } from "./runs";

/** Cached blocks that are forgotten at a time when a run is taken (our figure). */
// @ts-ignore: decorator
@inline const FORGOTTEN_TOGETHER: u32 = 8;

/** Forgets cached blocks for a run of `wanted`. */
function forgetForRun(kv: KvCache, wanted: u32): void {
  let count = max(wanted, FORGOTTEN_TOGETHER);
  do {
    evictBlock(kv, anyVictim(kv));
    count -= 1;
  } while (count != 0 && kv.evictableCount != 0);
}

/** Takes blocks until the table has `needed` entries; as many must be available. */
export function takeRuns(kv: KvCache, slot: u32, sequence: Sequence, table: usize, needed: u32): void {
  const runs = runsOf(kv);
  let i = sequence.blockCount;
  while (i < needed) {
    if (tailLength(runs, slot) == 0) {
      const available = availableBlocks(kv);
      if (kv.accounts == 0 && !isUnreserved(kv) && available != kv.freeCount) forgetForRun(kv, needed - i);
      const last = i == 0 ? NONE : load<u32>(table + ((<usize>(i - 1)) << 2));
      reserveRun(kv, slot, last, needed - i, available);
    }
    const start = tailStart(runs, slot);
    const length = tailLength(runs, slot);
    const taken = min(length, needed - i);
    for (let k: u32 = 0; k < taken; k++) {
      takeThis(kv, start + k);
      if (kv.accounts != 0) setPayer(kv, start + k, sequence.tenant);
      store<u32>(table + ((<usize>(i + k)) << 2), start + k);
    }
    if (kv.accounts != 0) charge(kv, taken, sequence.tenant);
    setTail(runs, slot, start + taken, length - taken);
    i += taken;
  }
}

/** Carries out what a policy has answered: merges, moves, and the blocks that are free afterwards. */
import { QuartermasterError } from "../errors.js";
import type { Executor } from "../executor.js";
import type { CompactionPlan, CoreLanes } from "./lanes.js";
import type { KeepPlan, SlotMerge } from "./policy.js";

/** What dropping tokens took. */
export interface Evicted {
  /** Block references given up, and fresh blocks taken in place of shared ones. */
  readonly released: number;
  readonly copied: number;
}

/**
 * Drops tokens from a live sequence: the executor merges and moves K and V, then lanes and block table are what the
 * answer says and the blocks that nobody needs are free. Throws what `CoreLanes.plan` throws, with nothing changed;
 * when the executor fails the lanes and the table are as before, and the content of the sequence must be computed anew.
 */
export async function evict(
  lanes: CoreLanes,
  answer: KeepPlan,
  executor: Pick<Executor, "move" | "merge">,
): Promise<Evicted> {
  const merges = answer.merge ?? [];
  let copied = 0;
  if (merges.length > 0) {
    // A slot that stands for several tokens has no one position to be turned from.
    if (executor.merge === undefined || lanes.arena.folded || lanes.bySlot) throw unsupported("merge");
    // A merge writes to its target: that block has to be the sequence's own.
    const first = merges.reduce((least, { target }) => Math.min(least, target), Infinity);
    copied += await carryOut(lanes.unshare(first), executor);
    await executor.merge(mergeRecords(lanes, merges));
  }
  const plan = lanes.plan(answer);
  copied += await carryOut(plan, executor);
  return { released: plan.released, copied };
}

/** Runs a plan's moves and commits it; returns its fresh blocks. */
async function carryOut(plan: CompactionPlan, executor: Pick<Executor, "move">): Promise<number> {
  try {
    for (const records of plan.moves()) {
      if (executor.move === undefined) throw unsupported("move");
      await executor.move(records);
    }
  } catch (error) {
    plan.rollback();
    throw error;
  }
  plan.commit();
  return plan.copied;
}

/** Records of Executor.merge: layer, KV head, block and offset of the target, members, their blocks and offsets. */
function mergeRecords(lanes: CoreLanes, merges: readonly SlotMerge[]): Uint32Array {
  const { cache } = lanes.arena;
  const table = cache.blockTable(lanes.sequence);
  const place = (slot: number): [block: number, offset: number] => [
    table[Math.floor(slot / cache.blockSize)],
    slot % cache.blockSize,
  ];
  return Uint32Array.from(
    merges.flatMap(({ lane, target, members }) => [
      Math.floor(lane / lanes.kvHeads),
      lane % lanes.kvHeads,
      ...place(target),
      members.length,
      ...Array.from(members).flatMap(place),
    ]),
  );
}

function unsupported(what: "move" | "merge"): QuartermasterError {
  return new QuartermasterError("UNSUPPORTED", `the executor cannot ${what} K and V within lanes`, {
    argument: "executor",
  });
}

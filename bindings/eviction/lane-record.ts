/**
 * What the lanes of requests that drop tokens do to a cache, as lines of a record (record.ts):
 *
 *   {"arena": {layers, kvHeads, capacity, planes, folded, sequences, moveCapacity}}     once, behind the first line
 *   {"lane": "open", "sequence", "handle", "bySlot"?}     {"lane": "append", "handle", "count"}     {"lane": "reset", "handle", "sequence"}
 *   {"lane": "plan", "handle", "privateFrom"?, "keep": [runs or null], "victim"?, "successor"?}
 *   {"lane": "tables", "handle", "count", "low", "high"}     {"lane": "layer", "handle", "layer", "count"}     folded lanes
 *   {"lane": "commit"}     {"lane": "rollback"}     {"lane": "close", "handle"}
 *   {"lane": "fork", "handle", "sequence", "twin"}     {"lane": "forkSequence", "sequence", "twin"}
 *   {"lane": "closeSequence", "sequence"}     {"lane": "suspend", "handle"}     {"lane": "resume", "from", "sequence", "handle"}
 *
 * A keep list is written as runs: first slot, slots, first slot, slots, ... What policies write to planes, and what
 * executors move, is not an input of the core's decisions.
 */
import { invalidArgument } from "../errors.js";
import type { CoreLanes, LaneArena, LaneArenaOptions } from "./lanes.js";
import type { KeepPlan } from "./policy.js";
import type { SavedLanes } from "./saved-lanes.js";

export type LaneCall =
  | { lane: "open"; sequence: number; handle: number; bySlot?: true }
  | { lane: "append"; handle: number; count: number }
  | { lane: "reset"; handle: number; sequence: number }
  | {
      lane: "plan";
      handle: number;
      privateFrom?: number;
      keep: (number[] | null)[];
      victim?: number[];
      successor?: number[];
    }
  | { lane: "tables"; handle: number; count: number; low: number; high: number }
  | { lane: "layer"; handle: number; layer: number; count: number }
  | { lane: "commit" }
  | { lane: "rollback" }
  | { lane: "close"; handle: number }
  | { lane: "fork"; handle: number; sequence: number; twin: number }
  | { lane: "forkSequence"; sequence: number; twin: number }
  | { lane: "closeSequence"; sequence: number }
  | { lane: "suspend"; handle: number }
  | { lane: "resume"; from: number; sequence: number; handle: number };

/** Shape of a recorded arena. */
export type ArenaShape = Required<Omit<LaneArenaOptions, "cache">>;

/** The line of a planned compaction. */
export function planCall(
  handle: number,
  { keep, inPlace }: Pick<KeepPlan, "keep" | "inPlace">,
  privateFrom: number | undefined,
): LaneCall {
  return {
    lane: "plan",
    handle,
    ...(privateFrom !== undefined && { privateFrom }),
    keep: keep.map((slots) => slots && runsOf(slots)),
    ...(inPlace && { victim: Array.from(inPlace.victim) }),
    ...(inPlace?.successor && { successor: Array.from(inPlace.successor) }),
  };
}

/** Ascending slots as first, count, first, count, ... */
export function runsOf(slots: ArrayLike<number>): number[] {
  const runs: number[] = [];
  for (let i = 0; i < slots.length; i++) {
    if (i > 0 && slots[i] === slots[i - 1] + 1) runs[runs.length - 1] += 1;
    else runs.push(slots[i], 1);
  }
  return runs;
}

/** The slots of runs. */
export function slotsOf(runs: readonly number[]): Uint32Array {
  const slots: number[] = [];
  for (let i = 0; i + 1 < runs.length; i += 2) for (let j = 0; j < runs[i + 1]; j++) slots.push(runs[i] + j);
  return Uint32Array.from(slots);
}

/** Makes recorded calls again. */
export class LanePlayer {
  readonly #arena: LaneArena;
  readonly #lanes = new Map<number, CoreLanes>();
  readonly #saved = new Map<number, SavedLanes>();
  #plan: ReturnType<CoreLanes["plan"]> | undefined;

  constructor(arena: LaneArena) {
    this.#arena = arena;
  }

  /** @returns handles that should be equal: as recorded, as replayed. Throws what the call throws. */
  play(call: LaneCall): readonly [recorded: number, replayed: number] {
    const { cache } = this.#arena;
    switch (call.lane) {
      case "open":
        return [call.handle, this.#add(this.#arena.open(call.sequence, call.bySlot))];
      case "append":
        this.#of(call.handle).append(call.count);
        break;
      case "reset":
        this.#of(call.handle).reset(call.sequence);
        break;
      case "plan": {
        const { victim, successor } = call;
        const inPlace = victim && {
          victim: Uint32Array.from(victim),
          ...(successor && { successor: Uint32Array.from(successor) }),
        };
        const keep = call.keep.map((runs) => runs && slotsOf(runs));
        this.#plan = this.#of(call.handle).plan({ keep, ...(inPlace && { inPlace }) }, call.privateFrom);
        break;
      }
      case "tables":
        this.#of(call.handle).tables(call.count, call.low, call.high);
        break;
      case "layer":
        if (call.count === 0) this.#of(call.handle).filled();
        else this.#of(call.handle).enterLayer(call.layer, call.count);
        break;
      case "commit":
      case "rollback":
        this.#plan?.[call.lane]();
        break;
      case "close":
        this.#of(call.handle).close();
        this.#lanes.delete(call.handle);
        break;
      case "fork":
        return [call.twin, this.#add(this.#of(call.handle).fork(call.sequence))];
      case "forkSequence":
        return [call.twin, cache.fork(call.sequence)];
      case "closeSequence":
        cache.close(call.sequence);
        break;
      case "suspend":
        this.#saved.set(call.handle, this.#of(call.handle).suspend());
        this.#lanes.delete(call.handle);
        break;
      case "resume": {
        const saved = this.#saved.get(call.from);
        if (saved === undefined) throw invalidArgument("from", call.from, "lanes that were suspended before");
        this.#saved.delete(call.from);
        return [call.handle, this.#add(this.#arena.resume(saved, call.sequence))];
      }
      default:
        throw invalidArgument("lane", (call as { lane: unknown }).lane, "a call on lanes");
    }
    return [0, 0];
  }

  #add(lanes: CoreLanes): number {
    this.#lanes.set(lanes.handle, lanes);
    return lanes.handle;
  }

  #of(handle: number): CoreLanes {
    const lanes = this.#lanes.get(handle);
    if (lanes === undefined) throw invalidArgument("handle", handle, "lanes that were opened before");
    return lanes;
  }
}

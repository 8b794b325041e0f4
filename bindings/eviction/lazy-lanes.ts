/**
 * LazyLanes: drops tokens without moving their neighbours. Slots of dropped tokens stay as holes, which queries do not see
 * (LaneRow.live), until a new token takes one, a whole block holds nothing else and leaves, or the lanes are packed: when half of all
 * slots are holes, or the pool has no block left and packing gives it one.
 *
 *   policy sees   | t0 | t3 | t4 | t7 |              dense lanes, planes here
 *   in the pool   | t0 | -- | -- | t3 | t4 | t7 |    places 0 3 4 5; the next token takes slot 1
 *
 * What the policy decides is what it decides over dense lanes; attention adds up in another order once places are reused.
 *
 * Invariants  1. Places of a lane are distinct, and below the core lane's length.
 *             2. The core's hole of a lane, if any, is not a place.
 */
import { QuartermasterError } from "../errors.js";
import type { Executor } from "../executor.js";
import { APPEND_SLOT, type StatView } from "../statistics.js";
import { evict } from "./evict.js";
import type { CoreLanes } from "./lanes.js";
import { type KeepPlan, type LaneView, PlaneMask, type SequenceLanes } from "./policy.js";

interface DenseLane extends LaneView {
  length: number;
  hole: number;
  /** [capacity] slot in the pool of each token. */
  readonly places: Uint32Array;
}

/** Share of slots that are holes, from which on lanes are packed. */
const PACK_FROM = 0.5;

export class LazyLanes implements SequenceLanes {
  #core: CoreLanes;
  readonly layers: number;
  readonly kvHeads: number;
  readonly capacity: number;
  readonly #lanes: DenseLane[];
  /** How often lanes were packed, whole blocks left without a move, and there was no block to do either. */
  packed = 0;
  spliced = 0;
  putOff = 0;

  /** @param core lanes without holes: slot = token, with the positions and planes that they have */
  constructor(core: CoreLanes, planes: number) {
    this.#core = core;
    ({ layers: this.layers, kvHeads: this.kvHeads, capacity: this.capacity } = core);
    const has = (bit: number): boolean => (planes & bit) !== 0;
    const lengths = core.lengths();
    this.#lanes = Array.from(lengths, (length, i) => {
      const own = this.#coreLane(i);
      const floats = (plane: Float32Array | undefined): Float32Array =>
        filled(new Float32Array(this.capacity), plane, length);
      const words = (plane: Uint32Array | undefined): Uint32Array =>
        filled(new Uint32Array(this.capacity), plane, length);
      return {
        length,
        hole: APPEND_SLOT,
        pos: words(own.pos),
        places: counted(this.capacity),
        ...(has(PlaneMask.SCORE) && { score: floats(own.score) }),
        ...(has(PlaneMask.LAST_IMP) && { lastImp: words(own.lastImp) }),
        ...(has(PlaneMask.MRI) && { mri: words(own.mri) }),
        ...(has(PlaneMask.AUX) && { aux: floats(own.aux) }),
      };
    });
  }

  get core(): CoreLanes {
    return this.#core;
  }

  /** Their sequence has been elsewhere: goes on with its lanes as they are now, which have the same slots. */
  moveTo(core: CoreLanes): void {
    this.#core = core;
  }

  get seen(): number {
    return this.core.seen;
  }

  get blockSize(): number {
    return this.core.blockSize;
  }

  lane(layer: number, kvHead: number): LaneView {
    return this.#lanes[layer * this.kvHeads + kvHead];
  }

  /** Slot in the pool of each token of a lane, as the policy counts them. */
  places(lane: number): Uint32Array {
    const { places, length } = this.#lanes[lane];
    return places.subarray(0, length);
  }

  /** [lanes][words] bitmaps of the slots that queries see. @param words of a lane's bitmap */
  live(words: number): Uint32Array {
    const bitmaps = new Uint32Array(this.#lanes.length * words);
    this.#lanes.forEach((lane, i) => {
      for (let token = 0; token < lane.length; token++) {
        if (token === lane.hole) continue;
        const place = lane.places[token];
        bitmaps[i * words + (place >> 5)] |= 1 << (place & 31);
      }
    });
    return bitmaps;
  }

  /** Enters tokens that have been computed, here and in the core: the first to a hole, where the core has one. */
  append(count: number): void {
    const holes = this.#lanes.map((_, lane) => this.#coreLane(lane).hole);
    const lengths = this.core.lengths();
    const { seen } = this.core;
    this.core.append(count);
    this.#lanes.forEach((lane, i) => {
      let next = lengths[i];
      for (let t = 0; t < count; t++) {
        const token = lane.hole === APPEND_SLOT ? lane.length++ : lane.hole;
        lane.hole = APPEND_SLOT;
        for (const plane of planesOf(lane)) plane[token] = 0;
        lane.pos[token] = seen + t;
        lane.places[token] = t === 0 && holes[i] !== APPEND_SLOT ? holes[i] : next++;
      }
    });
  }

  /** What was measured, as the policy counts slots. Copies. */
  view(stats: StatView): StatView {
    const { layer, heads, kvHeads } = stats;
    const group = heads / kvHeads;
    const lanes = this.#lanes.slice(layer * kvHeads, (layer + 1) * kvHeads);
    const lengths = Uint32Array.from(lanes, ({ length }) => length);
    const stride = Math.ceil(Math.max(...lengths) / 4) * 4;
    /** Rows of `per` consecutive ones for each head or KV head. */
    const rows = <T extends Float32Array | Uint32Array>(
      data: T,
      count: number,
      kvHeadOf: (row: number) => number,
    ): T => {
      const out = new (data.constructor as new (length: number) => T)(count * stride);
      for (let row = 0; row < count; row++) {
        const { places, length } = lanes[kvHeadOf(row)];
        for (let i = 0; i < length; i++) out[row * stride + i] = data[row * stats.stride + places[i]];
      }
      return out;
    };
    const byHead = (per: number) => (row: number) => Math.floor(row / per / group);
    const { lastRow, window, windowRows = 0, colsum, colcount, moments, probeMax, keys } = stats;
    return {
      ...stats,
      lengths,
      stride,
      ...(lastRow && { lastRow: rows(lastRow, heads, byHead(1)) }),
      ...(window && { window: rows(window, heads * windowRows, byHead(windowRows)) }),
      ...(colsum && { colsum: rows(colsum, heads, byHead(1)) }),
      ...(colcount && { colcount: rows(colcount, kvHeads, (row) => row) }),
      ...(moments && { moments: rows(moments, heads * 2, byHead(2)) }),
      ...(probeMax && { probeMax: rows(probeMax, kvHeads, (row) => row) }),
      ...(keys && { keys: this.#keys(keys, lanes, stride) }),
    };
  }

  /** Carries an answer out: tokens are dropped at once, K and V move only when enough has become empty. */
  async drop(answer: KeepPlan | null, executor: Pick<Executor, "move">): Promise<void> {
    if (answer?.merge !== undefined && answer.merge.length > 0)
      throw new QuartermasterError("UNSUPPORTED", "lanes with holes merge nothing", { argument: "evict" });
    if (answer !== null) this.#lanes.forEach((lane, i) => dropOf(lane, i, answer));
    await this.#reclaim(executor);
  }

  /** Packs lanes of which half is holes, or lets whole blocks go, and gives the next token a hole. */
  async #reclaim(executor: Pick<Executor, "move">): Promise<void> {
    const lengths = this.core.lengths();
    const places = this.#lanes.map((lane) =>
      Uint32Array.from(lane.places.subarray(0, lane.length).filter((_, token) => token !== lane.hole)).sort(),
    );
    const slots = lengths.reduce((sum, length) => sum + length, 0);
    const live = places.reduce((sum, list) => sum + list.length, 0);
    const isDue = slots - live >= PACK_FROM * slots || this.#isWanted(lengths, places);
    if (isDue && live < slots) {
      if (await this.#keep(places, executor)) this.packed += 1;
    } else {
      const gone = this.#emptyBlocks(lengths, places);
      if (gone.size > 0) {
        const { blockSize } = this.core.arena.cache;
        const isGone = (slot: number): boolean => gone.has(Math.floor(slot / blockSize));
        const hole = (lane: number): number => this.#coreLane(lane).hole;
        const stays = Array.from(lengths, (length, lane) =>
          counted(length).filter((slot) => !isGone(slot) && slot !== hole(lane)),
        );
        if (await this.#keep(stays, executor)) this.spliced += gone.size;
      }
    }
    await this.#offerHoles(executor);
  }

  /** The pool has no block left, and packing would give it one. */
  #isWanted(lengths: Uint32Array, places: readonly Uint32Array[]): boolean {
    const { cache } = this.core.arena;
    if (cache.available > 0) return false;
    const blocks = (longest: number): number => Math.ceil(longest / cache.blockSize);
    return blocks(Math.max(...places.map(({ length }) => length))) < blocks(Math.max(...lengths));
  }

  /** Blocks of which no lane holds anything. */
  #emptyBlocks(lengths: Uint32Array, places: readonly Uint32Array[]): Set<number> {
    const { blockSize } = this.core.arena.cache;
    const gone = new Set(counted(Math.ceil(Math.max(...lengths) / blockSize)));
    for (const list of places) for (const place of list) gone.delete(Math.floor(place / blockSize));
    // A lane never gets empty, and where a lane already has a hole to close its slots would move.
    return this.#lanes.some((_, lane) => this.#coreLane(lane).hole !== APPEND_SLOT) ? new Set() : gone;
  }

  /** Keeps slots of the pool, ascending: a place becomes its rank among them. False: not now, there is no block for it. */
  async #keep(lists: readonly Uint32Array[], executor: Pick<Executor, "move">): Promise<boolean> {
    const keep = lists.map((list, lane) => (list.length > 0 ? list : this.#oneOf(lane)));
    if (!(await this.#carryOut({ keep }, executor))) return false;
    this.#lanes.forEach((lane, i) => {
      const rank = new Map(Array.from(lists[i], (slot, at) => [slot, at]));
      for (let token = 0; token < lane.length; token++)
        if (token !== lane.hole) lane.places[token] = rank.get(lane.places[token])!;
    });
    return true;
  }

  /** A lane whose only token has just gone never gets empty: any slot of it but its hole, or all where that is the only one. */
  #oneOf(lane: number): Uint32Array | null {
    const { length, hole } = this.#coreLane(lane);
    return length === 1 ? null : Uint32Array.of(hole === 0 ? 1 : 0);
  }

  /**
   * What is read by others is not written: blocks in their place may be lacking. Then the lanes stay as they are, the next token
   * is appended, and the next step tries again.
   */
  async #carryOut(answer: KeepPlan, executor: Pick<Executor, "move">): Promise<boolean> {
    try {
      await evict(this.core, answer, executor);
      return true;
    } catch (error) {
      if (!isOutOfRoom(error)) throw error;
      this.putOff += 1;
      return false;
    }
  }

  /** The lowest hole of each lane is the next token's. */
  async #offerHoles(executor: Pick<Executor, "move">): Promise<void> {
    const lengths = this.core.lengths();
    const victim = Uint32Array.from(this.#lanes, (lane, i) => {
      if (this.#coreLane(i).hole !== APPEND_SLOT) return APPEND_SLOT;
      const taken = new Uint8Array(lengths[i]);
      for (let token = 0; token < lane.length; token++)
        if (token !== lane.hole) taken[lane.places[token]] = 1;
      const free = taken.indexOf(0);
      return free < 0 ? APPEND_SLOT : free;
    });
    if (victim.every((slot) => slot === APPEND_SLOT)) return;
    await this.#carryOut({ keep: this.#lanes.map(() => null), inPlace: { victim } }, executor);
  }

  #coreLane(lane: number): LaneView {
    return this.core.lane(Math.floor(lane / this.kvHeads), lane % this.kvHeads);
  }

  #keys(
    keys: NonNullable<StatView["keys"]>,
    lanes: readonly DenseLane[],
    stride: number,
  ): NonNullable<StatView["keys"]> {
    const { data, headStride, slotStride } = keys;
    const out = new Float32Array(lanes.length * stride * slotStride);
    lanes.forEach(({ places, length }, head) => {
      for (let i = 0; i < length; i++) {
        const from = head * headStride + places[i] * slotStride;
        out.set(data.subarray(from, from + slotStride), (head * stride + i) * slotStride);
      }
    });
    return { data: out, headStride: stride * slotStride, slotStride };
  }
}

/** An array that begins with a plane's values. */
function filled<T extends Float32Array | Uint32Array>(array: T, plane: T | undefined, length: number): T {
  if (plane !== undefined) array.set(plane.subarray(0, length));
  return array;
}

/** Whether there was no block for a plan: of the pool, or within its tenant's quota. */
export function isOutOfRoom(error: unknown): boolean {
  return (
    error instanceof QuartermasterError && (error.code === "OUT_OF_BLOCKS" || error.code === "QUOTA_EXCEEDED")
  );
}

function counted(length: number): Uint32Array {
  return Uint32Array.from({ length }, (_, i) => i);
}

function planesOf({ pos, score, lastImp, mri, aux }: LaneView): (Uint32Array | Float32Array)[] {
  return [pos, score, lastImp, mri, aux].filter((plane) => plane !== undefined);
}

/** Drops what an answer says of one lane. */
function dropOf(lane: DenseLane, index: number, { keep, inPlace }: KeepPlan): void {
  const kept = keep[index];
  const planes = [...planesOf(lane), lane.places];
  if (kept !== null) {
    for (const plane of planes) kept.forEach((token, i) => (plane[i] = plane[token]));
    lane.length = kept.length;
    return;
  }
  const victim = inPlace?.victim[index] ?? APPEND_SLOT;
  if (victim === APPEND_SLOT) return;
  const successor = inPlace?.successor?.[index] ?? APPEND_SLOT;
  if (successor !== APPEND_SLOT) for (const plane of planes) plane[victim] = plane[successor];
  lane.hole = successor === APPEND_SLOT ? victim : successor;
}

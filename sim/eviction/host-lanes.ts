/** HostLanes: the lanes of one sequence in plain arrays of the host, as a policy sees them. */
import { invalidArgument } from "../../bindings/errors.js";
import {
  PlaneMask,
  type LaneView,
  type SequenceLanes,
  type SlotReuse,
} from "../../bindings/eviction/policy.js";
import { APPEND_SLOT } from "../../bindings/statistics.js";

interface Planes {
  readonly pos: Uint32Array;
  readonly score?: Float32Array;
  readonly lastImp?: Uint32Array;
  readonly mri?: Uint32Array;
  readonly aux?: Float32Array;
}

interface Lane extends Planes {
  length: number;
  hole: number;
}

export class HostLanes implements SequenceLanes {
  readonly layers: number;
  readonly kvHeads: number;
  readonly capacity: number;
  readonly planes: number;
  seen = 0;
  readonly #lanes: Lane[];

  /** @param planes PlaneMask bits */
  constructor(layers: number, kvHeads: number, capacity: number, planes: number) {
    this.layers = layers;
    this.kvHeads = kvHeads;
    this.capacity = capacity;
    this.planes = planes;
    const has = (bit: number): boolean => (planes & bit) !== 0;
    this.#lanes = Array.from({ length: layers * kvHeads }, () => ({
      length: 0,
      hole: APPEND_SLOT,
      pos: new Uint32Array(capacity),
      ...(has(PlaneMask.SCORE) && { score: new Float32Array(capacity) }),
      ...(has(PlaneMask.LAST_IMP) && { lastImp: new Uint32Array(capacity) }),
      ...(has(PlaneMask.MRI) && { mri: new Uint32Array(capacity) }),
      ...(has(PlaneMask.AUX) && { aux: new Float32Array(capacity) }),
    }));
  }

  lane(layer: number, kvHead: number): LaneView {
    return this.#lanes[layer * this.kvHeads + kvHead];
  }

  /** Slots of the longest lane, holes included. */
  get longest(): number {
    return this.#lanes.reduce((longest, { length }) => Math.max(longest, length), 0);
  }

  /** Slots over all lanes, holes included. */
  get slots(): number {
    return this.#lanes.reduce((sum, { length }) => sum + length, 0);
  }

  /** Bytes of positions and planes that the slots in use take. */
  get planeBytes(): number {
    const planes = Object.values(PlaneMask).filter((bit) => (this.planes & bit) !== 0).length;
    return this.slots * 4 * (1 + planes);
  }

  /** [layers * kvHeads]. */
  lengths(): Uint32Array {
    return Uint32Array.from(this.#lanes, ({ length }) => length);
  }

  /** [layers * kvHeads] slots that the next token takes; undefined: appended everywhere. */
  holes(): Uint32Array | undefined {
    const holes = Uint32Array.from(this.#lanes, ({ hole }) => hole);
    return holes.some((hole) => hole !== APPEND_SLOT) ? holes : undefined;
  }

  /** Positions of a lane's tokens, in slot order. */
  positions(lane: number): Uint32Array {
    const { pos, length, hole } = this.#lanes[lane];
    return pos.slice(0, length).filter((_, slot) => slot !== hole);
  }

  /** Enters `count` tokens with zeroed planes: the first into a lane's hole, where it has one. */
  append(count: number): void {
    for (const lane of this.#lanes) {
      for (let i = 0; i < count; i++) {
        const slot = lane.hole === APPEND_SLOT ? lane.length++ : lane.hole;
        lane.hole = APPEND_SLOT;
        for (const plane of planesOf(lane)) plane[slot] = 0;
        lane.pos[slot] = this.seen + i;
      }
    }
    this.seen += count;
  }

  /** Tokens are about to be computed layer by layer: they have been seen, and no lane has them yet. */
  begin(count: number): void {
    this.seen += count;
  }

  /** A layer has the last `count` tokens seen. */
  appendLayer(layer: number, count: number): void {
    for (const lane of this.#lanes.slice(layer * this.kvHeads, (layer + 1) * this.kvHeads))
      for (let i = 0; i < count; i++) {
        const slot = lane.length++;
        for (const plane of planesOf(lane)) plane[slot] = 0;
        lane.pos[slot] = this.seen - count + i;
      }
  }

  /** [layers] slots of each layer's longest lane. */
  longestByLayer(): number[] {
    return Array.from({ length: this.layers }, (_, layer) =>
      this.#lanes
        .slice(layer * this.kvHeads, (layer + 1) * this.kvHeads)
        .reduce((longest, { length }) => Math.max(longest, length), 0),
    );
  }

  /** Packs the kept slots of a lane. */
  keep(lane: number, slots: Uint32Array): void {
    const planes = this.#lanes[lane];
    for (const plane of planesOf(planes)) slots.forEach((slot, i) => (plane[i] = plane[slot]));
    planes.length = slots.length;
  }

  /** Drops victims in place; a successor moves into the victim's slot and leaves its own. */
  reuse({ victim, successor }: SlotReuse): void {
    this.#lanes.forEach((lane, i) => {
      if (victim[i] === APPEND_SLOT) return;
      const from = successor?.[i] ?? APPEND_SLOT;
      if (from !== APPEND_SLOT) for (const plane of planesOf(lane)) plane[victim[i]] = plane[from];
      lane.hole = from === APPEND_SLOT ? victim[i] : from;
    });
  }

  /** Forgets the tokens from position `seen` on. Throws INVALID_ARGUMENT where a lane has lost earlier ones. */
  truncate(seen: number): void {
    if (this.slots !== this.seen * this.#lanes.length)
      throw invalidArgument("seen", seen, "the tokens seen, where lanes have lost some");
    for (const lane of this.#lanes) lane.length = Math.min(lane.length, seen);
    this.seen = Math.min(this.seen, seen);
  }

  /** A copy of its own. */
  fork(): HostLanes {
    const copy = new HostLanes(this.layers, this.kvHeads, this.capacity, this.planes);
    copy.seen = this.seen;
    this.#lanes.forEach((lane, i) => {
      const target = copy.#lanes[i];
      target.length = lane.length;
      target.hole = lane.hole;
      const planes = planesOf(target);
      planesOf(lane).forEach((plane, p) => planes[p].set(plane as Uint32Array));
    });
    return copy;
  }
}

function planesOf({ pos, score, lastImp, mri, aux }: Planes): (Uint32Array | Float32Array)[] {
  return [pos, score, lastImp, mri, aux].filter((plane) => plane !== undefined);
}

/**
 * SavedLanes: lanes outside the core, while the slots of their sequence are in a host tier: lengths, holes, positions and planes,
 * and in folded arenas the slices. A copy of what is in use, whatever the capacity.
 */
import type { CoreLanes, LaneArena } from "./lanes.js";
import { HEAD_WORDS, lineUp, PLANES, Slab, SLAB_WORDS } from "./slab-layout.js";

export class SavedLanes {
  /** The lanes' handle when they were in the core. */
  readonly handle: number;
  /** Positions that they have seen. */
  readonly seen: number;
  readonly #bySlot: number;
  /** [lanes][HEAD_WORDS] */
  readonly #heads: Uint32Array;
  /** [rows] first words of each row of a plane, plane after plane. */
  readonly #rows: readonly Uint32Array[];

  /** Made by `CoreLanes.suspend`. */
  constructor(lanes: CoreLanes) {
    const { arena, handle } = lanes;
    this.handle = handle;
    this.seen = lanes.seen;
    this.#bySlot = Number(lanes.bySlot);
    this.#heads = headsOf(arena, handle).slice();
    const lengths = lanes.lengths();
    this.#rows = rowsOf(arena, handle).map((row, i) =>
      // A layer has no more slices than slots.
      row.slice(0, i < planesOf(arena) * arena.lanes ? lengths[i % arena.lanes] : this.seen),
    );
  }

  /** Bytes of what is kept here. */
  get bytes(): number {
    return this.#rows.reduce((sum, row) => sum + row.byteLength, this.#heads.byteLength);
  }

  /** Fills empty lanes of an arena of the same shape. */
  writeTo({ arena, handle }: CoreLanes): void {
    const slab = arena.words(arena.slabOf(handle), SLAB_WORDS);
    slab[Slab.seen] = this.seen;
    slab[Slab.bySlot] = this.#bySlot;
    headsOf(arena, handle).set(this.#heads);
    for (const [i, row] of rowsOf(arena, handle).entries()) row.set(this.#rows[i]);
  }
}

function headsOf(arena: LaneArena, handle: number): Uint32Array {
  return arena.words(arena.slabOf(handle) + SLAB_WORDS * 4, arena.lanes * HEAD_WORDS);
}

/** Planes of an arena, the positions included. */
function planesOf(arena: LaneArena): number {
  return 1 + PLANES.filter(([, bit]) => (arena.planes & bit) !== 0).length;
}

/** Every lane's row of every plane, then every layer's slices. */
function rowsOf(arena: LaneArena, handle: number): Uint32Array[] {
  const { lanes, layers, stride, folded } = arena;
  const first = arena.slabOf(handle) + SLAB_WORDS * 4 + lineUp(lanes * HEAD_WORDS * 4);
  const plane = lineUp(lanes * stride * 4);
  const planes = planesOf(arena);
  return Array.from({ length: planes + Number(folded) }, (_, p) =>
    Array.from({ length: p < planes ? lanes : layers }, (_, row) =>
      arena.words(first + p * plane + row * stride * 4, stride),
    ),
  ).flat();
}

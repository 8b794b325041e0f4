/**
 * Folded lanes: which slice of a sequence's blocks holds which slots of which layer (assembly/eviction/folded.ts).
 *
 * A block of L layers is L slices; slice j of a layer is noted as index in the sequence's table * L + slice within the block,
 * so that it survives the replacement of a block. In use are the slices of each layer's longest lane; whenever more are needed
 * they are the lowest free ones, so that nothing has to be undone when a step is.
 */
import { QuartermasterError } from "../errors.js";
import { APPEND_SLOT } from "../statistics.js";
import type { CoreLanes } from "./lanes.js";
import type { KeepPlan } from "./policy.js";

/** A compaction of folded lanes. */
export interface Fold {
  /** Blocks and slots of the sequence after it; 0 while a prompt is computed layer by layer. */
  readonly blocks: number;
  readonly slots: number;
  /** [layers] slices after it. */
  readonly slices: readonly (readonly number[])[];
}

/** [layers] slots of each layer's longest lane, of lanes of these lengths. */
export function longestByLayer(lengths: ArrayLike<number>, kvHeads: number): number[] {
  return Array.from({ length: lengths.length / kvHeads }, (_, layer) => {
    let longest = 0;
    for (let head = 0; head < kvHeads; head++) longest = Math.max(longest, lengths[layer * kvHeads + head]);
    return longest;
  });
}

/**
 * The least `slots` of a sequence such that the blocks of `slots + c` slots suffice for c tokens more, whatever c.
 * @param longest [layers] slots of each layer's longest lane
 */
export function foldedSlots(longest: readonly number[], blockSize: number): number {
  let slots = 0;
  for (let c = 0; c < blockSize; c++) {
    const blocks = Math.ceil(slicesOf(longest, c, blockSize) / longest.length);
    slots = Math.max(slots, (blocks - 1) * blockSize + 1 - c);
  }
  return slots;
}

function slicesOf(longest: readonly number[], more: number, blockSize: number): number {
  return longest.reduce((sum, slots) => sum + Math.ceil((slots + more) / blockSize), 0);
}

/** [layers] slices as ids of the pool, with room for `count` tokens more in layers [low, high). Throws OUT_OF_BLOCKS. */
export function foldTables(lanes: CoreLanes, count: number, low: number, high: number): Uint32Array[] {
  const { layers, kvHeads, cache } = lanes.arena;
  const { blockSize } = cache;
  const table = cache.blockTable(lanes.sequence);
  const longest = longestByLayer(lanes.lengths(), kvHeads);
  const free = new FreeSlices(table.length * layers);
  const held = longest.map((slots) => Math.ceil(slots / blockSize));
  held.forEach((slices, layer) => free.mark(lanes.slices(layer).subarray(0, slices)));
  return longest.map((slots, layer) => {
    const slices = lanes.slices(layer);
    const needed = layer >= low && layer < high ? Math.ceil((slots + count) / blockSize) : held[layer];
    for (let j = held[layer]; j < needed; j++) slices[j] = free.take();
    return Uint32Array.from(slices.subarray(0, needed), (slice) => poolSlice(table, slice, layers));
  });
}

/** Where everything lies once an answer is carried out. Blocks stay in the order of the table, the last ones go. */
export function planFold(lanes: CoreLanes, { keep }: Pick<KeepPlan, "keep">): Fold {
  const { layers, kvHeads, cache } = lanes.arena;
  const { blockSize } = cache;
  const lengths = lanes.lengths().map((length, lane) => keep[lane]?.length ?? length);
  const longest = longestByLayer(lengths, kvHeads);
  const isFilling = lanes.filling > 0;
  const blocks = isFilling ? 0 : Math.ceil(slicesOf(longest, 0, blockSize) / layers);
  const limit = (isFilling ? cache.blockTable(lanes.sequence).length : blocks) * layers;
  const free = new FreeSlices(limit);
  const old = longest.map((slots, layer) => [
    ...lanes.slices(layer).subarray(0, Math.ceil(slots / blockSize)),
  ]);
  for (const slices of old) free.mark(slices.filter((slice) => slice < limit));
  return {
    blocks,
    slots: isFilling ? 0 : foldedSlots(longest, blockSize),
    slices: old.map((slices) => slices.map((slice) => (slice < limit ? slice : free.take()))),
  };
}

/**
 * Records for `Executor.move` of a fold that is planned: survivors are packed in place, then slices of blocks that go move to
 * those that stay; where blocks are replaced (`staged`), everything goes straight to its new place.
 */
export function foldMoves(
  lanes: CoreLanes,
  { keep, inPlace }: Pick<KeepPlan, "keep" | "inPlace">,
  { slices }: Fold,
  staged: Uint32Array | undefined,
): Uint32Array {
  const { layers, kvHeads, cache } = lanes.arena;
  const { blockSize } = cache;
  const table = cache.blockTable(lanes.sequence);
  const records: number[] = [];
  const move = (
    lane: number,
    from: readonly number[],
    to: readonly number[],
    s: number,
    t: number,
    count: number,
  ): void => {
    for (let done = 0; done < count;) {
      const [source, target] = [s + done, t + done];
      const run = Math.min(count - done, blockSize - (source % blockSize), blockSize - (target % blockSize));
      const [a, b] = [from[Math.floor(source / blockSize)], to[Math.floor(target / blockSize)]];
      if (a !== b || source % blockSize !== target % blockSize)
        records.push(
          Math.floor(lane / kvHeads),
          lane % kvHeads,
          a,
          source % blockSize,
          b,
          target % blockSize,
          run,
          1,
        );
      done += run;
    }
  };
  const lengths = lanes.lengths();
  const at = (list: Uint32Array, ids: ArrayLike<number>): number[] =>
    Array.from(ids, (slice) => poolSlice(list, slice, layers));
  lengths.forEach((length, lane) => {
    const layer = Math.floor(lane / kvHeads);
    const from = at(table, lanes.slices(layer).subarray(0, Math.ceil(length / blockSize)));
    const to = staged === undefined ? from : at(staged, slices[layer]);
    const kept = keep[lane];
    if (kept === null) move(lane, from, to, 0, 0, length);
    else
      for (let i = 0; i < kept.length;) {
        let end = i + 1;
        while (end < kept.length && kept[end] === kept[end - 1] + 1) end += 1;
        move(lane, from, to, kept[i], i, end - i);
        i = end;
      }
    const successor = inPlace?.successor?.[lane] ?? APPEND_SLOT;
    if (successor !== APPEND_SLOT) move(lane, to, to, successor, inPlace!.victim[lane], 1);
  });
  if (staged === undefined)
    lengths.forEach((length, lane) => {
      const layer = Math.floor(lane / kvHeads);
      const held = keep[lane]?.length ?? length;
      const from = at(table, lanes.slices(layer).subarray(0, Math.ceil(held / blockSize)));
      move(lane, from, at(table, slices[layer]), 0, 0, held);
    });
  return Uint32Array.from(records);
}

function poolSlice(table: Uint32Array, slice: number, layers: number): number {
  return table[Math.floor(slice / layers)] * layers + (slice % layers);
}

class FreeSlices {
  readonly #used: Uint8Array;
  #next = 0;

  constructor(slices: number) {
    this.#used = new Uint8Array(slices);
  }

  mark(slices: ArrayLike<number>): void {
    for (let i = 0; i < slices.length; i++) this.#used[slices[i]] = 1;
  }

  /** The lowest free one. */
  take(): number {
    while (this.#next < this.#used.length && this.#used[this.#next] !== 0) this.#next += 1;
    if (this.#next === this.#used.length)
      throw new QuartermasterError("OUT_OF_BLOCKS", "the sequence's blocks do not suffice for its layers");
    this.#used[this.#next] = 1;
    return this.#next;
  }
}

/** Rows with lanes or statistics as the addon takes them: qmh_lane_row records, one list of words, one of floats. */
import { invalidArgument } from "../../bindings/errors.js";
import type { StatView } from "../../bindings/statistics.js";
import { LANE_ROW_WORDS } from "./addon.js";
import type { SpecialRow, SpecialRows } from "./lane-rows.js";
import { type AttentionShape, clear, type LayerOutputs, statView } from "./statistics-layout.js";

const NONE = 0xffffffff;

/** Order of qmh_lane_row.outputs. */
const OUTPUTS: readonly (keyof LayerOutputs)[] = [
  "lastRow",
  "window",
  "colsum",
  "moments",
  "entropy",
  "probeMax",
  "keys",
  "outputError",
];

export interface PackedLanes {
  /** LANE_ROW_WORDS a row. */
  readonly rows: Uint32Array;
  readonly words: Uint32Array;
  /**
   * Asks the rows that have them for the slices of a layer and writes them to `words`: before the layer is computed. Throws
   * INVALID_ARGUMENT.
   */
  readonly fillSlices: (layer: number) => void;
}

/** What the slices of a row are counted and checked by. */
interface Pool {
  readonly layers: number;
  readonly kvHeads: number;
  readonly blocks: number;
  readonly blockSize: number;
}

export function packLanes(rows: readonly SpecialRow[], pool: Pool): PackedLanes {
  const records = new Uint32Array(rows.length * LANE_ROW_WORDS);
  const lists: Uint32Array[] = [];
  let count = 0;
  const put = (list: Uint32Array | undefined): number => {
    if (list === undefined) return NONE;
    lists.push(list);
    count += list.length;
    return count - list.length;
  };
  const places = rows.map((row) => {
    if (row.tables === undefined) return undefined;
    const needed = Array.from({ length: pool.layers }, (_, layer) => slicesNeeded(row, layer, pool));
    const entries = needed.reduce((sum, slices) => sum + slices, 0);
    // The layers' tables lie behind the list of where they are.
    let start = count + 2 * pool.layers;
    const list = new Uint32Array(2 * pool.layers + entries);
    needed.forEach((slices, layer) => {
      list.set([start, slices], 2 * layer);
      start += slices;
    });
    return put(list);
  });
  rows.forEach(({ row, lengths, writeSlots, live, bitmapWords, measured }, i) => {
    records.set(
      [
        put(lengths),
        put(writeSlots),
        put(live),
        put(measured?.keep),
        put(measured?.windowHeads),
        put(
          // ABSENT becomes NONE.
          measured &&
            Uint32Array.from(measured.outputs.flatMap((layer) => OUTPUTS.map((name) => layer[name]))),
        ),
        measured?.stride ?? 0,
        bitmapWords,
        measured?.window ?? 0,
        measured?.probe ?? 0,
        row,
        places[i] ?? NONE,
      ],
      i * LANE_ROW_WORDS,
    );
  });
  const words = new Uint32Array(count);
  let at = 0;
  for (const list of lists) {
    words.set(list, at);
    at += list.length;
  }
  const fillSlices = (layer: number): void =>
    rows.forEach(({ tables }, i) => {
      const place = places[i];
      if (tables === undefined || place === undefined) return;
      const [start, needed] = words.subarray(place + 2 * layer);
      const slices = tables(layer);
      if (slices.length < needed || slices.some((slice) => slice >= pool.blocks * pool.layers))
        throw invalidArgument(`lanes.tables(${layer})`, slices, `${needed} slices of the pool`);
      words.set(slices.subarray(0, needed), start);
    });
  return { rows: records, words, fillSlices };
}

/** Slices that the slots of a row in a layer take, new tokens included. */
function slicesNeeded({ lengthsAfter }: SpecialRow, layer: number, { kvHeads, blockSize }: Pool): number {
  const longest = Math.max(...lengthsAfter.subarray(layer * kvHeads, (layer + 1) * kvHeads));
  return Math.ceil(longest / blockSize);
}

/** The statistics of an executor's latest run. */
export class NativeStatistics {
  readonly #shape: AttentionShape;
  #floats = new Float32Array(0);
  #rows: readonly SpecialRow[] = [];

  constructor(shape: AttentionShape) {
    this.#shape = shape;
  }

  /** Room for a run's statistics, where they add up set to 0. Earlier views become invalid. */
  begin({ rows, floats }: SpecialRows): Float32Array {
    this.#rows = rows;
    if (floats > this.#floats.length)
      this.#floats = new Float32Array(Math.max(floats, 2 * this.#floats.length));
    for (const { measured } of rows) if (measured) clear(this.#floats, measured, this.#shape);
    return this.#floats;
  }

  /** What was measured. Throws INVALID_ARGUMENT for a row or layer that was not. */
  view(row: number, layer: number): StatView {
    const found = this.#rows.find((special) => special.row === row);
    if (found?.measured === undefined) throw invalidArgument("row", row, "a row with a StatisticsRequest");
    if (!(layer in found.measured.outputs))
      throw invalidArgument("layer", layer, `below ${this.#shape.layers}`);
    return statView(this.#floats, found, found.measured, this.#shape, layer);
  }
}

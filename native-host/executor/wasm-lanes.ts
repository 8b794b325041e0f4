/**
 * WasmLanes: runs rows with lanes or statistics on the wasm kernels.
 *
 * A step's rows are copied into one array of u32 (lengths, slots, bitmaps) and their statistics come out in one array of
 * floats; both grow when a step needs more. The record of native-host/kernels/wasm/lanes.ts is written before each call.
 */
import { invalidArgument } from "../../bindings/errors.js";
import type { StatView } from "../../bindings/statistics.js";
import type { SpecialRow, SpecialRows } from "./lane-rows.js";
import type { ModelConfig } from "./model-config.js";
import { ABSENT, clear, statView } from "./statistics-layout.js";
import type { KernelExports, Weight } from "./wasm-kernels.js";

/** Tokens of one special row among those computed together. */
export interface LanePart {
  readonly row: SpecialRow;
  /** Index of the row's block table in the step's tables. */
  readonly tableStart: number;
  /** Index of the part's first token among those computed together. */
  readonly first: number;
  readonly count: number;
  /** Index of that token among the row's new tokens. */
  readonly firstQuery: number;
}

/** A layer: its index, its address in block 0 of the pool, and the address of the step's tables. */
export interface LayerPlace {
  readonly index: number;
  readonly layerBase: number;
  readonly tables: number;
}

/** u32 fields of LaneJob. */
const JOB_WORDS = 19;

/** Addresses of a row's inputs, 0 where there is nothing. */
interface Inputs {
  readonly lengths: number;
  readonly lengthsAfter: number;
  readonly writeSlots: number;
  readonly live: number;
  readonly windowHeads: number;
  readonly keep: number;
  readonly bias: number;
}

/** Memory of the kernels that is taken once and again when more is needed. */
interface Area {
  pointer: number;
  bytes: number;
}

/** Where a part's slots of one layer lie: address of its table, of entry 0, and bytes from one entry to the next. */
interface Slots {
  readonly table: number;
  readonly base: number;
  readonly bytes: number;
}

type AreaName = "inputs" | "outputs" | "attended" | "projected" | "slices";

export class WasmLanes {
  readonly #memory: WebAssembly.Memory;
  readonly #kernels: KernelExports;
  readonly #take: (bytes: number, what: string) => number;
  readonly #config: ModelConfig;
  readonly #blockShift: number;
  readonly #blockBytes: number;
  readonly #blocks: number;
  readonly #scores: number;
  readonly #job: number;
  readonly #areas: Record<AreaName, Area> = {
    inputs: emptyArea(),
    outputs: emptyArea(),
    attended: emptyArea(),
    projected: emptyArea(),
    slices: emptyArea(),
  };
  #rows: readonly SpecialRow[] = [];
  #floats = 0;
  #inputs = new Map<SpecialRow, Inputs>();

  constructor(
    memory: WebAssembly.Memory,
    kernels: KernelExports,
    take: (bytes: number, what: string) => number,
    config: ModelConfig,
    { blocks, blockSize }: { readonly blocks: number; readonly blockSize: number },
    scores: number,
  ) {
    this.#blocks = blocks;
    this.#memory = memory;
    this.#kernels = kernels;
    this.#take = take;
    this.#config = config;
    this.#blockShift = Math.log2(blockSize);
    this.#blockBytes = config.layers * 2 * config.kvHeads * blockSize * config.headDim * 4;
    this.#scores = scores;
    this.#job = take(JOB_WORDS * 4, "lanes");
  }

  /** Copies a step's rows in. Throws OUT_OF_MEMORY before anything was computed. */
  begin({ rows, floats }: SpecialRows): void {
    this.#rows = rows;
    this.#floats = floats;
    this.#inputs = new Map();
    if (rows.length === 0) return;
    const lists: Uint32Array[] = [];
    let words = 0;
    const put = (list: Uint32Array | undefined): number => {
      if (list === undefined) return ABSENT;
      lists.push(list);
      words += list.length;
      return words - list.length;
    };
    const placed = rows.map(({ lengths, lengthsAfter, writeSlots, live, measured, bias }) => [
      put(lengths),
      put(lengthsAfter),
      put(writeSlots),
      put(live),
      put(measured?.windowHeads),
      put(measured?.keep),
      put(bias && new Uint32Array(bias.buffer)),
    ]);
    const base = this.#room("inputs", words * 4);
    this.#room("outputs", floats * 4);
    const memory = new Uint32Array(this.#memory.buffer, base, words);
    let at = 0;
    for (const list of lists) {
      memory.set(list, at);
      at += list.length;
    }
    rows.forEach((row, i) => {
      const address = placed[i].map((place) => (place === ABSENT ? 0 : base + place * 4));
      const [lengths, lengthsAfter, writeSlots, live, windowHeads, keep, bias] = address;
      this.#inputs.set(row, { lengths, lengthsAfter, writeSlots, live, windowHeads, keep, bias });
      if (row.measured) clear(this.#outputs(), row.measured, this.#config);
    });
  }

  /** K and V of a part's tokens to their slots. */
  write(part: LanePart, place: LayerPlace, k: number, v: number): void {
    const { kvHeads, headDim } = this.#config;
    const slots = this.#writeJob(part, place, false, "live");
    this.#kernels.writeLanes(
      k,
      v,
      part.count,
      this.#job,
      kvHeads,
      headDim,
      this.#blockShift,
      slots.base,
      slots.bytes,
    );
  }

  /** Attention of a part's tokens, measured as asked. */
  attend(part: LanePart, place: LayerPlace, q: number, out: number): void {
    const { kvHeads, headDim } = this.#config;
    const { row } = part;
    const slots = this.#writeJob(part, place, true, "live");
    this.#attend(part, slots, q, out);
    const keys = row.measured?.outputs[place.index].keys ?? ABSENT;
    if (keys === ABSENT || part.firstQuery + part.count < row.newTokens) return;
    this.#kernels.copyKeys(
      slots.table,
      this.#inputs.get(row)!.lengthsAfter + place.index * kvHeads * 4,
      kvHeads,
      headDim,
      this.#blockShift,
      slots.base,
      slots.bytes,
      row.measured!.stride,
      this.#areas.outputs.pointer + keys * 4,
    );
  }

  /**
   * Where OUTPUT_ERROR is asked for: attends again over the kept slots and adds up how far the projected output is from
   * `output`, [count][hidden].
   */
  compareOutputs(part: LanePart, place: LayerPlace, q: number, projection: Weight, output: number): void {
    const at = part.row.measured?.outputs[place.index].outputError ?? ABSENT;
    if (at === ABSENT) return;
    const { heads, headDim, hidden } = this.#config;
    const width = heads * headDim;
    const attended = this.#room("attended", part.count * width * 4);
    const projected = this.#room("projected", part.count * hidden * 4);
    const slots = this.#writeJob(part, place, false, "keep");
    this.#attend(part, slots, q, attended);
    this.#kernels.matmul(
      attended,
      projection.pointer,
      projection.type,
      0,
      part.count,
      hidden,
      width,
      projected,
    );
    const whole = new Float32Array(this.#memory.buffer, output, part.count * hidden);
    const kept = new Float32Array(this.#memory.buffer, projected, part.count * hidden);
    const norms = new Float64Array(this.#memory.buffer, this.#areas.outputs.pointer + at * 4, 2);
    for (let i = 0; i < whole.length; i++) {
      norms[0] += (kept[i] - whole[i]) ** 2;
      norms[1] += whole[i] ** 2;
    }
  }

  /** What was measured. Throws INVALID_ARGUMENT for a row or layer that was not. */
  view(row: number, layer: number): StatView {
    const found = this.#rows.find((special) => special.row === row);
    if (found?.measured === undefined) throw invalidArgument("row", row, "a row with a StatisticsRequest");
    if (!(layer in found.measured.outputs))
      throw invalidArgument("layer", layer, `below ${this.#config.layers}`);
    return statView(this.#outputs(), found, found.measured, this.#config, layer);
  }

  #outputs(): Float32Array {
    return new Float32Array(this.#memory.buffer, this.#areas.outputs.pointer, this.#floats);
  }

  #attend(part: LanePart, slots: Slots, q: number, out: number): void {
    const { heads, kvHeads, headDim, slidingWindow } = this.#config;
    this.#kernels.attentionLanes(
      q,
      part.count,
      this.#job,
      heads,
      kvHeads,
      headDim,
      this.#blockShift,
      slots.base,
      slots.bytes,
      slidingWindow,
      this.#scores,
      out,
    );
  }

  /** Fields in the order of LaneJob. `measured`: with its statistics; `seen`: the bitmaps of what queries see. */
  #writeJob(part: LanePart, place: LayerPlace, measured: boolean, seen: "live" | "keep"): Slots {
    const { row, firstQuery } = part;
    const { index } = place;
    const slots = this.#slots(part, place);
    const { heads, kvHeads } = this.#config;
    const inputs = this.#inputs.get(row)!;
    const m = measured ? row.measured : undefined;
    const at = m?.outputs[index];
    const lane = (pointer: number, words: number): number =>
      pointer === 0 ? 0 : pointer + index * kvHeads * words * 4;
    const output = (offset: number | undefined): number =>
      offset === undefined || offset === ABSENT ? 0 : this.#areas.outputs.pointer + offset * 4;
    const headWords = Math.ceil(heads / 32);
    new Uint32Array(this.#memory.buffer, this.#job, JOB_WORDS).set([
      slots.table,
      lane(inputs.lengths, 1),
      lane(inputs.writeSlots, 1),
      lane(inputs[seen], row.bitmapWords),
      row.bitmapWords,
      firstQuery,
      row.newTokens,
      m?.stride ?? 0,
      m?.window ?? 0,
      m?.probe ?? 0,
      inputs.windowHeads === 0 ? 0 : inputs.windowHeads + index * headWords * 4,
      output(at?.lastRow),
      output(at?.window),
      output(at?.colsum),
      output(at?.moments),
      output(at?.entropy),
      output(at?.probeMax),
      lane(inputs.bias, row.biasStride ?? 0),
      row.biasStride ?? 0,
    ]);
    return slots;
  }

  /** The row's block table, or its slices of this layer: a pool of blocks is a pool of `layers` times as many slices. */
  #slots({ row, tableStart }: LanePart, { index, layerBase, tables }: LayerPlace): Slots {
    if (row.tables === undefined)
      return { table: tables + tableStart * 4, base: layerBase, bytes: this.#blockBytes };
    const { layers, kvHeads } = this.#config;
    const bytes = this.#blockBytes / layers;
    const slices = row.tables(index);
    const longest = Math.max(...row.lengthsAfter.subarray(index * kvHeads, (index + 1) * kvHeads));
    const needed = Math.ceil(longest / 2 ** this.#blockShift);
    if (slices.length < needed || slices.some((slice) => slice >= this.#blocks * layers))
      throw invalidArgument(`lanes.tables(${index})`, slices, `${needed} slices of the pool`);
    const table = this.#room("slices", slices.length * 4);
    new Uint32Array(this.#memory.buffer, table, slices.length).set(slices);
    return { table, base: layerBase - index * bytes, bytes };
  }

  #room(name: AreaName, bytes: number): number {
    const area = this.#areas[name];
    if (bytes > area.bytes) {
      const wanted = Math.max(bytes, 2 * area.bytes);
      area.pointer = this.#take(wanted, name === "outputs" ? "statistics" : "lanes");
      area.bytes = wanted;
    }
    return area.pointer;
  }
}

function emptyArea(): Area {
  return { pointer: 0, bytes: 0 };
}

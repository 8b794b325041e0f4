/**
 * Where the statistics of a row lie: offsets into one array of floats that the kernels fill, and views over it.
 *
 * Sections of a layer come in the order of LayerOutputs; rows are `stride` floats apart, f64 fields lie on even
 * offsets. What the kernels accumulate starts from zero: `clear` says so before a run.
 */
import { StatMask, type StatView } from "../../bindings/statistics.js";

/** Offset of a section that was not asked for. */
export const ABSENT = -1;

/** Offsets in floats, or ABSENT. Shapes as in StatView; entropy is one f64, outputError two. */
export interface LayerOutputs {
  lastRow: number;
  window: number;
  colsum: number;
  moments: number;
  entropy: number;
  probeMax: number;
  keys: number;
  /** Squared Frobenius norms: of the difference of the outputs, and of the output. */
  outputError: number;
}

/** Shape of a model's attention. */
export interface AttentionShape {
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Tokens a query sees, itself included; 0 = all. */
  readonly slidingWindow: number;
}

/** What is measured of a row. */
export interface Measurement {
  /** [layers] StatMask. */
  readonly masks: Uint32Array;
  /** Queries that WINDOW and WINDOW_MOMENTS cover, and that PROBE_MAX takes for probes; at most the row's new tokens. */
  readonly window: number;
  readonly probe: number;
  readonly stride: number;
  /** [layers][ceil(heads / 32)] bitmaps of the heads whose WINDOW rows are written; undefined = all. */
  readonly windowHeads: Uint32Array | undefined;
  /** [layers * kvHeads][bitmapWords] slots that OUTPUT_ERROR keeps; undefined when not asked for. */
  readonly keep: Uint32Array | undefined;
  readonly outputs: readonly LayerOutputs[];
}

/** Gives each section its place from float `start` on. Returns the outputs by layer and where they end. */
export function layOut(
  masks: Uint32Array,
  window: number,
  stride: number,
  { heads, kvHeads, headDim }: AttentionShape,
  start: number,
): { outputs: LayerOutputs[]; end: number } {
  let end = start;
  const outputs = Array.from(masks, (mask): LayerOutputs => {
    const take = (bit: number, floats: number): number => {
      if ((mask & bit) === 0) return ABSENT;
      const at = end;
      end += Math.ceil(floats / 4) * 4;
      return at;
    };
    return {
      lastRow: take(StatMask.LAST_ROW, heads * stride),
      window: take(StatMask.WINDOW, heads * window * stride),
      colsum: take(StatMask.COLSUM, heads * stride),
      moments: take(StatMask.WINDOW_MOMENTS, heads * 2 * stride),
      entropy: take(StatMask.WINDOW_MOMENTS, 2),
      probeMax: take(StatMask.PROBE_MAX, kvHeads * stride),
      keys: take(StatMask.KEYS, kvHeads * stride * headDim),
      outputError: take(StatMask.OUTPUT_ERROR, 4),
    };
  });
  return { outputs, end };
}

/** Zeroes the sections that kernels add to, and WINDOW where they leave heads out. */
export function clear(floats: Float32Array, m: Measurement, { heads, kvHeads }: AttentionShape): void {
  const zero = (at: number, count: number): void => {
    if (at !== ABSENT) floats.fill(0, at, at + count);
  };
  for (const layer of m.outputs) {
    if (m.windowHeads !== undefined) zero(layer.window, heads * m.window * m.stride);
    zero(layer.colsum, heads * m.stride);
    zero(layer.moments, heads * 2 * m.stride);
    zero(layer.entropy, 2);
    zero(layer.probeMax, kvHeads * m.stride);
    zero(layer.outputError, 4);
  }
}

/** A row as far as its views need it. */
export interface MeasuredRow {
  readonly row: number;
  readonly newTokens: number;
  /** [layers * kvHeads] slots before the new tokens, and after them. */
  readonly lengths: Uint32Array;
  readonly lengthsAfter: Uint32Array;
  /** [layers * kvHeads][bitmapWords] slots that queries see; undefined = all. */
  readonly live: Uint32Array | undefined;
  readonly bitmapWords: number;
}

/** The views of one layer; `floats` is the array that the kernels filled. */
export function statView(
  floats: Float32Array,
  row: MeasuredRow,
  m: Measurement,
  shape: AttentionShape,
  layer: number,
): StatView {
  const { heads, kvHeads, headDim } = shape;
  const { stride, window } = m;
  const at = m.outputs[layer];
  const section = (offset: number, count: number): Float32Array | undefined =>
    offset === ABSENT ? undefined : floats.subarray(offset, offset + count);
  const doubles = (offset: number, count: number): Float64Array =>
    new Float64Array(floats.buffer, floats.byteOffset + offset * 4, count);
  const keys = section(at.keys, kvHeads * stride * headDim);
  const [difference, norm] = at.outputError === ABSENT ? [0, 0] : doubles(at.outputError, 2);
  return {
    layer,
    heads,
    kvHeads,
    newTokens: row.newTokens,
    lengths: row.lengthsAfter.subarray(layer * kvHeads, (layer + 1) * kvHeads),
    stride,
    ...(at.lastRow !== ABSENT && { lastRow: section(at.lastRow, heads * stride) }),
    ...(at.window !== ABSENT && { window: section(at.window, heads * window * stride) }),
    ...((at.window !== ABSENT || at.moments !== ABSENT) && { windowRows: window }),
    ...(at.colsum !== ABSENT && {
      colsum: section(at.colsum, heads * stride),
      colcount: queriesPerSlot(row, stride, shape, layer),
    }),
    ...(at.moments !== ABSENT && {
      moments: section(at.moments, heads * 2 * stride),
      entropy: doubles(at.entropy, 1)[0],
    }),
    ...(at.probeMax !== ABSENT && { probeMax: section(at.probeMax, kvHeads * stride) }),
    ...(keys && { keys: { data: keys, headStride: stride * headDim, slotStride: headDim } }),
    ...(at.outputError !== ABSENT && { outputError: Math.sqrt(difference) / (Math.sqrt(norm) + 1e-5) }),
  };
}

/** [kvHeads][stride] how many of the row's queries saw each slot. */
function queriesPerSlot(
  { newTokens, lengths, lengthsAfter, live, bitmapWords }: MeasuredRow,
  stride: number,
  { kvHeads, slidingWindow }: AttentionShape,
  layer: number,
): Uint32Array {
  const counts = new Uint32Array(kvHeads * stride);
  for (let head = 0; head < kvHeads; head++) {
    const lane = layer * kvHeads + head;
    for (let slot = 0; slot < lengthsAfter[lane]; slot++) {
      if (live !== undefined && ((live[lane * bitmapWords + (slot >> 5)] >> (slot & 31)) & 1) === 0) continue;
      const first = Math.max(0, slot - lengths[lane]);
      const end = slidingWindow === 0 ? newTokens : slot - lengths[lane] + slidingWindow;
      counts[head * stride + slot] = Math.max(0, Math.min(newTokens, end) - first);
    }
  }
  return counts;
}

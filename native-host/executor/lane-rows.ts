/**
 * Reads what a run is asked beside its plan, checks it, and gives each row that has lanes or statistics a plain record
 * for the kernels. Nothing has changed when a request is refused (INVALID_ARGUMENT, or UNSUPPORTED for lanes with
 * holes under a sliding window).
 */
import { invalidArgument, QuartermasterError, requireInteger } from "../../bindings/errors.js";
import type { StepResult } from "../../bindings/executor.js";
import type { StepPlan } from "../../bindings/plan.js";
import {
  APPEND_SLOT,
  type LaneRow,
  type RunOptions,
  StatMask,
  type StatisticsRequest,
} from "../../bindings/statistics.js";
import type { GroupLayout } from "./layer-groups.js";
import type { ModelConfig } from "./model-config.js";
import { type AttentionShape, layOut, type MeasuredRow, type Measurement } from "./statistics-layout.js";

/** Every bit of StatMask. */
export const ALL_STATISTICS = Object.values(StatMask).reduce((all, bit) => all | bit, 0);

/** A row whose attention is not the plain one. */
export interface SpecialRow extends MeasuredRow {
  /** [layers * kvHeads] slot that the only new token takes, or APPEND_SLOT; undefined: append everywhere. */
  readonly writeSlots: Uint32Array | undefined;
  /** Slices of a layer's slots, in place of the row's block table. */
  readonly tables?: ((layer: number) => Uint32Array) | undefined;
  readonly measured: Measurement | undefined;
  /** [layers * kvHeads][biasStride] added to the logits of every slot, 0 for those of new tokens. */
  readonly bias?: Float32Array | undefined;
  readonly biasStride?: number;
  /** Position that the first new token is rotated by. Default: the tokens before. */
  readonly position?: number;
}

export interface SpecialRows {
  readonly rows: readonly SpecialRow[];
  /** Floats that the statistics of all rows take. */
  readonly floats: number;
}

const NOTHING: SpecialRows = { rows: [], floats: 0 };

/** The special rows of a plan, in row order. */
export function readSpecialRows(
  plan: StepPlan,
  options: RunOptions | undefined,
  shape: AttentionShape,
  blockSize: number,
): SpecialRows {
  if (options?.lanes === undefined && options?.statistics === undefined) return NOTHING;
  const rows: SpecialRow[] = [];
  let floats = 0;
  for (let row = 0; row < plan.rows; row++) {
    const lanes = options.lanes?.(row);
    const request = options.statistics?.(row);
    if (lanes === undefined && request === undefined) continue;
    const read = readLanes(plan, row, lanes, shape, blockSize);
    let measured: Measurement | undefined;
    if (request !== undefined) ({ measured, floats } = readRequest(request, read, shape, floats));
    rows.push({ ...read, measured });
  }
  return { rows, floats };
}

type Lanes = Omit<SpecialRow, "measured">;

function readLanes(
  plan: StepPlan,
  row: number,
  lanes: LaneRow | undefined,
  { layers, kvHeads, slidingWindow }: AttentionShape,
  blockSize: number,
): Lanes {
  const count = layers * kvHeads;
  const [newTokens, before] = [plan.newTokens[row], plan.computedBefore[row]];
  const room = plan.tableCount[row] * blockSize * (lanes?.tables === undefined ? 1 : layers);
  const bitmapWords = Math.ceil(room / 32);
  if (lanes === undefined) {
    return {
      row,
      newTokens,
      lengths: new Uint32Array(count).fill(before),
      lengthsAfter: new Uint32Array(count).fill(before + newTokens),
      writeSlots: undefined,
      live: undefined,
      bitmapWords,
    };
  }
  requireLength("lanes.lengths", lanes.lengths, count);
  const lengths = lanes.lengths.slice();
  const writeSlots = lanes.writeSlots?.slice();
  if (writeSlots !== undefined) {
    requireLength("lanes.writeSlots", writeSlots, count);
    if (newTokens !== 1)
      throw invalidArgument(
        "lanes.writeSlots",
        newTokens,
        "rows with one new token: slots in place take one",
      );
  }
  const lengthsAfter = lengths.map((length, lane) => {
    const slot = writeSlots?.[lane] ?? APPEND_SLOT;
    const after = slot === APPEND_SLOT ? length + newTokens : length;
    if (length > before)
      throw invalidArgument(`lanes.lengths[${lane}]`, length, `at most the ${before} tokens before`);
    if (after > room)
      throw invalidArgument(
        `lanes.lengths[${lane}]`,
        length,
        `with the new tokens at most ${room}, the row's blocks`,
      );
    if (slot !== APPEND_SLOT && slot >= length)
      throw invalidArgument(
        `lanes.writeSlots[${lane}]`,
        slot,
        `below the lane's length ${length}, or APPEND_SLOT`,
      );
    return after;
  });
  const whole =
    lanes.live === undefined && writeSlots === undefined && lengths.every((length) => length === before);
  if (slidingWindow > 0 && !whole)
    throw new QuartermasterError(
      "UNSUPPORTED",
      "lanes without some tokens, on a model with a sliding window",
      {
        argument: "lanes",
      },
    );
  const live = lanes.live?.slice();
  if (live !== undefined) {
    requireLength("lanes.live", live, count * bitmapWords);
    addNewTokens(live, bitmapWords, lengths, lengthsAfter, writeSlots);
  }
  const { tables, position } = lanes;
  if (position !== undefined) requireInteger("lanes.position", position, 0, before);
  const bias = readBias(lanes, lengths, lengthsAfter, writeSlots);
  return {
    row,
    newTokens,
    lengths,
    lengthsAfter,
    writeSlots,
    live,
    bitmapWords,
    tables,
    ...(position !== undefined && { position }),
    ...bias,
  };
}

/** A bias for every slot that queries see. */
function readBias(
  { bias }: LaneRow,
  lengths: Uint32Array,
  lengthsAfter: Uint32Array,
  writeSlots: Uint32Array | undefined,
): Pick<SpecialRow, "bias" | "biasStride"> {
  if (bias === undefined) return {};
  requireLength("lanes.bias", bias, lengths.length);
  const biasStride = lengthsAfter.reduce((longest, length) => Math.max(longest, length), 0);
  const all = new Float32Array(lengths.length * biasStride);
  lengths.forEach((length, lane) => {
    if (bias[lane].length < length)
      throw invalidArgument(`lanes.bias[${lane}]`, bias[lane].length, `the lane's ${length} slots`);
    for (let slot = 0; slot < length; slot++) {
      const value = bias[lane][slot];
      if (!(Math.abs(value) < Infinity))
        throw invalidArgument(`lanes.bias[${lane}][${slot}]`, value, "a finite number");
      all[lane * biasStride + slot] = value;
    }
    const place = writeSlots?.[lane] ?? APPEND_SLOT;
    if (place !== APPEND_SLOT) all[lane * biasStride + place] = 0;
  });
  return { bias: all, biasStride };
}

/** For executors that attend by original positions and keys alone. Throws UNSUPPORTED. */
export function refuseBias(plan: StepPlan, rows: readonly SpecialRow[]): void {
  const isPlain = ({ bias, position, row }: SpecialRow): boolean =>
    bias === undefined && (position ?? plan.computedBefore[row]) === plan.computedBefore[row];
  if (rows.every(isPlain)) return;
  throw new QuartermasterError("UNSUPPORTED", "this executor weighs no slots and renumbers no positions", {
    argument: "options.lanes",
  });
}

/** Throws UNSUPPORTED where layers keep their tokens in different ways: lanes, statistics and stops are for those alike. */
function refuseInGroups(rows: readonly SpecialRow[], options: RunOptions | undefined): void {
  if (rows.length === 0 && options?.afterLayer === undefined) return;
  throw new QuartermasterError("UNSUPPORTED", "lanes and statistics in a model whose layers differ");
}

/** The special rows of a plan for a model, whatever runs it; a plan of other groups than the model's is refused. */
export function rowsFor(
  plan: StepPlan,
  options: RunOptions | undefined,
  { config, layout, blockSize }: { config: ModelConfig; layout: GroupLayout; blockSize: number },
): SpecialRows {
  const special = readSpecialRows(plan, options, config, blockSize);
  if (config.layerWindows !== undefined || layout.groups.length > 0) refuseInGroups(special.rows, options);
  if ((plan.groups ?? []).length !== layout.groups.length)
    throw invalidArgument("plan.groups", plan.groups, `${layout.groups.length} groups`);
  return special;
}

/** The part of a result that says what was measured; nothing when no row asked. */
export function measuredOf(
  { rows }: SpecialRows,
  view: NonNullable<StepResult["statistics"]>,
): Pick<StepResult, "statistics"> {
  return rows.some((row) => row.measured !== undefined) ? { statistics: view } : {};
}

/** Sets the bits of the slots that new tokens take. */
function addNewTokens(
  bitmaps: Uint32Array,
  words: number,
  lengths: Uint32Array,
  lengthsAfter: Uint32Array,
  writeSlots: Uint32Array | undefined,
): void {
  const set = (lane: number, slot: number): void => {
    bitmaps[lane * words + (slot >> 5)] |= 1 << (slot & 31);
  };
  for (let lane = 0; lane < lengths.length; lane++) {
    for (let slot = lengths[lane]; slot < lengthsAfter[lane]; slot++) set(lane, slot);
    const place = writeSlots?.[lane] ?? APPEND_SLOT;
    if (place !== APPEND_SLOT) set(lane, place);
  }
}

function readRequest(
  request: StatisticsRequest,
  row: Lanes,
  shape: AttentionShape,
  start: number,
): { measured: Measurement; floats: number } {
  const { layers, heads } = shape;
  const masks = readMasks(request.mask, layers);
  const asked = masks.reduce((all, mask) => all | mask, 0);
  const rows = (name: string, value: unknown): number =>
    Math.min(requireInteger(`statistics.${name}`, value, 1, 2 ** 31 - 1), row.newTokens);
  const windowed = (asked & (StatMask.WINDOW | StatMask.WINDOW_MOMENTS)) !== 0;
  const window = windowed ? rows("window", request.window) : 0;
  const probed = (asked & StatMask.PROBE_MAX) !== 0;
  if (probed && row.writeSlots !== undefined)
    throw invalidArgument("statistics.mask", request.mask, "no PROBE_MAX where tokens are written in place");
  const probe = probed ? rows("probe", request.probe ?? row.newTokens) : 0;
  const stride =
    Math.ceil(row.lengthsAfter.reduce((longest, length) => Math.max(longest, length), 0) / 4) * 4;
  const { outputs, end } = layOut(masks, window, stride, shape, start);
  const measured: Measurement = {
    masks,
    window,
    probe,
    stride,
    windowHeads: (asked & StatMask.WINDOW) !== 0 ? readHeads(request.heads, layers, heads) : undefined,
    keep: (asked & StatMask.OUTPUT_ERROR) !== 0 ? readKeep(request.keep, row, shape) : undefined,
    outputs,
  };
  return { measured, floats: end };
}

function readMasks(mask: StatisticsRequest["mask"], layers: number): Uint32Array {
  if (typeof mask !== "number") requireLength("statistics.mask", mask, layers);
  return Uint32Array.from({ length: layers }, (_, layer) =>
    requireInteger("statistics.mask", typeof mask === "number" ? mask : mask[layer], 0, ALL_STATISTICS),
  );
}

function readHeads(
  chosen: StatisticsRequest["heads"],
  layers: number,
  heads: number,
): Uint32Array | undefined {
  if (chosen === undefined) return undefined;
  requireLength("statistics.heads", chosen, layers);
  const words = Math.ceil(heads / 32);
  const bitmaps = new Uint32Array(layers * words);
  chosen.forEach((list, layer) => {
    for (const head of list ?? Array.from({ length: heads }, (_, i) => i)) {
      requireInteger(`statistics.heads[${layer}]`, head, 0, heads - 1);
      bitmaps[layer * words + (head >> 5)] |= 1 << (head & 31);
    }
  });
  return bitmaps;
}

/** Bitmaps of what OUTPUT_ERROR keeps: the list, of what is live, and the new tokens. */
function readKeep(
  keep: StatisticsRequest["keep"],
  row: Lanes,
  { layers, kvHeads }: AttentionShape,
): Uint32Array {
  if (keep === undefined) throw invalidArgument("statistics.keep", keep, "a list of slots for each lane");
  requireLength("statistics.keep", keep, layers * kvHeads);
  const { lengths, bitmapWords: words } = row;
  const bitmaps = new Uint32Array(lengths.length * words);
  keep.forEach((slots, lane) => {
    const count = slots?.length ?? lengths[lane];
    for (let i = 0, last = -1; i < count; i++) {
      const slot =
        slots === null
          ? i
          : requireInteger(`statistics.keep[${lane}]`, slots[i], last + 1, lengths[lane] - 1);
      bitmaps[lane * words + (slot >> 5)] |= 1 << (slot & 31);
      last = slot;
    }
  });
  row.live?.forEach((word, i) => (bitmaps[i] &= word));
  addNewTokens(bitmaps, words, lengths, row.lengthsAfter, row.writeSlots);
  return bitmaps;
}

function requireLength(argument: string, list: ArrayLike<unknown>, length: number): void {
  if (list?.length !== length) throw invalidArgument(argument, list, `${length} entries`);
}

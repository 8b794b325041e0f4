/**
 * Selection: the arithmetic that eviction policies share, over planes in the core's memory.
 *
 *   topk, topkPooled   which slots stay: protections applied, ties to the larger position
 *   argmin             the slot to evict next
 *   accumulate, track  what attention statistics add to the planes of a layer's lanes
 *   pool, scaleAbove   helpers of several methods
 *
 * An argument that is a typed array over the core's memory (a lane's plane, `scores`, `rows`) is used in place; another
 * one is copied in first. What is written to must lie in the core's memory. Every build decides alike, bit for bit.
 */
import type { Core } from "../core.js";
import { invalidArgument, requireInteger } from "../errors.js";

export interface SelectionOptions {
  /** Most scores in one selection, 1 to 2^26: lanes that compete, times their stride. About 28 bytes each. */
  capacity: number;
  /** Most floats of statistics in one call, 0 to 2^28. Default capacity. */
  floats?: number;
}

/** Scores of one lane: f32 (NaN counts as -inf), or u32 such as a time stamp. */
export type Scores = Float32Array | Uint32Array;

/** What stays whatever its score, and how ties end. */
export interface SelectOptions {
  /** Original position of each score's slot, distinct within a lane. Default: its index. */
  positions?: Uint32Array;
  /** Among equal scores the larger tie value survives, before positions are looked at. */
  ties?: Uint32Array;
  /** Positions below it are protected. Default 0. */
  sinks?: number;
  /** Positions from it on are protected. Default: none. */
  recentFrom?: number;
}

export interface PooledOptions extends SelectOptions {
  /** [lanes] scores of each lane; lane l's start at `l * stride`, in every plane. */
  lengths: ArrayLike<number>;
  stride: number;
  /** Slots that each lane keeps at least, or all it has. Default 1. */
  minimum?: number;
}

/** Rows of one layer: what its query heads measured, and the lanes that they read. */
export interface LayerRows {
  /** [heads][rowStride] probabilities, or sums of them. */
  rows: Float32Array;
  rowStride: number;
  heads: number;
  /** [lanes] slots of each lane; heads is a multiple of lanes. */
  lengths: ArrayLike<number>;
  /** Floats or words from one lane's plane to the next. */
  planeStride: number;
  /** How the heads of a lane become one value. Default "sum". */
  aggregate?: AggregateName;
}

export type AggregateName = "sum" | "mean" | "max";

const AGGREGATES: readonly AggregateName[] = ["sum", "mean", "max"];
const U32 = 2 ** 32 - 1;
const MAX_CAPACITY = 2 ** 26;
const NOT_FOUND = -19;
/** Larger than any sum of probabilities. */
const MAX_F32 = 3.4028234663852886e38;

/** Word offsets in the header (docs/abi.md). */
const Header = {
  capacity: 0,
  floats: 1,
  bitmap: 5,
  slots: 6,
  counts: 7,
  lengths: 8,
  scores: 9,
  ties: 10,
  positions: 11,
  rows: 12,
  nans: 13,
} as const;
const HEADER_WORDS = 16;

export class Selection {
  readonly core: Core;
  /** Address of the structure in core memory. */
  readonly pointer: number;
  readonly capacity: number;
  readonly floats: number;
  readonly #at: Readonly<Record<keyof typeof Header, number>>;

  /** Made by `core.selection(...)`. */
  constructor(core: Core, pointer: number) {
    this.core = core;
    this.pointer = pointer;
    const words = new Uint32Array(core.memory.buffer, pointer, HEADER_WORDS);
    this.#at = Object.fromEntries(
      Object.entries(Header).map(([name, word]) => [name, words[word]]),
    ) as Record<keyof typeof Header, number>;
    this.capacity = this.#at.capacity;
    this.floats = this.#at.floats;
  }

  /** Checks options and fills in defaults; the capacity becomes a multiple of 32. */
  static shape(options: SelectionOptions): Required<SelectionOptions> {
    const asked = requireInteger("capacity", options?.capacity, 1, MAX_CAPACITY);
    const capacity = Math.ceil(asked / 32) * 32;
    return { capacity, floats: requireInteger("floats", options.floats ?? capacity, 0, 2 ** 28) };
  }

  /** [capacity] a plane for scores of the caller's own. A view until the memory grows. */
  get scores(): Float32Array {
    return new Float32Array(this.core.memory.buffer, this.#at.scores, this.capacity);
  }

  /** [floats] where statistics may be written so that they need no copy. A view until the memory grows. */
  get rows(): Float32Array {
    return new Float32Array(this.core.memory.buffer, this.#at.rows, this.floats);
  }

  /** NaN scores met since creation. */
  get nanCount(): number {
    return new Uint32Array(this.core.memory.buffer, this.pointer, HEADER_WORDS)[Header.nans];
  }

  /**
   * The `k` slots that stay of one lane's scores, ascending: a view, valid until the next call or growth. All slots
   * when there are fewer. INVALID_ARGUMENT when more than `k` are protected.
   */
  topk(scores: Scores, k: number, options: SelectOptions = {}): Uint32Array {
    const count = scores.length;
    this.#select(scores, k, { ...options, lengths: [count], stride: count, minimum: 0 });
    return new Uint32Array(this.core.memory.buffer, this.#at.slots, Math.min(k, count));
  }

  /**
   * The `k` slots that stay of several lanes that compete, by lane, ascending: views, valid until the next call or
   * growth. INVALID_ARGUMENT when protected slots and minima are more than `k`.
   */
  topkPooled(scores: Scores, k: number, options: PooledOptions): Uint32Array[] {
    this.#select(scores, k, options);
    const { buffer } = this.core.memory;
    const counts = new Uint32Array(buffer, this.#at.counts, options.lengths.length);
    let at = this.#at.slots;
    return Array.from(counts, (count) => {
      const slots = new Uint32Array(buffer, at, count);
      at += count * 4;
      return slots;
    });
  }

  /**
   * The last selection as bits, lane by lane in rows of ceil(stride / 32) words, bit i of word w: slot `32 w + i`. A
   * view until the next call or growth.
   */
  bitmap(lanes: number, stride: number): Uint32Array {
    return new Uint32Array(this.core.memory.buffer, this.#at.bitmap, lanes * Math.ceil(stride / 32));
  }

  /** The slot of the smallest score that is not protected, the smaller position on a tie; undefined: none. */
  argmin(scores: Scores, options: Omit<SelectOptions, "ties"> = {}): number | undefined {
    const { core } = this;
    const count = requireInteger("scores.length", scores?.length, 0, this.capacity);
    const [low, high] = protections(options);
    const kind = kindOf(scores);
    const at = this.#place("scores", scores, this.#at.scores, this.capacity);
    const positions = this.#positions(options.positions, count);
    const slot = core.call(() => {
      const found = core.exports.selectArgmin(at, kind, positions, count, low, high);
      return found === NOT_FOUND ? U32 : found;
    }, "argmin");
    return slot === U32 ? undefined : slot;
  }

  /**
   * Adds what a layer's heads measured to a plane of its lanes: plane[lane][slot] += the aggregate of its heads.
   * NaN and negative values count as 0, values above `limit` as `limit`.
   * @param limit largest value that is right. Default: none; 1.0001 for probabilities.
   * @returns how many values were not right
   */
  accumulate(plane: Float32Array, layer: LayerRows, limit = MAX_F32): number {
    const { exports } = this.core;
    if (!(limit > 0)) throw invalidArgument("limit", limit, "a number above 0");
    const { rows, lengths, lanes, group } = this.#layer(layer, plane.length, "plane");
    const at = this.#inCore("plane", plane);
    const aggregate = aggregateOf(layer.aggregate);
    return this.core.call(
      () =>
        exports.selectAccumulate(
          at,
          layer.planeStride,
          rows,
          layer.rowStride,
          group,
          lengths,
          lanes,
          aggregate,
          Math.min(limit, MAX_F32),
        ),
      "accumulate",
    );
  }

  /**
   * Notes which slots of a layer's lanes are important at step `now`, their aggregate being at least `threshold`: the
   * gap since `lastImportant` raises `interval`, and `lastImportant` becomes `now`. Returns how many were. Source:
   * "LazyEviction: Lagged KV Eviction with Attention Pattern Observation for Efficient Long Reasoning" (arXiv
   * 2506.15969).
   */
  track(
    lastImportant: Uint32Array,
    interval: Uint32Array,
    layer: LayerRows,
    threshold: number,
    now: number,
  ): number {
    const { exports } = this.core;
    if (!(threshold > 0 && threshold <= 1))
      throw invalidArgument("threshold", threshold, "a probability above 0");
    requireInteger("now", now, 0, U32);
    const room = Math.min(lastImportant.length, interval.length);
    const { rows, lengths, lanes, group } = this.#layer(layer, room, "lastImportant, interval");
    const last = this.#inCore("lastImportant", lastImportant);
    const longest = this.#inCore("interval", interval);
    const aggregate = aggregateOf(layer.aggregate ?? "max");
    return this.core.call(
      () =>
        exports.selectTrack(
          last,
          longest,
          layer.planeStride,
          rows,
          layer.rowStride,
          group,
          lengths,
          lanes,
          aggregate,
          threshold,
          now,
        ),
      "track",
    );
  }

  /** Multiplies each lane whose largest value is above `limit` by `factor`; returns how many lanes. */
  scaleAbove(
    plane: Float32Array,
    planeStride: number,
    lengths: ArrayLike<number>,
    limit: number,
    factor: number,
  ): number {
    const at = this.#inCore("plane", plane);
    const list = this.#lengths(lengths, planeStride);
    requireRoom("plane", plane.length, lengths.length * planeStride);
    const { exports } = this.core;
    return this.core.run(
      () => exports.selectScaleAbove(at, planeStride, list, lengths.length, limit, factor),
      "scaleAbove",
    );
  }

  /**
   * Pools along slots: target[row][i] = average (zeros beyond the ends, divisor always `kernel`) or maximum of
   * source[row] around i. Rows lie `stride` floats apart in both, which must not overlap.
   * @param kernel odd, 1 to 4095
   */
  pool(
    source: Float32Array,
    target: Float32Array,
    stride: number,
    lengths: ArrayLike<number>,
    kernel: number,
    kind: "average" | "maximum" = "average",
  ): void {
    const { exports } = this.core;
    if (requireInteger("kernel", kernel, 1, 4095) % 2 === 0)
      throw invalidArgument("kernel", kernel, "an odd number");
    const list = this.#lengths(lengths, stride);
    requireRoom("source", source.length, lengths.length * stride);
    requireRoom("target", target.length, lengths.length * stride);
    const to = this.#inCore("target", target);
    const from = this.#place("source", source, this.#at.rows, this.floats);
    this.core.call(
      () =>
        exports.selectPool(
          from,
          stride,
          to,
          stride,
          list,
          lengths.length,
          kernel,
          kind === "maximum" ? 1 : 0,
        ),
      "pool",
    );
  }

  #select(scores: Scores, k: number, options: PooledOptions): void {
    const { core } = this;
    const { stride } = options;
    const kind = kindOf(scores);
    const lanes = options.lengths.length;
    requireInteger("k", k, 0, U32);
    requireInteger("stride", stride, 0, this.capacity);
    const [low, high] = protections(options);
    const minimum = requireInteger("minimum", options.minimum ?? 1, 0, U32);
    requireRoom("scores", scores.length, lanes * stride);
    requireInteger("scores.length", lanes * stride, 0, this.capacity);
    const lengths = this.#lengths(options.lengths, stride);
    const at = this.#place("scores", scores, this.#at.scores, this.capacity);
    const positions = this.#positions(options.positions, lanes * stride);
    const ties = options.ties ? this.#place("ties", options.ties, this.#at.ties, this.capacity) : 0;
    if (options.ties) requireRoom("ties", options.ties.length, lanes * stride);
    core.call(
      () =>
        core.exports.selectTopk(
          this.pointer,
          at,
          kind,
          ties,
          positions,
          stride,
          lengths,
          lanes,
          k,
          minimum,
          low,
          high,
        ),
      "topk: more slots are protected than may stay",
    );
  }

  #layer(
    layer: LayerRows,
    planeLength: number,
    planes: string,
  ): { rows: number; lengths: number; lanes: number; group: number } {
    const lanes = layer.lengths.length;
    const group = layer.heads / lanes;
    requireInteger("heads / lengths.length", group, 1, 2 ** 16);
    requireInteger("rowStride", layer.rowStride, 1, MAX_CAPACITY);
    requireInteger("planeStride", layer.planeStride, 1, MAX_CAPACITY);
    const lengths = this.#lengths(layer.lengths, Math.min(layer.rowStride, layer.planeStride));
    requireRoom("rows", layer.rows.length, layer.heads * layer.rowStride);
    requireRoom(planes, planeLength, lanes * layer.planeStride);
    return { rows: this.#place("rows", layer.rows, this.#at.rows, this.floats), lengths, lanes, group };
  }

  #lengths(lengths: ArrayLike<number>, most: number): number {
    requireInteger("lengths.length", lengths?.length, 1, this.capacity >> 2);
    for (let i = 0; i < lengths.length; i++) requireInteger(`lengths[${i}]`, lengths[i], 0, most);
    new Uint32Array(this.core.memory.buffer, this.#at.lengths, lengths.length).set(lengths);
    return this.#at.lengths;
  }

  #positions(positions: Uint32Array | undefined, count: number): number {
    if (positions === undefined) return 0;
    requireRoom("positions", positions.length, count);
    return this.#place("positions", positions, this.#at.positions, this.capacity);
  }

  /** Address of an argument: its own when it lies in the core, else that of a copy. */
  #place(name: string, array: Scores, section: number, room: number): number {
    const { buffer } = this.core.memory;
    if (array.buffer === buffer) return array.byteOffset;
    requireInteger(`${name}.length`, array.length, 0, room);
    if (array instanceof Float32Array) new Float32Array(buffer, section, array.length).set(array);
    else new Uint32Array(buffer, section, array.length).set(array);
    return section;
  }

  #inCore(name: string, array: Scores): number {
    if (array.buffer !== this.core.memory.buffer)
      throw invalidArgument(name, array, "a fresh view over the core's memory");
    return array.byteOffset;
  }
}

function kindOf(scores: Scores): number {
  if (scores instanceof Float32Array) return 0;
  if (scores instanceof Uint32Array) return 1;
  throw invalidArgument("scores", scores, "a Float32Array or a Uint32Array");
}

function aggregateOf(name: AggregateName = "sum"): number {
  const index = AGGREGATES.indexOf(name);
  if (index < 0) throw invalidArgument("aggregate", name, AGGREGATES.join(", "));
  return index;
}

function protections({ sinks, recentFrom }: SelectOptions): [low: number, high: number] {
  return [
    requireInteger("sinks", sinks ?? 0, 0, U32),
    requireInteger("recentFrom", recentFrom ?? U32, 0, U32),
  ];
}

function requireRoom(name: string, length: number, needed: number): void {
  if (!(length >= needed)) throw invalidArgument(`${name}.length`, length, `at least ${needed}`);
}

/**
 * planAttention: which schedule and which tiles move the fewest words.
 *
 * Candidates: rows with 1, 2, 4, ... keys a tile and as many queries as fit; columns with 1, 2, 4, ... queries and as many
 * keys as fit; square tiles from the largest that fits down to half of it. The exact counts of cost.ts decide; of equal
 * ones rows come first, then the larger tile that stays; of equal squares the smaller, which leaves room. A kernel that is
 * bound to one width of key tile (`columns`), or to multiples of a vector (`align`), says so and is told what that costs.
 */
import { invalidArgument, requireInteger } from "../../bindings/errors.js";
import {
  attentionBound,
  type AttentionShape,
  columnsWords,
  mostColumns,
  mostRows,
  mostSide,
  requireShape,
  rowsWords,
  squareWords,
} from "./cost.js";

export type Schedule = "rows" | "columns" | "square";

export interface PlanOptions extends AttentionShape {
  /** Words of fast memory, 5 to 2^40. Default 8192: a first-level cache of 32 KiB. */
  readonly memory?: number;
  /** Query heads that share the KV head, 1 to 2^16: `queries` rows each. Default 1. */
  readonly group?: number;
  /** Rows and columns, or the side, are multiples of it. Default 1. */
  readonly align?: number;
  /** Keys a tile, where a kernel fixes it; rows are then the only schedule. */
  readonly columns?: number;
  /** Words of slow memory that scores may take. Default: none, which rules the square schedule out. */
  readonly scratch?: number;
}

export interface AttentionPlan {
  readonly schedule: Schedule;
  /** Queries a tile; the side of a square. */
  readonly rows: number;
  /** Keys a tile; the side of a square. */
  readonly columns: number;
  /** Words moved. */
  readonly words: number;
  readonly bound: number;
  /** words / bound. */
  readonly ratio: number;
  /** words over those of the best plan without `align` and `columns`. */
  readonly alignmentCost: number;
  /** Words that the heads of the group would move apart, each by its own best plan, over these. */
  readonly sharing: number;
  /** Words of scratch that the square schedule wants and was not given, where it would move fewer; else 0. */
  readonly scratchWanted: number;
}

interface Candidate {
  readonly schedule: Schedule;
  readonly rows: number;
  readonly columns: number;
  readonly words: number;
}

const EMPTY: AttentionPlan = {
  schedule: "rows",
  rows: 0,
  columns: 0,
  words: 0,
  bound: 0,
  ratio: 1,
  alignmentCost: 1,
  sharing: 1,
  scratchWanted: 0,
};

/**
 * The plan with the fewest words. All zeros without queries or keys. Throws INVALID_ARGUMENT for sizes out of range, and
 * where no tile of an allowed schedule fits `memory`.
 */
export function planAttention(options: PlanOptions): AttentionPlan {
  requireShape(options);
  const memory = requireInteger("memory", options.memory ?? 8192, 5, 2 ** 40);
  const group = requireInteger("group", options.group ?? 1, 1, 2 ** 16);
  const align = requireInteger("align", options.align ?? 1, 1, 4096);
  const scratch = requireInteger("scratch", options.scratch ?? 0, 0, 2 ** 52);
  if (options.columns !== undefined) requireInteger("columns", options.columns, 1, 2 ** 16);
  const { queries, keys, headDim, columns } = options;
  if (queries === 0 || keys === 0) return EMPTY;

  const shape = { queries: queries * group, keys, headDim };
  const scores = shape.queries * keys;
  const cheapest = (of: AttentionShape, multiple: number, width?: number): Candidate | undefined =>
    best(
      candidates(of, memory, multiple, width).filter(
        ({ schedule }) => schedule !== "square" || scratch >= scores,
      ),
    );
  const chosen = cheapest(shape, align, columns);
  if (chosen === undefined)
    throw invalidArgument("memory", memory, "words for a tile of an allowed schedule (see cost.ts)");
  const { square } = columns === undefined ? bestOfEach(shape, memory) : {};
  const bound = attentionBound(shape, memory);
  return {
    ...chosen,
    bound,
    ratio: chosen.words / bound,
    alignmentCost: chosen.words / cheapest(shape, 1)!.words,
    sharing: (group * cheapest({ queries, keys, headDim }, align, columns)!.words) / chosen.words,
    scratchWanted: scratch < scores && square !== undefined && square.words < chosen.words ? scores : 0,
  };
}

/** The best plan of each schedule that fits. */
export function bestOfEach(shape: AttentionShape, memory: number): Partial<Record<Schedule, Candidate>> {
  requireShape(shape);
  const all = candidates(shape, memory, 1);
  const found: Partial<Record<Schedule, Candidate>> = {};
  for (const schedule of ["rows", "columns", "square"] as const) {
    const candidate = best(all.filter((one) => one.schedule === schedule));
    if (candidate) found[schedule] = candidate;
  }
  return found;
}

/** In order of preference among equals. */
function candidates(shape: AttentionShape, memory: number, align: number, fixed?: number): Candidate[] {
  const { queries, keys, headDim } = shape;
  const down = (count: number, most: number): number =>
    Math.floor(Math.min(count, Math.ceil(most / align) * align) / align) * align;
  const list: Candidate[] = [];
  const widths = fixed === undefined ? powers(align, keys) : [fixed];
  for (const columns of widths) {
    const rows = down(mostRows(columns, headDim, memory), queries);
    if (rows > 0) list.push({ schedule: "rows", rows, columns, words: rowsWords(shape, { rows }) });
  }
  if (fixed !== undefined) return list;
  for (const rows of powers(align, queries)) {
    const columns = down(mostColumns(rows, headDim, memory), keys);
    if (columns > 0)
      list.push({ schedule: "columns", rows, columns, words: columnsWords(shape, { columns }) });
  }
  const largest = mostSide(memory);
  for (let side = Math.floor(largest / align) * align; side >= Math.max(1, largest / 2); side -= align)
    list.push({ schedule: "square", rows: side, columns: side, words: squareWords(shape, side) });
  return list;
}

function powers(from: number, most: number): number[] {
  const list: number[] = [];
  for (let value = from; value < 2 * most || value === from; value *= 2) list.push(value);
  return list;
}

const PREFERENCE: Readonly<Record<Schedule, number>> = { rows: 0, columns: 1, square: 2 };

/** What stays in fast memory while the other side passes; larger first, but for squares. */
function stays({ schedule, rows, columns }: Candidate): number {
  return schedule === "rows" ? rows : schedule === "columns" ? columns : -rows;
}

function best(list: readonly Candidate[]): Candidate | undefined {
  return [...list].sort(
    (a, b) => a.words - b.words || PREFERENCE[a.schedule] - PREFERENCE[b.schedule] || stays(b) - stays(a),
  )[0];
}

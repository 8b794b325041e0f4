/**
 * Words that exact attention moves between a small fast memory and a large slow one.
 *
 * The fast memory holds `memory` words and is managed by hand. N queries meet N keys of `headDim` numbers. Lower bounds, by
 * order of growth, and the schedules that reach them:
 *
 *   memory >= headDim^2    N^2 headDim^2 / memory           rows: queries stay, keys pass (FlashAttention-2)
 *   memory <  headDim^2    N^2 headDim / sqrt(memory)       square: two tiled matrix products, scores in slow memory
 *   always                 N headDim
 *
 * Source: Saha and Ye, "The I/O Complexity of Attention, or How Optimal is Flash Attention?" (ICML 2024, arXiv 2402.07443)
 * for the bounds; the counts of the schedules are our own. All are in words of 4 bytes and for one head without a mask.
 */
import { requireInteger } from "../../bindings/errors.js";

/** Attention of one KV head. */
export interface AttentionShape {
  /** Query rows, 0 to 2^26: those of all heads and sequences that share the keys. */
  readonly queries: number;
  /** Keys, 0 to 2^26. */
  readonly keys: number;
  /** Numbers in a row of Q, K and V, 1 to 2^16. */
  readonly headDim: number;
}

/** Tile of `rows` queries and `columns` keys. */
export interface Tile {
  readonly rows: number;
  readonly columns: number;
}

const MOST_ROWS = 2 ** 26;

/** Throws INVALID_ARGUMENT naming the size that is out of its range. */
export function requireShape({ queries, keys, headDim }: AttentionShape): void {
  requireInteger("queries", queries, 0, MOST_ROWS);
  requireInteger("keys", keys, 0, MOST_ROWS);
  requireInteger("headDim", headDim, 1, 2 ** 16);
}

/** Order of growth of the fewest words, not a count. Queries and keys may differ: N is then their mean. */
export function attentionBound({ queries, keys, headDim }: AttentionShape, memory: number): number {
  const pairs = queries * keys;
  const large = (pairs * headDim * headDim) / memory;
  const small = (pairs * headDim) / Math.sqrt(memory);
  return Math.max(((queries + keys) / 2) * headDim, Math.min(large, small));
}

/** Words in fast memory for a tile: Q and output rows, running maxima and sums, K and V rows, scores. */
export function tileWords({ rows, columns }: Tile, headDim: number): number {
  return 2 * rows * headDim + 2 * rows + 2 * columns * headDim + rows * columns;
}

/** Most rows that fit beside `columns` keys; 0 or less: none. A tile is as wide as it is tall, so this serves both ways. */
export function mostRows(columns: number, headDim: number, memory: number): number {
  return Math.floor((memory - 2 * columns * headDim) / (2 * headDim + 2 + columns));
}

/** Most columns that fit beside `rows` queries; 0 or less: none. */
export function mostColumns(rows: number, headDim: number, memory: number): number {
  return Math.floor((memory - 2 * rows * headDim - 2 * rows) / (2 * headDim + rows));
}

/** Query tiles stay, keys pass. */
export function rowsWords({ queries, keys, headDim }: AttentionShape, { rows }: Pick<Tile, "rows">): number {
  return 2 * queries * headDim + Math.ceil(queries / rows) * 2 * keys * headDim;
}

/** Key tiles stay, queries pass; output and statistics are read and written again for each key tile. */
export function columnsWords(
  { queries, keys, headDim }: AttentionShape,
  { columns }: Pick<Tile, "columns">,
): number {
  const passes = Math.ceil(keys / columns);
  return 2 * keys * headDim + passes * queries * headDim + (2 * passes - 1) * queries * (headDim + 2);
}

/** Words in fast memory for a square tile: a block of products, two vectors, maxima and sums of its rows. */
export function squareTileWords(side: number): number {
  return side * side + 4 * side;
}

/** Largest square tile that fits; 0: none. */
export function mostSide(memory: number): number {
  return Math.max(0, Math.floor(Math.sqrt(memory + 4) - 2));
}

/** Q K^T by tiles into slow memory, then exp(S - m) V by tiles. */
export function squareWords({ queries, keys, headDim }: AttentionShape, side: number): number {
  const rowTiles = Math.ceil(queries / side);
  const keyTiles = Math.ceil(keys / side);
  const slices = Math.ceil(headDim / side);
  const scores =
    keys * headDim * rowTiles +
    queries * headDim * keyTiles +
    queries * keys +
    2 * queries * keyTiles +
    2 * queries * (keyTiles - 1);
  const values =
    queries * keys * slices + keys * headDim * rowTiles + 2 * queries * slices + queries * headDim;
  return scores + values;
}

/**
 * Attention by three schedules over a TwoLevelMemory: real results, and the words that they moved.
 *
 *   rowsAttention     a tile of queries stays with its sums, keys pass (FlashAttention-2, arXiv 2307.08691)
 *   columnsAttention  a tile of keys stays, queries pass with their sums (FlashAttention, arXiv 2205.14135)
 *   squareAttention   scores by square tiles into slow memory, then their product with V; for memories below headDim^2
 *
 * The softmax is online (arXiv 1805.02867): sums are relative to the running maximum and rescaled when it grows. With
 * `causal`, query i sees the keys up to i + keys - queries, and tiles that nobody sees are not visited.
 */
import { invalidArgument } from "../../bindings/errors.js";
import { type AttentionShape, requireShape, type Tile } from "./cost.js";
import type { TwoLevelMemory } from "./two-level-memory.js";

/** Row-major arrays in slow memory. */
export interface AttentionInput extends AttentionShape {
  /** [queries][headDim]. */
  readonly q: Float32Array;
  /** [keys][headDim]. */
  readonly k: Float32Array;
  /** [keys][headDim]. */
  readonly v: Float32Array;
  /** At least as many keys as queries. Default false. */
  readonly causal?: boolean;
}

/** [first, first + count) of `total`. */
interface Span {
  readonly first: number;
  readonly count: number;
}

function* spans(total: number, size: number): Generator<Span> {
  for (let first = 0; first < total; first += size) yield { first, count: Math.min(size, total - first) };
}

function check({ q, k, v, ...shape }: AttentionInput): void {
  requireShape(shape);
  const { queries, keys, headDim, causal } = shape;
  for (const [name, array, rows] of [
    ["q", q, queries],
    ["k", k, keys],
    ["v", v, keys],
  ] as const)
    if (array.length !== rows * headDim)
      throw invalidArgument(`${name}.length`, array.length, `${rows} rows of ${headDim}`);
  if (causal && queries > keys) throw invalidArgument("queries", queries, `at most the ${keys} keys`);
}

/** Keys that a query sees. */
function seen({ queries, keys, causal }: AttentionInput, query: number): number {
  return causal ? query + 1 + keys - queries : keys;
}

/** scores[i][j] = q[i] . k[j] / sqrt(headDim), -Infinity where query i does not see key j. */
function score(
  input: AttentionInput,
  q: Float32Array,
  k: Float32Array,
  queries: Span,
  keys: Span,
  scores: Float32Array,
): void {
  const { headDim } = input;
  const scale = 1 / Math.sqrt(headDim);
  for (let i = 0; i < queries.count; i++) {
    const visible = seen(input, queries.first + i) - keys.first;
    for (let j = 0; j < keys.count; j++) {
      let sum = 0;
      for (let t = 0; t < headDim; t++) sum += q[i * headDim + t] * k[j * headDim + t];
      scores[i * keys.count + j] = j < visible ? sum * scale : -Infinity;
    }
  }
}

/** One tile of keys enters the running maxima, sums and outputs of a tile of queries. */
function absorb(
  scores: Float32Array,
  v: Float32Array,
  headDim: number,
  maxima: Float32Array,
  sums: Float32Array,
  output: Float32Array,
): void {
  const columns = v.length / headDim;
  for (let i = 0; i < maxima.length; i++) {
    let largest = maxima[i];
    for (let j = 0; j < columns; j++) largest = Math.max(largest, scores[i * columns + j]);
    if (largest === -Infinity) continue;
    const rescale = Math.exp(maxima[i] - largest);
    maxima[i] = largest;
    sums[i] *= rescale;
    for (let t = 0; t < headDim; t++) output[i * headDim + t] *= rescale;
    for (let j = 0; j < columns; j++) {
      const weight = Math.exp(scores[i * columns + j] - largest);
      sums[i] += weight;
      for (let t = 0; t < headDim; t++) output[i * headDim + t] += weight * v[j * headDim + t];
    }
  }
}

function divide(output: Float32Array, sums: Float32Array): void {
  const width = output.length / sums.length;
  for (let i = 0; i < output.length; i++) output[i] /= sums[Math.floor(i / width)];
}

/** Returns [queries][headDim]. Throws OUT_OF_MEMORY where the tile does not fit. */
export function rowsAttention(input: AttentionInput, memory: TwoLevelMemory, tile: Tile): Float32Array {
  check(input);
  const { queries, keys, headDim } = input;
  const result = new Float32Array(queries * headDim);
  for (const rows of spans(queries, tile.rows)) {
    const q = memory.load("q", input.q, rows.first * headDim, rows.count * headDim);
    const output = memory.make(rows.count * headDim);
    const maxima = memory.make(rows.count).fill(-Infinity);
    const sums = memory.make(rows.count);
    const visible = seen(input, rows.first + rows.count - 1);
    for (const columns of spans(Math.min(keys, visible), tile.columns)) {
      const k = memory.load("k", input.k, columns.first * headDim, columns.count * headDim);
      const v = memory.load("v", input.v, columns.first * headDim, columns.count * headDim);
      const scores = memory.make(rows.count * columns.count);
      score(input, q, k, rows, columns, scores);
      absorb(scores, v, headDim, maxima, sums, output);
      memory.free(k, v, scores);
    }
    divide(output, sums);
    memory.store("output", output, result, rows.first * headDim);
    memory.free(q, output, maxima, sums);
  }
  return result;
}

/** Returns [queries][headDim]. Throws OUT_OF_MEMORY where the tile does not fit. */
export function columnsAttention(input: AttentionInput, memory: TwoLevelMemory, tile: Tile): Float32Array {
  check(input);
  const { queries, keys, headDim } = input;
  const result = new Float32Array(queries * headDim);
  const statistics = new Float32Array(2 * queries);
  for (const columns of spans(keys, tile.columns)) {
    const k = memory.load("k", input.k, columns.first * headDim, columns.count * headDim);
    const v = memory.load("v", input.v, columns.first * headDim, columns.count * headDim);
    for (const rows of spans(queries, tile.rows)) {
      const lastQuery = rows.first + rows.count - 1;
      if (seen(input, lastQuery) <= columns.first) continue;
      const isLast = columns.first + columns.count >= Math.min(keys, seen(input, lastQuery));
      const fresh = columns.first === 0;
      const at = rows.first * headDim;
      const q = memory.load("q", input.q, at, rows.count * headDim);
      const output = fresh
        ? memory.make(rows.count * headDim)
        : memory.load("output", result, at, rows.count * headDim);
      const maxima = fresh
        ? memory.make(rows.count).fill(-Infinity)
        : memory.load("statistics", statistics, rows.first, rows.count);
      const sums = fresh
        ? memory.make(rows.count)
        : memory.load("statistics", statistics, queries + rows.first, rows.count);
      const scores = memory.make(rows.count * columns.count);
      score(input, q, k, rows, columns, scores);
      absorb(scores, v, headDim, maxima, sums, output);
      if (isLast) divide(output, sums);
      memory.store("output", output, result, at);
      memory.store("statistics", maxima, statistics, rows.first);
      memory.store("statistics", sums, statistics, queries + rows.first);
      memory.free(q, output, maxima, sums, scores);
    }
    memory.free(k, v);
  }
  return result;
}

/** Returns [queries][headDim]. Throws OUT_OF_MEMORY where a square of this side does not fit. */
export function squareAttention(input: AttentionInput, memory: TwoLevelMemory, side: number): Float32Array {
  check(input);
  const scores = new Float32Array(input.queries * input.keys);
  const statistics = new Float32Array(2 * input.queries);
  scoreSquares(input, memory, side, scores, statistics);
  return weighSquares(input, memory, side, scores, statistics);
}

/** Raw scores, since a maximum is final only after the last of its row, and the maxima and sums of rows. */
function scoreSquares(
  input: AttentionInput,
  memory: TwoLevelMemory,
  side: number,
  scores: Float32Array,
  statistics: Float32Array,
): void {
  const { queries, keys, headDim } = input;
  const scale = 1 / Math.sqrt(headDim);
  for (const rows of spans(queries, side)) {
    const visible = Math.min(keys, seen(input, rows.first + rows.count - 1));
    for (const columns of spans(visible, side)) {
      const products = memory.make(rows.count * columns.count);
      for (let t = 0; t < headDim; t++) {
        const q = memory.load("q", input.q, rows.first * headDim + t, rows.count, headDim);
        const k = memory.load("k", input.k, columns.first * headDim + t, columns.count, headDim);
        addOuter(products, q, k);
        memory.free(q, k);
      }
      const fresh = columns.first === 0;
      const maxima = fresh
        ? memory.make(rows.count).fill(-Infinity)
        : memory.load("statistics", statistics, rows.first, rows.count);
      const sums = fresh
        ? memory.make(rows.count)
        : memory.load("statistics", statistics, queries + rows.first, rows.count);
      for (let i = 0; i < products.length; i++) {
        const [query, key] = [
          rows.first + Math.floor(i / columns.count),
          columns.first + (i % columns.count),
        ];
        products[i] = key < seen(input, query) ? products[i] * scale : -Infinity;
      }
      countIn(products, columns.count, maxima, sums);
      memory.store("statistics", maxima, statistics, rows.first);
      memory.store("statistics", sums, statistics, queries + rows.first);
      memory.store("scores", products, scores, rows.first * keys + columns.first, columns.count, keys);
      memory.free(products, maxima, sums);
    }
  }
}

function addOuter(products: Float32Array, left: Float32Array, right: Float32Array): void {
  for (let i = 0; i < left.length; i++)
    for (let j = 0; j < right.length; j++) products[i * right.length + j] += left[i] * right[j];
}

/** A tile of scores enters the maxima and sums of its rows. */
function countIn(scores: Float32Array, columns: number, maxima: Float32Array, sums: Float32Array): void {
  for (let i = 0; i < maxima.length; i++) {
    const row = scores.subarray(i * columns, (i + 1) * columns);
    const largest = row.reduce((most, value) => Math.max(most, value), maxima[i]);
    if (largest === -Infinity) continue;
    sums[i] *= Math.exp(maxima[i] - largest);
    for (const value of row) sums[i] += Math.exp(value - largest);
    maxima[i] = largest;
  }
}

/** exp(S - m) V / l, one key at a time. */
function weighSquares(
  input: AttentionInput,
  memory: TwoLevelMemory,
  side: number,
  scores: Float32Array,
  statistics: Float32Array,
): Float32Array {
  const { queries, keys, headDim } = input;
  const result = new Float32Array(queries * headDim);
  for (const rows of spans(queries, side)) {
    const visible = Math.min(keys, seen(input, rows.first + rows.count - 1));
    for (const slice of spans(headDim, side)) {
      const maxima = memory.load("statistics", statistics, rows.first, rows.count);
      const sums = memory.load("statistics", statistics, queries + rows.first, rows.count);
      const products = memory.make(rows.count * slice.count);
      for (let j = 0; j < visible; j++) {
        const weights = memory.load("scores", scores, rows.first * keys + j, rows.count, keys);
        const v = memory.load("v", input.v, j * headDim + slice.first, slice.count);
        for (let i = 0; i < rows.count; i++) weights[i] = Math.exp(weights[i] - maxima[i]);
        addOuter(products, weights, v);
        memory.free(weights, v);
      }
      divide(products, sums);
      const at = rows.first * headDim + slice.first;
      memory.store("output", products, result, at, slice.count, headDim);
      memory.free(maxima, sums, products);
    }
  }
  return result;
}

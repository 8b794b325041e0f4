/**
 * Attention over ragged lanes, and its statistics.
 *
 * A row's lanes (one a KV head) hold different numbers of slots, all found through the row's one block table: slot s of
 * a lane lies in block table[s / blockSize] at s % blockSize. Query t of the row sees the `length` slots held before,
 * and the new tokens up to itself in the slots after them; where its only new token took a slot in place, it sees the
 * `length` slots. The arithmetic is that of attention.ts, in the same order: a lane that holds every token gives the
 * bits of a paged row.
 *
 * What is measured is read off the weights that attention has just used, so that nothing is asked of K twice, except
 * for PROBE_MAX, whose softmax is another one. Every entry accumulates in order of the queries: chunks of a row may be
 * measured in several calls.
 */
import { addValues, scoreHead, softmax } from "./attention";
import { log4, sumLanes } from "./math";

/** Value of a write slot that says append. */
const APPEND: u32 = 0xffffffff;

/** A row in one layer, as the host writes it. Pointers are 0 where there is nothing. All fields u32. */
@unmanaged
class LaneJob {
  /** Block ids of the row. */
  table: u32;
  /** [kvHeads] slots held before the row's new tokens. */
  lengths: u32;
  /** [kvHeads] slot that the only new token takes, or APPEND. */
  writeSlots: u32;
  /** [kvHeads][bitmapWords] slots that queries see. */
  live: u32;
  bitmapWords: u32;
  /** Index within the row of the call's first query, and new tokens of the row. */
  firstQuery: u32;
  rowTokens: u32;
  /** Floats from one row of statistics to the next. */
  stride: u32;
  /** Last queries that WINDOW and WINDOW_MOMENTS cover, and that PROBE_MAX takes for probes. */
  window: u32;
  probe: u32;
  /** Bitmap of the query heads whose WINDOW rows are written. */
  windowHeads: u32;
  /** f32 outputs, shapes as in bindings/statistics.ts; `entropy` is one f64. */
  lastRow: u32;
  windowOut: u32;
  colsum: u32;
  moments: u32;
  entropy: u32;
  probeMax: u32;
  /** [kvHeads][biasStride] f32 added to the logits of slots. */
  bias: u32;
  biasStride: u32;
}

// @ts-ignore: decorator
@inline
function takesPlace(job: LaneJob, kvHead: u32): bool {
  return job.writeSlots != 0 && load<u32>(job.writeSlots + (kvHead << 2)) != APPEND;
}

/** Writes K and V of `n` tokens of the row, from query `firstQuery` on, to their slots in each lane. */
export function writeLanes(
  k: usize,
  v: usize,
  n: u32,
  jobPtr: usize,
  kvHeads: u32,
  headDim: u32,
  blockShift: u32,
  layerBase: usize,
  blockBytes: usize,
): void {
  const job = changetype<LaneJob>(jobPtr);
  const headBytes = (<usize>headDim) << 2;
  const planeBytes = (<usize>kvHeads * headBytes) << blockShift;
  const mask: u32 = (1 << blockShift) - 1;
  for (let token: u32 = 0; token < n; token++) {
    for (let head: u32 = 0; head < kvHeads; head++) {
      const slot = takesPlace(job, head)
        ? load<u32>(job.writeSlots + (head << 2))
        : load<u32>(job.lengths + (head << 2)) + job.firstQuery + token;
      const block = <usize>load<u32>(job.table + ((slot >> blockShift) << 2));
      const within = ((<usize>head * headBytes) << blockShift) + <usize>(slot & mask) * headBytes;
      const to = layerBase + block * blockBytes + within;
      const from = (<usize>token * kvHeads + head) * headBytes;
      memory.copy(to, k + from, headBytes);
      memory.copy(to + planeBytes, v + from, headBytes);
    }
  }
}

/**
 * Attention of `n` queries of one row, with what its job measures. `slidingWindow` counts slots, which is right for
 * lanes that hold every token. `scores`: f32[longest + 4].
 */
export function attentionLanes(
  q: usize,
  n: u32,
  jobPtr: usize,
  heads: u32,
  kvHeads: u32,
  headDim: u32,
  blockShift: u32,
  layerBase: usize,
  blockBytes: usize,
  slidingWindow: u32,
  scores: usize,
  out: usize,
): void {
  const job = changetype<LaneJob>(jobPtr);
  const headBytes = (<usize>headDim) << 2;
  const planeBytes = (<usize>kvHeads * headBytes) << blockShift;
  const group = heads / kvHeads;
  const scale: f32 = 1 / sqrt<f32>(<f32>headDim);
  for (let token: u32 = 0; token < n; token++) {
    const query = job.firstQuery + token;
    for (let head: u32 = 0; head < heads; head++) {
      const kvHead = head / group;
      const length = load<u32>(job.lengths + (kvHead << 2));
      const seen = takesPlace(job, kvHead) ? length : length + query + 1;
      const first: u32 = slidingWindow != 0 && seen > slidingWindow ? seen - slidingWindow : 0;
      const count = seen - first;
      const live = job.live == 0 ? 0 : job.live + ((kvHead * job.bitmapWords) << 2);
      const at = (<usize>token * heads + head) * headBytes;
      const base = layerBase + ((<usize>kvHead * headBytes) << blockShift);
      const values = base + planeBytes;
      scoreHead(
        q + at,
        base,
        job.table,
        first,
        count,
        live,
        headBytes,
        blockShift,
        blockBytes,
        scale,
        scores,
      );
      const bias = job.bias == 0 ? 0 : job.bias + ((kvHead * job.biasStride) << 2);
      if (bias != 0) addRow(scores, bias + (first << 2), count);
      const inverse = softmax(scores, count);
      addValues(
        out + at,
        values,
        job.table,
        first,
        count,
        live,
        headBytes,
        blockShift,
        blockBytes,
        scores,
        inverse,
      );
      measure(job, query, head, length, first, seen, scores, inverse);
      if (job.probeMax != 0 && query + job.probe >= job.rowTokens && length != 0) {
        const cached = min(length, slidingWindow == 0 ? length : max<u32>(length, first) - first);
        scoreHead(
          q + at,
          base,
          job.table,
          length - cached,
          cached,
          live,
          headBytes,
          blockShift,
          blockBytes,
          scale,
          scores,
        );
        if (bias != 0) addRow(scores, bias + ((length - cached) << 2), cached);
        const probe = softmax(scores, cached);
        takeLargest(job.probeMax + ((kvHead * job.stride + length - cached) << 2), scores, cached, probe);
      }
    }
  }
}

/** Everything but PROBE_MAX of one query head, from its weights over slots [first, seen). */
function measure(
  job: LaneJob,
  query: u32,
  head: u32,
  length: u32,
  first: u32,
  seen: u32,
  weights: usize,
  inverse: f32,
): void {
  const last = query + 1 == job.rowTokens;
  const inWindow = query + job.window >= job.rowTokens;
  const windowed = inWindow && (job.windowOut | job.moments) != 0;
  if (job.colsum == 0 && !(last && job.lastRow != 0) && !windowed) return;
  const count = seen - first;
  // Rounded up to whole vectors: the weights past `count` are 0.
  const scale = f32x4.splat(inverse);
  for (let i: usize = 0; i < <usize>count; i += 4) {
    v128.store(weights + (i << 2), f32x4.mul(v128.load(weights + (i << 2)), scale));
  }
  if (job.colsum != 0) addRow(job.colsum + ((head * job.stride + first) << 2), weights, count);
  if (last && job.lastRow != 0)
    writeRow(job.lastRow + ((head * job.stride) << 2), weights, first, seen, seen);
  if (!inWindow) return;
  // Slots of the lane once the whole row is in it.
  const total = seen + job.rowTokens - 1 - query;
  if (job.windowOut != 0 && measuresHead(job, head)) {
    const row = head * job.window + query + job.window - job.rowTokens;
    writeRow(job.windowOut + ((row * job.stride) << 2), weights, first, seen, total);
  }
  if (job.moments == 0) return;
  const sums = job.moments + ((2 * head * job.stride + first) << 2);
  addMoments(sums, sums + (job.stride << 2), weights, count);
  const outside = total - min(total, job.window);
  if (outside > first) {
    const entropy = entropyOf(weights, min(outside, seen) - first);
    store<f64>(job.entropy, load<f64>(job.entropy) - entropy);
  }
}

// @ts-ignore: decorator
@inline
function measuresHead(job: LaneJob, head: u32): bool {
  if (job.windowHeads == 0) return true;
  return ((load<u32>(job.windowHeads + ((head >> 5) << 2)) >> (head & 31)) & 1) != 0;
}

/** row[0, total) = 0 but for the probabilities at [first, seen). */
function writeRow(row: usize, weights: usize, first: u32, seen: u32, total: u32): void {
  memory.fill(row, 0, (<usize>first) << 2);
  memory.copy(row + ((<usize>first) << 2), weights, (<usize>(seen - first)) << 2);
  memory.fill(row + ((<usize>seen) << 2), 0, (<usize>(total - seen)) << 2);
}

function addRow(sums: usize, x: usize, count: u32): void {
  let i: usize = 0;
  for (; i + 4 <= <usize>count; i += 4) {
    v128.store(sums + (i << 2), f32x4.add(v128.load(sums + (i << 2)), v128.load(x + (i << 2))));
  }
  for (; i < <usize>count; i++)
    store<f32>(sums + (i << 2), load<f32>(sums + (i << 2)) + load<f32>(x + (i << 2)));
}

function addMoments(sums: usize, squares: usize, x: usize, count: u32): void {
  let i: usize = 0;
  for (; i + 4 <= <usize>count; i += 4) {
    const value = v128.load(x + (i << 2));
    v128.store(sums + (i << 2), f32x4.add(v128.load(sums + (i << 2)), value));
    v128.store(squares + (i << 2), f32x4.add(v128.load(squares + (i << 2)), f32x4.mul(value, value)));
  }
  for (; i < <usize>count; i++) {
    const value = load<f32>(x + (i << 2));
    store<f32>(sums + (i << 2), load<f32>(sums + (i << 2)) + value);
    store<f32>(squares + (i << 2), load<f32>(squares + (i << 2)) + value * value);
  }
}

/** Sum of a ln(a + 1e-10) over `count` probabilities. */
function entropyOf(x: usize, count: u32): f64 {
  const tiny = f32x4.splat(1e-10);
  let total: f64 = 0;
  let i: usize = 0;
  for (; i + 4 <= <usize>count; i += 4) {
    const value = v128.load(x + (i << 2));
    total += <f64>sumLanes(f32x4.mul(value, log4(f32x4.add(value, tiny))));
  }
  for (; i < <usize>count; i++) {
    const value = load<f32>(x + (i << 2));
    const logarithm = log4(f32x4.splat(value + <f32>1e-10));
    total += <f64>(value * f32x4.extract_lane(logarithm, 0));
  }
  return total;
}

/** Where no cached slot is live the weights are not numbers, and nothing is larger than before. */
function takeLargest(largest: usize, weights: usize, count: u32, inverse: f32): void {
  for (let i: usize = 0; i < <usize>count; i++) {
    const value = load<f32>(weights + (i << 2)) * inverse;
    if (value > load<f32>(largest + (i << 2))) store<f32>(largest + (i << 2), value);
  }
}

/** keys[kvHead][slot][headDim] of the first `count` slots of each lane, rows `stride` slots apart. */
export function copyKeys(
  table: usize,
  counts: usize,
  kvHeads: u32,
  headDim: u32,
  blockShift: u32,
  layerBase: usize,
  blockBytes: usize,
  stride: u32,
  keys: usize,
): void {
  const headBytes = (<usize>headDim) << 2;
  const blockSize: u32 = 1 << blockShift;
  for (let head: u32 = 0; head < kvHeads; head++) {
    const count = load<u32>(counts + ((<usize>head) << 2));
    const base = layerBase + ((<usize>head * headBytes) << blockShift);
    const to = keys + <usize>head * stride * headBytes;
    for (let slot: u32 = 0; slot < count; slot += blockSize) {
      const block = <usize>load<u32>(table + ((<usize>(slot >> blockShift)) << 2));
      const slots = min(blockSize, count - slot);
      memory.copy(to + <usize>slot * headBytes, base + block * blockBytes, <usize>slots * headBytes);
    }
  }
}

/**
 * Paged attention over f32 K and V.
 *
 *   kv[block][layer][2: K, V][kvHead][blockSize][headDim]
 *
 * One query token at a time: scores over all positions it sees, softmax, weighted sum of V, each in order of
 * absolute position; the result does not depend on chunk borders, block size or the rest of the batch. Paged
 * KV: "Efficient Memory Management for Large Language Model Serving with PagedAttention" (arXiv 2309.06180).
 */
import { exp4, sumLanes } from "./math";

/** Writes K and V of `n` tokens to their slots; `layerBase` points at this layer in block 0. */
export function writeKv(
  k: usize,
  v: usize,
  slots: usize,
  n: u32,
  kvHeads: u32,
  headDim: u32,
  blockShift: u32,
  layerBase: usize,
  blockBytes: usize,
): void {
  const headBytes = (<usize>headDim) << 2;
  const planeBytes = (<usize>kvHeads * headBytes) << blockShift;
  const mask: u32 = (1 << blockShift) - 1;
  for (let token: u32 = 0; token < n; token++) {
    const slot = load<u32>(slots + ((<usize>token) << 2));
    const target = layerBase + <usize>(slot >> blockShift) * blockBytes + <usize>(slot & mask) * headBytes;
    for (let head: u32 = 0; head < kvHeads; head++) {
      const from = (<usize>token * kvHeads + head) * headBytes;
      const to = target + ((<usize>head * headBytes) << blockShift);
      memory.copy(to, k + from, headBytes);
      memory.copy(to + planeBytes, v + from, headBytes);
    }
  }
}

// @ts-ignore: decorator
@inline
function dot(a: usize, b: usize, bytes: usize): f32 {
  let sum = f32x4.splat(0);
  for (let i: usize = 0; i < bytes; i += 16)
    sum = f32x4.add(sum, f32x4.mul(v128.load(a + i), v128.load(b + i)));
  return sumLanes(sum);
}

/** Scores in place to exp(score - max); returns 1 / their sum. `scores` has room for a multiple of 4. */
export function softmax(scores: usize, count: u32): f32 {
  let highest: f32 = -Infinity;
  for (let i: usize = 0; i < <usize>count; i++) highest = max(highest, load<f32>(scores + (i << 2)));
  for (let i: usize = count; (i & 3) != 0; i++) store<f32>(scores + (i << 2), -Infinity);
  const shift = f32x4.splat(highest);
  let sum = f32x4.splat(0);
  for (let i: usize = 0; i < <usize>count; i += 4) {
    const weight = exp4(f32x4.sub(v128.load(scores + (i << 2)), shift));
    v128.store(scores + (i << 2), weight);
    sum = f32x4.add(sum, weight);
  }
  return 1 / sumLanes(sum);
}

// @ts-ignore: decorator
@inline
function isLive(live: usize, slot: u32): bool {
  return ((load<u32>(live + ((<usize>(slot >> 5)) << 2)) >> (slot & 31)) & 1) != 0;
}

/**
 * scores[i] = query . key(first + i) / sqrt(headDim) for `count` slots. `headBase`: this layer and KV head in block 0;
 * `live`: bitmap of the slots to see, 0 = all; the others score -Infinity.
 */
// @ts-ignore: decorator
@inline
export function scoreHead(
  query: usize,
  headBase: usize,
  table: usize,
  first: u32,
  count: u32,
  live: usize,
  headBytes: usize,
  blockShift: u32,
  blockBytes: usize,
  scale: f32,
  scores: usize,
): void {
  const mask: u32 = (1 << blockShift) - 1;
  for (let i: u32 = 0; i < count; i++) {
    const at = first + i;
    if (live != 0 && !isLive(live, at)) {
      store<f32>(scores + ((<usize>i) << 2), -Infinity);
      continue;
    }
    const block = <usize>load<u32>(table + ((<usize>(at >> blockShift)) << 2));
    const key = headBase + block * blockBytes + <usize>(at & mask) * headBytes;
    store<f32>(scores + ((<usize>i) << 2), dot(query, key, headBytes) * scale);
  }
}

/** to = sum of weights[i] * inverse * value(first + i); weights of 0 are passed over where `live` is given. */
// @ts-ignore: decorator
@inline
export function addValues(
  to: usize,
  valueBase: usize,
  table: usize,
  first: u32,
  count: u32,
  live: usize,
  headBytes: usize,
  blockShift: u32,
  blockBytes: usize,
  weights: usize,
  inverse: f32,
): void {
  const mask: u32 = (1 << blockShift) - 1;
  memory.fill(to, 0, headBytes);
  for (let i: u32 = 0; i < count; i++) {
    const at = first + i;
    if (live != 0 && !isLive(live, at)) continue;
    const block = <usize>load<u32>(table + ((<usize>(at >> blockShift)) << 2));
    const value = valueBase + block * blockBytes + <usize>(at & mask) * headBytes;
    const weight = f32x4.splat(load<f32>(weights + ((<usize>i) << 2)) * inverse);
    for (let d: usize = 0; d < headBytes; d += 16) {
      v128.store(to + d, f32x4.add(v128.load(to + d), f32x4.mul(weight, v128.load(value + d))));
    }
  }
}

/**
 * Attention of `n` query tokens. `positions[n]`: absolute position; `tableOf[n]`: address of the token's
 * block table. Query head h reads KV head h / (heads / kvHeads). `window` 0 = all earlier positions.
 * `scores`: f32[longest + 4].
 */
export function attention(
  q: usize,
  positions: usize,
  tableOf: usize,
  n: u32,
  heads: u32,
  kvHeads: u32,
  headDim: u32,
  blockShift: u32,
  layerBase: usize,
  blockBytes: usize,
  window: u32,
  scores: usize,
  out: usize,
): void {
  const headBytes = (<usize>headDim) << 2;
  const planeBytes = (<usize>kvHeads * headBytes) << blockShift;
  const group = heads / kvHeads;
  const scale: f32 = 1 / sqrt<f32>(<f32>headDim);
  for (let token: u32 = 0; token < n; token++) {
    const position = load<u32>(positions + ((<usize>token) << 2));
    const table = <usize>load<u32>(tableOf + ((<usize>token) << 2));
    const first: u32 = window != 0 && position + 1 > window ? position + 1 - window : 0;
    const count = position + 1 - first;
    for (let head: u32 = 0; head < heads; head++) {
      const at = (<usize>token * heads + head) * headBytes;
      const headBase = layerBase + ((<usize>(head / group) * headBytes) << blockShift);
      scoreHead(q + at, headBase, table, first, count, 0, headBytes, blockShift, blockBytes, scale, scores);
      const inverse = softmax(scores, count);
      const values = headBase + planeBytes;
      addValues(out + at, values, table, first, count, 0, headBytes, blockShift, blockBytes, scores, inverse);
    }
  }
}

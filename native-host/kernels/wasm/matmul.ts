/**
 * Matrix product out[n][rows] = x[n][columns] * w[rows][columns]^T (+ bias[rows]), f32 accumulation.
 *
 * Each output element is summed over the columns in one fixed order (four lanes, then across them) whatever
 * the tile it falls in: what a token computes does not depend on the batch it is in.
 */
import { load4, sumLanes, WeightType } from "./math";

/** One token, four outputs: the four sums hide each other's latency. */
// @ts-ignore: decorator
@inline
function tile1x4<T>(x: usize, w: usize, row: u32, columns: u32, out: usize): void {
  let s0 = f32x4.splat(0);
  let s1 = f32x4.splat(0);
  let s2 = f32x4.splat(0);
  let s3 = f32x4.splat(0);
  const r0 = <usize>row * columns;
  const r1 = r0 + columns;
  const r2 = r1 + columns;
  const r3 = r2 + columns;
  for (let i: usize = 0; i < <usize>columns; i += 4) {
    const v = v128.load(x + (i << 2));
    s0 = f32x4.add(s0, f32x4.mul(v, load4<T>(w, r0 + i)));
    s1 = f32x4.add(s1, f32x4.mul(v, load4<T>(w, r1 + i)));
    s2 = f32x4.add(s2, f32x4.mul(v, load4<T>(w, r2 + i)));
    s3 = f32x4.add(s3, f32x4.mul(v, load4<T>(w, r3 + i)));
  }
  store<f32>(out, sumLanes(s0), 0);
  store<f32>(out, sumLanes(s1), 4);
  store<f32>(out, sumLanes(s2), 8);
  store<f32>(out, sumLanes(s3), 12);
}

/** Four tokens, two outputs: each weight is loaded once for four tokens. */
// @ts-ignore: decorator
@inline
function tile4x2<T>(x: usize, w: usize, row: u32, columns: u32, out: usize, outStride: usize): void {
  let a0 = f32x4.splat(0);
  let a1 = f32x4.splat(0);
  let b0 = f32x4.splat(0);
  let b1 = f32x4.splat(0);
  let c0 = f32x4.splat(0);
  let c1 = f32x4.splat(0);
  let d0 = f32x4.splat(0);
  let d1 = f32x4.splat(0);
  const stride = (<usize>columns) << 2;
  const r0 = <usize>row * columns;
  const r1 = r0 + columns;
  for (let i: usize = 0; i < <usize>columns; i += 4) {
    const at = x + (i << 2);
    const w0 = load4<T>(w, r0 + i);
    const w1 = load4<T>(w, r1 + i);
    const xa = v128.load(at);
    a0 = f32x4.add(a0, f32x4.mul(xa, w0));
    a1 = f32x4.add(a1, f32x4.mul(xa, w1));
    const xb = v128.load(at + stride);
    b0 = f32x4.add(b0, f32x4.mul(xb, w0));
    b1 = f32x4.add(b1, f32x4.mul(xb, w1));
    const xc = v128.load(at + 2 * stride);
    c0 = f32x4.add(c0, f32x4.mul(xc, w0));
    c1 = f32x4.add(c1, f32x4.mul(xc, w1));
    const xd = v128.load(at + 3 * stride);
    d0 = f32x4.add(d0, f32x4.mul(xd, w0));
    d1 = f32x4.add(d1, f32x4.mul(xd, w1));
  }
  store<f32>(out, sumLanes(a0), 0);
  store<f32>(out, sumLanes(a1), 4);
  store<f32>(out + outStride, sumLanes(b0), 0);
  store<f32>(out + outStride, sumLanes(b1), 4);
  store<f32>(out + 2 * outStride, sumLanes(c0), 0);
  store<f32>(out + 2 * outStride, sumLanes(c1), 4);
  store<f32>(out + 3 * outStride, sumLanes(d0), 0);
  store<f32>(out + 3 * outStride, sumLanes(d1), 4);
}

function dot<T>(x: usize, w: usize, row: u32, columns: u32): f32 {
  let sum = f32x4.splat(0);
  const from = <usize>row * columns;
  for (let i: usize = 0; i < <usize>columns; i += 4) {
    sum = f32x4.add(sum, f32x4.mul(v128.load(x + (i << 2)), load4<T>(w, from + i)));
  }
  return sumLanes(sum);
}

function product<T>(x: usize, w: usize, n: u32, rows: u32, columns: u32, out: usize): void {
  const xStride = (<usize>columns) << 2;
  const outStride = (<usize>rows) << 2;
  let token: u32 = 0;
  for (; token + 4 <= n; token += 4) {
    const from = x + <usize>token * xStride;
    const to = out + <usize>token * outStride;
    let row: u32 = 0;
    for (; row + 2 <= rows; row += 2) tile4x2<T>(from, w, row, columns, to + ((<usize>row) << 2), outStride);
    for (; row < rows; row++) {
      for (let t: usize = 0; t < 4; t++) {
        store<f32>(to + t * outStride + ((<usize>row) << 2), dot<T>(from + t * xStride, w, row, columns));
      }
    }
  }
  for (; token < n; token++) {
    const from = x + <usize>token * xStride;
    const to = out + <usize>token * outStride;
    let row: u32 = 0;
    for (; row + 4 <= rows; row += 4) tile1x4<T>(from, w, row, columns, to + ((<usize>row) << 2));
    for (; row < rows; row++) store<f32>(to + ((<usize>row) << 2), dot<T>(from, w, row, columns));
  }
}

/** `columns` must be a multiple of 4. `bias` 0 = none, else f32[rows]. */
export function matmul(
  x: usize,
  w: usize,
  type: WeightType,
  bias: usize,
  n: u32,
  rows: u32,
  columns: u32,
  out: usize,
): void {
  if (type == WeightType.F32) product<f32>(x, w, n, rows, columns, out);
  else if (type == WeightType.F16) product<u16>(x, w, n, rows, columns, out);
  else product<i16>(x, w, n, rows, columns, out);
  if (bias == 0) return;
  for (let token: u32 = 0; token < n; token++) {
    const to = out + ((<usize>token * rows) << 2);
    for (let row: usize = 0; row < <usize>rows; row++) {
      store<f32>(to + (row << 2), load<f32>(to + (row << 2)) + load<f32>(bias + (row << 2)));
    }
  }
}

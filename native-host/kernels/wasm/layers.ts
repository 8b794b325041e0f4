/** The other layers of a decoder: embedding, RMSNorm, rotary positions, SwiGLU, residual sums. */
import { exp4, load4, WeightType } from "./math";

function embedRows<T>(table: usize, ids: usize, n: u32, hidden: u32, out: usize): void {
  for (let token: u32 = 0; token < n; token++) {
    const row = <usize>load<u32>(ids + ((<usize>token) << 2)) * hidden;
    const to = out + ((<usize>token * hidden) << 2);
    for (let i: usize = 0; i < <usize>hidden; i += 4) v128.store(to + (i << 2), load4<T>(table, row + i));
  }
}

/** out[n][hidden] = table[ids]. */
export function embed(table: usize, type: WeightType, ids: usize, n: u32, hidden: u32, out: usize): void {
  if (type == WeightType.F32) embedRows<f32>(table, ids, n, hidden, out);
  else if (type == WeightType.F16) embedRows<u16>(table, ids, n, hidden, out);
  else embedRows<i16>(table, ids, n, hidden, out);
}

/**
 * out = x / sqrt(mean(x^2) + eps) * weight, row by row; weight is f32. The squares are summed in f64.
 * Source: "Root Mean Square Layer Normalization" (arXiv 1910.07467).
 */
export function rmsNorm(x: usize, weight: usize, n: u32, hidden: u32, eps: f64, out: usize): void {
  for (let token: u32 = 0; token < n; token++) {
    const from = x + ((<usize>token * hidden) << 2);
    const to = out + ((<usize>token * hidden) << 2);
    let sum: f64 = 0;
    for (let i: usize = 0; i < <usize>hidden; i++) {
      const value = <f64>load<f32>(from + (i << 2));
      sum += value * value;
    }
    const scale = f32x4.splat(<f32>(1 / sqrt<f64>(sum / <f64>hidden + eps)));
    for (let i: usize = 0; i < <usize>hidden; i += 4) {
      const scaled = f32x4.mul(v128.load(from + (i << 2)), scale);
      v128.store(to + (i << 2), f32x4.mul(scaled, v128.load(weight + (i << 2))));
    }
  }
}

/**
 * Rotates x[n][heads][headDim] by position. Tables: f32[maxPositions][headDim / 2]. `interleaved` 0: element i turns with
 * i + headDim / 2; 1: 2i turns with 2i + 1.
 * Source: "RoFormer: Enhanced Transformer with Rotary Position Embedding" (arXiv 2104.09864).
 */
export function rope(
  x: usize,
  positions: usize,
  n: u32,
  heads: u32,
  headDim: u32,
  cosTable: usize,
  sinTable: usize,
  interleaved: u32,
): void {
  const pairs = headDim >> 1;
  const step: usize = interleaved != 0 ? 8 : 4;
  const distance: usize = interleaved != 0 ? 4 : (<usize>pairs) << 2;
  for (let token: u32 = 0; token < n; token++) {
    const turn = (<usize>load<u32>(positions + ((<usize>token) << 2)) * pairs) << 2;
    for (let head: u32 = 0; head < heads; head++) {
      const from = x + ((<usize>(token * heads + head) * headDim) << 2);
      for (let i: usize = 0; i < <usize>pairs; i++) {
        const c = load<f32>(cosTable + turn + (i << 2));
        const s = load<f32>(sinTable + turn + (i << 2));
        const at = from + i * step;
        const a = load<f32>(at);
        const b = load<f32>(at + distance);
        store<f32>(at, a * c - b * s);
        store<f32>(at + distance, b * c + a * s);
      }
    }
  }
}

/**
 * gate = silu(gate) * up, `count` elements, a multiple of 4. Source: "GLU Variants Improve Transformer"
 * (arXiv 2002.05202).
 */
export function swiglu(gate: usize, up: usize, count: u32): void {
  const one = f32x4.splat(1);
  for (let i: usize = 0; i < <usize>count; i += 4) {
    const g = v128.load(gate + (i << 2));
    const silu = f32x4.div(g, f32x4.add(one, exp4(f32x4.neg(g))));
    v128.store(gate + (i << 2), f32x4.mul(silu, v128.load(up + (i << 2))));
  }
}

/** x += y, `count` elements, a multiple of 4. */
export function addTo(x: usize, y: usize, count: u32): void {
  for (let i: usize = 0; i < <usize>count; i += 4) {
    v128.store(x + (i << 2), f32x4.add(v128.load(x + (i << 2)), v128.load(y + (i << 2))));
  }
}

/** to[i] = from[i] converted to f32, `count` elements, a multiple of 4. */
export function toF32(from: usize, type: WeightType, count: u32, to: usize): void {
  for (let i: usize = 0; i < <usize>count; i += 4) {
    const value =
      type == WeightType.F32
        ? load4<f32>(from, i)
        : type == WeightType.F16
          ? load4<u16>(from, i)
          : load4<i16>(from, i);
    v128.store(to + (i << 2), value);
  }
}

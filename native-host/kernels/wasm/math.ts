/** Vector helpers of the kernels: sums of lanes, exponentials, conversion of half-width weights. */

/** Sum of the four lanes, in one fixed order. */
// @ts-ignore: decorator
@inline
export function sumLanes(v: v128): f32 {
  return (
    f32x4.extract_lane(v, 0) +
    f32x4.extract_lane(v, 2) +
    (f32x4.extract_lane(v, 1) + f32x4.extract_lane(v, 3))
  );
}

/**
 * exp(x) of four lanes, relative error below 3e-7 for x in [-87, 88]; smaller x give 0.
 * x = n ln 2 + r with |r| <= ln 2 / 2, then the Taylor polynomial of degree 7 in r, scaled by 2^n.
 */
// @ts-ignore: decorator
@inline
export function exp4(x: v128): v128 {
  const clamped = f32x4.max(f32x4.min(x, f32x4.splat(88.0)), f32x4.splat(-87.0));
  const n = f32x4.nearest(f32x4.mul(clamped, f32x4.splat(1.4426950408889634)));
  // ln 2 in two parts, the first exact in few bits, so that n ln 2 loses nothing.
  let r = f32x4.sub(clamped, f32x4.mul(n, f32x4.splat(0.693359375)));
  r = f32x4.sub(r, f32x4.mul(n, f32x4.splat(-2.1219444e-4)));
  let p = f32x4.splat(1.0 / 5040.0);
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.0 / 720.0));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.0 / 120.0));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.0 / 24.0));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.0 / 6.0));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(0.5));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.0));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.0));
  const scale = i32x4.shl(i32x4.add(i32x4.trunc_sat_f32x4_s(n), i32x4.splat(127)), 23);
  const tiny = f32x4.lt(x, f32x4.splat(-87.0));
  return v128.andnot(f32x4.mul(p, scale), tiny);
}

/**
 * ln(x) of four lanes, relative error below 2e-7 away from 1, for normal positive x. x = m 2^e with m in
 * [sqrt(1/2), sqrt(2)), then the polynomial of Cephes' logf in m - 1.
 */
// @ts-ignore: decorator
@inline
export function log4(x: v128): v128 {
  const bits = i32x4.sub(x, i32x4.splat(0x3f3504f3));
  const e = f32x4.convert_i32x4_s(i32x4.shr_s(bits, 23));
  const m = i32x4.add(v128.and(bits, i32x4.splat(0x007fffff)), i32x4.splat(0x3f3504f3));
  const r = f32x4.sub(m, f32x4.splat(1.0));
  const square = f32x4.mul(r, r);
  let p = f32x4.splat(7.0376836292e-2);
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(-1.151461031e-1));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.167699874e-1));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(-1.2420140846e-1));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.4249322787e-1));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(-1.6668057665e-1));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(2.0000714765e-1));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(-2.4999993993e-1));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(3.3333331174e-1));
  p = f32x4.mul(f32x4.mul(p, r), square);
  p = f32x4.add(p, f32x4.mul(e, f32x4.splat(-2.1219444e-4)));
  p = f32x4.sub(p, f32x4.mul(square, f32x4.splat(0.5)));
  return f32x4.add(f32x4.add(r, p), f32x4.mul(e, f32x4.splat(0.693359375)));
}

/** Four bf16 at `ptr` as f32: the upper halves of the words. */
// @ts-ignore: decorator
@inline
export function loadBf16(ptr: usize): v128 {
  return i32x4.shl(v128.load_ext<u16>(ptr), 16);
}

/**
 * Four f16 at `ptr` as f32: exponent and mantissa moved to their places, then re-biased by a product
 * (subnormals too).
 */
// @ts-ignore: decorator
@inline
export function loadF16(ptr: usize): v128 {
  const half = v128.load_ext<u16>(ptr);
  const magnitude = i32x4.shl(v128.and(half, i32x4.splat(0x7fff)), 13);
  const rebiased = f32x4.mul(magnitude, f32x4.splat(5.192296858534828e33)); // 2^112
  const special = i32x4.ge_u(magnitude, i32x4.splat(0x0f800000));
  const finiteOrNot = v128.bitselect(v128.or(magnitude, i32x4.splat(0x7f800000)), rebiased, special);
  return v128.or(finiteOrNot, i32x4.shl(v128.and(half, i32x4.splat(0x8000)), 16));
}

/** Weight types, as the host passes them. */
export const enum WeightType {
  F32 = 0,
  F16 = 1,
  Bf16 = 2,
}

/** Four weights from element `index` on of a matrix at `base`. */
// @ts-ignore: decorator
@inline
export function load4<T>(base: usize, index: usize): v128 {
  if (sizeof<T>() == 4) return v128.load(base + (index << 2));
  // u16 stands for f16, i16 for bf16: AssemblyScript has no half types to tell them apart by.
  if (isSigned<T>()) return loadBf16(base + (index << 1));
  return loadF16(base + (index << 1));
}

/**
 * Pooling along the slots of a row: what a neighbour's score lends to a slot.
 *
 * Stride 1, odd kernel, the row's ends padded by zeros (average: the divisor is always the kernel) or by nothing
 * (maximum): as the average and maximum pooling of "SnapKV: LLM Knows What You are Looking for Before Generation"
 * (arXiv 2404.14469). A slot's neighbours are added from left to right in every build.
 */

export const enum PoolKind {
  Average = 0,
  Maximum = 1,
}

// @ts-ignore: decorator
@inline
function poolOne(source: usize, count: u32, i: u32, reach: u32, kind: PoolKind): f32 {
  const from = i > reach ? i - reach : 0;
  const to = min(i + reach + 1, count);
  let value: f32 = kind == PoolKind.Average ? 0 : load<f32>(source + ((<usize>from) << 2));
  for (let j = from; j < to; j++) {
    const next = load<f32>(source + ((<usize>j) << 2));
    value = kind == PoolKind.Average ? value + next : next > value ? next : value;
  }
  const kernel: u32 = (reach << 1) + 1;
  return kind == PoolKind.Average ? value / <f32>kernel : value;
}

/** target[i] = average or maximum of source[i - reach .. i + reach]; the two rows must not overlap. */
function poolRow(source: usize, target: usize, count: u32, reach: u32, kind: PoolKind): void {
  let i: u32 = 0;
  if (ASC_FEATURE_SIMD) {
    const kernel: u32 = (reach << 1) + 1;
    const divisor = f32x4.splat(<f32>kernel);
    for (; i < min(reach, count); i++)
      store<f32>(target + ((<usize>i) << 2), poolOne(source, count, i, reach, kind));
    for (; i + 4 + reach <= count; i += 4) {
      const first = source + ((<usize>(i - reach)) << 2);
      let value = kind == PoolKind.Average ? f32x4.splat(0) : v128.load(first);
      for (let j: u32 = 0; j < kernel; j++) {
        const next = v128.load(first + ((<usize>j) << 2));
        value =
          kind == PoolKind.Average
            ? v128.add<f32>(value, next)
            : v128.bitselect(next, value, v128.gt<f32>(next, value));
      }
      v128.store(
        target + ((<usize>i) << 2),
        kind == PoolKind.Average ? v128.div<f32>(value, divisor) : value,
      );
    }
  }
  for (; i < count; i++) store<f32>(target + ((<usize>i) << 2), poolOne(source, count, i, reach, kind));
}

/** Pools each of `rows` rows of `lengths[row]` values. */
export function poolRows(
  source: usize,
  sourceStride: u32,
  target: usize,
  targetStride: u32,
  lengths: usize,
  rows: u32,
  kernel: u32,
  kind: PoolKind,
): void {
  for (let row: u32 = 0; row < rows; row++) {
    poolRow(
      source + ((<usize>row * <usize>sourceStride) << 2),
      target + ((<usize>row * <usize>targetStride) << 2),
      load<u32>(lengths + ((<usize>row) << 2)),
      kernel >> 1,
      kind,
    );
  }
}

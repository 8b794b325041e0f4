/**
 * What attention statistics add to the planes of a layer's lanes, in one call a layer.
 *
 * Rows are probabilities of query heads, [heads][rowStride] f32; query heads `h * G` to `h * G + G - 1` read lane `h`
 * (G = heads / lanes). A plane is [lanes][planeStride]. Slots of a lane are independent of one another and the heads of
 * a group are taken in order, so that SIMD and scalar builds write the same bits.
 */

/** How a group's heads become one value. */
export const enum Aggregate {
  Sum = 0,
  Mean = 1,
  Max = 2,
}

/** What is not a probability: NaN and negative values count as 0, larger ones than `limit` as `limit`. */
// @ts-ignore: decorator
@inline
function clean(value: f32, limit: f32): f32 {
  return value >= 0 ? (value > limit ? limit : value) : 0;
}

// @ts-ignore: decorator
@inline
function isBad(value: f32, limit: f32): u32 {
  return u32(!(value >= 0 && value <= limit));
}

/** The group's value at one slot, `first` being the slot's place in the group's first row. */
// @ts-ignore: decorator
@inline
function grouped(first: usize, rowBytes: usize, group: u32, aggregate: Aggregate, limit: f32): f32 {
  let value = clean(load<f32>(first), limit);
  for (let g: u32 = 1; g < group; g++) {
    const next = clean(load<f32>(first + <usize>g * rowBytes), limit);
    value = aggregate == Aggregate.Max ? (next > value ? next : value) : value + next;
  }
  return aggregate == Aggregate.Mean ? value / <f32>group : value;
}

// @ts-ignore: decorator
@inline
function grouped4(first: usize, rowBytes: usize, group: u32, aggregate: Aggregate, limit: v128): v128 {
  const zero = f32x4.splat(0);
  let value = v128.load(first);
  value = v128.and(value, v128.ge<f32>(value, zero));
  value = v128.bitselect(limit, value, v128.gt<f32>(value, limit));
  for (let g: u32 = 1; g < group; g++) {
    let next = v128.load(first + <usize>g * rowBytes);
    next = v128.and(next, v128.ge<f32>(next, zero));
    next = v128.bitselect(limit, next, v128.gt<f32>(next, limit));
    value =
      aggregate == Aggregate.Max
        ? v128.bitselect(next, value, v128.gt<f32>(next, value))
        : v128.add<f32>(value, next);
  }
  return aggregate == Aggregate.Mean ? v128.div<f32>(value, f32x4.splat(<f32>group)) : value;
}

/** Values among a group's rows that are no probabilities. */
function countBad(first: usize, rowBytes: usize, group: u32, count: u32, limit: f32): u32 {
  let bad: u32 = 0;
  for (let g: u32 = 0; g < group; g++) {
    const row = first + <usize>g * rowBytes;
    let i: u32 = 0;
    if (ASC_FEATURE_SIMD) {
      const zero = f32x4.splat(0);
      const limits = f32x4.splat(limit);
      let all = i32x4.splat(-1);
      for (; i + 4 <= count; i += 4) {
        const four = v128.load(row + ((<usize>i) << 2));
        all = v128.and(all, v128.and(v128.ge<f32>(four, zero), v128.le<f32>(four, limits)));
      }
      // Rows are right as a rule: look for the culprits only when there are some.
      if (v128.all_true<i32>(all)) {
        for (; i < count; i++) bad += isBad(load<f32>(row + ((<usize>i) << 2)), limit);
        continue;
      }
      i = 0;
    }
    for (; i < count; i++) bad += isBad(load<f32>(row + ((<usize>i) << 2)), limit);
  }
  return bad;
}

/** plane[lane][i] += aggregate over the lane's heads of rows[head][i]; returns how many values were cleaned. */
export function accumulateRows(
  plane: usize,
  planeStride: u32,
  rows: usize,
  rowStride: u32,
  group: u32,
  lengths: usize,
  lanes: u32,
  aggregate: Aggregate,
  limit: f32,
): u32 {
  const rowBytes = (<usize>rowStride) << 2;
  const limits = limit;
  let bad: u32 = 0;
  for (let lane: u32 = 0; lane < lanes; lane++) {
    const count = load<u32>(lengths + ((<usize>lane) << 2));
    const first = rows + <usize>lane * <usize>group * rowBytes;
    const target = plane + ((<usize>lane * <usize>planeStride) << 2);
    bad += countBad(first, rowBytes, group, count, limit);
    let i: u32 = 0;
    if (ASC_FEATURE_SIMD) {
      const limit4 = f32x4.splat(limits);
      for (; i + 4 <= count; i += 4) {
        const offset = (<usize>i) << 2;
        const value = grouped4(first + offset, rowBytes, group, aggregate, limit4);
        v128.store(target + offset, v128.add<f32>(v128.load(target + offset), value));
      }
    }
    for (; i < count; i++) {
      const offset = (<usize>i) << 2;
      const value = grouped(first + offset, rowBytes, group, aggregate, limits);
      store<f32>(target + offset, load<f32>(target + offset) + value);
    }
  }
  return bad;
}

/**
 * Notes which slots are important at step `now`, those whose aggregate is at least `threshold`: their gap since
 * `lastImp` raises `mri`, and `lastImp` becomes `now`. Returns how many were. Source: "LazyEviction: Lagged KV
 * Eviction with Attention Pattern Observation for Efficient Long Reasoning" (arXiv 2506.15969); lastImp is its time
 * stamp, mri its maximum recurrence interval.
 */
export function trackRecurrence(
  lastImportant: usize,
  interval: usize,
  planeStride: u32,
  rows: usize,
  rowStride: u32,
  group: u32,
  lengths: usize,
  lanes: u32,
  aggregate: Aggregate,
  threshold: f32,
  now: u32,
): u32 {
  const rowBytes = (<usize>rowStride) << 2;
  let important: u32 = 0;
  for (let lane: u32 = 0; lane < lanes; lane++) {
    const count = load<u32>(lengths + ((<usize>lane) << 2));
    const first = rows + <usize>lane * <usize>group * rowBytes;
    const planeAt = (<usize>lane * <usize>planeStride) << 2;
    let i: u32 = 0;
    if (ASC_FEATURE_SIMD) {
      const thresholds = f32x4.splat(threshold);
      const limit = f32x4.splat(f32.MAX_VALUE);
      const step = i32x4.splat(now);
      for (; i + 4 <= count; i += 4) {
        const offset = (<usize>i) << 2;
        const value = grouped4(first + offset, rowBytes, group, aggregate, limit);
        const hit = v128.ge<f32>(value, thresholds);
        important += popcnt(v128.bitmask<i32>(hit));
        const lastAt = lastImportant + planeAt + offset;
        const intervalAt = interval + planeAt + offset;
        const last = v128.load(lastAt);
        const longest = v128.load(intervalAt);
        const raised = v128.max<u32>(longest, v128.sub<i32>(step, last));
        v128.store(intervalAt, v128.bitselect(raised, longest, hit));
        v128.store(lastAt, v128.bitselect(step, last, hit));
      }
    }
    for (; i < count; i++) {
      const offset = (<usize>i) << 2;
      if (!(grouped(first + offset, rowBytes, group, aggregate, f32.MAX_VALUE) >= threshold)) continue;
      const lastAt = lastImportant + planeAt + offset;
      const intervalAt = interval + planeAt + offset;
      store<u32>(intervalAt, max(load<u32>(intervalAt), now - load<u32>(lastAt)));
      store<u32>(lastAt, now);
      important += 1;
    }
  }
  return important;
}

/** plane[lane][i] *= factor in the lanes whose largest value is above `limit`; returns how many lanes. */
export function scaleAbove(
  plane: usize,
  planeStride: u32,
  lengths: usize,
  lanes: u32,
  limit: f32,
  factor: f32,
): u32 {
  let scaled: u32 = 0;
  for (let lane: u32 = 0; lane < lanes; lane++) {
    const count = load<u32>(lengths + ((<usize>lane) << 2));
    const first = plane + ((<usize>lane * <usize>planeStride) << 2);
    if (!anyAbove(first, count, limit)) continue;
    for (let i: u32 = 0; i < count; i++) {
      const place = first + ((<usize>i) << 2);
      store<f32>(place, load<f32>(place) * factor);
    }
    scaled += 1;
  }
  return scaled;
}

function anyAbove(values: usize, count: u32, limit: f32): bool {
  let i: u32 = 0;
  if (ASC_FEATURE_SIMD) {
    const limits = f32x4.splat(limit);
    let above = i32x4.splat(0);
    for (; i + 4 <= count; i += 4)
      above = v128.or(above, v128.gt<f32>(v128.load(values + ((<usize>i) << 2)), limits));
    if (v128.any_true(above)) return true;
  }
  for (; i < count; i++) if (load<f32>(values + ((<usize>i) << 2)) > limit) return true;
  return false;
}

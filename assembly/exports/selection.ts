/**
 * Selection as the host sees it. `selection` is the pointer of a region of kind Selection; planes, rows and lengths
 * are addresses anywhere in the core's memory.
 */
import { ARENA, arenaTake, RegionKind } from "../memory/arena";
import { INVALID_ARGUMENT, NOT_FOUND, OK, OUT_OF_MEMORY, Status } from "../memory/status";
import { accumulateRows, scaleAbove, trackRecurrence } from "../select/accumulate";
import { apportion } from "../select/apportion";
import { argminMasked } from "../select/argmin";
import {
  KEPT,
  MAX_CAPACITY,
  MAX_FLOATS,
  Selection,
  selectionBytes as bytesOf,
  selectionCreate as createAt,
} from "../select/layout";
import { poolRows } from "../select/pooling";
import { selectPooled } from "../select/topk";

function shapeValid(capacity: u32, floats: u32): bool {
  return capacity >= 32 && capacity <= MAX_CAPACITY && (capacity & 31) == 0 && floats <= MAX_FLOATS;
}

/** Bytes of a selection over `capacity` scores, a multiple of 32, or INVALID_ARGUMENT. */
export function selectionBytes(capacity: u32, floats: u32): f64 {
  return shapeValid(capacity, floats) ? <f64>bytesOf(capacity, floats) : INVALID_ARGUMENT;
}

/** Creates a selection in a region of its own; afterwards it is the arena's last region. */
export function selectionCreate(capacity: u32, floats: u32): Status {
  if (!shapeValid(capacity, floats)) return INVALID_ARGUMENT;
  const pointer = arenaTake(ARENA, RegionKind.Selection, bytesOf(capacity, floats));
  if (pointer == 0) return OUT_OF_MEMORY;
  createAt(changetype<Selection>(pointer), capacity, floats);
  return OK;
}

/**
 * Chooses `k` of the scores of `segments` lanes; see `selectPooled`. `kind`: 0 f32, 1 u32. INVALID_ARGUMENT when
 * `segments * stride` is above the capacity, a length above the stride, or `k` below protections and minima.
 */
export function selectTopk(
  selection: usize,
  scores: usize,
  kind: u32,
  ties: usize,
  positions: usize,
  stride: u32,
  lengths: usize,
  segments: u32,
  k: u32,
  minimum: u32,
  low: u32,
  high: u32,
): i32 {
  const room = changetype<Selection>(selection);
  if (kind > 1 || <u64>stride * <u64>segments > <u64>room.capacity || segments > room.capacity >> 2)
    return INVALID_ARGUMENT;
  if (segments * ((stride + 31) >> 5) > room.capacity) return INVALID_ARGUMENT;
  for (let s: u32 = 0; s < segments; s++)
    if (load<u32>(lengths + ((<usize>s) << 2)) > stride) return INVALID_ARGUMENT;
  return selectPooled(room, scores, kind, ties, positions, stride, lengths, segments, k, minimum, low, high);
}

/** Slot of the smallest score whose position is from `low` to `high - 1`, or NOT_FOUND. */
export function selectArgmin(
  scores: usize,
  kind: u32,
  positions: usize,
  count: u32,
  low: u32,
  high: u32,
): i32 {
  if (kind > 1 || count > MAX_CAPACITY) return INVALID_ARGUMENT;
  const slot = argminMasked(scores, kind, positions, count, low, high);
  return slot == KEPT ? NOT_FOUND : <i32>slot;
}

/** plane[lane][i] += the group's heads' rows[head][i]; `aggregate`: 0 sum, 1 mean, 2 max. Returns values cleaned. */
export function selectAccumulate(
  plane: usize,
  planeStride: u32,
  rows: usize,
  rowStride: u32,
  group: u32,
  lengths: usize,
  lanes: u32,
  aggregate: u32,
  limit: f32,
): i32 {
  if (aggregate > 2 || group == 0) return INVALID_ARGUMENT;
  return <i32>accumulateRows(plane, planeStride, rows, rowStride, group, lengths, lanes, aggregate, limit);
}

/** Notes at step `now` which slots reach `threshold`. Returns how many did. */
export function selectTrack(
  lastImportant: usize,
  interval: usize,
  planeStride: u32,
  rows: usize,
  rowStride: u32,
  group: u32,
  lengths: usize,
  lanes: u32,
  aggregate: u32,
  threshold: f32,
  now: u32,
): i32 {
  if (aggregate > 2 || group == 0) return INVALID_ARGUMENT;
  return <i32>(
    trackRecurrence(
      lastImportant,
      interval,
      planeStride,
      rows,
      rowStride,
      group,
      lengths,
      lanes,
      aggregate,
      threshold,
      now,
    )
  );
}

/** Multiplies the lanes whose largest value is above `limit` by `factor`. Returns how many lanes. */
export function selectScaleAbove(
  plane: usize,
  planeStride: u32,
  lengths: usize,
  lanes: u32,
  limit: f32,
  factor: f32,
): u32 {
  return scaleAbove(plane, planeStride, lengths, lanes, limit, factor);
}

/** Pools rows with an odd kernel; `kind`: 0 average, 1 maximum. Source and target must not overlap. */
export function selectPool(
  source: usize,
  sourceStride: u32,
  target: usize,
  targetStride: u32,
  lengths: usize,
  rows: u32,
  kernel: u32,
  kind: u32,
): Status {
  if ((kernel & 1) == 0 || kernel > 4095 || kind > 1) return INVALID_ARGUMENT;
  poolRows(source, sourceStride, target, targetStride, lengths, rows, kernel, kind);
  return OK;
}

/** Splits `total` over `count` entries; see `apportion`. `work`: 16 bytes an entry. */
export function selectApportion(
  strategy: u32,
  weights: usize,
  count: u32,
  total: i32,
  minimum: usize,
  maximum: usize,
  beta: f64,
  out: usize,
  work: usize,
): Status {
  return apportion(strategy, weights, count, total, minimum, maximum, beta, out, work);
}

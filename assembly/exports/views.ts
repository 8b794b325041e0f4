/**
 * Ordered views as the host sees them: free extents and orders of ids. `extents` and `view` are pointers of
 * regions of their kinds. One thread at a time. In the debug build every changing call is followed by a full
 * check.
 */
import {
  extentsAllocate,
  extentsAllocateAt,
  extentsBytes,
  extentsCount,
  extentsCreate,
  extentsFree,
  extentsLargest,
  extentsList,
  extentsValidate,
  FreeExtents,
  MAX_EXTENT_BLOCKS,
} from "../index/free-extents";
import {
  MAX_ORDER,
  MAX_VIEW_CAPACITY,
  View,
  viewBytes,
  viewClear,
  viewCreate,
  viewFirst,
  viewHas,
  viewList,
  viewNext,
  viewOrder,
  viewPop,
  viewPopMany,
  viewRemove,
  viewSet,
  viewValidate,
} from "../index/ordered-view";
import {
  evictionOrder,
  MAX_TENANT,
  NO_ORDER,
  tenantFirst,
  tenantLast,
  tenantOrder,
  timeOfOrder,
  timeOrder,
} from "../index/view-orders";
import { ARENA, arenaSeed, arenaTake, RegionKind } from "../memory/arena";
import { INVALID_ARGUMENT, INVALID_TIME, OK, OUT_OF_MEMORY, Status } from "../memory/status";

// @ts-ignore: decorator
@inline
function checkedExtents(extents: usize, result: i32): i32 {
  if (ASC_OPTIMIZE_LEVEL == 0) assert(extentsValidate(extents) == OK);
  return result;
}

// @ts-ignore: decorator
@inline
function checkedView(view: usize, result: i32): i32 {
  if (ASC_OPTIMIZE_LEVEL == 0) assert(viewValidate(view) == OK);
  return result;
}

/** Bytes of the free extents of a pool of `blocks` blocks, 1 to 2^24, or INVALID_ARGUMENT. */
export function freeExtentsBytes(blocks: u32): f64 {
  return blocks >= 1 && blocks <= MAX_EXTENT_BLOCKS ? <f64>extentsBytes(blocks) : INVALID_ARGUMENT;
}

/** Creates them in a region of their own, afterwards the arena's last; every block is free. */
export function freeExtentsCreate(blocks: u32): Status {
  if (blocks < 1 || blocks > MAX_EXTENT_BLOCKS) return INVALID_ARGUMENT;
  const extents = arenaTake(ARENA, RegionKind.FreeExtents, extentsBytes(blocks));
  if (extents == 0) return OUT_OF_MEMORY;
  extentsCreate(extents, blocks, arenaSeed(ARENA));
  return OK;
}

/**
 * Takes `length` blocks in a row and returns the first. `fit`: 0 first, 1 best, 2 best or else all of the
 * longest extent. OUT_OF_BLOCKS when no extent serves.
 */
export function freeExtentsAllocate(extents: usize, length: u32, fit: u32): i32 {
  return checkedExtents(extents, extentsAllocate(extents, length, fit));
}

/** Blocks that the last allocation gave. */
export function freeExtentsAllocated(extents: usize): u32 {
  return changetype<FreeExtents>(extents).allocated;
}

/** Takes exactly these blocks. OUT_OF_BLOCKS unless all of them are free. */
export function freeExtentsAllocateAt(extents: usize, start: u32, length: u32): Status {
  return checkedExtents(extents, extentsAllocateAt(extents, start, length));
}

/** Gives blocks back. ALREADY_FREE if one of them is. */
export function freeExtentsFree(extents: usize, start: u32, length: u32): Status {
  return checkedExtents(extents, extentsFree(extents, start, length));
}

export function freeExtentsBlocks(extents: usize): u32 {
  return changetype<FreeExtents>(extents).blockCount;
}

export function freeExtentsTotal(extents: usize): u32 {
  return changetype<FreeExtents>(extents).freeBlocks;
}

export function freeExtentsLargest(extents: usize): u32 {
  return extentsLargest(extents);
}

export function freeExtentsCount(extents: usize): u32 {
  return extentsCount(extents);
}

/** Up to `limit` extents that start at `start` or later, as pairs (start, length) of u32. */
export function freeExtentsList(extents: usize, start: u32, limit: u32, out: usize): u32 {
  return extentsList(extents, start, limit, out);
}

export function freeExtentsValidate(extents: usize): Status {
  return extentsValidate(extents);
}

/** Bytes of a view of `capacity` ids, 1 to 2^24, or INVALID_ARGUMENT. */
export function orderedViewBytes(capacity: u32): f64 {
  return capacity >= 1 && capacity <= MAX_VIEW_CAPACITY ? <f64>viewBytes(capacity) : INVALID_ARGUMENT;
}

/** Creates an empty view, afterwards the arena's last region. `kind` is the host's, kept for it. */
export function orderedViewCreate(capacity: u32, kind: u32): Status {
  if (capacity < 1 || capacity > MAX_VIEW_CAPACITY) return INVALID_ARGUMENT;
  const view = arenaTake(ARENA, RegionKind.OrderedView, viewBytes(capacity));
  if (view == 0) return OUT_OF_MEMORY;
  viewCreate(view, capacity, kind, arenaSeed(ARENA));
  return OK;
}

/** Gives an id its place: 1 entered, 0 moved. */
export function orderedViewSet(view: usize, id: u32, order: u64): Status {
  return checkedView(view, viewSet(view, id, order));
}

/** As `orderedViewSet`, by a time in microseconds. */
export function orderedViewSetTime(view: usize, id: u32, us: f64): Status {
  const order = timeOrder(us);
  return order == NO_ORDER ? INVALID_TIME : orderedViewSet(view, id, order);
}

/** As `orderedViewSet`, by an eviction order (`evictionOrder`). */
export function orderedViewSetEviction(
  view: usize,
  id: u32,
  klass: u32,
  score: f32,
  lastUse: u32,
  depth: u32,
): Status {
  return orderedViewSet(view, id, evictionOrder(klass, score, lastUse, depth));
}

/** As `orderedViewSet`, by an eviction order within a tenant (`tenantOrder`). */
export function orderedViewSetTenant(
  view: usize,
  id: u32,
  tenant: u32,
  klass: u32,
  score: f32,
  lastUse: u32,
  depth: u32,
): Status {
  return orderedViewSet(view, id, tenantOrder(tenant, klass, score, lastUse, depth));
}

/** Takes an id out: 1, or 0 when it is not in the view. */
export function orderedViewRemove(view: usize, id: u32): Status {
  return checkedView(view, viewRemove(view, id));
}

export function orderedViewHas(view: usize, id: u32): u32 {
  return u32(viewHas(view, id));
}

/** Order of an id, or NO_ORDER (2^64 - 1) when it is not in the view. */
export function orderedViewOrder(view: usize, id: u32): u64 {
  return viewHas(view, id) ? viewOrder(view, id) : NO_ORDER;
}

/** First id with lowest <= order <= highest, or NOT_FOUND. */
export function orderedViewFirst(view: usize, lowest: u64, highest: u64): i32 {
  return viewFirst(view, lowest, highest);
}

/** The same, taken out. */
export function orderedViewPop(view: usize, lowest: u64, highest: u64): i32 {
  return checkedView(view, viewPop(view, lowest, highest));
}

/** First id of all, taken out, or NOT_FOUND. */
export function orderedViewPopFirst(view: usize): i32 {
  return checkedView(view, viewPop(view, 0, MAX_ORDER));
}

/** First id of a tenant, or NOT_FOUND; INVALID_ARGUMENT for a tenant above 1023. */
export function orderedViewTenantFirst(view: usize, tenant: u32): i32 {
  return tenant > MAX_TENANT ? INVALID_ARGUMENT : viewFirst(view, tenantFirst(tenant), tenantLast(tenant));
}

/** The same, taken out. */
export function orderedViewTenantPop(view: usize, tenant: u32): i32 {
  if (tenant > MAX_TENANT) return INVALID_ARGUMENT;
  return checkedView(view, viewPop(view, tenantFirst(tenant), tenantLast(tenant)));
}

/** Takes out, in order, up to `limit` ids whose time is at or before `nowUs` and writes them (u32). */
export function orderedViewPopDue(view: usize, nowUs: f64, limit: u32, out: usize): i32 {
  const order = timeOrder(nowUs);
  return order == NO_ORDER ? INVALID_TIME : checkedView(view, <i32>viewPopMany(view, order, limit, out));
}

/** Time of the first id, infinity when there is none. */
export function orderedViewNextTime(view: usize): f64 {
  const id = viewFirst(view, 0, MAX_ORDER);
  return id < 0 ? Infinity : timeOfOrder(viewOrder(view, id));
}

/** Id behind `id` in the whole order, or NOT_FOUND; INVALID_ARGUMENT when `id` is not in the view. */
export function orderedViewNext(view: usize, id: u32): i32 {
  return viewHas(view, id) ? viewNext(view, id) : INVALID_ARGUMENT;
}

/** Up to `limit` ids (u32) from the id `from` on, in order, while order <= highest. */
export function orderedViewList(view: usize, from: u32, highest: u64, limit: u32, out: usize): i32 {
  return viewHas(view, from) ? <i32>viewList(view, from, highest, limit, out) : INVALID_ARGUMENT;
}

export function orderedViewSize(view: usize): u32 {
  return changetype<View>(view).size;
}

export function orderedViewCapacity(view: usize): u32 {
  return changetype<View>(view).capacity;
}

export function orderedViewKind(view: usize): u32 {
  return changetype<View>(view).kind;
}

export function orderedViewClear(view: usize): void {
  viewClear(view);
}

export function orderedViewValidate(view: usize): Status {
  return viewValidate(view);
}

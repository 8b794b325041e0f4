/** Neighbours in an index, free extents and ordered views, inside wasm. */
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
  Fit,
  FreeExtents,
} from "../../assembly/index/free-extents";
import { KEY_MAX } from "../../assembly/index/layout";
import { indexCeiling, indexFloor, neighbourValue } from "../../assembly/index/neighbours";
import { indexCreate, indexNodesFor } from "../../assembly/index/ordered-index";
import {
  MAX_ORDER,
  View,
  viewBytes,
  viewCreate,
  viewFirst,
  viewList,
  viewNext,
  viewPop,
  viewPopMany,
  viewRemove,
  viewSet,
  viewValidate,
} from "../../assembly/index/ordered-view";
import { indexPut } from "../../assembly/index/put";
import {
  evictionOrder,
  MAX_TENANT,
  NO_ORDER,
  tenantFirst,
  tenantLast,
  tenantOrder,
  timeOfOrder,
  timeOrder,
} from "../../assembly/index/view-orders";
import { ALREADY_FREE, INVALID_ARGUMENT, NOT_FOUND, OK, OUT_OF_BLOCKS } from "../../assembly/memory/status";

const BASE: usize = 8 << 20;
const OUT: usize = 15 << 20;

function blank(bytes: u64): void {
  memory.fill(BASE, 0, <usize>bytes);
  store<u64>(BASE + <usize>bytes, 0x1234);
}

describe("neighbours", () => {
  it("are the floor and the ceiling, in every leaf and at both ends", () => {
    indexCreate(BASE, indexNodesFor(1000, 4), 4, 9);
    expect(indexFloor(BASE, KEY_MAX)).toBe(0);
    expect(indexCeiling(BASE, 0)).toBe(KEY_MAX);
    for (let key: u64 = 1; key <= 1000; key++) indexPut(BASE, key * 10, key);
    for (let key: u64 = 1; key <= 1000; key++) {
      expect(indexFloor(BASE, key * 10)).toBe(key * 10);
      expect(neighbourValue(BASE)).toBe(key);
      expect(indexFloor(BASE, key * 10 - 1)).toBe(key * 10 - 10);
      expect(indexCeiling(BASE, key * 10 - 9)).toBe(key * 10);
      expect(neighbourValue(BASE)).toBe(key);
      expect(indexCeiling(BASE, key * 10)).toBe(key * 10);
    }
    expect(indexFloor(BASE, KEY_MAX)).toBe(10000);
    expect(indexCeiling(BASE, 0)).toBe(10);
    expect(indexCeiling(BASE, 10001)).toBe(KEY_MAX);
    expect(indexCeiling(BASE, KEY_MAX)).toBe(KEY_MAX);
  });
});

describe("free extents", () => {
  beforeEach(() => {
    blank(extentsBytes(100));
    extentsCreate(BASE, 100, 5);
  });

  it("fit the bytes they state with every second block free", () => {
    expect(extentsAllocate(BASE, 100, Fit.First)).toBe(0);
    for (let block: u32 = 0; block < 100; block += 2) expect(extentsFree(BASE, block, 1)).toBe(OK);
    expect(extentsCount(BASE)).toBe(50);
    expect(extentsValidate(BASE)).toBe(OK);
    expect(load<u64>(BASE + <usize>extentsBytes(100))).toBe(0x1234);
  });

  it("are cut first fit, best fit, or from the longest, and join on both sides", () => {
    // Free: 0-19, 30-34, 50-99.
    expect(extentsAllocateAt(BASE, 20, 10)).toBe(OK);
    expect(extentsAllocateAt(BASE, 35, 15)).toBe(OK);
    expect(extentsAllocate(BASE, 4, Fit.First)).toBe(0);
    expect(extentsAllocate(BASE, 4, Fit.Best)).toBe(30);
    expect(extentsAllocate(BASE, 60, Fit.Best)).toBe(OUT_OF_BLOCKS);
    expect(extentsAllocate(BASE, 60, Fit.BestOrLargest)).toBe(50);
    expect(changetype<FreeExtents>(BASE).allocated).toBe(50);
    expect(extentsLargest(BASE)).toBe(16);
    expect(extentsAllocateAt(BASE, 34, 1)).toBe(OK);
    expect(extentsFree(BASE, 20, 14)).toBe(OK);
    expect(extentsList(BASE, 0, 10, OUT)).toBe(1);
    expect(load<u32>(OUT)).toBe(4);
    expect(load<u32>(OUT, 4)).toBe(30);
    expect(extentsValidate(BASE)).toBe(OK);
  });

  it("refuse what is free already, taken already or outside", () => {
    extentsAllocateAt(BASE, 10, 10);
    expect(extentsFree(BASE, 9, 2)).toBe(ALREADY_FREE);
    expect(extentsFree(BASE, 19, 2)).toBe(ALREADY_FREE);
    expect(extentsFree(BASE, 0, 100)).toBe(ALREADY_FREE);
    expect(extentsAllocateAt(BASE, 19, 2)).toBe(OUT_OF_BLOCKS);
    expect(extentsFree(BASE, 10, u32.MAX_VALUE)).toBe(INVALID_ARGUMENT);
    expect(extentsAllocate(BASE, 101, Fit.First)).toBe(INVALID_ARGUMENT);
    expect(changetype<FreeExtents>(BASE).freeBlocks).toBe(90);
    expect(extentsValidate(BASE)).toBe(OK);
  });
});

describe("ordered view", () => {
  beforeEach(() => {
    blank(viewBytes(100));
    viewCreate(BASE, 100, 0, 5);
  });

  it("keeps ids by order, equals in the order they were set", () => {
    for (let id: u32 = 0; id < 100; id++) expect(viewSet(BASE, id, id % 3)).toBe(1);
    expect(viewSet(BASE, 0, 2)).toBe(0);
    expect(viewFirst(BASE, 0, MAX_ORDER)).toBe(3);
    expect(viewFirst(BASE, 1, 1)).toBe(1);
    expect(viewFirst(BASE, 3, MAX_ORDER)).toBe(NOT_FOUND);
    expect(viewNext(BASE, 99)).toBe(1);
    expect(viewNext(BASE, 98)).toBe(0);
    expect(viewNext(BASE, 0)).toBe(NOT_FOUND);
    expect(viewList(BASE, 96, 1, 3, OUT)).toBe(3);
    expect(load<u32>(OUT)).toBe(96);
    expect(load<u32>(OUT, 4)).toBe(99);
    expect(load<u32>(OUT, 8)).toBe(1);
    expect(viewValidate(BASE)).toBe(OK);
    expect(load<u64>(BASE + <usize>viewBytes(100))).toBe(0x1234);
  });

  it("pops, removes and refuses", () => {
    for (let id: u32 = 0; id < 10; id++) viewSet(BASE, id, 100 - id);
    expect(viewPop(BASE, 0, MAX_ORDER)).toBe(9);
    expect(viewRemove(BASE, 8)).toBe(1);
    expect(viewRemove(BASE, 8)).toBe(0);
    expect(viewPopMany(BASE, 95, 100, OUT)).toBe(3);
    expect(load<u32>(OUT, 8)).toBe(5);
    expect(changetype<View>(BASE).size).toBe(5);
    expect(viewSet(BASE, 100, 1)).toBe(INVALID_ARGUMENT);
    expect(viewSet(BASE, 1, MAX_ORDER + 1)).toBe(INVALID_ARGUMENT);
    expect(viewSet(BASE, 1, MAX_ORDER)).toBe(0);
    expect(viewValidate(BASE)).toBe(OK);
  });
});

describe("orders of a view", () => {
  it("compare as their parts do, and refuse parts out of range", () => {
    expect(timeOrder(0)).toBe(timeOrder(-0.0));
    expect(timeOrder(1.5) < timeOrder(1.75)).toBe(true);
    expect(timeOfOrder(timeOrder(1.76e15))).toBe(1.76e15);
    expect(timeOrder(-1)).toBe(NO_ORDER);
    expect(timeOrder(Infinity)).toBe(NO_ORDER);
    expect(evictionOrder(1, -5, 0, 0) > evictionOrder(0, 5, 9, 0)).toBe(true);
    expect(evictionOrder(0, -5, 9, 0) < evictionOrder(0, -4, 0, 0)).toBe(true);
    expect(evictionOrder(0, -0.0, 3, 4) == evictionOrder(0, 0, 3, 4)).toBe(true);
    expect(evictionOrder(0, 0, 3, 4) < evictionOrder(0, 0, 3, 3)).toBe(true);
    expect(evictionOrder(0, 0, 3, 4) < evictionOrder(0, 0, 4, 5)).toBe(true);
    expect(evictionOrder(16, 0, 0, 0)).toBe(NO_ORDER);
    expect(evictionOrder(0, NaN, 0, 0)).toBe(NO_ORDER);
    expect(evictionOrder(15, Infinity, (1 << 28) - 1, 0) <= MAX_ORDER).toBe(true);
  });

  it("keep each tenant within its own range", () => {
    expect(tenantOrder(MAX_TENANT, 3, Infinity, (1 << 24) - 1, 0) <= tenantLast(MAX_TENANT)).toBe(true);
    expect(tenantOrder(1, 0, -Infinity, 0, 8191) >= tenantFirst(1)).toBe(true);
    expect(tenantLast(1) + 1).toBe(tenantFirst(2));
    expect(tenantOrder(MAX_TENANT + 1, 0, 0, 0, 0)).toBe(NO_ORDER);
    expect(tenantOrder(0, 4, 0, 0, 0)).toBe(NO_ORDER);
  });
});

/** Page sets as the host sees them. `set` is the pointer of a region of kind PageSet. */
import { ARENA, arenaSeed, arenaTake, RegionKind } from "../memory/arena";
import { INVALID_ARGUMENT, NOT_FOUND, OK, OUT_OF_MEMORY, Status } from "../memory/status";
import { LAST_KIND, MAX_HISTORY, NONE, OrderKind } from "../orders/layout";
import {
  clearPages,
  NO_ADVICE,
  PageSet,
  pageSetBytesFor,
  pageSetCheck,
  pageSetLayOut,
  requestPage,
  slotOfPage,
} from "../orders/page-set";

// @ts-ignore: decorator
@inline const MAX_PAGES: u32 = 1 << 26;

function shapeValid(kind: u32, slots: u32, pages: u32, history: u32): bool {
  return (
    kind <= LAST_KIND &&
    kind != OrderKind.Scored &&
    kind != OrderKind.Priority &&
    slots >= 1 &&
    slots <= MAX_PAGES &&
    pages >= 1 &&
    pages <= MAX_PAGES &&
    history <= MAX_HISTORY
  );
}

// @ts-ignore: decorator
@inline
function checked(set: PageSet, result: i32): i32 {
  if (ASC_OPTIMIZE_LEVEL == 0) assert(pageSetCheck(set) == OK);
  return result;
}

/** Bytes of a page set of this shape, or INVALID_ARGUMENT. `kind`: an eviction order, 0 for least recently used. */
export function pageSetBytes(kind: u32, slots: u32, pages: u32, history: u32): f64 {
  if (!shapeValid(kind, slots, pages, history)) return INVALID_ARGUMENT;
  return <f64>pageSetBytesFor(kind, slots, pages, history);
}

/**
 * Creates a set in a region of its own; afterwards it is the arena's last region. `eager`: 1 when what an order by
 * advice throws out is to go at once.
 */
export function pageSetCreate(kind: u32, slots: u32, pages: u32, history: u32, eager: u32): Status {
  if (!shapeValid(kind, slots, pages, history)) return INVALID_ARGUMENT;
  const bytes = pageSetBytesFor(kind, slots, pages, history);
  const set = arenaTake(ARENA, RegionKind.PageSet, bytes);
  if (set == 0) return OUT_OF_MEMORY;
  pageSetLayOut(set, kind, slots, pages, history, eager, arenaSeed(ARENA));
  return checked(changetype<PageSet>(set), OK);
}

/** Makes a page present: 1 when it was, 0 when it had to be fetched. `advice`: 0 keep, 1 discard, 2 none. */
export function pageSetRequest(set: usize, page: u32, advice: u32): i32 {
  const s = changetype<PageSet>(set);
  if (page >= s.pages || advice > NO_ADVICE) return INVALID_ARGUMENT;
  return checked(s, <i32>requestPage(s, page, advice));
}

/**
 * `count` requests in turn: pages (u32) at `pages`, advice (u8 each) at `advice`, or none when that is 0. Returns the
 * faults; INVALID_ARGUMENT, before any of them, when a page or an advice is out of range.
 */
export function pageSetRun(set: usize, pages: usize, advice: usize, count: u32): i32 {
  const s = changetype<PageSet>(set);
  for (let i: u32 = 0; i < count; i++) {
    if (load<u32>(pages + ((<usize>i) << 2)) >= s.pages) return INVALID_ARGUMENT;
    if (advice != 0 && <u32>load<u8>(advice + i) > NO_ADVICE) return INVALID_ARGUMENT;
  }
  const before = s.faults;
  for (let i: u32 = 0; i < count; i++)
    requestPage(s, load<u32>(pages + ((<usize>i) << 2)), advice != 0 ? <u32>load<u8>(advice + i) : NO_ADVICE);
  return checked(s, <i32>(s.faults - before));
}

/** Takes every page out and forgets the past, O(pages + slots + history); random draws start from `seed`. */
export function pageSetClear(set: usize, seed: u32): void {
  clearPages(changetype<PageSet>(set), seed);
}

/** Slot of a page, or NOT_FOUND. */
export function pageSetSlot(set: usize, page: u32): i32 {
  const s = changetype<PageSet>(set);
  if (page >= s.pages) return INVALID_ARGUMENT;
  const slot = slotOfPage(s, page);
  return slot == NONE ? NOT_FOUND : <i32>slot;
}

export function pageSetRequests(set: usize): f64 {
  return <f64>changetype<PageSet>(set).requests;
}

export function pageSetFaults(set: usize): f64 {
  return <f64>changetype<PageSet>(set).faults;
}

export function pageSetSlots(set: usize): u32 {
  return changetype<PageSet>(set).slots;
}

export function pageSetPages(set: usize): u32 {
  return changetype<PageSet>(set).pages;
}

export function pageSetValidate(set: usize): Status {
  return pageSetCheck(changetype<PageSet>(set));
}

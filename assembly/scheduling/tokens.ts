/**
 * Token store: prompt and generated tokens of live requests in pages.
 *
 * A request takes the pages for its prompt and all its new tokens when it is submitted (or a turn of it is), so that
 * nothing can run out later. Pages are a stack; a request's row lists its pages in order.
 */
import { PAGE_SHIFT, PAGE_TOKENS, Request, Scheduler } from "./layout";

export function tokensCreate(s: Scheduler): void {
  s.freePageCount = s.pageCount;
  // Popped from the end: the first request gets the first pages.
  for (let i: u32 = 0; i < s.pageCount; i++) {
    store<u32>(<usize>s.freePages + ((<usize>i) << 2), s.pageCount - 1 - i);
  }
}

// @ts-ignore: decorator
@inline
export function pagesFor(tokens: u32): u32 {
  return (tokens + PAGE_TOKENS - 1) >> PAGE_SHIFT;
}

/** Whether all of a host's tokens are below `limit`. */
export function tokensBelow(ptr: usize, count: u32, limit: u32): bool {
  for (let i: u32 = 0; i < count; i++) if (load<u32>(ptr + ((<usize>i) << 2)) >= limit) return false;
  return true;
}

// @ts-ignore: decorator
@inline
function row(s: Scheduler, slot: u32): usize {
  return <usize>s.pageRows + ((<usize>slot * <usize>s.pageStride) << 2);
}

/** Address of token `position` of the request in `slot`. */
// @ts-ignore: decorator
@inline
export function tokenPtr(s: Scheduler, slot: u32, position: u32): usize {
  const page = load<u32>(row(s, slot) + ((<usize>(position >> PAGE_SHIFT)) << 2));
  return <usize>s.pages + ((((<usize>page) << PAGE_SHIFT) + <usize>(position & (PAGE_TOKENS - 1))) << 2);
}

/** Takes pages until the request has `count`, which must be free, or gives back those it has beyond. */
export function resizePages(s: Scheduler, slot: u32, r: Request, count: u32): void {
  for (let i = r.pageCount; i < count; i++) {
    s.freePageCount -= 1;
    store<u32>(
      row(s, slot) + ((<usize>i) << 2),
      load<u32>(<usize>s.freePages + ((<usize>s.freePageCount) << 2)),
    );
  }
  for (let i = r.pageCount; i > count; i--) {
    const page = load<u32>(row(s, slot) + ((<usize>(i - 1)) << 2));
    store<u32>(<usize>s.freePages + ((<usize>s.freePageCount) << 2), page);
    s.freePageCount += 1;
  }
  r.pageCount = count;
}

/** Copies `count` tokens from `ptr` to positions `from`, `from + 1`, ... of the request. */
export function writeTokens(s: Scheduler, slot: u32, from: u32, ptr: usize, count: u32): void {
  while (count > 0) {
    const run = min(count, PAGE_TOKENS - (from & (PAGE_TOKENS - 1)));
    memory.copy(tokenPtr(s, slot, from), ptr, (<usize>run) << 2);
    ptr += (<usize>run) << 2;
    from += run;
    count -= run;
  }
}

/** Copies `count` tokens from position `from` on to `ptr`. */
export function readTokens(s: Scheduler, slot: u32, from: u32, count: u32, ptr: usize): void {
  if (count == 1) {
    store<u32>(ptr, load<u32>(tokenPtr(s, slot, from)));
    return;
  }
  while (count > 0) {
    const run = min(count, PAGE_TOKENS - (from & (PAGE_TOKENS - 1)));
    memory.copy(ptr, tokenPtr(s, slot, from), (<usize>run) << 2);
    ptr += (<usize>run) << 2;
    from += run;
    count -= run;
  }
}

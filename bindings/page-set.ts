/**
 * PageSet: which pages are in a fixed number of slots, under an eviction order; a request makes its page present. For
 * caches of things that stand alone, one slot each: experts, adapters, whole objects.
 */
import { type BlockOrderKind, historyFor, ORDER_KINDS } from "./block-order.js";
import type { Core } from "./core.js";
import { invalidArgument, requireInteger, requireList } from "./errors.js";

export interface PageSetOptions {
  /** Pages present at a time, 1 to 2^26. */
  slots: number;
  /** Pages are 0 to `pages` - 1; 1 to 2^26. 4 bytes each. */
  pages: number;
  /** Which page goes first when room is needed: any but "scored" and "priority". Default "lru". */
  evictionOrder?: BlockOrderKind;
  /** Pages remembered after they have left, 0 to 2^26. Default: as for a KvCache. */
  history?: number;
  /**
   * Orders by advice: whether what they throw out goes at once instead of when its room is needed. More faults, never
   * fewer; for comparisons with the literature. Default false.
   */
  eager?: boolean;
}

/** 0 keep, 1 discard. */
export type Advice = 0 | 1;

/** Orders that need more from the host than requests. */
const HOST_KINDS: readonly BlockOrderKind[] = ["scored", "priority"];
const MAX_PAGES = 2 ** 26;
const NO_ADVICE = 2;
/** Requests a call: 5 bytes each of 64 KiB of scratch. */
const RUN = 8192;

export class PageSet {
  readonly core: Core;
  readonly pointer: number;
  readonly slots: number;
  readonly pages: number;

  /** Made by `core.pageSet(...)`. */
  constructor(core: Core, pointer: number) {
    this.core = core;
    this.pointer = pointer;
    this.slots = core.exports.pageSetSlots(pointer);
    this.pages = core.exports.pageSetPages(pointer);
  }

  /** Checks options and fills in defaults. */
  static shape(options: PageSetOptions): Required<Omit<PageSetOptions, "evictionOrder">> & { kind: number } {
    if (typeof options !== "object" || options === null)
      throw invalidArgument("options", options, "an object");
    const slots = requireInteger("slots", options.slots, 1, MAX_PAGES);
    const order = options.evictionOrder ?? "lru";
    const kind = ORDER_KINDS.indexOf(order);
    if (kind < 0 || HOST_KINDS.includes(order))
      throw invalidArgument(
        "evictionOrder",
        order,
        ORDER_KINDS.filter((name) => !HOST_KINDS.includes(name)).join(", "),
      );
    return {
      slots,
      pages: requireInteger("pages", options.pages, 1, MAX_PAGES),
      history: historyFor(order, options.history, slots),
      eager: options.eager ?? false,
      kind,
    };
  }

  /** Makes a page present; returns whether it was. `advice`: the bit of an order that takes one, else its own guess. */
  request(page: number, advice?: Advice): boolean {
    requireInteger("page", page, 0, this.pages - 1);
    const bit = advice === undefined ? NO_ADVICE : requireInteger("advice", advice, 0, 1);
    return this.core.call(() => this.core.exports.pageSetRequest(this.pointer, page, bit), "request") === 1;
  }

  /** Many requests in turn; returns how many were faults. Nothing happens when one is out of range. */
  run(pages: ArrayLike<number>, advice?: ArrayLike<number>): number {
    requireList("pages", pages);
    if (advice !== undefined && requireList("advice", advice) !== pages.length)
      throw invalidArgument("advice", advice.length, `${pages.length} bits, as many as pages`);
    for (let i = 0; i < pages.length; i++) {
      requireInteger(`pages[${i}]`, pages[i], 0, this.pages - 1);
      if (advice !== undefined) requireInteger(`advice[${i}]`, advice[i], 0, 1);
    }
    let faults = 0;
    for (let from = 0; from < pages.length; from += RUN) faults += this.#run(pages, advice, from);
    return faults;
  }

  #run(pages: ArrayLike<number>, advice: ArrayLike<number> | undefined, from: number): number {
    const { exports, memory } = this.core;
    const count = Math.min(RUN, pages.length - from);
    const address = this.core.scratch(count * 5);
    const words = new Uint32Array(memory.buffer, address, count);
    const bits = new Uint8Array(memory.buffer, address + count * 4, count);
    for (let i = 0; i < count; i++) {
      words[i] = pages[from + i];
      bits[i] = advice === undefined ? NO_ADVICE : advice[from + i];
    }
    return this.core.call(() => exports.pageSetRun(this.pointer, address, address + count * 4, count), "run");
  }

  /** Takes every page out and forgets the past, statistics too; random draws start from `seed`, 0 to 2^32 - 1. */
  clear(seed = 0): void {
    requireInteger("seed", seed, 0, 0xffffffff);
    this.core.call(() => (this.core.exports.pageSetClear(this.pointer, seed), 0), "clear");
  }

  /** Slot of a page, or undefined when it is not present. */
  slot(page: number): number | undefined {
    requireInteger("page", page, 0, this.pages - 1);
    const slot = this.core.exports.pageSetSlot(this.pointer, page);
    return slot < 0 ? undefined : slot;
  }

  /** Requests since creation, and how many of them had to fetch their page. */
  stats(): { readonly requests: number; readonly faults: number } {
    const { exports } = this.core;
    return { requests: exports.pageSetRequests(this.pointer), faults: exports.pageSetFaults(this.pointer) };
  }

  /** Full check, O(slots + history); throws CORRUPT. */
  validate(): void {
    this.core.call(() => this.core.exports.pageSetValidate(this.pointer), "pageSet");
  }
}

/**
 * Virtual memory: the records of the virtually contiguous allocator.
 *
 * The host reserves, once, a dense range of addresses for every (tensor, slot) and maps page-groups of physical memory
 * behind it as the slot's sequence grows. The core keeps who has which page-group and says what to map; it never sees
 * an address. Of the 2 x layers tensors all grow alike, so the unit is the *KV block*: one page-group in each of them.
 * Handle of a KV block's page-group in tensor t: block * tensors + t, whence one u32 a KV block in every table here.
 *
 *   header    VirtualMemory
 *   slots     [slotCount] Slot, 16 B
 *   lengths   [slotCount] u32               the host writes the lengths of a step here
 *   short     [slotCount] u32               slots that the last step had no memory for
 *   physical  [blockCount] Physical, 8 B
 *   free      [blockCount] u32              stack of the KV blocks that nobody maps
 *   table     [slotCount][slotPages] u32    KV block behind page j of a slot; the first `mapped` are meant
 *   ring      [2^k] Change, 16 B            the map plan, read by the host between `taken` and `made`
 *
 * Source: "vAttention: Dynamic Memory Management for Serving LLMs without PagedAttention" (arXiv 2405.04437).
 */
// @ts-ignore: decorator
@inline export const MAX_SLOTS: u32 = 4096;
// @ts-ignore: decorator
@inline export const MAX_TOKENS: u32 = 1 << 24;
// @ts-ignore: decorator
@inline export const MAX_TOKEN_BYTES: u32 = 1 << 24;
// @ts-ignore: decorator
@inline export const MAX_KV_BLOCKS: u32 = 1 << 24;
// @ts-ignore: decorator
@inline export const MAX_SLOT_PAGES: u64 = 1 << 20;
/** Entries of all slots' tables together. */
// @ts-ignore: decorator
@inline export const MAX_ENTRIES: u64 = 1 << 26;
// @ts-ignore: decorator
@inline export const MIN_PAGE_BYTES: u32 = 4096;
// @ts-ignore: decorator
@inline export const MAX_PAGE_BYTES: u32 = 1 << 30;

// @ts-ignore: decorator
@inline export const UNMAP: u32 = 0;
// @ts-ignore: decorator
@inline export const MAP: u32 = 1;


@unmanaged
export class VirtualMemory {
  // Shape, fixed at creation (the host reads these words: docs/abi.md).
  slotCount: u32;
  maxTokens: u32;
  /** Bytes of a token in one tensor. */
  tokenBytes: u32;
  pageShift: u32;
  slotPages: u32;
  blockCount: u32;
  /** The host's, kept for it. */
  tensors: u32;
  /** Pages that can be shared are a multiple of this: there a token ends where a page ends. */
  sharePages: u32;
  /** How far `background` looks ahead, in tokens; 0: it does nothing. */
  eagerSteps: u32;
  /** KV blocks that looking further than the next token may map. */
  eagerBlocks: u32;
  /** 1: `background` takes one KV block a step from an inactive slot. */
  eagerReclaim: u32;
  // Addresses of the sections.
  slots: u32;
  table: u32;
  physical: u32;
  free: u32;
  lengths: u32;
  short: u32;
  ring: u32;
  ringMask: u32;
  /** Changes that the host has taken (it writes this) and the core has made, counted for ever. */
  taken: u32;
  made: u32;
  freeCount: u32;
  /** KV blocks behind a token of an active slot: they cannot be had. */
  heldCount: u32;
  /** Entries of all tables: `mapped` of all slots added up. */
  entries: u32;
}


@unmanaged
export class Slot {
  /** Tokens; 0: it has no sequence. */
  length: u32;
  /** Pages that they lie in. */
  needed: u32;
  /** Pages that have memory behind them. */
  mapped: u32;
  /** Pages from here on have one holder. */
  shared: u32;
}


@unmanaged
export class Physical {
  /** Pages mapped to it. */
  refs: u32;
  /** Those of them that tokens of active slots lie in. */
  held: u32;
}

/** One record of the map plan: a KV block comes behind a page of a slot, in every tensor, or leaves it. */
@unmanaged
export class Change {
  op: u32;
  slot: u32;
  page: u32;
  block: u32;
}

export function slotAt(vm: VirtualMemory, slot: u32): Slot {
  return changetype<Slot>(<usize>vm.slots + <usize>slot * offsetof<Slot>());
}

/** Address of the table entry of a page. */
export function entryOf(vm: VirtualMemory, slot: u32, page: u32): usize {
  return <usize>vm.table + ((<usize>slot * <usize>vm.slotPages + <usize>page) << 2);
}

export function physicalAt(vm: VirtualMemory, block: u32): Physical {
  return changetype<Physical>(<usize>vm.physical + <usize>block * offsetof<Physical>());
}

// @ts-ignore: decorator
@inline
export function freeAt(vm: VirtualMemory, index: u32): usize {
  return <usize>vm.free + ((<usize>index) << 2);
}

/** Pages that `tokens` tokens lie in. By bytes, so that a token may cross the end of a page. */
export function pagesFor(vm: VirtualMemory, tokens: u32): u32 {
  return <u32>((<u64>tokens * <u64>vm.tokenBytes + (((<u64>1) << vm.pageShift) - 1)) >> vm.pageShift);
}

// @ts-ignore: decorator
@inline
function slotPagesOf(maxTokens: u32, tokenBytes: u32, pageBytes: u32): u64 {
  return (<u64>maxTokens * <u64>tokenBytes + pageBytes - 1) / <u64>pageBytes;
}

/**
 * Most changes that one call can make, with every page mapped: each is unmapped at most once, every KV block mapped at
 * most once, and sharing replaces the pages of one slot.
 */
// @ts-ignore: decorator
@inline
function ringSize(slots: u32, slotPages: u64, blocks: u32): u64 {
  const most = <u64>slots * slotPages + blocks + 2 * slotPages;
  return (<u64>1) << (64 - clz(most - 1));
}

/** Whether the shape is within range; a page-group is a power of two of bytes. */
export function vmShapeValid(slots: u32, maxTokens: u32, tokenBytes: u32, pageBytes: u32, blocks: u32): bool {
  if (slots < 1 || slots > MAX_SLOTS || maxTokens < 1 || maxTokens > MAX_TOKENS) return false;
  if (tokenBytes < 1 || tokenBytes > MAX_TOKEN_BYTES || blocks < 1 || blocks > MAX_KV_BLOCKS) return false;
  if (pageBytes < MIN_PAGE_BYTES || pageBytes > MAX_PAGE_BYTES || popcnt(pageBytes) != 1) return false;
  const pages = slotPagesOf(maxTokens, tokenBytes, pageBytes);
  return pages <= MAX_SLOT_PAGES && pages * slots <= MAX_ENTRIES;
}

/** Exact bytes for a valid shape: all sections are words. */
export function vmBytes(slots: u32, maxTokens: u32, tokenBytes: u32, pageBytes: u32, blocks: u32): u64 {
  const pages = slotPagesOf(maxTokens, tokenBytes, pageBytes);
  const words = <u64>slots * (pages + 6) + 3 * <u64>blocks;
  return offsetof<VirtualMemory>() + words * 4 + ringSize(slots, pages, blocks) * offsetof<Change>();
}

/** Nothing mapped, in a zeroed region of `vmBytes` bytes. */
export function vmCreate(
  vm: VirtualMemory,
  slots: u32,
  maxTokens: u32,
  tokenBytes: u32,
  pageBytes: u32,
  blocks: u32,
): void {
  const pages = <u32>slotPagesOf(maxTokens, tokenBytes, pageBytes);
  vm.slotCount = slots;
  vm.maxTokens = maxTokens;
  vm.tokenBytes = tokenBytes;
  vm.pageShift = ctz(pageBytes);
  vm.slotPages = pages;
  vm.blockCount = blocks;
  // A page is a power of two: the greatest common divisor is the lower of the two powers.
  vm.sharePages = tokenBytes >> min(ctz(tokenBytes), ctz(pageBytes));
  vm.slots = <u32>changetype<usize>(vm) + offsetof<VirtualMemory>();
  vm.lengths = vm.slots + slots * offsetof<Slot>();
  vm.short = vm.lengths + (slots << 2);
  vm.physical = vm.short + (slots << 2);
  vm.free = vm.physical + blocks * offsetof<Physical>();
  vm.table = vm.free + (blocks << 2);
  vm.ring = vm.table + ((slots * pages) << 2);
  vm.ringMask = <u32>(ringSize(slots, pages, blocks) - 1);
  vm.freeCount = blocks;
  // Lowest ids on top.
  for (let i: u32 = 0; i < blocks; i++) store<u32>(freeAt(vm, i), blocks - 1 - i);
}

/**
 * HostTier: block slots in host memory that hold what preempted requests have computed.
 *
 *   header    (HostTier), 4 lines
 *   slots     [blocks] HostSlot, 16 B            what each slot holds
 *   copies    [copyCount] HostCopy, 80 B         what the tier has of one request
 *   before    [copyCount + copies that the cache may list] Copy      room for what comes before the records
 *   records   [2 kv.blockCount] Copy             transfers of the step that is planned
 *   links     [kv.blockCount] u32                slot with the content of a cached device block, or NONE
 *   copyOf    [owners] u32                       address of each request's copy, or 0
 *   rows      [copyCount][entries of a row] u32  slots of a copy, in order of the request's blocks
 *   extents   FreeExtents over the slots         runs of free slots
 *
 * Swapping with copies that stay valid, after "FastSwitch" (arXiv 2411.18424, section on KV cache reuse): K and V are only
 * ever appended, so a slot with as many tokens as its device block is never sent again. Slots are taken back from
 * the tail of a copy, so what is left is always a prefix.
 *
 * Invariants (tiers/validate.ts):
 * 1. A slot is taken while rows name it (`refs`); all others are in `extents`, or in the tail of a copy: slots behind its last
 *    one that are kept for what its request computes next, until there is no other free one.
 * 2. A copy in flight keeps its slots, and its device blocks through a sequence: its request's, or its own once the
 *    request has left it. Nothing under an in-flight copy is ever handed to anybody else, unless the transfer is
 *    `awaited`: then the host completes it before it touches those blocks.
 * 3. A link is to a cached block with the content of the slot; it goes when the block is forgotten. What is in flight to a
 *    linked slot keeps its block: other copies count on it. Requests that go whole may let go of theirs, and link nothing.
 */
import { extentsBytes, extentsCreate } from "../../index/free-extents";
import { alignToLine } from "../../memory/arena";
import { groupsOf, peakBlocks } from "../groups";
import { Copy, KvCache, NONE } from "../layout";

// @ts-ignore: decorator
@inline export const MAX_HOST_BLOCKS: u32 = 1 << 24;
// @ts-ignore: decorator
@inline const HEADER_BYTES: u32 = 256;
/** Set in a slot's `tokens`: they are being sent. */
// @ts-ignore: decorator
@inline export const INCOMING: u32 = 0x80000000;
/** Set in a row's entry: it is in the transfer in flight. */
// @ts-ignore: decorator
@inline export const SEND: u32 = 0x80000000;

/** Mark of a transfer record: whenever it suits, beside batches. */
// @ts-ignore: decorator
@inline export const ASYNC: u32 = 2;

/** Operations of transfer records (docs/abi.md). */
export const enum TransferOp {
  None = 0,
  SwapOut = 1,
  SwapIn = 2,
  /** The transfer that an earlier plan has begun must be complete before anything of this one. */
  Wait = 3,
}

/** How a preempted request gets its K and V back. */
export const enum Preemption {
  Swap = 1,
  /** Whichever costs less. */
  Auto = 2,
}

/** When a request that is read back joins a batch. */
export const enum SwapIn {
  /** In the first step after its blocks have arrived. */
  Async = 0,
  /** In the step that reads them, whose batch waits. */
  Sync = 1,
  /** Whichever costs less (scheduling/swap-in.ts). */
  Adaptive = 2,
}

/** Weight of the last transfer in the averages (alpha). */
// @ts-ignore: decorator
@inline export const NEWEST: f64 = 0.2;


@unmanaged
export class HostTier {
  kv: KvCache;
  blocks: u32;
  copyCount: u32;
  owners: u32;
  // Addresses of the sections.
  extents: u32;
  slots: u32;
  links: u32;
  copies: u32;
  copyOf: u32;
  records: u32;
  freeCopies: u32;
  inFlight: u32;
  /** Transfer records of the step that is planned. */
  recordCount: u32;
  /** Device blocks that are free once the swap-outs in flight are complete. */
  pendingBlocks: u32;
  // Policy.
  preemption: u32;
  /** 1: every transfer is complete before the batch of the step that begins it. */
  blocking: u32;
  /** 1: a copy is kept once its request runs again. */
  reuse: u32;
  /** Microseconds a block: averages of finished transfers. And a token: to compute it. */
  outUs: f64;
  inUs: f64;
  prefillUs: f64;
  // Counters since creation.
  sentBlocks: u64;
  /** Blocks of preempted requests that had a valid copy already. */
  keptBlocks: u64;
  loadedBlocks: u64;
  failures: u64;
  swapOuts: u64;
  swapIns: u64;
  /** Swap-outs whose blocks were needed before they were complete. */
  conflicts: u64;
  swapIn: u32;
  /** Swap-ins measured. */
  loads: u32;
  // Of the step that is planned or in flight: swap-ins that its batch waits for and that have not arrived whole, and blocks of
  // all swap-ins that it begins, unless none may join.
  owed: u32;
  toLoad: u32;
  /** Swap-ins since creation that the batch of their step waited for. */
  joins: u64;
  /** Microseconds of a step, an average of those that began no swap-in. */
  stepUs: f64;
  // Behind it to the end of the header: microseconds a block of the last swap-ins, f32[LOADS] (times.ts).
}


@unmanaged
export class HostSlot {
  /** Rows that name it. */
  refs: u32;
  /** Valid tokens; 0: none. INCOMING: they are being sent. */
  tokens: u32;
  /** Cached device block with the same content, or NONE. */
  device: u32;
  reserved: u32;
}


@unmanaged
export class HostCopy {
  /** Request, by its slot; NONE: it has ended, and the copy with it once its transfer is complete. */
  owner: u32;
  /** Of the transfer in flight, or the last one: generation << SLOT_BITS | index of the copy. */
  id: u32;
  /** Address of its row. */
  row: u32;
  /** Entries of its row. */
  blocks: u32;
  /** TransferOp in flight. */
  op: u32;
  /** Sequence that it alone keeps open for the transfer in flight, or NONE. */
  sequence: u32;
  /** Blocks in flight; swap-in: from which of the request on. */
  count: u32;
  from: u32;
  /** Tokens that are there once the transfer is complete. */
  tokens: u32;
  /** It is complete before the batch of the step; swap-out: its device blocks have been given away. */
  awaited: u32;
  /** Step that began the transfer. */
  step: u32;
  /** The request's K and V are on the device: the copy may be taken back. */
  resident: u32;
  priority: u32;
  /** Address of the next free copy, 0 at the end. */
  next: u32;
  /** Tokens of a sequence that goes whole; `tokens` are the slots of one that drops tokens then. 0: any prefix is of use. */
  seen: u32;
  /** Lossy: slots that its next token takes again. */
  reuse: u32;
  /** Slots that it takes next: free, but in no extent. */
  tailStart: u32;
  tailLength: u32;
  /** Blocks of `sequence` that are free once its swap-out is complete. */
  pending: u32;
  unused: u32;
}

// @ts-ignore: decorator
@inline
export function slotAt(t: HostTier, id: u32): HostSlot {
  return changetype<HostSlot>(<usize>t.slots + <usize>id * offsetof<HostSlot>());
}

// @ts-ignore: decorator
@inline
export function copyAtIndex(t: HostTier, index: u32): HostCopy {
  return changetype<HostCopy>(<usize>t.copies + <usize>index * offsetof<HostCopy>());
}

// @ts-ignore: decorator
@inline
export function copyFrom(address: u32): HostCopy {
  return changetype<HostCopy>(<usize>address);
}

// @ts-ignore: decorator
@inline
export function addressOf(copy: HostCopy): u32 {
  return <u32>changetype<usize>(copy);
}

/** Address of entry `i` of a copy's row. */
// @ts-ignore: decorator
@inline
export function entryPtr(copy: HostCopy, i: u32): usize {
  return <usize>copy.row + ((<usize>i) << 2);
}

// @ts-ignore: decorator
@inline
export function linkPtr(t: HostTier, device: u32): usize {
  return <usize>t.links + ((<usize>device) << 2);
}

// @ts-ignore: decorator
@inline
export function copyOfPtr(t: HostTier, owner: u32): usize {
  return <usize>t.copyOf + ((<usize>owner) << 2);
}

/** The copy of a request, or null. */
// @ts-ignore: decorator
@inline
export function copyOf(t: HostTier, owner: u32): HostCopy | null {
  return changetype<HostCopy | null>(<usize>load<u32>(copyOfPtr(t, owner)));
}

/** Records that may come before those of the step: waits, and copies of the cache. */
function before(kv: KvCache, copies: u32): u32 {
  return copies + (kv.groups == 0 ? kv.maxSequences : groupsOf(kv).copyCapacity);
}

/** Exact bytes of a tier of this shape. */
export function tierBytes(kv: KvCache, blocks: u32, copies: u32, owners: u32): u64 {
  return (
    HEADER_BYTES +
    <u64>blocks * offsetof<HostSlot>() +
    <u64>copies * offsetof<HostCopy>() +
    (<u64>before(kv, copies) + 2 * <u64>kv.blockCount) * offsetof<Copy>() +
    ((<u64>kv.blockCount + owners + <u64>copies * peakBlocks(kv, kv.maxSequenceTokens)) << 2) +
    64 +
    extentsBytes(blocks)
  );
}

/** Lays out and fills a tier at `ptr`, a zeroed region of `tierBytes` bytes; everything is free. */
export function tierCreate(
  ptr: usize,
  kv: KvCache,
  blocks: u32,
  copies: u32,
  owners: u32,
  seed: u64,
): HostTier {
  const t = changetype<HostTier>(ptr);
  t.kv = kv;
  t.blocks = blocks;
  t.copyCount = copies;
  t.owners = owners;
  t.slots = <u32>ptr + HEADER_BYTES;
  t.copies = t.slots + blocks * <u32>offsetof<HostSlot>();
  t.records = t.copies + copies * <u32>offsetof<HostCopy>() + before(kv, copies) * <u32>offsetof<Copy>();
  t.links = t.records + 2 * kv.blockCount * <u32>offsetof<Copy>();
  t.copyOf = t.links + (kv.blockCount << 2);
  let row = t.copyOf + (owners << 2);
  for (let id: u32 = 0; id < blocks; id++) slotAt(t, id).device = NONE;
  memory.fill(t.links, 0xff, (<usize>kv.blockCount) << 2);
  const rowBytes = peakBlocks(kv, kv.maxSequenceTokens) << 2;
  for (let i: u32 = 0; i < copies; i++, row += rowBytes) {
    const copy = copyAtIndex(t, i);
    copy.owner = NONE;
    copy.sequence = NONE;
    copy.id = i;
    copy.row = row;
    copy.next = t.freeCopies;
    t.freeCopies = addressOf(copy);
  }
  t.extents = <u32>alignToLine(row);
  extentsCreate(t.extents, blocks, seed);
  return t;
}

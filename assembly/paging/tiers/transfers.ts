/**
 * Transfers between the device's blocks and the host tier: what is sent, in which runs, and how it ends.
 *
 * One copy has one transfer in flight at most. Its records name runs that are contiguous on both sides; the last word
 * is the transfer's id, which the host reports once, with how many of its leading blocks have arrived.
 */
import { extentsAllocate, FreeExtents, Fit } from "../../index/free-extents";
import { blockInOrder } from "../group-blocks";
import {
  block,
  blocksFor,
  Copy,
  isCached,
  KvCache,
  MAX_GENERATION,
  NONE,
  SLOT_BITS,
  SLOT_MASK,
  tableOf,
} from "../layout";
import {
  ASYNC,
  copyAtIndex,
  entryPtr,
  HostCopy,
  HostTier,
  INCOMING,
  linkPtr,
  SEND,
  slotAt,
  TransferOp,
} from "./layout";
import { freeSlots, reclaim, truncateRow, unlink } from "./slots";

/** Slots that a copy keeps for what its request computes next, beyond what is sent (our figure for the growth of a turn). */
// @ts-ignore: decorator
@inline const AHEAD: u32 = 60;

/** The copy whose transfer in flight has this id, or null. */
export function inFlightCopy(t: HostTier, id: u32): HostCopy | null {
  const index = id & SLOT_MASK;
  if (index >= t.copyCount) return null;
  const copy = copyAtIndex(t, index);
  return copy.op != TransferOp.None && copy.id == id ? copy : null;
}

/** Nothing is in flight yet: gives the transfer its id. */
function beginTransfer(t: HostTier, copy: HostCopy, op: TransferOp, from: u32, step: u32): void {
  const generation = copy.id >> SLOT_BITS;
  copy.id = (copy.id & SLOT_MASK) | ((generation == MAX_GENERATION ? 1 : generation + 1) << SLOT_BITS);
  copy.op = op;
  copy.from = from;
  copy.count = 0;
  copy.step = step;
  copy.awaited = t.blocking;
  t.inFlight += 1;
}

// @ts-ignore: decorator
@inline
export function recordAt(t: HostTier, index: u32): Copy {
  return changetype<Copy>(<usize>t.records + <usize>index * offsetof<Copy>());
}

/** Adds a block to a transfer: to its last record if that one ends right before it on both sides. */
function addBlock(t: HostTier, copy: HostCopy, source: u32, target: u32, tokens: u32): void {
  copy.count += 1;
  if (copy.count > 1) {
    const last = recordAt(t, t.recordCount - 1);
    const behind = last.tokens >> t.kv.blockShift;
    if (last.source + behind == source && last.target + behind == target) {
      last.tokens += tokens;
      return;
    }
  }
  const record = recordAt(t, t.recordCount);
  t.recordCount += 1;
  record.op = copy.op;
  record.sourceTier = u32(copy.op == TransferOp.SwapIn);
  record.source = source;
  record.targetTier = u32(copy.op == TransferOp.SwapOut);
  record.target = target;
  record.tokens = tokens;
  record.sequence = copy.id;
}

function deviceBlock(kv: KvCache, sequence: u32, i: u32): u32 {
  if (kv.groups != 0) return blockInOrder(kv, sequence & SLOT_MASK, i);
  return load<u32>(tableOf(kv, sequence & SLOT_MASK) + ((<usize>i) << 2));
}

/**
 * A slot for a copy, its next one of those that it keeps. When it keeps none, first a run for `wanted` and as many as its request
 * may compute next: the best fit, all of the longest, or what can be had of other copies. NONE: there is none.
 */
function takeSlot(t: HostTier, copy: HostCopy, wanted: u32): u32 {
  if (copy.tailLength == 0) {
    if (!reclaim(t, wanted) && freeSlots(t) == 0) return NONE;
    const ahead = t.reuse == 0 ? 0 : min(AHEAD, t.blocks >> 4);
    copy.tailStart = <u32>extentsAllocate(t.extents, min(wanted + ahead, t.blocks), Fit.BestOrLargest);
    copy.tailLength = changetype<FreeExtents>(<usize>t.extents).allocated;
  }
  copy.tailLength -= 1;
  return copy.tailStart++;
}

/**
 * Begins to send a sequence's first `tokens` tokens, or as much from their start as there are slots for. What the tier
 * has already, of this request or of a cached block, is not sent; when that is all, nothing is in flight afterwards.
 * `share`: whether others may count on the cached blocks among them; not when the request may let go of those on their way.
 */
export function beginSwapOut(
  t: HostTier,
  copy: HostCopy,
  sequence: u32,
  tokens: u32,
  step: u32,
  share: bool,
): void {
  const kv = t.kv;
  const blocks = blocksFor(kv, tokens);
  beginTransfer(t, copy, TransferOp.SwapOut, 0, step); // from here on nobody takes its slots
  for (let i: u32 = 0; i < blocks; i++) {
    const filled = min(kv.blockSize, tokens - (i << kv.blockShift));
    const device = deviceBlock(kv, sequence, i);
    const fresh = i == copy.blocks;
    let id = fresh ? load<u32>(linkPtr(t, device)) : load<u32>(entryPtr(copy, i));
    const send = id == NONE || (slotAt(t, id).tokens & ~INCOMING) < filled;
    // Blocks that several requests share may be sent for each of them: as far as there is room for the records.
    if (send && t.recordCount == kv.blockCount) break;
    if (id == NONE) {
      id = takeSlot(t, copy, blocks - i);
      if (id == NONE) break;
    }
    if (fresh) appendSlot(t, copy, id);
    if (send) sendBlock(t, copy, i, device, id, filled, share);
  }
  copy.tokens = min(tokens, copy.blocks << kv.blockShift);
  t.sentBlocks += copy.count;
  t.keptBlocks += min(blocks, copy.blocks) - copy.count;
  if (copy.count == 0) endTransfer(t, copy, 0);
}

// @ts-ignore: decorator
@inline
function appendSlot(t: HostTier, copy: HostCopy, id: u32): void {
  store<u32>(entryPtr(copy, copy.blocks), id);
  copy.blocks += 1;
  slotAt(t, id).refs += 1;
}

/** One block of a swap-out: its slot is linked to the device block if that is cached, so that others need not send it. */
function sendBlock(
  t: HostTier,
  copy: HostCopy,
  i: u32,
  device: u32,
  id: u32,
  tokens: u32,
  share: bool,
): void {
  const slot = slotAt(t, id);
  slot.tokens = tokens | INCOMING;
  store<u32>(entryPtr(copy, i), id | SEND);
  if (
    share &&
    t.reuse != 0 &&
    slot.device == NONE &&
    isCached(block(t.kv, device)) &&
    load<u32>(linkPtr(t, device)) == NONE
  ) {
    store<u32>(linkPtr(t, device), id);
    slot.device = device;
  }
  addBlock(t, copy, device, id, tokens);
}

/** Blocks and tokens of a request's copy that can be read now; what has failed is forgotten. */
export function readableBlocks(t: HostTier, copy: HostCopy): u32 {
  for (let i: u32 = 0; i < copy.blocks; i++) {
    const tokens = slotAt(t, load<u32>(entryPtr(copy, i))).tokens;
    if (tokens == 0) truncateRow(t, copy, i);
    else if ((tokens & INCOMING) == 0) continue;
    return i;
  }
  return copy.blocks;
}

/** Begins to read blocks `from` to `to` - 1 of a copy into the blocks of a sequence. */
export function beginSwapIn(t: HostTier, copy: HostCopy, sequence: u32, from: u32, to: u32, step: u32): void {
  const kv = t.kv;
  beginTransfer(t, copy, TransferOp.SwapIn, from, step);
  for (let i = from; i < to; i++) {
    const id = load<u32>(entryPtr(copy, i));
    const tokens = slotAt(t, id).tokens;
    store<u32>(entryPtr(copy, i), id | SEND);
    addBlock(t, copy, id, deviceBlock(kv, sequence, i), tokens);
    copy.tokens = (i << kv.blockShift) + tokens;
  }
  t.loadedBlocks += copy.count;
}

/** What of a transfer has arrived is valid from here on, and what has not is lost. `good`: its leading blocks that have. */
export function endTransfer(t: HostTier, copy: HostCopy, good: u32): void {
  t.failures += u64(good < copy.count);
  for (let i = copy.from; i < copy.blocks; i++) {
    const entry = load<u32>(entryPtr(copy, i));
    if ((entry & SEND) == 0) continue;
    store<u32>(entryPtr(copy, i), entry & ~SEND);
    const slot = slotAt(t, entry & ~SEND);
    if (good != 0) {
      good -= 1;
      slot.tokens &= ~INCOMING;
    } else {
      slot.tokens = 0;
      unlink(t, slot);
    }
  }
  copy.op = TransferOp.None;
  t.inFlight -= 1;
}

/**
 * Puts the step's records in the order in which they are to be carried out: what must be complete before anything else
 * begins, the copies of the cache, then the step's own. Returns where they begin; `recordCount` then counts all.
 */
export function orderRecords(t: HostTier, step: u32): usize {
  const kv = t.kv;
  for (let i: u32 = 0; i < t.recordCount; i++) {
    const record = recordAt(t, i);
    record.mark = copyAtIndex(t, record.sequence & SLOT_MASK).awaited != 0 ? 0 : ASYNC;
  }
  const copies = <usize>kv.copyCount * offsetof<Copy>();
  let start = changetype<usize>(recordAt(t, 0)) - copies;
  memory.copy(start, kv.copies, copies);
  t.recordCount += kv.copyCount;
  if (t.inFlight != 0) {
    for (let i: u32 = 0; i < t.copyCount; i++) {
      const copy = copyAtIndex(t, i);
      if (copy.op == TransferOp.None || copy.awaited == 0 || copy.step == step) continue;
      start -= offsetof<Copy>();
      t.recordCount += 1;
      const record = changetype<Copy>(start);
      memory.fill(start, 0, offsetof<Copy>());
      record.op = TransferOp.Wait;
      record.sequence = copy.id;
    }
  }
  return start;
}

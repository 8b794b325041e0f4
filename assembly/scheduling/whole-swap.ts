/**
 * Swap of requests that go whole or not at all: those that drop tokens, and all requests of a cache with groups. The tier gets
 * all blocks that hold something of the sequence, or none, and a request of which some has been lost is computed anew.
 *
 *   drops tokens   what lies in its blocks is what the lanes say, so a part of it is of no use. Lanes and policies stay with
 *                  the host, which gives the lanes their new sequence (bindings/eviction/lanes.ts)
 *   groups         blocks of the cache's own table, then of each group what the next token needs (paging/group-blocks.ts). A
 *                  shorter prefix has other windows and another state, which nobody has sent
 *
 * A request that runs again writes its slots in place, and lets go of what its windows leave behind: its copy ends there, one
 * in flight too.
 */
import { groupsSkip, heldBlocks } from "../paging/group-blocks";
import { unreserve } from "../paging/growth";
import { blocksFor, KvCache, LOSSY, OWNED, PRIVATE, Sequence, SLOT_MASK, sequenceOf } from "../paging/layout";
import { open } from "../paging/sequences";
import { HostCopy, HostTier, Preemption } from "../paging/tiers/layout";
import { reclaim } from "../paging/tiers/slots";
import { beginSwapIn, readableBlocks } from "../paging/tiers/transfers";
import { Request, Scheduler } from "./layout";
import { SHARE } from "./lossy";
import { cachedTokens } from "./prefix-order";

/** Whether all that a request has is sent, or nothing. */
// @ts-ignore: decorator
@inline
export function goesWhole(s: Scheduler, r: Request): bool {
  return (r.peakSlots | s.kv.groups) != 0;
}

/**
 * Tokens of the blocks that are to be sent: whole ones, as slices of folded lanes, and pages of groups, lie anywhere in them. 0:
 * nothing can be. In a cache with groups the sequence gives back what it has reserved.
 */
export function wholeTokens(kv: KvCache, handle: u32, sequence: Sequence): u32 {
  if (kv.groups == 0) return blocksFor(kv, sequence.slots) << kv.blockShift;
  // A block whose content is still to be copied there would be sent without it.
  if (kv.copyCount != 0) return 0;
  unreserve(kv, handle, blocksFor(kv, sequence.length));
  return heldBlocks(kv, handle & SLOT_MASK) << kv.blockShift;
}

/** Whether a preempted request's sequence can be sent: it has begun to drop, or never does, and there is room for all of it. */
export function sendsAll(t: HostTier, sequence: Sequence, blocks: u32): bool {
  const kv = t.kv;
  if ((sequence.flags & LOSSY) == 0 && kv.groups == 0) return false;
  return blocks <= t.blocks && t.recordCount + blocks <= kv.blockCount && reclaim(t, blocks);
}

/**
 * A swap-out has begun: what else its sequence must get back. Should it be lost, the request is computed from its first token
 * on, so that the host can tell; in a cache with groups from what is cached.
 */
export function noteSlots(r: Request, copy: HostCopy, sequence: Sequence): void {
  r.laneFlags &= ~SHARE;
  copy.seen = sequence.length;
  if ((sequence.flags & LOSSY) != 0) copy.tokens = sequence.slots;
  copy.reuse = sequence.reuse;
}

/** A sequence for what the tier has, which gets its blocks when it is reserved for; -1: not all has arrived, 0: not all will. */
export function openWhole(s: Scheduler, slot: u32, r: Request, t: HostTier, copy: HostCopy): i32 {
  const kv = s.kv;
  const grouped = kv.groups != 0;
  const readable = readableBlocks(t, copy);
  if (copy.blocks < blocksFor(kv, copy.tokens)) return 0;
  if (readable < copy.blocks) return -1;
  // The cheaper way is counted anew: by what is left to compute behind the cached prefix.
  if (grouped && t.preemption == Preemption.Auto) {
    const left = copy.seen - min(copy.seen, cachedTokens(s, slot, r));
    if (<f64>copy.blocks * t.inUs >= <f64>left * t.prefillUs) return 0;
  }
  const handle = open(
    kv,
    r.namespace,
    kv.input,
    0,
    grouped ? OWNED : OWNED | LOSSY | PRIVATE,
    r.tenant,
    r.marks,
  );
  if (handle < 0) return handle;
  const sequence = sequenceOf(kv, handle);
  sequence.length = copy.seen;
  sequence.slots = copy.tokens;
  sequence.reuse = copy.reuse;
  sequence.writeFrom = u32.MAX_VALUE; // no block yet that others could read
  if (grouped) groupsSkip(kv, handle & SLOT_MASK, copy.seen);
  return handle;
}

/** The sequence has its blocks, and they are its own: begins to fill them. */
export function loadWhole(s: Scheduler, t: HostTier, copy: HostCopy, r: Request): void {
  sequenceOf(s.kv, r.sequence).writeFrom = 0;
  if (r.preemptions == 0) r.cachedTokens = 0; // nothing of it is on the device
  beginSwapIn(t, copy, r.sequence, 0, copy.blocks, s.stepId);
}

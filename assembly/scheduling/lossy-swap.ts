/**
 * Swap of requests that drop tokens. The tier gets all blocks that hold slots of the sequence, or none: what lies in them is
 * what the lanes say, so a part of it is of no use, and the request is computed anew when some has been lost. Lanes and
 * policies stay with the host, which gives the lanes their new sequence (bindings/eviction/lanes.ts).
 *
 * A request that runs again writes its slots in place: its copy ends there, one in flight too.
 */
import { blocksFor, KvCache, LOSSY, OWNED, PRIVATE, Sequence, slotsOf, sequenceOf } from "../paging/layout";
import { open } from "../paging/sequences";
import { HostCopy, HostTier } from "../paging/tiers/layout";
import { reclaim } from "../paging/tiers/slots";
import { beginSwapIn, readableBlocks } from "../paging/tiers/transfers";
import { Request, Scheduler } from "./layout";
import { SHARE } from "./lossy";

/** Tokens of the blocks that hold slots: whole ones, as slices of folded lanes lie anywhere in them. */
// @ts-ignore: decorator
@inline
export function slotTokens(kv: KvCache, sequence: Sequence): u32 {
  return blocksFor(kv, slotsOf(sequence)) << kv.blockShift;
}

/** Whether a preempted request's sequence can be sent: it has begun to drop, and there is room for all of it. */
export function sendsAll(t: HostTier, sequence: Sequence, blocks: u32): bool {
  return (sequence.flags & LOSSY) != 0 && blocks <= t.blocks && reclaim(t, blocks);
}

/**
 * A swap-out has begun: what else its sequence must get back. Should it be lost, the request is computed from its first token
 * on, so that the host can tell.
 */
export function noteSlots(r: Request, copy: HostCopy, sequence: Sequence): void {
  r.laneFlags &= ~SHARE;
  copy.seen = sequence.length;
  copy.tokens = sequence.slots;
  copy.reuse = sequence.reuse;
}

/** A sequence for what the tier has, which gets its blocks when it is reserved for; -1: not all has arrived, 0: not all will. */
export function openLossy(s: Scheduler, r: Request, t: HostTier, copy: HostCopy): i32 {
  const kv = s.kv;
  const readable = readableBlocks(t, copy);
  if (copy.blocks < blocksFor(kv, copy.tokens)) return 0;
  if (readable < copy.blocks) return -1;
  const handle = open(kv, r.namespace, kv.input, 0, OWNED | LOSSY | PRIVATE, r.tenant);
  if (handle < 0) return handle;
  const sequence = sequenceOf(kv, handle);
  sequence.length = copy.seen;
  sequence.slots = copy.tokens;
  sequence.reuse = copy.reuse;
  sequence.writeFrom = u32.MAX_VALUE; // no block yet that others could read
  return handle;
}

/** The sequence has its blocks, and they are its own: begins to fill them. */
export function loadLossy(s: Scheduler, t: HostTier, copy: HostCopy, handle: u32): void {
  sequenceOf(s.kv, handle).writeFrom = 0;
  beginSwapIn(t, copy, handle, 0, copy.blocks, s.stepId);
}

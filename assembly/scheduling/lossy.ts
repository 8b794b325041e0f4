/**
 * Requests whose lanes drop tokens: what their sequences begin with and what becomes of them.
 *
 *   plain     an empty lossy sequence of its own; it ends with the request
 *   share     the longest cached prefix, as any request; lossy from the first drop on, and published until then
 *   adopted   a sequence of the host's, which holds what an earlier request kept; the rest of the prompt is computed
 *   keep      the sequence outlives a request that finishes, and is the host's
 *
 * A request that is preempted begins anew from its tokens, as plain or share: what it adopted is gone.
 */
import {
  INVALID_ARGUMENT,
  OK,
  SEQUENCE_OWNED,
  Status,
  UNKNOWN_REQUEST,
  UNKNOWN_SEQUENCE,
} from "../memory/status";
import {
  blocksFor,
  isOpen,
  LOSSY,
  NONE,
  OWNED,
  PRIVATE,
  sequenceOf,
  SLOT_MASK,
  tableOf,
} from "../paging/layout";
import { availableBlocks } from "../paging/pool";
import { slotsAfter, tailIsShared, truncate } from "../paging/growth";
import { open } from "../paging/sequences";
import { isLive, Request, request, Scheduler, State } from "./layout";

// @ts-ignore: decorator
@inline export const SHARE: u32 = 1;
// @ts-ignore: decorator
@inline export const KEEP: u32 = 2;

/**
 * Says what the sequence of a request that has not been admitted yet begins with. `sequence`: a host's to adopt, or 0; it
 * belongs to the request from here on. `prefillBlocks`: blocks that suffice for the prompt where one step takes all of it and
 * drops between layers, or 0. Refused, with nothing changed: UNKNOWN_REQUEST; INVALID_ARGUMENT for a request
 * without lanes, one that has been admitted, or a sequence that is not shorter than the prompt; UNKNOWN_SEQUENCE,
 * SEQUENCE_OWNED.
 */
export function requestLanes(
  s: Scheduler,
  handle: u32,
  flags: u32,
  sequence: u32,
  prefillBlocks: u32,
): Status {
  if (!isLive(s, handle)) return UNKNOWN_REQUEST;
  const r = request(s, handle & SLOT_MASK);
  if (r.peakSlots == 0 || r.state == State.Running || r.preemptions != 0 || r.adopted != 0)
    return INVALID_ARGUMENT;
  if (flags > (SHARE | KEEP) || (prefillBlocks != 0 && (sequence != 0 || (flags & SHARE) != 0)))
    return INVALID_ARGUMENT;
  if (sequence != 0) {
    if (!isOpen(s.kv, sequence)) return UNKNOWN_SEQUENCE;
    const own = sequenceOf(s.kv, sequence);
    if ((own.flags & OWNED) != 0) return SEQUENCE_OWNED;
    if (own.length >= r.promptTokens) return INVALID_ARGUMENT;
    own.flags |= OWNED;
  }
  r.laneFlags = flags;
  r.adopted = sequence;
  r.prefillBlocks = prefillBlocks;
  return OK;
}

/** Opens or adopts the sequence of a request with `target` known tokens, which lie in the cache's input. */
function openWithPart(s: Scheduler, r: Request, target: u32): i32 {
  const kv = s.kv;
  if (r.peakSlots == 0) return open(kv, r.namespace, kv.input, target, OWNED, r.tenant, r.marks);
  if (r.adopted != 0) return <i32>r.adopted;
  // Room for the survivors beside the prompt may be more than there ever is.
  const share =
    (r.laneFlags & SHARE) != 0 && blocksFor(kv, target) + blocksFor(kv, r.peakSlots) <= kv.blockCount;
  if (!share) return open(kv, r.namespace, kv.input, 0, OWNED | LOSSY | PRIVATE, r.tenant);
  // What is measured of the last queries needs them computed.
  const measured = max(r.lastChunk, 1);
  return open(
    kv,
    r.namespace,
    kv.input,
    target >= measured ? target - measured + 1 : 0,
    OWNED,
    r.tenant,
    r.marks,
  );
}

/**
 * Whether a request whose prompt is computed layer by layer has to wait for a step that has budget for all of it. Says to its
 * new sequence how few blocks that takes. A prompt that no step can take whole is computed in chunks, in all its blocks.
 */
export function waitsForWholePrompt(s: Scheduler, r: Request, handle: u32): bool {
  const target = r.promptTokens;
  const slots = r.prefillBlocks << s.kv.blockShift;
  if (r.preemptions != 0 || slots >= target || target + s.runningCount > s.maxBatchTokens) return false;
  if ((s.maxChunkTokens | r.chunkTokens) != 0) return false;
  if (s.budgetLeft < target) return true;
  sequenceOf(s.kv, handle).reuse = target - slots;
  return false;
}

/**
 * As `openWithPart`, and with whole blocks of the cached prefix only where the pool has no room for what is needed otherwise: a
 * block that is shared for its beginning is held beside its copy.
 */
export function openFor(s: Scheduler, r: Request, target: u32): i32 {
  const handle = openWithPart(s, r, target);
  if (handle < 0 || s.kv.children == 0 || r.peakSlots != 0) return handle;
  const cached = sequenceOf(s.kv, handle).length;
  const whole = cached & ~(s.kv.blockSize - 1);
  if (cached == whole || blocksFor(s.kv, target) - (whole >> s.kv.blockShift) <= availableBlocks(s.kv))
    return handle;
  truncate(s.kv, handle, whole);
  return handle;
}

/** Blocks that its sequence takes for the rest of its tokens. */
export function neededFor(s: Scheduler, handle: u32, target: u32): u32 {
  const sequence = sequenceOf(s.kv, handle);
  const after = blocksFor(s.kv, slotsAfter(sequence, target - sequence.length));
  // A prefix that ends inside a block ends in one that is shared: a copy takes its place.
  const copy =
    (sequence.flags & LOSSY) == 0 && tailIsShared(s.kv, sequence, tableOf(s.kv, handle & SLOT_MASK));
  return u32(copy) + (after > sequence.blockCount ? after - sequence.blockCount : 0);
}

/** Blocks that a request with so many now may still ask for, if it drops tokens. */
export function growthOf(s: Scheduler, r: Request, handle: u32, blocks: u32): u32 {
  if (r.peakSlots == 0) return 0;
  const peak = blocksFor(s.kv, r.peakSlots);
  // What others can read is not packed in place: survivors get blocks of their own beside it.
  if ((sequenceOf(s.kv, handle).flags & LOSSY) == 0) return peak;
  return peak > blocks ? peak - blocks : 0;
}

/** A request has finished: hands its sequence to the host, where that was asked for. */
export function keepSequence(s: Scheduler, r: Request): void {
  if ((r.laneFlags & KEEP) == 0) return;
  sequenceOf(s.kv, r.sequence).flags &= ~OWNED;
  r.sequence = NONE;
}

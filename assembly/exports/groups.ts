/** Cache groups as the host makes them: an add-on of a KV cache that is still new. */
import { ARENA, arenaTake, RegionKind } from "../memory/arena";
import { INVALID_ARGUMENT, OK, OUT_OF_MEMORY, Status } from "../memory/status";
import { kvShapeValid } from "../paging/cache";
import { entryPtr, groupAt, groupsBytes, groupsCreate, groupsOf, spanOf, specsValid } from "../paging/groups";
import { isOpen, KvCache, SLOT_MASK } from "../paging/layout";

/** Bytes of the `count` groups whose records (kind, window, tokens a block; u32 each) are at `specs`, or INVALID_ARGUMENT. */
export function kvGroupsBytes(
  blocks: u32,
  blockSize: u32,
  maxSequences: u32,
  maxSequenceTokens: u32,
  specs: usize,
  count: u32,
): f64 {
  if (!kvShapeValid(blocks, blockSize, maxSequences, maxSequenceTokens)) return INVALID_ARGUMENT;
  if (!specsValid(specs, count, blockSize)) return INVALID_ARGUMENT;
  return <f64>groupsBytes(blocks, blockSize, maxSequences, maxSequenceTokens, specs, count);
}

/** Gives a new cache that has no host tier yet and does not reuse parts of blocks these groups, in a region of their own. */
export function kvGroupsCreate(cache: usize, specs: usize, count: u32): Status {
  const kv = changetype<KvCache>(cache);
  if (
    (kv.groups | kv.children | kv.runs | kv.tier) != 0 ||
    kv.freeCount != kv.blockCount ||
    kv.openSequences != 0
  )
    return INVALID_ARGUMENT;
  if (!specsValid(specs, count, kv.blockSize)) return INVALID_ARGUMENT;
  const bytes = groupsBytes(kv.blockCount, kv.blockSize, kv.maxSequences, kv.maxSequenceTokens, specs, count);
  const region = arenaTake(ARENA, RegionKind.CacheAddOn, bytes);
  if (region == 0) return OUT_OF_MEMORY;
  groupsCreate(kv, region, specs, count);
  return OK;
}

/** Address of a cache's groups (docs/abi.md), or 0. */
export function kvGroups(cache: usize): usize {
  return changetype<KvCache>(cache).groups;
}

/** Entries of a sequence's table in a group, counted from 0; -1 when the handle is not open or there is no such group. */
export function kvGroupTableCount(cache: usize, handle: u32, group: u32): i32 {
  const kv = changetype<KvCache>(cache);
  if (!isOpen(kv, handle) || kv.groups == 0 || group >= groupsOf(kv).count) return -1;
  return <i32>spanOf(groupAt(kv, group), handle & SLOT_MASK).count;
}

/** Address of a sequence's table in a group. */
export function kvGroupTable(cache: usize, handle: u32, group: u32): usize {
  return entryPtr(groupAt(changetype<KvCache>(cache), group), handle & SLOT_MASK, 0);
}

/** Runs of blocks of a KV cache, as the host sees them: an add-on in a region of its own, for a cache that is still new. */
import { ARENA, arenaSeed, arenaTake, RegionKind } from "../memory/arena";
import { MAX_EXTENT_BLOCKS } from "../index/free-extents";
import { INVALID_ARGUMENT, OK, OUT_OF_MEMORY, Status } from "../memory/status";
import { KvCache } from "../paging/layout";
import { runsBytes, runsCreate, runsOf, settleFreed } from "../paging/runs";
import { kvValidate } from "../paging/validate";

/** Bytes of `kvRunsCreate` for a cache of this shape, or INVALID_ARGUMENT. */
export function kvRunsBytes(blocks: u32, maxSequences: u32): f64 {
  return blocks <= MAX_EXTENT_BLOCKS ? <f64>runsBytes(blocks, maxSequences) : INVALID_ARGUMENT;
}

/** Lets a new cache take blocks in runs; `reserve`: most blocks that a run is taken for ahead, 1 to the pool. */
export function kvRunsCreate(cache: usize, reserve: u32): Status {
  const kv = changetype<KvCache>(cache);
  const isNew = kv.freeCount == kv.blockCount && kv.openSequences == 0;
  if (kv.runs != 0 || kv.groups != 0 || !isNew || reserve < 1 || reserve > kv.blockCount)
    return INVALID_ARGUMENT;
  if (kv.blockCount > MAX_EXTENT_BLOCKS) return INVALID_ARGUMENT;
  const at = arenaTake(ARENA, RegionKind.CacheAddOn, runsBytes(kv.blockCount, kv.maxSequences));
  if (at == 0) return OUT_OF_MEMORY;
  runsCreate(kv, at, reserve, arenaSeed(ARENA));
  if (ASC_OPTIMIZE_LEVEL == 0) assert(kvValidate(kv) == OK);
  return OK;
}

/** Address of a cache's runs (docs/abi.md), 0: none. What has been freed is entered. */
export function kvRuns(cache: usize): usize {
  const kv = changetype<KvCache>(cache);
  if (kv.runs != 0) settleFreed(runsOf(kv));
  return kv.runs;
}

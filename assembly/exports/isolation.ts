/**
 * Add-ons of a KV cache that say who shares what: reuse inside a block. Each lies in a region of its own and is given to
 * a cache that is still new.
 */
import { ARENA, arenaTake, RegionKind } from "../memory/arena";
import { INVALID_ARGUMENT, OK, OUT_OF_MEMORY, Status } from "../memory/status";
import { childrenBytes, childrenCreate, childrenOf } from "../paging/children";
import { KvCache } from "../paging/layout";

// @ts-ignore: decorator
@inline
function isNew(kv: KvCache): bool {
  return kv.cachedCount == 0 && kv.openSequences == 0;
}

/** Bytes of `kvChildrenCreate` for a cache of so many blocks. */
export function kvChildrenBytes(blocks: u32): f64 {
  return <f64>childrenBytes(blocks);
}

/** Lets a new cache reuse the beginning of a block by copy, from `threshold` tokens on, 1 to the block size. */
export function kvChildrenCreate(cache: usize, threshold: u32): Status {
  const kv = changetype<KvCache>(cache);
  if (kv.children != 0 || kv.groups != 0 || !isNew(kv) || threshold == 0 || threshold > kv.blockSize)
    return INVALID_ARGUMENT;
  const region = arenaTake(ARENA, RegionKind.CacheAddOn, childrenBytes(kv.blockCount));
  if (region == 0) return OUT_OF_MEMORY;
  childrenCreate(kv, region, threshold);
  return OK;
}

/** Tokens that look-ups have found inside blocks, since creation. */
export function kvCopiedTokens(cache: usize): f64 {
  const kv = changetype<KvCache>(cache);
  return kv.children == 0 ? 0 : <f64>childrenOf(kv).copiedTokens;
}

/**
 * Add-ons of a KV cache that say who shares what: reuse inside a block, and
 * what tenants may hold. Each lies in a region of its own and is given to
 * a cache that is still new.
 */
import { ARENA, arenaTake, RegionKind } from "../memory/arena";
import { INVALID_ARGUMENT, OK, OUT_OF_MEMORY, Status } from "../memory/status";
import { childrenBytes, childrenCreate, childrenOf } from "../paging/children";
import {
  Account,
  accountAt,
  accountAvailable,
  accountsBytes,
  accountsCreate,
  accountsOf,
  MAX_TENANTS,
} from "../paging/accounts";
import { KvCache, OWNED } from "../paging/layout";
import { limitTenant } from "../paging/quotas";
import { countLookup, open } from "../paging/sequences";
import { kvValidate } from "../paging/validate";

// @ts-ignore: decorator
@inline
function checked(kv: KvCache, result: i32): i32 {
  if (ASC_OPTIMIZE_LEVEL == 0) assert(kvValidate(kv) == OK);
  return result;
}

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

/** Bytes of `kvAccountsCreate` for a cache of so many blocks, or INVALID_ARGUMENT. */
export function kvAccountsBytes(blocks: u32, tenants: u32): f64 {
  return tenants >= 1 && tenants <= MAX_TENANTS ? <f64>accountsBytes(blocks, tenants) : INVALID_ARGUMENT;
}

/** Gives a new cache accounts of `tenants` tenants, without limits at first. */
export function kvAccountsCreate(cache: usize, tenants: u32): Status {
  const kv = changetype<KvCache>(cache);
  if (kv.accounts != 0 || kv.groups != 0 || !isNew(kv) || tenants < 1 || tenants > MAX_TENANTS)
    return INVALID_ARGUMENT;
  const region = arenaTake(ARENA, RegionKind.CacheAddOn, accountsBytes(kv.blockCount, tenants));
  if (region == 0) return OUT_OF_MEMORY;
  accountsCreate(kv, region, tenants);
  return checked(kv, OK);
}

/** Tenants with accounts, 0: none. */
export function kvTenants(cache: usize): u32 {
  const kv = changetype<KvCache>(cache);
  return kv.accounts == 0 ? 0 : accountsOf(kv).tenants;
}

// @ts-ignore: decorator
@inline
function isAccount(kv: KvCache, tenant: u32): bool {
  return kv.accounts != 0 && tenant <= accountsOf(kv).tenants;
}

/**
 * Limits of a tenant, or of the common account (its number is that of the tenants), in blocks: 0 <= floor <= watermark <=
 * ceiling <= blocks, all floors together <= blocks. What it has above its ceiling and does not hold is forgotten.
 */
export function kvSetQuota(cache: usize, tenant: u32, floor: u32, watermark: u32, ceiling: u32): Status {
  const kv = changetype<KvCache>(cache);
  if (!isAccount(kv, tenant) || floor > watermark || watermark > ceiling || ceiling > kv.blockCount)
    return INVALID_ARGUMENT;
  const a = accountsOf(kv);
  if (<u64>a.floors - accountAt(a, tenant).floor + floor > <u64>kv.blockCount) return INVALID_ARGUMENT;
  limitTenant(kv, tenant, floor, watermark, ceiling);
  return checked(kv, OK);
}

/** Address of a tenant's account (docs/abi.md), 0: it has none. */
export function kvAccount(cache: usize, tenant: u32): usize {
  const kv = changetype<KvCache>(cache);
  return isAccount(kv, tenant)
    ? changetype<usize>(accountAt(accountsOf(kv), tenant)) + offsetof<Account>("floor")
    : 0;
}

/** Blocks that a tenant could take now, its ceiling apart; those that anybody could without accounts. */
export function kvTenantAvailable(cache: usize, tenant: u32): u32 {
  const kv = changetype<KvCache>(cache);
  return kv.accounts == 0 ? kv.freeCount + kv.evictableCount : accountAvailable(kv, tenant);
}

/** As `kvOpen`, for a tenant: its sequences pay for the blocks that they take. */
export function kvOpenAs(cache: usize, namespace: u32, count: u32, flags: u32, tenant: u32): i32 {
  const kv = changetype<KvCache>(cache);
  const handle = open(kv, namespace, kv.input, count, flags & ~OWNED, tenant);
  if (handle >= 0) countLookup(kv, handle, count);
  return checked(kv, handle);
}

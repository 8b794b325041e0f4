/**
 * Add-ons of a KV cache that say who shares what: reuse inside a block, what
 * tenants may hold, marks in prompts, pins. Each lies in a region of its own and is given to
 * a cache that is still new.
 */
import { ARENA, arenaTake, RegionKind } from "../memory/arena";
import { INVALID_ARGUMENT, OK, OUT_OF_MEMORY, Status } from "../memory/status";
import { childrenBytes, childrenCreate, childrenOf } from "../paging/children";
import {
  Account,
  accountAt,
  accountsBytes,
  accountsCreate,
  accountsOf,
  MAX_TENANTS,
} from "../paging/accounts";
import { KvCache, OWNED } from "../paging/layout";
import {
  dropList,
  isList,
  listOf,
  marksBytes,
  marksCreate,
  marksInput,
  MAX_MARKS,
  readList,
} from "../paging/marks";
import { MAX_PINS, pin, pinsBytes, pinsCreate, unpin } from "../paging/pins";
import { matchLength } from "../paging/group-tables";
import { trim } from "../paging/prefix";
import { MAX_PRIORITY } from "../orders/priority";
import { availableFor, limitTenant } from "../paging/quotas";
import { countLookup, open, partBehind } from "../paging/sequences";
import { kvValidate } from "../paging/validate";
import { pinsOf } from "../paging/pin-counts";

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

/** Bytes of `kvChildrenCreate` for a cache of so many blocks, with (`ordered` not 0) or without an eviction order. */
export function kvChildrenBytes(blocks: u32, ordered: u32): f64 {
  return <f64>childrenBytes(blocks, ordered != 0);
}

/** Lets a new cache reuse the beginning of a block by copy, from `threshold` tokens on, 1 to the block size. */
export function kvChildrenCreate(cache: usize, threshold: u32): Status {
  const kv = changetype<KvCache>(cache);
  if (kv.children != 0 || kv.groups != 0 || !isNew(kv) || threshold == 0 || threshold > kv.blockSize)
    return INVALID_ARGUMENT;
  const region = arenaTake(ARENA, RegionKind.CacheAddOn, childrenBytes(kv.blockCount, kv.order != 0));
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
  if (kv.accounts != 0 || !isNew(kv) || tenants < 1 || tenants > MAX_TENANTS) return INVALID_ARGUMENT;
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
  return availableFor(kv, tenant);
}

/** As `kvOpen`, for a tenant: its sequences pay for the blocks that they take. `marks`: those of the prompt, or 0. */
export function kvOpenAs(cache: usize, namespace: u32, count: u32, flags: u32, tenant: u32, marks: u32): i32 {
  const kv = changetype<KvCache>(cache);
  const handle = open(kv, namespace, kv.input, count, flags & ~OWNED, tenant, marks);
  if (handle >= 0) countLookup(kv, handle, count);
  return checked(kv, handle);
}

/** Bytes of `kvMarksCreate` for a cache of so many blocks, or INVALID_ARGUMENT. */
export function kvMarksBytes(blocks: u32, capacity: u32): f64 {
  return capacity >= 1 && capacity <= MAX_MARKS ? <f64>marksBytes(blocks, capacity) : INVALID_ARGUMENT;
}

/** Gives a new cache room for `capacity` marks. */
export function kvMarksCreate(cache: usize, capacity: u32): Status {
  const kv = changetype<KvCache>(cache);
  if (kv.marks != 0 || !isNew(kv) || capacity < 1 || capacity > MAX_MARKS) return INVALID_ARGUMENT;
  const region = arenaTake(ARENA, RegionKind.CacheAddOn, marksBytes(kv.blockCount, capacity));
  if (region == 0) return OUT_OF_MEMORY;
  marksCreate(kv, region, capacity);
  return checked(kv, OK);
}

/** Address of the input of `kvMarks`, 256 records of 8 words (docs/abi.md); 0: the cache has no marks. */
export function kvMarksInput(cache: usize): usize {
  const kv = changetype<KvCache>(cache);
  return kv.marks == 0 ? 0 : marksInput(kv);
}

/** A list of the first `count` records of the input, held by the host until `kvMarksRelease`; 0 for none. */
export function kvMarks(cache: usize, count: u32): i32 {
  return listOf(changetype<KvCache>(cache), count);
}

/** The host does not hold a list any more. */
export function kvMarksRelease(cache: usize, marks: u32): Status {
  const kv = changetype<KvCache>(cache);
  if (!isList(kv, marks)) return INVALID_ARGUMENT;
  if (marks != 0) dropList(kv, marks);
  return checked(kv, OK);
}

/** Writes the marks of a list, first mark first, to the input as `kvMarks` reads them; returns how many. */
export function kvMarksRead(cache: usize, marks: u32): i32 {
  const kv = changetype<KvCache>(cache);
  return isList(kv, marks) ? (marks == 0 ? 0 : <i32>readList(kv, marks)) : INVALID_ARGUMENT;
}

/** As `kvMatch`, of a prompt with marks. */
export function kvMatchAs(cache: usize, namespace: u32, count: u32, marks: u32): i32 {
  const kv = changetype<KvCache>(cache);
  if (count > kv.maxSequenceTokens || !isList(kv, marks)) return INVALID_ARGUMENT;
  if (kv.prefixCache == 0 || count < 2) return 0;
  const limit = (count - 1) >> kv.blockShift;
  const length = matchLength(kv, namespace, kv.input, limit, marks);
  return kv.children == 0 ? length : length + partBehind(kv, kv.input, count, length, marks);
}

/** Bytes of `kvPinsCreate` for a cache of so many blocks, or INVALID_ARGUMENT. */
export function kvPinsBytes(blocks: u32, capacity: u32): f64 {
  return capacity >= 1 && capacity <= MAX_PINS ? <f64>pinsBytes(blocks, capacity) : INVALID_ARGUMENT;
}

/** Gives a new cache `capacity` pins; hard ones keep `limit` blocks at most, fewer than there are. */
export function kvPinsCreate(cache: usize, capacity: u32, limit: u32): Status {
  const kv = changetype<KvCache>(cache);
  if (kv.pins != 0 || !isNew(kv) || capacity < 1 || capacity > MAX_PINS || limit >= kv.blockCount)
    return INVALID_ARGUMENT;
  const region = arenaTake(ARENA, RegionKind.CacheAddOn, pinsBytes(kv.blockCount, capacity));
  if (region == 0) return OUT_OF_MEMORY;
  pinsCreate(kv, region, capacity, limit);
  return checked(kv, OK);
}

/** Pins a sequence's cached prefix until a time, Infinity for ever. `hard`: 1, 0 soft; priority 0 to 100. A handle > 0. */
export function kvPin(cache: usize, handle: u32, hard: u32, priority: u32, untilUs: f64): i32 {
  const kv = changetype<KvCache>(cache);
  if (kv.pins == 0 || hard > 1 || priority > MAX_PRIORITY) return INVALID_ARGUMENT;
  return checked(kv, pin(kv, handle, hard != 0, priority, untilUs));
}

/** Ends a pin; NOT_FOUND when it has ended. */
export function kvUnpin(cache: usize, handle: u32): Status {
  const kv = changetype<KvCache>(cache);
  const status = unpin(kv, handle);
  trim(kv);
  return checked(kv, status);
}

/**
 * 0: hard-pinned blocks, 1: blocks that only soft pins keep, 2: pins, 3: soft pins that have given way, 4: pins, 5: hard-pinned
 * blocks at most. */
export function kvPinFigure(cache: usize, figure: u32): u32 {
  const kv = changetype<KvCache>(cache);
  if (kv.pins == 0) return 0;
  const p = pinsOf(kv);
  return figure == 0
    ? p.hardBlocks
    : figure == 1
      ? p.yielding
      : figure == 2
        ? p.used
        : figure == 3
          ? p.given
          : figure == 4
            ? p.capacity
            : p.limit;
}

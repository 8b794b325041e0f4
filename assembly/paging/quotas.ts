/**
 * Room under quotas: what a reservation of a tenant pushes out, in a fixed order, before it takes a block.
 *
 *   over its ceiling    its own resting blocks, even while others are free; QUOTA_EXCEEDED when they are too few
 *   no free block left  `accountVictim`: its own above its watermark, whoever is the furthest above theirs, by the cache's
 *                       eviction order what is above its payer's floor, its own; OUT_OF_BLOCKS when that is too little
 *
 * Soft pins give way last: the tenant's own before a refusal for its ceiling, anybody's when there is no victim left.
 *
 * A refusal is decided before anything is forgotten, with one exception: a shared block may rest and still have to stay
 * because a block behind it is under its payer's floor. Then what could go has gone when OUT_OF_BLOCKS comes back.
 */
import { OK, OUT_OF_BLOCKS, QUOTA_EXCEEDED, Status } from "../memory/status";
import { accountAt, accountFirst, accountsOf, accountVictim, payerOf, setLimits } from "./accounts";
import { BlockId, KvCache, NONE } from "./layout";
import { giveWay } from "./pins";
import { availableBlocks } from "./pool";
import { evictBlock } from "./prefix";

/** Forgets a block for the sake of the account of this number. */
function evictFor(kv: KvCache, index: u32, victim: BlockId): void {
  const a = accountsOf(kv);
  const payer = payerOf(a, victim);
  if (payer == index) accountAt(a, payer).evictedOwn += 1;
  else accountAt(a, payer).evictedByOthers += 1;
  evictBlock(kv, victim);
}

/** Blocks that a tenant could have now, ceilings apart: free ones, its own, and what others have above their floors. */
export function availableFor(kv: KvCache, tenant: u32): u32 {
  if (kv.accounts == 0) return availableBlocks(kv);
  const a = accountsOf(kv);
  return availableBlocks(kv) - (a.kept - accountAt(a, min(tenant, a.tenants)).kept);
}

/** As `availableFor`, and no more than its ceiling lets it take. */
export function accountRoom(kv: KvCache, tenant: u32): u32 {
  const available = availableFor(kv, tenant);
  if (kv.accounts == 0) return available;
  const account = accountAt(accountsOf(kv), tenant);
  const most = account.ceiling + account.resting;
  return min(available, most > account.used ? most - account.used : 0);
}

/** Sees to it that `need` blocks are free for a tenant to take. */
function makeRoom(kv: KvCache, tenant: u32, need: u32): Status {
  const a = accountsOf(kv);
  const index = min(tenant, a.tenants);
  const account = accountAt(a, index);
  // A ceiling of all blocks is none: what is too much for the pool is no matter of quotas.
  const capped = account.ceiling < kv.blockCount;
  while (capped && need != 0 && <u64>account.used + need > <u64>account.ceiling + account.resting) {
    if (giveWay(kv, tenant)) continue;
    account.refused += 1;
    return QUOTA_EXCEEDED;
  }
  if (need > availableFor(kv, tenant)) return OUT_OF_BLOCKS;
  // Under a ceiling as many rest; without one the rest may be in soft pins, which give way below.
  while (need != 0 && account.used + need > account.ceiling && account.root != NONE)
    evictFor(kv, index, account.root);
  while (kv.freeCount < need) {
    const victim = accountVictim(kv, tenant);
    if (victim != NONE) evictFor(kv, index, victim);
    else if (!giveWay(kv, NONE)) return OUT_OF_BLOCKS;
  }
  return OK;
}

/** OK when a tenant can take so many blocks now, and with accounts they are free then; else why not. */
// @ts-ignore: decorator
@inline
export function roomFor(kv: KvCache, tenant: u32, need: u32): Status {
  if (kv.accounts != 0) return makeRoom(kv, tenant, need);
  return need > availableBlocks(kv) ? OUT_OF_BLOCKS : OK;
}

/** Sets a tenant's limits; what it has above its ceiling and does not hold is forgotten. */
export function limitTenant(kv: KvCache, index: u32, floor: u32, watermark: u32, ceiling: u32): void {
  setLimits(kv, index, floor, watermark, ceiling);
  const account = accountAt(accountsOf(kv), index);
  while (account.used > ceiling && accountFirst(kv, index) != NONE) evictFor(kv, index, account.root);
}

/** Most blocks that a tenant can come to hold, whatever others do. */
export function mostBlocks(kv: KvCache, tenant: u32): u32 {
  const a = accountsOf(kv);
  const account = accountAt(a, tenant);
  return min(account.ceiling, kv.blockCount - (a.floors - account.floor));
}

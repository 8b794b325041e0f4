/**
 * Accounts: which tenant pays for each block that is held or cached, and whose cached blocks may go.
 *
 *   header    (Accounts)
 *   accounts  [tenants + 1] Account, 112 B    the last one is the common account
 *   open      heap of accounts                with a block that anybody may push out, by its place in the order
 *   over      heap of accounts                above their watermark with a block to give, the furthest above it first
 *   seats     [blocks] Seat, 24 B             payer, and a heap for each account of its blocks that can be forgotten
 *
 * A block is paid by the tenant whose sequence took it. Once a sequence of another tenant holds it too it is in the common
 * account for as long as it is held or cached: what is shared is nobody's.
 *
 * Invariants (`accountsValid`):
 * 1. used = the account's blocks that are held or cached; resting = those of them that nobody holds.
 * 2. An account's heap holds its resting blocks without cached children, in the cache's eviction order; in their order
 *    of rest under orders that go by more than a key (S3-FIFO, Gittins, those by advice).
 * 3. What follows a tenant's own block is its own, twins in groups (groups.ts) included: whoever holds a block holds those
 *    before it. So a tenant can always give as many of its own blocks as rest.
 * 4. calm is NONE unless kept = 0 and used <= watermark; then it is floor + resting.
 * 5. kept = resting blocks that only the tenant itself may push out: up to its floor, held ones counted first.
 *
 * Every change is O(log blocks + log tenants), and nothing for caches without accounts.
 */
import {
  Forest,
  forestAdd,
  forestKey,
  forestRemove,
  forestValid,
  isSeated,
  Seat,
  seat,
  treeOf,
} from "../orders/forest";
import {
  heapAdd,
  heapBytes,
  heapCreate,
  heapMoved,
  heapRemove,
  heapSize,
  heapTop,
  heapValid,
} from "../orders/heap";
import { OrderKind, takesAdvice } from "../orders/layout";
import { orderVictim } from "../orders/order";
import { Block, block, BlockId, isCached, KvCache, NONE, orderOf } from "./layout";

// @ts-ignore: decorator
@inline export const MAX_TENANTS: u32 = 1 << 16;


@unmanaged
export class Account {
  /** Place in the heap of open accounts. */
  major: u64;
  minor: u64;
  position: u32;
  /** First block to go, NONE: none can. */
  root: u32;
  /** Place in the heap of those over their watermark. */
  overMajor: u64;
  overMinor: u64;
  overPosition: u32;
  /** Blocks that others leave it, that it may have before it makes room itself, and that it may have at all. */
  floor: u32;
  watermark: u32;
  ceiling: u32;
  used: u32;
  resting: u32;
  kept: u32;
  /** `root` when the figures were last brought up to date. */
  ranked: u32;
  /** Scratch of a validation. */
  counted: u64;
  // Counts since creation.
  /** Its blocks forgotten for its own sake, and for others'. */
  evictedOwn: u64;
  evictedByOthers: u64;
  /** Reservations refused for its ceiling. */
  refused: u64;
  /**
   * floor + resting, where nothing else changes as long as used is between this and the watermark and the first block is the
   * same; NONE elsewhere. Most blocks come and go with two comparisons.
   */
  calm: u32;
  unused: u32;
}


@unmanaged
export class Accounts {
  tenants: u32;
  accounts: u32;
  open: u32;
  over: u32;
  /** The forest of their blocks (forest.ts). */
  seats: u32;
  keys: u32;
  stride: u32;
  /** Sums over all accounts. */
  kept: u32;
  floors: u32;
  /** Times that a block began to rest. */
  clock: u64;
}

// @ts-ignore: decorator
@inline
export function accountsOf(kv: KvCache): Accounts {
  return changetype<Accounts>(<usize>kv.accounts);
}

// @ts-ignore: decorator
@inline
export function accountAt(a: Accounts, index: u32): Account {
  return changetype<Account>(<usize>a.accounts + <usize>index * offsetof<Account>());
}

// @ts-ignore: decorator
@inline
function forestOf(a: Accounts): Forest {
  return changetype<Forest>(changetype<usize>(a) + offsetof<Accounts>("seats"));
}

// @ts-ignore: decorator
@inline
function seatOf(a: Accounts, id: BlockId): Seat {
  return seat(forestOf(a), id);
}

/** Number of the account that pays for a block. */
// @ts-ignore: decorator
@inline
export function payerOf(a: Accounts, id: BlockId): u32 {
  return treeOf(seatOf(a, id));
}

// @ts-ignore: decorator
@inline
function align(bytes: u64): u64 {
  return (bytes + 63) & ~63;
}

export function accountsBytes(blocks: u32, tenants: u32): u64 {
  return (
    align(offsetof<Accounts>()) +
    align((<u64>tenants + 1) * offsetof<Account>()) +
    2 * align(heapBytes(tenants + 1)) +
    align(<u64>blocks * offsetof<Seat>())
  );
}

/** Accounts without limits for a cache that is new, in a zeroed region of `accountsBytes` bytes. */
export function accountsCreate(kv: KvCache, region: usize, tenants: u32): void {
  kv.accounts = <u32>region;
  const a = accountsOf(kv);
  a.tenants = tenants;
  a.accounts = <u32>(region + <usize>align(offsetof<Accounts>()));
  a.open = a.accounts + <u32>align((<u64>tenants + 1) * offsetof<Account>());
  a.over = a.open + <u32>align(heapBytes(tenants + 1));
  a.seats = a.over + <u32>align(heapBytes(tenants + 1));
  a.keys = a.seats;
  a.stride = offsetof<Seat>();
  heapCreate(a.open, a.accounts, offsetof<Account>());
  heapCreate(a.over, a.accounts + offsetof<Account>("overMajor"), offsetof<Account>());
  for (let index: u32 = 0; index <= tenants; index++) {
    const account = accountAt(a, index);
    account.position = NONE;
    account.overPosition = NONE;
    account.root = NONE;
    account.ranked = NONE;
    account.watermark = kv.blockCount;
    account.ceiling = kv.blockCount;
  }
}

/** Puts an id in a heap, takes it out, or moves it after its key has changed. */
function place(heap: usize, id: u32, wanted: bool, position: u32): void {
  if (position == NONE) {
    if (wanted) heapAdd(heap, id);
  } else if (wanted) heapMoved(heap, id);
  else heapRemove(heap, id);
}

// @ts-ignore: decorator
@inline
function excessOf(account: Account): u32 {
  return account.used > account.floor ? account.used - account.floor : 0;
}

/** Brings what depends on an account's figures up to date. */
function rank(a: Accounts, index: u32): void {
  const account = accountAt(a, index);
  const kept = account.resting - min(account.resting, excessOf(account));
  a.kept = a.kept - account.kept + kept;
  account.kept = kept;
  const root = account.root;
  const has = root != NONE;
  account.ranked = root;
  if (has) {
    const first = forestKey(forestOf(a), root);
    account.major = first.major;
    account.minor = a.keys == a.seats ? 0 : first.minor;
  }
  place(a.open, index, has && excessOf(account) != 0, account.position);
  // Of two that are as far above, the lower number first.
  account.overMajor = ~(<u64>account.used - account.watermark);
  account.overMinor = index;
  const over = account.used > account.watermark;
  place(a.over, index, has && over, account.overPosition);
  account.calm = kept == 0 && !over ? account.floor + account.resting : NONE;
}

/** `used` has changed. */
// @ts-ignore: decorator
@inline
function usedChanged(a: Accounts, index: u32, account: Account): void {
  if (account.used < account.calm || account.used > account.watermark) rank(a, index);
}

/** A block more rests, or (-1) one less; the account's first block may be another. */
// @ts-ignore: decorator
@inline
function restingChanged(a: Accounts, index: u32, account: Account, by: u32): void {
  account.resting += by;
  const calm = account.calm + by;
  if (account.calm == NONE || account.root != account.ranked || account.used < calm) rank(a, index);
  else account.calm = calm;
}

/** Who pays for a block that has just been taken; `charge` counts it. */
// @ts-ignore: decorator
@inline
export function setPayer(kv: KvCache, id: BlockId, tenant: u32): void {
  const a = accountsOf(kv);
  // It is in no heap: its rank is 0.
  seatOf(a, id).treeAndRank = min(tenant, a.tenants);
}

/** So many blocks have been taken for a tenant; NONE: for nobody in particular. */
export function charge(kv: KvCache, count: u32, tenant: u32): void {
  const a = accountsOf(kv);
  const index = min(tenant, a.tenants);
  const account = accountAt(a, index);
  account.used += count;
  usedChanged(a, index, account);
}

/** A block is free again. */
export function discharge(kv: KvCache, id: BlockId): void {
  const a = accountsOf(kv);
  const index = payerOf(a, id);
  const account = accountAt(a, index);
  account.used -= 1;
  usedChanged(a, index, account);
}

/** A tenant's sequence holds a block that it has not taken. */
export function share(kv: KvCache, id: BlockId, tenant: u32): void {
  const a = accountsOf(kv);
  const index = payerOf(a, id);
  if (index == tenant || index == a.tenants) return;
  discharge(kv, id);
  setPayer(kv, id, NONE);
  charge(kv, 1, NONE);
}

/** Whether blocks stand in an account's heap by the key that the eviction order gives them. */
// @ts-ignore: decorator
@inline
function goesByKey(kv: KvCache): bool {
  if (kv.order == 0) return false;
  const kind = orderOf(kv).kind;
  return kind != OrderKind.S3Fifo && kind != OrderKind.Gittins && !takesAdvice(kind);
}

function offer(kv: KvCache, id: BlockId, account: Account): void {
  const a = accountsOf(kv);
  if (goesByKey(kv)) {
    a.keys = orderOf(kv).records;
    a.stride = orderOf(kv).stride;
  }
  account.root = forestAdd(forestOf(a), account.root, id);
}

// @ts-ignore: decorator
@inline
function withdraw(a: Accounts, id: BlockId, account: Account): void {
  if (isSeated(seatOf(a, id))) account.root = forestRemove(forestOf(a), account.root, id);
}

/** A cached block has lost its last holder. */
export function accountRest(kv: KvCache, id: BlockId, childless: bool): void {
  const a = accountsOf(kv);
  const own = seatOf(a, id);
  const index = treeOf(own);
  const account = accountAt(a, index);
  own.stamp = ++a.clock;
  if (childless) offer(kv, id, account);
  restingChanged(a, index, account, 1);
}

/** A block that rested is held again, or forgotten. */
export function accountHold(kv: KvCache, id: BlockId): void {
  const a = accountsOf(kv);
  const index = payerOf(a, id);
  const account = accountAt(a, index);
  withdraw(a, id, account);
  restingChanged(a, index, account, -1);
}

/** A block that rests has lost its last cached child. */
export function accountBare(kv: KvCache, id: BlockId): void {
  const a = accountsOf(kv);
  const index = payerOf(a, id);
  offer(kv, id, accountAt(a, index));
  rank(a, index);
}

/** The eviction order has given a block another key. */
export function accountMoved(kv: KvCache, id: BlockId): void {
  const a = accountsOf(kv);
  if (!isSeated(seatOf(a, id))) return;
  withdraw(a, id, accountAt(a, payerOf(a, id)));
  accountBare(kv, id);
}

/** First block that an account has to give, or NONE. */
// @ts-ignore: decorator
@inline
export function accountFirst(kv: KvCache, index: u32): BlockId {
  return accountAt(accountsOf(kv), index).root;
}

/**
 * The block to forget for a tenant, NONE when others' floors keep all there are:
 *
 *   1 its own first block, if it has come to its watermark
 *   2 the first of the account that is the furthest above its watermark
 *   3 the first, by the cache's eviction order, whose payer is above its floor
 *   4 its own first block
 */
export function accountVictim(kv: KvCache, tenant: u32): BlockId {
  const a = accountsOf(kv);
  const own = accountAt(a, min(tenant, a.tenants));
  if (own.used >= own.watermark && own.root != NONE) return own.root;
  if (heapSize(a.over) != 0) return accountAt(a, heapTop(a.over)).root;
  if (kv.order != 0 && kv.evictableCount != 0 && !goesByKey(kv)) {
    const victim = orderVictim(orderOf(kv));
    if (excessOf(accountAt(a, payerOf(a, victim))) != 0) return victim;
  }
  return heapSize(a.open) != 0 ? accountAt(a, heapTop(a.open)).root : own.root;
}

/** Sets an account's limits, which the caller has checked. */
export function setLimits(kv: KvCache, index: u32, floor: u32, watermark: u32, ceiling: u32): void {
  const a = accountsOf(kv);
  const account = accountAt(a, index);
  a.floors = a.floors - account.floor + floor;
  account.floor = floor;
  account.watermark = watermark;
  account.ceiling = ceiling;
  rank(a, index);
}

/** Whether the invariants hold. Counts in the accounts, and leaves 0 there. */
export function accountsValid(kv: KvCache): bool {
  const a = accountsOf(kv);
  let sound = heapValid(a.open, a.tenants + 1) && heapValid(a.over, a.tenants + 1);
  for (let id: u32 = 0; id < kv.blockCount; id++) {
    const record: Block = block(kv, id);
    const payer = payerOf(a, id);
    if (payer > a.tenants) return false;
    const account = accountAt(a, payer);
    const rests = record.refs == 0 && isCached(record);
    account.counted += ((<u64>rests) << 32) + u64(rests || record.refs != 0);
    const candidate = rests && record.children == 0;
    if (candidate != isSeated(seatOf(a, id))) sound = false;
    if (candidate && !forestValid(forestOf(a), account.root, id)) sound = false;
  }
  let kept: u32 = 0;
  for (let index: u32 = 0; index <= a.tenants; index++) {
    const account = accountAt(a, index);
    if (account.counted != (((<u64>account.resting) << 32) | account.used)) sound = false;
    const has = account.root != NONE;
    if ((account.position != NONE) != (has && excessOf(account) != 0)) sound = false;
    if ((account.overPosition != NONE) != (has && account.used > account.watermark)) sound = false;
    if (account.kept != account.resting - min(account.resting, excessOf(account))) sound = false;
    if (account.calm != NONE && account.calm != account.floor + account.resting) sound = false;
    if (account.calm != NONE && (account.kept != 0 || account.used > account.watermark)) sound = false;
    account.counted = 0;
    kept += account.kept;
  }
  return sound && kept == a.kept && kept <= kv.evictableCount;
}

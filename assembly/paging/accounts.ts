/**
 * Accounts: which tenant pays for each block that is held or cached, and whose cached blocks may go.
 *
 *   header    (Accounts)
 *   accounts  [tenants + 1] Account, 104 B    the last one is the common account
 *   open      heap of accounts                with a block that anybody may push out, by its place in the order
 *   over      heap of accounts                above their watermark with a block to give, the furthest above it first
 *   seats     [blocks] Seat, 40 B             payer, and a heap for each account of its blocks that can be forgotten
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
 * 4. kept = resting blocks that only the tenant itself may push out: up to its floor, held ones counted first.
 *
 * Every change is O(log blocks + log tenants), and nothing for caches without accounts.
 */
import { forestAdd, forestRemove, forestValid, seat } from "../orders/forest";
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
import { OrderKind, record as orderRecord, takesAdvice } from "../orders/layout";
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
  unused: u32;
  /** Scratch of a validation. */
  counted: u64;
  // Counts since creation.
  /** Its blocks forgotten for its own sake, and for others'. */
  evictedOwn: u64;
  evictedByOthers: u64;
  /** Reservations refused for its ceiling. */
  refused: u64;
}


@unmanaged
export class Accounts {
  tenants: u32;
  accounts: u32;
  open: u32;
  over: u32;
  seats: u32;
  /** Sums over all accounts. */
  kept: u32;
  floors: u32;
  unused: u32;
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
function align(bytes: u64): u64 {
  return (bytes + 63) & ~63;
}

export function accountsBytes(blocks: u32, tenants: u32): u64 {
  return (
    align(offsetof<Accounts>()) +
    align((<u64>tenants + 1) * offsetof<Account>()) +
    2 * align(heapBytes(tenants + 1)) +
    align(<u64>blocks * 40)
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
  heapCreate(a.open, a.accounts, offsetof<Account>());
  heapCreate(a.over, a.accounts + offsetof<Account>("overMajor"), offsetof<Account>());
  for (let index: u32 = 0; index <= tenants; index++) {
    const account = accountAt(a, index);
    account.position = NONE;
    account.overPosition = NONE;
    account.root = NONE;
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
function changed(a: Accounts, index: u32): void {
  const account = accountAt(a, index);
  const kept = account.resting - min(account.resting, excessOf(account));
  a.kept = a.kept - account.kept + kept;
  account.kept = kept;
  const has = account.root != NONE;
  if (has) {
    const first = seat(a.seats, account.root);
    account.major = first.major;
    account.minor = first.minor;
  }
  place(a.open, index, has && excessOf(account) != 0, account.position);
  // Of two that are as far above, the lower number first.
  account.overMajor = ~(<u64>account.used - account.watermark);
  account.overMinor = index;
  place(a.over, index, has && account.used > account.watermark, account.overPosition);
}

/** A block has been taken for a tenant; NONE: for nobody in particular. */
export function charge(kv: KvCache, id: BlockId, tenant: u32): void {
  const a = accountsOf(kv);
  const index = min(tenant, a.tenants);
  seat(a.seats, id).tree = index;
  accountAt(a, index).used += 1;
  changed(a, index);
}

/** A block is free again. */
export function discharge(kv: KvCache, id: BlockId): void {
  const a = accountsOf(kv);
  const index = seat(a.seats, id).tree;
  accountAt(a, index).used -= 1;
  changed(a, index);
}

/** A tenant's sequence holds a block that it has not taken. */
export function share(kv: KvCache, id: BlockId, tenant: u32): void {
  const a = accountsOf(kv);
  const index = seat(a.seats, id).tree;
  if (index == tenant || index == a.tenants) return;
  discharge(kv, id);
  charge(kv, id, NONE);
}

/** Whether blocks stand in an account's heap by the key that the eviction order gives them. */
// @ts-ignore: decorator
@inline
function goesByKey(kv: KvCache): bool {
  if (kv.order == 0) return false;
  const kind = orderOf(kv).kind;
  return kind != OrderKind.S3Fifo && kind != OrderKind.Gittins && !takesAdvice(kind);
}

function offer(kv: KvCache, id: BlockId): void {
  const a = accountsOf(kv);
  const own = seat(a.seats, id);
  const account = accountAt(a, own.tree);
  if (goesByKey(kv)) {
    const r = orderRecord(orderOf(kv), id);
    own.major = r.major;
    own.minor = r.minor;
  }
  account.root = forestAdd(a.seats, account.root, id);
}

// @ts-ignore: decorator
@inline
function withdraw(a: Accounts, id: BlockId): void {
  const account = accountAt(a, seat(a.seats, id).tree);
  if (seat(a.seats, id).rank != 0) account.root = forestRemove(a.seats, account.root, id);
}

/** A cached block has lost its last holder. */
export function accountRest(kv: KvCache, id: BlockId, childless: bool): void {
  const a = accountsOf(kv);
  const own = seat(a.seats, id);
  a.clock += 1;
  own.major = a.clock;
  own.minor = 0;
  if (childless) offer(kv, id);
  accountAt(a, own.tree).resting += 1;
  changed(a, own.tree);
}

/** A block that rested is held again, or forgotten. */
export function accountHold(kv: KvCache, id: BlockId): void {
  const a = accountsOf(kv);
  withdraw(a, id);
  const index = seat(a.seats, id).tree;
  accountAt(a, index).resting -= 1;
  changed(a, index);
}

/** A block that rests has lost its last cached child. */
export function accountBare(kv: KvCache, id: BlockId): void {
  offer(kv, id);
  changed(accountsOf(kv), seat(accountsOf(kv).seats, id).tree);
}

/** The eviction order has given a block another key. */
export function accountMoved(kv: KvCache, id: BlockId): void {
  const a = accountsOf(kv);
  if (seat(a.seats, id).rank == 0) return;
  withdraw(a, id);
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
    if (excessOf(accountAt(a, seat(a.seats, victim).tree)) != 0) return victim;
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
  changed(a, index);
}

/** Whether the invariants hold. Counts in the accounts, and leaves 0 there. */
export function accountsValid(kv: KvCache): bool {
  const a = accountsOf(kv);
  let sound = heapValid(a.open, a.tenants + 1) && heapValid(a.over, a.tenants + 1);
  for (let id: u32 = 0; id < kv.blockCount; id++) {
    const record: Block = block(kv, id);
    const own = seat(a.seats, id);
    if (own.tree > a.tenants) return false;
    const account = accountAt(a, own.tree);
    const rests = record.refs == 0 && isCached(record);
    account.counted += ((<u64>rests) << 32) + u64(rests || record.refs != 0);
    const candidate = rests && record.children == 0;
    if (candidate != (own.rank != 0) || (candidate && !forestValid(a.seats, account.root, id))) sound = false;
  }
  let kept: u32 = 0;
  for (let index: u32 = 0; index <= a.tenants; index++) {
    const account = accountAt(a, index);
    if (account.counted != (((<u64>account.resting) << 32) | account.used)) sound = false;
    const has = account.root != NONE;
    if ((account.position != NONE) != (has && excessOf(account) != 0)) sound = false;
    if ((account.overPosition != NONE) != (has && account.used > account.watermark)) sound = false;
    if (account.kept != account.resting - min(account.resting, excessOf(account))) sound = false;
    account.counted = 0;
    kept += account.kept;
  }
  return sound && kept == a.kept && kept <= kv.evictableCount;
}

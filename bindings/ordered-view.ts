/**
 * Ordered views: ids 0 to capacity - 1 (requests, blocks, sequences), each with a place in an order, in core
 * memory. Equal places are kept in the order in which they were given.
 *
 *   ExpiryOrder     by deadline
 *   EvictionOrder   by class, score, last use, depth
 *   TenantOrder     the same, tenant by tenant
 *   ViewOrder       by any u64
 *
 * All are one structure; they differ in how they pack a place into 64 bits (docs/abi.md). One thread at a
 * time.
 */
import type { Core } from "./core.js";
import { invalidArgument, QuartermasterError, requireInteger } from "./errors.js";

export interface OrderedViewOptions {
  /** Ids there may be, 1 to 2^24. About 55 bytes each. */
  capacity: number;
}

/** Place in an eviction order: the smallest class, then score, then last use goes first, then the deepest. */
export interface EvictionPlace {
  /** What goes first whatever its score, 0 to 15 (TenantOrder: 0 to 3). Default 0. */
  class?: number;
  /**
   * Any number but NaN. Default 0. Rounded down to an f32 of 10 (TenantOrder: 7) significant bits: scores
   * closer than that count as equal.
   */
  score?: number;
  /** A count of steps or seconds, 0 to 2^28 - 1 (TenantOrder: 2^24 - 1). */
  lastUse: number;
  /** Blocks before it in its chain, 0 to 16383 (TenantOrder: 8191). Default 0. */
  depth?: number;
}

export interface TenantPlace extends EvictionPlace {
  /** 0 to 1023. */
  tenant: number;
}

/** Largest order of a view. */
export const MAX_ORDER: bigint = (1n << 64n) - 3n;
const MAX_TENANT = 1023;
const TENANT_SHIFT = 54n;
const NOT_FOUND = -19;
/** Ids moved in one crossing. */
const BATCH = 4096;

/** What the views have in common. */
export class OrderedView {
  readonly core: Core;
  /** Address of the structure in core memory. */
  readonly pointer: number;
  /** Ids are below this. */
  readonly capacity: number;

  /** Made by the core. */
  constructor(core: Core, pointer: number) {
    this.core = core;
    this.pointer = pointer;
    this.capacity = core.exports.orderedViewCapacity(pointer);
  }

  /** Checks options. */
  static shape(options: OrderedViewOptions): OrderedViewOptions {
    return { capacity: requireInteger("capacity", options?.capacity, 1, 2 ** 24) };
  }

  /** Ids in the view. */
  get size(): number {
    return this.core.exports.orderedViewSize(this.pointer);
  }

  has(id: number): boolean {
    return this.core.exports.orderedViewHas(this.pointer, this.id(id)) === 1;
  }

  /** Takes an id out; returns whether it was in. */
  remove(id: number): boolean {
    const { core, pointer } = this;
    this.id(id);
    return core.call(() => core.exports.orderedViewRemove(pointer, id), "remove") === 1;
  }

  /** The 64 bits that an id is ordered by, or undefined when it is not in the view. */
  orderOf(id: number): bigint | undefined {
    const order = BigInt.asUintN(64, this.core.exports.orderedViewOrder(this.pointer, this.id(id)));
    return order > MAX_ORDER ? undefined : order;
  }

  /** First id, or undefined. */
  first(): number | undefined {
    return this.firstOf(() => this.core.exports.orderedViewFirst(this.pointer, 0n, asI64(MAX_ORDER)));
  }

  /** Takes the first id out and returns it, or undefined. */
  pop(): number | undefined {
    return this.firstOf(() => this.core.exports.orderedViewPopFirst(this.pointer));
  }

  /** Up to `limit` ids in order; copies. */
  list(limit = this.capacity): Uint32Array {
    return this.listFrom(this.first(), MAX_ORDER, limit);
  }

  clear(): void {
    this.core.requireUsable();
    this.core.exports.orderedViewClear(this.pointer);
  }

  /** Full check, O(capacity); throws CORRUPT. */
  validate(): void {
    this.core.call(() => this.core.exports.orderedViewValidate(this.pointer), "orderedView");
  }

  protected id(id: number): number {
    this.core.requireUsable();
    return requireInteger("id", id, 0, this.capacity - 1);
  }

  /** Runs a call that returns an id or NOT_FOUND. */
  protected firstOf(run: () => number): number | undefined {
    const id = this.core.call(() => {
      const result = run();
      return result === NOT_FOUND ? NONE : result;
    }, "orderedView");
    return id === NONE ? undefined : id;
  }

  /** Ids from `from` on whose order is at most `highest`. */
  protected listFrom(from: number | undefined, highest: bigint, limit: number): Uint32Array {
    requireInteger("limit", limit, 0, this.capacity);
    const { core, pointer } = this;
    const ids = new Uint32Array(Math.min(limit, this.size));
    const at = core.scratch(BATCH * 4);
    let listed = 0;
    for (let next = from; next !== undefined && listed < ids.length;) {
      const asked = Math.min(BATCH, ids.length - listed);
      const count = core.exports.orderedViewList(pointer, next, asI64(highest), asked, at);
      ids.set(new Uint32Array(core.memory.buffer, at, count), listed);
      listed += count;
      if (count < asked) break;
      const last = ids[listed - 1];
      next = this.firstOf(() => core.exports.orderedViewNext(pointer, last));
    }
    return ids.slice(0, listed);
  }
}

/** Ids by a u64 of the caller's own. */
export class ViewOrder extends OrderedView {
  /** Gives an id its place, 0 to 2^64 - 3; returns whether it is new. */
  set(id: number, order: bigint): boolean {
    const { core, pointer } = this;
    this.id(id);
    if (typeof order !== "bigint" || order < 0n || order > MAX_ORDER)
      throw invalidArgument("order", order, "a bigint from 0 to 2^64 - 3");
    return core.call(() => core.exports.orderedViewSet(pointer, id, asI64(order)), "set") === 1;
  }
}

/** Ids by deadline: pins, leases, time-outs. */
export class ExpiryOrder extends OrderedView {
  /** Sets or moves the deadline of an id, microseconds, finite and >= 0; returns whether it is new. */
  set(id: number, deadlineUs: number): boolean {
    const { core, pointer } = this;
    this.id(id);
    requireTime("deadlineUs", deadlineUs);
    return core.call(() => core.exports.orderedViewSetTime(pointer, id, deadlineUs), "set") === 1;
  }

  /** When the next id is due, microseconds; Infinity when there is none. */
  get nextUs(): number {
    return this.core.exports.orderedViewNextTime(this.pointer);
  }

  /** Takes out every id whose deadline is at or before `nowUs`, earliest first. */
  popDue(nowUs: number): number[] {
    const { core, pointer } = this;
    requireTime("nowUs", nowUs);
    core.requireUsable();
    const at = core.scratch(BATCH * 4);
    const due: number[] = [];
    for (;;) {
      const count = core.call(() => core.exports.orderedViewPopDue(pointer, nowUs, BATCH, at), "popDue");
      due.push(...new Uint32Array(core.memory.buffer, at, count));
      if (count < BATCH) return due;
    }
  }
}

/** Ids in the order in which they are to be evicted. */
export class EvictionOrder extends OrderedView {
  /** Gives an id its place; returns whether it is new. */
  set(id: number, place: EvictionPlace): boolean {
    const { core, pointer } = this;
    this.id(id);
    const [klass, score, lastUse, depth] = checkedPlace(place, 15, 2 ** 28 - 1, 16383);
    return (
      core.call(
        () => core.exports.orderedViewSetEviction(pointer, id, klass, score, lastUse, depth),
        "set",
      ) === 1
    );
  }
}

/** Ids in eviction order tenant by tenant: the victim of one tenant, whatever the others hold. */
export class TenantOrder extends OrderedView {
  /** Gives an id its place; returns whether it is new. */
  set(id: number, place: TenantPlace): boolean {
    const { core, pointer } = this;
    this.id(id);
    const [klass, score, lastUse, depth] = checkedPlace(place, 3, 2 ** 24 - 1, 8191);
    const tenant = requireTenant(place.tenant);
    return (
      core.call(
        () => core.exports.orderedViewSetTenant(pointer, id, tenant, klass, score, lastUse, depth),
        "set",
      ) === 1
    );
  }

  /** First id of a tenant, or undefined. */
  firstOfTenant(tenant: number): number | undefined {
    requireTenant(tenant);
    return this.firstOf(() => this.core.exports.orderedViewTenantFirst(this.pointer, tenant));
  }

  /** Takes the first id of a tenant out and returns it, or undefined. */
  popOfTenant(tenant: number): number | undefined {
    requireTenant(tenant);
    return this.firstOf(() => this.core.exports.orderedViewTenantPop(this.pointer, tenant));
  }

  /** Up to `limit` ids of a tenant in order; copies. */
  listOfTenant(tenant: number, limit = this.capacity): Uint32Array {
    const last = ((BigInt(requireTenant(tenant)) + 1n) << TENANT_SHIFT) - 1n;
    return this.listFrom(this.firstOfTenant(tenant), last, limit);
  }
}

/** In the order of the numbers that the core keeps for us. */
export const VIEW_CLASSES = [ViewOrder, ExpiryOrder, EvictionOrder, TenantOrder] as const;

const NONE = 2 ** 31 - 1;

function asI64(order: bigint): bigint {
  return BigInt.asIntN(64, order);
}

function requireTime(argument: string, us: number): void {
  if (typeof us !== "number" || !(us >= 0 && us < Infinity)) {
    const range = "a finite number of microseconds >= 0";
    throw new QuartermasterError("INVALID_TIME", `${argument} is ${us}; allowed: ${range}`, {
      argument,
      value: us,
      range,
    });
  }
}

function requireTenant(tenant: number): number {
  return requireInteger("tenant", tenant, 0, MAX_TENANT);
}

function checkedPlace(
  place: EvictionPlace,
  maxClass: number,
  maxLastUse: number,
  maxDepth: number,
): [klass: number, score: number, lastUse: number, depth: number] {
  if (typeof place !== "object" || place === null) throw invalidArgument("place", place, "an object");
  const score = place.score ?? 0;
  if (typeof score !== "number" || Number.isNaN(score))
    throw invalidArgument("score", score, "a number, not NaN");
  return [
    requireInteger("class", place.class ?? 0, 0, maxClass),
    score,
    requireInteger("lastUse", place.lastUse, 0, maxLastUse),
    requireInteger("depth", place.depth ?? 0, 0, maxDepth),
  ];
}

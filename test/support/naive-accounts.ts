/** Accounts of tenants counted anew for each question: the model of the core's quotas. */
import type { MapBlock, MapCache } from "../../bench/peer/map-cache.js";

/** A block of a model that a tenant pays for. */
export interface PaidBlock {
  children: number;
  tenant?: number;
}

/** What accounts ask of the model of a cache. */
export interface PaidCache<B extends PaidBlock> {
  readonly blocks: number;
  readonly free: number;
  readonly available: number;
  /** The longest unheld first. */
  readonly evictable: ReadonlySet<B>;
  readonly order?: { victim(candidates: B[]): B };
  /** Every block that is held or cached, each at least once. */
  taken(): Iterable<B>;
  /** Forgets an evictable block, for room. */
  evict(block: B): void;
}

/** The model of a cache without groups, as accounts see it. */
export function paidMap(cache: MapCache): PaidCache<MapBlock> {
  return {
    get blocks() {
      return cache.blocks;
    },
    get free() {
      return cache.free;
    },
    get available() {
      return cache.available;
    },
    evictable: cache.evictable,
    order: cache.order,
    *taken() {
      yield* cache.cached.values();
      for (const { blocks } of cache.sequences) yield* blocks;
      for (const { source } of cache.pendingCopies) yield source;
    },
    evict: (block) => cache.evict(block),
  };
}

export interface NaiveQuota {
  floor: number;
  watermark: number;
  ceiling: number;
  evictedOwn: number;
  evictedByOthers: number;
  refused: number;
}

export class NaiveAccounts<B extends PaidBlock> {
  /** By tenant; the last one is the common account's. */
  readonly quotas: NaiveQuota[];
  readonly #cache: PaidCache<B>;

  constructor(cache: PaidCache<B>, tenants: number) {
    this.#cache = cache;
    const { blocks } = cache;
    this.quotas = Array.from({ length: tenants + 1 }, () => ({
      floor: 0,
      watermark: blocks,
      ceiling: blocks,
      evictedOwn: 0,
      evictedByOthers: 0,
      refused: 0,
    }));
  }

  get #common(): number {
    return this.quotas.length - 1;
  }

  share(block: B, tenant: number): void {
    if (block.tenant !== tenant) block.tenant = this.#common;
  }

  used(tenant: number): number {
    return [...new Set(this.#cache.taken())].filter((block) => block.tenant === tenant).length;
  }

  resting(tenant: number): number {
    return [...this.#cache.evictable].filter((block) => block.tenant === tenant).length;
  }

  /** Resting blocks of a tenant that only it may push out. */
  kept(tenant: number): number {
    const excess = Math.max(0, this.used(tenant) - this.quotas[tenant].floor);
    return Math.max(0, this.resting(tenant) - excess);
  }

  available(tenant: number): number {
    const others = this.quotas.map((_, t) => (t === tenant ? 0 : this.kept(t)));
    return this.#cache.available - others.reduce((sum, kept) => sum + kept, 0);
  }

  makeRoom(tenant: number, need: number): "OK" | "OUT_OF_BLOCKS" | "QUOTA_EXCEEDED" {
    const quota = this.quotas[tenant];
    const capped = quota.ceiling < this.#cache.blocks;
    if (capped && need > 0 && this.used(tenant) + need > quota.ceiling + this.resting(tenant)) {
      quota.refused += 1;
      return "QUOTA_EXCEEDED";
    }
    if (need > this.available(tenant)) return "OUT_OF_BLOCKS";
    while (need > 0 && this.used(tenant) + need > quota.ceiling) this.#evict(this.#first(tenant)!, tenant);
    while (this.#cache.free < need) {
      const victim = this.#choose(tenant);
      if (victim === undefined) return "OUT_OF_BLOCKS";
      this.#evict(victim, tenant);
    }
    return "OK";
  }

  limit(tenant: number, limits: { floor: number; watermark: number; ceiling: number }): void {
    Object.assign(this.quotas[tenant], limits);
    while (this.used(tenant) > limits.ceiling) {
      const victim = this.#first(tenant);
      if (victim === undefined) return;
      this.#evict(victim, tenant);
    }
  }

  victim(): B {
    return this.#choose(this.#common) ?? this.#pick(this.#candidates())!;
  }

  #candidates(): B[] {
    return [...this.#cache.evictable].filter(({ children }) => children === 0);
  }

  #pick(candidates: B[]): B | undefined {
    if (candidates.length === 0) return undefined;
    return this.#cache.order ? this.#cache.order.victim(candidates) : candidates[0];
  }

  #first(tenant: number): B | undefined {
    return this.#pick(this.#candidates().filter((block) => block.tenant === tenant));
  }

  #choose(tenant: number): B | undefined {
    const own = this.#first(tenant);
    if (own && this.used(tenant) >= this.quotas[tenant].watermark) return own;
    const overruns = this.quotas.map(({ watermark }, t) =>
      this.#first(t) ? this.used(t) - watermark : -Infinity,
    );
    const furthest = Math.max(...overruns);
    if (furthest > 0) return this.#first(overruns.indexOf(furthest));
    const above = this.#candidates().filter(
      (block) => this.used(block.tenant!) > this.quotas[block.tenant!].floor,
    );
    return this.#pick(above) ?? own;
  }

  #evict(victim: B, tenant: number): void {
    if (victim.tenant === tenant) this.quotas[tenant].evictedOwn += 1;
    else this.quotas[victim.tenant!].evictedByOthers += 1;
    this.#cache.evict(victim);
  }
}

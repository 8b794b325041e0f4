/**
 * The line in front of the running list: nobody who has room waits, a tenant is passed over for its own quota alone, under policy
 * "fair" whoever has been served least is next, and whoever is next does not wait longer than those who run may take.
 */
import assert from "node:assert/strict";
import type { StepPlan } from "../../../bindings/main.js";
import { allTokens, before, knownTokens, rankOf, type Tracked } from "./requests.js";
import type { WorldShape } from "./shape.js";
import type { System } from "./systems.js";
import type { World } from "./world.js";

export class Line {
  readonly #world: World;
  readonly #shape: WorldShape["scheduler"];
  readonly #quotas: boolean;
  /** Blocks in common before the step. */
  #common = 0;
  #next: Tracked | undefined;
  #heldUp = false;
  #patience = 0;

  constructor(world: World) {
    this.#world = world;
    this.#shape = world.shape.scheduler;
    this.#quotas = world.shape.quotas;
  }

  get #system(): System {
    return this.#world.systems.main;
  }

  /** Before a step. */
  note(): void {
    if (this.#quotas) this.#common = this.#system.cache.account("common").used;
  }

  /** A step has preempted nobody, admitted `admitted` in this order, begun to read `loading`, and left `waiting`. */
  planned(
    plan: StepPlan,
    admitted: readonly Tracked[],
    loading: readonly Tracked[],
    waiting: readonly Tracked[],
  ): void {
    // Which of a tenant's blocks are its own depends on what was opened in between.
    const next = this.#next;
    const fair = this.#shape.policy === "fair";
    const overtaken = (one: Tracked): boolean =>
      fair ||
      !this.#heldUp ||
      one.tenant === next!.tenant ||
      before(rankOf(one, this.#shape.policy), rankOf(next!, this.#shape.policy));
    // Somebody more urgent has come and gone to run at once: those who run are others now.
    if (next && [...admitted, ...loading].some(overtaken)) this.#next = undefined;
    const settled = !this.#quotas || this.#system.cache.account("common").used === this.#common;
    if (settled) this.#passed([...admitted, ...loading], waiting);
    if (this.#shape.policy === "fair" && loading.length === 0 && settled)
      this.#leastServed(admitted, waiting);
    if (loading.length === 0 && settled) this.#nobodyHasRoom(plan, waiting);
  }

  /** A step was executed that nothing outside held up. */
  executed(waiting: readonly Tracked[]): void {
    if (this.#shape.policy === "longest-prefix" || (this.#quotas && this.#world.pins)) return;
    const [next] = this.#inLine(waiting);
    const heldUp = next !== undefined && this.#heldByQuota(next);
    // While its tenant's quota holds it up others come to run; afterwards nobody does before it.
    if (next !== this.#next || (this.#heldUp && !heldUp)) {
      const { running } = this.#world;
      this.#patience = running.reduce((sum, one) => sum + allTokens(one) + 1, 2);
    }
    this.#next = next;
    this.#heldUp = heldUp;
    this.#patience -= 1;
    assert.ok(
      next === undefined || this.#patience >= 0,
      `${next?.handle} is next, and waits for longer than those who run may take`,
    );
  }

  /** In the order in which they are to be served; for "longest-prefix" in any. */
  #inLine(waiting: readonly Tracked[]): Tracked[] {
    const { policy } = this.#shape;
    const rank = (one: Tracked): readonly number[] =>
      policy === "fair"
        ? [this.#system.scheduler.served(one.tenant), one.tenant, one.priority, one.order]
        : rankOf(one, policy);
    const ranked = waiting.map((one) => ({ one, rank: rank(one) }));
    return ranked.sort((a, b) => (before(a.rank, b.rank) ? -1 : 1)).map(({ one }) => one);
  }

  /** Who came to run before another tenant's that stands before it: that one is at its ceiling. */
  #passed(served: readonly Tracked[], waiting: readonly Tracked[]): void {
    const { policy } = this.#shape;
    if (!this.#quotas || policy === "fair" || policy === "longest-prefix") return;
    for (const other of waiting)
      for (const one of served) {
        if (one.tenant === other.tenant || !before(rankOf(other, policy), rankOf(one, policy))) continue;
        const own = waiting.some(
          ({ tenant }) => tenant === other.tenant && this.#tenantIsHeld(tenant, waiting),
        );
        assert.ok(own, `${one.handle} before ${other.handle}, which its tenant's quota has room for`);
      }
  }

  /** "fair": the tenants' counters when each was admitted are those of now less what was admitted since. */
  #leastServed(admitted: readonly Tracked[], waiting: readonly Tracked[]): void {
    const { inputWeight = 1, tenants } = this.#shape;
    const served = Array.from({ length: tenants }, (_, tenant) => this.#system.scheduler.served(tenant));
    for (let i = admitted.length - 1; i >= 0; i--) {
      const { tenant, preemptions, promptTokens, handle } = admitted[i];
      if (preemptions === 0) served[tenant] -= inputWeight * promptTokens;
      for (const other of [...admitted.slice(i + 1), ...waiting]) {
        if (other.tenant === tenant || (this.#quotas && this.#tenantIsHeld(other.tenant, waiting))) continue;
        const [mine, its] = [
          [served[tenant], tenant],
          [served[other.tenant], other.tenant],
        ];
        assert.ok(before(mine, its), `fair: ${handle}, served ${mine[0]}, before ${other.handle}, ${its[0]}`);
      }
    }
  }

  /** With budget and rows left over, the first in line who is not held up by its own quota finds too few blocks. */
  #nobodyHasRoom(plan: StepPlan, waiting: readonly Tracked[]): void {
    const { cache } = this.#system;
    const { maxBatchTokens, maxRunning, policy } = this.#shape;
    const { running, transfers, live } = this.#world;
    const loading = [...live.values()].filter(({ state }) => state === "loading").length;
    if (plan.totalTokens >= maxBatchTokens || running.length + loading >= maxRunning) return;
    if (transfers && (transfers.inFlight > 0 || this.#world.conversations.parked > 0)) return;
    if (plan.transferCount > 0 && transfers) return;
    if (cache.stats().openSequences >= cache.maxSequences) return;
    if (policy === "longest-prefix" || policy === "fair") {
      // Of a line whose order is not known somebody has no room, or all have been admitted.
      const all = waiting.every((one) => this.#fits(one) && !this.#heldByQuota(one));
      assert.ok(waiting.length === 0 || !all, "nobody who has room waits");
      return;
    }
    const passed = new Set<number>();
    for (const one of this.#inLine(waiting)) {
      if (passed.has(one.tenant)) continue;
      if (!this.#fits(one)) return;
      // There are blocks enough: nothing but its own quota keeps it out, and that keeps nobody else.
      assert.ok(this.#heldByQuota(one), `${one.handle} waits, and has room`);
      passed.add(one.tenant);
    }
  }

  /** Blocks that all of a request's tokens take, whatever is cached of them, and one of which it copies the beginning. */
  #needed(request: Tracked): number {
    const { machine, shape } = this.#world;
    const known = knownTokens(request);
    const copied = shape.cache.partialReuse ? 1 : 0;
    return machine.groups.reduce((sum, { blockSize }) => sum + Math.ceil(known / blockSize), copied);
  }

  #fits(request: Tracked): boolean {
    const { cache } = this.#system;
    const margin = this.#world.running.length === 0 ? 0 : this.#shape.watermarkBlocks;
    // Under floors a cached block may have to stay for the sake of one behind it.
    const room = this.#quotas
      ? Math.min(cache.availableTo(request.tenant), cache.stats().free)
      : cache.available;
    return this.#needed(request) + margin <= room;
  }

  /** Whether its tenant's quota may have no room for it. */
  #heldByQuota(request: Tracked): boolean {
    if (!this.#quotas) return false;
    const { cache } = this.#system;
    const { used, evictable, ceiling } = cache.account(request.tenant);
    const needed = this.#needed(request);
    let most = cache.blocks;
    for (const other of [0, 1, 2, "common"] as const)
      if (other !== request.tenant) most -= cache.account(other).floor;
    // A ceiling of all blocks is none. With groups what can never be had is refused before anything is looked for.
    const limit = ceiling < cache.blocks ? ceiling : Infinity;
    return used - evictable + needed > (cache.groups.length > 0 ? Math.min(limit, most) : limit);
  }

  #tenantIsHeld(tenant: number, waiting: readonly Tracked[]): boolean {
    return waiting.some((one) => one.tenant === tenant && this.#heldByQuota(one));
  }
}

/**
 * Room for the more urgent: in each step of a preemptive scheduler somebody must be preempted for a more urgent request that
 * waits, or nobody may be: not for one that its own tenant's quota keeps out, unless it is of its tenant.
 */
import assert from "node:assert/strict";
import type { CacheGroup, KvCache } from "../../../bindings/main.js";
import { marksBefore, matched } from "./marks.js";
import { knownTokens, type Tracked } from "./requests.js";
import type { World } from "./world.js";

/** Blocks of a request that count for its tenant's ceiling, at the least and at the most. */
type Range = readonly [least: number, most: number];

export class Urgency {
  readonly #world: World;
  /** Who makes room in the step to come; undefined: that depends on what is not known here. */
  #says: "somebody" | "nobody" | undefined;
  /** Whether those who run have room to go on without taking any from each other. */
  #calm = false;

  constructor(world: World) {
    this.#world = world;
  }

  /** Before a step; of those who wait, those that will not have ended by then. */
  note(waiting: readonly Tracked[]): void {
    const { running, pins, nowUs } = this.#world;
    this.#says = undefined;
    if (!this.#world.shape.scheduler.preemptive) return;
    // What pins keep until now is there in the step.
    if (pins && pins.nextUs <= nowUs) return;
    const inLine = [...waiting].sort((a, b) => a.priority - b.priority || a.order - b.order);
    this.#says = this.#makesRoom(inLine);
    this.#calm = this.#goesOn(running);
  }

  /** A step has preempted so many. */
  planned(preempted: number): void {
    if (this.#says === "somebody") assert.ok(preempted > 0, "whoever is less urgent makes room");
    if (this.#says !== "nobody" || !this.#calm) return;
    assert.equal(preempted, 0, "nobody makes room for one that will not be admitted");
  }

  get isDue(): boolean {
    return this.#says === "somebody";
  }

  #makesRoom(inLine: readonly Tracked[]): "somebody" | "nobody" | undefined {
    const { running, live, shape, systems, machine } = this.#world;
    const { cache, scheduler } = systems.main;
    const { maxRunning, watermarkBlocks } = shape.scheduler;
    const pending = scheduler.hostTier?.pendingBlocks ?? 0;
    const loading = [...live.values()].filter(({ state }) => state === "loading").length;
    const lessUrgent = (one: Tracked, among: readonly Tracked[]): boolean =>
      among.some(({ priority }) => priority > one.priority);
    let rows = running.length + loading;
    let blocks = 0;
    const wanted = new Map<number, Range | "too much">();
    for (const one of inLine) {
      const { tenant } = one;
      const before = wanted.get(tenant) ?? [0, 0];
      if (before === "too much") continue;
      const need = machine.groups.reduce((sum, group) => sum + peakOf(group, knownTokens(one)), 0);
      if (shape.quotas) {
        const { ceiling, used, evictable } = cache.account(tenant);
        const [least, most] = this.#charged(one, need).map((blocks, i) => before[i] + blocks);
        const room = ceiling < cache.blocks ? ceiling - (used - evictable) : Infinity;
        const never = cache.groups.length > 0 && need > mostBlocks(cache, tenant);
        if (never || least > room) {
          const own = running.filter((other) => other.tenant === tenant);
          if (!never && pending > 0) return undefined;
          if (!never && lessUrgent(one, own)) return "somebody";
          wanted.set(tenant, "too much");
          continue;
        }
        if (most > room) return undefined;
        wanted.set(tenant, [least, most]);
      }
      rows += 1;
      blocks += need + watermarkBlocks;
      const available = shape.quotas ? cache.availableTo(tenant) : cache.available;
      if (rows > maxRunning || blocks > available + pending)
        return lessUrgent(one, running) ? "somebody" : "nobody";
    }
    return "nobody";
  }

  /** What is cached of it may be held, or paid by others, already. */
  #charged(one: Tracked, need: number): Range {
    const { systems, shape } = this.#world;
    const { blockSize, prefixCache, partialReuse, groups } = shape.cache;
    const most = need + Number(Boolean(partialReuse));
    if (!prefixCache || groups) return [most, most];
    const known = knownTokens(one);
    const tokens = one.answer.tokens.subarray(0, known);
    const cached = matched(systems, tokens, one.namespace, marksBefore(one.marks, known));
    return [most - Math.ceil((cached ?? known) / blockSize), most];
  }

  /** Blocks of each: for what is left of its prompt, and copies. */
  #goesOn(running: readonly Tracked[]): boolean {
    const { systems, machine, shape } = this.#world;
    const { cache } = systems.main;
    const growth = (one: Tracked): number => {
      const left = Math.max(1, knownTokens(one) - one.computed);
      return machine.groups.reduce((sum, { blockSize }) => sum + Math.ceil(left / blockSize) + 2, 0);
    };
    const all = (among: readonly Tracked[]): number => among.reduce((sum, one) => sum + growth(one), 0);
    if (all(running) > cache.stats().free) return false;
    if (!shape.quotas) return true;
    return [0, 1, 2].every((tenant) => {
      const { ceiling, used, evictable } = cache.account(tenant);
      const own = running.filter((one) => one.tenant === tenant);
      return ceiling === cache.blocks || used - evictable + all(own) <= ceiling;
    });
  }
}

/** Most blocks of a group that so many tokens hold. */
function peakOf({ kind, window, blockSize }: CacheGroup, tokens: number): number {
  const all = Math.ceil(tokens / blockSize);
  if (kind === "full") return all;
  const reach = kind === "window" ? window - 1 : 1;
  return Math.min(all, Math.ceil(reach / blockSize) + 1);
}

/** Most blocks that a tenant can come to hold, whatever others do. */
function mostBlocks(cache: KvCache, tenant: number): number {
  const others = ([0, 1, 2, "common"] as const).filter((other) => other !== tenant);
  const floors = others.reduce<number>((sum, other) => sum + cache.account(other).floor, 0);
  return Math.min(cache.account(tenant).ceiling, cache.blocks - floors);
}

/**
 * What a cache with runs promises: a sequence takes next the blocks that are kept for it, in their order; and when it has none,
 * those right behind its last one as long as they are free.
 */
import assert from "node:assert/strict";
import type { Tracked } from "./requests.js";
import type { World } from "./world.js";

interface Promise {
  readonly request: Tracked;
  /** Blocks of its table, and the last of them. */
  readonly count: number;
  readonly last: number;
  readonly start: number;
  readonly length: number;
}

export class BlockRunPromises {
  /** Blocks that were taken as promised. */
  kept = 0;
  readonly #world: World;
  #promises: Promise[] = [];
  #free = new Set<number>();
  #splits = 0;

  constructor(world: World) {
    this.#world = world;
  }

  /** Before a step. */
  note(): void {
    const { systems, running } = this.#world;
    const { cache } = systems.main;
    const runs = cache.runs!;
    this.#splits = runs.stats().splits;
    this.#free = this.#freeBlocks();
    this.#promises = running
      .filter(({ sequence }) => sequence !== 0)
      .map((request) => {
        const table = cache.blockTable(request.sequence);
        return { request, count: table.length, last: table.at(-1) ?? -1, ...runs.tail(request.sequence) };
      });
  }

  /** It is planned. `preempted`: somebody has given blocks back meanwhile. */
  planned(preempted: boolean): void {
    const { cache } = this.#world.systems.main;
    if (cache.runs!.stats().splits !== this.#splits) return;
    const free = this.#freeBlocks();
    for (const { request, count, last, start, length } of this.#promises) {
      if (request.state !== "running") continue;
      const added = cache.blockTable(request.sequence).subarray(count);
      for (let i = 0; i < Math.min(length, added.length); i++, this.kept++)
        assert.equal(added[i], start + i, `${request.handle} takes what is kept for it`);
      if (length > 0 || added.length === 0 || count === 0 || preempted || added[0] === last + 1) continue;
      const could = this.#free.has(last + 1) && free.has(last + 1);
      assert.ok(!could, `${request.handle} goes on behind its last block`);
    }
  }

  /** Free blocks that nobody has reserved. Asked of both systems: reading leaves something in a core's scratch. */
  #freeBlocks(): Set<number> {
    const { systems } = this.#world;
    const free = new Set<number>();
    systems.call((system) => {
      for (const { start, length } of system.cache.runs!.free())
        for (let block = start; block < start + length && system === systems.main; block++) free.add(block);
    });
    return free;
  }
}

/** Blocks, references, queues and statistics add up, by counts of the world's own. */
import assert from "node:assert/strict";
import { type StepPlan, TRANSFER_WORDS } from "../../../bindings/main.js";
import type { World } from "./world.js";

export class Accounts {
  readonly #world: World;
  readonly #holders: Uint32Array;
  #queriedTokens = 0;
  #hitTokens = 0;

  constructor(world: World) {
    this.#world = world;
    this.#holders = new Uint32Array(world.shape.cache.blocks);
  }

  /** An admission looked up so many tokens and found so many; negative: it was taken back. */
  lookedUp(queried: number, found: number): void {
    this.#queriedTokens += queried;
    this.#hitTokens += found;
  }

  /** A plan is in flight. */
  planned(plan: StepPlan): void {
    const { blockSize } = this.#world.shape.cache;
    this.#blocks();
    this.#queues();
    assert.equal(new Set(plan.slots).size, plan.slots.length, "two tokens of a step never share a slot");
    for (const slot of plan.slots)
      assert.equal(this.#holders[Math.floor(slot / blockSize)], 1, "a block that is written has one holder");
  }

  /** A step has ended. */
  settled(): void {
    const { systems, outsiders } = this.#world;
    // In both: a check leaves behind what it has looked at last.
    systems.call(({ scheduler }) => scheduler.validate());
    this.#blocks();
    this.#queues();
    const { queriedTokens, hitTokens } = systems.main.cache.stats();
    const counted = [this.#queriedTokens + outsiders.queriedTokens, this.#hitTokens + outsiders.hitTokens];
    assert.deepEqual([queriedTokens, hitTokens], counted, "looked up and found");
  }

  /** References are holders, and every block is free, evictable or held. */
  #blocks(): void {
    const { systems, running, outsiders, machine } = this.#world;
    const { cache, core } = systems.main;
    const holders = this.#holders.fill(0);
    for (const sequence of [...running.map((one) => one.sequence), ...outsiders.sequences])
      for (const block of cache.blockTable(sequence)) holders[block] += 1;
    const copies = cache.copies();
    for (let at = 0; at < copies.length; at += TRANSFER_WORDS) holders[copies[at + 2]] += 1;
    let held = 0;
    for (let block = 0; block < holders.length; block++) {
      if (core.exports.kvReferences(cache.pointer, block) !== holders[block])
        assert.equal(cache.references(block), holders[block], `references of block ${block} are its holders`);
      held += Number(holders[block] > 0);
    }
    const { free, evictable, openSequences } = cache.stats();
    assert.equal(free + evictable + held, cache.blocks, "no block is lost");
    assert.equal(cache.available, free + evictable);
    assert.equal(openSequences, running.length + outsiders.open.length);
    // Without cached blocks to come back to, nobody may read what nobody holds.
    if (evictable > 0) return;
    for (let block = 0; block < holders.length; block++) if (holders[block] === 0) machine.spoil(block);
  }

  /** Who runs, waits and is to come; and when something will happen to those who wait. */
  #queues(): void {
    const { systems, live, nowUs, shape } = this.#world;
    const { scheduler } = systems.main;
    const { queueTimeoutUs } = shape.scheduler;
    const counts = { running: 0, waiting: 0, arriving: 0 };
    let wake = Infinity;
    for (const request of live.values()) {
      counts[request.state] += 1;
      if (request.state === "arriving") wake = Math.min(wake, request.arrivalUs);
      if (request.state === "waiting") {
        wake = Math.min(wake, request.deadlineUs);
        if (queueTimeoutUs > 0 && request.preemptions === 0)
          wake = Math.min(wake, (request.arrivalUs || nowUs) + queueTimeoutUs);
      }
      if (request.aborted) continue;
      assert.equal(scheduler.state(request.handle), request.state);
      assert.equal(scheduler.generated(request.handle), request.generated);
      if (request.state === "running") assert.equal(scheduler.computed(request.handle), request.computed);
    }
    const { running, waiting, arriving } = scheduler;
    assert.deepEqual({ running, waiting, arriving }, counts);
    const promised = scheduler.nextWakeUs();
    assert.ok(promised <= wake, `the core sleeps until ${promised}, past ${wake}`);
    if (waiting === 0) assert.equal(promised, wake, "and wakes for nothing");
  }
}

/** Blocks, references, queues and statistics add up, by counts of the world's own. */
import assert from "node:assert/strict";
import { NO_BLOCK, type SequenceId, type StepPlan, TRANSFER_WORDS } from "../../../bindings/main.js";
import type { World } from "./world.js";

export class Accounts {
  readonly #world: World;
  readonly #holders: Uint32Array;
  /** Blocks of each tenant when it was last looked at. */
  #used: number[] = [];
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
    this.#blocks();
    this.#queues();
    this.#world.machine.groups.forEach(({ kind, blockSize }, group) => {
      const { slots } = group === 0 ? plan : plan.groups![group - 1];
      if (kind !== "recurrent")
        assert.equal(new Set(slots).size, slots.length, "two tokens of a step never share a slot");
      for (const slot of slots)
        assert.equal(
          this.#holders[Math.floor(slot / blockSize)],
          1,
          "a block that is written has one holder",
        );
    });
  }

  /** A tenant's quota was changed: it keeps what it holds. */
  limited(): void {
    const { cache } = this.#world.systems.main;
    this.#used = [0, 1, 2].map((tenant) => cache.account(tenant).used);
  }

  /** A step has ended. */
  settled(): void {
    const { systems, outsiders, archive } = this.#world;
    // In both: a check leaves behind what it has looked at last.
    systems.call(({ scheduler }) => scheduler.validate());
    this.#blocks();
    this.#queues();
    const { queriedTokens, hitTokens } = systems.main.cache.stats();
    const others = [outsiders, archive ?? { queriedTokens: 0, hitTokens: 0 }];
    const counted = [
      others.reduce((sum, one) => sum + one.queriedTokens, this.#queriedTokens),
      others.reduce((sum, one) => sum + one.hitTokens, this.#hitTokens),
    ];
    assert.deepEqual([queriedTokens, hitTokens], counted, "looked up and found");
  }

  /**
   * References are holders and pins, and every block is free, evictable or held. Of sequences that only transfers keep nothing
   * is known here: there may be more references then.
   */
  #blocks(): void {
    const { systems, machine, pins } = this.#world;
    const { cache, core } = systems.main;
    const holders = this.#holders.fill(0);
    const { sequences, hidden } = this.#sequences();
    for (const sequence of sequences)
      for (const table of this.#tables(sequence))
        for (const block of table) if (block !== NO_BLOCK) holders[block] += 1;
    const copies = cache.copies();
    for (let at = 0; at < copies.length; at += TRANSFER_WORDS) holders[copies[at + 2]] += 1;
    let held = 0;
    let pinned = 0;
    for (let block = 0; block < holders.length; block++) {
      const references = core.exports.kvReferences(cache.pointer, block);
      if (references > holders[block] && (hidden > 0 || pins)) {
        pinned += references - holders[block];
        holders[block] = references;
      }
      if (references !== holders[block])
        assert.equal(references, holders[block], `references of block ${block} are its holders`);
      held += Number(holders[block] > 0);
    }
    if (pins && hidden === 0)
      assert.equal(pinned, pins.holds, "what has more references than holders is pinned");
    const { free, evictable } = cache.stats();
    assert.equal(free + evictable + held, cache.blocks, "no block is lost");
    assert.equal(cache.available, free + evictable + (pins ? cache.pinned().soft : 0));
    const { pendingBlocks = 0 } = this.#world.systems.main.scheduler.hostTier ?? {};
    assert.ok(pendingBlocks >= 0 && pendingBlocks <= cache.maxSequences * cache.blocks);
    if (cache.tenants > 0) this.#tenants(cache.blocks - free);
    // Without cached blocks to come back to, nobody may read what nobody holds.
    if (evictable > 0) return;
    for (let block = 0; block < holders.length; block++) if (holders[block] === 0) machine.spoil(block);
  }

  #tables(sequence: SequenceId): Uint32Array[] {
    const { cache } = this.#world.systems.main;
    return [
      cache.blockTable(sequence),
      ...cache.groups.map((_, group) => cache.groupTable(sequence, group + 1)),
    ];
  }

  /** What is open of those who run, and of others; and how many more there are, which transfers read or write. */
  #sequences(): { sequences: SequenceId[]; hidden: number } {
    const { systems, running, outsiders, archive, transfers, conversations, live } = this.#world;
    const { cache } = systems.main;
    const ours = running.map(({ sequence }) => sequence).filter((sequence) => sequence !== 0);
    const known = [...ours, ...outsiders.sequences, ...(archive?.sequences ?? [])];
    const hidden = cache.stats().openSequences - known.length;
    const unnamed = running.length - ours.length;
    const loading = [...live.values()].filter(({ state }) => state === "loading").length;
    // Requests that were read back have no row yet, others are being read; a transfer keeps what its request has left.
    assert.ok(hidden >= unnamed + loading, "who runs has a sequence");
    assert.ok(
      hidden <= unnamed + loading + (transfers?.inFlight ?? 0) + conversations.parked,
      "nobody has a sequence for nothing",
    );
    return { sequences: known, hidden };
  }

  /** Somebody pays for every block that is held or cached, for what several share nobody, and nobody takes too much. */
  #tenants(taken: number): void {
    const { systems, running, outsiders } = this.#world;
    const { cache } = systems.main;
    const accounts = ([0, 1, 2, "common"] as const).map((tenant) => cache.account(tenant));
    assert.equal(
      accounts.reduce((sum, { used }) => sum + used, 0),
      taken,
      "every block that is taken is in one account",
    );
    const holds = (tenant: number): SequenceId[] => [
      ...running.filter((one) => one.tenant === tenant && one.sequence !== 0).map(({ sequence }) => sequence),
      ...(tenant === 0 ? outsiders.sequences : []),
    ];
    const held = [0, 1, 2].map(
      (tenant) =>
        new Set(
          holds(tenant)
            .flatMap((sequence) => this.#tables(sequence).flatMap((table) => [...table]))
            .filter((block) => block !== NO_BLOCK),
        ),
    );
    const shared = new Set(
      held.flatMap((mine, tenant) =>
        [...mine].filter((block) => held.some((its, other) => other !== tenant && its.has(block))),
      ),
    );
    assert.ok(shared.size <= accounts[3].used, "what several tenants hold is nobody's");
    accounts.slice(0, 3).forEach(({ used, ceiling }, tenant) => {
      const most = Math.max(ceiling, this.#used[tenant]);
      assert.ok(used <= most, `tenant ${tenant} takes ${used} blocks of ${ceiling}`);
      this.#used[tenant] = used;
    });
  }

  /** Who runs, waits and is to come; and when something will happen to those who wait. */
  #queues(): void {
    const { systems, live, nowUs, shape, conversations, pins } = this.#world;
    const { scheduler } = systems.main;
    const { queueTimeoutUs } = shape.scheduler;
    const counts = { running: 0, waiting: 0, arriving: 0, loading: 0, idle: 0 };
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
    if (pins && counts.waiting > 0) wake = Math.min(wake, pins.nextUs);
    const { loading, idle } = counts;
    assert.deepEqual({ running, waiting, arriving, loading, idle }, counts);
    assert.ok(counts.running + counts.loading <= shape.scheduler.maxRunning);
    const promised = scheduler.nextWakeUs();
    assert.ok(promised <= wake, `the core sleeps until ${promised}, past ${wake}`);
    const sends = conversations.parked > 0 && promised === 0;
    if (waiting === 0 && !sends) assert.equal(promised, wake, "and wakes for nothing");
  }
}

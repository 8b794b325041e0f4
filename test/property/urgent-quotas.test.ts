/**
 * Urgency under quotas: whom its own tenant's ceiling keeps out takes nothing from other tenants; its tenant's own less urgent
 * requests make room for it; and what it needs is counted in all groups, less what its tenant shares.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  Core,
  type KvCacheOptions,
  type RequestId,
  type Scheduler,
  type TenantQuota,
} from "../../bindings/main.js";

const TOKENS = 14;
/** Blocks of four tokens of a prompt, and of all that a request comes to. */
const PROMPT_BLOCKS = 4;
const ALL_BLOCKS = 6;

/** A preemptive scheduler over 32 blocks that are shared by tenants, and what becomes of its requests. */
class Bench {
  readonly preempted: RequestId[] = [];
  #nowUs = 0;

  private constructor(
    readonly scheduler: Scheduler,
    readonly core: Core,
  ) {}

  static async create(
    quotas: readonly TenantQuota[],
    maxRunning: number,
    more: Partial<KvCacheOptions> = {},
  ): Promise<Bench> {
    const core = await Core.create();
    const shape = { blocks: 32, blockSize: 4, maxSequences: 8, maxSequenceTokens: 64 };
    const cache = core.kvCache({ ...shape, tenants: 2, quotas, ...more });
    const scheduler = core.scheduler({
      cache,
      vocabSize: 1000,
      tenants: 2,
      policy: "priority",
      preemptive: true,
      maxRunning,
      watermarkBlocks: 0,
    });
    return new Bench(scheduler, core);
  }

  /** A request whose tokens count up from `from`; it generates up to eight more. */
  ask(tenant: number, priority: number, from: number): RequestId {
    const tokens = Array.from({ length: TOKENS }, (_, i) => from + i);
    return this.scheduler.submit({ tokens, maxNewTokens: 8, tenant, priority });
  }

  run(steps: number): void {
    for (let i = 0; i < steps; i++) {
      const plan = this.scheduler.step(this.#nowUs++);
      const sampled = new Uint32Array(plan.samplingRows).fill(7);
      this.scheduler.commit(plan.stepId, this.#nowUs, { tokens: sampled });
      for (const { kind, request } of this.scheduler.outcomes())
        if (kind === "preempted") this.preempted.push(request);
      this.core.validate();
    }
  }
}

test("however urgent, a request that its tenant's ceiling keeps out preempts nobody of another tenant", async () => {
  for (const ceiling of [ALL_BLOCKS, 32]) {
    const bench = await Bench.create([{ tenant: 0, ceiling }], 2);
    bench.ask(0, 0, 100);
    const other = bench.ask(1, 3, 200);
    bench.run(1);
    bench.ask(0, 0, 300);
    bench.run(4);
    assert.deepEqual(bench.preempted, ceiling === 32 ? [other] : [], `under a ceiling of ${ceiling}`);
  }
});

test("nor does one behind it in its tenant's line, which would have room but is not admitted before it", async () => {
  const bench = await Bench.create([{ tenant: 0, ceiling: 2 * PROMPT_BLOCKS }], 2);
  bench.ask(0, 0, 100);
  bench.ask(1, 9, 200);
  bench.run(1);
  const tokens = Array.from({ length: 6 * PROMPT_BLOCKS }, (_, i) => 300 + i);
  bench.scheduler.submit({ tokens, maxNewTokens: 1, tenant: 0, priority: 0 });
  bench.scheduler.submit({ tokens: [1, 2, 3], maxNewTokens: 1, tenant: 0, priority: 1 });
  bench.run(4);
  assert.deepEqual(bench.preempted, []);
});

test("several urgent requests of a tenant preempt for as many as its ceiling has room for", async () => {
  for (const count of [2, 3]) {
    const bench = await Bench.create([{ tenant: 0, ceiling: count * PROMPT_BLOCKS }], 3);
    for (const from of [100, 200, 300]) bench.ask(1, 9, from);
    bench.run(1);
    for (const from of [400, 500, 600, 700]) bench.ask(0, 0, from);
    bench.run(1);
    assert.equal(bench.preempted.length, count);
    bench.run(1);
    assert.equal(bench.scheduler.running, 3);
  }
});

test("under its ceiling a tenant's own less urgent request makes room, however little others matter", async () => {
  const bench = await Bench.create([{ tenant: 0, ceiling: ALL_BLOCKS }], 3);
  const own = bench.ask(0, 3, 100);
  bench.ask(1, 9, 200);
  bench.run(1);
  const urgent = bench.ask(0, 0, 300);
  bench.run(1);
  assert.deepEqual(bench.preempted, [own]);
  bench.run(1);
  assert.equal(bench.scheduler.state(urgent), "running");
});

test("what it shares with its tenant's own is under the ceiling already", async () => {
  for (const from of [100, 500]) {
    const bench = await Bench.create([{ tenant: 0, ceiling: ALL_BLOCKS }], 2);
    bench.ask(0, 0, 100);
    const other = bench.ask(1, 3, 200);
    bench.run(1);
    bench.ask(0, 0, from);
    bench.run(1);
    assert.deepEqual(bench.preempted, from === 100 ? [other] : [], `tokens from ${from} on`);
  }
});

test("a tenant's soft pins give way under its ceiling before any of its requests does", async () => {
  const pins = { capacity: 4, share: 0 };
  const bench = await Bench.create([{ tenant: 0, ceiling: 2 * ALL_BLOCKS }], 2, { pins });
  const tokens = Array.from({ length: 6 * PROMPT_BLOCKS }, (_, i) => 700 + i);
  bench.scheduler.submit({ tokens, maxNewTokens: 1, tenant: 0, priority: 0, pin: { hard: false } });
  bench.run(2);
  assert.equal(bench.scheduler.cache.pinned().pins, 1);
  bench.ask(0, 3, 100);
  const other = bench.ask(1, 9, 200);
  bench.run(1);
  bench.ask(0, 0, 300);
  bench.run(1);
  assert.deepEqual(bench.preempted, [other], "for its row");
  assert.equal(bench.scheduler.cache.pinned().pins, 0);
});

test("what is left to others by their floors is no room: who is less urgent gives up more", async () => {
  for (const floor of [0, 8]) {
    const quotas = [{ tenant: 1, floor }];
    const bench = await Bench.create(quotas, 8, { blocks: 4 * PROMPT_BLOCKS + 8 });
    // Ten blocks of tenant 1 rest in the cache; two are free.
    for (const from of [100, 200]) bench.ask(1, 0, from);
    bench.run(12);
    for (const from of [300, 400, 500]) bench.ask(0, 5, from);
    bench.run(1);
    assert.equal(bench.scheduler.running, 3);
    const tokens = Array.from({ length: 40 }, (_, i) => 600 + i);
    const urgent = bench.scheduler.submit({ tokens, maxNewTokens: 3, tenant: 0, priority: 0 });
    bench.run(2);
    assert.equal(bench.scheduler.state(urgent), "running", `floor ${floor}`);
    assert.equal(bench.preempted.length, floor === 0 ? 0 : 2);
  }
});

test("urgency counts the blocks of all cache groups", async () => {
  const groups = [{ kind: "full" as const }, { kind: "full" as const }];
  const bench = await Bench.create([], 8, { blocks: 6 * 3 * PROMPT_BLOCKS, groups });
  for (const from of [100, 200, 300, 400, 500]) bench.ask(1, 5, from);
  bench.run(1);
  assert.equal(bench.scheduler.running, 5);
  const tokens = Array.from({ length: 8 * PROMPT_BLOCKS }, (_, i) => 600 + i);
  const urgent = bench.scheduler.submit({ tokens, maxNewTokens: 3, tenant: 0, priority: 0 });
  bench.run(1);
  assert.equal(bench.preempted.length, 1, "24 blocks in place of the 12 that are free");
  bench.run(1);
  assert.equal(bench.scheduler.state(urgent), "running");
});

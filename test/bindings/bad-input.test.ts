/** Bad input gets a typed error that names the argument, and changes no state. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Core, type KvCache, QuartermasterError, type Scheduler } from "../../bindings/main.js";
import { MemoryTier } from "../../native-host/storage/memory-tier.js";
import { planLoad } from "../../native-host/storage/load-or-recompute.js";

async function setUp(
  options: { maxRequests?: number; tokenCapacity?: number; blocks?: number } = {},
): Promise<{
  core: Core;
  cache: KvCache;
  scheduler: Scheduler;
}> {
  const core = await Core.create();
  const cache = core.kvCache({
    blocks: options.blocks ?? 8,
    blockSize: 4,
    maxSequences: 4,
    maxSequenceTokens: 64,
  });
  const scheduler = core.scheduler({
    cache,
    vocabSize: 50,
    maxRequests: options.maxRequests ?? 4,
    maxBatchTokens: 16,
    tokenCapacity: options.tokenCapacity ?? 4096,
  });
  return { core, cache, scheduler };
}

/**
 * Everything that a refused call must leave alone: the state but for the input regions that carry the
 * arguments.
 */
function stateOf(core: Core): Uint8Array {
  const bytes = core.snapshot();
  for (const cache of core.kvCaches)
    bytes.fill(0, core.exports.kvInput(cache.pointer), core.exports.kvInput(cache.pointer) + 256);
  for (const scheduler of core.schedulers) {
    const results = core.exports.schedulerResults(scheduler.pointer);
    bytes.fill(0, results, results + scheduler.maxRunning * 8);
  }
  return bytes.fill(0, 88, 96); // the size of the memory, which may have grown
}

function refused(core: Core, run: () => unknown, code: string, names: RegExp): void {
  const before = stateOf(core);
  assert.throws(run, (error) => {
    assert.ok(error instanceof QuartermasterError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, names);
    return true;
  });
  assert.deepEqual(stateOf(core), before, "state unchanged");
  core.validate();
}

describe("submit refuses", () => {
  const cases: [name: string, request: object, code: string, names: RegExp][] = [
    ["an empty prompt", { tokens: [] }, "EMPTY_PROMPT", /tokens\.length is 0/],
    ["a prompt longer than a sequence can be", { tokens: Array(65).fill(1) }, "TOO_LONG", /65.*64/],
    [
      "prompt and new tokens that are too long together",
      { tokens: Array(30).fill(1), maxNewTokens: 40 },
      "TOO_LONG",
      /70.*64/,
    ],
    [
      "what the whole pool cannot hold",
      { tokens: Array(32).fill(1), maxNewTokens: 2 },
      "POOL_TOO_SMALL",
      /34.*33/,
    ],
    ["a token past the vocabulary", { tokens: [1, 50] }, "INVALID_TOKEN", /50.*vocabulary/],
    ["a token that is no integer", { tokens: [1, 1.5] }, "INVALID_TOKEN", /tokens\[1\] is 1\.5/],
    ["a negative token", { tokens: [-1] }, "INVALID_TOKEN", /tokens\[0\] is -1/],
    ["no tokens at all", { tokens: undefined }, "INVALID_ARGUMENT", /tokens/],
    ["a NaN arrival", { arrivalUs: NaN }, "INVALID_TIME", /arrivalUs is NaN/],
    ["a negative arrival", { arrivalUs: -1 }, "INVALID_TIME", /arrivalUs is -1/],
    ["an infinite arrival", { arrivalUs: Infinity }, "INVALID_TIME", /arrivalUs is Infinity/],
    ["no new tokens", { maxNewTokens: 0 }, "INVALID_ARGUMENT", /maxNewTokens is 0/],
    ["a priority past 255", { priority: 256 }, "INVALID_ARGUMENT", /priority is 256/],
    ["a negative namespace", { namespace: -1 }, "INVALID_ARGUMENT", /namespace is -1/],
    ["a tenant past the scheduler's", { tenant: 1 }, "INVALID_ARGUMENT", /tenant is 1; .* scheduler/],
    ["a tenant that no scheduler has", { tenant: 4096 }, "INVALID_ARGUMENT", /tenant is 4096/],
    ["a deadline at 0", { deadlineUs: 0 }, "INVALID_ARGUMENT", /deadlineUs is 0/],
    ["a NaN deadline", { deadlineUs: NaN }, "INVALID_TIME", /deadlineUs is NaN/],
    ["a token budget of half a token", { maxChunkTokens: 0.5 }, "INVALID_ARGUMENT", /maxChunkTokens is 0\.5/],
    ["an id of 0", { id: 0 }, "INVALID_ARGUMENT", /id is 0/],
    ["an id past 2^64 - 2", { id: (1n << 64n) - 1n }, "INVALID_ARGUMENT", /id is/],
  ];
  for (const [name, request, code, names] of cases) {
    test(name, async () => {
      const { core, scheduler } = await setUp();
      refused(
        core,
        () => scheduler.submit({ tokens: [1, 2], maxNewTokens: 1, ...request } as never),
        code,
        names,
      );
    });
  }

  test("an id that a live request has, until that one ends", async () => {
    const { core, scheduler } = await setUp();
    const first = scheduler.submit({ tokens: [1], maxNewTokens: 1, id: 77 });
    refused(core, () => scheduler.submit({ tokens: [1], maxNewTokens: 1, id: 77n }), "DUPLICATE_ID", /77/);
    scheduler.abort(first);
    scheduler.submit({ tokens: [1], maxNewTokens: 1, id: 77 });
  });

  test("a token past the vocabulary at the end of a very long prompt", async () => {
    const core = await Core.create();
    const cache = core.kvCache({ blocks: 65536, blockSize: 16, maxSequences: 1, maxSequenceTokens: 1 << 20 });
    const scheduler = core.scheduler({ cache, vocabSize: 50, maxRequests: 1, tokenCapacity: 1 << 20 });
    const tokens = new Uint32Array(1_000_000);
    tokens[999_999] = 77;
    assert.throws(() => scheduler.submit({ tokens, maxNewTokens: 1 }), {
      code: "INVALID_TOKEN",
      message: /77/,
    });
  });

  test("one request more than there are slots", async () => {
    const { core, scheduler } = await setUp({ maxRequests: 2 });
    for (let i = 0; i < 2; i++) scheduler.submit({ tokens: [1], maxNewTokens: 1 });
    refused(
      core,
      () => scheduler.submit({ tokens: [1], maxNewTokens: 1 }),
      "OUT_OF_REQUESTS",
      /requests alive is 2/,
    );
  });

  test("more tokens than the token store holds", async () => {
    const { core, scheduler } = await setUp({ tokenCapacity: 256 });
    scheduler.submit({ tokens: [1], maxNewTokens: 1 });
    const submit = (): unknown => scheduler.submit({ tokens: [1], maxNewTokens: 1 });
    refused(core, submit, "OUT_OF_TOKENS", /tokens\.length \+ maxNewTokens is 2; allowed: at most 0 now/);
    assert.throws(submit, {
      argument: "tokens.length + maxNewTokens",
      value: 2,
      range: /of 256 \(tokenCapacity\)/,
    });
  });
});

describe("the step protocol refuses", () => {
  test("a NaN, negative or infinite time", async () => {
    const { core, scheduler } = await setUp();
    for (const time of [NaN, -1, Infinity])
      refused(core, () => scheduler.step(time), "INVALID_TIME", /nowUs/);
  });

  test("a second step, a wrong id, wrong results, and a commit after the commit", async () => {
    const { core, scheduler } = await setUp();
    scheduler.submit({ tokens: [1, 2], maxNewTokens: 2 });
    const { stepId } = scheduler.step(1);
    refused(core, () => scheduler.step(2), "STEP_IN_FLIGHT", /step/);
    refused(core, () => scheduler.commit(stepId + 1, 2, { tokens: [3] }), "UNKNOWN_STEP", /commit/);
    refused(core, () => scheduler.abandon(stepId + 1), "UNKNOWN_STEP", /abandon/);
    refused(core, () => scheduler.commit(stepId, 2, { tokens: [] }), "INVALID_ARGUMENT", /tokens/);
    refused(
      core,
      () => scheduler.commit(stepId, 2, { tokens: [3], finished: [] }),
      "INVALID_ARGUMENT",
      /finished/,
    );
    refused(core, () => scheduler.commit(stepId, 2, { tokens: [50] }), "INVALID_TOKEN", /commit/);
    refused(core, () => scheduler.commit(stepId, NaN, { tokens: [3] }), "INVALID_TIME", /nowUs/);
    scheduler.commit(stepId, 2, { tokens: [3] });
    refused(core, () => scheduler.commit(stepId, 2, { tokens: [3] }), "UNKNOWN_STEP", /commit/);
    refused(core, () => scheduler.abandon(stepId), "UNKNOWN_STEP", /abandon/);
  });

  test("requests that are not there", async () => {
    const { core, scheduler } = await setUp();
    for (const handle of [0, 1, 2 ** 31 - 1])
      refused(core, () => scheduler.abort(handle), "UNKNOWN_REQUEST", /abort/);
    for (const handle of [-1, 1.5, 2 ** 31])
      refused(core, () => scheduler.abort(handle), "INVALID_ARGUMENT", /request/);
  });
});

describe("the cache refuses", () => {
  test("sequences that are not open", async () => {
    const { core, cache } = await setUp();
    const sequence = cache.open({ tokens: [1, 2] });
    cache.close(sequence);
    for (const run of [
      () => cache.close(sequence),
      () => cache.reserve(sequence, 1),
      () => cache.append(sequence, [1]),
      () => cache.truncate(sequence, 0),
      () => cache.fork(sequence),
      () => cache.length(sequence),
      () => cache.blockTable(sequence),
    ]) {
      refused(core, run, "UNKNOWN_SEQUENCE", /sequence/);
    }
    refused(core, () => cache.close(-3), "INVALID_ARGUMENT", /sequence is -3/);
  });

  test("what does not fit, whole", async () => {
    const { core, cache } = await setUp();
    const sequence = cache.open({ tokens: [1] });
    refused(core, () => cache.reserve(sequence, 33), "OUT_OF_BLOCKS", /reserve/);
    refused(core, () => cache.reserve(sequence, 65), "INVALID_ARGUMENT", /count is 65/);
    refused(core, () => cache.append(sequence, [1]), "NOT_RESERVED", /append/);
    cache.reserve(sequence, 4);
    cache.append(sequence, [1, 2, 3]);
    refused(core, () => cache.append(sequence, [4, 5]), "NOT_RESERVED", /append/);
    refused(core, () => cache.truncate(sequence, 4), "INVALID_ARGUMENT", /length is 4/);
    refused(core, () => cache.references(8), "INVALID_ARGUMENT", /block is 8/);
    for (let i = 0; i < 3; i++) cache.open({ tokens: [] });
    refused(core, () => cache.open({ tokens: [] }), "OUT_OF_SEQUENCES", /open/);
    refused(core, () => cache.fork(sequence), "OUT_OF_SEQUENCES", /fork/);
  });

  test("appending before a pending copy has been settled", async () => {
    const { core, cache } = await setUp();
    const sequence = cache.open({ tokens: [1] });
    cache.reserve(sequence, 3);
    cache.append(sequence, [1, 2]);
    const twin = cache.fork(sequence);
    cache.reserve(twin, 1);
    assert.equal(cache.copies().length, 8);
    refused(core, () => cache.append(twin, [3]), "COPIES_PENDING", /append/);
    cache.settleCopies();
    cache.append(twin, [3]);
  });

  test("sequences that belong to a scheduler", async () => {
    const { core, cache, scheduler } = await setUp();
    scheduler.submit({ tokens: [1, 2], maxNewTokens: 2 });
    const [sequence] = scheduler.step(1).sequences;
    for (const run of [
      () => cache.close(sequence),
      () => cache.reserve(sequence, 1),
      () => cache.append(sequence, [1]),
      () => cache.truncate(sequence, 0),
      () => cache.fork(sequence),
    ]) {
      refused(core, run, "SEQUENCE_OWNED", /sequence/);
    }
  });
});

describe("a refusal names what is wrong", () => {
  function named(run: () => unknown, code: string, argument: string, value: unknown): void {
    assert.throws(run, (error) => {
      assert.ok(error instanceof QuartermasterError, String(error));
      assert.deepEqual([error.code, error.argument, error.value], [code, argument, value]);
      assert.ok(error.range !== undefined && error.range !== "", "says what is allowed");
      return true;
    });
  }

  test("a sequence, a request, a step that is not there", async () => {
    const { cache, scheduler } = await setUp();
    named(() => cache.reserve(7, 1), "UNKNOWN_SEQUENCE", "sequence", 7);
    named(() => cache.close(7), "UNKNOWN_SEQUENCE", "sequence", 7);
    named(() => scheduler.abort(7), "UNKNOWN_REQUEST", "request", 7);
    named(() => scheduler.setPriority(7, 1), "UNKNOWN_REQUEST", "request", 7);
    named(() => scheduler.abandon(7), "UNKNOWN_STEP", "stepId", 7);
    named(() => scheduler.commit(7, 0, { tokens: [] }), "UNKNOWN_STEP", "stepId", 7);
  });

  test("a handle that is no u32 is nobody's, though its low bits are somebody's", async () => {
    const { scheduler } = await setUp();
    const request = scheduler.submit({ tokens: [1], maxNewTokens: 2 });
    const { stepId } = scheduler.step(0);
    for (const wrong of [2 ** 32 + stepId, stepId + 0.5, NaN, `${stepId}`, null]) {
      named(() => scheduler.abandon(wrong as number), "INVALID_ARGUMENT", "stepId", wrong);
      named(() => scheduler.commit(wrong as number, 1, { tokens: [1] }), "INVALID_ARGUMENT", "stepId", wrong);
    }
    for (const ask of ["state", "computed", "generated"] as const)
      named(() => scheduler[ask](request + 2 ** 32), "INVALID_ARGUMENT", "request", request + 2 ** 32);
    scheduler.commit(stepId, 1, { tokens: [1] });
    assert.equal(scheduler.generated(request), 1);
  });

  test("a submission that does not go with the scheduler's tenants, its quota or its groups", async () => {
    const core = await Core.create();
    const quotas = [{ tenant: 1, ceiling: 4 }];
    const cache = core.kvCache({ blocks: 16, blockSize: 4, maxSequenceTokens: 64, tenants: 3, quotas });
    const shape = { cache, vocabSize: 9, maxRequests: 2, tokenCapacity: 2048 };
    const own = core.scheduler({ ...shape, tenants: 1 });
    const submit =
      (scheduler: Scheduler, tenant: number, maxNewTokens = 1) =>
      () =>
        scheduler.submit({ tokens: [1], maxNewTokens, tenant });
    named(submit(own, 1), "INVALID_ARGUMENT", "tenant", 1);
    const scheduler = core.scheduler(shape);
    named(submit(scheduler, 3), "INVALID_ARGUMENT", "tenant", 3);
    named(submit(scheduler, 1, 40), "QUOTA_EXCEEDED", "tokens.length + maxNewTokens", 41);
    for (const tenant of [1, 2]) submit(scheduler, tenant)();
    named(submit(scheduler, 0), "OUT_OF_REQUESTS", "requests alive", 2);
    const groups = core.kvCache({ blocks: 16, blockSize: 4, groups: [{ kind: "full" }] });
    const grouped = core.scheduler({ ...shape, cache: groups });
    const lossy = { tokens: [1], maxNewTokens: 2, peakSlots: 2 };
    named(() => grouped.submit(lossy), "INVALID_ARGUMENT", "peakSlots", 2);
  });

  test("options that are no object, and lists whose length is no count", async () => {
    const { cache, scheduler } = await setUp();
    const nothing = null as never;
    named(() => cache.open(nothing), "INVALID_ARGUMENT", "options", null);
    named(() => scheduler.submit(nothing), "INVALID_ARGUMENT", "options", null);
    named(() => scheduler.nextTurn(1, nothing), "INVALID_ARGUMENT", "options", null);
    named(() => scheduler.lanes(1, nothing), "INVALID_ARGUMENT", "start", null);
    named(() => scheduler.commit(1, 0, nothing), "INVALID_ARGUMENT", "results", null);
    for (const tokens of [{ length: -1 }, { length: 2.5 }, { length: NaN }, (_: number) => 0])
      named(() => cache.match(tokens as never), "INVALID_ARGUMENT", "tokens", tokens);
    const sequence = cache.open({ tokens: [1] });
    named(() => cache.appendLoaded(sequence, nothing, 9), "INVALID_ARGUMENT", "tokens", null);
  });

  test("a bigint or a symbol for a number: the core goes on", async () => {
    const { core, scheduler } = await setUp();
    const { stepId } = scheduler.step(0);
    for (const wrong of [BigInt(stepId), Symbol("step")]) {
      refused(core, () => scheduler.commit(wrong as never, 1, { tokens: [] }), "INVALID_ARGUMENT", /stepId/);
      refused(
        core,
        () => core.call(() => core.exports.coreAttach(wrong as never), "attach"),
        "INVALID_ARGUMENT",
        /attach/,
      );
    }
    scheduler.commit(stepId, 1, { tokens: [] });
  });
});

describe("a core refuses", () => {
  test("a structure of which only a part can be had, and keeps nothing of it", async () => {
    const { core, cache } = await setUp();
    core.scheduler({ cache, vocabSize: 9, maxRequests: 4, tokenCapacity: 1024, hostTier: { blocks: 4 } });
    const tiered = { vocabSize: 9, maxRequests: 4, tokenCapacity: 1024, hostTier: { blocks: 4 } };
    refused(
      core,
      () => core.scheduler({ ...tiered, cache }),
      "INVALID_ARGUMENT",
      /hostTier .* another scheduler/,
    );

    const small = await Core.create({ maximumBytes: 2 ** 21 });
    const own = small.kvCache({ blocks: 8, blockSize: 4, maxSequences: 4, maxSequenceTokens: 64 });
    const much = { cache: own, vocabSize: 9, maxRequests: 2048, tokenCapacity: 1024 };
    refused(
      small,
      () => small.scheduler({ ...much, maxDraftTokens: 256 }),
      "OUT_OF_MEMORY",
      /maxDraftTokens/,
    );
    refused(
      small,
      () => small.scheduler({ ...much, hostTier: { blocks: 2 ** 20 } }),
      "OUT_OF_MEMORY",
      /hostTier/,
    );
    assert.equal(small.schedulers.length, 0);
    const scheduler = small.scheduler(much);
    const again = await Core.restore(small.snapshot());
    assert.equal(again.schedulers.length, 1, "a restored core has what the other has");
    scheduler.submit({ tokens: [1], maxNewTokens: 1 });
    small.validate();
  });

  test("shapes out of range", async () => {
    const { core, cache } = await setUp();
    const scheduler = (options: object) => () =>
      core.scheduler({ cache, vocabSize: 10, ...options } as never);
    const cases: [run: () => unknown, names: RegExp][] = [
      [() => core.kvCache({ blocks: 0 }), /blocks is 0/],
      [() => core.kvCache({ blocks: 1.5 }), /blocks is 1\.5/],
      [() => core.kvCache({ blocks: 8, blockSize: 12 }), /blockSize is 12/],
      [() => core.kvCache({ blocks: 8, blockSize: 512 }), /blockSize is 512/],
      [() => core.kvCache({ blocks: 8, maxSequences: 0 }), /maxSequences is 0/],
      [() => core.kvCache({ blocks: 8, maxSequenceTokens: 2 ** 25 }), /maxSequenceTokens/],
      [() => core.kvCache({ blocks: 8, keyBits: 65 }), /keyBits is 65/],
      [() => core.kvCache(undefined as never), /options/],
      [scheduler({ vocabSize: 0 }), /vocabSize is 0/],
      [scheduler({ maxRunning: 5 }), /maxRunning is 5/],
      [scheduler({ maxBatchTokens: 2, maxRunning: 3 }), /maxRunning is 3/],
      [scheduler({ policy: "random" }), /policy is "random"/],
      [scheduler({ queueTimeoutUs: NaN }), /queueTimeoutUs is NaN/],
      [scheduler({ watermarkBlocks: 9 }), /watermarkBlocks is 9/],
      [scheduler({ agingTokens: 0 }), /agingTokens is 0/],
      [scheduler({ agingTokens: 257 }), /agingTokens is 257/],
      [scheduler({ tenants: 4097 }), /tenants is 4097/],
      [scheduler({ inputWeight: -1 }), /inputWeight is -1/],
      [scheduler({ outputWeight: NaN }), /outputWeight is NaN/],
      [scheduler({ outputWeight: 2 ** 21 }), /outputWeight is 2097152/],
      [() => core.kvCache({ blocks: 8, evictionOrder: "oldest" as never }), /evictionOrder is "oldest"/],
      [() => core.kvCache({ blocks: 8, evictionOrder: { kind: "lru", history: 3 } }), /history is 3/],
      [() => core.kvCache({ blocks: 8, evictionOrder: { kind: "gdsf", baseCost: -1 } }), /baseCost is -1/],
      [
        () => core.kvCache({ blocks: 8, evictionOrder: { kind: "lfu", depthCost: 1 } }),
        /costs only with gdsf/,
      ],
      [() => core.kvCache({ blocks: 8, retainBlocks: 9 }), /retainBlocks is 9/],
      [() => core.pageSet({ slots: 0, pages: 3 }), /slots is 0/],
      [() => core.pageSet({ slots: 2, pages: 2 ** 27 }), /pages is 134217728/],
      [() => core.pageSet({ slots: 2, pages: 3, evictionOrder: "scored" }), /evictionOrder is "scored"/],
      [scheduler({ cache: {} }), /cache/],
      [() => core.orderedIndex({ capacity: 0 }), /capacity is 0/],
      [() => core.orderedIndex({ capacity: 8, valueBytes: 2 as never }), /valueBytes is 2/],
      [() => core.orderedIndex({ capacity: 8, nodeBytes: 100 }), /nodeBytes is 100/],
    ];
    for (const [run, names] of cases) refused(core, run, "INVALID_ARGUMENT", names);
  });

  test("to tell an eviction order what it does not take", async () => {
    const { core, cache } = await setUp();
    const sequence = cache.open({ tokens: [1, 2] });
    refused(core, () => cache.score(sequence, [1]), "UNSUPPORTED", /scores need evictionOrder "scored"/);
    refused(core, () => cache.advise(sequence, "keep"), "UNSUPPORTED", /advice needs an evictionOrder of/);
    refused(core, () => cache.prioritize(sequence, {}), "UNSUPPORTED", /priorities need evictionOrder/);
    const shape = { blocks: 8, blockSize: 4, maxSequences: 2, maxSequenceTokens: 32 };
    const scored = core.kvCache({ ...shape, evictionOrder: "scored" });
    const scoredSequence = scored.open({ tokens: [1] });
    refused(core, () => scored.score(scoredSequence, [1, NaN]), "INVALID_ARGUMENT", /scores\[1\] is NaN/);
    refused(core, () => scored.score(77, [1]), "UNKNOWN_SEQUENCE", /sequence 77/);
    const ranked = core.kvCache({ ...shape, evictionOrder: "priority" });
    const rankedSequence = ranked.open({ tokens: [1] });
    refused(
      core,
      () => ranked.prioritize(rankedSequence, { priority: 101 }),
      "INVALID_ARGUMENT",
      /priority is 101/,
    );
    refused(
      core,
      () => ranked.prioritize(rankedSequence, { liveUntilUs: -1 }),
      "INVALID_TIME",
      /liveUntilUs is -1/,
    );
    refused(core, () => ranked.advance(NaN), "INVALID_TIME", /nowUs is NaN/);
    const pages = core.pageSet({ slots: 2, pages: 5, evictionOrder: "mark0" });
    refused(core, () => pages.request(5), "INVALID_ARGUMENT", /page is 5/);
    refused(core, () => pages.request(1, 2 as never), "INVALID_ARGUMENT", /advice is 2/);
    refused(core, () => pages.run([1, 9]), "INVALID_ARGUMENT", /pages\[1\] is 9/);
    refused(core, () => pages.run([1], []), "INVALID_ARGUMENT", /advice is 0/);
  });

  test("keys and values out of range", async () => {
    const { core } = await setUp();
    const index = core.orderedIndex({ capacity: 100, valueBytes: 4 });
    refused(core, () => index.set(0n, 1n), "INVALID_ARGUMENT", /key is 0n/);
    refused(core, () => index.set((1n << 64n) - 1n, 1n), "INVALID_ARGUMENT", /key is/);
    refused(core, () => index.set(5 as never, 1n), "INVALID_ARGUMENT", /key is 5/);
    refused(core, () => index.set(5n, 1n << 32n), "INVALID_ARGUMENT", /value is/);
    refused(core, () => index.compareExchange(5n, 1n, 2n), "NOT_FOUND", /compareExchange/);
    refused(core, () => index.fetchAdd(5n, 1n), "NOT_FOUND", /key 5/);
  });

  test("to grow past its limit, and then works on", async () => {
    const core = await Core.create({ maximumBytes: 1 << 20 });
    refused(core, () => core.kvCache({ blocks: 100_000 }), "OUT_OF_MEMORY", /kvCache needs \d+ bytes/);
    core.kvCache({ blocks: 64, maxSequences: 4, maxSequenceTokens: 64 });
  });

  test("snapshots that are damaged, cut short or of another version", async () => {
    const { core } = await setUp();
    const good = core.snapshot();
    const damaged = (change: (bytes: Uint8Array) => Uint8Array | void): Uint8Array => {
      const bytes = good.slice();
      return change(bytes) ?? bytes;
    };
    const guard = core.exports.coreTop() - 8;
    for (const bytes of [
      new Uint8Array(10),
      new Uint8Array(100_000),
      damaged((b) => b.subarray(0, b.length - 64)),
      damaged((b) => void (b[64] ^= 1)),
      damaged((b) => void (b[72] += 1)),
      damaged((b) => void (b[guard] ^= 1)),
    ]) {
      await assert.rejects(Core.restore(bytes), { code: "BAD_SNAPSHOT" });
    }
    (await Core.restore(good)).validate();
  });

  test("every call after close", async () => {
    const { core, cache, scheduler } = await setUp();
    const sequence = cache.open({ tokens: [1] });
    core.close();
    core.close();
    for (const run of [
      () => cache.open({ tokens: [1] }),
      () => cache.close(sequence),
      () => cache.blockTable(sequence),
      () => scheduler.step(1),
      () => core.kvCache({ blocks: 4 }),
      () => core.snapshot(),
    ]) {
      assert.throws(run, { code: "CLOSED" });
    }
  });

  test("every call after it trapped", async () => {
    const { core, cache } = await setUp();
    const sequence = cache.open({ tokens: [1] });
    cache.reserve(sequence, 1);
    // The table now names a block far outside the memory: an invariant no call can break.
    cache.blockTable(sequence)[0] = 2 ** 26;
    assert.throws(() => cache.close(sequence), { code: "POISONED" });
    assert.throws(() => cache.open({ tokens: [1] }), { code: "POISONED" });
    assert.throws(() => core.snapshot(), { code: "POISONED" });
  });

  test("to call a broken structure valid", async () => {
    const { core, cache } = await setUp();
    new Uint32Array(core.memory.buffer, cache.pointer)[22] += 1;
    assert.throws(() => core.validate(), { code: "CORRUPT" });
  });

  test("builds it does not know", async () => {
    await assert.rejects(Core.create({ build: "fast" as never }), { code: "INVALID_ARGUMENT" });
    await assert.rejects(Core.create({ seed: -1 }), { code: "INVALID_ARGUMENT" });
    await assert.rejects(Core.create({ maximumBytes: 5 }), { code: "INVALID_ARGUMENT" });
  });
});

test("what is no list, no object, no event is refused by name wherever one is asked for", async () => {
  const { core } = await setUp();
  const pool = core.keyedPool({ blocks: 4 });
  const pages = core.pageSet({ slots: 2, pages: 4 });
  const content = { domainKey: new Uint8Array(32), fingerprint: new Uint8Array(32) };
  const events = core.kvCache({ blocks: 4, blockSize: 4, contentKeys: content, events: true }).events();
  const memory = new MemoryTier({ capacityBytes: 1000 });
  const query = { runs: [], links: new Map(), promptTokens: 10, recomputeUs: (): number => 0 };
  const before = stateOf(core);
  const calls: readonly [RegExp, (wrong: never) => unknown][] = [
    [/touch/, (wrong) => pool.allocate(1, wrong)],
    [/touch/, (wrong) => pool.fits(1, wrong)],
    [/blocks/, (wrong) => pool.release(wrong)],
    [/blocks/, (wrong) => pool.enterKeys(0, wrong, new Uint8Array(32))],
    [/keys/, (wrong) => pool.find(0, wrong)],
    [/blocks/, (wrong) => pool.dropKeys(wrong)],
    [/pages/, (wrong) => pages.run(wrong)],
    [/event/, (wrong) => events.tell(wrong)],
    [/type/, (wrong) => events.tell({ type: wrong } as never)],
    [/keys/, (wrong) => events.tell({ type: "removed", keys: wrong, medium: "CPU" })],
    [/keys/, (wrong) => memory.match(wrong)],
    [/query/, (wrong) => planLoad(wrong)],
    [/runs/, (wrong) => planLoad({ ...query, runs: wrong })],
    [/runs\[0\]/, (wrong) => planLoad({ ...query, runs: [wrong] })],
    [/links/, (wrong) => planLoad({ ...query, links: wrong })],
    [/promptTokens/, (wrong) => planLoad({ ...query, promptTokens: wrong })],
    [/recomputeUs/, (wrong) => planLoad({ ...query, recomputeUs: wrong })],
  ];
  for (const wrong of [null, "text", 7, NaN, () => [], Symbol("no list")])
    for (const [names, run] of calls) {
      if (names.source === "promptTokens" && wrong === 7) continue;
      if (names.source === "recomputeUs" && typeof wrong === "function") continue;
      refused(core, () => run(wrong as never), "INVALID_ARGUMENT", names);
    }
  assert.deepEqual(stateOf(core), before);
});

/**
 * KV events: who applies all batches knows exactly what is cached, whatever happened in between; who has missed some is
 * told so and gets a snapshot.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { MapCache } from "../../bench/peer/map-cache.js";
import {
  type Build,
  Core,
  encodeKvEvents,
  type KvCache,
  type KvCacheOptions,
  type KvEventBatch,
  KvEventLog,
  type KvStored,
  NO_BLOCK,
} from "../../bindings/main.js";
import { type Packable, packMessage } from "../../bindings/msgpack.js";
import { CacheHarness } from "../support/cache-harness.js";
import { EventMirror } from "../support/event-mirror.js";
import { GroupHarness, randomShape } from "../support/group-harness.js";
import { GroupModel } from "../support/group-model.js";
import { long } from "../support/long.js";
import { type Unpacked, unpack } from "../support/naive-msgpack.js";
import { Random } from "../support/random.js";

const SHAPE = { blocks: 24, blockSize: 4, maxSequences: 9, maxSequenceTokens: 48 };
const contentKeys = { domainKey: new Uint8Array(32), fingerprint: new Uint8Array(32).fill(1) };

async function cacheWith(options: Partial<KvCacheOptions> = {}, build: Build = "core"): Promise<KvCache> {
  const core = await Core.create({ build, seed: 3 });
  return core.kvCache({ ...SHAPE, contentKeys, events: true, ...options });
}

function fill(cache: KvCache, tokens: readonly number[], namespace = 0): number {
  const sequence = cache.open({ tokens, namespace });
  const rest = tokens.slice(cache.length(sequence));
  cache.reserve(sequence, rest.length);
  cache.append(sequence, rest);
  return sequence;
}

const upTo = (count: number, from = 0): number[] => Array.from({ length: count }, (_, i) => from + i);
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

/** Random calls, read at random moments through a ring of so many entries; returns gaps and operations. */
async function mirrored(build: Build, seed: number, operations: number, ring: number): Promise<number> {
  const random = new Random(seed);
  const retainBlocks = random.below(2) === 0 ? 24 : 10;
  const core = await Core.create({ build, seed: seed >>> 0 });
  const cache = core.kvCache({ ...SHAPE, contentKeys, events: { ring }, retainBlocks });
  const model = new MapCache({ ...SHAPE, retainBlocks });
  const harness = new CacheHarness(cache, model, random);
  const log = new KvEventLog(cache.events({ instance: "a", epoch: 5 }), 20);
  const mirror = new EventMirror();
  let gaps = 0;
  for (let i = 0; i < operations; i++) {
    harness.step();
    const chance = random.below(8);
    if (chance > 1) continue;
    // Now and then it is away for a while, and asks for what it has missed.
    const batches = chance === 0 ? log.poll(i) : (log.poll(i), log.since(5, mirror.seq, i));
    if (chance === 0 && mirror.seq < (batches[0]?.seq ?? 0)) continue;
    for (const batch of batches) mirror.apply(encodeKvEvents(batch));
    if (mirror.lost) {
      gaps += 1;
      for (const batch of log.since(5, mirror.seq, i)) mirror.apply(encodeKvEvents(batch));
    }
    assert.deepEqual(mirror.sorted, model.cachedPrefixes());
  }
  return gaps;
}

const OPERATIONS = long ? 1_000_000 : 100_000;
const RINGS = [1, 2, 5, 16, 64, 4096];
/** Lives in which rings of one and two entries are full a dozen times: how many gaps random ones have varies. */
const FORGETFUL = [1, 12, 14, 15, 17, 19].map((factor): [seed: number] => [7919 * factor]);

test(`${OPERATIONS} random operations: a mirror of the events is the index, over gaps and snapshots`, async () => {
  let gaps = 0;
  const runs = OPERATIONS / 1000;
  // Each ring as often: how many of them are small decides how many gaps there are.
  for (const ring of RINGS)
    await fc.assert(
      fc.asyncProperty(fc.integer(), async (seed) => {
        gaps += await mirrored("core", seed, 1000, ring);
      }),
      { numRuns: Math.ceil(runs / RINGS.length), examples: FORGETFUL },
    );
  assert.ok(gaps > runs, `small rings were full: ${gaps} times`);
});
for (const build of ["core-scalar", "core-threads", "debug"] satisfies Build[])
  test(`${build}: a mirror of the events is the index`, async () => {
    for (const ring of [3, 4096]) await mirrored(build, 7, 400, ring);
  });

test("a consumer that knows only vLLM's events is right again after a gap", async () => {
  const cache = await cacheWith({ events: { ring: 2 } });
  const events = cache.events();
  const known = new Set<string>();
  const apply = (batch: KvEventBatch): void => {
    for (const event of unpackBatch(encodeKvEvents(batch, { extended: false }))) {
      const type = event.get("type");
      const keys = ((event.get("block_hashes") ?? []) as Uint8Array[]).map(hex);
      if (type === "BlockStored") keys.forEach((key) => known.add(key));
      else if (type === "BlockRemoved") keys.forEach((key) => known.delete(key));
      else if (type === "AllBlocksCleared") known.clear();
      else assert.fail(`vLLM has no ${String(type)}`);
    }
  };
  for (let i = 0; i < 6; i++) cache.close(fill(cache, upTo(30, 100 * i)));
  for (const batch of events) {
    apply(batch);
    if (batch.events.some(({ type }) => type === "gap")) apply(events.snapshot());
  }
  assert.equal(known.size, cache.stats().cached);
});

function unpackBatch(bytes: Uint8Array): Map<string, Unpacked>[] {
  return (unpack(bytes) as Unpacked[])[1] as Map<string, Unpacked>[];
}

test("nothing is told before its data is there: reserving says nothing, a full block is stored once appended", async () => {
  const cache = await cacheWith();
  const events = cache.events();
  const sequence = cache.open({ tokens: [] });
  cache.reserve(sequence, 12);
  assert.equal(events.read(), undefined);
  cache.append(sequence, [1, 2, 3]);
  assert.equal(events.read(), undefined, "not full");
  cache.append(sequence, [4, 5, 6, 7, 8, 9]);
  const [stored] = events.read()!.events as KvStored[];
  assert.deepEqual([...stored.tokenIds], [1, 2, 3, 4, 5, 6, 7, 8]);
  assert.deepEqual(stored.keys.map(hex).join(""), hex(cache.contentKeys(sequence)));
  assert.equal(stored.parentKey, null);
  cache.append(sequence, [10, 11, 12]);
  const [next] = events.read()!.events as KvStored[];
  assert.equal(hex(next.parentKey!), hex(stored.keys[1]));
  assert.equal(events.read(), undefined);
});

test("each way out of the cache is told: evicted, above what is retained, forgotten; all of them at once are cleared", async () => {
  const types = (batch: KvEventBatch | undefined): [type: string, keys: number][] =>
    (batch?.events ?? []).map((event) => [event.type, "keys" in event ? event.keys.length : 0]);
  const cache = await cacheWith();
  const events = cache.events();
  const held = fill(cache, upTo(8));
  cache.close(fill(cache, upTo(40, 100)));
  assert.deepEqual(types(events.read()), [
    ["stored", 2],
    ["stored", 10],
  ]);
  const big = cache.open({ tokens: [], private: true });
  cache.reserve(big, 48);
  const bigger = cache.open({ tokens: [], private: true });
  cache.reserve(bigger, 16);
  assert.deepEqual(types(events.read()), [["removed", 4]], "evicted");
  cache.close(big);
  cache.close(bigger);
  cache.core.exports.kvRetain(cache.pointer, 5);
  assert.deepEqual(types(events.read()), [["removed", 1]], "not retained");
  cache.forget();
  assert.deepEqual(types(events.read()), [["removed", 5]], "forgotten, but for what is held");
  cache.close(held);
  cache.close(fill(cache, upTo(8, 50)));
  cache.forget();
  assert.deepEqual(types(events.read()), [["cleared", 0]]);
  assert.equal(events.read(), undefined);
  cache.core.validate();
});

test("what comes and goes between two reads leaves no trace", async () => {
  const cache = await cacheWith();
  const events = cache.events();
  const held = fill(cache, upTo(4));
  cache.close(fill(cache, upTo(12, 50)));
  cache.forget();
  const batch = events.read()!;
  assert.deepEqual(
    batch.events.map((event) => event.type),
    ["stored"],
  );
  assert.equal((batch.events[0] as KvStored).keys.length, 1);
  cache.close(held);
});

test("a restored core is another epoch, and says so with a gap", async () => {
  const cache = await cacheWith();
  const events = cache.events();
  const mirror = new EventMirror();
  cache.close(fill(cache, upTo(12)));
  for (const batch of events) mirror.apply(encodeKvEvents(batch));
  cache.close(fill(cache, upTo(12, 50)));
  const core = await Core.restore(cache.core.snapshot(), { build: "core-scalar" });
  const [restored] = core.kvCaches;
  const after = restored.events();
  assert.ok(after.epoch > events.epoch);
  restored.forget();
  restored.close(fill(restored, upTo(8, 70)));
  const [batch] = [...after];
  assert.equal(batch.seq, 0);
  mirror.apply(encodeKvEvents(batch));
  assert.ok(mirror.lost);
  mirror.apply(encodeKvEvents(after.snapshot()));
  assert.equal(mirror.prefixes.size, 2);
});

test("a snapshot of more blocks than fit one call has ancestors first, and what was not read yet", async () => {
  const cache = await cacheWith({ blocks: 4096, maxSequenceTokens: 8192, events: { ring: 2 ** 13 } });
  const events = cache.events();
  const mirror = new EventMirror();
  const trunk = upTo(3000);
  for (let i = 0; i < 8; i++)
    cache.close(fill(cache, [...trunk.slice(0, 3000 - 200 * i), ...upTo(700, 5000 + i)]));
  mirror.apply(encodeKvEvents(events.snapshot()));
  assert.equal(mirror.prefixes.size, cache.stats().cached);
  const before = mirror.sorted;
  for (const batch of events) mirror.apply(encodeKvEvents(batch));
  assert.deepEqual(mirror.sorted, before, "batches that the snapshot has are skipped");
  cache.close(fill(cache, upTo(8, 9000)));
  for (const batch of events) mirror.apply(encodeKvEvents(batch));
  assert.equal(mirror.prefixes.size, before.length + 2);
});

test("batches and records have vLLM's fields under its names, in its order, and ours behind them", async () => {
  const cache = await cacheWith({ events: { group: 3 } });
  cache.content!.scope(4, { adapter: "sql", salt: "s" });
  const events = cache.events({ instance: "i", epoch: 9, dataParallelRank: 2, medium: "CPU" });
  const sequence = fill(cache, upTo(9), 4);
  events.tell({ type: "removed", keys: [new Uint8Array(32)], medium: "STORAGE" });
  const batch = events.read(12.5)!;
  const keys = hex(cache.contentKeys(sequence))
    .match(/.{64}/g)!
    .map((key) => Buffer.from(key, "hex"));
  const stored = [
    ["block_hashes", keys.map((key) => new Uint8Array(key))],
    ["parent_block_hash", null],
    ["token_ids", upTo(8)],
    ["block_size", 4],
    ["lora_id", null],
    ["medium", "CPU"],
    ["lora_name", "sql"],
  ];
  const fields = new Map([["type", "BlockStored"], ...stored, ["group_idx", 3]] as [string, Unpacked][]);
  const removed = new Map([
    ["type", "BlockRemoved"],
    ["block_hashes", [new Uint8Array(32)]],
    ["medium", "STORAGE"],
    ["group_idx", 0],
  ] as [string, Unpacked][]);
  assert.deepEqual(unpack(encodeKvEvents(batch, { extended: false })), [12.5, [fields, removed], 2]);
  assert.deepEqual(
    unpack(encodeKvEvents(batch, { batch: "map", extended: false })),
    new Map<string, Unpacked>([
      ["ts", 12.5],
      ["events", [fields, removed]],
      ["data_parallel_rank", 2],
    ]),
  );
  const asArrays = unpack(
    encodeKvEvents(batch, { events: "array", hashes: "u64", specKind: "full_attention", extended: false }),
  );
  const hashes = keys.map((key) => key.readBigUInt64BE(24));
  assert.deepEqual(asArrays, [
    12.5,
    [
      ["BlockStored", hashes, null, upTo(8), 4, null, "CPU", "sql", null, 3, "full_attention"],
      ["BlockRemoved", [0n], "STORAGE", 0],
    ],
    2,
  ]);
  const [, , , instance, epoch, seq] = unpack(encodeKvEvents(batch)) as Unpacked[];
  assert.deepEqual([instance, epoch, seq], ["i", 9, 0]);
});

test("any message is read back by an independent decoder, wherever its parts fall", () => {
  const leaf = fc.oneof(
    fc.constant(null),
    fc.boolean(),
    fc.nat({ max: 2 ** 32 - 1 }),
    fc.string(),
    fc.double({ noNaN: true, noInteger: true }),
    fc.uint8Array({ maxLength: 700 }),
    fc.bigInt({ min: 2n ** 53n, max: 2n ** 64n - 1n }),
  );
  const value = fc.letrec((tie) => ({
    tree: fc.oneof({ depthSize: "small" }, leaf, fc.array(tie("tree"), { maxLength: 40 })),
  })).tree;
  fc.assert(
    fc.property(fc.array(value), (message) => {
      assert.deepEqual(unpack(packMessage(message as Packable[])), message);
    }),
    { numRuns: 300 },
  );
  for (let length = 1010; length < 1040; length++) {
    const words = new Uint32Array(length).fill(2 ** 31);
    assert.deepEqual(unpack(packMessage(["x".repeat(length), 300, words])), [
      "x".repeat(length),
      300,
      [...words],
    ]);
  }
});

test("whole seconds are floats, and long texts, lists and numbers are read back", () => {
  const keys = Array.from({ length: 70_000 }, (_, i) => new Uint8Array(32).fill(i & 255));
  const batch: KvEventBatch = {
    instance: "x".repeat(300),
    epoch: 2 ** 50,
    seq: 70_000,
    ts: 1,
    events: [{ type: "removed", keys, medium: "é", group: 0 }],
  };
  const bytes = encodeKvEvents(batch);
  assert.equal(bytes[1], 0xcb);
  const [ts, [removed], rank, instance, epoch, seq] = unpack(bytes) as [
    number,
    Map<string, Unpacked>[],
    ...Unpacked[],
  ];
  assert.deepEqual([ts, rank, instance, epoch, seq], [1, null, batch.instance, 2n ** 50n, 70_000]);
  assert.deepEqual(removed.get("block_hashes"), keys);
  assert.equal(removed.get("medium"), "é");
});

test("other tiers tell theirs in the same batches, and are in the snapshot", async () => {
  const cache = await cacheWith();
  const events = cache.events();
  const key = new Uint8Array(32).fill(7);
  events.addTier("STORAGE", () => [{ type: "stored", keys: [key], parentKey: null, medium: "STORAGE" }]);
  events.tell({ type: "stored", keys: [key], parentKey: null, medium: "STORAGE" });
  assert.deepEqual([events.seq, events.read()!.events.length, events.seq], [0, 1, 1]);
  assert.equal(events.read(), undefined);
  const media = events.snapshot().events.map((event) => ("medium" in event ? event.medium : event.type));
  assert.deepEqual(media, ["snapshot-begin", "STORAGE", "snapshot-end"]);
  assert.throws(() => events.tell({ type: "removed", keys: [key.slice(1)], medium: "STORAGE" }), {
    code: "INVALID_ARGUMENT",
  });
});

test("refused: events without content keys, empty rings, a snapshot before everything is read", async () => {
  const core = await Core.create();
  const refuse = (options: object): void => {
    assert.throws(() => core.kvCache({ ...SHAPE, ...options }), { code: "INVALID_ARGUMENT" });
  };
  refuse({ events: true });
  refuse({ contentKeys, events: { ring: 0 } });
  refuse({ contentKeys, events: { group: -1 } });
  assert.throws(() => core.kvCache(SHAPE).events(), { code: "UNSUPPORTED" });
  const cache = core.kvCache({ ...SHAPE, contentKeys, events: true });
  const events = cache.events();
  fill(cache, upTo(4));
  assert.equal(core.exports.kvEventsSnapshot(cache.pointer, core.scratch(96), 1, 1), -1);
  assert.throws(() => new KvEventLog(events, 0), { code: "INVALID_ARGUMENT" });
});

test("with groups every group's blocks are told under its number: a mirror of each is what it has cached", async () => {
  let [gaps, twins] = [0, 0];
  await fc.assert(
    fc.asyncProperty(fc.integer(), fc.constantFrom(2, 8, 4096), async (seed, ring) => {
      const random = new Random(seed);
      const { shape, options } = randomShape(random);
      const core = await Core.create({ build: random.below(9) === 0 ? "debug" : "core", seed: seed >>> 0 });
      const cache = core.kvCache({ ...options, contentKeys, events: { ring } });
      const harness = new GroupHarness(cache, new GroupModel(shape), random);
      const log = new KvEventLog(cache.events({ instance: "a", epoch: 5 }), 20);
      const mirror = new EventMirror();
      for (let i = 0; i < 200; i++) {
        harness.operate();
        if (random.below(4) !== 0) continue;
        for (const batch of log.poll(i)) mirror.apply(encodeKvEvents(batch));
        if (mirror.lost || random.below(9) === 0) {
          gaps += Number(mirror.lost);
          mirror.lost = true;
          mirror.apply(encodeKvEvents(log.events.snapshot(i)));
        }
        const names = [...harness.model.cached.keys()].map((name) => name.replace("//", "/")).sort();
        assert.deepEqual(mirror.all, names);
        twins += mirror.all.length - mirror.prefixes.size;
      }
    }),
    { numRuns: long ? 1000 : 80 },
  );
  assert.ok(gaps > 0 && twins > 0, `${gaps} gaps, ${twins} blocks of groups`);
});

test("a group's records name its layers, its block size and its tokens, as vLLM's do; its block has no key of its own", async () => {
  const groups = [{ kind: "window", window: 6, blockSize: 8 }, { kind: "recurrent" }] as const;
  const cache = await cacheWith({ groups, events: { group: 2 } });
  const events = cache.events();
  const sequence = fill(cache, upTo(17));
  const [own, window, state] = unpackBatch(encodeKvEvents(events.read()!)).map((event) => ({
    group: event.get("group_idx"),
    size: event.get("block_size"),
    tokens: event.get("token_ids"),
    kind: event.get("kv_cache_spec_kind"),
    window: event.get("kv_cache_spec_sliding_window"),
    keys: (event.get("block_hashes") as Uint8Array[]).map(hex),
    parent: event.get("parent_block_hash"),
  }));
  const rest = { parent: null };
  const keys = own.keys;
  assert.equal(keys.length, 4);
  assert.deepEqual(own, {
    ...{ group: 2, size: 4, tokens: upTo(16), kind: "full_attention", window: undefined, keys, ...rest },
  });
  assert.deepEqual(window, {
    ...{ group: 3, size: 8, tokens: upTo(16), kind: "sliding_window", window: 6 },
    ...{ keys: [keys[1], keys[3]], ...rest },
  });
  assert.deepEqual(state, {
    ...{ group: 4, size: 4, tokens: upTo(16), kind: "mamba", window: undefined, keys, ...rest },
  });
  for (const group of [1, 2])
    for (const twin of cache.groupTable(sequence, group))
      if (twin !== NO_BLOCK) assert.throws(() => cache.content!.ofBlock(twin), { code: "NOT_FOUND" });
  cache.close(sequence);
  cache.forget();
  assert.deepEqual(
    events.read()!.events.map((event) => [event.type, "group" in event && event.group]),
    [2, 3, 4].map((group) => ["cleared", group]),
  );
});

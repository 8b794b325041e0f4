/**
 * A mirror that knows nothing but the events of a cache has what its tiers have, whatever came, went, was damaged or put out,
 * over gaps, snapshots and restarts.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { MessageChannel } from "node:worker_threads";
import fc from "fast-check";
import { Core, type KvCache } from "../../bindings/main.js";
import {
  DiskTier,
  MemoryTier,
  RemoteTier,
  serveTier,
  tellTier,
  type TierBackend,
} from "../../native-host/executor/main.js";
import { Random } from "../support/random.js";
import { hex, TierMirror } from "../support/tier-mirror.js";

const base = mkdtempSync(join(tmpdir(), "tier-events-"));
after(() => rmSync(base, { recursive: true, force: true }));

const keyOf = (name: string): Uint8Array => createHash("sha256").update(name).digest();

/** Blocks of chains of eight, and those of a window group of twice the block size that end with every second one. */
interface Named {
  readonly key: Uint8Array;
  readonly parent: Uint8Array | undefined;
  readonly group: number;
  /** As events name it. */
  readonly name: string;
  readonly before: string | null;
}

const CHAIN = 8;

function blocksOf(chain: number): Named[] {
  const keys = Array.from({ length: CHAIN }, (_, i) => keyOf(`${chain}/${i}`));
  return keys.flatMap((key, i) => {
    const parent = keys[i - 1];
    const own = { key, parent, group: 0, name: `0/${hex(key)}`, before: parent ? hex(parent) : null };
    if (i % 2 === 0) return [own];
    const name = `1/${hex(key)}`;
    const group = { key: keyOf(`${chain}/${i}/1`), parent: key, group: 1, name };
    return [own, { ...group, before: i > 1 ? hex(keys[i - 2]) : null }];
  });
}

const NAMED = Array.from({ length: 6 }, (_, chain) => blocksOf(chain)).flat();

async function cacheWithEvents(): Promise<KvCache> {
  const core = await Core.create();
  return core.kvCache({
    blocks: 16,
    blockSize: 4,
    maxSequences: 2,
    maxSequenceTokens: 64,
    groups: [{ kind: "window", window: 8, blockSize: 8 }],
    contentKeys: { domainKey: new Uint8Array(32), fingerprint: new Uint8Array(32) },
    events: true,
  });
}

/** A tier and how its content changes from outside. */
interface Kind {
  readonly name: string;
  readonly runs: number;
  readonly medium: string;
  open(): Promise<TierBackend>;
  /** Something happens to what lies below. */
  disturb?(random: Random): void;
  /** The process ends, and another begins. */
  restart?(): Promise<TierBackend>;
  /** What was said has arrived. */
  settled?(): Promise<void>;
  close(): Promise<void>;
}

function inMemory(): Kind {
  const open = async (): Promise<TierBackend> => new MemoryTier({ capacityBytes: 1200 });
  return { name: "in memory", runs: 40, medium: "CPU", open, close: async () => undefined };
}

function onDisk(): Kind {
  let tier: DiskTier | undefined;
  let folder = "";
  const begin = async (): Promise<DiskTier> =>
    (tier = await DiskTier.open(folder, { capacityBytes: 5000, segmentBytes: 4096, fsync: "never" }));
  return {
    name: "on disk",
    runs: 15,
    medium: "STORAGE",
    open: () => {
      folder = mkdtempSync(join(base, "disk-"));
      return begin();
    },
    disturb: (random) => {
      const segments = readdirSync(folder).filter((name) => name.startsWith("segment"));
      // Nothing lies there before the first put, and after all of it was dropped.
      if (segments.length === 0) return;
      const path = join(folder, random.pick(segments));
      const bytes = readFileSync(path);
      if (bytes.length === 0) return;
      bytes[random.below(bytes.length)] ^= 1;
      writeFileSync(path, bytes);
    },
    restart: async () => {
      await tier!.close();
      return begin();
    },
    close: async () => {
      const numbers = readdirSync(folder).flatMap((name) => /^segment\D*(\d+)/.exec(name)?.[1] ?? []);
      if (numbers.length > 0) totals.dropped += Math.max(...numbers.map(Number)) + 1 - numbers.length;
      await tier!.close();
    },
  };
}

function behindAChannel(): Kind {
  let channel: MessageChannel | undefined;
  let remote: RemoteTier | undefined;
  return {
    name: "behind a channel",
    runs: 15,
    medium: "REMOTE",
    open: async () => {
      channel = new MessageChannel();
      const tier = new MemoryTier({ capacityBytes: 1200 });
      serveTier(channel.port1, tier);
      // Some of it is there before anybody listens.
      for (const { key, parent, group } of blocksOf(0))
        await tier.put(key, new Uint8Array(50), { parent, group });
      return (remote = new RemoteTier(channel.port2));
    },
    // An answer comes behind everything that was said before it.
    settled: async () => void (await remote!.stat()),
    close: async () => {
      remote!.close();
      channel!.port1.close();
    },
  };
}

const totals = { evictions: 0, corrupt: 0, dropped: 0, snapshots: 0 };

async function compare(mirror: TierMirror, tier: TierBackend, { medium, settled }: Kind): Promise<void> {
  // What is found damaged while it is read goes, and is told.
  const there: Named[] = [];
  for (const named of NAMED) if ((await tier.get(named.key)) !== undefined) there.push(named);
  await settled?.();
  mirror.follow();
  const mirrored = mirror.of(medium);
  assert.deepEqual([...mirrored.keys()].sort(), there.map(({ name }) => name).sort());
  const { blocks, orphans } = await tier.stat();
  assert.equal(blocks, mirrored.size);
  for (const { name, group, before } of there) if (group === 0) assert.equal(mirrored.get(name), before);
  if (orphans > 0) return;
  // A group's block is named with its beginning when the blocks that it stands on are known.
  mirror.snapshot();
  for (const { name, before } of there) assert.equal(mirror.of(medium).get(name), before);
}

async function run(kind: Kind, seed: number): Promise<void> {
  const random = new Random(seed);
  const cache = await cacheWithEvents();
  const events = cache.events();
  const mirror = new TierMirror(events);
  let tier = await kind.open();
  try {
    let stop = tellTier(events, tier, kind.medium);
    for (let step = 0; step < 80; step++) {
      const choice = random.below(40);
      const named = random.pick(NAMED);
      if (choice < 8) {
        for (const { key, parent, group } of blocksOf(random.below(6)).slice(0, 1 + random.below(12)))
          await tier.put(key, new Uint8Array(random.below(90)).fill(step), { parent, group });
      } else if (choice < 26) {
        const { key, parent, group } = named;
        await tier.put(key, new Uint8Array(random.below(90)), { parent, group });
      } else if (choice < 30) await tier.del(named.key);
      else if (choice < 33) await tier.get(named.key);
      else if (choice < 34) kind.disturb?.(random);
      else if (choice < 35) mirror.snapshot();
      else if (choice < 36 && kind.restart !== undefined) {
        const { evictions, corrupt } = await tier.stat();
        totals.evictions += evictions;
        totals.corrupt += corrupt;
        stop();
        tier = await kind.restart();
        stop = tellTier(events, tier, kind.medium);
      } else if (choice < 37) {
        // The cache itself goes on: more than its ring holds now and then.
        const sequence = cache.open({ tokens: [step, step], namespace: random.below(2) });
        cache.reserve(sequence, 8);
        cache.append(
          sequence,
          Array.from({ length: 8 }, () => random.below(3)),
        );
        cache.close(sequence);
      } else await compare(mirror, tier, kind);
    }
    await compare(mirror, tier, kind);
    const { evictions, corrupt } = await tier.stat();
    totals.evictions += evictions;
    totals.corrupt += corrupt;
    totals.snapshots += mirror.snapshots;
    stop();
    mirror.follow();
    assert.equal(mirror.of(kind.medium).size, 0, "whom nobody listens to has nothing");
  } finally {
    await kind.close();
  }
}

for (const make of [inMemory, onDisk, behindAChannel]) {
  const { name, runs } = make();
  test(`${name}: a mirror of the events has what the tier has, through evictions, damage, restarts and snapshots`, async () => {
    Object.assign(totals, { evictions: 0, corrupt: 0, dropped: 0, snapshots: 0 });
    await fc.assert(
      fc.asyncProperty(fc.integer(), (seed) => run(make(), seed)),
      { numRuns: runs },
    );
    assert.ok(totals.evictions > 100, `${totals.evictions} evictions`);
    assert.ok(totals.snapshots > 5, `${totals.snapshots} snapshots`);
    if (name !== "on disk") return;
    assert.ok(totals.corrupt > 3, `${totals.corrupt} damaged blocks`);
    assert.ok(totals.dropped > 10, `${totals.dropped} files were rewritten and dropped`);
  });
}

test("more events than are kept between two reads are a gap, and the snapshot has the tier", async () => {
  const cache = await cacheWithEvents();
  const events = cache.events();
  const mirror = new TierMirror(events);
  const tier = new MemoryTier({ capacityBytes: 10 * 50 });
  tellTier(events, tier, "CPU");
  for (let i = 0; i < 40_000; i++) await tier.put(keyOf(`many ${i}`), new Uint8Array(50));
  mirror.follow();
  assert.equal(mirror.snapshots, 1);
  assert.equal(mirror.of("CPU").size, 10);
});

test("when the channel closes nothing is there any more; a tier that does not say what it has is refused", async () => {
  const cache = await cacheWithEvents();
  const events = cache.events();
  const mirror = new TierMirror(events);
  const { port1, port2 } = new MessageChannel();
  const tier = new MemoryTier({ capacityBytes: 1000 });
  serveTier(port1, tier);
  const remote = new RemoteTier(port2);
  tellTier(events, remote, "REMOTE");
  await remote.put(keyOf("a"), new Uint8Array(5));
  mirror.follow();
  assert.equal(mirror.of("REMOTE").size, 1);
  const closed = new Promise((resolve) => port2.on("close", resolve));
  port1.close();
  await closed;
  mirror.follow();
  assert.equal(mirror.of("REMOTE").size, 0);
  const silent: TierBackend = {
    put: (...block) => tier.put(...block),
    get: (key) => tier.get(key),
    del: (key) => tier.del(key),
    match: (keys) => tier.match(keys),
    stat: () => tier.stat(),
  };
  assert.throws(() => tellTier(events, silent, "CPU"), { code: "UNSUPPORTED" });
  assert.throws(() => tellTier(events, tier, ""), { code: "INVALID_ARGUMENT", argument: "medium" });
});

test("in memory the ends of prefixes go before what they stand on", async () => {
  const tier = new MemoryTier({ capacityBytes: 8 * 50 });
  for (const chain of [0, 1])
    for (const { key, parent, group } of blocksOf(chain).filter(({ group }) => group === 0))
      await tier.put(key, new Uint8Array(50), { parent, group });
  const keys = blocksOf(1).flatMap(({ key, group }) => (group === 0 ? [key] : []));
  assert.equal(tier.match(keys), CHAIN, "the older chain has gone");
  await tier.put(keyOf("another"), new Uint8Array(100));
  assert.equal(tier.match(keys), CHAIN - 2);
  assert.equal(tier.stat().orphans, 0);
});

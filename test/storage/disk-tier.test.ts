/** The disk tier against a Map: what is stored, forgotten, moved, refused, and found again. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, test } from "node:test";
import { DiskTier, type DiskTierOptions } from "../../native-host/storage/disk-tier.js";
import { RECORD_OVERHEAD } from "../../native-host/storage/records.js";
import { recover } from "../../native-host/storage/recovery.js";
import { SegmentLog } from "../../native-host/storage/segments.js";
import { Random } from "../support/random.js";

const folders: string[] = [];
const open_: DiskTier[] = [];

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "disk-tier-"));
  folders.push(path);
  return path;
}

async function tierIn(path: string, options: Partial<DiskTierOptions> = {}): Promise<DiskTier> {
  const tier = await DiskTier.open(path, { capacityBytes: 2 ** 30, fsync: "never", ...options });
  open_.push(tier);
  return tier;
}

afterEach(async () => {
  for (const tier of open_.splice(0)) await tier.close().catch(() => undefined);
  for (const path of folders.splice(0)) rmSync(path, { recursive: true, force: true });
});

const keyOf = (name: string | number): Buffer => createHash("sha256").update(`key ${name}`).digest();
const payloadOf = (name: string | number, bytes = 50): Buffer => {
  const seed = createHash("sha256").update(`payload ${name}`).digest();
  return Buffer.alloc(bytes, seed);
};

test("what is put is given back by key, with what is known of it, and again after a restart", async () => {
  const path = folder();
  let tier = await tierIn(path);
  assert.equal(await tier.put(keyOf(1), payloadOf(1), { fingerprint: 7, tenant: 9 }), true);
  assert.equal(await tier.put(keyOf(2), payloadOf(2), { parent: keyOf(1), lossy: true }), true);
  assert.equal(await tier.put(keyOf(1), payloadOf(3)), false, "the first stays");
  for (let round = 0; round < 2; round++) {
    assert.deepEqual(await tier.get(keyOf(1)), {
      payload: payloadOf(1),
      parent: undefined,
      fingerprint: 7,
      tenant: 9,
      group: 0,
      lossy: false,
      orphan: false,
    });
    const second = (await tier.get(keyOf(2)))!;
    assert.deepEqual(second.payload, payloadOf(2));
    assert.deepEqual(second.parent, keyOf(1));
    assert.equal(second.lossy, true);
    assert.equal(await tier.get(keyOf(3)), undefined);
    assert.equal(tier.match([keyOf(1), keyOf(2)]), 1, "lossy ones only if asked for");
    assert.equal(tier.match([keyOf(1), keyOf(2), keyOf(3)], { lossy: true }), 2);
    await tier.close();
    tier = await tierIn(path);
  }
  assert.equal(tier.recovery.checkpoint, 2);
  assert.equal(tier.recovery.scannedRecords, 0);
});

test("files are scanned in windows of any size, and what is found is the same", async () => {
  const path = folder();
  const tier = await tierIn(path, { segmentBytes: 2 ** 20 });
  const random = new Random(5);
  for (let i = 0; i < 120; i++) {
    const bytes = i % 40 === 7 ? 700_000 : random.below(9_000);
    await tier.put(keyOf(i), payloadOf(i, bytes), i % 5 === 0 ? {} : { parent: keyOf(i - 1) });
    if (i % 11 === 3) await tier.del(keyOf(i - 3));
    if (i % 13 === 5) await tier.put(keyOf(i - 5), payloadOf(i, 9));
  }
  await tier.close();
  for (const name of readdirSync(path)) if (name.startsWith("checkpoint")) rmSync(join(path, name));
  const last = readdirSync(path)
    .filter((name) => name.startsWith("segment"))
    .sort()
    .at(-1)!;
  const whole = readFileSync(join(path, last));
  for (const cut of [0, 1, 60, 5_000]) {
    writeFileSync(join(path, last), whole.subarray(0, whole.length - cut));
    const found = [];
    for (const window of [97, 1_000, 4_096, 300_000, 2 ** 20, 2 ** 26]) {
      const log = await SegmentLog.open(path, 2 ** 20, false);
      const { index, report } = await recover(path, log, window);
      found.push({ report, entries: [...index.entries()], orphans: index.orphans, bytes: index.liveBytes });
    }
    assert.equal(found[0].report.tornSegments, Math.min(cut, 1));
    assert.ok(found[0].report.scannedRecords > 120);
    for (const other of found) assert.deepEqual(other, found[0]);
  }
});

test("random puts, gets, deletions and restarts agree with a Map", async () => {
  const path = folder();
  const random = new Random(5);
  const options = { segmentBytes: 4096, checkpointBytes: 20_000, capacityBytes: 1 << 20 };
  let tier = await tierIn(path, options);
  const model = new Map<number, number>();
  for (let step = 0; step < 4000; step++) {
    const name = random.below(120);
    switch (random.below(5)) {
      case 0:
      case 1: {
        const bytes = random.below(200);
        const stored = await tier.put(keyOf(name), payloadOf(name, bytes));
        assert.equal(stored, !model.has(name));
        if (stored) model.set(name, bytes);
        break;
      }
      case 2:
        assert.equal(await tier.del(keyOf(name)), model.delete(name));
        break;
      default: {
        const bytes = model.get(name);
        const found = await tier.get(keyOf(name));
        assert.deepEqual(found?.payload, bytes === undefined ? undefined : payloadOf(name, bytes));
      }
    }
    if (step % 400 === 399) {
      await tier.close();
      tier = await tierIn(path, options);
      assert.equal(tier.stat().blocks, model.size);
    }
  }
  const { liveBytes, usedBytes, evictions, corrupt } = tier.stat();
  assert.equal(
    liveBytes,
    [...model.values()].reduce((sum, bytes) => sum + bytes + RECORD_OVERHEAD, 0),
  );
  assert.ok(usedBytes <= liveBytes / 0.4 + 3 * 4096, "files in which little is live are rewritten");
  assert.equal(evictions + corrupt, 0);
});

test("at capacity the least recently used prefix goes, its end first, and capacity is checked again after a restart", async () => {
  const path = folder();
  const record = 50 + RECORD_OVERHEAD;
  let tier = await tierIn(path, { capacityBytes: 6 * record });
  // Two prefixes of three blocks.
  for (const prefix of ["a", "b"])
    for (let i = 0; i < 3; i++)
      await tier.put(
        keyOf(prefix + i),
        payloadOf(prefix + i),
        i > 0 ? { parent: keyOf(`${prefix}${i - 1}`) } : {},
      );
  for (let i = 0; i < 3; i++) await tier.get(keyOf(`a${i}`));
  await tier.put(keyOf("c0"), payloadOf("c0"));
  const match = (prefix: string): number => tier.match([0, 1, 2].map((i) => keyOf(prefix + i)));
  assert.deepEqual([match("a"), match("b"), match("c")], [3, 2, 1]);
  await tier.put(keyOf("c1"), payloadOf("c1"), { parent: keyOf("c0") });
  assert.deepEqual([match("a"), match("b"), match("c")], [3, 1, 2]);
  assert.equal(tier.stat().evictions, 2);
  assert.equal(tier.stat().liveBytes, 6 * record);
  await tier.close();
  tier = await tierIn(path, { capacityBytes: 3 * record });
  assert.ok(tier.stat().liveBytes <= 3 * record);
  assert.equal(tier.stat().orphans, 0, "tails first: nothing is left without what stands before it");
});

test("a block whose parent is gone is an orphan, and none when the parent comes back", async () => {
  const path = folder();
  let tier = await tierIn(path);
  const chain = [0, 1, 2, 3].map((i) => keyOf(i));
  for (let i = 0; i < 4; i++) await tier.put(chain[i], payloadOf(i), i > 0 ? { parent: chain[i - 1] } : {});
  await tier.del(chain[1]);
  for (let round = 0; round < 2; round++) {
    assert.equal(tier.match(chain), 1);
    assert.equal(tier.stat().orphans, 2);
    assert.equal((await tier.get(chain[3]))!.orphan, true, "kept, for reuse as a chunk");
    await tier.close();
    tier = await tierIn(path);
  }
  await tier.put(chain[1], payloadOf(1), { parent: chain[0] });
  assert.equal(tier.match(chain), 4);
  assert.equal(tier.stat().orphans, 0);
});

test("parents that go round in a circle are orphans all, whatever the log says", async () => {
  const path = folder();
  let tier = await tierIn(path, { capacityBytes: 3 * (50 + RECORD_OVERHEAD) });
  await tier.put(keyOf(1), payloadOf(1), { parent: keyOf(2) });
  await tier.put(keyOf(2), payloadOf(2), { parent: keyOf(1) });
  assert.equal(tier.match([keyOf(1)]), 0);
  await tier.close();
  tier = await tierIn(path, { capacityBytes: 3 * (50 + RECORD_OVERHEAD) });
  assert.equal(tier.stat().orphans, 2);
  await tier.put(keyOf(3), payloadOf(3));
  await tier.put(keyOf(4), payloadOf(4));
  assert.ok(tier.stat().blocks <= 3, "they can be evicted");
});

test("a damaged block is not given, is counted, and its followers are no prefix any more", async () => {
  const path = folder();
  const tier = await tierIn(path);
  await tier.put(keyOf(1), payloadOf(1));
  await tier.put(keyOf(2), payloadOf(2), { parent: keyOf(1) });
  const file = join(
    path,
    readdirSync(path).find((name) => name.startsWith("segment"))!,
  );
  const bytes = readFileSync(file);
  bytes[100] ^= 1;
  writeFileSync(file, bytes);
  assert.equal(await tier.get(keyOf(1)), undefined);
  assert.equal(tier.match([keyOf(1)]), 0);
  assert.equal((await tier.get(keyOf(2)))!.orphan, true);
  assert.deepEqual([tier.stat().corrupt, tier.stat().blocks], [1, 1]);
});

test("a full device stops the writing, not the serving", async () => {
  const path = folder();
  let full = false;
  const tier = await tierIn(path, {
    write: async (handle, bytes, position) => {
      if (full) {
        await handle.write(bytes.subarray(0, bytes.length >> 1), 0, bytes.length >> 1, position);
        throw Object.assign(new Error("no space left on device"), { code: "ENOSPC" });
      }
      await handle.write(bytes, 0, bytes.length, position);
    },
  });
  await tier.put(keyOf(1), payloadOf(1));
  full = true;
  await assert.rejects(tier.put(keyOf(2), payloadOf(2)), { code: "DISK_FULL" });
  assert.deepEqual((await tier.get(keyOf(1)))!.payload, payloadOf(1));
  assert.equal(await tier.get(keyOf(2)), undefined);
  assert.equal(tier.stat().failedWrites, 1);
  full = false;
  assert.equal(await tier.put(keyOf(2), payloadOf(2)), true, "and goes on when there is room again");
  await tier.close();
  const again = await tierIn(path);
  assert.equal(again.stat().blocks, 2);
});

test("a directory has one process at a time; what a dead one has left is taken over", async () => {
  const path = folder();
  const tier = await tierIn(path);
  await assert.rejects(DiskTier.open(path, { capacityBytes: 2 ** 20 }), { code: "BUSY" });
  await tier.close();
  writeFileSync(join(path, "lock"), "999999999");
  const next = await tierIn(path);
  await next.put(keyOf(1), payloadOf(1));
  await next.close();
  await assert.rejects(next.get(keyOf(1)), { code: "CLOSED" });
  assert.throws(() => next.put(keyOf(1), payloadOf(1)), { code: "CLOSED" });
});

test("fsync always syncs before a put returns, interval soon, never not at all", async () => {
  const probe = await open(join(folder(), "probe"), "w");
  const prototype = Object.getPrototypeOf(probe) as { datasync: () => Promise<void> };
  await probe.close();
  const { datasync } = prototype;
  let synced = 0;
  prototype.datasync = function (this: unknown) {
    synced += 1;
    return datasync.call(this);
  };
  const waits = (milliseconds: number): Promise<void> =>
    new Promise((resolve) => setTimeout(resolve, milliseconds));
  /** Syncs of five puts and, on request, until `ends` says so after them. */
  const syncsOf = async (
    options: Partial<DiskTierOptions>,
    ends?: (turns: number) => boolean,
  ): Promise<number> => {
    const tier = await tierIn(folder(), options);
    synced = 0;
    for (let i = 0; i < 5; i++) await tier.put(keyOf(i), payloadOf(i));
    for (let turns = 0; ends !== undefined && !ends(turns); turns++) await waits(10);
    const count = synced;
    synced = 0;
    await tier.put(keyOf("last"), payloadOf("last"));
    await tier.checkpoint();
    assert.equal(synced > 0, options.fsync !== "never", "a checkpoint names only what is on the device");
    return count;
  };
  try {
    assert.equal(await syncsOf({ fsync: "always" }), 5);
    assert.equal(await syncsOf({ fsync: "interval", fsyncIntervalMs: 2 ** 31 - 1 }), 0, "none for a put");
    // However slow the machine is: the test waits for it, up to half a minute.
    const soon = { fsync: "interval", fsyncIntervalMs: 20 } as const;
    assert.ok((await syncsOf(soon, (turns) => synced > 0 || turns > 3000)) > 0, "interval");
    assert.equal(await syncsOf({ fsync: "never", fsyncIntervalMs: 20 }, (turns) => turns > 10), 0);
  } finally {
    prototype.datasync = datasync;
  }
});

test("files stay below their size, and numbers are never used twice", async () => {
  const path = folder();
  const options = { segmentBytes: 4096, capacityBytes: 5000 };
  for (let round = 0; round < 3; round++) {
    const tier = await tierIn(path, options);
    for (let i = 0; i < 60; i++) await tier.put(keyOf(`${round}/${i}`), payloadOf(i, 300));
    await tier.close();
    const segments = readdirSync(path).filter((name) => name.startsWith("segment"));
    for (const name of segments) assert.ok(statSync(join(path, name)).size <= 4096);
    assert.ok(segments.length <= 6, `${segments.length} files for 5,000 live bytes`);
  }
  const numbers = readdirSync(path).filter((name) => name.startsWith("segment"));
  assert.ok(Number(numbers[0].slice(8)) > 20);
});

test("bad arguments are refused by name and value", async () => {
  const tier = await tierIn(folder(), { capacityBytes: 1000 });
  assert.throws(() => tier.put(new Uint8Array(31), payloadOf(1)), /key is Uint8Array\(31\)/);
  assert.throws(() => tier.put(keyOf(1), "text" as never), /payload is "text"/);
  assert.throws(() => tier.put(keyOf(1), new Uint8Array(1000)), /at most 904 bytes/);
  assert.throws(() => tier.put(keyOf(1), payloadOf(1), { tenant: 65536 }), /tenant is 65536/);
  assert.throws(
    () => tier.put(keyOf(1), payloadOf(1), { parent: new Uint8Array(3) }),
    /parent is Uint8Array\(3\)/,
  );
  await assert.rejects(tier.get(new Uint8Array(0)), { code: "INVALID_ARGUMENT" });
  await assert.rejects(DiskTier.open(folder(), { capacityBytes: 0 }), /capacityBytes is 0/);
  await assert.rejects(
    DiskTier.open(folder(), { capacityBytes: 1e6, fsync: "often" as never }),
    /fsync is "often"/,
  );
});

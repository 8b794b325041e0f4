/** A disk tier of 100,000 blocks after a restart: all are there, with the checkpoint and without. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { DiskTier } from "../../native-host/storage/disk-tier.js";

const BLOCKS = 100_000;
const TOGETHER = 1000;
const READ_EACH = 50;

const keyOf = (i: number): Buffer => createHash("sha256").update(`key ${i}`).digest();
const payloadOf = (i: number): Buffer => Buffer.from(`payload ${i}`.padEnd(48));

test("100,000 blocks come back after a restart, from a checkpoint and from their records alone", async () => {
  const path = mkdtempSync(join(tmpdir(), "disk-tier-"));
  const reopened = (): Promise<DiskTier> => DiskTier.open(path, { capacityBytes: 2 ** 30, fsync: "never" });
  try {
    let tier = await reopened();
    for (let from = 0; from < BLOCKS; from += TOGETHER)
      await Promise.all(
        Array.from({ length: TOGETHER }, (_, i) => tier.put(keyOf(from + i), payloadOf(from + i))),
      );
    await tier.close();
    for (const source of ["checkpoint", "records"]) {
      if (source === "records")
        for (const name of readdirSync(path)) if (name.startsWith("checkpoint")) rmSync(join(path, name));
      tier = await reopened();
      assert.equal(tier.recovery.scannedRecords, source === "checkpoint" ? 0 : BLOCKS);
      for (let i = 0; i < BLOCKS; i += READ_EACH)
        assert.deepEqual((await tier.get(keyOf(i)))?.payload, payloadOf(i));
      for (let i = 0; i < BLOCKS; i++) assert.equal(tier.match([keyOf(i)]), 1);
      assert.equal(tier.match([keyOf(BLOCKS)]), 0);
      await tier.close();
    }
  } finally {
    rmSync(path, { recursive: true, force: true });
  }
});

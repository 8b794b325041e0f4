/**
 * How fast does the disk tier come back, store and give? 100,000 blocks recovered from a checkpoint, and from the records
 * alone; blocks of the size of a 16-token block of a small model stored and read.
 */
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DiskTier } from "../native-host/storage/disk-tier.js";
import { median, type Report } from "./measure.js";

export const title = "recovery of 100,000 blocks, stores and reads of the disk tier";

const PAYLOAD = 1024;
const LARGE = 49152;

const keyOf = (i: number): Buffer => createHash("sha256").update(`block ${i}`).digest();

export async function run(report: Report): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "disk-tier-bench-"));
  try {
    await recovery(report, join(folder, "recovery"), report.quick ? 10_000 : 100_000);
    await transfers(report, join(folder, "transfers"), report.quick ? 200 : 2000);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function recovery(report: Report, path: string, blocks: number): Promise<void> {
  const options = { capacityBytes: 2 ** 40, fsync: "never" } as const;
  const writer = await DiskTier.open(path, options);
  // Prefixes of 50 blocks.
  for (let i = 0; i < blocks; i++)
    await writer.put(keyOf(i), Buffer.alloc(PAYLOAD, i), i % 50 === 0 ? {} : { parent: keyOf(i - 1) });
  await writer.close();
  const timed = async (): Promise<{ ms: number; found: number; scanned: number }> => {
    const start = performance.now();
    const tier = await DiskTier.open(path, options);
    const ms = performance.now() - start;
    const { scannedRecords } = tier.recovery;
    const found = tier.stat().blocks;
    await tier.close();
    return { ms, found, scanned: scannedRecords };
  };
  const name = `${blocks} blocks`;
  const rounds = [await timed(), await timed(), await timed()];
  if (rounds.some(({ found, scanned }) => found !== blocks || scanned !== 0))
    throw new Error("blocks are missing");
  const ms = median(rounds.map((round) => round.ms));
  report.measured(name, "quartermaster", "recovery, checkpoint", ms, "ms");
  report.bar("recovery of 100,000 blocks from a checkpoint, ms", ms, "<", 2000);
  const scans: number[] = [];
  for (let round = 0; round < 3; round++) {
    for (const file of readdirSync(path)) if (file.startsWith("checkpoint")) rmSync(join(path, file));
    const { ms: scan, found, scanned } = await timed();
    if (found !== blocks || scanned !== blocks) throw new Error("blocks are missing");
    scans.push(scan);
  }
  report.measured(name, "quartermaster", "recovery, all records scanned", median(scans), "ms", {
    payload: PAYLOAD,
  });
  report.bar("recovery of 100,000 blocks from their records alone, ms", median(scans), "<", 2000);
}

async function transfers(report: Report, path: string, blocks: number): Promise<void> {
  const payload = Buffer.alloc(LARGE, 7);
  for (const fsync of ["never", "interval", "always"] as const) {
    const count = fsync === "always" ? blocks / 10 : blocks;
    const tier = await DiskTier.open(join(path, fsync), { capacityBytes: 2 ** 40, fsync });
    const start = performance.now();
    for (let i = 0; i < count; i++) await tier.put(keyOf(i), payload);
    const stored = performance.now();
    for (let i = 0; i < count; i++) await tier.get(keyOf(i));
    const read = performance.now();
    const bandwidth = (ms: number): number => (count * LARGE) / 1e3 / ms;
    report.measured(`48 KiB, fsync ${fsync}`, "quartermaster", "store", bandwidth(stored - start), "MB/s");
    report.measured(
      `48 KiB, fsync ${fsync}`,
      "quartermaster",
      "read, verified",
      bandwidth(read - stored),
      "MB/s",
    );
    await tier.close();
  }
}

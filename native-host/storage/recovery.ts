/**
 * Recovery: the index as it was when the process ended, however it ended: the newest checkpoint that is whole, then the
 * records written after it. In each file the scan stops at the first record that is torn or damaged.
 *
 * What it finds was stored once, with the contents that were stored: every scanned record has its checksum, and records
 * that only the checkpoint names are checked when they are read. What was forgotten may be found again; what was stored
 * last may be lost.
 */
import { readFile } from "node:fs/promises";
import { newestCheckpoint } from "./checkpoint.js";
import { DiskIndex } from "./disk-index.js";
import { decodeHeader, keyText, RECORD_OVERHEAD, recordIntact, TOMBSTONE } from "./records.js";
import type { SegmentLog } from "./segments.js";

export interface RecoveryReport {
  /** Number of the checkpoint that was used; undefined: none, all files were scanned. */
  readonly checkpoint: number | undefined;
  readonly scannedRecords: number;
  /** Files whose scan stopped before their end. */
  readonly tornSegments: number;
}

export interface Recovered {
  readonly index: DiskIndex;
  readonly report: RecoveryReport;
}

export async function recover(directory: string, log: SegmentLog): Promise<Recovered> {
  const index = new DiskIndex();
  const checkpoint = await newestCheckpoint(directory);
  log.startAt(checkpoint?.segment ?? 0);
  const sizes = new Map(log.sizes());
  for (const entry of checkpoint?.entries ?? [])
    if (entry.offset + entry.bytes <= (sizes.get(entry.segment) ?? 0)) index.recover(entry.key, entry);
  let scannedRecords = 0;
  let tornSegments = 0;
  for (const segment of sizes.keys()) {
    if (checkpoint !== undefined && segment < checkpoint.segment) continue;
    const bytes = await readFile(log.path(segment));
    const from = segment === checkpoint?.segment ? checkpoint.offset : 0;
    const scan = scanSegment(bytes, segment, from, index);
    scannedRecords += scan.records;
    if (scan.end < bytes.length) tornSegments += 1;
  }
  index.recovered();
  return { index, report: { checkpoint: checkpoint?.number, scannedRecords, tornSegments } };
}

/** Enters the records of one file from `from` on; returns how many, and where they end. */
function scanSegment(
  bytes: Buffer,
  segment: number,
  from: number,
  index: DiskIndex,
): { records: number; end: number } {
  let records = 0;
  let at = from;
  for (;;) {
    const header = decodeHeader(bytes, at);
    if (header === undefined || !recordIntact(bytes, at, header.payloadBytes)) break;
    const length = RECORD_OVERHEAD + header.payloadBytes;
    const key = keyText(header.key);
    if ((header.flags & TOMBSTONE) !== 0) {
      index.recover(key, undefined);
    } else {
      const { fingerprint, tenant, flags, parent } = header;
      const parentText = parent === undefined ? undefined : keyText(parent);
      const entry = {
        key,
        parent: parentText,
        fingerprint,
        tenant,
        flags,
        segment,
        offset: at,
        bytes: length,
      };
      index.recover(key, entry);
    }
    records += 1;
    at += length;
  }
  return { records, end: at };
}

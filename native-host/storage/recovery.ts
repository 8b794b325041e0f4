/**
 * Recovery: the index as it was when the process ended, however it ended: the newest checkpoint that is whole, then the
 * records written after it. In each file the scan stops at the first record that is torn or damaged.
 *
 * What it finds was stored once, with the contents that were stored: every scanned record has its checksum, and records
 * that only the checkpoint names are checked when they are read. What was forgotten may be found again; what was stored
 * last may be lost.
 *
 * Files are read a window at a time, the next one while the last one is checked, into two buffers in turn.
 */
import { type FileHandle, open } from "node:fs/promises";
import { newestCheckpoint } from "./checkpoint.js";
import { TierIndex } from "./tier-index.js";
import { decodeHeader, RECORD_OVERHEAD, recordBytes, recordIntact, TOMBSTONE } from "./records.js";
import type { SegmentLog } from "./segments.js";

/** Bytes that are read at a time. */
const WINDOW = 2 ** 20;
/** Room in front of a window for the beginning of a record that ends in it. */
const ROOM = 2 ** 18;

export interface RecoveryReport {
  /** Number of the checkpoint that was used; undefined: none, all files were scanned. */
  readonly checkpoint: number | undefined;
  readonly scannedRecords: number;
  /** Files whose scan stopped before their end. */
  readonly tornSegments: number;
}

export interface Recovered {
  readonly index: TierIndex;
  readonly report: RecoveryReport;
}

export async function recover(directory: string, log: SegmentLog, window = WINDOW): Promise<Recovered> {
  const index = new TierIndex();
  const checkpoint = await newestCheckpoint(directory);
  log.startAt(checkpoint?.segment ?? 0);
  const sizes = new Map(log.sizes());
  for (const entry of checkpoint?.entries ?? [])
    if (entry.offset + entry.bytes <= (sizes.get(entry.segment) ?? 0)) index.recover(entry.key, entry);
  let scannedRecords = 0;
  let tornSegments = 0;
  for (const [segment, size] of sizes) {
    if (checkpoint !== undefined && segment < checkpoint.segment) continue;
    const from = segment === checkpoint?.segment ? checkpoint.offset : 0;
    const handle = await open(log.path(segment), "r");
    try {
      const scan = await scanSegment(handle, size, segment, from, index, window);
      scannedRecords += scan.records;
      if (scan.end < size) tornSegments += 1;
    } finally {
      await handle.close();
    }
  }
  index.recovered();
  return { index, report: { checkpoint: checkpoint?.number, scannedRecords, tornSegments } };
}

/** A file read in order. */
class Windows {
  readonly #handle: FileHandle;
  readonly #size: number;
  readonly #window: number;
  #position: number;
  #buffers: [Buffer, Buffer];

  constructor(handle: FileHandle, size: number, from: number, window: number) {
    this.#handle = handle;
    this.#size = size;
    this.#position = from;
    this.#window = window;
    this.#buffers = [Buffer.allocUnsafeSlow(ROOM + window), Buffer.allocUnsafeSlow(ROOM + window)];
  }

  /** The next window, or `least` bytes if that is more; undefined at the end of the file. Its last but one is overwritten. */
  next(least = 0): Promise<Buffer> | undefined {
    const bytes = Math.min(Math.max(this.#window, least), this.#size - this.#position);
    if (bytes <= 0) return undefined;
    const position = this.#position;
    this.#position += bytes;
    this.#buffers.reverse();
    const [buffer] = this.#buffers;
    return this.#read(bytes > this.#window ? Buffer.allocUnsafeSlow(ROOM + bytes) : buffer, position, bytes);
  }

  async #read(buffer: Buffer, position: number, bytes: number): Promise<Buffer> {
    let done = 0;
    while (done < bytes) {
      const { bytesRead } = await this.#handle.read(buffer, ROOM + done, bytes - done, position + done);
      if (bytesRead === 0) break;
      done += bytesRead;
    }
    return buffer.subarray(ROOM, ROOM + done);
  }

  /** A window with the bytes before it in front. */
  static behind(rest: Buffer, window: Buffer): Buffer {
    if (rest.length === 0) return window;
    if (rest.length > ROOM) return Buffer.concat([rest, window]);
    const from = window.byteOffset - rest.length;
    const whole = Buffer.from(window.buffer, from, rest.length + window.length);
    rest.copy(whole);
    return whole;
  }
}

/** Enters the records of one file of `size` bytes from `from` on; returns how many, and where they end. */
async function scanSegment(
  handle: FileHandle,
  size: number,
  segment: number,
  from: number,
  index: TierIndex,
  window: number,
): Promise<{ records: number; end: number }> {
  let records = 0;
  let end = from;
  // What has been read and not been scanned: the bytes from `end` on.
  let bytes: Buffer = Buffer.alloc(0);
  const windows = new Windows(handle, size, from, window);
  let most = 0;
  for (let ahead = windows.next(); ahead !== undefined;) {
    const read = await ahead;
    if (read.length === 0) break;
    bytes = Windows.behind(bytes, read);
    ahead = windows.next(most);
    let at = 0;
    let missing: number | undefined = RECORD_OVERHEAD;
    while (at + RECORD_OVERHEAD <= bytes.length) {
      missing = recordBytes(bytes, at);
      if (missing === undefined || at + missing > bytes.length) break;
      const header = decodeHeader(bytes, at);
      if (header === undefined || !recordIntact(bytes, at, header.payloadBytes)) {
        missing = undefined;
        break;
      }
      enter(index, header, segment, end + at, missing);
      records += 1;
      at += missing;
      missing = RECORD_OVERHEAD;
    }
    end += at;
    bytes = bytes.subarray(at);
    if (missing === undefined) {
      await ahead;
      break;
    }
    // A record longer than a window: the rest of it at once.
    most = missing;
  }
  return { records, end };
}

function enter(
  index: TierIndex,
  header: NonNullable<ReturnType<typeof decodeHeader>>,
  segment: number,
  offset: number,
  bytes: number,
): void {
  const { key, parent, fingerprint, tenant, flags } = header;
  const forgotten = (flags & TOMBSTONE) !== 0;
  index.recover(
    key,
    forgotten ? undefined : { key, parent, fingerprint, tenant, flags, segment, offset, bytes },
  );
}

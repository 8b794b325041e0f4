/**
 * Checkpoints of the disk tier's index: `checkpoint-N`, little-endian, written beside and renamed, so that there is a whole
 * one or none.
 *
 *   0 magic u32 "QMKC" | 4 version u32 | 8 segment u32 | 12 offset u32 | 16 entries u32 | 20 zero u32
 *   24 entries x { key[32], parent[32], fingerprint u16, tenant u16, flags u16, has parent u16, segment u32, offset u32, bytes u32 }
 *   checksum[16] of all before it
 *
 * It holds what was live when records had been written up to (segment, offset): recovery reads on from there.
 */
import { open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Entry } from "./tier-index.js";
import { checksum, CHECKSUM_BYTES } from "./records.js";
import { KEY_BYTES } from "./tier-backend.js";

const MAGIC = 0x434b4d51;
const VERSION = 1;
const HEADER = 24;
const ENTRY = 84;
const NAME = /^checkpoint-(\d{8})$/;

export interface Checkpoint {
  readonly number: number;
  /** Where the records begin that it does not know. */
  readonly segment: number;
  readonly offset: number;
  readonly entries: readonly Entry[];
}

function nameOf(number: number): string {
  return `checkpoint-${String(number).padStart(8, "0")}`;
}

export function encodeCheckpoint(segment: number, offset: number, entries: readonly Entry[]): Buffer {
  const bytes = Buffer.alloc(HEADER + entries.length * ENTRY + CHECKSUM_BYTES);
  bytes.writeUInt32LE(MAGIC, 0);
  bytes.writeUInt32LE(VERSION, 4);
  bytes.writeUInt32LE(segment, 8);
  bytes.writeUInt32LE(offset, 12);
  bytes.writeUInt32LE(entries.length, 16);
  entries.forEach((entry, i) => {
    const at = HEADER + i * ENTRY;
    bytes.write(entry.key, at, "latin1");
    if (entry.parent !== undefined) bytes.write(entry.parent, at + KEY_BYTES, "latin1");
    bytes.writeUInt16LE(entry.fingerprint, at + 64);
    bytes.writeUInt16LE(entry.tenant, at + 66);
    bytes.writeUInt16LE(entry.flags, at + 68);
    bytes.writeUInt16LE(entry.parent === undefined ? 0 : 1, at + 70);
    bytes.writeUInt32LE(entry.segment, at + 72);
    bytes.writeUInt32LE(entry.offset, at + 76);
    bytes.writeUInt32LE(entry.bytes, at + 80);
  });
  const end = bytes.length - CHECKSUM_BYTES;
  bytes.set(checksum(bytes.subarray(0, end)), end);
  return bytes;
}

/** The checkpoint in `bytes`, or undefined when they are damaged or not one. */
export function decodeCheckpoint(bytes: Buffer, number: number): Checkpoint | undefined {
  if (bytes.length < HEADER + CHECKSUM_BYTES || bytes.readUInt32LE(0) !== MAGIC) return undefined;
  const end = bytes.length - CHECKSUM_BYTES;
  const count = bytes.readUInt32LE(16);
  if (bytes.readUInt32LE(4) !== VERSION || end !== HEADER + count * ENTRY) return undefined;
  if (!checksum(bytes.subarray(0, end)).equals(bytes.subarray(end))) return undefined;
  const entries: Entry[] = [];
  for (let at = HEADER; at < end; at += ENTRY)
    entries.push({
      key: bytes.toString("latin1", at, at + KEY_BYTES),
      parent:
        bytes.readUInt16LE(at + 70) === 0
          ? undefined
          : bytes.toString("latin1", at + KEY_BYTES, at + 2 * KEY_BYTES),
      fingerprint: bytes.readUInt16LE(at + 64),
      tenant: bytes.readUInt16LE(at + 66),
      flags: bytes.readUInt16LE(at + 68),
      segment: bytes.readUInt32LE(at + 72),
      offset: bytes.readUInt32LE(at + 76),
      bytes: bytes.readUInt32LE(at + 80),
    });
  return { number, segment: bytes.readUInt32LE(8), offset: bytes.readUInt32LE(12), entries };
}

/** Makes renames and new files of a directory last. */
export async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * Writes a checkpoint whole or not at all, and drops all but it and the one before it. `durable`: it is on the device
 * before the old ones go.
 */
export async function writeCheckpoint(
  directory: string,
  number: number,
  bytes: Buffer,
  durable: boolean,
): Promise<void> {
  const name = nameOf(number);
  const temporary = join(directory, `${name}.new`);
  const handle = await open(temporary, "w");
  try {
    await handle.writeFile(bytes);
    if (durable) await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, join(directory, name));
  if (durable) await syncDirectory(directory);
  for (const old of await checkpointNumbers(directory))
    if (old < number - 1) await rm(join(directory, nameOf(old)), { force: true });
}

/** Numbers of the checkpoints there are, newest first. */
export async function checkpointNumbers(directory: string): Promise<number[]> {
  const names = await readdir(directory);
  return names
    .map((name) => Number(NAME.exec(name)?.[1] ?? -1))
    .filter((number) => number >= 0)
    .sort((a, b) => b - a);
}

/** The newest checkpoint that is whole, or undefined. */
export async function newestCheckpoint(directory: string): Promise<Checkpoint | undefined> {
  for (const number of await checkpointNumbers(directory)) {
    const found = decodeCheckpoint(await readFile(join(directory, nameOf(number))), number);
    if (found !== undefined) return found;
  }
  return undefined;
}

/**
 * Records of the disk tier, little-endian, and their checksum.
 *
 *   0 magic u32 "QMKV" | 4 version u16 | 6 fingerprint u16 | 8 key[32] | 40 parent[32] (zeros: none)
 *   72 tenant u16 | 74 flags u16 | 76 payload bytes u32 | 80 payload | checksum[16] of all before it
 *
 * The checksum is the first 16 bytes of SHA-256: 128 bits are far more than damage can hit by chance, and SHA-256 is the
 * cryptographic hash that node:crypto runs on the processor's own instructions; BLAKE3, which it has not, would be
 * several times slower in WebAssembly. It guards against damage, not against somebody who can write the files.
 */
import { createHash, hash } from "node:crypto";
import { invalidArgument, requireInteger, requireList } from "../../bindings/errors.js";
import { type BlockInfo, KEY_BYTES } from "./tier-backend.js";

export const HEADER_BYTES = 80;
export const CHECKSUM_BYTES = 16;
/** Bytes of a record beside its payload. */
export const RECORD_OVERHEAD = HEADER_BYTES + CHECKSUM_BYTES;
export const MAX_PAYLOAD = 32 * 2 ** 20;
const MAGIC = 0x564b4d51;
const VERSION = 1;

export const LOSSY = 1;
/** The record says that the block is forgotten. */
export const TOMBSTONE = 2;
/** Flags from this bit on: the number of the cache's group, 0 to 7. */
const GROUP_SHIFT = 4;

export function flagsOf({ lossy = false, group = 0 }: BlockInfo): number {
  return (lossy ? LOSSY : 0) | (requireInteger("group", group, 0, 7) << GROUP_SHIFT);
}

export function groupIn(flags: number): number {
  return (flags >> GROUP_SHIFT) & 7;
}

const NO_PARENT_BYTES = new Uint8Array(KEY_BYTES);
const NO_PARENT = keyText(NO_PARENT_BYTES);

export interface RecordHeader {
  /** As `keyText` gives it. */
  readonly key: string;
  /** Undefined: the first of its prefix. */
  readonly parent: string | undefined;
  readonly fingerprint: number;
  readonly tenant: number;
  readonly flags: number;
  readonly payloadBytes: number;
}

/** Checksum of `bytes`, a character a byte: as a text it is had and compared in half the time of a Buffer. */
function checksumText(bytes: Uint8Array): string {
  // The one-shot form, where Node has it, saves an object a record.
  const digest =
    hash === undefined
      ? createHash("sha256").update(bytes).digest("binary")
      : hash("sha256", bytes, "binary");
  return digest.slice(0, CHECKSUM_BYTES);
}

export function checksum(bytes: Uint8Array): Buffer {
  return Buffer.from(checksumText(bytes), "binary");
}

export function requireKey(argument: string, key: unknown): Uint8Array {
  if (!(key instanceof Uint8Array) || key.length !== KEY_BYTES)
    throw invalidArgument(argument, key, `a Uint8Array of ${KEY_BYTES} bytes`);
  return key;
}

/** Checks an array of keys before anything is looked up. */
export function requireKeys(keys: readonly unknown[]): readonly Uint8Array[] {
  requireList("keys", keys);
  return Array.from(keys, (key, i) => requireKey(`keys[${i}]`, key));
}

/** A key as what a Map finds it by. */
export function keyText(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.length).toString("latin1");
}

/** A key again, from what a Map finds it by. */
export function keyBytes(text: string): Uint8Array {
  const key = new Uint8Array(KEY_BYTES);
  for (let i = 0; i < KEY_BYTES; i++) key[i] = text.charCodeAt(i);
  return key;
}

/** One record as bytes. Throws INVALID_ARGUMENT. */
export function encodeRecord(
  key: Uint8Array,
  payload: Uint8Array,
  info: BlockInfo = {},
  flags = flagsOf(info),
): Buffer {
  requireKey("key", key);
  if (!(payload instanceof Uint8Array) || payload.length > MAX_PAYLOAD)
    throw invalidArgument("payload", payload, `a Uint8Array of at most ${MAX_PAYLOAD} bytes`);
  const record = Buffer.allocUnsafe(RECORD_OVERHEAD + payload.length);
  record.writeUInt32LE(MAGIC, 0);
  record.writeUInt16LE(VERSION, 4);
  record.writeUInt16LE(requireInteger("fingerprint", info.fingerprint ?? 0, 0, 65535), 6);
  record.set(key, 8);
  record.set(info.parent === undefined ? NO_PARENT_BYTES : requireKey("parent", info.parent), 40);
  record.writeUInt16LE(requireInteger("tenant", info.tenant ?? 0, 0, 65535), 72);
  record.writeUInt16LE(flags, 74);
  record.writeUInt32LE(payload.length, 76);
  record.set(payload, HEADER_BYTES);
  const end = HEADER_BYTES + payload.length;
  record.set(checksum(record.subarray(0, end)), end);
  return record;
}

/** Bytes of the record whose header is whole at `at`, or undefined where no record can be. */
export function recordBytes(bytes: Buffer, at: number): number | undefined {
  if (bytes.readUInt32LE(at) !== MAGIC || bytes.readUInt16LE(at + 4) !== VERSION) return undefined;
  const payloadBytes = bytes.readUInt32LE(at + 76);
  return payloadBytes > MAX_PAYLOAD ? undefined : RECORD_OVERHEAD + payloadBytes;
}

/** The header at `at`, or undefined where none can be: its payload would end behind `bytes`. */
export function decodeHeader(bytes: Buffer, at: number): RecordHeader | undefined {
  if (at + RECORD_OVERHEAD > bytes.length) return undefined;
  const length = recordBytes(bytes, at);
  if (length === undefined || at + length > bytes.length) return undefined;
  const key = bytes.toString("latin1", at + 8, at + 40);
  const parent = bytes.toString("latin1", at + 40, at + 72);
  return {
    key,
    parent: parent === NO_PARENT ? undefined : parent,
    fingerprint: bytes.readUInt16LE(at + 6),
    tenant: bytes.readUInt16LE(at + 72),
    flags: bytes.readUInt16LE(at + 74),
    payloadBytes: length - RECORD_OVERHEAD,
  };
}

/** Whether the whole record at `at`, of a header that has been decoded, has its checksum. */
export function recordIntact(bytes: Buffer, at: number, payloadBytes: number): boolean {
  const end = at + HEADER_BYTES + payloadBytes;
  const body = new Uint8Array(bytes.buffer, bytes.byteOffset + at, end - at);
  return checksumText(body) === bytes.toString("latin1", end, end + CHECKSUM_BYTES);
}

/** BLAKE3 in keyed mode, 256 bits, computed in the core: for names and checksums that leave the process. */
import type { Core } from "./core.js";
import { invalidArgument } from "./errors.js";

/** Bytes of a key and of a digest. */
export const DIGEST_BYTES = 32;

/** Checks that an argument is bytes, of a given number if one is given. */
export function requireBytes(argument: string, value: unknown, length?: number): Uint8Array {
  if (!(value instanceof Uint8Array) || (length !== undefined && value.length !== length))
    throw invalidArgument(
      argument,
      value,
      length === undefined ? "a Uint8Array" : `a Uint8Array of ${length} bytes`,
    );
  return value;
}

/** The digest of `bytes` under a key of 32 bytes. Throws INVALID_ARGUMENT. */
export function keyedHash(core: Core, key: Uint8Array, bytes: Uint8Array): Uint8Array {
  requireBytes("key", key, DIGEST_BYTES);
  requireBytes("bytes", bytes);
  const { exports } = core;
  const hasher = core.scratch(core.scratchBytes);
  const at = hasher + exports.hasherBytes();
  const room = core.scratchBytes - exports.hasherBytes();
  const memory = new Uint8Array(core.memory.buffer);
  core.run(() => {
    memory.set(key, at);
    exports.hasherStart(hasher, at);
    for (let from = 0; from < bytes.length; from += room) {
      const piece = bytes.subarray(from, from + room);
      memory.set(piece, at);
      exports.hasherUpdate(hasher, at, piece.length);
    }
    exports.hasherEnd(hasher, at);
    return 0;
  }, "keyedHash");
  return memory.slice(at, at + DIGEST_BYTES);
}

/** What a policy keeps outside the lanes, as bytes: little-endian arrays, each with its type and length before it. */
import { QuartermasterError } from "../errors.js";

export type StateArray = Uint32Array | Float32Array | Float64Array;

const MAGIC = 0x31504d51; // "QMP1"
const TYPES = [Uint32Array, Float32Array, Float64Array] as const;

/** Header of a part: type, length; then its values, the whole padded to 8 bytes. */
export function packState(parts: readonly StateArray[]): Uint8Array {
  const padded = (part: StateArray): number => Math.ceil(part.byteLength / 8) * 8;
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + 8 + padded(part), 8));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, parts.length, true);
  let at = 8;
  for (const part of parts) {
    view.setUint32(
      at,
      TYPES.findIndex((type) => part instanceof type),
      true,
    );
    view.setUint32(at + 4, part.length, true);
    bytes.set(new Uint8Array(part.buffer, part.byteOffset, part.byteLength), at + 8);
    at += 8 + padded(part);
  }
  return bytes;
}

/** The arrays that were packed. Throws BAD_SNAPSHOT when these bytes are something else. */
export function unpackState(bytes: Uint8Array): StateArray[] {
  const bad = (): never => {
    throw new QuartermasterError("BAD_SNAPSHOT", "these bytes are not a policy's state", {
      argument: "bytes",
    });
  };
  const copy = bytes.slice();
  const view = new DataView(copy.buffer);
  if (copy.length < 8 || view.getUint32(0, true) !== MAGIC) bad();
  const parts: StateArray[] = [];
  let at = 8;
  for (let i = view.getUint32(4, true); i > 0; i--) {
    if (at + 8 > copy.length) bad();
    const [type, length] = [view.getUint32(at, true), view.getUint32(at + 4, true)];
    const Type = TYPES[type] ?? bad();
    const size = length * Type.BYTES_PER_ELEMENT;
    if (at + 8 + size > copy.length) bad();
    parts.push(new Type(copy.buffer, at + 8, length));
    at += 8 + Math.ceil(size / 8) * 8;
  }
  return parts;
}

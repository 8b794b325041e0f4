/** A MessagePack decoder written from the format's table, for tests: every byte of the input must be used. */
export type Unpacked =
  null | boolean | number | bigint | string | Uint8Array | Unpacked[] | Map<string, Unpacked>;

export function unpack(bytes: Uint8Array): Unpacked {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let at = 0;
  const unsigned = (size: number): number => {
    let value = 0;
    for (let i = 0; i < size; i++) value = value * 256 + bytes[at++];
    return value;
  };
  const raw = (length: number): Uint8Array => {
    if (at + length > bytes.length) throw new Error("the message ends too early");
    return bytes.slice(at, (at += length));
  };
  const text = (length: number): string => new TextDecoder("utf-8", { fatal: true }).decode(raw(length));
  const list = (length: number): Unpacked[] => Array.from({ length }, next);
  const map = (length: number): Map<string, Unpacked> =>
    new Map(Array.from({ length }, () => [next() as string, next()]));
  function next(): Unpacked {
    const tag = bytes[at++];
    if (tag < 0x80) return tag;
    if (tag < 0x90) return map(tag & 15);
    if (tag < 0xa0) return list(tag & 15);
    if (tag < 0xc0) return text(tag & 31);
    switch (tag) {
      case 0xc0:
        return null;
      case 0xc2:
      case 0xc3:
        return tag === 0xc3;
      case 0xc4:
      case 0xc5:
      case 0xc6:
        return raw(unsigned(2 ** (tag - 0xc4)));
      case 0xcb:
        at += 8;
        return view.getFloat64(at - 8);
      case 0xcc:
      case 0xcd:
      case 0xce:
        return unsigned(2 ** (tag - 0xcc));
      case 0xcf:
        at += 8;
        return view.getBigUint64(at - 8);
      case 0xd3:
        at += 8;
        return view.getBigInt64(at - 8);
      case 0xd9:
      case 0xda:
      case 0xdb:
        return text(unsigned(2 ** (tag - 0xd9)));
      case 0xdc:
      case 0xdd:
        return list(unsigned(2 * (tag - 0xdb)));
      case 0xde:
      case 0xdf:
        return map(unsigned(2 * (tag - 0xdd)));
      default:
        throw new Error(`tag ${tag} at ${at - 1}`);
    }
  }
  const value = next();
  if (at !== bytes.length) throw new Error(`${bytes.length - at} bytes are left over`);
  return value;
}

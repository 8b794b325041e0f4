/** MessagePack, as far as events need it: null, booleans, numbers, text, bytes, arrays, and maps with text keys. */

const utf8 = new TextEncoder();

/** A number that is written as a float even when it is whole. */
export class Float {
  constructor(readonly value: number) {}
}

export type Packable =
  | null
  | boolean
  | number
  | bigint
  | string
  | Float
  | Uint8Array
  | Uint32Array
  | readonly Packable[]
  | { readonly [key: string]: Packable | undefined };

class Packer {
  #bytes = new Uint8Array(1024);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;

  finish(): Uint8Array {
    return this.#bytes.slice(0, this.#length);
  }

  /** Room for `count` bytes more; returns where. The arrays may be new then. */
  #take(count: number): number {
    const at = this.#length;
    this.#length += count;
    if (this.#length > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(2 * this.#bytes.length, this.#length));
      grown.set(this.#bytes);
      this.#bytes = grown;
      this.#view = new DataView(grown.buffer);
    }
    return at;
  }

  #byte(value: number): void {
    const at = this.#take(1);
    this.#bytes[at] = value;
  }

  /** A head with a length: in the tag if there is a short form, else behind tags for 8, 16 and 32 bits. */
  #head(length: number, short: number, below: number, tag8: number, tag16: number): void {
    if (length < below) this.#byte(short | length);
    else if (tag8 !== 0 && length < 2 ** 8) {
      this.#byte(tag8);
      this.#byte(length);
    } else if (length < 2 ** 16) {
      this.#byte(tag16);
      const at = this.#take(2);
      this.#view.setUint16(at, length);
    } else {
      this.#byte(tag16 + 1);
      const at = this.#take(4);
      this.#view.setUint32(at, length);
    }
  }

  #raw(bytes: Uint8Array): void {
    const at = this.#take(bytes.length);
    this.#bytes.set(bytes, at);
  }

  #unsigned(value: number): void {
    this.#head(value, 0, 0x80, 0xcc, 0xcd);
  }

  #number(value: number): void {
    if (Number.isInteger(value) && value >= 0 && value < 2 ** 32) this.#unsigned(value);
    else if (Number.isSafeInteger(value)) this.#big(BigInt(value));
    else this.#float(value);
  }

  #float(value: number): void {
    this.#byte(0xcb);
    const at = this.#take(8);
    this.#view.setFloat64(at, value);
  }

  #big(value: bigint): void {
    this.#byte(value < 0n ? 0xd3 : 0xcf);
    const at = this.#take(8);
    this.#view.setBigUint64(at, BigInt.asUintN(64, value));
  }

  pack(value: Packable): void {
    if (value === null) this.#byte(0xc0);
    else if (typeof value === "boolean") this.#byte(value ? 0xc3 : 0xc2);
    else if (typeof value === "number") this.#number(value);
    else if (typeof value === "bigint") this.#big(value);
    else if (typeof value === "string") {
      const bytes = utf8.encode(value);
      this.#head(bytes.length, 0xa0, 32, 0xd9, 0xda);
      this.#raw(bytes);
    } else if (value instanceof Float) this.#float(value.value);
    else if (value instanceof Uint8Array) {
      this.#head(value.length, 0, 0, 0xc4, 0xc5);
      this.#raw(value);
    } else if (value instanceof Uint32Array) {
      this.#head(value.length, 0x90, 16, 0, 0xdc);
      for (const word of value) this.#unsigned(word);
    } else if (isArray(value)) {
      this.#head(value.length, 0x90, 16, 0, 0xdc);
      for (const item of value) this.pack(item);
    } else {
      const fields = Object.entries(value).filter(([, field]) => field !== undefined);
      this.#head(fields.length, 0x80, 16, 0, 0xde);
      for (const [key, field] of fields) {
        this.pack(key);
        this.pack(field!);
      }
    }
  }
}

function isArray(value: Packable): value is readonly Packable[] {
  return Array.isArray(value);
}

/** The bytes of a value. Fields that are undefined are left out. */
export function packMessage(value: Packable): Uint8Array {
  const packer = new Packer();
  packer.pack(value);
  return packer.finish();
}

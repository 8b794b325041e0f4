/** An ordered index as it lies in core memory (assembly/index/layout.ts), for tests that look inside or break it. */
import type { OrderedIndex } from "../../bindings/main.js";

const MASK = (1n << 64n) - 1n;
export const KEY_MAX: bigint = MASK;

export class IndexMemory {
  readonly pointer: number;
  readonly nodes: number;
  readonly nodeBytes: number;
  readonly nodeCapacity: number;
  readonly leafCapacity: number;
  readonly innerCapacity: number;
  readonly digitBits: number;
  readonly levels: number;
  readonly seed: bigint;
  readonly #view: DataView;

  /** The memory must not grow afterwards. */
  constructor({ core, pointer }: OrderedIndex) {
    this.#view = new DataView(core.memory.buffer);
    this.pointer = pointer;
    this.nodes = this.word(pointer);
    this.nodeBytes = this.word(pointer + 4);
    this.nodeCapacity = this.word(pointer + 8);
    this.leafCapacity = this.word(pointer + 16);
    this.innerCapacity = this.word(pointer + 20);
    this.digitBits = this.word(pointer + 24);
    this.levels = this.word(pointer + 28);
    this.seed = this.wide(pointer + 40);
  }

  word(at: number): number {
    return this.#view.getUint32(at, true);
  }

  wide(at: number): bigint {
    return this.#view.getBigUint64(at, true);
  }

  setWord(at: number, value: number): void {
    this.#view.setUint32(at, value, true);
  }

  setWide(at: number, value: bigint): void {
    this.#view.setBigUint64(at, value, true);
  }

  /** Nodes of a level from left to right. */
  level(level: number): number[] {
    const found: number[] = [];
    for (let at = this.head(level); at !== 0; at = this.next(at)) found.push(at);
    return found;
  }

  head(level: number): number {
    return this.nodes + level * this.nodeBytes;
  }

  count(at: number): number {
    return this.#view.getUint16(at + 8, true);
  }

  setCount(at: number, count: number): void {
    this.#view.setUint16(at + 8, count, true);
  }

  setLevel(at: number, level: number): void {
    this.#view.setUint8(at + 10, level);
  }

  next(at: number): number {
    return this.word(at + 12);
  }

  setNext(at: number, next: number): void {
    this.setWord(at + 12, next);
  }

  nextHeader(at: number): bigint {
    return this.wide(at + 16);
  }

  setNextHeader(at: number, key: bigint): void {
    this.setWide(at + 16, key);
  }

  link(at: number): number {
    return this.word(at + 24);
  }

  setLink(at: number, link: number): void {
    this.setWord(at + 24, link);
  }

  key(at: number, slot: number): bigint {
    return this.wide(at + 32 + slot * 8);
  }

  setKey(at: number, slot: number, key: bigint): void {
    this.setWide(at + 32 + slot * 8, key);
  }

  child(at: number, slot: number): number {
    return this.word(this.#childAt(at, slot));
  }

  setChild(at: number, slot: number, child: number): void {
    this.setWord(this.#childAt(at, slot), child);
  }

  keys(at: number): bigint[] {
    return Array.from({ length: this.count(at) }, (_, slot) => this.key(at, slot));
  }

  /** Keys of a level, the sentinel not counted. */
  keysOnLevel(level: number): number {
    return this.level(level).reduce((sum, at) => sum + this.count(at), -1);
  }

  /** Head of the free list, 0 when it is empty. */
  get free(): number {
    return this.word(this.pointer + 64);
  }

  set free(at: number) {
    this.setWord(this.pointer + 64, at);
  }

  get freeCount(): number {
    return this.word(this.pointer + 72);
  }

  set freeCount(count: number) {
    this.setWord(this.pointer + 72, count);
  }

  /** Entries as the index's first worker counts them. */
  get entries(): number {
    return this.word(this.pointer + 128);
  }

  set entries(count: number) {
    this.setWord(this.pointer + 128, count);
  }

  /** Highest level of a key: the zero digits at the end of its seeded hash. */
  height(key: bigint): number {
    let x = (key ^ this.seed) & MASK;
    x = ((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
    x = ((x ^ (x >> 27n)) * 0x94d049bb133111ebn) & MASK;
    x ^= x >> 31n;
    let height = 0;
    const digit = BigInt(this.digitBits);
    while (height < this.levels - 1 && (x & ((1n << digit) - 1n)) === 0n) {
      height += 1;
      x >>= digit;
    }
    return height;
  }

  #childAt(at: number, slot: number): number {
    return at + 32 + this.innerCapacity * 8 + slot * 4;
  }
}

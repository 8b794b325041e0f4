/**
 * KeyedPool: a block pool for engines that hash blocks themselves and keep their own block tables.
 *
 *   const pool = core.keyedPool({ blocks: 4096 });
 *   const { blocks } = pool.allocate(3);
 *   pool.enterKeys(0, blocks.subarray(0, 2), hashes);   // 2 keys of 32 bytes
 *   pool.release(blocks.toReversed());                   // the tail is evicted first
 *   const hits = pool.find(0, hashes);                   // still there
 *   pool.allocate(1, hits);                              // touched, and one more
 *
 * Blocks go out in id order at first, then the one released longest ago. A block keeps its key while it is free and loses
 * it when it is taken; several blocks may have one key, and the oldest is found. Keys are compared whole.
 */
import type { Core } from "./core.js";
import { invalidArgument, requireInteger, requireList } from "./errors.js";

export interface KeyedPoolOptions {
  /** Blocks of the pool, 1 to 2^27; all are free at first. 44 bytes each, and the key, and 4 to 8 of index. */
  blocks: number;
  /** Bytes of the longest key, 8 to 1024, a multiple of 8. Default 32. */
  keyBytes?: number;
  /** Keys that cross in one call, 1 to `blocks`; more take several. Default the lesser of `blocks` and 4096. */
  batch?: number;
}

export interface KeyedAllocation {
  /** Blocks taken. */
  readonly blocks: Uint32Array;
  /** Those of them that have lost a key by it. */
  readonly lost: Uint32Array;
}

/** Words of the header: docs/abi.md. */
const Header = {
  blocks: 0,
  keyBytes: 1,
  batch: 2,
  freeCount: 4,
  freeHead: 5,
  held: 7,
  keyed: 8,
  distinct: 9,
  stride: 10,
  input: 11,
  ids: 13,
} as const;
const HEADER_BYTES = 64;
const BLOCK_BYTES = 40;
const NONE = 0xffffffff;
const LOST_KEY = 0x80000000;
const MAX_GROUP = 0xffffffff;

export class KeyedPool {
  readonly core: Core;
  readonly pointer: number;
  readonly blocks: number;
  readonly keyBytes: number;
  readonly batch: number;

  /** Made by `core.keyedPool(...)`. */
  constructor(core: Core, pointer: number) {
    this.core = core;
    this.pointer = pointer;
    this.blocks = this.#word("blocks");
    this.keyBytes = this.#word("keyBytes");
    this.batch = this.#word("batch");
  }

  /** Checks options and fills in defaults. */
  static shape(options: KeyedPoolOptions): Required<KeyedPoolOptions> {
    const blocks = requireInteger("blocks", options?.blocks, 1, 2 ** 27);
    const keyBytes = requireInteger("keyBytes", options.keyBytes ?? 32, 8, 1024);
    if (keyBytes % 8 !== 0) throw invalidArgument("keyBytes", keyBytes, "a multiple of 8");
    return {
      blocks,
      keyBytes,
      batch: requireInteger("batch", options.batch ?? Math.min(blocks, 4096), 1, blocks),
    };
  }

  /** Whether `count` blocks could be taken now, with `touch` touched. */
  fits(count: number, touch: ArrayLike<number> = []): boolean {
    requireInteger("count", count, 0, NONE);
    this.#putIds("touch", touch);
    return this.core.exports.keyedPoolFits(this.pointer, touch.length, count) === 0;
  }

  /**
   * One more reference for each block of `touch` (different blocks, in any state), and `count` more blocks; throws
   * OUT_OF_BLOCKS, nothing done, when these are not there.
   */
  allocate(count: number, touch: ArrayLike<number> = []): KeyedAllocation {
    requireInteger("count", count, 0, NONE);
    this.#putIds("touch", touch);
    this.core.call(() => this.core.exports.keyedPoolAllocate(this.pointer, touch.length, count), "allocate");
    return this.#marked(count);
  }

  /** One reference less for each block; with its last it becomes free, in this order. Throws ALREADY_FREE. */
  release(blocks: ArrayLike<number>): void {
    this.#putIds("blocks", blocks);
    this.core.call(() => this.core.exports.keyedPoolRelease(this.pointer, blocks.length), "release");
  }

  /**
   * Gives blocks without a key theirs: `keys` holds one for each, all of one length, a multiple of 8 up to `keyBytes`.
   * The same bytes in another group, 0 to 2^32 - 1, are another key. Blocks set aside are passed over.
   */
  enterKeys(group: number, blocks: ArrayLike<number>, keys: Uint8Array): void {
    requireInteger("group", group, 0, MAX_GROUP);
    requireInteger("blocks.length", requireList("blocks", blocks), 0, this.batch);
    this.#putIds("blocks", blocks);
    if (blocks.length === 0) return;
    const length = this.#keyLength(keys, requireList("keys", keys) / blocks.length);
    this.#bytes(this.#word("input"), keys.length).set(keys);
    this.core.call(
      () => this.core.exports.keyedPoolEnterKeys(this.pointer, group, length, blocks.length),
      "enterKeys: a block has a key already",
    );
  }

  /** The oldest block of each key, up to the first key that none has. `length`: of one key; default `keyBytes`. */
  find(group: number, keys: Uint8Array, length = this.keyBytes): Uint32Array {
    return this.#find(group, keys, length, 0);
  }

  /** As `find`, through all keys; 2^32 - 1 stands for those that no block has. */
  findAll(group: number, keys: Uint8Array, length = this.keyBytes): Uint32Array {
    return this.#find(group, keys, length, 1);
  }

  #find(group: number, keys: Uint8Array, length: number, all: number): Uint32Array {
    requireInteger("group", group, 0, MAX_GROUP);
    this.#keyLength(keys, length);
    if (keys.length % length !== 0) throw invalidArgument("keys", keys, `a multiple of ${length} bytes`);
    const found = new Uint32Array(keys.length / length);
    for (let from = 0; from < found.length; from += this.batch) {
      const count = Math.min(this.batch, found.length - from);
      this.#bytes(this.#word("input"), count * length).set(
        keys.subarray(from * length, (from + count) * length),
      );
      const hits = this.core.call(
        () => this.core.exports.keyedPoolFindKeys(this.pointer, group, length, count, all),
        "find",
      );
      found.set(this.#ids(all ? count : hits), from);
      if (!all && hits < count) return found.subarray(0, from + hits);
    }
    return found;
  }

  /** Takes keys away, whoever holds the blocks; returns the blocks that had one. */
  dropKeys(blocks: ArrayLike<number>): Uint32Array {
    this.#putIds("blocks", blocks);
    this.core.call(() => this.core.exports.keyedPoolDropKeys(this.pointer, blocks.length), "dropKeys");
    return this.#marked(blocks.length).lost;
  }

  /** Takes every key away and says so, unless a block is held. */
  forget(): boolean {
    if (this.held > 0) return false;
    this.dropKeys(Uint32Array.from({ length: this.blocks }, (_, id) => id));
    return true;
  }

  /** Takes a free block out of circulation; it keeps its key. */
  setAside(block: number): void {
    this.#aside(block, 1);
  }

  /** Puts a block that was set aside back, as the last to be taken. */
  putBack(block: number): void {
    this.#aside(block, 0);
  }

  #aside(block: number, aside: number): void {
    requireInteger("block", block, 0, this.blocks - 1);
    this.core.call(
      () => this.core.exports.keyedPoolSetAside(this.pointer, block, aside),
      aside ? "setAside: the block is not free" : "putBack: the block is not set aside",
    );
  }

  /** References of a block. */
  references(block: number): number {
    requireInteger("block", block, 0, this.blocks - 1);
    return this.core.views.word(this.#block(block));
  }

  /** Key of a block, a copy, or undefined. */
  key(block: number): { readonly group: number; readonly key: Uint8Array } | undefined {
    requireInteger("block", block, 0, this.blocks - 1);
    const at = this.#block(block);
    const word = (index: number): number => this.core.views.word(at + index * 4);
    if (word(5) === NONE) return undefined;
    return { group: word(6), key: this.#bytes(at + BLOCK_BYTES, word(7)).slice() };
  }

  /** Free blocks, the next to be taken first. */
  freeBlocks(): Uint32Array {
    const list = new Uint32Array(this.free);
    let block = this.#word("freeHead");
    for (let i = 0; i < list.length; i++) {
      list[i] = block;
      block = this.core.views.word(this.#block(block) + 8);
    }
    return list;
  }

  /** Blocks that can be taken. */
  get free(): number {
    return this.#word("freeCount");
  }

  /** Blocks with references. */
  get held(): number {
    return this.#word("held");
  }

  /** Different keys, and blocks that have one. */
  get keys(): { readonly different: number; readonly blocks: number } {
    return { different: this.#word("distinct"), blocks: this.#word("keyed") };
  }

  /** Check of lists and counts, in build "debug" of the index too, O(blocks); throws CORRUPT. */
  validate(): void {
    this.core.call(() => this.core.exports.keyedPoolValidate(this.pointer), "keyedPool");
  }

  #word(name: keyof typeof Header): number {
    return this.core.views.word(this.pointer + Header[name] * 4);
  }

  #block(id: number): number {
    return this.pointer + HEADER_BYTES + id * this.#word("stride");
  }

  #bytes(address: number, length: number): Uint8Array {
    return new Uint8Array(this.core.memory.buffer, address, length);
  }

  #ids(count: number): Uint32Array {
    return new Uint32Array(this.core.memory.buffer, this.#word("ids"), count);
  }

  #putIds(argument: string, ids: ArrayLike<number>): void {
    this.core.requireUsable();
    requireInteger(`${argument}.length`, requireList(argument, ids), 0, this.blocks);
    for (let i = 0; i < ids.length; i++) requireInteger(`${argument}[${i}]`, ids[i], 0, this.blocks - 1);
    this.#ids(ids.length).set(ids);
  }

  #marked(count: number): KeyedAllocation {
    const words = this.#ids(count);
    const lost = words.filter((word) => word >= LOST_KEY).map((word) => word - LOST_KEY);
    return { blocks: words.map((word) => word & ~LOST_KEY), lost };
  }

  #keyLength(keys: Uint8Array, length: number): number {
    if (!(keys instanceof Uint8Array)) throw invalidArgument("keys", keys, "a Uint8Array");
    if (!Number.isInteger(length) || length < 8 || length > this.keyBytes || length % 8 !== 0)
      throw invalidArgument("key length", length, `a multiple of 8 from 8 to ${this.keyBytes}`);
    return length;
  }
}

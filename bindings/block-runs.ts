/**
 * BlockRuns: blocks of a sequence side by side, so that its K and V move in few copies. The block groups of "FastSwitch"
 * (arXiv 2411.18424): free runs by start and by length, a run of its own ahead of each sequence, which still counts as free.
 */
import type { Core } from "./core.js";
import { requireInteger, statusError } from "./errors.js";
import { type Extent, FreeExtents } from "./free-extents.js";
import type { KvCache } from "./kv-cache.js";
import type { SequenceId } from "./kv-cache-options.js";

export interface BlockRunOptions {
  /**
   * Most blocks that a sequence is given at a time with those that it does not need yet, 1 to the pool. Default 60 (about
   * 1,000 tokens, as there), or a quarter of a smaller pool. Halved while less than a tenth of the pool is available.
   */
  reserve?: number;
}

export interface BlockRunStats {
  /** Blocks reserved at a time now, and reserved in all: free blocks that their sequences take first. */
  readonly group: number;
  readonly reserved: number;
  /** Reservations split for others, since creation. */
  readonly splits: number;
}

const DEFAULT_RESERVE = 60;

/** Word offsets in the header (docs/abi.md). */
const Header = { extents: 0, tails: 1, reserved: 2, group: 3, splits: 7 } as const;
const HEADER_WORDS = 8;

/** Checks options and fills in defaults; undefined without runs. */
export function blockRunShape(
  options: BlockRunOptions | true | undefined,
  blocks: number,
): Required<BlockRunOptions> | undefined {
  if (options === undefined) return undefined;
  const reserve = options === true ? undefined : options.reserve;
  const fallback = Math.max(1, Math.min(DEFAULT_RESERVE, blocks >> 2));
  return { reserve: requireInteger("blockRuns.reserve", reserve ?? fallback, 1, blocks) };
}

export class BlockRuns {
  readonly #core: Core;
  readonly #cache: KvCache;

  /** Made by a cache with `blockRuns`. */
  constructor(cache: KvCache) {
    this.#core = cache.core;
    this.#cache = cache;
  }

  /** Free runs that nobody has reserved, in order of their start. Copies. */
  free(): Extent[] {
    const pointer = this.#header()[Header.extents];
    return new FreeExtents(this.#core, pointer).list();
  }

  /** The free blocks that a sequence takes next. Throws UNKNOWN_SEQUENCE. */
  tail(sequence: SequenceId): Extent {
    this.#cache.length(sequence);
    const slot = sequence & 0xfffff;
    const [start, length] = new Uint32Array(
      this.#core.memory.buffer,
      this.#header()[Header.tails] + slot * 8,
      2,
    );
    return { start, length };
  }

  stats(): BlockRunStats {
    const header = this.#header();
    return {
      group: header[Header.group],
      reserved: header[Header.reserved],
      splits: header[Header.splits],
    };
  }

  #header(): Uint32Array {
    const { exports, memory } = this.#core;
    this.#core.requireUsable();
    const pointer = exports.kvRuns(this.#cache.pointer) >>> 0;
    if (pointer === 0) throw statusError(-19, "the cache has no runs");
    return new Uint32Array(memory.buffer, pointer, HEADER_WORDS);
  }
}

/**
 * FreeExtents: which runs of block ids are free, for engines that allocate contiguously.
 *
 *   const extents = core.freeExtents({ blocks: 4096 });
 *   const start = extents.allocate(60);         // best fit
 *   extents.allocateAt(start + 60, 4);          // extend the run in place
 *   extents.free(start, 64);                    // joins the free runs on both sides
 *
 * Kept by start and by length, as in "FastSwitch" (arXiv 2411.18424). One thread at a time.
 */
import type { Core } from "./core.js";
import { invalidArgument, requireInteger } from "./errors.js";

export interface FreeExtentsOptions {
  /** Blocks of the pool, 1 to 2^24; all are free at first. About 80 bytes each. */
  blocks: number;
}

/** A run of blocks. */
export interface Extent {
  readonly start: number;
  readonly length: number;
}

/** Lowest start that is long enough, or shortest that is long enough (ties: lowest start). */
export type Fit = "first" | "best";

const FITS: readonly Fit[] = ["first", "best"];
const BEST_OR_LARGEST = 2;
/** Extents read in one crossing. */
const BATCH = 4096;

export class FreeExtents {
  readonly core: Core;
  /** Address of the structure in core memory. */
  readonly pointer: number;
  /** Blocks of the pool. */
  readonly blocks: number;

  /** Made by `core.freeExtents(...)`. */
  constructor(core: Core, pointer: number) {
    this.core = core;
    this.pointer = pointer;
    this.blocks = core.exports.freeExtentsBlocks(pointer);
  }

  /** Checks options. */
  static shape(options: FreeExtentsOptions): FreeExtentsOptions {
    return { blocks: requireInteger("blocks", options?.blocks, 1, 2 ** 24) };
  }

  /**
   * Takes `length` blocks (1 to `blocks`) in one run and returns the first. Throws OUT_OF_BLOCKS when no free
   * run is that long.
   */
  allocate(length: number, fit: Fit = "best"): number {
    if (!FITS.includes(fit)) throw invalidArgument("fit", fit, FITS.join(", "));
    return this.#allocate(length, FITS.indexOf(fit));
  }

  /**
   * The best fit for `length` blocks; when no free run is that long, all of the longest (ties: lowest start).
   * Throws OUT_OF_BLOCKS only when no block is free.
   */
  allocateUpTo(length: number): Extent {
    const start = this.#allocate(length, BEST_OR_LARGEST);
    return { start, length: this.core.exports.freeExtentsAllocated(this.pointer) };
  }

  #allocate(length: number, fit: number): number {
    const { core, pointer, blocks } = this;
    requireInteger("length", length, 1, blocks);
    return core.call(
      () => core.exports.freeExtentsAllocate(pointer, length, fit),
      `allocate ${length} blocks`,
    );
  }

  /** Takes exactly the blocks from `start` on. Throws OUT_OF_BLOCKS unless all of them are free. */
  allocateAt(start: number, length: number): void {
    const { core, pointer } = this;
    this.#run(start, length);
    core.call(
      () => core.exports.freeExtentsAllocateAt(pointer, start, length),
      `allocateAt ${start}, ${length} blocks`,
    );
  }

  /** Gives blocks back. Throws ALREADY_FREE if one of them is free, and then has given back none. */
  free(start: number, length: number): void {
    const { core, pointer } = this;
    this.#run(start, length);
    core.call(() => core.exports.freeExtentsFree(pointer, start, length), `free ${start}, ${length} blocks`);
  }

  /** Free blocks. */
  get total(): number {
    return this.core.exports.freeExtentsTotal(this.pointer);
  }

  /** Length of the longest free run, 0 when no block is free. */
  get largest(): number {
    return this.core.exports.freeExtentsLargest(this.pointer);
  }

  /** Number of free runs. */
  get count(): number {
    return this.core.exports.freeExtentsCount(this.pointer);
  }

  /** The free runs in order of their start, from `from` on; copies. */
  list(from = 0): Extent[] {
    const { core, pointer } = this;
    core.requireUsable();
    requireInteger("from", from, 0, this.blocks);
    const at = core.scratch(BATCH * 8);
    const extents: Extent[] = [];
    for (let next = from; ;) {
      const count = core.exports.freeExtentsList(pointer, next, BATCH, at);
      const pairs = new Uint32Array(core.memory.buffer, at, count * 2);
      for (let i = 0; i < count; i++) extents.push({ start: pairs[2 * i], length: pairs[2 * i + 1] });
      if (count < BATCH) return extents;
      next = extents[extents.length - 1].start + 1;
    }
  }

  /** Full check, O(extents); throws CORRUPT. */
  validate(): void {
    this.core.call(() => this.core.exports.freeExtentsValidate(this.pointer), "freeExtents");
  }

  #run(start: number, length: number): void {
    requireInteger("start", start, 0, this.blocks - 1);
    requireInteger("length", length, 1, this.blocks - start);
  }
}

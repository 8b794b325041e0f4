/**
 * TwoLevelMemory: a fast memory of so many words before a slow one, managed by hand, that counts what is moved.
 *
 * A kernel computes on tiles alone: `load` copies words from a slow array into a tile, `make` gives an empty one, `store`
 * copies a tile out, `free` gives its words back. So what a kernel computes and what it is charged for come from the same
 * run. A tile that does not fit is refused. Words are floats of 4 bytes.
 */
import { invalidArgument, QuartermasterError } from "../../bindings/errors.js";

/** What words belong to. */
export type Region = "q" | "k" | "v" | "scores" | "statistics" | "output";

export const REGIONS: readonly Region[] = ["q", "k", "v", "scores", "statistics", "output"];

export type Ledger = Readonly<Record<Region, number>>;

export class TwoLevelMemory {
  readonly words: number;
  readonly #loaded = emptyLedger();
  readonly #stored = emptyLedger();
  readonly #tiles = new Set<Float32Array>();
  #resident = 0;
  #peak = 0;

  /** @param words of fast memory, at least 1 */
  constructor(words: number) {
    if (!(words >= 1)) throw invalidArgument("words", words, "at least 1");
    this.words = words;
  }

  get loaded(): Ledger {
    return this.#loaded;
  }

  get stored(): Ledger {
    return this.#stored;
  }

  /** Words moved either way. */
  get moved(): number {
    return REGIONS.reduce((sum, region) => sum + this.#loaded[region] + this.#stored[region], 0);
  }

  /** Words in tiles now. */
  get resident(): number {
    return this.#resident;
  }

  get peak(): number {
    return this.#peak;
  }

  /** A tile of zeros. Throws OUT_OF_MEMORY when it does not fit. */
  make(count: number): Float32Array {
    if (this.#resident + count > this.words)
      throw new QuartermasterError(
        "OUT_OF_MEMORY",
        `${count} words wanted, ${this.words - this.#resident} of ${this.words} are free`,
      );
    const tile = new Float32Array(count);
    this.#tiles.add(tile);
    this.#resident += count;
    this.#peak = Math.max(this.#peak, this.#resident);
    return tile;
  }

  /** A tile with `count` words of slow memory from `at` on, `stride` apart. */
  load(region: Region, from: Float32Array, at: number, count: number, stride = 1): Float32Array {
    const tile = this.make(count);
    for (let i = 0; i < count; i++) tile[i] = from[at + i * stride];
    this.#loaded[region] += count;
    return tile;
  }

  /**
   * Copies a tile's rows of `width` words to slow memory, `stride` apart; the tile stays.
   * @param width default: the whole tile is one row
   */
  store(
    region: Region,
    tile: Float32Array,
    to: Float32Array,
    at: number,
    width = tile.length,
    stride = width,
  ): void {
    this.#requireTile(tile);
    for (let i = 0; i < tile.length; i++) to[at + Math.floor(i / width) * stride + (i % width)] = tile[i];
    this.#stored[region] += tile.length;
  }

  free(...tiles: readonly Float32Array[]): void {
    for (const tile of tiles) {
      this.#requireTile(tile);
      this.#tiles.delete(tile);
      this.#resident -= tile.length;
    }
  }

  #requireTile(tile: Float32Array): void {
    if (!this.#tiles.has(tile))
      throw invalidArgument("tile", tile, "a tile of this memory that was not freed");
  }
}

function emptyLedger(): Record<Region, number> {
  return { q: 0, k: 0, v: 0, scores: 0, statistics: 0, output: 0 };
}

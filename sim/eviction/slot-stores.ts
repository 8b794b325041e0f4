/**
 * Where the slots of a sequence's lanes lie in the pool.
 *
 *   shared   one block table for all layers: blocks follow the longest lane of any layer
 *   folded   a table a layer, of slices: a block of L layers is L places for 16 tokens of one layer, whichever. Blocks
 *            follow the sum over layers, and one layer may hold a whole prompt while the others hold little
 *
 *   block 7   | slice 21: layer 0, slots 0-15 | slice 22: layer 2, slots 0-15 | slice 23: layer 2, slots 16-31 |
 */
import { MOVE_WORDS } from "../../bindings/statistics.js";
import { type LanePlace, pushMoves } from "./slot-moves.js";

/** Who gives blocks and takes them back. */
export interface BlockSource {
  readonly blockSize: number;
  readonly shape: { readonly layers: number; readonly kvHeads: number };
  take(count: number): number[];
  give(blocks: readonly number[]): void;
}

export interface SlotStore {
  /** Blocks held, in order. */
  readonly blocks: readonly number[];
  /** Slices of a layer's slots; undefined: the blocks are the table of every layer. */
  readonly tables: ((layer: number) => Uint32Array) | undefined;
  /** Makes room for `slots` slots of a layer's lanes. Throws OUT_OF_BLOCKS. */
  cover(layer: number, slots: number): void;
  /**
   * Gives back what no lane reaches. @param longest [layers] slots of each layer's longest lane
   * @param move runs records of Executor.move
   */
  trim(longest: readonly number[], move: (records: Uint32Array) => Promise<void>): Promise<void>;
  place(layer: number, kvHead: number): LanePlace;
  /** Gives all blocks back. */
  clear(): void;
}

export class SharedTable implements SlotStore {
  readonly blocks: number[] = [];
  readonly tables = undefined;
  readonly #source: BlockSource;

  constructor(source: BlockSource) {
    this.#source = source;
  }

  cover(_layer: number, slots: number): void {
    const needed = Math.ceil(slots / this.#source.blockSize) - this.blocks.length;
    if (needed > 0) this.blocks.push(...this.#source.take(needed));
  }

  async trim(longest: readonly number[]): Promise<void> {
    const keep = Math.ceil(Math.max(0, ...longest) / this.#source.blockSize);
    this.#source.give(this.blocks.splice(keep));
  }

  place(layer: number, kvHead: number): LanePlace {
    return { layer, kvHead, table: this.blocks, blockSize: this.#source.blockSize, slices: false };
  }

  clear(): void {
    this.#source.give(this.blocks.splice(0));
  }
}

export class FoldedTables implements SlotStore {
  readonly blocks: number[] = [];
  readonly #source: BlockSource;
  /** [layers] slices of its slots, in order. */
  readonly #tables: number[][];
  readonly #free = new Set<number>();

  constructor(source: BlockSource) {
    this.#source = source;
    this.#tables = Array.from({ length: source.shape.layers }, () => []);
  }

  readonly tables = (layer: number): Uint32Array => Uint32Array.from(this.#tables[layer]);

  cover(layer: number, slots: number): void {
    const { layers } = this.#source.shape;
    const table = this.#tables[layer];
    const missing = Math.ceil(slots / this.#source.blockSize) - table.length;
    const blocks = Math.ceil((missing - this.#free.size) / layers);
    if (blocks > 0)
      for (const block of this.#source.take(blocks)) {
        this.blocks.push(block);
        for (let i = 0; i < layers; i++) this.#free.add(block * layers + i);
      }
    for (let i = 0; i < missing; i++) table.push(this.#takeFree());
  }

  async trim(longest: readonly number[], move: (records: Uint32Array) => Promise<void>): Promise<void> {
    this.#tables.forEach((table, layer) => {
      for (const slice of table.splice(Math.ceil(longest[layer] / this.#source.blockSize)))
        this.#free.add(slice);
    });
    const { layers, kvHeads } = this.#source.shape;
    const records: number[] = [];
    const gone: number[] = [];
    // As many whole blocks as the free slices make up: the emptiest ones move their slices to the others.
    while (this.#free.size >= layers) {
      const block = this.#emptiest();
      for (let i = 0; i < layers; i++) this.#free.delete(block * layers + i);
      this.#tables.forEach((table, layer) =>
        table.forEach((slice, at) => {
          if (Math.floor(slice / layers) !== block) return;
          table[at] = this.#takeFree();
          for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
            const place = { ...this.place(layer, kvHead), table: [slice] };
            pushMoves(records, place, 0, 0, this.#source.blockSize, [table[at]]);
          }
        }),
      );
      this.blocks.splice(this.blocks.indexOf(block), 1);
      gone.push(block);
    }
    if (records.length >= MOVE_WORDS) await move(Uint32Array.from(records));
    this.#source.give(gone);
  }

  place(layer: number, kvHead: number): LanePlace {
    return { layer, kvHead, table: this.#tables[layer], blockSize: this.#source.blockSize, slices: true };
  }

  clear(): void {
    for (const table of this.#tables) table.length = 0;
    this.#free.clear();
    this.#source.give(this.blocks.splice(0));
  }

  #takeFree(): number {
    const [slice] = this.#free;
    this.#free.delete(slice);
    return slice;
  }

  /** The block with the most free slices, of equal ones the last. */
  #emptiest(): number {
    const { layers } = this.#source.shape;
    const counts = new Map(this.blocks.map((block) => [block, 0]));
    for (const slice of this.#free) {
      const block = Math.floor(slice / layers);
      counts.set(block, counts.get(block)! + 1);
    }
    return this.blocks.reduce((best, block) => (counts.get(block)! >= counts.get(best)! ? block : best));
  }
}

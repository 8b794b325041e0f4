/**
 * WasmPool: copies, moves and merges within kv[block][layer][K, V][kvHead][blockSize][headDim], f32. With layer groups a
 * page holds the layers of one group (layer-groups.ts); moves and merges are for models without.
 */
import { invalidArgument } from "../../bindings/errors.js";
import { TRANSFER_WORDS, TransferOp } from "../../bindings/plan.js";
import { MOVE_WORDS } from "../../bindings/statistics.js";
import type { GroupLayout } from "./layer-groups.js";
import { type ModelConfig, ropeFrequencies } from "./model-config.js";
import type { Merge } from "./moves.js";

export class WasmPool {
  readonly #memory: WebAssembly.Memory;
  readonly #kv: number;
  readonly #kvHeads: number;
  readonly #headDim: number;
  readonly #headBytes: number;
  readonly #planeBytes: number;
  readonly #blockBytes: number;
  readonly #frequencies: Float64Array;
  readonly #isInterleaved: boolean;

  readonly #layout: GroupLayout;

  /** @param kv address of block 0 */
  constructor(
    memory: WebAssembly.Memory,
    kv: number,
    config: ModelConfig,
    blockSize: number,
    layout: GroupLayout,
  ) {
    this.#layout = layout;
    this.#memory = memory;
    this.#kv = kv;
    this.#kvHeads = config.kvHeads;
    this.#headDim = config.headDim;
    this.#frequencies = ropeFrequencies(config);
    this.#isInterleaved = config.ropeLayout === "interleaved";
    this.#headBytes = config.headDim * 4;
    this.#planeBytes = this.#headBytes * blockSize;
    this.#blockBytes = layout.pageElements * 4;
  }

  /** Address of a layer's K in block 0. */
  layerBase(layer: number): number {
    const { index, blockSize } = this.#layout.layers[layer];
    return this.#kv + index * 2 * this.#kvHeads * blockSize * this.#headBytes;
  }

  /**
   * Copies runs of blocks to `host` or back, records of TRANSFER_WORDS. Returns how many blocks. Throws INVALID_ARGUMENT,
   * before anything is copied, for a block beyond the pool or the host's memory.
   */
  swap(
    records: Uint32Array,
    host: Uint8Array,
    pool: { readonly blocks: number; readonly blockSize: number },
  ): number {
    const device = new Uint8Array(this.#memory.buffer, this.#kv, pool.blocks * this.#blockBytes);
    const runs: [from: Uint8Array, to: Uint8Array][] = [];
    let blocks = 0;
    for (let at = 0; at < records.length; at += TRANSFER_WORDS) {
      const [op, , source, , target, tokens] = records.subarray(at, at + TRANSFER_WORDS);
      const [from, to] = op === TransferOp.SwapOut ? [device, host] : [host, device];
      const count = Math.ceil(tokens / pool.blockSize);
      const end = (memory: Uint8Array): number => memory.length / this.#blockBytes - count;
      if (source > end(from) || target > end(to))
        throw invalidArgument(
          `records[${at / TRANSFER_WORDS}]`,
          `${source} to ${target}`,
          "blocks that there are",
        );
      const run = (memory: Uint8Array, first: number): Uint8Array =>
        memory.subarray(first * this.#blockBytes, (first + count) * this.#blockBytes);
      runs.push([run(from, source), run(to, target)]);
      blocks += count;
    }
    for (const [from, to] of runs) to.set(from);
    return blocks;
  }

  /** Copies the first tokens of a block of a group to another one, in every layer and head. */
  copyBlock(source: number, target: number, tokens: number, group = 0): void {
    const bytes = new Uint8Array(this.#memory.buffer);
    const layers = this.#layout.layers.filter((layer) => layer.group === group);
    if (layers.length === 0) return;
    const planeBytes = this.#headBytes * layers[0].blockSize;
    const end = layers.length * 2 * this.#kvHeads * planeBytes;
    for (let plane = 0; plane < end; plane += planeBytes) {
      const from = this.#kv + source * this.#blockBytes + plane;
      bytes.copyWithin(this.#kv + target * this.#blockBytes + plane, from, from + tokens * this.#headBytes);
    }
  }

  /** Copies of whole blocks. */
  read(blocks: Uint32Array): Uint8Array {
    const payload = new Uint8Array(blocks.length * this.#blockBytes);
    blocks.forEach((block, i) => payload.set(this.#bytesOf(block), i * this.#blockBytes));
    return payload;
  }

  /** Writes whole blocks; the payload has as many. */
  write(blocks: Uint32Array, payload: Uint8Array): void {
    blocks.forEach((block, i) => {
      this.#bytesOf(block).set(payload.subarray(i * this.#blockBytes, (i + 1) * this.#blockBytes));
    });
  }

  #bytesOf(block: number): Uint8Array {
    return new Uint8Array(this.#memory.buffer, this.#kv + block * this.#blockBytes, this.#blockBytes);
  }

  /** Runs checked records of `Executor.move`, in order. */
  move(moves: Uint32Array): void {
    const bytes = new Uint8Array(this.#memory.buffer);
    for (let at = 0; at < moves.length; at += MOVE_WORDS) {
      const [layer, kvHead, source, sourceOffset, target, targetOffset, slots, how] = moves.subarray(
        at,
        at + MOVE_WORDS,
      );
      const slices = how & 1;
      for (const part of [0, 1]) {
        const place = (block: number, offset: number): number =>
          slices === 0
            ? this.#slot(layer, part, kvHead, block, offset)
            : this.#slot(0, part, kvHead, 0, offset) + block * 2 * this.#kvHeads * this.#planeBytes;
        const [from, to] = [place(source, sourceOffset), place(target, targetOffset)];
        bytes.copyWithin(to, from, from + slots * this.#headBytes);
        if (part === 0 && how > 1) this.#turnBack(to, slots, how >>> 1);
      }
    }
  }

  /** Gives each target the mean of its and its members' K and V. */
  merge(merges: readonly Merge[]): void {
    const floats = new Float32Array(this.#memory.buffer);
    const dim = this.#headDim;
    const sum = new Float32Array(dim);
    for (const { layer, kvHead, places } of merges) {
      for (const part of [0, 1]) {
        const at = (i: number): number => this.#slot(layer, part, kvHead, places[i], places[i + 1]) / 4;
        sum.fill(0);
        for (let i = 0; i < places.length; i += 2) {
          const from = at(i);
          for (let d = 0; d < dim; d++) sum[d] += floats[from + d];
        }
        const [to, count] = [at(0), places.length / 2];
        for (let d = 0; d < dim; d++) floats[to + d] = sum[d] / count;
      }
    }
  }

  /** Rotates keys of consecutive slots back by some positions. */
  #turnBack(keys: number, slots: number, positions: number): void {
    const data = new Float32Array(this.#memory.buffer, keys, slots * this.#headDim);
    const half = this.#headDim / 2;
    this.#frequencies.forEach((frequency, i) => {
      const [cos, sin] = [Math.cos(positions * frequency), Math.sin(positions * frequency)];
      const [first, second] = this.#isInterleaved ? [2 * i, 2 * i + 1] : [i, i + half];
      for (let at = 0; at < data.length; at += this.#headDim) {
        const [x, y] = [data[at + first], data[at + second]];
        data[at + first] = x * cos + y * sin;
        data[at + second] = y * cos - x * sin;
      }
    });
  }

  #slot(layer: number, part: number, kvHead: number, block: number, offset: number): number {
    const plane = (layer * 2 + part) * this.#kvHeads + kvHead;
    return this.#kv + block * this.#blockBytes + plane * this.#planeBytes + offset * this.#headBytes;
  }
}

/** Step plans of one row, for a host that keeps its lanes and blocks itself. The arrays are used again. */
import type { StepPlan } from "../../bindings/plan.js";
import { Phase } from "../../bindings/plan.js";

export class RowPlan {
  readonly #memory: WebAssembly.Memory;
  #next = 0;
  #step = 0;

  /** @param words u32 that the largest plan takes: 2 a token, 1 a block, 32 */
  constructor(words: number) {
    const pages = Math.ceil((words * 4) / 65536);
    this.#memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
  }

  /** A row of `tokens` after `computedBefore` others; it samples. Valid until the next call. */
  of(tokens: readonly number[], computedBefore: number, blocks: readonly number[]): StepPlan {
    this.#next = 64;
    const put = (values: readonly number[]): Uint32Array => {
      const view = new Uint32Array(this.#memory.buffer, this.#next, values.length);
      view.set(values);
      this.#next += values.length * 4;
      return view;
    };
    const count = tokens.length;
    return {
      stepId: ++this.#step,
      rows: 1,
      decodeRows: count === 1 ? 1 : 0,
      samplingRows: 1,
      totalTokens: count,
      running: 1,
      waiting: 0,
      freeBlocks: 0,
      evictableBlocks: 0,
      requests: put([0]),
      sequences: put([0]),
      phases: put([count === 1 ? Phase.Decode : Phase.LastChunk]),
      newTokens: put([count]),
      computedBefore: put([computedBefore]),
      layerLo: put([0]),
      layerHi: put([0]),
      tokenStart: put([0, count]),
      tokens: put(tokens),
      slots: put(tokens.map(() => 0)),
      tableStart: put([0]),
      tableCount: put([blocks.length]),
      tables: put(blocks),
      transfers: put([]),
      transferCount: 0,
      memory: this.#memory,
    };
  }
}

/**
 * Typed arrays over the whole of a core's memory, kept between calls: making one costs more than most calls
 * into the core.
 *
 * Growth detaches the arrays of a plain memory (they have length 0 then) and leaves those of a shared one too
 * short. An address beyond their end tells both, so no call needs to ask the memory whether it has grown.
 */
export class MemoryViews {
  readonly #memory: WebAssembly.Memory;
  #words: Uint32Array;
  #wides: BigUint64Array;

  constructor(memory: WebAssembly.Memory) {
    this.#memory = memory;
    this.#words = new Uint32Array(memory.buffer);
    this.#wides = new BigUint64Array(memory.buffer);
  }

  /** The u32 at an address, a multiple of 4. */
  word(address: number): number {
    const at = address >>> 2;
    if (at >= this.#words.length) this.#renew();
    return this.#words[at];
  }

  /** The u64 at an address, a multiple of 8. */
  wide(address: number): bigint {
    const at = address >>> 3;
    if (at >= this.#wides.length) this.#renew();
    return this.#wides[at];
  }

  #renew(): void {
    this.#words = new Uint32Array(this.#memory.buffer);
    this.#wides = new BigUint64Array(this.#memory.buffer);
  }
}

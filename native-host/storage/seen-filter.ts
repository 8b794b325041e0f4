/**
 * SeenFilter: which block keys have been met lately, in 4 to 8 bytes a key: two Bloom filters, of which one takes the keys
 * and the other still has those before. When the first has taken `remember` keys they change places and it begins empty, so
 * a key is remembered for `remember` to twice as many keys that follow it. Nothing is kept through a restart.
 *
 * Keys are digests, so their own bytes say where: one word of 32 bits, four bits in it. When both filters are full one key
 * in 80 or fewer is taken for one that was met; that costs a store, never a wrong block.
 */
import { requireInteger } from "../../bindings/errors.js";
import { requireKey } from "./records.js";

/** Keys that a word of 32 bits is meant for at most. */
const KEYS_OF_A_WORD = 2;

export class SeenFilter {
  readonly remember: number;
  #current: Uint32Array;
  #previous: Uint32Array;
  #taken = 0;

  /** Remembers the last `remember` keys at least, 1 to 2^28. */
  constructor(remember: number) {
    this.remember = requireInteger("remember", remember, 1, 2 ** 28);
    const words = 2 ** Math.ceil(Math.log2(Math.max(1, remember / KEYS_OF_A_WORD)));
    this.#current = new Uint32Array(words);
    this.#previous = new Uint32Array(words);
  }

  /** Whether a key of 32 bytes has been met before; it has been from now on. Throws INVALID_ARGUMENT. */
  meet(key: Uint8Array): boolean {
    const { buffer, byteOffset } = requireKey("key", key);
    const view = new DataView(buffer, byteOffset);
    const at = view.getUint32(0, true) & (this.#current.length - 1);
    const draw = view.getUint32(4, true);
    const bits = (1 << draw) | (1 << (draw >>> 5)) | (1 << (draw >>> 10)) | (1 << (draw >>> 15));
    const known = (this.#current[at] & bits) === bits;
    const met = known || (this.#previous[at] & bits) === bits;
    if (!known) {
      this.#current[at] |= bits;
      this.#taken += 1;
      if (this.#taken >= this.remember) this.#turn();
    }
    return met;
  }

  #turn(): void {
    [this.#current, this.#previous] = [this.#previous, this.#current];
    this.#current.fill(0);
    this.#taken = 0;
  }
}

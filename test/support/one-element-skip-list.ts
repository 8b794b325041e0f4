/**
 * A skip list of one element a node, p = 1/2, laid out as such lists are: a node is its key, its value and a
 * pointer for each of its levels, in one piece of memory, allocated in the order of insertion.
 */
import type { Random } from "./random.js";

const KEY_AND_VALUE = 16;
const POINTER = 8;

export class OneElementSkipList {
  /** By place in key order; place 0 is the head. */
  readonly #keys: BigUint64Array;
  readonly #heights: Uint8Array;
  readonly #addresses: Float64Array;
  /** Next place on each level. */
  readonly #next: Int32Array[];
  readonly #levels: number;

  /** Of growing keys, inserted in random order. */
  constructor(sorted: BigUint64Array, random: Random) {
    const count = sorted.length;
    this.#levels = Math.ceil(Math.log2(count));
    this.#keys = new BigUint64Array(count + 1);
    this.#keys.set(sorted, 1);
    this.#heights = new Uint8Array(count + 1).fill(this.#levels, 0, 1);
    for (let place = 1; place <= count; place++)
      this.#heights[place] = Math.min(this.#levels, 1 + Math.clz32(random.next()));
    this.#addresses = new Float64Array(count + 1);
    const order = Uint32Array.from({ length: count }, (_, i) => i + 1);
    for (let i = count - 1; i > 0; i--) {
      const other = random.below(i + 1);
      [order[i], order[other]] = [order[other], order[i]];
    }
    let address = KEY_AND_VALUE + this.#levels * POINTER;
    for (const place of order) {
      this.#addresses[place] = address;
      address += KEY_AND_VALUE + this.#heights[place] * POINTER;
    }
    this.#next = Array.from({ length: this.#levels }, () => new Int32Array(count + 1));
    const last = new Int32Array(this.#levels);
    for (let place = 1; place <= count; place++)
      for (let level = 0; level < this.#heights[place]; level++) {
        this.#next[level][last[level]] = place;
        last[level] = place;
      }
  }

  /** Distinct lines of 64 bytes that a lookup of `key` touches, and the nodes whose keys it reads. */
  lookup(key: bigint): { found: boolean; lines: number; nodes: number } {
    const lines = new Set<number>();
    const nodes = new Set<number>();
    let at = 0;
    for (let level = this.#levels - 1; level >= 0; level--) {
      for (;;) {
        lines.add(Math.floor((this.#addresses[at] + KEY_AND_VALUE + level * POINTER) / 64));
        const next = this.#next[level][at];
        if (next === 0) break;
        lines.add(Math.floor(this.#addresses[next] / 64));
        nodes.add(next);
        if (this.#keys[next] === key) return { found: true, lines: lines.size, nodes: nodes.size };
        if (this.#keys[next] > key) break;
        at = next;
      }
    }
    return { found: false, lines: lines.size, nodes: nodes.size };
  }
}

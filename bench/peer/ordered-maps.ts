/** Ordered maps from npm, and `Map`, as their users call them: keys and values are numbers below 2^53. */
import createTree, { type Tree } from "functional-red-black-tree";
import { OrderedMap } from "js-sdsl";
import BTreeModule from "sorted-btree";
import type { Replayer } from "../ordered-index/replay.js";
import { Kind, type Phase } from "../ordered-index/workload.js";

// The package is CommonJS: its class is the default export of the default export.
const BTree = BTreeModule.default;

const compare = (a: number, b: number): number => a - b;

interface NumberMap {
  readonly count: number;
  get(key: number): number | undefined;
  set(key: number, value: number): void;
  /** Sum modulo 2^32 of up to `limit` keys and values from `key` on. */
  scan?(key: number, limit: number): number;
}

class SortedBtree implements NumberMap {
  readonly #tree = new BTree<number, number>(undefined, compare);
  /** Reused by the iterator, as its documentation advises. */
  readonly #pair: number[] = [];

  get count(): number {
    return this.#tree.size;
  }

  get(key: number): number | undefined {
    return this.#tree.get(key);
  }

  set(key: number, value: number): void {
    this.#tree.set(key, value);
  }

  scan(key: number, limit: number): number {
    let sum = 0;
    const entries = this.#tree.entries(key, this.#pair);
    for (let i = 0; i < limit; i++) {
      const next = entries.next();
      if (next.done) break;
      sum = (sum + (next.value[0] | 0) + (next.value[1] | 0)) | 0;
    }
    return sum;
  }
}

class JsSdslOrderedMap implements NumberMap {
  readonly #map = new OrderedMap<number, number>([], compare);

  get count(): number {
    return this.#map.size();
  }

  get(key: number): number | undefined {
    return this.#map.getElementByKey(key);
  }

  set(key: number, value: number): void {
    this.#map.setElement(key, value);
  }

  scan(key: number, limit: number): number {
    let sum = 0;
    const at = this.#map.lowerBound(key);
    for (let i = 0; i < limit && at.isAccessible(); i++) {
      const { pointer } = at;
      sum = (sum + (pointer[0] | 0) + (pointer[1] | 0)) | 0;
      at.next();
    }
    return sum;
  }
}

class FunctionalRedBlackTree implements NumberMap {
  #tree: Tree<number, number> = createTree(compare);

  get count(): number {
    return this.#tree.length;
  }

  get(key: number): number | undefined {
    return this.#tree.get(key);
  }

  set(key: number, value: number): void {
    // `insert` would keep both entries of a key that is there.
    const at = this.#tree.find(key);
    this.#tree = at.valid ? at.update(value) : this.#tree.insert(key, value);
  }

  scan(key: number, limit: number): number {
    let sum = 0;
    const at = this.#tree.ge(key);
    for (let i = 0; i < limit && at.valid; i++) {
      sum = (sum + (at.key! | 0) + (at.value! | 0)) | 0;
      at.next();
    }
    return sum;
  }
}

class HashMap implements NumberMap {
  readonly #map = new Map<number, number>();

  get count(): number {
    return this.#map.size;
  }

  get(key: number): number | undefined {
    return this.#map.get(key);
  }

  set(key: number, value: number): void {
    this.#map.set(key, value);
  }
}

export const NUMBER_MAPS: Readonly<Record<string, new () => NumberMap>> = {
  "sorted-btree": SortedBtree,
  "js-sdsl": JsSdslOrderedMap,
  "functional-red-black-tree": FunctionalRedBlackTree,
  Map: HashMap,
};

export class NumberMapReplayer implements Replayer {
  readonly sampled = true;
  readonly #map: NumberMap;
  #keys: Float64Array = new Float64Array(0);
  #codes: Uint32Array = new Uint32Array(0);

  constructor(map: NumberMap) {
    this.#map = map;
  }

  prepareLoad(keys: BigUint64Array): void {
    this.#keys = numbers(keys);
  }

  load(): void {
    const map = this.#map;
    const keys = this.#keys;
    for (let i = 0; i < keys.length; i++) map.set(keys[i], keys[i]);
  }

  prepare(phase: Phase): boolean {
    if (phase.letter === "e" && this.#map.scan === undefined) return false;
    this.#keys = numbers(phase.keys);
    this.#codes = phase.codes;
    return true;
  }

  run(from: number, to: number): number {
    const map = this.#map;
    const keys = this.#keys;
    const codes = this.#codes;
    let sum = 0;
    for (let i = from; i < to; i++) {
      const key = keys[i];
      const code = codes[i];
      switch (code & 0xff) {
        case Kind.Read:
          sum = (sum + (map.get(key)! | 0)) | 0;
          break;
        case Kind.Scan:
          sum = (sum + map.scan!(key, code >> 8)) | 0;
          break;
        case Kind.Insert:
          map.set(key, key);
          break;
        default:
          map.set(key, key + 1);
      }
    }
    return sum;
  }

  size(): number {
    return this.#map.count;
  }
}

function numbers(keys: BigUint64Array): Float64Array {
  return Float64Array.from(keys, (key) => Number(key));
}

declare module "functional-red-black-tree" {
  export interface Iterator<K, V> {
    readonly valid: boolean;
    readonly key: K | undefined;
    readonly value: V | undefined;
    next(): void;
    update(value: V): Tree<K, V>;
  }

  export interface Tree<K, V> {
    readonly length: number;
    get(key: K): V | undefined;
    insert(key: K, value: V): Tree<K, V>;
    find(key: K): Iterator<K, V>;
    ge(key: K): Iterator<K, V>;
  }

  export default function createTree<K, V>(compare?: (a: K, b: K) => number): Tree<K, V>;
}

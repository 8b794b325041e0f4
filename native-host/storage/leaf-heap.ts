/** LeafHeap: keys by stamp, the smallest first; a binary heap. */
export interface Stamped {
  readonly key: string;
  readonly stamp: number;
}

export class LeafHeap {
  readonly #items: Stamped[] = [];

  get size(): number {
    return this.#items.length;
  }

  clear(): void {
    this.#items.length = 0;
  }

  push(key: string, stamp: number): void {
    const items = this.#items;
    let at = items.length;
    const item = { key, stamp };
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (items[parent].stamp <= stamp) break;
      items[at] = items[parent];
      at = parent;
    }
    items[at] = item;
  }

  pop(): Stamped | undefined {
    const items = this.#items;
    const first = items[0];
    const last = items.pop();
    if (last === undefined || items.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= items.length) break;
      if (child + 1 < items.length && items[child + 1].stamp < items[child].stamp) child += 1;
      if (items[child].stamp >= last.stamp) break;
      items[at] = items[child];
      at = child;
    }
    items[at] = last;
    return first;
  }
}

/**
 * TierIndex: what a tier of this process holds: each block's size, where its record lies if it is on a disk, the order of use,
 * and which block stands before which. Whoever watches the tier hears of every block that enters and leaves it.
 *
 * Tail first: a block with others behind it is never the victim, for what stands behind it could not be part of a prefix
 * any more.
 */
import { LeafHeap } from "./leaf-heap.js";
import { groupIn, keyBytes } from "./records.js";
import type { TierBlock, TierChange } from "./tier-backend.js";
import { ancestorsFirst, TierWatch } from "./tier-watch.js";

export interface Entry {
  readonly key: string;
  /** Key of the block before it; undefined: the first of its prefix. */
  readonly parent: string | undefined;
  readonly fingerprint: number;
  readonly tenant: number;
  readonly flags: number;
  readonly segment: number;
  readonly offset: number;
  /** Bytes of the record. */
  readonly bytes: number;
}

interface Node {
  entry: Entry;
  /** Time of its last use, counted in uses. */
  used: number;
  /** Blocks whose parent it is. */
  children: number;
  /** No chain of parents leads from it to a first block. */
  orphan: boolean;
  /** What `parent` names, when it was last looked up. */
  before: Node | undefined;
  /** It is not in the index (any more). */
  gone: boolean;
  /** The last search for orphans that came by. */
  seen: number;
}

function nodeOf(entry: Entry): Node {
  return { entry, used: 0, children: 0, orphan: false, before: undefined, gone: true, seen: 0 };
}

function blockOf({ key, parent, flags }: Entry): TierBlock {
  return {
    key: keyBytes(key),
    parent: parent === undefined ? undefined : keyBytes(parent),
    group: groupIn(flags),
  };
}

export class TierIndex {
  /** By key, least recently used first. */
  readonly #nodes = new Map<string, Node>();
  /** Blocks that wait for a parent that is not there, by its key. */
  readonly #waiting = new Map<string, number>();
  /** Blocks that none stood behind when they were last used, and some that are no longer what they were. */
  readonly #leaves = new LeafHeap();
  readonly #watch = new TierWatch();
  readonly #live = new Map<number, number>();
  #clock = 0;
  #searches = 0;
  /** While recovering: the block entered last. */
  #latest: Node | undefined;
  orphans = 0;
  liveBytes = 0;

  get size(): number {
    return this.#nodes.size;
  }

  get(key: string): Entry | undefined {
    return this.#nodes.get(key)?.entry;
  }

  /** As `TierBackend.watch`. */
  watch(listener: (change: TierChange) => void): () => void {
    return this.#watch.add(listener, this.#blocks());
  }

  *#blocks(): Generator<TierBlock> {
    for (const [, { entry }] of ancestorsFirst(this.#nodes, ({ entry }) => entry.parent))
      yield blockOf(entry);
  }

  *entries(): IterableIterator<Entry> {
    for (const { entry } of this.#nodes.values()) yield entry;
  }

  isOrphan(key: string): boolean {
    return this.#nodes.get(key)?.orphan ?? false;
  }

  /** Bytes of a segment's records that are some block's. */
  liveIn(segment: number): number {
    return this.#live.get(segment) ?? 0;
  }

  /** While recovering: enters a block, or forgets it when `entry` is undefined. `recovered` does the rest, once. */
  recover(key: string, entry: Entry | undefined): void {
    if (entry === undefined) {
      this.#nodes.delete(key);
      return;
    }
    const node = nodeOf(entry);
    // Most blocks were stored right behind the one before them.
    if (entry.parent !== undefined && entry.parent === this.#latest?.entry.key) node.before = this.#latest;
    this.#latest = node;
    const { size } = this.#nodes;
    this.#nodes.set(key, node);
    if (this.#nodes.size > size) return;
    // It has come again: used last.
    this.#nodes.delete(key);
    this.#nodes.set(key, node);
  }

  /** All blocks have been recovered, the least recently used first. O(blocks). */
  recovered(): void {
    this.#latest = undefined;
    for (const node of this.#nodes.values()) node.gone = false;
    for (const node of this.#nodes.values()) {
      node.used = ++this.#clock;
      this.#count(node.entry.segment, node.entry.bytes);
      this.#join(node);
    }
    this.findOrphans();
    this.#findLeaves();
  }

  /** Enters a block, in place of an older record of it. */
  set(entry: Entry): void {
    this.delete(entry.key);
    const { key, parent } = entry;
    const children = this.#waiting.get(key) ?? 0;
    this.#waiting.delete(key);
    const node = nodeOf(entry);
    node.gone = false;
    node.children = children;
    const before = this.#before(node);
    node.orphan = parent !== undefined && (before === undefined || before.orphan);
    this.#nodes.set(key, node);
    if (node.orphan) this.orphans += 1;
    this.#count(entry.segment, entry.bytes);
    this.#join(node);
    this.#use(node);
    // What was waiting for it: few, and only after a crash or a deletion.
    if (children > 0) this.findOrphans();
    this.#watch.tell(() => ({ type: "stored", blocks: [blockOf(entry)] }));
  }

  /** Takes a block out. What stands behind it waits for it to come back, as orphans. */
  delete(key: string): Entry | undefined {
    const node = this.#nodes.get(key);
    if (node === undefined) return undefined;
    const { entry, children } = node;
    this.#nodes.delete(key);
    node.gone = true;
    if (node.orphan) this.orphans -= 1;
    this.#count(entry.segment, -entry.bytes);
    this.#leave(node);
    if (children > 0) {
      this.#waiting.set(key, children);
      this.findOrphans();
    }
    this.#watch.tell(() => ({ type: "removed", keys: [keyBytes(key)] }));
    return entry;
  }

  /** The record of a block lies elsewhere now; its place in the order of use stays. */
  moved(key: string, segment: number, offset: number): void {
    const node = this.#nodes.get(key);
    if (node === undefined) return;
    this.#count(node.entry.segment, -node.entry.bytes);
    this.#count(segment, node.entry.bytes);
    node.entry = { ...node.entry, segment, offset };
  }

  touch(key: string): void {
    const node = this.#nodes.get(key);
    if (node === undefined) return;
    this.#nodes.delete(key);
    this.#nodes.set(key, node);
    this.#use(node);
  }

  /** The least recently used block that none stands behind. O(log blocks) on average. */
  victim(): Entry | undefined {
    for (;;) {
      const oldest = this.#leaves.pop();
      // Only forged parents that go round in a circle leave blocks and no leaf.
      if (oldest === undefined) return this.entries().next().value;
      const node = this.#nodes.get(oldest.key);
      if (node !== undefined && node.used === oldest.stamp && node.children === 0) return node.entry;
    }
  }

  /** Finds the orphans anew, O(blocks): those whose chain of parents ends in nothing, or goes round in a circle. */
  findOrphans(): void {
    const search = ++this.#searches;
    this.orphans = 0;
    const path: Node[] = [];
    for (const start of this.#nodes.values()) {
      path.length = 0;
      let at: Node | undefined = start;
      // Until it is known better a block is an orphan: whoever comes back to it has gone in a circle.
      while (at !== undefined && at.seen !== search) {
        at.seen = search;
        path.push(at);
        at.orphan = at.entry.parent !== undefined;
        if (!at.orphan) break;
        at = this.#before(at);
      }
      const orphan = at === undefined || at.orphan;
      for (const node of path) node.orphan = orphan;
      if (orphan) this.orphans += path.length;
    }
  }

  /** The block before a block, if it is there. */
  #before(node: Node): Node | undefined {
    const { parent } = node.entry;
    if (parent === undefined) return undefined;
    if (node.before === undefined || node.before.gone) node.before = this.#nodes.get(parent);
    return node.before;
  }

  /** A block stands behind its parent from now on. */
  #join(node: Node): void {
    const { parent } = node.entry;
    if (parent === undefined) return;
    const before = this.#before(node);
    if (before !== undefined) before.children += 1;
    else this.#waiting.set(parent, (this.#waiting.get(parent) ?? 0) + 1);
  }

  #leave(node: Node): void {
    const { parent } = node.entry;
    if (parent === undefined) return;
    const before = this.#before(node);
    if (before !== undefined) {
      before.children -= 1;
      if (before.children === 0) this.#leaves.push(parent, before.used);
      return;
    }
    const left = (this.#waiting.get(parent) ?? 1) - 1;
    if (left > 0) this.#waiting.set(parent, left);
    else this.#waiting.delete(parent);
  }

  #use(node: Node): void {
    this.#clock += 1;
    node.used = this.#clock;
    if (this.#leaves.size > 4 * this.#nodes.size + 64) this.#findLeaves();
    else if (node.children === 0) this.#leaves.push(node.entry.key, this.#clock);
  }

  /** Makes the heap anew: it had become mostly what is no longer true. */
  #findLeaves(): void {
    this.#leaves.clear();
    for (const node of this.#nodes.values())
      if (node.children === 0) this.#leaves.push(node.entry.key, node.used);
  }

  #count(segment: number, bytes: number): void {
    this.liveBytes += bytes;
    const live = (this.#live.get(segment) ?? 0) + bytes;
    if (live > 0) this.#live.set(segment, live);
    else this.#live.delete(segment);
  }
}

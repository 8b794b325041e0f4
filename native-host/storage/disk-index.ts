/**
 * DiskIndex: what the disk tier holds, in memory: where each block's record lies, in order of use, and which block stands
 * before which.
 *
 * Tail first: a block with others behind it is never the victim, for what stands behind it could not be part of a prefix
 * any more.
 */
import { LeafHeap } from "./leaf-heap.js";

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

export class DiskIndex {
  /** By key, least recently used first. */
  readonly #entries = new Map<string, Entry>();
  readonly #children = new Map<string, number>();
  /** Time of the last use of each block, counted in uses. */
  readonly #used = new Map<string, number>();
  /** Blocks that none stood behind when they were last used, and some that are no longer what they were. */
  readonly #leaves = new LeafHeap();
  #clock = 0;
  /** Blocks that no chain of parents leads from to a first block. */
  #orphans = new Set<string>();
  readonly #live = new Map<number, number>();
  liveBytes = 0;

  get size(): number {
    return this.#entries.size;
  }

  get orphans(): number {
    return this.#orphans.size;
  }

  get(key: string): Entry | undefined {
    return this.#entries.get(key);
  }

  entries(): IterableIterator<Entry> {
    return this.#entries.values();
  }

  isOrphan(entry: Entry): boolean {
    return this.#orphans.has(entry.key);
  }

  /** Bytes of a segment's records that are some block's. */
  liveIn(segment: number): number {
    return this.#live.get(segment) ?? 0;
  }

  /** Enters a block, in place of an older record of it. `restoring`: orphans are found once, at the end. */
  set(entry: Entry, restoring = false): void {
    this.delete(entry.key);
    this.#entries.set(entry.key, entry);
    this.#use(entry.key);
    this.#count(entry.segment, entry.bytes);
    if (entry.parent !== undefined)
      this.#children.set(entry.parent, (this.#children.get(entry.parent) ?? 0) + 1);
    if (restoring) return;
    const { parent } = entry;
    if (parent !== undefined && (!this.#entries.has(parent) || this.#orphans.has(parent)))
      this.#orphans.add(entry.key);
    else this.#orphans.delete(entry.key);
    // What was waiting for it: few, and only after a crash or a deletion.
    if (this.#orphans.size > 0 && this.#children.has(entry.key)) this.findOrphans();
  }

  delete(key: string): Entry | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    this.#entries.delete(key);
    this.#used.delete(key);
    this.#orphans.delete(key);
    this.#count(entry.segment, -entry.bytes);
    if (entry.parent !== undefined) {
      const left = (this.#children.get(entry.parent) ?? 1) - 1;
      if (left > 0) this.#children.set(entry.parent, left);
      else {
        this.#children.delete(entry.parent);
        const stamp = this.#used.get(entry.parent);
        if (stamp !== undefined) this.#leaves.push(entry.parent, stamp);
      }
    }
    return entry;
  }

  /** A block has gone for good: what stands behind it becomes orphans. */
  lose(key: string): Entry | undefined {
    const entry = this.delete(key);
    if (entry !== undefined && this.#children.has(key)) this.findOrphans();
    return entry;
  }

  /** The record of a block lies elsewhere now; its place in the order of use stays. */
  moved(key: string, segment: number, offset: number): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    this.#count(entry.segment, -entry.bytes);
    this.#count(segment, entry.bytes);
    this.#entries.set(key, { ...entry, segment, offset });
  }

  touch(key: string): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    this.#use(key);
  }

  /** The least recently used block that none stands behind. O(log blocks) on average. */
  victim(): Entry | undefined {
    for (;;) {
      const oldest = this.#leaves.pop();
      // Only forged parents that go round in a circle leave blocks and no leaf.
      if (oldest === undefined) return this.#entries.values().next().value;
      if (this.#used.get(oldest.key) === oldest.stamp && !this.#children.has(oldest.key))
        return this.#entries.get(oldest.key);
    }
  }

  /** Finds the orphans anew, O(blocks): those whose chain of parents ends in nothing, or goes round in a circle. */
  findOrphans(): void {
    const state = new Map<string, boolean>();
    for (const start of this.#entries.keys()) {
      const path: string[] = [];
      let at: string | undefined = start;
      let rooted = true;
      while (at !== undefined) {
        const known = state.get(at);
        if (known !== undefined) {
          rooted = known;
          break;
        }
        const entry = this.#entries.get(at);
        if (entry === undefined) {
          rooted = false;
          break;
        }
        // Until it is known better: whoever comes back here has gone in a circle.
        state.set(at, false);
        path.push(at);
        at = entry.parent;
      }
      for (const key of path) state.set(key, rooted);
    }
    this.#orphans = new Set([...state].filter(([, rooted]) => !rooted).map(([key]) => key));
  }

  #use(key: string): void {
    this.#clock += 1;
    this.#used.set(key, this.#clock);
    if (this.#leaves.size > 4 * this.#entries.size + 64) this.#findLeaves();
    else if (!this.#children.has(key)) this.#leaves.push(key, this.#clock);
  }

  /** Makes the heap anew: it had become mostly what is no longer true. */
  #findLeaves(): void {
    this.#leaves.clear();
    for (const [key, stamp] of this.#used) if (!this.#children.has(key)) this.#leaves.push(key, stamp);
  }

  #count(segment: number, bytes: number): void {
    this.liveBytes += bytes;
    const live = (this.#live.get(segment) ?? 0) + bytes;
    if (live > 0) this.#live.set(segment, live);
    else this.#live.delete(segment);
  }
}

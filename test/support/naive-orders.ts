/** Eviction orders as their definitions say, each victim found by looking at every candidate. */
import type { MapBlock, MapOrder } from "../../bench/peer/map-cache.js";

interface Note {
  count: number;
  /** When the last holder let go. */
  rested: number;
  /** First key of the order; `rested` or depth decide among equals. */
  rank: number;
  queue: "small" | "main";
}

/** What is left of blocks that have gone: the latest `capacity` of them, by name. */
class NaiveHistory {
  #entries: { name: number; count: number }[] = [];
  constructor(readonly capacity: number) {}

  add(name: number, count: number): void {
    this.#entries.push({ name, count });
    if (this.#entries.length > this.capacity) this.#entries.shift();
  }

  /** Takes the latest entry out; its place in the row stays used. */
  take(name: number): number | undefined {
    const at = this.#entries.findLastIndex((entry) => entry.name === name);
    if (at < 0) return undefined;
    const { count } = this.#entries[at];
    this.#entries[at] = { name: 0, count: 0 };
    return count;
  }
}

export abstract class NaiveOrder implements MapOrder {
  protected clock = 0;
  protected readonly notes = new Map<MapBlock, Note>();
  protected readonly history: NaiveHistory;

  constructor(history = 0) {
    this.history = new NaiveHistory(history);
  }

  enter(block: MapBlock): void {
    const note: Note = { count: this.history.take(block.name) ?? 0, rested: 0, rank: 0, queue: "small" };
    this.notes.set(block, note);
    this.entered(note, block);
  }

  use(block: MapBlock): void {
    this.used(this.notes.get(block)!, block);
  }

  rest(block: MapBlock): void {
    this.notes.get(block)!.rested = ++this.clock;
  }

  leave(block: MapBlock, evicted: boolean): void {
    const note = this.notes.get(block)!;
    this.notes.delete(block);
    this.left(note, evicted);
    this.history.add(block.name, note.count);
  }

  victim(candidates: MapBlock[]): MapBlock {
    return candidates.reduce((best, block) => (this.before(block, best) ? block : best));
  }

  protected before(a: MapBlock, b: MapBlock): boolean {
    const [first, second] = [this.notes.get(a)!, this.notes.get(b)!];
    return first.rank < second.rank || (first.rank === second.rank && this.tie(a, b));
  }

  protected tie(a: MapBlock, b: MapBlock): boolean {
    return depth(a) > depth(b) || (depth(a) === depth(b) && this.older(a, b));
  }

  protected older(a: MapBlock, b: MapBlock): boolean {
    return this.notes.get(a)!.rested < this.notes.get(b)!.rested;
  }

  protected entered(note: Note, block: MapBlock): void {
    this.used(note, block);
  }

  protected abstract used(note: Note, block: MapBlock): void;
  protected left(_note: Note, _evicted: boolean): void {}
}

export function depth(block: MapBlock): number {
  return block.parent ? 1 + depth(block.parent) : 0;
}

export class NaiveFifo extends NaiveOrder {
  protected override entered(note: Note): void {
    note.rank = ++this.clock;
  }
  protected used(): void {}
}

export class NaiveLfu extends NaiveOrder {
  protected used(note: Note): void {
    note.rank = note.count += 1;
  }
  protected override tie(a: MapBlock, b: MapBlock): boolean {
    return this.older(a, b);
  }
}

export class NaiveSeenTwice extends NaiveOrder {
  readonly #gone = new Set<number>();
  constructor(readonly remembered: number) {
    super();
  }
  protected override entered(note: Note, block: MapBlock): void {
    note.rank = this.#gone.has(block.name) ? 2 : 1;
  }
  protected used(note: Note): void {
    note.rank = 2;
  }
  override leave(block: MapBlock, evicted: boolean): void {
    if (this.remembered > 0) this.#gone.add(block.name);
    super.leave(block, evicted);
  }
  protected override tie(a: MapBlock, b: MapBlock): boolean {
    return this.older(a, b);
  }
}

export class NaiveGdsf extends NaiveOrder {
  #inflation = 0;
  constructor(
    history: number,
    readonly baseCost: number,
    readonly depthCost: number,
  ) {
    super(history);
  }
  protected used(note: Note, block: MapBlock): void {
    note.count += 1;
    note.rank = this.#inflation + note.count * (this.baseCost + depth(block) * this.depthCost);
  }
  protected override left(note: Note, evicted: boolean): void {
    if (evicted) this.#inflation = note.rank;
  }
}

export class NaiveScored extends NaiveOrder {
  protected used(): void {}
  score(block: MapBlock, score: number): void {
    this.notes.get(block)!.rank = score;
  }
}

/** Priorities for a while, and times to live, on the host's clock. */
export class NaivePriority extends NaiveOrder {
  readonly #terms = new Map<MapBlock, { priority: number; until: number; live: number; outlived: boolean }>();

  override enter(block: MapBlock): void {
    super.enter(block);
    this.#terms.set(block, { priority: 35, until: Infinity, live: Infinity, outlived: false });
  }
  protected override entered(): void {}
  protected used(_note: Note, block: MapBlock): void {
    Object.assign(this.#terms.get(block)!, { live: Infinity, outlived: false });
  }
  give(block: MapBlock, priority: number, until: number, live: number): void {
    this.#terms.set(block, { priority, until, live, outlived: false });
  }
  advance(now: number): void {
    for (const terms of this.#terms.values()) {
      if (terms.until <= now) Object.assign(terms, { priority: 35, until: Infinity });
      if (terms.live <= now) Object.assign(terms, { outlived: true, live: Infinity });
    }
  }
  override leave(block: MapBlock, evicted: boolean): void {
    super.leave(block, evicted);
    this.#terms.delete(block);
  }
  protected override before(a: MapBlock, b: MapBlock): boolean {
    const [first, second] = [a, b].map((block) => {
      const { outlived, priority } = this.#terms.get(block)!;
      return outlived ? -1 : priority;
    });
    return first < second || (first === second && this.older(a, b));
  }
  /** Next time at which something changes. */
  get next(): number {
    return Math.min(Infinity, ...[...this.#terms.values()].flatMap(({ until, live }) => [until, live]));
  }
}

export class NaiveS3Fifo extends NaiveOrder {
  override enter(block: MapBlock): void {
    const known = this.history.take(block.name) !== undefined;
    this.notes.set(block, { count: 0, rested: 0, rank: ++this.clock, queue: known ? "main" : "small" });
  }
  protected used(note: Note): void {
    note.count = Math.min(3, note.count + 1);
  }
  override rest(): void {}
  override leave(block: MapBlock): void {
    const { queue } = this.notes.get(block)!;
    this.notes.delete(block);
    if (queue === "small") this.history.add(block.name, 0);
  }
  override victim(candidates: MapBlock[]): MapBlock {
    for (;;) {
      const oldest = (queue: "small" | "main"): MapBlock | undefined =>
        candidates
          .filter((block) => this.notes.get(block)!.queue === queue)
          .sort((a, b) => this.notes.get(a)!.rank - this.notes.get(b)!.rank)[0];
      const small = [...this.notes.values()].filter(({ queue }) => queue === "small").length;
      const [fromSmall, fromMain] = [oldest("small"), oldest("main")];
      const block =
        fromMain === undefined || (fromSmall && small * 10 > this.notes.size) ? fromSmall! : fromMain;
      const note = this.notes.get(block)!;
      if (note.count <= (note.queue === "small" ? 1 : 0)) return block;
      note.count = note.queue === "small" ? 0 : note.count - 1;
      note.queue = "main";
      note.rank = ++this.clock;
    }
  }
}

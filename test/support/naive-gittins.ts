/** The learned order as its definition says: every life kept, every index computed from all hazards. */
import type { MapBlock, MapOrder } from "../../bench/peer/map-cache.js";

interface Life {
  readonly begin: number;
  readonly group: string;
  ended: boolean;
}

interface Note {
  uses: number;
  life?: Life;
  resting: boolean;
}

const GROUPS = [1, 2, 3, 4, 5, 6, 12, 24];
const BUCKETS = 18;

/** The 8 groups of uses, childless or not, in the core's order. */
function groupOf(uses: number, childless: boolean): string {
  return `${GROUPS.findLast((least) => uses >= least)!} ${childless}`;
}

const lowest = (bucket: number): number => (bucket === 0 ? 0 : 2 ** (bucket - 1));
const bucketOf = (age: number): number =>
  Math.min(BUCKETS - 1, age === 0 ? 0 : Math.floor(Math.log2(age)) + 1);

/** Counts of one group, by bucket of age. */
class Group {
  returns = new Array<number>(BUCKETS).fill(0);
  reached = new Array<number>(BUCKETS).fill(0);
  hazards = new Array<number>(BUCKETS).fill(0);
  learned = false;

  index(age: number): number {
    if (!this.learned) return 0;
    let [alive, uses, time, best] = [1, 0, 0, 0];
    for (let bucket = bucketOf(age); bucket < BUCKETS; bucket++) {
      const hazard = this.hazards[bucket];
      uses += alive * hazard;
      time += alive * (lowest(bucket + 1) - lowest(bucket)) * (1 - hazard / 2);
      alive *= 1 - hazard;
      best = Math.max(best, uses / time);
    }
    return best;
  }
}

export class NaiveGittins implements MapOrder {
  readonly #notes = new Map<MapBlock, Note>();
  readonly #lives: Life[] = [];
  readonly #groups = new Map<string, Group>();
  readonly #history: { name: number; note: Note }[] = [];
  #nextLesson: number;

  constructor(
    readonly historySize: number,
    firstLesson = 256,
  ) {
    this.#nextLesson = firstLesson;
    for (const childless of [false, true])
      for (const uses of GROUPS) this.#groups.set(groupOf(uses, childless), new Group());
  }

  enter(block: MapBlock): void {
    const at = this.#history.findLastIndex(({ name }) => name === block.name);
    const note: Note = { uses: 1, resting: false };
    if (at >= 0) {
      const { note: left } = this.#history[at];
      this.#history[at] = { name: 0, note: left };
      this.#end(left, true);
      note.uses = left.uses + 1;
    }
    this.#notes.set(block, note);
  }

  use(block: MapBlock): void {
    const note = this.#notes.get(block)!;
    note.uses += 1;
    note.resting = false;
    this.#end(note, true);
  }

  rest(block: MapBlock): void {
    const note = this.#notes.get(block)!;
    this.#end(note, false);
    const life = { begin: this.#lives.length, group: groupOf(note.uses, block.children === 0), ended: false };
    note.life = life;
    note.resting = true;
    this.#lives.push(life);
    this.#groups.get(life.group)!.reached[0] += 1;
    for (let bucket = 1; bucket < BUCKETS; bucket++) {
      const other = this.#lives[life.begin - lowest(bucket)];
      if (other && !other.ended) this.#groups.get(other.group)!.reached[bucket] += 1;
    }
    if (this.#lives.length === this.#nextLesson) {
      this.#nextLesson += Math.min(this.#nextLesson, 16384);
      this.#learn();
    }
  }

  leave(block: MapBlock): void {
    const note = this.#notes.get(block)!;
    this.#notes.delete(block);
    if (this.historySize === 0) return;
    this.#history.push({ name: block.name, note });
    if (this.#history.length > this.historySize) this.#history.shift();
  }

  victim(candidates: MapBlock[]): MapBlock {
    const first = new Map<string, Life>();
    for (const [block, { life }] of this.#notes) {
      if (block.refs > 0) continue;
      const head = first.get(life!.group);
      if (head === undefined || life!.begin < head.begin) first.set(life!.group, life!);
    }
    return candidates
      .filter((block) => first.get(this.#life(block).group) === this.#life(block))
      .reduce((best, block) => (this.#before(block, best) ? block : best));
  }

  #life(block: MapBlock): Life {
    return this.#notes.get(block)!.life!;
  }

  #before(a: MapBlock, b: MapBlock): boolean {
    const [first, second] = [a, b].map((block) => {
      const { begin, group } = this.#life(block);
      return { begin, index: this.#groups.get(group)!.index(this.#lives.length - begin) };
    });
    return first.index < second.index || (first.index === second.index && first.begin < second.begin);
  }

  #end({ life }: Note, used: boolean): void {
    if (!life || life.ended) return;
    life.ended = true;
    if (used) this.#groups.get(life.group)!.returns[bucketOf(this.#lives.length - life.begin)] += 1;
  }

  #learn(): void {
    const groups = [...this.#groups.values()];
    const sum = (of: (group: Group) => number): number =>
      groups.reduce((total, group) => total + of(group), 0);
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      const returns = sum((group) => group.returns[bucket]);
      const shared = Math.min(
        1,
        returns /
          Math.max(
            1,
            sum((group) => group.reached[bucket]),
          ),
      );
      for (const group of groups) {
        group.hazards[bucket] = Math.min(1, (group.returns[bucket] + shared) / (group.reached[bucket] + 1));
        group.returns[bucket] /= 2;
        group.reached[bucket] /= 2;
        group.learned = true;
      }
    }
  }
}

/**
 * GroupModel: a cache with groups written naively. A prefix is named by its text, a cached block is found by name, and how
 * far a prefix can be gone on from is tried length by length. Least recently used goes first, unless accounts say otherwise.
 */
import type { CacheGroup } from "../../bindings/main.js";
import type { NaiveAccounts, PaidCache } from "./naive-accounts.js";

export interface ModelBlock {
  refs: number;
  /** Under what it is cached. */
  name: string | undefined;
  /** A twin's block in the cache's own tables; a block's predecessor there. */
  parent: ModelBlock | undefined;
  children: number;
  /** Who pays for it. */
  tenant: number;
}

/** What makes a prompt's blocks its own beside the tokens: a namespace, and texts that count from their offsets on. */
export interface ModelScope {
  readonly namespace: number;
  readonly marks: readonly { readonly offset: number; readonly text: string }[];
}

export interface ModelSequence extends ModelScope {
  readonly private: boolean;
  readonly tenant: number;
  tokens: number[];
  /** Tables of group 0, 1, ...: undefined where nothing is held. */
  tables: (ModelBlock | undefined)[][];
}

export interface ModelPin {
  readonly hard: boolean;
  readonly priority: number;
  /** In the order in which it lets go of them. */
  readonly blocks: readonly ModelBlock[];
}

interface ModelCopy {
  readonly source: ModelBlock;
  readonly target: ModelBlock;
  readonly group: number;
}

export interface GroupModelShape {
  readonly blocks: number;
  readonly blockSize: number;
  readonly maxSequences: number;
  readonly groups: readonly CacheGroup[];
}

type Refusal =
  "OK" | "OUT_OF_BLOCKS" | "QUOTA_EXCEEDED" | "OUT_OF_SEQUENCES" | "NOT_RESERVED" | "COPIES_PENDING";

export class GroupModel implements PaidCache<ModelBlock> {
  /** All groups, the cache's own first. */
  readonly groups: readonly CacheGroup[];
  readonly shape: GroupModelShape;
  readonly unit: number;
  free: number;
  readonly evictable = new Set<ModelBlock>();
  readonly cached = new Map<string, ModelBlock>();
  readonly sequences = new Set<ModelSequence>();
  /** The oldest first. */
  readonly pins = new Set<ModelPin>();
  copies: ModelCopy[] = [];
  evictions = 0;
  /** Soft pins that gave way. */
  gaveWay = 0;
  accounts: NaiveAccounts<ModelBlock> | undefined;

  constructor(shape: GroupModelShape) {
    this.shape = shape;
    this.groups = [{ kind: "full", window: 0, blockSize: shape.blockSize }, ...shape.groups];
    this.unit = Math.max(...this.groups.map(({ blockSize }) => blockSize));
    this.free = shape.blocks;
  }

  get blocks(): number {
    return this.shape.blocks;
  }

  get available(): number {
    return this.free + this.evictable.size + this.yielding;
  }

  /** Blocks that only soft pins hold. */
  get yielding(): number {
    const counts = new Map<ModelBlock, number>();
    for (const { hard, blocks } of this.pins)
      for (const block of hard ? [] : blocks) counts.set(block, (counts.get(block) ?? 0) + 1);
    return [...counts].filter(([block, count]) => block.refs === count).length;
  }

  *taken(): Iterable<ModelBlock> {
    yield* this.cached.values();
    for (const { source } of this.copies) yield source;
    for (const { tables } of this.sequences)
      for (const block of tables.flat()) if (block !== undefined) yield block;
  }

  /** Entries that a sequence of `length` tokens needs in a group: from, to. */
  needed({ kind, window, blockSize }: CacheGroup, length: number): [from: number, to: number] {
    const reach = kind === "full" ? Infinity : kind === "window" ? window - 1 : 1;
    return [Math.floor(Math.max(0, length - reach) / blockSize), Math.ceil(length / blockSize)];
  }

  nameOf({ namespace, marks }: ModelScope, tokens: readonly number[], group: number, end: number): string {
    const before = marks.filter(({ offset }) => offset < end).map(({ offset, text }) => `${offset}${text}`);
    return `${group}/${namespace}/${before.join()}/${tokens.slice(0, end).join()}`;
  }

  /** Whether a sequence of these tokens could go on from `length` with what is cached and what `own` holds. */
  covers(
    scope: ModelScope,
    tokens: readonly number[],
    length: number,
    own: readonly (ModelBlock | undefined)[][] = [],
    isPrivate = false,
  ): boolean {
    return this.groups.every((group, g) => {
      const [from, to] = this.needed(group, length);
      for (let i = from; i < to; i++) {
        if (own[g]?.[i] !== undefined) continue;
        const end = (i + 1) * group.blockSize;
        if (isPrivate || end > length || !this.cached.has(this.nameOf(scope, tokens, g, end))) return false;
      }
      return true;
    });
  }

  match(tokens: readonly number[], scope: ModelScope): number {
    return this.#covered(scope, tokens, tokens.length - 1);
  }

  /** Longest prefix of up to `most` tokens that is cached as far as it takes to go on from it. */
  #covered(scope: ModelScope, tokens: readonly number[], most: number): number {
    let length = Math.floor(Math.max(0, most) / this.unit) * this.unit;
    while (length > 0 && !this.covers(scope, tokens, length)) length -= this.unit;
    return length;
  }

  open(
    tokens: readonly number[],
    { namespace, marks }: ModelScope,
    isPrivate: boolean,
    tenant = 0,
  ): ModelSequence | undefined {
    if (this.sequences.size === this.shape.maxSequences) return undefined;
    const length = isPrivate ? 0 : this.match(tokens, { namespace, marks });
    const sequence: ModelSequence = {
      namespace,
      marks,
      private: isPrivate,
      tenant,
      tokens: tokens.slice(0, length),
      tables: this.groups.map(() => []),
    };
    this.#regain(sequence, length);
    this.sequences.add(sequence);
    return sequence;
  }

  reserve(sequence: ModelSequence, count: number): Refusal {
    const { length } = sequence.tokens;
    const added = this.groups.map(({ blockSize }, g) =>
      Math.max(0, Math.ceil((length + count) / blockSize) - sequence.tables[g].length),
    );
    const shared = this.groups.map((_, g) => count > 0 && this.#tailIsShared(sequence, g));
    const copies = shared.filter(Boolean).length;
    if (this.copies.length + copies > this.shape.maxSequences * this.groups.length) return "OUT_OF_SEQUENCES";
    const need = added.reduce((a, b) => a + b, 0) + copies;
    const room = this.accounts
      ? this.accounts.makeRoom(sequence.tenant, need)
      : need > this.available
        ? "OUT_OF_BLOCKS"
        : "OK";
    if (room !== "OK") return room;
    for (const g of [...this.groups.keys()].slice(1).concat(0)) {
      if (shared[g]) {
        const tail = Math.floor(length / this.groups[g].blockSize);
        const source = sequence.tables[g][tail]!;
        const target = this.#take(sequence.tenant);
        sequence.tables[g][tail] = target;
        this.copies.push({ source, target, group: g });
      }
      for (let i = 0; i < added[g]; i++) sequence.tables[g].push(this.#take(sequence.tenant));
    }
    return "OK";
  }

  append(sequence: ModelSequence, tokens: readonly number[]): Refusal {
    const before = sequence.tokens.length;
    const end = before + tokens.length;
    if (this.groups.some(({ blockSize }, g) => end > sequence.tables[g].length * blockSize))
      return "NOT_RESERVED";
    for (const g of this.groups.keys()) {
      const tail = this.#tail(sequence, g);
      if (tokens.length > 0 && this.#tailIsShared(sequence, g)) return "NOT_RESERVED";
      if (tokens.length === 0 && g > 0) break;
      if (tail !== undefined && this.copies.some(({ target }) => target === tail)) return "COPIES_PENDING";
    }
    sequence.tokens.push(...tokens);
    if (!sequence.private)
      for (const g of this.groups.keys())
        this.#publish(sequence, g, Math.floor(before / this.groups[g].blockSize));
    this.groups.forEach((group, g) => {
      const [from] = this.needed(group, end);
      for (let i = 0; i < from; i++) this.#drop(sequence, g, i);
    });
    return "OK";
  }

  /** Returns the length that is left. */
  truncate(sequence: ModelSequence, length: number): number {
    let left = length;
    if (length < sequence.tokens.length) {
      const stateAt = ({ kind, blockSize }: CacheGroup): boolean =>
        kind !== "recurrent" || left % blockSize === 0;
      const goesOn = (): boolean =>
        this.groups.every(stateAt) &&
        this.covers(sequence, sequence.tokens, left, sequence.tables, sequence.private);
      if (!goesOn() || this.#wouldUnpin(sequence, left)) {
        left = Math.floor(left / this.unit) * this.unit;
        while (!goesOn()) left -= this.unit;
      }
    }
    this.#regain(sequence, left);
    for (let g = 1; g < this.groups.length; g++)
      this.#shorten(sequence, g, this.needed(this.groups[g], left)[1]);
    const kept = this.needed(this.groups[0], left)[1];
    for (const tail of this.#loose(sequence, left)) this.#detach(tail);
    this.#shorten(sequence, 0, kept);
    sequence.tokens.length = left;
    return left;
  }

  fork(sequence: ModelSequence): ModelSequence | undefined {
    if (this.sequences.size === this.shape.maxSequences) return undefined;
    const tables = sequence.tables.map((table, g) =>
      table.slice(0, this.needed(this.groups[g], sequence.tokens.length)[1]),
    );
    for (const block of tables.flat()) if (block) this.#reference(block);
    const twin = { ...sequence, tokens: sequence.tokens.slice(), tables };
    this.sequences.add(twin);
    return twin;
  }

  /** Tails that are twins of blocks which a sequence of `left` tokens does not hold. */
  #loose(sequence: ModelSequence, left: number): ModelBlock[] {
    const kept = this.needed(this.groups[0], left)[1] * this.shape.blockSize;
    return this.groups.flatMap(({ blockSize }, g) => {
      const tail = g === 0 ? undefined : this.#tail(sequence, g, left);
      const end = (Math.floor(left / blockSize) + 1) * blockSize;
      return tail !== undefined && end > kept ? [tail] : [];
    });
  }

  /** Whether cutting a sequence off at `left` would take a block of a pin out of the cache. */
  #wouldUnpin(sequence: ModelSequence, left: number): boolean {
    const pinned = new Set([...this.pins].flatMap(({ blocks }) => blocks));
    const goes = (block: ModelBlock): boolean =>
      pinned.has(block) || this.copies.some(({ source, target }) => target === block && goes(source));
    return this.#loose(sequence, left).some(goes);
  }

  /** Blocks that hard pins hold. */
  get hardPinned(): Set<ModelBlock> {
    return new Set([...this.pins].flatMap(({ hard, blocks }) => (hard ? blocks : [])));
  }

  /** Hard pins hold `limit` blocks at most. */
  pin(
    sequence: ModelSequence,
    hard: boolean,
    priority: number,
    limit: number,
  ): ModelPin | "NOT_FOUND" | "PIN_LIMIT" {
    const { tokens, tables } = sequence;
    const { blockSize } = this.shape;
    const length = sequence.private ? 0 : this.#covered(sequence, tokens, tokens.length);
    if (length === 0) return "NOT_FOUND";
    const blocks: ModelBlock[] = [];
    for (let i = length / blockSize; i > 0; i--) {
      this.groups.forEach((group, g) => {
        const entry = (i * blockSize) / group.blockSize - 1;
        if (g === 0 || !Number.isInteger(entry) || entry < this.needed(group, length)[0]) return;
        blocks.push(this.cached.get(this.nameOf(sequence, tokens, g, i * blockSize))!);
      });
      blocks.push(tables[0][i - 1]!);
    }
    if (hard && new Set([...this.hardPinned, ...blocks]).size > limit) return "PIN_LIMIT";
    for (const block of blocks) this.#hold(block, sequence.tenant);
    const pin = { hard, priority, blocks };
    this.pins.add(pin);
    return pin;
  }

  unpin(pin: ModelPin): void {
    this.pins.delete(pin);
    for (const block of pin.blocks) this.#release(block);
  }

  /** The soft pin of the lowest priority, of equals the oldest, gives way; whether there was one. */
  #giveWay(): boolean {
    const [least] = [...this.pins].filter(({ hard }) => !hard).sort((a, b) => a.priority - b.priority);
    if (least === undefined) return false;
    this.unpin(least);
    this.gaveWay += 1;
    return true;
  }

  /** A block goes right after its twins, the last one first. */
  close(sequence: ModelSequence): void {
    for (let i = sequence.tables[0].length; i > 0; i--) {
      for (let g = 1; g < this.groups.length; g++) {
        const ratio = this.groups[g].blockSize / this.shape.blockSize;
        this.#shorten(sequence, g, Math.floor((i - 1) / ratio));
      }
      this.#shorten(sequence, 0, i - 1);
    }
    this.sequences.delete(sequence);
  }

  settleCopies(): void {
    for (const { source } of this.copies) this.#release(source);
    this.copies = [];
  }

  revertCopies(): void {
    for (const { source, target, group } of this.copies.reverse()) {
      for (const sequence of this.sequences) {
        const tail = Math.floor(sequence.tokens.length / this.groups[group].blockSize);
        if (sequence.tables[group][tail] !== target) continue;
        sequence.tables[group][tail] = source;
        this.#reference(source);
        this.#release(target);
      }
      this.#release(source);
    }
    this.copies = [];
  }

  forget(): number {
    const forgotten = this.evictable.size;
    while (this.evictable.size > 0) this.#forget(this.evictable.values().next().value!);
    return forgotten;
  }

  #tail(sequence: ModelSequence, g: number, length = sequence.tokens.length): ModelBlock | undefined {
    const { blockSize } = this.groups[g];
    return length % blockSize === 0 ? undefined : sequence.tables[g][Math.floor(length / blockSize)];
  }

  #tailIsShared(sequence: ModelSequence, g: number): boolean {
    const tail = this.#tail(sequence, g);
    return tail !== undefined && (tail.refs > 1 || tail.name !== undefined);
  }

  /** Takes from the cache what the sequence needs at this length and does not hold. */
  #regain(sequence: ModelSequence, length: number): void {
    this.groups.forEach((group, g) => {
      const [from] = this.needed(group, length);
      const table = sequence.tables[g];
      for (let i = 0; i < Math.floor(length / group.blockSize); i++) {
        if (i >= table.length) table.push(undefined);
        if (i < from || table[i] !== undefined) continue;
        const end = (i + 1) * group.blockSize;
        table[i] = this.cached.get(this.nameOf(sequence, sequence.tokens, g, end))!;
        this.#hold(table[i]!, sequence.tenant);
      }
    });
  }

  #publish(sequence: ModelSequence, g: number, from: number): void {
    const { blockSize } = this.groups[g];
    for (let i = from; i < Math.floor(sequence.tokens.length / blockSize); i++) {
      const end = (i + 1) * blockSize;
      const name = this.nameOf(sequence, sequence.tokens, g, end);
      const block = sequence.tables[g][i]!;
      const existing = this.cached.get(name);
      if (existing !== undefined) {
        if (existing === block) continue;
        this.#hold(existing, sequence.tenant);
        sequence.tables[g][i] = existing;
        this.#release(block);
        continue;
      }
      block.name = name;
      block.parent = g === 0 ? sequence.tables[0][i - 1] : sequence.tables[0][end / this.shape.blockSize - 1];
      if (block.parent) block.parent.children += 1;
      this.cached.set(name, block);
    }
  }

  #drop(sequence: ModelSequence, g: number, i: number): void {
    const block = sequence.tables[g][i];
    sequence.tables[g][i] = undefined;
    if (block !== undefined) this.#releaseWithCopies(block);
  }

  #shorten(sequence: ModelSequence, g: number, keep: number): void {
    const table = sequence.tables[g];
    while (table.length > keep) {
      this.#drop(sequence, g, table.length - 1);
      table.pop();
    }
  }

  #releaseWithCopies(block: ModelBlock): void {
    this.#release(block);
    if (block.refs > 0) return;
    const at = this.copies.findIndex(({ target }) => target === block);
    if (at >= 0) this.#releaseWithCopies(this.copies.splice(at, 1)[0].source);
  }

  #take(tenant: number): ModelBlock {
    if (this.free === 0) {
      while (this.evictable.size === 0 && this.#giveWay());
      this.evict(this.accounts?.victim() ?? this.evictable.values().next().value!);
    }
    this.free -= 1;
    return { refs: 1, name: undefined, parent: undefined, children: 0, tenant };
  }

  evict(block: ModelBlock): void {
    this.#forget(block);
    this.evictions += 1;
  }

  #forget(block: ModelBlock): void {
    if (block.children > 0) throw new Error("a block would go before what is cached behind it");
    this.evictable.delete(block);
    this.#uncache(block);
    this.free += 1;
  }

  #detach(block: ModelBlock): void {
    if (block.name !== undefined) this.#uncache(block);
    for (const { source, target } of this.copies) if (target === block) this.#detach(source);
  }

  #uncache(block: ModelBlock): void {
    this.cached.delete(block.name!);
    block.name = undefined;
    if (block.parent) block.parent.children -= 1;
    block.parent = undefined;
  }

  /** A tenant holds a block that it has found. */
  #hold(block: ModelBlock, tenant: number): void {
    this.#reference(block);
    this.accounts?.share(block, tenant);
  }

  #reference(block: ModelBlock): void {
    if (block.refs === 0) this.evictable.delete(block);
    block.refs += 1;
  }

  #release(block: ModelBlock): void {
    block.refs -= 1;
    if (block.refs > 0) return;
    if (block.name !== undefined) this.evictable.add(block);
    else this.free += 1;
  }
}

/**
 * MapCache: block pool, prefix index and block tables written the way JavaScript invites one to: Map, Set and
 * arrays.
 *
 * It decides exactly what the core decides (same blocks reused, same eviction order), so it is both the model
 * of the property tests and the peer of the benches. A prefix is named by interning (name of its parent, its
 * tokens), which cannot collide.
 */

export interface MapBlock {
  refs: number;
  /** Name of the prefix that ends here, 0 while not cached. */
  name: number;
  /** The block before it in its prefix, and how many cached blocks are behind it. */
  parent?: MapBlock;
  children: number;
  /** With partial reuse, of a cached block. */
  namespace?: number;
  tokens?: number[];
  /** With accounts: who pays for it. */
  tenant?: number;
}

/** Accounts of tenants: what a reservation may take and push out. */
export interface MapAccounts {
  /** A tenant's sequence holds a block that it has not taken. */
  share(block: MapBlock, tenant: number): void;
  /** Forgets blocks (`cache.evict`) until so many are free; "OK", or why it cannot be. */
  makeRoom(tenant: number, need: number): "OK" | "OUT_OF_BLOCKS" | "QUOTA_EXCEEDED";
  /** The block to forget when no tenant asks. */
  victim(): MapBlock;
}

/** An eviction order: told what happens to blocks, it names the victim. Without one: least recently used. */
export interface MapOrder {
  enter(block: MapBlock): void;
  use(block: MapBlock): void;
  rest(block: MapBlock): void;
  leave(block: MapBlock, evicted: boolean): void;
  /** One of the blocks that nobody holds and that have no children, the longest unheld first. */
  victim(candidates: MapBlock[]): MapBlock;
}

export interface MapSequence {
  namespace: number;
  private: boolean;
  tokens: number[];
  blocks: MapBlock[];
  published: number;
  tenant: number;
}

export class MapCache {
  readonly blocks: number;
  readonly blockSize: number;
  readonly maxSequences: number;
  readonly maxSequenceTokens: number;
  readonly prefixCache: boolean;
  readonly order?: MapOrder;
  readonly retainBlocks: number;
  /** Fewest tokens of a block that are reused by copy; 0: none are. */
  readonly partialReuse: number;
  accounts?: MapAccounts;
  /** Why the last `reserve` was refused. */
  refusal: "OUT_OF_BLOCKS" | "QUOTA_EXCEEDED" = "OUT_OF_BLOCKS";
  free: number;
  open = 0;
  evictions = 0;
  duplicates = 0;
  /** Least recently used first: a Set keeps insertion order. */
  readonly evictable = new Set<MapBlock>();
  readonly cached = new Map<number, MapBlock>();
  pendingCopies: { source: MapBlock; target: MapBlock }[] = [];
  readonly sequences = new Set<MapSequence>();
  readonly #names = new Map<string, number>();

  constructor(options: {
    blocks: number;
    blockSize: number;
    maxSequences: number;
    maxSequenceTokens: number;
    prefixCache?: boolean;
    order?: MapOrder;
    retainBlocks?: number;
    partialReuse?: number;
  }) {
    this.blocks = options.blocks;
    this.blockSize = options.blockSize;
    this.maxSequences = options.maxSequences;
    this.maxSequenceTokens = options.maxSequenceTokens;
    this.prefixCache = options.prefixCache ?? true;
    this.order = options.order;
    this.retainBlocks = options.retainBlocks ?? options.blocks;
    this.partialReuse = options.partialReuse ?? 0;
    this.free = options.blocks;
  }

  get available(): number {
    return this.free + this.evictable.size;
  }

  blocksFor(tokens: number): number {
    return Math.ceil(tokens / this.blockSize);
  }

  /** Cached tokens of a prompt, its last token never counted. */
  match(tokens: ArrayLike<number>, namespace: number): MapBlock[] {
    const hits: MapBlock[] = [];
    if (!this.prefixCache) return hits;
    let name = -1 - namespace;
    const limit = Math.floor((tokens.length - 1) / this.blockSize);
    for (let i = 0; i < limit; i++) {
      const next = this.#names.get(this.#nameKey(name, tokens, i));
      const block = next === undefined ? undefined : this.cached.get(next);
      if (block === undefined) break;
      hits.push(block);
      name = block.name;
    }
    return hits;
  }

  /** The cached block that a prompt shares most tokens with behind these, of equals the youngest, and how many. */
  part(
    tokens: ArrayLike<number>,
    namespace: number,
    matched: readonly MapBlock[],
  ): { block?: MapBlock; tokens: number } {
    const from = matched.length * this.blockSize;
    const best: { block?: MapBlock; tokens: number } = { tokens: 0 };
    if (this.partialReuse === 0) return best;
    for (const block of [...this.cached.values()].reverse()) {
      if (block.parent !== matched.at(-1) || block.namespace !== namespace) continue;
      let common = 0;
      while (from + common < tokens.length - 1 && block.tokens![common] === tokens[from + common])
        common += 1;
      if (common >= this.partialReuse && common > best.tokens) Object.assign(best, { block, tokens: common });
    }
    return best;
  }

  /** Tokens of a prompt that a sequence on it would find cached. */
  matchTokens(tokens: ArrayLike<number>, namespace: number): number {
    const matched = this.match(tokens, namespace);
    return matched.length * this.blockSize + this.part(tokens, namespace, matched).tokens;
  }

  openSequence(
    tokens: ArrayLike<number>,
    namespace = 0,
    isPrivate = false,
    tenant = 0,
  ): MapSequence | undefined {
    if (this.open === this.maxSequences) return undefined;
    this.open += 1;
    const blocks = isPrivate ? [] : this.match(tokens, namespace);
    const part = isPrivate ? { tokens: 0 } : this.part(tokens, namespace, blocks);
    for (const block of blocks) this.#reference(block);
    const length = blocks.length * this.blockSize + part.tokens;
    const sequence = {
      namespace,
      private: isPrivate,
      tokens: Array.prototype.slice.call(tokens, 0, length) as number[],
      blocks,
      published: blocks.length,
      tenant,
    };
    this.sequences.add(sequence);
    for (const block of part.block ? [...blocks, part.block] : blocks) this.accounts?.share(block, tenant);
    if (this.order) for (const block of blocks) this.order.use(block);
    if (part.block) {
      this.#reference(part.block);
      blocks.push(part.block);
    }
    return sequence;
  }

  reserve(sequence: MapSequence, count: number): boolean {
    const needed = this.blocksFor(sequence.tokens.length + count);
    const added = Math.max(0, needed - sequence.blocks.length);
    const shared = count > 0 && this.#tailIsShared(sequence);
    const need = added + (shared ? 1 : 0);
    const room = this.accounts
      ? this.accounts.makeRoom(sequence.tenant, need)
      : need > this.available
        ? "OUT_OF_BLOCKS"
        : "OK";
    if (room !== "OK") {
      this.refusal = room;
      return false;
    }
    if (shared) {
      const index = Math.floor(sequence.tokens.length / this.blockSize);
      const source = sequence.blocks[index];
      const target = this.#take(sequence.tenant);
      sequence.blocks[index] = target;
      this.pendingCopies.push({ source, target });
    }
    for (let i = 0; i < added; i++) sequence.blocks.push(this.#take(sequence.tenant));
    return true;
  }

  /** "OK", or why it is refused. */
  append(sequence: MapSequence, tokens: ArrayLike<number>): "OK" | "NOT_RESERVED" | "COPIES_PENDING" {
    const end = sequence.tokens.length + tokens.length;
    if (end > sequence.blocks.length * this.blockSize) return "NOT_RESERVED";
    if (tokens.length > 0 && this.#tailIsShared(sequence)) return "NOT_RESERVED";
    const tail = sequence.blocks[Math.floor(sequence.tokens.length / this.blockSize)];
    const partial = sequence.tokens.length % this.blockSize !== 0;
    if (partial && this.pendingCopies.some(({ target }) => target === tail)) return "COPIES_PENDING";
    for (let i = 0; i < tokens.length; i++) sequence.tokens.push(tokens[i]);
    if (this.prefixCache && !sequence.private) this.#publish(sequence);
    return "OK";
  }

  truncate(sequence: MapSequence, length: number): void {
    this.#releaseFrom(sequence, this.blocksFor(length));
    sequence.tokens.length = length;
    sequence.published = Math.min(sequence.published, Math.floor(length / this.blockSize));
  }

  /** Gives back reserved blocks from table entry `keep` on. */
  unreserve(sequence: MapSequence, keep: number): void {
    this.#releaseFrom(sequence, keep);
  }

  fork(sequence: MapSequence): MapSequence | undefined {
    if (this.open === this.maxSequences) return undefined;
    this.open += 1;
    const blocks = sequence.blocks.slice(0, this.blocksFor(sequence.tokens.length));
    for (const block of blocks) this.#reference(block);
    const twin = { ...sequence, tokens: sequence.tokens.slice(), blocks };
    this.sequences.add(twin);
    return twin;
  }

  close(sequence: MapSequence): void {
    this.truncate(sequence, 0);
    this.sequences.delete(sequence);
    this.open -= 1;
  }

  settleCopies(): void {
    for (const { source } of this.pendingCopies) this.#release(source);
    this.pendingCopies = [];
    this.#trim();
  }

  revertCopies(): void {
    for (const { source, target } of this.pendingCopies.reverse()) {
      for (const sequence of this.sequences) {
        const tail = Math.floor(sequence.tokens.length / this.blockSize);
        if (sequence.blocks[tail] !== target) continue;
        sequence.blocks[tail] = source;
        this.#reference(source);
        this.#release(target);
      }
      this.#release(source);
    }
    this.pendingCopies = [];
    this.#trim();
  }

  forget(): number {
    const forgotten = this.evictable.size;
    while (this.evictable.size > 0) this.#forget(this.#inOrder(), false);
    return forgotten;
  }

  /** The cached prefixes, each spelt out as its namespace and the tokens of its blocks. */
  cachedPrefixes(): string[] {
    const spelt = new Map<number, string>();
    for (const [key, name] of this.#names) {
      const [parent, ...tokens] = key.split(",");
      const before = Number(parent) < 0 ? `${-1 - Number(parent)}:` : spelt.get(Number(parent))!;
      spelt.set(name, `${before}${tokens.join(",")};`);
    }
    return [...this.cached.keys()].map((name) => spelt.get(name)!).sort();
  }

  #nameKey(parent: number, tokens: ArrayLike<number>, index: number): string {
    let key = String(parent);
    const end = (index + 1) * this.blockSize;
    for (let i = index * this.blockSize; i < end; i++) key += `,${tokens[i]}`;
    return key;
  }

  #publish(sequence: MapSequence): void {
    const full = Math.floor(sequence.tokens.length / this.blockSize);
    for (let i = sequence.published; i < full; i++) {
      const parent = i === 0 ? -1 - sequence.namespace : sequence.blocks[i - 1].name;
      const key = this.#nameKey(parent, sequence.tokens, i);
      let name = this.#names.get(key);
      if (name === undefined) this.#names.set(key, (name = this.#names.size + 1));
      const existing = this.cached.get(name);
      if (existing !== undefined) {
        this.duplicates += 1;
        this.#reference(existing);
        this.accounts?.share(existing, sequence.tenant);
        this.order?.use(existing);
        this.#release(sequence.blocks[i]);
        sequence.blocks[i] = existing;
      } else {
        const block = sequence.blocks[i];
        block.name = name;
        if (this.partialReuse > 0) {
          block.namespace = sequence.namespace;
          block.tokens = sequence.tokens.slice(i * this.blockSize, (i + 1) * this.blockSize);
        }
        block.parent = sequence.blocks[i - 1];
        if (block.parent) block.parent.children += 1;
        this.cached.set(name, block);
        this.order?.enter(block);
      }
    }
    sequence.published = Math.max(full, sequence.published);
  }

  #tailIsShared(sequence: MapSequence): boolean {
    if (sequence.tokens.length % this.blockSize === 0) return false;
    const tail = sequence.blocks[Math.floor(sequence.tokens.length / this.blockSize)];
    return tail.refs > 1 || tail.name !== 0;
  }

  #releaseFrom(sequence: MapSequence, keep: number): void {
    while (sequence.blocks.length > keep) this.#releaseWithCopies(sequence.blocks.pop()!);
    this.#trim();
  }

  /** Releases a block, and what a pending copy into it was to read, once nobody holds it. */
  #releaseWithCopies(block: MapBlock): void {
    this.#release(block);
    if (block.refs > 0) return;
    const at = this.pendingCopies.findIndex(({ target }) => target === block);
    if (at >= 0) this.#releaseWithCopies(this.pendingCopies.splice(at, 1)[0].source);
  }

  #take(tenant: number): MapBlock {
    if (this.free === 0) this.evict(this.#victim());
    this.free -= 1;
    return { refs: 1, name: 0, children: 0, ...(this.accounts && { tenant }) };
  }

  /** Forgets an evictable block, for room. */
  evict(block: MapBlock): void {
    this.#forget(block, true);
    this.evictions += 1;
  }

  #victim(): MapBlock {
    return this.accounts ? this.accounts.victim() : this.#inOrder();
  }

  #inOrder(): MapBlock {
    if (!this.order) return this.evictable.values().next().value!;
    return this.order.victim([...this.evictable].filter(({ children }) => children === 0));
  }

  #trim(): void {
    while (this.evictable.size > this.retainBlocks) this.evict(this.#victim());
  }

  #forget(block: MapBlock, evicted: boolean): void {
    this.order?.leave(block, evicted);
    this.evictable.delete(block);
    this.cached.delete(block.name);
    if (block.parent) block.parent.children -= 1;
    block.name = 0;
    this.free += 1;
  }

  #reference(block: MapBlock): void {
    if (block.refs === 0) this.evictable.delete(block);
    block.refs += 1;
  }

  #release(block: MapBlock): void {
    block.refs -= 1;
    if (block.refs > 0) return;
    if (block.name !== 0) {
      this.evictable.add(block);
      this.order?.rest(block);
    } else this.free += 1;
  }
}

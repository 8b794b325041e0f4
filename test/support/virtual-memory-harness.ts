/**
 * Random calls on a VirtualMemory, its plans replayed by an interpreter that knows nothing but the records, and every
 * figure recounted from the interpreter's tables.
 */
import assert from "node:assert/strict";
import { CHANGE_WORDS, ChangeOp, QuartermasterError, type VirtualMemory } from "../../bindings/main.js";
import type { Random } from "./random.js";

export class VirtualMemoryHarness {
  /** [slot][page] -> KV block, as the executed plans have left it. */
  readonly tables: (number | undefined)[][];
  /** Lengths as the engine knows them; 0: inactive. */
  readonly lengths: number[];
  /** Sets of pages ("slot/page") that sharing has put the same KV block behind. */
  readonly sharers = new Map<number, Set<string>>();
  maps = 0;

  constructor(
    readonly memory: VirtualMemory,
    readonly random: Random,
  ) {
    this.tables = Array.from({ length: memory.slots }, () => []);
    this.lengths = Array.from({ length: memory.slots }, () => 0);
  }

  get active(): number[] {
    return [...this.lengths.keys()].filter((slot) => this.lengths[slot] > 0);
  }

  pages(tokens: number): number {
    return Math.ceil((tokens * this.memory.tokenBytes) / this.memory.pageBytes);
  }

  /** KV blocks below the lengths of active slots. */
  held(): Set<number> {
    const held = new Set<number>();
    for (const slot of this.active)
      for (const block of this.tables[slot].slice(0, this.pages(this.lengths[slot])))
        if (block !== undefined) held.add(block);
    return held;
  }

  free(): number {
    const owed = this.active.reduce(
      (sum, slot) => sum + Math.max(0, this.pages(this.lengths[slot]) - this.tables[slot].length),
      0,
    );
    return Math.max(0, this.memory.blocks - this.held().size - owed);
  }

  /** Executes what has been planned. */
  replay(): void {
    const plan = this.memory.takePlan();
    for (let at = 0; at < plan.length; at += CHANGE_WORDS) {
      const [op, slot, page, block] = plan.subarray(at, at + CHANGE_WORDS);
      const table = this.tables[slot];
      if (op === ChangeOp.Map) {
        assert.equal(table[page], undefined, "a page is mapped once");
        table[page] = block;
        this.maps += 1;
      } else {
        assert.equal(table[page], block, "what is unmapped was mapped");
        table[page] = undefined;
        while (table.length > 0 && table[table.length - 1] === undefined) table.pop();
      }
    }
  }

  /** Recounts everything. */
  check(): void {
    const { memory } = this;
    const holders = new Map<number, string[]>();
    this.tables.forEach((table, slot) => {
      assert.deepEqual([...memory.pages(slot)], table, `slot ${slot}: tables as the plans have made them`);
      table.forEach((block, page) => {
        holders.set(block!, [...(holders.get(block!) ?? []), `${slot}/${page}`]);
      });
    });
    const free = new Set(memory.freeList());
    assert.equal(free.size + holders.size, memory.blocks, "pool + distinct mapped = budget");
    for (const [block, pages] of holders) {
      assert.ok(!free.has(block));
      if (pages.length > 1)
        for (const page of pages)
          assert.ok(
            this.sharers.get(block)?.has(page),
            `${page} has KV block ${block} without having shared it`,
          );
      else this.sharers.delete(block);
    }
    assert.equal(memory.freeBlocks, this.free(), "reported free");
    assert.equal(memory.mappedBlocks, holders.size);
    for (const slot of this.active) {
      assert.equal(memory.length(slot), this.lengths[slot]);
      // The next token's bytes begin at length * tokenBytes: from that page on nobody else may look.
      const next = Math.floor((this.lengths[slot] * memory.tokenBytes) / memory.pageBytes);
      this.tables[slot]
        .slice(next)
        .forEach((block) =>
          assert.equal(holders.get(block!)!.length, 1, "a page to be written is its slot's own"),
        );
    }
    memory.validate();
  }

  /** One call; `refused` counts what it threw. */
  step(): void {
    const { random, memory } = this;
    switch (random.below(8)) {
      case 0:
      case 1:
        return this.allocate(1 + random.below(memory.maxTokens));
      case 2:
        return this.end();
      case 3:
        return this.share();
      case 4:
        if (random.below(8) === 0) {
          memory.trim();
          this.replay();
          assert.equal(
            memory.freeList().length,
            memory.blocks - this.held().size,
            "trim leaves what is held",
          );
        }
        return;
      default:
        return this.iterate();
    }
  }

  allocate(tokens: number): void {
    const { memory } = this;
    const pages = this.pages(tokens);
    const idle = [...this.lengths.keys()].filter((slot) => this.lengths[slot] === 0);
    const usable = new Map(idle.map((slot) => [slot, this.usable(slot)]));
    const enough = idle.filter((slot) => usable.get(slot)! >= pages);
    const [expected] = [...(enough.length > 0 ? enough : idle)].sort(
      (a, b) => (usable.get(a)! - usable.get(b)!) * (enough.length > 0 ? 1 : -1) || a - b,
    );
    const prefix = this.prefixFor(tokens);
    const fresh = pages - (prefix ? this.sharable(prefix.from, prefix.tokens) : 0);
    const before = this.free();
    const code = this.code(() => {
      assert.equal(memory.allocate(tokens, prefix), expected, "best fit");
      this.lengths[expected] = tokens;
      this.replay();
      if (prefix)
        this.shared(prefix.from, expected, memory.sharePrefix(prefix.from, expected, prefix.tokens));
    });
    assert.equal(code, idle.length === 0 ? "OUT_OF_SEQUENCES" : before < fresh ? "OUT_OF_BLOCKS" : "OK");
    if (code === "OK") assert.equal(this.free(), before - fresh);
  }

  /** Now and then a prefix of an active slot's tokens. */
  prefixFor(tokens: number): { from: number; tokens: number } | undefined {
    if (this.active.length === 0 || this.random.below(3) > 0) return undefined;
    const from = this.random.pick(this.active);
    return { from, tokens: this.random.below(Math.min(tokens, this.lengths[from]) + 1) };
  }

  /** Pages that `tokens` tokens fill and that end with a token. */
  sharable(from: number, tokens: number): number {
    const { tokenBytes, pageBytes } = this.memory;
    let pages = Math.min(Math.floor((tokens * tokenBytes) / pageBytes), this.tables[from].length);
    while ((pages * pageBytes) % tokenBytes !== 0) pages -= 1;
    return pages;
  }

  /** Pages before the first that another slot has too. */
  usable(slot: number): number {
    const table = this.tables[slot];
    const shared = table.findIndex((block) =>
      this.tables.some((other, at) => at !== slot && other.includes(block)),
    );
    return shared < 0 ? table.length : shared;
  }

  end(): void {
    const { random, memory, active } = this;
    if (active.length === 0) return;
    const slot = random.pick(active);
    const unmap = random.below(4) === 0;
    memory.free(slot, unmap);
    this.lengths[slot] = 0;
    this.replay();
    if (unmap) assert.equal(memory.mapped(slot), 0);
  }

  share(): void {
    const { random, memory, active } = this;
    if (active.length < 2) return;
    const from = random.pick(active);
    const to = random.pick(active);
    const tokens = random.below(memory.maxTokens + 1);
    const expected = this.sharable(from, tokens);
    const code = this.code(() => {
      const shared = memory.sharePrefix(from, to, tokens);
      this.replay();
      assert.equal(this.shared(from, to, shared), expected);
    });
    const valid = from !== to && tokens <= Math.min(this.lengths[from], this.lengths[to]);
    assert.equal(code, valid ? "OK" : "INVALID_ARGUMENT");
  }

  /** Notes that two slots have the pages of `tokens` tokens in common; returns how many. */
  shared(from: number, to: number, tokens: number): number {
    const { tokenBytes, pageBytes } = this.memory;
    const pages = (tokens * tokenBytes) / pageBytes;
    for (let page = 0; page < pages; page++) {
      const block = this.tables[from][page]!;
      assert.equal(this.tables[to][page], block);
      const sharers = this.sharers.get(block) ?? new Set();
      this.sharers.set(block, sharers.add(`${from}/${page}`).add(`${to}/${page}`));
    }
    return pages;
  }

  /** An iteration: most sequences grow by a token, some by many, few become shorter. */
  iterate(): void {
    const { random, memory } = this;
    const wanted = this.lengths.map((length) => {
      if (length === 0) return 0;
      const by = random.below(6) === 0 ? random.below(memory.maxTokens) : 1;
      return random.below(12) === 0 ? Math.max(1, length - by) : Math.min(memory.maxTokens, length + by);
    });
    const shortened = this.active.some((slot) => {
      const shared = this.tables[slot].findLastIndex((block) =>
        this.tables.some((other, at) => at !== slot && other.includes(block)),
      );
      return wanted[slot] * memory.tokenBytes < (shared + 1) * memory.pageBytes;
    });
    let oom: number[] = [];
    const code = this.code(() => (oom = memory.step(wanted)));
    assert.equal(code, shortened ? "INVALID_ARGUMENT" : "OK");
    if (shortened) return;
    this.expectOom(wanted, oom);
    this.replay();
    for (const slot of this.active) {
      if (oom.includes(slot)) continue;
      this.lengths[slot] = wanted[slot];
      assert.ok(memory.mapped(slot) >= this.pages(wanted[slot]), "mapped >= needed after a step");
    }
    if (random.below(3) === 0) return;
    const neededPages = this.active.map((slot) => this.tables[slot].slice(0, this.pages(this.lengths[slot])));
    memory.background();
    this.replay();
    this.active.forEach((slot, i) =>
      assert.deepEqual(
        this.tables[slot].slice(0, neededPages[i].length),
        neededPages[i],
        "kernels' pages stay",
      ),
    );
  }

  /** A slot goes without exactly when, in order of ids, what nobody needs does not suffice. */
  expectOom(wanted: number[], oom: number[]): void {
    const lengths = [...wanted];
    const pagesOf = this.tables.map((table) => table.length);
    const taken = new Set<number>();
    for (const slot of this.active)
      for (const block of this.tables[slot].slice(0, this.pages(wanted[slot]))) taken.add(block!);
    let fresh = 0;
    const expected: number[] = [];
    for (const slot of this.active) {
      const missing = this.pages(lengths[slot]) - pagesOf[slot];
      if (missing <= 0) continue;
      if (missing > this.memory.blocks - taken.size - fresh) {
        expected.push(slot);
        // Back to the old length: what it holds beyond is to be had again, unless another slot needs it.
        lengths[slot] = this.lengths[slot];
        taken.clear();
        for (const other of this.active)
          for (const block of this.tables[other].slice(0, this.pages(lengths[other]))) taken.add(block!);
      } else {
        fresh += missing;
      }
    }
    assert.deepEqual(oom, expected);
  }

  code(run: () => void): string {
    try {
      run();
    } catch (error) {
      if (!(error instanceof QuartermasterError)) throw error;
      return error.code;
    }
    return "OK";
  }
}

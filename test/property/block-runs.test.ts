/**
 * Runs of blocks against a naive model that keeps one counter a block and looks at all of them for every decision: the same
 * tables, the same reservations, the same free runs. Reserved blocks count as free.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  type Build,
  Core,
  type Extent,
  type KvCache,
  QuartermasterError,
  type SequenceId,
} from "../../bindings/main.js";
import { Random } from "../support/random.js";

const BLOCK_SIZE = 4;
const MAX_TOKENS = 400;
const SLOT_MASK = 0xfffff;

interface NaiveSequence {
  length: number;
  table: number[];
  tail: Extent;
}

const NOTHING: Extent = { start: 0, length: 0 };

class NaiveRuns {
  readonly refs: number[];
  readonly sequences = new Map<SequenceId, NaiveSequence>();
  group: number;

  constructor(
    readonly blocks: number,
    readonly most: number,
  ) {
    this.refs = Array.from({ length: blocks }, () => 0);
    this.group = most;
  }

  /** Runs of free blocks that are in nobody's tail. */
  extents(): Extent[] {
    const reserved = new Set<number>();
    for (const { tail } of this.sequences.values())
      for (let k = 0; k < tail.length; k++) reserved.add(tail.start + k);
    const runs: { start: number; length: number }[] = [];
    this.refs.forEach((refs, id) => {
      if (refs !== 0 || reserved.has(id)) return;
      const last = runs[runs.length - 1];
      if (last !== undefined && last.start + last.length === id) last.length += 1;
      else runs.push({ start: id, length: 1 });
    });
    return runs;
  }

  get available(): number {
    return this.refs.filter((refs) => refs === 0).length;
  }

  #best(wanted: number): Extent | undefined {
    let best: Extent | undefined;
    for (const run of this.extents())
      if (run.length >= wanted && (best === undefined || run.length < best.length)) best = run;
    return best;
  }

  #largest(): Extent | undefined {
    let largest: Extent | undefined;
    for (const run of this.extents()) if (run.length > (largest?.length ?? 0)) largest = run;
    return largest;
  }

  /** The far half of the longest tail, or `wanted` blocks, is nobody's any more. */
  #split(wanted: number): Extent {
    const [, from] = [...this.sequences].reduce((a, b) =>
      b[1].tail.length > a[1].tail.length ||
      (b[1].tail.length === a[1].tail.length && (b[0] & SLOT_MASK) < (a[0] & SLOT_MASK))
        ? b
        : a,
    );
    const { start, length } = from.tail;
    const cut = Math.max(Math.min(wanted, length), length >> 1);
    from.tail = { start, length: length - cut };
    return this.#largest()!;
  }

  single(): number {
    const { start } = this.#best(1) ?? this.#split(1);
    this.refs[start] = 1;
    return start;
  }

  #reserve(sequence: NaiveSequence, wanted: number): void {
    const tenth = Math.floor(this.blocks / 10);
    if (this.available < tenth) this.group = Math.max(1, this.group >> 1);
    else if (this.available > 3 * tenth) this.group = Math.min(this.most, this.group * 2);
    const most = Math.min(Math.max(wanted, this.group), this.blocks);
    const last = sequence.table[sequence.table.length - 1];
    const behind = this.extents().find(({ start }) => start === last + 1);
    const run = behind ?? this.#best(most) ?? this.#largest() ?? this.#split(wanted);
    sequence.tail = { start: run.start, length: Math.min(run.length, most) };
  }

  /** Blocks for `needed` entries; the caller has seen that they are there. */
  take(sequence: NaiveSequence, needed: number): void {
    while (sequence.table.length < needed) {
      if (sequence.tail.length === 0) this.#reserve(sequence, needed - sequence.table.length);
      const { start, length } = sequence.tail;
      this.refs[start] = 1;
      sequence.table.push(start);
      sequence.tail = { start: start + 1, length: length - 1 };
    }
  }

  /** Gives back the blocks from entry `keep` on. */
  release(sequence: NaiveSequence, keep: number): void {
    if (keep === sequence.table.length) return;
    for (const id of sequence.table.splice(keep)) this.refs[id] -= 1;
    sequence.tail = NOTHING;
  }
}

const TOKENS = new Uint32Array(MAX_TOKENS);

class Harness {
  readonly naive: NaiveRuns;
  readonly random: Random;
  refused = 0;

  constructor(
    readonly cache: KvCache,
    reserve: number,
    seed: number,
  ) {
    this.naive = new NaiveRuns(cache.blocks, reserve);
    this.random = new Random(seed);
  }

  step(): void {
    const { cache, naive, random } = this;
    const open = [...naive.sequences.keys()];
    const choice = random.below(16);
    if (choice < 3 || open.length === 0) {
      if (open.length === cache.maxSequences) return;
      naive.sequences.set(cache.open({ tokens: [] }), { length: 0, table: [], tail: NOTHING });
      return;
    }
    const id = random.pick(open);
    const sequence = naive.sequences.get(id)!;
    if (choice < 11)
      this.#append(id, sequence, random.below(3) === 0 ? 1 + random.below(60) : 1 + random.below(5));
    else if (choice < 13) {
      cache.close(id);
      naive.release(sequence, 0);
      naive.sequences.delete(id);
    } else if (choice < 14) {
      const length = random.below(sequence.length + 1);
      cache.truncate(id, length);
      naive.release(sequence, Math.ceil(length / BLOCK_SIZE));
      sequence.length = length;
    } else if (choice < 15 && open.length < cache.maxSequences) {
      const held = sequence.table.slice(0, Math.ceil(sequence.length / BLOCK_SIZE));
      for (const block of held) naive.refs[block] += 1;
      naive.sequences.set(cache.fork(id), { length: sequence.length, table: held, tail: NOTHING });
    }
  }

  #append(id: SequenceId, sequence: NaiveSequence, count: number): void {
    const { cache, naive } = this;
    if (sequence.length + count > MAX_TOKENS) return;
    const needed = Math.ceil((sequence.length + count) / BLOCK_SIZE);
    const last = Math.floor(sequence.length / BLOCK_SIZE);
    const copies = sequence.length % BLOCK_SIZE !== 0 && naive.refs[sequence.table[last]] > 1;
    const wanted = Math.max(0, needed - sequence.table.length) + Number(copies);
    // Fails only when free and reserved blocks together are too few, however they lie.
    if (wanted > naive.available) {
      assert.throws(() => cache.reserve(id, count), { code: "OUT_OF_BLOCKS" });
      this.refused += 1;
      return;
    }
    cache.reserve(id, count);
    cache.settleCopies();
    if (copies) {
      const source = sequence.table[last];
      sequence.table[last] = naive.single();
      naive.refs[source] -= 1;
    }
    naive.take(sequence, needed);
    cache.append(id, TOKENS.subarray(0, count));
    sequence.length += count;
  }

  compare(): void {
    const { cache, naive } = this;
    const runs = cache.runs!;
    assert.equal(cache.available, naive.available, "what is reserved counts as free");
    let reserved = 0;
    for (const [id, { table, tail }] of naive.sequences) {
      assert.deepEqual([...cache.blockTable(id)], table);
      const { start, length } = runs.tail(id);
      assert.deepEqual(length === 0 ? NOTHING : { start, length }, tail.length === 0 ? NOTHING : tail);
      reserved += length;
    }
    assert.deepEqual(
      runs.free(),
      naive.extents(),
      "disjoint, joined, all of the pool that is neither held nor reserved",
    );
    assert.equal(runs.stats().reserved, reserved);
    assert.equal(runs.stats().group, naive.group);
  }
}

async function run(build: Build, seed: number, steps: number, checks: number): Promise<Harness> {
  const random = new Random(seed);
  const blocks = 1 + random.below(random.below(2) === 0 ? 40 : 300);
  const reserve = 1 + random.below(Math.min(blocks, 60));
  const core = await Core.create({ build, seed: seed >>> 0 });
  const cache = core.kvCache({
    blocks,
    blockSize: BLOCK_SIZE,
    maxSequences: 12,
    maxSequenceTokens: MAX_TOKENS,
    prefixCache: false,
    blockRuns: { reserve },
  });
  const harness = new Harness(cache, reserve, seed);
  for (let i = 0; i < steps; i++) {
    harness.step();
    if (i % checks === 0) {
      harness.compare();
      cache.validate();
    }
  }
  harness.compare();
  for (const [id] of harness.naive.sequences) cache.close(id);
  cache.validate();
  assert.deepEqual(cache.runs!.free(), [{ start: 0, length: blocks }], "all blocks are one run again");
  return harness;
}

test("100,000 random allocations, appends, forks and frees equal the naive model, and fail only without a block", async () => {
  let refused = 0;
  await fc.assert(
    fc.asyncProperty(fc.integer(), async (seed) => {
      refused += (await run("core", seed, 1000, 3)).refused;
    }),
    { numRuns: 100 },
  );
  assert.ok(refused > 100, `${refused} refusals: pools do run out`);
});

for (const build of ["core-scalar", "core-threads", "debug"] as const)
  test(`each operation keeps every invariant: ${build}`, async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer(), async (seed) => void (await run(build, seed, 200, 1))),
      { numRuns: 8 },
    );
  });

async function cacheOf(options: Partial<Parameters<Core["kvCache"]>[0]> = {}): Promise<KvCache> {
  const core = await Core.create({ seed: 1 });
  return core.kvCache({
    blocks: 64,
    blockSize: BLOCK_SIZE,
    maxSequences: 32,
    maxSequenceTokens: MAX_TOKENS,
    prefixCache: false,
    blockRuns: { reserve: 16 },
    ...options,
  });
}

function grow(cache: KvCache, sequence: SequenceId, blocks: number): void {
  cache.reserve(sequence, blocks * BLOCK_SIZE);
  cache.append(sequence, new Uint32Array(blocks * BLOCK_SIZE));
}

const runsOf = (table: ArrayLike<number>): number =>
  Array.from(table).filter((id, i, ids) => i === 0 || ids[i - 1] + 1 !== id).length;

test("sequences that grow in turns lie in one run each; without runs in one a block", async () => {
  const meanRuns = async (blockRuns: { reserve: number } | undefined): Promise<number> => {
    const cache = await cacheOf({ blockRuns });
    const sequences = [0, 1, 2, 3].map(() => cache.open({ tokens: [] }));
    for (let i = 0; i < 12; i++) for (const sequence of sequences) grow(cache, sequence, 1);
    return sequences.reduce((sum, sequence) => sum + runsOf(cache.blockTable(sequence)), 0) / 4;
  };
  assert.equal(await meanRuns({ reserve: 16 }), 1);
  assert.equal(await meanRuns(undefined), 12);
});

test("reserved blocks are given up when nothing else is left: a pool of reservations admits what a pool of free blocks would", async () => {
  const cache = await cacheOf();
  const few = [0, 1, 2, 3].map(() => cache.open({ tokens: [] }));
  for (const sequence of few) grow(cache, sequence, 1);
  assert.equal(cache.runs!.stats().reserved, 60, "all the rest is reserved");
  assert.equal(cache.available, 60);
  const others = Array.from({ length: 28 }, () => cache.open({ tokens: [] }));
  for (const sequence of others) grow(cache, sequence, 1);
  for (const sequence of others) grow(cache, sequence, 1);
  for (const sequence of few) grow(cache, sequence, 1);
  assert.equal(cache.available, 0);
  assert.throws(() => cache.reserve(few[0], 1), { code: "OUT_OF_BLOCKS" });
  cache.validate();
});

test("beside a prefix cache the same blocks are hit as long as nothing is forgotten, and forgotten blocks are in runs", async () => {
  const cache = await cacheOf({ prefixCache: true, blocks: 40, blockRuns: { reserve: 8 } });
  const prompt = (name: number): Uint32Array =>
    Uint32Array.from({ length: 10 * BLOCK_SIZE }, (_, i) => 100 * name + i);
  for (let name = 0; name < 3; name++) {
    const sequence = cache.open({ tokens: prompt(name) });
    cache.reserve(sequence, 10 * BLOCK_SIZE);
    cache.append(sequence, prompt(name));
    cache.close(sequence);
  }
  for (let name = 0; name < 3; name++) assert.equal(cache.match(prompt(name)), 9 * BLOCK_SIZE);
  // One block at a time: the last 10 free ones, then those of the prompt used longest ago, from its end.
  const sequence = cache.open({ tokens: [] });
  for (let i = 0; i < 16; i++) {
    cache.reserve(sequence, BLOCK_SIZE);
    cache.append(
      sequence,
      Uint32Array.from({ length: BLOCK_SIZE }, (_, k) => 7000 + BLOCK_SIZE * i + k),
    );
    cache.validate();
  }
  assert.ok(runsOf(cache.blockTable(sequence)) <= 3, `${[...cache.blockTable(sequence)]}`);
  assert.equal(cache.match(prompt(2)), 9 * BLOCK_SIZE, "the last one used is still there");
  assert.equal(cache.match(prompt(0)), 2 * BLOCK_SIZE, "8 of the first were forgotten together");
});

test("bad options of runs are refused, and asking for a closed sequence's reservation", async () => {
  const core = await Core.create();
  const shape = { blocks: 8, blockSize: 4, maxSequences: 2, maxSequenceTokens: 16 };
  const refused = (options: object, argument: string): void =>
    assert.throws(
      () => core.kvCache({ ...shape, ...options }),
      (error: unknown) =>
        error instanceof QuartermasterError &&
        error.code === "INVALID_ARGUMENT" &&
        error.argument === argument,
    );
  for (const reserve of [0, 9, 1.5, NaN, -1]) refused({ blockRuns: { reserve } }, "blockRuns.reserve");
  refused({ blockRuns: true, groups: [{ kind: "window", window: 8 }] }, "blockRuns");
  refused({ blockRuns: true, blocks: 2 ** 24 + 1 }, "blockRuns");
  const cache = core.kvCache({ ...shape, blockRuns: true });
  assert.equal(core.exports.kvRunsCreate(cache.pointer, 1), -1, "once");
  const sequence = cache.open({ tokens: [] });
  cache.close(sequence);
  assert.throws(() => cache.runs!.tail(sequence), { code: "UNKNOWN_SEQUENCE" });
  assert.equal(core.kvCache(shape).runs, undefined);
});

test("a snapshot with runs goes on in every build as the core itself does", async () => {
  const grown = async (build: Build, bytes?: Uint8Array): Promise<Uint8Array> => {
    const core = bytes ? await Core.restore(bytes, { build }) : await Core.create({ build, seed: 3 });
    const cache =
      core.kvCaches[0] ??
      core.kvCache({
        blocks: 50,
        blockSize: 4,
        maxSequences: 8,
        maxSequenceTokens: 200,
        blockRuns: { reserve: 9 },
      });
    for (let i = 0; i < 5; i++) {
      const sequence = cache.open({ tokens: [i, i] });
      grow(cache, sequence, 3 + i);
      if (i % 2 === 0) cache.close(sequence);
    }
    return core.snapshot();
  };
  const half = await grown("core");
  const full = await grown("core", half);
  for (const build of ["core-scalar", "core-threads", "debug"] as const)
    assert.deepEqual(await grown(build, half), full, build);
});

/** Free extents against a naive map of the pool, one flag a block. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Build, Core, type Extent, type FreeExtents } from "../../bindings/main.js";
import { Random } from "../support/random.js";
import { codeOf } from "../support/code-of.js";

const BUILDS: readonly Build[] = ["core", "core-threads", "core-scalar", "debug"];

/** One flag a block; every question is answered by looking at all of them. */
class NaivePool {
  readonly free: Uint8Array;
  constructor(readonly blocks: number) {
    this.free = new Uint8Array(blocks).fill(1);
  }

  runs(): Extent[] {
    const runs: { start: number; length: number }[] = [];
    this.free.forEach((free, block) => {
      if (!free) return;
      if (block > 0 && this.free[block - 1]) runs[runs.length - 1].length += 1;
      else runs.push({ start: block, length: 1 });
    });
    return runs;
  }

  first(length: number): Extent | undefined {
    return this.runs().find((run) => run.length >= length);
  }

  best(length: number): Extent | undefined {
    let best: Extent | undefined;
    for (const run of this.runs())
      if (run.length >= length && run.length < (best?.length ?? Infinity)) best = run;
    return best;
  }

  largest(): Extent | undefined {
    let largest: Extent | undefined;
    for (const run of this.runs()) if (run.length > (largest?.length ?? 0)) largest = run;
    return largest;
  }

  all(flag: 0 | 1, start: number, length: number): boolean {
    return this.free.subarray(start, start + length).every((free) => free === flag);
  }

  set(flag: 0 | 1, start: number, length: number): void {
    this.free.fill(flag, start, start + length);
  }
}

class Harness {
  readonly pool: NaivePool;
  constructor(
    readonly extents: FreeExtents,
    readonly random: Random,
  ) {
    this.pool = new NaivePool(extents.blocks);
  }

  step(): void {
    const { extents, pool, random } = this;
    // Mostly short runs: they fragment the pool.
    const longest = random.below(4) === 0 ? pool.blocks : Math.min(8, pool.blocks);
    const length = 1 + random.below(1 + random.below(longest));
    const start = random.below(pool.blocks - length + 1);
    switch (random.below(7)) {
      case 0:
        return this.allocated("first", pool.first(length), length);
      case 1:
        return this.allocated("best", pool.best(length), length);
      case 2: {
        const expected = pool.best(length) ?? pool.largest();
        if (!expected) {
          assert.equal(
            codeOf(() => extents.allocateUpTo(length)),
            "OUT_OF_BLOCKS",
          );
          return;
        }
        const run = { start: expected.start, length: Math.min(length, expected.length) };
        assert.deepEqual(extents.allocateUpTo(length), run);
        pool.set(0, run.start, run.length);
        return;
      }
      case 3:
        if (pool.all(1, start, length)) {
          extents.allocateAt(start, length);
          pool.set(0, start, length);
        } else {
          assert.equal(
            codeOf(() => extents.allocateAt(start, length)),
            "OUT_OF_BLOCKS",
          );
        }
        return;
      default:
        if (pool.all(0, start, length)) {
          extents.free(start, length);
          pool.set(1, start, length);
        } else {
          assert.equal(
            codeOf(() => extents.free(start, length)),
            "ALREADY_FREE",
          );
        }
    }
  }

  allocated(fit: "first" | "best", expected: Extent | undefined, length: number): void {
    if (!expected) {
      assert.equal(
        codeOf(() => this.extents.allocate(length, fit)),
        "OUT_OF_BLOCKS",
      );
      return;
    }
    assert.equal(this.extents.allocate(length, fit), expected.start);
    this.pool.set(0, expected.start, length);
  }

  check(): void {
    const { extents, pool } = this;
    extents.validate();
    const runs = pool.runs();
    assert.deepEqual(extents.list(), runs);
    assert.equal(extents.count, runs.length);
    assert.equal(extents.largest, pool.largest()?.length ?? 0);
    assert.equal(
      extents.total,
      pool.free.reduce((sum, free) => sum + free, 0),
    );
  }
}

for (const blocks of [1, 2, 7, 64, 257]) {
  test(`100,000 random allocations and frees of ${blocks} blocks equal the naive pool`, async () => {
    const core = await Core.create({ seed: blocks });
    const harness = new Harness(core.freeExtents({ blocks }), new Random(blocks));
    for (let i = 0; i < 100_000; i++) {
      harness.step();
      if (i % 10 === 0) harness.check();
    }
    harness.check();
  });
}

for (const build of BUILDS) {
  test(`each operation keeps every invariant: ${build}`, async () => {
    for (let seed = 1; seed <= 4; seed++) {
      const core = await Core.create({ build, seed });
      const harness = new Harness(core.freeExtents({ blocks: 30 * seed }), new Random(seed));
      for (let i = 0; i < 1500; i++) {
        harness.step();
        harness.check();
      }
    }
  });
}

test("a pool with every second block free fits its nodes, and joins to one run again", async () => {
  for (const blocks of [5000, 40_001]) {
    const core = await Core.create({ seed: 7 });
    const extents = core.freeExtents({ blocks });
    assert.equal(extents.allocate(blocks), 0);
    for (let block = 0; block < blocks; block += 2) extents.free(block, 1);
    extents.validate();
    assert.equal(extents.count, Math.ceil(blocks / 2));
    assert.equal(extents.largest, 1);
    for (let block = 1; block < blocks; block += 2) extents.free(block, 1);
    extents.validate();
    assert.deepEqual(extents.list(), [{ start: 0, length: blocks }]);
  }
});

test("refused calls change nothing", async () => {
  const core = await Core.create();
  const extents = core.freeExtents({ blocks: 100 });
  extents.allocateAt(10, 50);
  const refused: readonly (readonly [code: string, run: () => unknown])[] = [
    ["INVALID_ARGUMENT", () => extents.allocate(0)],
    ["INVALID_ARGUMENT", () => extents.allocate(101)],
    ["INVALID_ARGUMENT", () => extents.allocate(1.5)],
    ["INVALID_ARGUMENT", () => extents.allocate(1, "worst" as never)],
    ["INVALID_ARGUMENT", () => extents.allocateAt(100, 1)],
    ["INVALID_ARGUMENT", () => extents.allocateAt(-1, 1)],
    ["INVALID_ARGUMENT", () => extents.free(99, 2)],
    ["INVALID_ARGUMENT", () => extents.free(10, 0)],
    ["INVALID_ARGUMENT", () => extents.list(101)],
    ["INVALID_ARGUMENT", () => core.freeExtents({ blocks: 0 })],
    ["INVALID_ARGUMENT", () => core.freeExtents({ blocks: 2 ** 24 + 1 })],
    ["OUT_OF_BLOCKS", () => extents.allocate(41)],
    ["OUT_OF_BLOCKS", () => extents.allocateAt(9, 2)],
    ["OUT_OF_BLOCKS", () => extents.allocateAt(59, 2)],
    ["OUT_OF_BLOCKS", () => extents.allocateAt(0, 100)],
    ["ALREADY_FREE", () => extents.free(9, 2)],
    ["ALREADY_FREE", () => extents.free(59, 2)],
    ["ALREADY_FREE", () => extents.free(0, 100)],
    ["ALREADY_FREE", () => extents.free(0, 1)],
  ];
  for (const [code, run] of refused) {
    const before = core.snapshot();
    assert.equal(codeOf(run), code);
    assert.deepEqual(core.snapshot(), before, `${code} changes nothing`);
    core.validate();
  }
  const { exports } = core;
  assert.equal(exports.freeExtentsAllocate(extents.pointer, 1, 3), -1);
  assert.equal(exports.freeExtentsFree(extents.pointer, 10, 0xffffffff), -1);
  assert.equal(exports.freeExtentsAllocateAt(extents.pointer, 0xffffffff, 1), -1);
});

/** Header words: 2 starts, 3 lengths; an ordered index keeps its count of free nodes at byte 72. */
test("without nodes every change is refused whole", async () => {
  const core = await Core.create();
  const extents = core.freeExtents({ blocks: 100 });
  extents.allocateAt(10, 20);
  const words = new Uint32Array(core.memory.buffer);
  for (const index of [2, 3]) {
    const freeCount = (words[extents.pointer / 4 + index] + 72) / 4;
    const free = words[freeCount];
    words[freeCount] = 1;
    const before = core.snapshot();
    assert.equal(
      codeOf(() => extents.free(12, 1)),
      "OUT_OF_MEMORY",
    );
    assert.equal(
      codeOf(() => extents.allocate(5)),
      "OUT_OF_MEMORY",
    );
    assert.equal(
      codeOf(() => extents.allocateAt(50, 5)),
      "OUT_OF_MEMORY",
    );
    assert.deepEqual(core.snapshot(), before);
    words[freeCount] = free;
    extents.validate();
  }
  extents.free(12, 1);
  extents.validate();
});

test("a restored core allocates the same runs in every build", async () => {
  const core = await Core.create({ seed: 5 });
  const harness = new Harness(core.freeExtents({ blocks: 300 }), new Random(5));
  for (let i = 0; i < 2000; i++) harness.step();
  const bytes = core.snapshot();
  const later = async (build: Build): Promise<Uint8Array> => {
    const restored = await Core.restore(bytes, { build });
    const again = new Harness(restored.freeExtentSets[0], new Random(6));
    again.pool.free.set(harness.pool.free);
    for (let i = 0; i < 2000; i++) again.step();
    again.check();
    return restored.snapshot();
  };
  const expected = await later("core");
  for (const build of BUILDS) assert.deepEqual(await later(build), expected, build);
});

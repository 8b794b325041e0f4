/** The virtually contiguous allocator against an interpreter of its plans ("vAttention", arXiv 2405.04437). */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import {
  type Build,
  Core,
  VirtualKVCache,
  type VirtualMemory,
  type VirtualMemoryOptions,
} from "../../bindings/main.js";
import { VirtualMemoryHeader } from "../../bindings/virtual-memory-layout.js";
import { long } from "../support/long.js";
import { root } from "../support/package-root.js";
import { Random } from "../support/random.js";
import { VirtualMemoryHarness } from "../support/virtual-memory-harness.js";
import { codeOf } from "../support/code-of.js";

const BUILDS: readonly Build[] = ["core", "core-threads", "core-scalar", "debug"];
const SHAPES: readonly VirtualMemoryOptions[] = [
  { slots: 6, maxTokens: 96, tokenBytes: 512, pageBytes: 4096, blocks: 30 },
  // Tokens cross the ends of pages: 3 tokens in 4 pages are the least that can be shared.
  { slots: 5, maxTokens: 40, tokenBytes: 1536, pageBytes: 4096, blocks: 40 },
  // A token is longer than a page.
  { slots: 4, maxTokens: 12, tokenBytes: 10240, pageBytes: 4096, blocks: 60, eagerReclaim: true },
  { slots: 1, maxTokens: 64, tokenBytes: 4096, pageBytes: 8192, blocks: 16, eagerSteps: 3, eagerBlocks: 1 },
];

async function memoryOf(options: VirtualMemoryOptions, build: Build = "core"): Promise<VirtualMemory> {
  return (await Core.create({ build })).virtualMemory(options);
}

for (const build of BUILDS) {
  test(`${build}: plans replayed by an interpreter give the tables, and every count adds up`, async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...SHAPES),
        fc.nat(),
        fc.integer({ min: 1, max: 250 }),
        async (shape, seed, steps) => {
          const harness = new VirtualMemoryHarness(await memoryOf(shape, build), new Random(seed));
          for (let i = 0; i < steps; i++) {
            harness.step();
            harness.check();
          }
        },
      ),
      { numRuns: build === "core" ? 40 : 12 },
    );
  });
}

test("10^5 random allocations, steps, shares and frees keep pool + distinct mapped = budget", async () => {
  const runs = long ? 4 : 1;
  for (let run = 0; run < runs; run++) {
    const random = new Random(run);
    const harness = new VirtualMemoryHarness(await memoryOf(SHAPES[run % SHAPES.length]), random);
    for (let i = 0; i < 100_000; i++) {
      harness.step();
      if (i % 16 === 0) harness.check();
    }
    harness.check();
    assert.ok(harness.maps > 10_000, "the run maps");
  }
});

test("a snapshot between two steps goes on with the same plans", async () => {
  const core = await Core.create();
  const memory = core.virtualMemory(SHAPES[0]);
  const harness = new VirtualMemoryHarness(memory, new Random(7));
  for (let i = 0; i < 300; i++) harness.step();
  const copy = (await Core.restore(core.snapshot())).virtualMemories[0];
  const lengths = harness.lengths.map((length) => Math.min(length + 5, length && 96));
  assert.deepEqual(copy.step(lengths), memory.step(lengths));
  copy.background();
  memory.background();
  assert.deepEqual(copy.takePlan(), memory.takePlan());
});

test("a freed slot's next sequence of the same length maps nothing", async () => {
  const memory = await memoryOf({ slots: 4, maxTokens: 64, tokenBytes: 4096, pageBytes: 4096, blocks: 128 });
  const slot = memory.allocate(40);
  memory.step([40, 0, 0, 0]);
  assert.equal(memory.takePlan().length, 40 * 4);
  memory.free(slot);
  assert.equal(memory.freeBlocks, 128, "an idle slot's pages count as free");
  assert.equal(memory.allocate(40), slot);
  memory.step([40, 0, 0, 0]);
  assert.equal(memory.takePlan().length, 0);
});

test("best fit: the least mapped slot that is enough, else the most mapped, ties to the lowest", async () => {
  const memory = await memoryOf({ slots: 4, maxTokens: 64, tokenBytes: 4096, pageBytes: 4096, blocks: 128 });
  [10, 20, 30].forEach((tokens) => memory.allocate(tokens));
  memory.step([10, 20, 30, 0]);
  for (const slot of [0, 1, 2]) memory.free(slot);
  assert.equal(memory.allocate(15), 1, "20 is the least that is enough, though slot 0 comes first");
  assert.equal(memory.allocate(40), 2, "nobody has enough: 30 is the most");
  assert.equal(memory.allocate(1), 0, "10 before slot 3, which has nothing");
});

test("a slot without memory is named, keeps its length, and the others are served", async () => {
  const memory = await memoryOf({ slots: 3, maxTokens: 64, tokenBytes: 4096, pageBytes: 4096, blocks: 20 });
  for (const tokens of [5, 5, 5]) memory.allocate(tokens);
  assert.deepEqual(memory.step([5, 5, 5]), []);
  assert.deepEqual(memory.step([6, 20, 6]), [1]);
  assert.deepEqual(
    [0, 1, 2].map((slot) => memory.length(slot)),
    [6, 5, 6],
  );
  assert.equal(memory.mapped(1), 5, "nothing half mapped");
  memory.free(1);
  assert.deepEqual(memory.step([7, 0, 7]), []);
  memory.validate();
});

test("what a KV block serves two idle slots is counted once, and can be had", async () => {
  const memory = await memoryOf({ slots: 2, maxTokens: 16, tokenBytes: 4096, pageBytes: 4096, blocks: 16 });
  memory.allocate(10);
  memory.step([10, 0]);
  assert.equal(
    codeOf(() => memory.allocate(10)),
    "OUT_OF_BLOCKS",
  );
  assert.equal(
    memory.allocate(10, { from: 0, tokens: 8 }),
    1,
    "a shared prefix needs no KV blocks of its own",
  );
  assert.equal(memory.sharePrefix(0, 1, 8), 8);
  memory.step([10, 10]);
  assert.equal(memory.mappedBlocks, 12);
  assert.equal(memory.freeBlocks, 4);
  memory.free(0);
  assert.equal(memory.freeBlocks, 6, "the 8 shared KV blocks are still slot 1's");
  memory.free(1);
  assert.equal(memory.freeBlocks, 16);
  assert.equal(memory.allocate(16), 0);
  assert.deepEqual(memory.step([16, 0]), [], "what was reported free can be mapped");
});

test("a slot that shared its pages does not write to them after it has a new sequence", async () => {
  const memory = await memoryOf({ slots: 2, maxTokens: 16, tokenBytes: 4096, pageBytes: 4096, blocks: 32 });
  memory.allocate(10);
  memory.step([10, 0]);
  memory.allocate(10);
  memory.sharePrefix(0, 1, 8);
  memory.step([10, 10]);
  memory.free(1);
  const before = memory.pages(0);
  assert.equal(memory.allocate(10), 1);
  memory.step([10, 10]);
  assert.ok(memory.pages(1).every((block) => !before.includes(block)));
  memory.validate();
});

test("a sequence does not end before the prefix that it shares", async () => {
  const memory = await memoryOf({ slots: 2, maxTokens: 16, tokenBytes: 4096, pageBytes: 4096, blocks: 32 });
  memory.allocate(10);
  memory.step([10, 0]);
  memory.allocate(12);
  memory.sharePrefix(0, 1, 8);
  assert.equal(
    codeOf(() => memory.step([7, 12])),
    "INVALID_ARGUMENT",
  );
  assert.equal(memory.length(0), 10, "a refused step has changed nothing");
  assert.deepEqual(memory.step([8, 12]), []);
  memory.free(1, true);
  assert.deepEqual(memory.step([7, 0]), [], "once nobody shares it may");
});

test("background maps the next page before a decode step needs it; with eagerSteps 0 it does not", async () => {
  for (const eagerSteps of [9, 0]) {
    const memory = await memoryOf({
      slots: 2,
      maxTokens: 64,
      tokenBytes: 1024,
      pageBytes: 4096,
      blocks: 32,
      eagerSteps,
    });
    memory.allocate(4);
    let waited = 0;
    for (let tokens = 4; tokens <= 64; tokens++) {
      memory.step([tokens, 0]);
      if (tokens > 4) waited += memory.takePlan().length / 4;
      else memory.takePlan();
      memory.background();
      memory.takePlan();
    }
    assert.equal(waited, eagerSteps === 0 ? 15 : 0);
  }
});

for (const where of ["while kernels wait", "beside the kernels", "between iterations"] as const)
  test(`once a plan has failed ${where}, no later call says that pages are mapped`, async () => {
    const memory = await memoryOf({
      slots: 3,
      maxTokens: 40,
      tokenBytes: 4096,
      pageBytes: 4096,
      blocks: 100,
    });
    const failure = new Error("too many mappings");
    let failing = false;
    const fail = (): void => {
      if (failing) throw failure;
    };
    const backend = { execute: fail, executeAsync: async () => fail(), trim: fail };
    const cache = new VirtualKVCache(memory, backend, { unmapOnFree: where === "between iterations" });
    const slot = await cache.allocSlot(1);
    const other = await cache.allocSlot(1);
    const lengths = (tokens: number): number[] =>
      [0, 1, 2].map((at) => (at === slot || at === other ? tokens : 0));
    await cache.step(lengths(1));
    await cache.idle();
    failing = true;
    if (where === "while kernels wait") await assert.rejects(cache.step(lengths(20)), failure);
    else if (where === "between iterations") await assert.rejects(cache.freeSlot(other), failure);
    else {
      await cache.step(lengths(Math.min(memory.mapped(slot), memory.mapped(other)))); // all of it is mapped: only the next pages fail
      await assert.rejects(cache.idle(), failure);
    }
    failing = false;
    const ended = { code: "POISONED", cause: failure };
    await assert.rejects(cache.step(lengths(21)), where === "beside the kernels" ? failure : ended);
    await assert.rejects(cache.allocSlot(1), ended);
    await assert.rejects(cache.freeSlot(slot), ended);
    await assert.rejects(cache.sharePrefix(slot, other, 1), ended);
    await assert.rejects(cache.trim(), ended);
  });

test("bad lengths and shapes are refused by name and value, and change nothing", async () => {
  const memory = await memoryOf(SHAPES[0]);
  memory.allocate(10);
  const lengths = (first: number, second = 0): number[] => [first, second, 0, 0, 0, 0];
  const cases: readonly [() => unknown, string, RegExp][] = [
    [() => memory.step(lengths(97)), "TOO_LONG", /lengths\[0\] is 97; allowed: up to 96/],
    [
      () => memory.step(lengths(0)),
      "INVALID_ARGUMENT",
      /lengths\[0\] is 0; allowed: an integer from 1 to 96/,
    ],
    [
      () => memory.step(lengths(10, 1)),
      "INVALID_ARGUMENT",
      /lengths\[1\] is 1; allowed: an integer from 0 to 0/,
    ],
    [() => memory.step([1]), "INVALID_ARGUMENT", /6 lengths/],
    [() => memory.step(lengths(1.5)), "INVALID_ARGUMENT", /lengths\[0\] is 1.5/],
    [() => memory.allocate(0), "INVALID_ARGUMENT", /tokens is 0/],
    [() => memory.allocate(97), "TOO_LONG", /97/],
    [() => memory.free(3), "UNKNOWN_SEQUENCE", /slot 3/],
    [() => memory.free(6), "INVALID_ARGUMENT", /slot is 6; allowed: an integer from 0 to 5/],
    [() => memory.sharePrefix(0, 2, 1), "UNKNOWN_SEQUENCE", /slot 2/],
    [() => memory.core.virtualMemory({ ...SHAPES[0], slots: 0 }), "INVALID_ARGUMENT", /slots is 0/],
    [() => memory.core.virtualMemory({ ...SHAPES[0], blocks: 0 }), "INVALID_ARGUMENT", /blocks is 0/],
    [
      () => memory.core.virtualMemory({ ...SHAPES[0], pageBytes: 2048 }),
      "INVALID_ARGUMENT",
      /pageBytes is 2048/,
    ],
    [
      () => memory.core.virtualMemory({ ...SHAPES[0], pageBytes: 12288 }),
      "INVALID_ARGUMENT",
      /a power of two/,
    ],
    [
      () => memory.core.virtualMemory({ ...SHAPES[0], maxTokens: 2 ** 24, slots: 4096 }),
      "INVALID_ARGUMENT",
      /maxTokens is 16777216/,
    ],
  ];
  const before = memory.core.snapshot();
  for (const [run, code, message] of cases) {
    assert.equal(codeOf(run), code);
    assert.throws(run, message);
  }
  memory.validate();
  memory.step(lengths(10));
  assert.equal(memory.mapped(0), 2);
  const again = (await Core.restore(before)).virtualMemories[0];
  again.step(lengths(10));
  assert.deepEqual(again.takePlan(), memory.takePlan());
});

test("validate sees a KV block mapped twice, a count that is off, and a page that two slots could write", async () => {
  const corruptions: readonly ((
    memory: VirtualMemory,
    words: Uint32Array,
    at: (name: keyof typeof VirtualMemoryHeader) => number,
  ) => void)[] = [
    (_, words, at) => (words[at("table") + 1] = words[at("table")]),
    (_, words, at) => (words[at("table")] = 1000),
    (_, words, at) => (words[at("free")] = words[at("free") + 1]),
    (memory, words) => (words[memory.pointer / 4 + VirtualMemoryHeader.heldCount] += 1),
    (memory, words) => (words[memory.pointer / 4 + VirtualMemoryHeader.entries] += 1),
    // The shared pages of slot 0 no longer end where its length says.
    (_, words, at) => (words[at("slots")] = 1),
  ];
  for (const corrupt of corruptions) {
    const memory = await memoryOf(SHAPES[0]);
    memory.allocate(40);
    memory.step([40, 0, 0, 0, 0, 0]);
    memory.allocate(40);
    memory.sharePrefix(0, 1, 32);
    memory.validate();
    const words = new Uint32Array(memory.core.memory.buffer);
    corrupt(memory, words, (name) => words[memory.pointer / 4 + VirtualMemoryHeader[name]] / 4);
    assert.equal(
      codeOf(() => memory.validate()),
      "CORRUPT",
    );
  }
});

test("docs/abi.md documents the header's words as the bindings read them", () => {
  const section = readFileSync(join(root, "docs/abi.md"), "utf8")
    .split("## Virtual memory")[1]
    .split("\n## ")[0];
  const documented = [...section.matchAll(/^\| (\d+) \| `(\w+)` \|/gm)].map(([, word, name]) => [
    name,
    Number(word),
  ]);
  assert.deepEqual(Object.fromEntries(documented), VirtualMemoryHeader);
});

test("a host that leaves the plan lying is refused before the ring would be full", async () => {
  const memory = await memoryOf({ slots: 1, maxTokens: 8, tokenBytes: 4096, pageBytes: 4096, blocks: 8 });
  let code = "OK";
  for (let round = 0; round < 20 && code === "OK"; round++) {
    code = codeOf(() => {
      memory.allocate(8);
      memory.step([8]);
      memory.free(0, true);
    });
    memory.validate();
  }
  assert.equal(code, "STEP_IN_FLIGHT");
  assert.ok(memory.takePlan().length > 0);
  memory.validate();
});

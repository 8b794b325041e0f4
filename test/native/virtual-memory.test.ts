/**
 * Virtually contiguous memory on this machine: what is written through the dense views is there, shared prefixes are the
 * same bytes, untouched pages fault, and kernels cannot tell the views from plain arrays.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { join } from "node:path";
import {
  BlockTableStore,
  Core,
  QuartermasterError,
  VirtualKVCache,
  type VirtualMemory,
  type VirtualMemoryOptions,
} from "../../bindings/main.js";
import type { NativeKvShape } from "../../native-host/executor/addon.js";
import { MappedKVMemory } from "../../native-host/executor/mapped-kv-memory.js";
import { root } from "../support/package-root.js";
import { Random } from "../support/random.js";
import { bitsOf, isas, needsAddon, randomFloats, theAddon } from "./native-support.js";

/** Virtual memory needs Linux beside the addon. */
const needs =
  process.platform === "linux" ? needsAddon : { skip: "memory is mapped page by page on Linux only" };

interface Setup {
  readonly memory: VirtualMemory;
  readonly mapped: MappedKVMemory;
  readonly cache: VirtualKVCache;
}

async function setUp(options: VirtualMemoryOptions): Promise<Setup> {
  const memory = (await Core.create()).virtualMemory(options);
  const mapped = MappedKVMemory.create(memory);
  return { memory, mapped, cache: new VirtualKVCache(memory, mapped) };
}

/** Every byte of a token in a tensor, told from those of all others. */
function pattern(sequence: number, token: number, tensor: number): number {
  return (Math.imul(sequence * 1021 + token, 2654435761) + tensor * 97) & 0xff;
}

class Writer {
  constructor(readonly setup: Setup) {}

  /** Bytes of a token in a tensor, in the dense view. */
  bytes(slot: number, token: number, tensor: number): Uint8Array {
    const { memory, mapped } = this.setup;
    const start = tensor * memory.slotPages * memory.pageBytes + token * memory.tokenBytes;
    return mapped.view(slot).subarray(start, start + memory.tokenBytes);
  }

  write(slot: number, sequence: number, from: number, to: number): void {
    for (let token = from; token < to; token++)
      for (let tensor = 0; tensor < this.setup.memory.tensors; tensor++)
        this.bytes(slot, token, tensor).fill(pattern(sequence, token, tensor));
  }

  check(slot: number, sequence: number, from: number, to: number): void {
    for (let token = from; token < to; token++)
      for (let tensor = 0; tensor < this.setup.memory.tensors; tensor++) {
        const expected = pattern(sequence, token, tensor);
        assert.ok(
          this.bytes(slot, token, tensor).every((byte) => byte === expected),
          `slot ${slot}, token ${token}, tensor ${tensor}`,
        );
      }
  }
}

const SHAPES: Readonly<Record<string, VirtualMemoryOptions>> = {
  "a tensor a layer": { slots: 5, maxTokens: 96, tokenBytes: 512, tensors: 6, pageBytes: 4096, blocks: 40 },
  "all layers of a token side by side": {
    slots: 5,
    maxTokens: 96,
    tokenBytes: 1536,
    tensors: 2,
    pageBytes: 4096,
    blocks: 100,
  },
};

for (const [name, shape] of Object.entries(SHAPES)) {
  test(
    `${name}: what every step writes is there at the end and after slots are used again`,
    needs,
    async () => {
      const setup = await setUp(shape);
      const writer = new Writer(setup);
      const random = new Random(3);
      /** Sequence and tokens written, by slot. */
      const live = new Map<number, { sequence: number; length: number }>();
      for (let step = 0, sequence = 0; step < 400; step++) {
        if (live.size < shape.slots && random.below(3) === 0 && setup.cache.freeBlocks > 14) {
          const tokens = 1 + random.below(40);
          live.set(await setup.cache.allocSlot(tokens), { sequence: ++sequence, length: 0 });
        }
        const lengths = Array.from({ length: shape.slots }, (_, slot) => {
          const state = live.get(slot);
          if (!state) return 0;
          return state.length === 0 ? setup.memory.length(slot) : Math.min(shape.maxTokens, state.length + 1);
        });
        const { oom } = await setup.cache.step(lengths);
        for (const [slot, state] of live) {
          if (oom.includes(slot)) continue;
          writer.write(slot, state.sequence, state.length, lengths[slot]);
          state.length = lengths[slot];
        }
        for (const slot of oom) {
          live.delete(slot);
          await setup.cache.freeSlot(slot);
        }
        if (step % 7 === 0 && live.size > 0) {
          const slot = random.pick([...live.keys()]);
          const { sequence: which, length } = live.get(slot)!;
          writer.check(slot, which, 0, length);
          live.delete(slot);
          await setup.cache.freeSlot(slot);
        }
        if (step % 97 === 0) assert.ok((await setup.cache.trim()) > 0);
      }
      for (const [slot, { sequence: which, length }] of live) writer.check(slot, which, 0, length);
      await setup.cache.idle();
      setup.memory.validate();
      assert.ok(setup.mapped.costs.beside.calls > 0, "some of it was mapped beside the steps");
      setup.mapped.close();
    },
  );
}

test(
  "a shared prefix is the same bytes through both slots, and writing behind it does not reach the other",
  needs,
  async () => {
    const setup = await setUp(SHAPES["a tensor a layer"]);
    const writer = new Writer(setup);
    const from = await setup.cache.allocSlot(50);
    await setup.cache.step([50, 0, 0, 0, 0]);
    writer.write(from, 1, 0, 50);
    const to = await setup.cache.allocSlot(60, { from, tokens: 45 });
    const shared = await setup.cache.sharePrefix(from, to, 45);
    assert.equal(shared, 40, "8 tokens a page-group: 5 whole ones");
    await setup.cache.step([50, 60, 0, 0, 0]);
    writer.check(to, 1, 0, shared);
    writer.write(to, 2, shared, 60);
    writer.check(from, 1, 0, 50);
    writer.check(to, 1, 0, shared);
    writer.check(to, 2, shared, 60);
    await setup.cache.freeSlot(from);
    await setup.cache.trim();
    writer.check(to, 1, 0, shared);
    setup.mapped.close();
  },
);

test("trim gives memory back to the system, close empties the views", needs, async () => {
  const setup = await setUp({ slots: 2, maxTokens: 64, tokenBytes: 4096, tensors: 4, blocks: 8 });
  const slot = await setup.cache.allocSlot(64);
  await setup.cache.step([64, 0]);
  const view = setup.mapped.view(slot);
  view.fill(1);
  assert.equal(setup.mapped.residentBytes, 64 * 4096 * 4);
  await setup.cache.freeSlot(slot);
  assert.equal(await setup.cache.trim(), 8);
  assert.equal(setup.mapped.residentBytes, 0);
  setup.mapped.close();
  assert.equal(view.length, 0);
  assert.throws(() => setup.mapped.view(slot), { code: "CLOSED" });
});

test("touching a page-group that has no memory behind it ends the process with SIGSEGV", needs, () => {
  const run = (byte: number): ReturnType<typeof spawnSync> =>
    spawnSync(
      process.execPath,
      [
        "--input-type=module",
        "-e",
        `import { Core, VirtualKVCache } from ${JSON.stringify(pathToFileURL(join(root, "dist/bindings/main.js")).href)};
         import { MappedKVMemory } from ${JSON.stringify(pathToFileURL(join(root, "dist/native-host/executor/mapped-kv-memory.js")).href)};
         const memory = (await Core.create()).virtualMemory({ slots: 1, maxTokens: 64, tokenBytes: 1024, pageBytes: 4096, blocks: 16, eagerSteps: 0 });
         const mapped = MappedKVMemory.create(memory);
         const cache = new VirtualKVCache(memory, mapped);
         await cache.allocSlot(4);
         await cache.step([4]);
         mapped.view(0)[${byte}] = 1;
         console.log("survived", mapped.view(0)[${byte}]);`,
      ],
      { encoding: "utf8" },
    );
  const inside = run(4095);
  assert.equal(inside.stdout, "survived 1\n", String(inside.stderr));
  const outside = run(4096);
  assert.equal(outside.signal, "SIGSEGV");
  assert.equal(outside.stdout, "");
});

test("plans and shapes out of bounds are refused before anything is mapped", needs, async () => {
  const setup = await setUp(SHAPES["a tensor a layer"]);
  const bad = [
    [2, 0, 0, 0],
    [1, 5, 0, 0],
    [1, 0, 12, 0],
    [1, 0, 0, 40],
  ];
  for (const change of bad)
    assert.throws(() => setup.mapped.execute(Uint32Array.of(1, 0, 0, 0, ...change)), {
      code: "INVALID_ARGUMENT",
    });
  assert.throws(() => setup.mapped.execute(new Uint32Array(3)), { code: "INVALID_ARGUMENT" });
  assert.equal(setup.mapped.costs.waited.calls, 0);
  const twice = setup.mapped.executeAsync(Uint32Array.of(1, 0, 0, 0));
  await assert.rejects(setup.mapped.executeAsync(Uint32Array.of(1, 0, 1, 1)), { code: "BUSY" });
  await twice;
  assert.throws(
    () => theAddon().createVirtualMemory({ slots: 1, slotPages: 1, tensors: 1, blocks: 1, pageBytes: 1000 }),
    { code: "INVALID_ARGUMENT" },
  );
  assert.throws(
    () =>
      theAddon().createVirtualMemory({
        slots: 4096,
        slotPages: 2 ** 20,
        tensors: 1000,
        blocks: 1,
        pageBytes: 65536,
      }),
    { code: "OUT_OF_MEMORY" },
  );
});

/** One sequence's K and V in three layouts; a ragged batch has several. */
test(
  "the attention kernel gives the same bits on virtual memory, on a paged table and on plain arrays",
  needs,
  async () => {
    const [layers, kvHeads, heads, headDim] = [2, 2, 4, 32];
    const lengths = [1, 33, 150, 64, 97];
    const slots = lengths.length;
    for (const isa of [...isas, "reference"] as const) {
      // A tensor a layer, K and V, and head: a slot is one block of the kernels' layout.
      const setup = await setUp({
        slots,
        maxTokens: 160,
        tokenBytes: headDim * 4,
        tensors: 2 * layers * kvHeads,
        pageBytes: 4096,
        blocks: 24,
      });
      const rowTokens = (setup.memory.slotPages * setup.memory.pageBytes) / (headDim * 4);
      const dense: NativeKvShape = {
        blocks: 1,
        layers,
        kvHeads,
        headDim,
        blockSize: rowTokens,
        kvType: "f32",
      };
      const paged: NativeKvShape = { ...dense, blocks: 64, blockSize: 16 };
      const store = new BlockTableStore(
        (await Core.create()).kvCache({
          blocks: 64,
          blockSize: 16,
          maxSequences: slots,
          maxSequenceTokens: 160,
        }),
      );
      const pool = new Uint8Array(64 * layers * 2 * kvHeads * 16 * headDim * 4);
      const plain = lengths.map(() => new Uint8Array(layers * 2 * kvHeads * rowTokens * headDim * 4));
      for (const tokens of lengths) {
        assert.equal(await setup.cache.allocSlot(tokens), await store.allocSlot(tokens));
      }
      assert.deepEqual((await setup.cache.step(lengths)).oom, []);
      await store.step(lengths);
      const { kernels } = theAddon();
      for (let slot = 0; slot < slots; slot++) {
        const positions = Uint32Array.from({ length: lengths[slot] }, (_, i) => i);
        const table = store.table(slot);
        const pagedSlots = positions.map((p) => table[p >> 4] * 16 + (p & 15));
        for (let layer = 0; layer < layers; layer++) {
          const k = randomFloats(lengths[slot] * kvHeads * headDim, slot * 7 + layer + 1);
          const v = randomFloats(lengths[slot] * kvHeads * headDim, slot * 11 + layer + 2);
          kernels.kvWrite(isa, setup.mapped.view(slot), dense, layer, positions, k, v);
          kernels.kvWrite(isa, plain[slot], dense, layer, positions, k, v);
          kernels.kvWrite(isa, pool, paged, layer, pagedSlots, k, v);
        }
      }
      for (let slot = 0; slot < slots; slot++) {
        const tokens = lengths[slot];
        for (let layer = 0; layer < layers; layer++) {
          // Decode rows are one query, prefill rows all of them.
          const queries = slot % 2 === 0 ? tokens : 1;
          const q = randomFloats(queries * heads * headDim, 99 + slot);
          const run = (kv: Uint8Array, shape: NativeKvShape, table: Uint32Array): string => {
            const out = new Float32Array(q.length).fill(NaN);
            kernels.attention(isa, kv, shape, layer, table, tokens - queries, heads, 0, q, out);
            return String(bitsOf(out));
          };
          const expected = run(plain[slot], dense, Uint32Array.of(0));
          assert.equal(
            run(setup.mapped.view(slot), dense, Uint32Array.of(0)),
            expected,
            `${isa}: virtual, slot ${slot}`,
          );
          assert.equal(run(pool, paged, store.table(slot).slice()), expected, `${isa}: paged, slot ${slot}`);
        }
      }
      await setup.cache.idle();
      setup.mapped.close();
    }
  },
);

test("without the addon creating mapped memory is refused by code", async () => {
  const memory = (await Core.create()).virtualMemory(SHAPES["a tensor a layer"]);
  const addon = {
    createVirtualMemory: () => {
      throw Object.assign(new Error("memory is mapped page by page on Linux only"), { code: "UNSUPPORTED" });
    },
  };
  assert.throws(
    () => MappedKVMemory.create(memory, addon as never),
    (error) => error instanceof QuartermasterError && error.code === "UNSUPPORTED",
  );
});

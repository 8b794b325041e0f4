/**
 * Chunks made one after another over one pool: each reads the ring whole and the salient tokens of the banked chunks whose
 * prompts are nearest, every token with its own K and V, and blocks come back. Against a naive model of all of it.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  BlockDiffusionSession,
  type ChunkAttention,
  type ChunkExecutor,
  type ChunkPart,
  Core,
} from "../../bindings/main.js";
import { RandomStream } from "../../sim/random.js";

const LAYERS = 2;
const KV_HEADS = 2;
const LANES = LAYERS * KV_HEADS;
const BLOCK = 4;

/** Attention that a token of a chunk gets in a lane: planted, different for each. */
function planted(chunk: number, lane: number, token: number, own: boolean): number {
  const mixed = Math.sin(chunk * 12.9898 + lane * 78.233 + token * 37.719 + Number(own) * 3.1) * 43758.5453;
  return mixed - Math.floor(mixed);
}

/** Keeps what was written where, and checks what is read. */
class Checked implements ChunkExecutor {
  /** Lane and place to chunk and token. */
  readonly content = new Map<string, string>();
  /** chunk to [lanes] tokens that should be there. */
  readonly model = new Map<number, Set<number>[]>();
  contexts: number[][] = [];
  steps = 0;
  fail: "denoise" | "write" | undefined;

  constructor(readonly chunkTokens: number) {}

  async denoise(latent: Float32Array, sigma: number, context: readonly ChunkPart[]): Promise<Float32Array> {
    if (this.fail === "denoise") throw new Error("no");
    assert.ok(sigma > 0 && sigma <= 1);
    this.steps += 1;
    for (const part of context) this.check(part);
    return latent.map((value) => value / 2);
  }

  async write(_: Float32Array, into: ChunkPart, context: readonly ChunkPart[]): Promise<ChunkAttention> {
    if (this.fail === "write") throw new Error("no");
    for (let lane = 0; lane < LANES; lane++) {
      assert.equal(into.lengths[lane], this.chunkTokens);
      for (let slot = 0; slot < this.chunkTokens; slot++)
        this.content.set(this.place(into, lane, slot), `${into.chunk}/${slot}`);
    }
    this.contexts.push(context.map(({ chunk }) => chunk));
    const row = (chunk: number, lane: number, own: boolean): Float32Array =>
      Float32Array.from({ length: this.chunkTokens }, (_, token) => planted(chunk, lane, token, own));
    return {
      received: (chunk, lane) => row(chunk, lane, false),
      own: (lane) => row(into.chunk, lane, true),
    };
  }

  async move(moves: Uint32Array): Promise<void> {
    for (let at = 0; at < moves.length; at += 8) {
      const [layer, head, fromBlock, from, toBlock, to, slots] = moves.subarray(at, at + 8);
      const lane = layer * KV_HEADS + head;
      const read = Array.from({ length: slots }, (_, i) =>
        this.content.get(`${lane}:${fromBlock}/${from + i}`)!,
      );
      read.forEach((value, i) => this.content.set(`${lane}:${toBlock}/${to + i}`, value));
    }
  }

  place({ table }: ChunkPart, lane: number, slot: number): string {
    return `${lane}:${table[Math.floor(slot / BLOCK)]}/${slot % BLOCK}`;
  }

  check(part: ChunkPart): void {
    for (let lane = 0; lane < LANES; lane++) {
      const wanted = this.model.get(part.chunk)![lane];
      const tokens = part.tokens(lane);
      assert.equal(part.lengths[lane], wanted.size);
      assert.deepEqual(
        [...tokens],
        [...wanted].sort((a, b) => a - b),
      );
      tokens.forEach((token, slot) =>
        assert.equal(this.content.get(this.place(part, lane, slot)), `${part.chunk}/${token}`),
      );
    }
  }
}

async function open(options: {
  chunkTokens: number;
  blocks?: number;
  local?: number;
  retrieved?: number;
  bankChunks?: number;
  share?: number;
  anchorFirst?: boolean;
  eviction?: "redundant" | "fifo";
  steps?: number;
}) {
  const { blocks = 400, chunkTokens, bankChunks = 4, local = 1 } = options;
  const core = await Core.create({ build: "debug" });
  const cache = core.kvCache({ blocks, blockSize: BLOCK, maxSequences: 40, maxSequenceTokens: 256 });
  const shape = { layers: LAYERS, kvHeads: KV_HEADS, capacity: 64, sequences: local + bankChunks + 2 };
  const arena = core.laneArena({ cache, ...shape });
  const executor = new Checked(chunkTokens);
  const selection = core.selection({ capacity: 256 });
  const session = new BlockDiffusionSession({ ...options, bankChunks, arena, selection, executor });
  /** What should be there after a chunk was made. */
  const follow = (chunk: number): void => {
    executor.model.set(
      chunk,
      Array.from({ length: LANES }, () => new Set(Array.from({ length: chunkTokens }, (_, i) => i))),
    );
  };
  const compress = (chunk: number): void => {
    const { share = 0.25 } = options;
    const kept = Math.ceil(share * chunkTokens);
    const own = local === 0;
    executor.model.set(
      chunk,
      Array.from({ length: LANES }, (_, lane) => {
        const scored = Array.from({ length: chunkTokens }, (_, token) => ({
          token,
          score: Math.fround(planted(chunk, lane, token, own)),
        }));
        scored.sort((a, b) => b.score - a.score || b.token - a.token);
        return new Set(scored.slice(0, kept).map(({ token }) => token));
      }),
    );
  };
  return { core, cache, arena, session, executor, follow, compress };
}

test("random videos: every context holds what a naive model says, no block leaks, the bound on chunks holds", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        chunkTokens: fc.integer({ min: 1, max: 14 }),
        local: fc.integer({ min: 0, max: 3 }),
        retrieved: fc.integer({ min: 0, max: 3 }),
        bankChunks: fc.integer({ min: 1, max: 4 }),
        share: fc.constantFrom(0.1, 0.25, 0.5, 1),
        anchorFirst: fc.boolean(),
        eviction: fc.constantFrom("redundant" as const, "fifo" as const),
        steps: fc.integer({ min: 1, max: 3 }),
      }),
      fc.array(fc.tuple(fc.integer({ min: -2, max: 2 }), fc.integer({ min: -2, max: 2 })), { maxLength: 14 }),
      async (options, prompts) => {
        const { core, cache, session, executor, follow, compress, arena } = await open(options);
        for (const [chunk, prompt] of prompts.entries()) {
          const made = await session.make(prompt, new Float32Array(3).fill(1));
          assert.equal(made.chunk, chunk);
          assert.deepEqual(executor.contexts[chunk], made.context);
          assert.equal(made.latent[0], 0.5 ** options.steps);
          follow(chunk);
          if (made.banked !== undefined) compress(made.banked);
          if (made.dropped !== undefined) executor.model.delete(made.dropped);
          const held = [...session.bank.ring, ...session.bank.bank];
          assert.equal(arena.size, held.length);
          assert.ok(held.length <= options.local + options.bankChunks);
          const blocksOf = (held: number): number => Math.ceil(held / BLOCK);
          const wanted = held.reduce(
            (sum, other) => sum + blocksOf(Math.max(...executor.model.get(other)!.map(({ size }) => size))),
            0,
          );
          assert.equal(session.blocks, wanted);
          assert.equal(cache.stats().free, cache.stats().blocks - wanted);
        }
        assert.equal(executor.steps, prompts.length * options.steps);
        session.close();
        session.close();
        assert.equal(cache.stats().free, cache.stats().blocks);
        core.validate();
        await assert.rejects(session.make([1, 1], new Float32Array(1)), { code: "CLOSED" });
      },
    ),
    { numRuns: 60 },
  );
});

test("every return to a scene reads a chunk of it, and a banked chunk holds a quarter of its blocks", async () => {
  const { session, executor, follow, compress } = await open({ chunkTokens: 48, bankChunks: 8 });
  const random = new RandomStream(5);
  const scenes = [0, 1, 2, ...Array.from({ length: 20 }, () => random.below(3))];
  for (const [chunk, scene] of scenes.entries()) {
    const prompt = Array.from({ length: 6 }, (_, i) => Number(i === scene) + 0.05 * random.normal());
    const made = await session.make(prompt, new Float32Array(4));
    follow(chunk);
    if (made.banked !== undefined) compress(made.banked);
    if (scenes.slice(0, chunk).includes(scene))
      assert.ok(
        made.context.some((other) => scenes[other] === scene),
        `chunk ${chunk}`,
      );
  }
  assert.equal(session.blocks, 12 + 8 * 3, "12 blocks whole, 3 of each banked chunk");
  assert.equal(executor.contexts[0].length, 0);
});

test("a chunk that cannot be made changes nothing: no room, a failing executor, a session closed meanwhile", async () => {
  const small = await open({ chunkTokens: 16, blocks: 10 });
  for (const [chunk, prompt] of [
    [1, 0],
    [0, 1],
  ].entries()) {
    const { banked } = await small.session.make(prompt, new Float32Array(1));
    small.follow(chunk);
    if (banked !== undefined) small.compress(banked);
  }
  const { free } = small.cache.stats();
  for (const fail of ["denoise", "write"] as const) {
    small.executor.fail = fail;
    await assert.rejects(small.session.make([1, 0], new Float32Array(1)), /no/);
    assert.equal(small.cache.stats().free, free);
    assert.equal(small.session.bank.next, 2);
  }
  small.executor.fail = undefined;
  const other = small.cache.open({ tokens: [1], lossy: true });
  small.cache.reserve(other, free * BLOCK);
  await assert.rejects(small.session.make([1, 0], new Float32Array(1)), { code: "OUT_OF_BLOCKS" });
  small.cache.close(other);
  const going = small.session.make([1, 0], new Float32Array(1));
  await assert.rejects(small.session.make([1, 0], new Float32Array(1)), { code: "INVALID_ARGUMENT" });
  small.session.close();
  await assert.rejects(going, { code: "CLOSED" });
  assert.equal(small.cache.stats().free, 10);
  assert.equal(small.arena.size, 0);
});

test("later chunks read a chunk noised to its level; the first and the last level are exact", async () => {
  const written: number[] = [];
  const { arena, core } = await open({ chunkTokens: 4 });
  const executor = new Checked(4);
  const { write } = executor;
  executor.write = function (latent, ...rest) {
    written.push(latent[0]);
    return write.call(this, latent, ...rest);
  };
  executor.denoise = async () => new Float32Array(1).fill(1);
  const session = new BlockDiffusionSession({
    ...{ arena, executor, chunkTokens: 4, local: 1, bankChunks: 4 },
    selection: core.selection({ capacity: 64 }),
    conditionNoise: { chunks: 5, lowest: 0, highest: 0.5, normal: () => 0 },
  });
  for (let chunk = 0; chunk < 5; chunk++) await session.make([1], new Float32Array(1));
  assert.deepEqual([written[0], written[4]], [1, 0.5]);
  assert.ok(written.every((value, i) => i === 0 || value < written[i - 1]));
  for (const wrong of [{ chunkTokens: 65 }, { share: 0 }, { bankChunks: 9 }, { local: 9 }])
    assert.throws(
      () =>
        new BlockDiffusionSession({
          ...{ arena, executor, chunkTokens: 4 },
          selection: core.selection({ capacity: 64 }),
          ...wrong,
        }),
      { code: "INVALID_ARGUMENT" },
    );
  session.close();
});

// Paged attention equals dense attention over the same keys and values, whatever the paging; and its bits
// depend on
// neither the block size nor how the queries are cut into calls.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { KernelIsa, NativeKvShape } from "../../native-host/executor/addon.js";
import { bitsOf, isas, largestError, needsAddon, randomFloats, theAddon } from "./native-support.js";

const SETS = isas.length > 0 ? isas : (["portable"] as const);
const LAYERS = 2;
const LAYER = 1;

interface Case {
  tokens: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  window: number;
}

/** A pool of shuffled blocks that holds one sequence. */
function paged(
  isa: KernelIsa,
  c: Case,
  blockSize: number,
  kvType: NativeKvShape["kvType"],
  k: Float32Array,
  v: Float32Array,
) {
  const used = Math.ceil(c.tokens / blockSize);
  const shape: NativeKvShape = {
    blocks: used + 3,
    layers: LAYERS,
    kvHeads: c.kvHeads,
    headDim: c.headDim,
    blockSize,
    kvType,
  };
  const numbers = shape.blocks * LAYERS * 2 * c.kvHeads * blockSize * c.headDim;
  const kv = new Uint8Array(numbers * (kvType === "f32" ? 4 : 2)).fill(0xff); // NaN wherever nothing was written
  const table = Uint32Array.from({ length: used }, (_, i) => (i * 7 + 2) % shape.blocks);
  if (new Set(table).size !== used) table.forEach((_, i) => (table[i] = shape.blocks - 1 - i));
  const slots = Uint32Array.from(
    { length: c.tokens },
    (_, p) => table[Math.floor(p / blockSize)] * blockSize + (p % blockSize),
  );
  theAddon().kernels.kvWrite(isa, kv, shape, LAYER, slots, k, v);
  return { kv, shape, table };
}

function attend(
  isa: KernelIsa,
  c: Case,
  cache: ReturnType<typeof paged>,
  q: Float32Array,
  chunks: number[],
): Float32Array {
  const width = c.heads * c.headDim;
  const out = new Float32Array(q.length).fill(NaN);
  let first = 0;
  for (const count of chunks) {
    const part = out.subarray(first * width, (first + count) * width);
    const queries = q.subarray(first * width, (first + count) * width);
    theAddon().kernels.attention(
      isa,
      cache.kv,
      cache.shape,
      LAYER,
      cache.table,
      first,
      c.heads,
      c.window,
      queries,
      part,
    );
    first += count;
  }
  assert.equal(first, c.tokens);
  return out;
}

function dense(c: Case, q: Float32Array, k: Float32Array, v: Float32Array): Float32Array {
  const out = new Float32Array(q.length);
  const { headDim: d, heads, kvHeads, window } = c;
  for (let t = 0; t < c.tokens; t++) {
    for (let h = 0; h < heads; h++) {
      const kvHead = Math.floor(h / (heads / kvHeads));
      const from = window === 0 ? 0 : Math.max(0, t - window + 1);
      const scores: number[] = [];
      for (let p = from; p <= t; p++) {
        let dot = 0;
        for (let i = 0; i < d; i++) dot += q[(t * heads + h) * d + i] * k[(p * kvHeads + kvHead) * d + i];
        scores.push(dot / Math.sqrt(d));
      }
      const largest = Math.max(...scores);
      const weights = scores.map((s) => Math.exp(s - largest));
      const total = weights.reduce((a, b) => a + b);
      for (let i = 0; i < d; i++) {
        let sum = 0;
        weights.forEach((w, j) => (sum += w * v[((from + j) * kvHeads + kvHead) * d + i]));
        out[(t * heads + h) * d + i] = sum / total;
      }
    }
  }
  return out;
}

function chunksOf(tokens: number, size: number): number[] {
  const chunks: number[] = [];
  for (let left = tokens; left > 0; left -= size) chunks.push(Math.min(size, left));
  return chunks;
}

const CASES: Case[] = [
  { tokens: 1, heads: 1, kvHeads: 1, headDim: 2, window: 0 },
  { tokens: 33, heads: 4, kvHeads: 2, headDim: 32, window: 0 },
  { tokens: 75, heads: 6, kvHeads: 1, headDim: 40, window: 0 },
  { tokens: 70, heads: 2, kvHeads: 2, headDim: 128, window: 20 },
  { tokens: 100, heads: 8, kvHeads: 4, headDim: 18, window: 37 },
  { tokens: 40, heads: 64, kvHeads: 1, headDim: 16, window: 1 },
];

for (const isa of SETS) {
  test(`${isa}: equals dense attention for every block size`, needsAddon, () => {
    for (const c of CASES) {
      const q = randomFloats(c.tokens * c.heads * c.headDim, 11, 3);
      const k = randomFloats(c.tokens * c.kvHeads * c.headDim, 12, 3);
      const v = randomFloats(c.tokens * c.kvHeads * c.headDim, 13);
      const wanted = dense(c, q, k, v);
      for (const blockSize of [1, 8, 16, 32]) {
        const got = attend(isa, c, paged(isa, c, blockSize, "f32", k, v), q, [c.tokens]);
        assert.ok(
          largestError(got, wanted) < 1e-5,
          `${JSON.stringify(c)} ${blockSize}: ${largestError(got, wanted)}`,
        );
      }
    }
  });

  test(`${isa}: the same bits for every block size and chunking`, needsAddon, () => {
    for (const c of CASES) {
      const q = randomFloats(c.tokens * c.heads * c.headDim, 21, 3);
      const k = randomFloats(c.tokens * c.kvHeads * c.headDim, 22, 3);
      const v = randomFloats(c.tokens * c.kvHeads * c.headDim, 23);
      for (const kvType of ["f32", "f16", "bf16"] as const) {
        const whole = bitsOf(attend(isa, c, paged(isa, c, 16, kvType, k, v), q, [c.tokens]));
        for (const blockSize of [1, 8, 32]) {
          const cache = paged(isa, c, blockSize, kvType, k, v);
          for (const chunk of [1, 7, 16, 33]) {
            assert.equal(
              bitsOf(attend(isa, c, cache, q, chunksOf(c.tokens, chunk))),
              whole,
              `${kvType} ${blockSize} ${chunk}`,
            );
          }
        }
      }
    }
  });

  test(`${isa}: f16 and bf16 entries, as the reference reads and writes them`, needsAddon, () => {
    for (const c of CASES) {
      const q = randomFloats(c.tokens * c.heads * c.headDim, 31, 3);
      const k = randomFloats(c.tokens * c.kvHeads * c.headDim, 32, 3);
      const v = randomFloats(c.tokens * c.kvHeads * c.headDim, 33);
      for (const kvType of ["f16", "bf16"] as const) {
        const theirs = paged("reference", c, 8, kvType, k, v);
        const ours = paged(isa, c, 8, kvType, k, v);
        assert.ok(Buffer.compare(ours.kv, theirs.kv) === 0, "the pools differ");
        const wanted = attend("reference", c, theirs, q, [c.tokens]);
        assert.ok(largestError(attend(isa, c, ours, q, [c.tokens]), wanted) < 1e-5);
      }
    }
  });
}

test("attention refuses a table that is too short, and blocks outside the pool", needsAddon, () => {
  const c = CASES[1];
  const k = randomFloats(c.tokens * c.kvHeads * c.headDim, 1);
  const cache = paged("portable", c, 8, "f32", k, k);
  const q = randomFloats(c.tokens * c.heads * c.headDim, 2);
  const refused = { code: "INVALID_ARGUMENT" };
  assert.throws(
    () => attend("portable", c, { ...cache, table: cache.table.subarray(1) }, q, [c.tokens]),
    refused,
  );
  assert.throws(
    () => attend("portable", c, { ...cache, table: cache.table.map(() => 1000) }, q, [c.tokens]),
    refused,
  );
});

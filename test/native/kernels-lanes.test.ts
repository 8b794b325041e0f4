// Attention over lanes and its statistics, kernel by kernel: every instruction set measures what the plain reference
// does, whatever the lane lengths, holes, block size and number type; and a record that points elsewhere is refused.
import assert from "node:assert/strict";
import { test } from "node:test";
import { StatMask } from "../../bindings/main.js";
import { type KernelIsa, LANE_ROW_WORDS, type NativeKvShape } from "../../native-host/executor/addon.js";
import type { SpecialRow } from "../../native-host/executor/lane-rows.js";
import { packLanes } from "../../native-host/executor/native-lanes.js";
import { layOut } from "../../native-host/executor/statistics-layout.js";
import { Random } from "../support/random.js";
import { isas, needsAddon, randomFloats, theAddon } from "./native-support.js";

const SETS = isas.length > 0 ? isas : (["portable"] as const);
const STATISTICS = Object.values(StatMask).reduce((all, bit) => all | bit, 0) & ~StatMask.OUTPUT_ERROR;
const LAYERS = 2;
const LAYER = 1;

interface Case {
  lengths: number[];
  queries: number;
  heads: number;
  headDim: number;
  blockSize: number;
  kvType: NativeKvShape["kvType"];
  window: number;
  probe: number;
  holes: boolean;
}

const CASES: Case[] = [
  // Lanes that end before, on and after the edge of a tile of 32.
  { lengths: [31, 32, 33], queries: 1, heads: 6, headDim: 64, window: 1, probe: 1, holes: false },
  { lengths: [0, 1, 95], queries: 40, heads: 3, headDim: 20, window: 7, probe: 40, holes: false },
  { lengths: [200, 64, 3], queries: 70, heads: 12, headDim: 32, window: 64, probe: 9, holes: true },
  { lengths: [257, 40, 128], queries: 1, heads: 9, headDim: 6, window: 1, probe: 1, holes: true },
].flatMap((c) => [
  { ...c, blockSize: 16, kvType: "f32" as const },
  { ...c, blockSize: 5, kvType: "f16" as const },
  { ...c, blockSize: 64, kvType: "bf16" as const },
]);

function rowOf(c: Case, random: Random): SpecialRow {
  const kvHeads = c.lengths.length;
  const lengths = Uint32Array.from({ length: LAYERS * kvHeads }, (_, lane) => c.lengths[lane % kvHeads]);
  const lengthsAfter = lengths.map((length) => length + c.queries);
  const stride = Math.ceil(Math.max(...lengthsAfter) / 4) * 4;
  const bitmapWords = Math.ceil(stride / 32) + 1;
  const live = Uint32Array.from({ length: lengths.length * bitmapWords }, () => random.next());
  lengths.forEach((length, lane) => {
    for (let slot = length; slot < lengthsAfter[lane]; slot++)
      live[lane * bitmapWords + (slot >> 5)] |= 1 << (slot & 31);
    // A whole tile of nothing.
    if (length > 64) live[lane * bitmapWords + 1] = 0;
  });
  const masks = new Uint32Array(LAYERS).fill(STATISTICS);
  const shape = { layers: LAYERS, heads: c.heads, kvHeads, headDim: c.headDim, slidingWindow: 0 };
  const { outputs } = layOut(masks, c.window, stride, shape, 0);
  const windowHeads = new Uint32Array(LAYERS).fill(0b1011_0110_1101);
  const { window, probe } = c;
  const measured = { masks, window, probe, stride, windowHeads, keep: undefined, outputs };
  return {
    row: 0,
    newTokens: c.queries,
    lengths,
    lengthsAfter,
    writeSlots: undefined,
    live: c.holes ? live : undefined,
    bitmapWords,
    measured,
  };
}

/** A pool of shuffled blocks with random numbers everywhere. */
function poolOf(c: Case, stride: number): { kv: Uint8Array; shape: NativeKvShape; table: Uint32Array } {
  const blocks = Math.ceil(stride / c.blockSize) + 2;
  const kvHeads = c.lengths.length;
  const { headDim, blockSize, kvType } = c;
  const shape = { blocks, layers: LAYERS, kvHeads, headDim, blockSize, kvType };
  const slots = Uint32Array.from({ length: blocks * blockSize }, (_, i) => i);
  const kv = new Uint8Array(blocks * LAYERS * 2 * kvHeads * blockSize * headDim * (kvType === "f32" ? 4 : 2));
  const width = slots.length * kvHeads * headDim;
  theAddon().kernels.kvWrite("auto", kv, shape, LAYER, slots, randomFloats(width, 1), randomFloats(width, 2));
  return { kv, shape, table: Uint32Array.from({ length: blocks }, (_, i) => blocks - 1 - i) };
}

function attend(isa: KernelIsa, c: Case, row: SpecialRow) {
  const { kv, shape, table } = poolOf(c, row.measured!.stride);
  const q = randomFloats(c.queries * c.heads * c.headDim, 3);
  const out = new Float32Array(q.length).fill(NaN);
  const { rows, words } = packLanes([row], shape);
  const statistics = new Float32Array(endOf(c, row));
  theAddon().kernels.attentionLanes(isa, kv, shape, LAYER, table, c.heads, q, out, rows, words, statistics);
  return { out, statistics };
}

function endOf(c: Case, { measured }: SpecialRow): number {
  const kvHeads = c.lengths.length;
  const shape = { layers: LAYERS, heads: c.heads, kvHeads, headDim: c.headDim, slidingWindow: 0 };
  return layOut(measured!.masks, c.window, measured!.stride, shape, 0).end;
}

function assertClose(
  got: ArrayLike<number>,
  wanted: ArrayLike<number>,
  tolerance: number,
  what: string,
): void {
  assert.equal(got.length, wanted.length);
  for (let i = 0; i < got.length; i++)
    assert.ok(Math.abs(got[i] - wanted[i]) <= tolerance, `${what}[${i}] is ${got[i]}, wanted ${wanted[i]}`);
}

for (const isa of SETS) {
  test(`${isa}: lanes and every statistic as the reference has them`, needsAddon, () => {
    for (const [i, c] of CASES.entries()) {
      const row = rowOf(c, new Random(i));
      const [got, wanted] = [attend(isa, c, row), attend("reference", c, row)];
      const name = `case ${i}`;
      assertClose(got.out, wanted.out, 2e-5, `${name} out`);
      const at = row.measured!.outputs[LAYER];
      const last = wanted.statistics.subarray(
        at.lastRow,
        at.lastRow + row.lengthsAfter[LAYER * c.lengths.length],
      );
      assert.ok(Math.abs(last.reduce((sum, value) => sum + value, 0) - 1) < 1e-5, `${name} adds up to 1`);
      const [entropy, reference] = [got, wanted].map(
        ({ statistics }) => new Float64Array(statistics.buffer, at.entropy * 4, 1)[0],
      );
      assert.ok(Math.abs(entropy - reference) < 1e-4 * (1 + Math.abs(reference)), `${name} entropy`);
      for (const { statistics } of [got, wanted]) statistics.fill(0, at.entropy, at.entropy + 2);
      assertClose(got.statistics, wanted.statistics, 2e-5 * c.queries, `${name} statistics`);
    }
  });

  test(`${isa}: a statistic alone has the bits it has among all`, needsAddon, () => {
    const c = CASES[6];
    const row = rowOf(c, new Random(1));
    const all = attend(isa, c, row);
    for (const section of ["lastRow", "window", "colsum", "probeMax", "keys"] as const) {
      const outputs = row.measured!.outputs.map((layer) => ({
        lastRow: -1,
        window: -1,
        colsum: -1,
        moments: -1,
        entropy: -1,
        probeMax: -1,
        keys: -1,
        outputError: -1,
        [section]: layer[section],
      }));
      const alone = attend(isa, c, { ...row, measured: { ...row.measured!, outputs } });
      assert.deepEqual(alone.out, all.out, section);
      const from = row.measured!.outputs[LAYER][section];
      const { stride } = row.measured!;
      assert.deepEqual(
        alone.statistics.subarray(from, from + stride),
        all.statistics.subarray(from, from + stride),
        section,
      );
      assert.ok(
        alone.statistics.subarray(0, from).every((value) => value === 0),
        `${section} and no other`,
      );
    }
  });
}

test("records that point outside are refused and nothing is written", needsAddon, () => {
  const c = CASES[6];
  const row = rowOf(c, new Random(1));
  const { kv, shape, table } = poolOf(c, row.measured!.stride);
  const q = randomFloats(c.queries * c.heads * c.headDim, 3);
  const packed = packLanes([row], shape);
  const length = endOf(c, row);
  const [LENGTHS, WRITE_SLOTS, LIVE, KEEP, WINDOW_HEADS, OUTPUTS, STRIDE, BITMAP_WORDS, WINDOW, PROBE] = [
    ...Array(LANE_ROW_WORDS).keys(),
  ];
  const attempt = (
    change: (rows: Uint32Array, words: Uint32Array) => void,
    options: { floats?: number; table?: Uint32Array } = {},
  ): Float32Array => {
    const [rows, words] = [packed.rows.slice(), packed.words.slice()];
    change(rows, words);
    const out = new Float32Array(q.length);
    const statistics = new Float32Array(options.floats ?? length);
    try {
      theAddon().kernels.attentionLanes(
        "auto",
        kv,
        shape,
        LAYER,
        options.table ?? table,
        c.heads,
        q,
        out,
        rows,
        words,
        statistics,
      );
    } catch (error) {
      assert.ok(out.every((value) => value === 0) && statistics.every((value) => value === 0));
      throw error;
    }
    return out;
  };
  attempt(() => {});
  const end = packed.words.length;
  const none = 0xffffffff;
  const set =
    (word: number, value: number) =>
    (rows: Uint32Array): void => {
      rows[word] = value;
    };
  const spoiled: [string, Parameters<typeof attempt>][] = [
    ["no lengths", [set(LENGTHS, none)]],
    ["lengths beyond the words", [set(LENGTHS, end - 1)]],
    ["bitmaps beyond the words", [set(LIVE, end - 1)]],
    ["kept slots beyond the words", [set(KEEP, end - 1)]],
    ["heads beyond the words", [set(WINDOW_HEADS, end - 1)]],
    ["outputs beyond the words", [set(OUTPUTS, end - 1)]],
    ["slots in place for many tokens", [set(WRITE_SLOTS, 0)]],
    ["stride too short", [set(STRIDE, 200)]],
    ["bitmaps too short", [set(BITMAP_WORDS, 2)]],
    ["window of nothing", [set(WINDOW, 0)]],
    ["window beyond the queries", [set(WINDOW, c.queries + 1)]],
    ["probes beyond the queries", [set(PROBE, c.queries + 1)]],
    ["lane beyond the blocks", [(_, words) => void (words[0] = 400)]],
    ["lane beyond numbers", [(_, words) => void (words[0] = none)]],
    ["new tokens hidden", [(rows, words) => void words.fill(0, rows[LIVE], rows[LIVE] + rows[BITMAP_WORDS])]],
    ["an output beyond the floats", [() => {}, { floats: length - 4 }]],
    ["an output far beyond", [(rows, words) => void (words[rows[OUTPUTS]] = 0xfffffff0)]],
    ["entropy at an odd place", [(rows, words) => void (words[rows[OUTPUTS] + 4] += 1)]],
    ["moments without entropy", [(rows, words) => void (words[rows[OUTPUTS] + 4] = none)]],
    ["nothing kept to compare with", [(rows, words) => void (words[rows[OUTPUTS] + 7] = 0)]],
    ["a block outside the pool", [() => {}, { table: table.with(0, shape.blocks) }]],
    ["a table too short", [() => {}, { table: table.subarray(0, 10) }]],
  ];
  for (const [what, call] of spoiled) assert.throws(() => attempt(...call), { code: "BAD_BATCH" }, what);
});

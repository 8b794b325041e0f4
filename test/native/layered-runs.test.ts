/**
 * Batches that stop between layers, and layers that keep their tokens in groups: the bits of a batch that does neither, and
 * refusals that change nothing.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { NativeGroupTables, NativeModel } from "../../native-host/executor/addon.js";
import { packLanes } from "../../native-host/executor/native-lanes.js";
import type { SpecialRow } from "../../native-host/executor/lane-rows.js";
import { bitsOf, blockRange, type HandBatch, type HandRow, Host, needsAddon } from "./native-support.js";

const NONE = 0xffffffff;
const PROMPT = Array.from({ length: 70 }, (_, i) => 3 + ((i * 11) % 50));
const ROWS: HandRow[] = [
  { phase: 2, computedBefore: 0, tokens: PROMPT, blocks: blockRange(2, 5) },
  { phase: 0, computedBefore: 0, tokens: PROMPT.slice(5, 40), blocks: blockRange(20, 3) },
];

type Batch = Parameters<NativeModel["run"]>;

function argumentsOf(hand: HandBatch, ...rest: unknown[]): Batch {
  const { batch, sampling, tokensOut, logitsOut } = hand;
  return [batch, sampling, new Uint32Array(0), tokensOut, logitsOut, ...rest] as Batch;
}

/** K and V of a block by themselves. */
function blockBits(host: Host, block: number): string {
  const payload = new Uint8Array(host.model.kvBytes / host.config.blocks);
  host.model.readBlocks(Uint32Array.of(block), payload);
  return Buffer.from(payload).toString("hex");
}

test("a batch that stops between layers has the bits of one that does not", needsAddon, async () => {
  const whole = new Host();
  const { logitsOut } = await whole.run(ROWS, [[0, 0, 2, 0, 60, 16, 1, 0]]);
  const host = new Host();
  const hand = host.plan(ROWS, [[0, 0, 2, 0, 60, 16, 1, 0]]);
  await host.model.beginLayers(...argumentsOf(hand));
  for (let layer = 0; layer < 3; layer++) {
    await host.model.nextLayer();
    // What a layer has computed may go: no later layer reads it.
    if (layer === 1) await host.model.move(Uint32Array.of(0, 0, 3, 0, 2, 0, 16, 0));
  }
  await host.model.endLayers();
  assert.equal(bitsOf(hand.logitsOut), bitsOf(logitsOut));
  assert.deepEqual(hand.tokensOut, (await whole.run(ROWS)).tokensOut);
  assert.equal(blockBits(host, 4), blockBits(whole, 4));
  assert.notEqual(blockBits(host, 2), blockBits(whole, 2), "the move moved");
  assert.equal(blockBits(host, 60), blockBits(host, 2), "transfers for after the batch come after it");
});

test(
  "layers are computed once each and in their turn; nothing else runs between them",
  needsAddon,
  async () => {
    const host = new Host();
    const { model } = host;
    const hand = host.plan(ROWS);
    const refused = (code: string, call: () => Promise<void>) => assert.rejects(call(), { code });
    await refused("INVALID_ARGUMENT", () => model.nextLayer());
    await refused("INVALID_ARGUMENT", () => model.endLayers());
    await model.beginLayers(...argumentsOf(hand));
    await refused("BUSY", () => model.run(...argumentsOf(hand)));
    await refused("BUSY", () => model.beginLayers(...argumentsOf(hand)));
    await model.nextLayer();
    await refused("INVALID_ARGUMENT", () => model.endLayers());
    model.abandonLayers();
    model.abandonLayers();
    await refused("INVALID_ARGUMENT", () => model.nextLayer());
    const wanted = bitsOf((await new Host().run(ROWS)).logitsOut);
    await model.run(...argumentsOf(hand));
    assert.equal(bitsOf(hand.logitsOut), wanted, "an abandoned batch leaves nothing that a later one reads");
    await model.beginLayers(...argumentsOf(hand));
    for (let layer = 0; layer < 3; layer++) await model.nextLayer();
    await refused("INVALID_ARGUMENT", () => model.nextLayer());
    await model.endLayers();
    await model.beginLayers(...argumentsOf(hand));
    model.close();
    model.close();
  },
);

/** A row whose layers have slices of their own. */
function foldedRow(tables: (layer: number) => Uint32Array): SpecialRow {
  const tokens = PROMPT.length;
  return {
    row: 0,
    newTokens: tokens,
    lengths: new Uint32Array(6),
    lengthsAfter: new Uint32Array(6).fill(tokens),
    writeSlots: undefined,
    live: undefined,
    bitmapWords: 16,
    tables,
    measured: undefined,
  };
}

test(
  "slices give the bits of blocks; those beyond the pool are refused, and the layer can be tried again",
  needsAddon,
  async () => {
    const pool = { layers: 3, kvHeads: 2, blocks: 128, blockSize: 16 };
    const wanted = bitsOf((await new Host().run(ROWS.slice(0, 1))).logitsOut);
    // Layer l of block b is slice 3 b + l: here every layer takes slices of other blocks, in another order.
    const slices = (layer: number): Uint32Array =>
      Uint32Array.from({ length: 5 }, (_, i) => 3 * (90 - 7 * layer - i) + ((layer + i) % 3));
    const host = new Host();
    const hand = host.plan(ROWS.slice(0, 1));
    const lanes = packLanes([foldedRow(slices)], pool);
    for (let layer = 0; layer < 3; layer++) lanes.fillSlices(layer);
    await host.model.run(...argumentsOf(hand, lanes.rows, lanes.words, null));
    assert.equal(bitsOf(hand.logitsOut), wanted);
    // All at once and beyond: nothing is computed.
    const before = bitsOf(hand.logitsOut);
    const [start] = lanes.words.subarray(lanes.rows[11] + 4);
    const right = lanes.words[start + 2];
    lanes.words[start + 2] = 128 * 3;
    await assert.rejects(host.model.run(...argumentsOf(hand, lanes.rows, lanes.words, null)), {
      code: "BAD_BATCH",
    });
    assert.equal(bitsOf(hand.logitsOut), before);
    await host.model.beginLayers(...argumentsOf(hand, lanes.rows, lanes.words, null));
    await host.model.nextLayer();
    await host.model.nextLayer();
    await assert.rejects(host.model.nextLayer(), { code: "BAD_BATCH" });
    lanes.words[start + 2] = right;
    await host.model.nextLayer();
    await host.model.endLayers();
    assert.equal(bitsOf(hand.logitsOut), wanted);
    for (const wrong of [slices(0).subarray(1), Uint32Array.of(0, 1, 2, 3, 384)])
      assert.throws(() => packLanes([foldedRow(() => wrong)], pool).fillSlices(0), {
        code: "INVALID_ARGUMENT",
        argument: "lanes.tables(0)",
      });
    const spoiled = lanes.words.slice();
    spoiled[lanes.rows[11] + 1] = 1000;
    await assert.rejects(host.model.run(...argumentsOf(hand, lanes.rows, spoiled, null)), {
      code: "BAD_BATCH",
    });
    await assert.rejects(host.model.move(Uint32Array.of(0, 0, 384, 0, 0, 0, 1, 1)), {
      code: "INVALID_ARGUMENT",
    });
    await assert.rejects(host.model.move(Uint32Array.of(0, 0, 0, 0, 0, 0, 1, 2)), {
      code: "INVALID_ARGUMENT",
    });
  },
);

/** Tables of the rows in one group, its blocks from `first` on. */
function groupTables(rows: readonly HandRow[], blockSize: number, first: number): NativeGroupTables {
  const counts = rows.map((row) => Math.ceil((row.computedBefore + row.tokens.length) / blockSize));
  const starts = counts.map((_, i) => counts.slice(0, i).reduce((sum, count) => sum + count, 0));
  const slots = rows.flatMap((row, r) =>
    row.tokens.map((_, i) => {
      const position = row.computedBefore + i;
      return (first + starts[r] + Math.floor(position / blockSize)) * blockSize + (position % blockSize);
    }),
  );
  const total = counts.reduce((sum, count) => sum + count, 0);
  return {
    slots: Uint32Array.from(slots),
    tableStart: Uint32Array.from(starts),
    tableCount: Uint32Array.from(counts),
    tables: Uint32Array.from({ length: total }, (_, i) => first + i),
  };
}

test("layers in groups, with blocks of other sizes, have the bits of layers in one", needsAddon, async () => {
  const wanted = bitsOf((await new Host().run(ROWS)).logitsOut);
  for (const kvType of ["f32", "bf16"] as const) {
    const plain = bitsOf((await new Host({ kvType }).run(ROWS)).logitsOut);
    const host = new Host({ kvType, places: Uint32Array.of(1, 0, 32, 0, 0, 16, 2, 0, 16) });
    const hand = host.plan(ROWS);
    const groups = [groupTables(ROWS, 32, 40), groupTables(ROWS, 16, 50)];
    await host.model.run(...argumentsOf(hand, null, null, null, groups));
    assert.equal(bitsOf(hand.logitsOut), plain, kvType);
    if (kvType === "f32") assert.equal(plain, wanted);
    // A page holds one layer of 32 tokens, or of 16 and room to spare.
    assert.equal(host.model.kvBytes / 128, 32 * 2 * 2 * 32 * (kvType === "f32" ? 4 : 2));
  }
});

test(
  "what a window has left behind is not read, and all else that leaves the pool is refused",
  needsAddon,
  async () => {
    const host = new Host({ places: Uint32Array.of(1, 20, 16, 0, 0, 16, 1, 20, 16) });
    const prompt = host.plan([ROWS[0]]);
    const tables = groupTables([ROWS[0]], 16, 40);
    await host.model.run(...argumentsOf(prompt, null, null, null, [tables]));
    const decode: HandRow = { phase: 1, computedBefore: 70, tokens: [7], blocks: blockRange(2, 5) };
    const next = groupTables([decode], 16, 40);
    const attempt = async (change: (tables: NativeGroupTables) => void, transfers: number[][] = []) => {
      const changed = { ...next, tables: next.tables.slice(), slots: next.slots.slice() };
      change(changed);
      const hand = host.plan([decode], transfers);
      await host.model.run(...argumentsOf(hand, null, null, null, [changed]));
      return bitsOf(hand.logitsOut);
    };
    const wanted = await attempt(() => {});
    // Position 70 sees 51 and later: block 3 of its table and those behind it.
    assert.equal(await attempt(({ tables: blocks }) => blocks.fill(NONE, 0, 3)), wanted);
    assert.equal(await attempt(() => {}, [[256, 0, 40, 0, 90, 16, 1, 0]]), wanted);
    const bad: [(tables: NativeGroupTables) => void, number[][]?][] = [
      [({ tables: blocks }) => void (blocks[3] = NONE)],
      [({ tables: blocks }) => void (blocks[4] = 128)],
      [({ slots }) => void (slots[0] = 128 * 16)],
      [(group) => void (group.tableCount = Uint32Array.of(4))],
      [(group) => void (group.tableStart = Uint32Array.of(1))],
      [(group) => void (group.slots = new Uint32Array(0))],
      [() => {}, [[512, 0, 40, 0, 90, 16, 1, 0]]],
      [() => {}, [[257, 0, 40, 0, 90, 16, 1, 0]]],
    ];
    for (const [change, transfers] of bad)
      await assert.rejects(attempt(change, transfers), { code: "BAD_BATCH" }, String(change));
    const hand = host.plan([decode]);
    for (const groups of [undefined, [next, next]])
      await assert.rejects(host.model.run(...argumentsOf(hand, null, null, null, groups)), {
        code: "BAD_BATCH",
      });
    assert.equal(await attempt(() => {}), wanted);
    for (const places of [
      Uint32Array.of(0, 0, 16),
      Uint32Array.of(8, 0, 16, 0, 0, 16, 0, 0, 16),
      Uint32Array.of(0, 0, 32, 0, 0, 16, 0, 0, 16),
      Uint32Array.of(1, 0, 16, 1, 0, 32, 0, 0, 16),
      Uint32Array.of(1, 0, 0, 0, 0, 16, 0, 0, 16),
    ])
      assert.throws(() => new Host({ places }), { code: "INVALID_ARGUMENT" });
    await assert.rejects(host.model.move(Uint32Array.of(0, 0, 0, 0, 1, 0, 1, 0)), { code: "UNSUPPORTED" });
  },
);

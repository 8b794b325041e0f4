/**
 * Budgets that lanes share, as options of policies: a total that is apportioned to the last slot and never exceeded, one list
 * for a layer or for the whole sequence, and whole blocks, which leave the table without a move.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core, Engine, PlaneMask, policyFromText } from "../../bindings/main.js";
import { openModel } from "../../native-host/executor/main.js";
import { BOS, tokensOf } from "../../sim/eviction/alphabet.js";
import { makeTask } from "../../sim/eviction/tasks.js";
import { TINY_RETRIEVAL } from "../support/package-root.js";
import { seededLogits, SyntheticHost } from "../support/synthetic-host.js";

const core = await Core.create();
const selection = core.selection({ capacity: 4096 });
const SHAPE = { layers: 3, heads: 4, kvHeads: 2, headDim: 4 };
const LANES = SHAPE.layers * SHAPE.kvHeads;

test("a total is apportioned to the last slot, by layer, and never exceeded", () => {
  for (const text of [
    "h2o:total=151",
    "h2o:total=151,weights=4/2/1",
    "h2o:total=151,weights=4/2/1,mode=ordered",
    "random:total=100,weights=1/0/0",
    "random:total=100,weights=1/5/1,scope=layer",
    "streaming-llm:total=77,weights=2/1/1",
    "tova:total=90,weights=1/2/3",
    "tova:total=93,scope=global",
  ]) {
    const total = Number(/total=(\d+)/.exec(text)![1]);
    const policy = policyFromText(selection, text);
    const { cap, scope } = policy.budgetFor(SHAPE, 80);
    const sum = cap.reduce((slots, next) => slots + next, 0);
    if (scope === "lane") assert.equal(sum, total, `${text}: to the last slot`);
    else assert.ok(sum <= total && sum > total - LANES, `${text}: lanes that share a list have one cap`);
    if (text.includes("4/2/1")) assert.ok(cap[0] > 1.9 * cap[2] && cap[2] > 1.9 * cap[4]);
    const host = new SyntheticHost(SHAPE, policy, 80, { logits: seededLogits(3) });
    host.prefill();
    for (let step = 0; step < 60; step++) {
      const held = host.positions().map((positions) => positions.length);
      assert.ok(held.reduce((slots, next) => slots + next, 0) <= total, `${text}, step ${step}`);
      held.forEach((slots, lane) => assert.ok(slots <= cap[lane]));
      host.step();
    }
  }
});

test("one list for a layer or for all: the slots with the largest mean or summed scores, the same in every lane", () => {
  for (const [name, scope] of [
    ["observed-attention", "layer"],
    ["observed-attention", "global"],
    ["h2o", "global"],
    ["keydiff", "global"],
    ["snapkv", "layer"],
    ["random", "global"],
  ] as const) {
    const logits = seededLogits(11);
    const make = (more: string) => policyFromText(selection, `${name}:budget=20${more}`);
    const host = new SyntheticHost(SHAPE, make(`,scope=${scope}`), 70, { logits });
    host.prefill();
    for (let step = 0; step < 12; step++) {
      const positions = host.positions();
      const group = scope === "layer" ? SHAPE.kvHeads : LANES;
      positions.forEach((own, lane) => assert.deepEqual(own, positions[lane - (lane % group)]));
      host.step();
    }
    if (name !== "h2o") continue;
    // Against sums over every lane of the scores that a policy without a limit has.
    const free = new SyntheticHost(SHAPE, policyFromText(selection, "h2o:budget=400"), 70, { logits });
    free.prefill();
    const sums = Array.from({ length: 70 }, (_, slot) =>
      free.positions().reduce((sum, _own, lane) => {
        const { score } = free.lanes.lane(Math.floor(lane / SHAPE.kvHeads), lane % SHAPE.kvHeads);
        return Math.fround(sum + score![slot]);
      }, 0),
    );
    const heavy = sums
      .map((sum, position) => ({ sum, position }))
      .slice(0, 60)
      .sort((a, b) => b.sum - a.sum || b.position - a.position)
      .slice(0, 10)
      .map(({ position }) => position);
    const again = new SyntheticHost(SHAPE, make(",scope=global"), 70, { logits });
    again.prefill();
    const recent = Array.from({ length: 10 }, (_, i) => 60 + i);
    assert.deepEqual(
      again.positions()[0],
      [...heavy, ...recent].sort((a, b) => a - b),
    );
  }
});

test("whole blocks: those with the smallest sums go, before the next token needs one; protected ones stay", () => {
  for (const [text, block] of [
    ["h2o:heavy=28,recent=12,unit=block,block=8", 8],
    ["h2o:budget=24,unit=block,block=4", 4],
    ["random:budget=24,unit=block,block=4", 4],
    ["streaming-llm:budget=24,sinks=4,unit=block,block=4", 4],
    ["tova:budget=24,unit=block,block=4", 4],
  ] as const) {
    const policy = policyFromText(selection, text);
    const budget = policy.budgetFor(SHAPE, 90);
    assert.equal(budget.block, block);
    const [cap] = budget.cap;
    const host = new SyntheticHost(SHAPE, policy, 90, { logits: seededLogits(7) });
    host.prefill();
    /** Blocks by the positions that they hold, which never change. */
    let before: string[] = [];
    for (let step = 0; step < 50; step++) {
      const positions = host.positions();
      positions.forEach((own) => assert.deepEqual(own, positions[0], "the same blocks in all lanes"));
      const [own] = positions;
      assert.ok(own.length < cap, `${text}: room for the next token within ${cap} slots`);
      const blocks = Array.from({ length: Math.ceil(own.length / block) }, (_, b) =>
        own.slice(b * block, (b + 1) * block).join(),
      );
      const last = before.pop();
      for (const kept of blocks.slice(0, -1))
        assert.ok(
          before.length === 0 || before.includes(kept) || kept.startsWith(last ?? ""),
          "blocks stay whole",
        );
      if (text.startsWith("streaming")) {
        assert.deepEqual(own.slice(0, 4), [0, 1, 2, 3]);
        assert.equal(own.at(-1)! - own[4], own.length - 5, "the sinks and the latest blocks");
      }
      before = blocks;
      host.step();
    }
    assert.ok(host.peak <= policy.peakSlots(budget));
  }
});

const BLOCKS = 128;
const BLOCK = 16;

/** Serves prompts with a policy; counts what is moved, and the blocks in use near the end. */
async function serve(text: string) {
  const { executor } = await openModel(TINY_RETRIEVAL, { backend: "wasm", blocks: BLOCKS, blockSize: BLOCK });
  const core = await Core.create({ build: "debug" });
  const cache = core.kvCache({ blocks: BLOCKS, blockSize: BLOCK, maxSequences: 4, maxSequenceTokens: 1024 });
  const scheduler = core.scheduler({
    cache,
    vocabSize: 64,
    maxRequests: 4,
    maxRunning: 3,
    watermarkBlocks: 0,
  });
  const lanes = core.laneArena({
    cache,
    layers: 3,
    kvHeads: 2,
    capacity: 1024,
    planes: PlaneMask.SCORE,
    sequences: 3,
  });
  const selection = core.selection({ capacity: 8192 });
  let moves = 0;
  const { move } = executor;
  executor.move = async function (records) {
    moves += records.length;
    return move!.call(this, records);
  };
  const used: number[] = [];
  const dropped: number[] = [];
  const engine = new Engine({
    scheduler,
    executor,
    lanes,
    onStep: ({ freeBlocks }) => {
      used.push(BLOCKS - freeBlocks);
      dropped.push(lanes.totals.evicted);
    },
  });
  const prompts = [300, 240, 180].map((length, i) => [
    BOS,
    ...tokensOf(makeTask("needle", { seed: 70 + i, length }).context),
  ]);
  await Promise.all(
    prompts.map(async (tokens) => {
      const evict = policyFromText(selection, text);
      for await (const event of engine.generate({ tokens, maxNewTokens: 70, evict }))
        assert.ok(event.token < 64);
    }),
  );
  const { moved, evicted } = lanes.totals;
  core.validate();
  await engine.close();
  return { moves, moved, evicted, most: Math.max(...used.slice(2)), used, dropped };
}

test("block-level plans never move a row, and free whole blocks for others as they go", async (t) => {
  for (const text of [
    "h2o:budget=96,unit=block",
    "random:budget=96,unit=block",
    "streaming-llm:budget=96,unit=block",
    "tova:budget=96,unit=block",
  ]) {
    const blocks = await serve(text);
    const slots = await serve(text.replace("unit=block", "every=16"));
    t.diagnostic(`${text}: ${blocks.moved} slots moved in whole blocks, ${slots.moved} one by one`);
    assert.equal(blocks.moves, 0, "no move record");
    assert.equal(blocks.moved, 0);
    assert.ok(slots.moves > 0, "as others have");
    assert.equal(blocks.evicted % (6 * BLOCK), 0, "whole blocks of all six lanes");
    assert.ok(blocks.evicted > 0);
    // Three requests within their budgets of six blocks.
    assert.ok(blocks.most <= 18, `${blocks.most} blocks`);
  }
});

test("after a prompt whole blocks stay, and what is generated is appended", async () => {
  for (const text of ["snapkv:budget=96,window=8,unit=block", "keydiff:budget=96,unit=block"]) {
    const { moves, evicted } = await serve(text);
    assert.equal(moves, 0);
    assert.ok(evicted > 0 && evicted % (6 * BLOCK) === 0);
  }
});

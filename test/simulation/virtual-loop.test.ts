/** Virtually contiguous memory in an iteration loop: what is waited for, wasted and saved (arXiv 2405.04437). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core, type VirtualMemoryOptions } from "../../bindings/main.js";
import { type LoopFigures, type LoopPolicy, type LoopRequest, runLoop } from "../../sim/virtual-loop.js";
import { Random } from "../support/random.js";

const SHAPE: VirtualMemoryOptions = {
  slots: 32,
  maxTokens: 4096,
  tokenBytes: 2048,
  pageBytes: 65536,
  blocks: Math.floor(0.3 * 32 * 128),
};
const OURS: LoopPolicy = { background: true, unmapOnFree: false };
const SYNC: LoopPolicy = { background: false, unmapOnFree: true };

/** Prompts of 50 to 1,550 tokens, answers of 20 to 320. */
function mixed(count: number): LoopRequest[] {
  const random = new Random(11);
  return Array.from({ length: count }, (_, i) => ({
    arrival: i * 3,
    promptTokens: 50 + random.below(1500),
    newTokens: 20 + random.below(300),
  }));
}

async function loop(requests: LoopRequest[], policy: LoopPolicy, shape = SHAPE): Promise<LoopFigures> {
  const memory = (await Core.create()).virtualMemory(shape);
  const figures = await runLoop(memory, requests, policy);
  memory.validate();
  return figures;
}

test("decode steps wait for at most 1 % of the maps of vattn-sync; without mapping ahead for more", async () => {
  const requests = mixed(120);
  const sync = await loop(requests, SYNC);
  assert.ok(sync.decodeWaits > 300, "there is something to wait for");
  const ours = await loop(requests, OURS);
  assert.ok(ours.decodeWaits <= 0.01 * sync.decodeWaits, `${ours.decodeWaits} of ${sync.decodeWaits}`);
  const notAhead = await loop(requests, OURS, { ...SHAPE, eagerSteps: 0 });
  assert.ok(notAhead.decodeWaits > 0.01 * sync.decodeWaits, "a check that can fail");
});

test("an active slot wastes at most its partly filled page and the two mapped ahead; the batch is twice the static one", async () => {
  const figures = await loop(mixed(120), OURS);
  assert.ok(figures.worstWaste <= 3, `${figures.worstWaste} KV blocks`);
  const all = await loop(
    mixed(120).map((request) => ({ ...request, arrival: 0 })),
    OURS,
  );
  assert.ok(all.peakBatch >= 2 * Math.floor(0.3 * 32), `${all.peakBatch} at a time`);
});

test("keeping the pages of finished requests saves half of the maps when lengths are alike", async () => {
  const alike = Array.from({ length: 200 }, (_, i) => ({
    arrival: 0,
    promptTokens: 950 + ((i * 37) % 100),
    newTokens: 40,
  }));
  const kept = await loop(alike, { background: false, unmapOnFree: false });
  const given = await loop(alike, SYNC);
  assert.ok(kept.maps <= given.maps / 2, `${kept.maps} of ${given.maps}`);
});

test("layers side by side in one tensor waste a layer's share of the memory", async () => {
  const layers = 32;
  const page = 2 ** 21;
  const shape = { slots: 4, maxTokens: 8192, pageBytes: page };
  const apart = (await Core.create()).virtualMemory({
    ...shape,
    tokenBytes: 2048,
    tensors: 2 * layers,
    blocks: 40,
  });
  const beside = (await Core.create()).virtualMemory({
    ...shape,
    tokenBytes: 2048 * layers,
    tensors: 2,
    blocks: 1200,
  });
  const wasted = (memory: typeof apart): number =>
    mixed(300).reduce((sum, { promptTokens: tokens }) => {
      const bytes = memory.pagesFor(tokens) * page - tokens * memory.tokenBytes;
      return sum + memory.tensors * bytes;
    }, 0);
  assert.ok(wasted(apart) / wasted(beside) >= 0.8 * layers, `${wasted(apart) / wasted(beside)} times`);
});

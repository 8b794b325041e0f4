/**
 * The copier: batches of block copies between a device's memory and the host's, on threads. Batches that share a block
 * happen in the order of their calls, whatever the threads do; others overtake each other; the loop is never blocked.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { NativeCopier, NativeCopierOptions } from "../../native-host/executor/addon.js";
import { blockCopies } from "../support/pattern-executor.js";
import { Random } from "../support/random.js";
import { needsAddon, theAddon } from "./native-support.js";

const BLOCK = 64;

interface Tiers {
  readonly copier: NativeCopier;
  readonly device: Uint8Array;
  readonly host: Uint8Array;
}

function tiers(blocks: number, options: Partial<NativeCopierOptions> = {}): Tiers {
  const device = new Uint8Array(blocks * BLOCK);
  const host = new Uint8Array(blocks * BLOCK);
  const shape = { blockBytes: BLOCK, hostBlocks: blocks, outThreads: 1, inThreads: 1, ...options };
  return { copier: theAddon().createCopier(shape, device, host), device, host };
}

const late = (delayUs: number, unordered = false) => ({ testing: { delayUs, seed: 5, unordered } });

test(
  "a batch copies its runs, whatever their number, and says how many blocks have arrived",
  needsAddon,
  async () => {
    const { copier, device, host } = tiers(32);
    device.forEach((_, i) => (device[i] = i % 251));
    const out = [
      [0, 31, 1],
      [4, 2, 5],
      [9, 7, 3],
      [20, 12, 0],
    ] as const;
    assert.equal(await copier.copyBatch(blockCopies(out, true)), 9);
    for (const [source, target, blocks] of out)
      for (let i = 0; i < blocks * BLOCK; i++)
        assert.equal(host[target * BLOCK + i], device[source * BLOCK + i]);
    assert.ok(
      host.subarray(12 * BLOCK, 31 * BLOCK).every((byte) => byte === 0),
      "and nothing else",
    );
    device.fill(0);
    assert.equal(await copier.copyBatch(blockCopies([[2, 6, 8]], false)), 8);
    assert.deepEqual(device.subarray(6 * BLOCK, 14 * BLOCK), host.subarray(2 * BLOCK, 10 * BLOCK));
    assert.equal(await copier.copyBatch(new Uint32Array(0)), 0);
    copier.close();
  },
);

/** Random batches without waiting for any: the tiers as they end, and as they should. */
async function race(seed: number, unordered: boolean): Promise<boolean> {
  const random = new Random(seed);
  const blocks = 12;
  const { copier, device, host } = tiers(blocks, { outThreads: 2, inThreads: 2, ...late(60, unordered) });
  const model = [new Uint8Array(blocks), new Uint8Array(blocks)];
  device.forEach((_, i) => (device[i] = Math.floor(i / BLOCK)));
  model[0].forEach((_, i) => (model[0][i] = i));
  host.fill(100);
  model[1].fill(100);
  const ends: Promise<number>[] = [];
  for (let i = 0; i < 120; i++) {
    const out = random.below(2) === 0;
    const pairs = Array.from({ length: 1 + random.below(3) }, () => {
      const count = 1 + random.below(3);
      return [random.below(blocks - count + 1), random.below(blocks - count + 1), count] as const;
    });
    const [from, to] = out ? model : [model[1], model[0]];
    for (const [source, target, count] of pairs) to.set(from.slice(source, source + count), target);
    ends.push(copier.copyBatch(blockCopies(pairs, out)));
  }
  await Promise.all(ends);
  copier.close();
  const right = (memory: Uint8Array, wanted: Uint8Array): boolean =>
    memory.every((byte, i) => byte === wanted[Math.floor(i / BLOCK)]);
  return right(device, model[0]) && right(host, model[1]);
}

test(
  "batches that share blocks end as if one after the other, with two late threads each way",
  needsAddon,
  async () => {
    for (let seed = 1; seed <= 8; seed++) assert.ok(await race(seed, false), `seed ${seed}`);
  },
);

test("without that order they do not", needsAddon, async () => {
  let wrong = 0;
  for (let seed = 1; seed <= 8; seed++) wrong += (await race(seed, true)) ? 0 : 1;
  assert.ok(wrong >= 4, `${wrong} of 8`);
});

test(
  "a batch waits for those that touch its blocks and no others, and timers run meanwhile",
  needsAddon,
  async () => {
    const slow = tiers(128, { outThreads: 2, ...late(20_000) });
    const order: string[] = [];
    const begin = (name: string, pairs: readonly (readonly [number, number, number])[], out: boolean) =>
      slow.copier.copyBatch(blockCopies(pairs, out)).then(() => order.push(name));
    // Thirty runs that do not follow each other take thirty times the delay.
    const long = Array.from({ length: 30 }, (_, i) => [2 * i, 2 * i, 1] as const);
    let ticks = 0;
    const timer = setInterval(() => (ticks += 1), 2);
    await Promise.all([
      begin("long out", long, true),
      begin("in behind it", [[18, 70, 1]], false),
      begin("out apart", [[90, 90, 1]], true),
      begin("in apart", [[80, 80, 1]], false),
    ]);
    clearInterval(timer);
    assert.ok(order.indexOf("long out") >= 2, order.join(", "));
    assert.equal(order.at(-1), "in behind it", order.join(", "));
    assert.ok(ticks > 3, `${ticks} turns of a timer`);
    slow.copier.close();
  },
);

test(
  "copies that leave their tier, or go two ways, are refused and nothing is copied",
  needsAddon,
  async () => {
    const { copier, device, host } = tiers(8);
    device.fill(1);
    const refused = (copies: ArrayLike<number>) =>
      assert.rejects(copier.copyBatch(Uint32Array.from(copies)), { code: "INVALID_ARGUMENT" });
    await refused([0, 7, 1, 0, 2]);
    await refused([0, 0, 1, 8, 1]);
    await refused([0, 0, 1, 0, 1, 0, 0xffffffff, 1, 0, 2]);
    await refused([0, 0, 1, 0, 1, 1, 0, 0, 0, 1]);
    await refused([0, 0, 0, 1, 1]);
    await refused([2, 0, 1, 1, 1]);
    await refused([0, 0, 1]);
    assert.ok(host.every((byte) => byte === 0));
    for (const wrong of [
      { blockBytes: 0 },
      { hostBlocks: 0 },
      { outThreads: 0 },
      { inThreads: 17 },
      { hostBlocks: 9 },
    ])
      assert.throws(() => tiers(8, { ...wrong }).copier, { code: "INVALID_ARGUMENT" });
    assert.equal(await copier.copyBatch(blockCopies([[0, 0, 8]], true)), 8);
    copier.close();
    copier.close();
    await assert.rejects(copier.copyBatch(new Uint32Array(0)), { code: "CLOSED" });
  },
);

test("a copier with batches in flight is not closed", needsAddon, async () => {
  const { copier } = tiers(8, late(3000));
  const end = copier.copyBatch(blockCopies([[0, 0, 1]], true));
  assert.throws(() => copier.close(), { code: "BUSY" });
  await end;
  copier.close();
});

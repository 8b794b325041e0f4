/**
 * Dropping tokens against a shadow of the executor's memory: survivors keep their content and their order, blocks that
 * others can read are never written, and every block is held by exactly those who should hold it.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  APPEND_SLOT,
  type Build,
  Core,
  type CoreLanes,
  type KeepPlan,
  type KvCache,
  MOVE_WORDS,
  type SequenceId,
} from "../../bindings/main.js";
import { CompactionHarness } from "../support/compaction-harness.js";
import { Random } from "../support/random.js";

const BUILDS: readonly Build[] = ["core", "core-threads", "core-scalar", "debug"];
for (const build of BUILDS) {
  test(`random drops, forks and prefixes keep every survivor and every other sequence: ${build}`, async () => {
    const totals: Record<string, number> = {};
    for (let seed = 1; seed <= (build === "core" ? 60 : 12); seed++) {
      const random = new Random(seed);
      const core = await Core.create({ build, seed });
      const blocks = random.pick([12, 40, 120]);
      const harness = new CompactionHarness(
        core,
        random,
        blocks,
        random.pick([1, 2, 4, 8]),
        random.pick([1, 3, 4096]),
      );
      for (let i = 0; i < 300; i++) {
        harness.step();
        harness.check();
      }
      harness.audit();
      for (const [name, count] of Object.entries(harness.counts)) totals[name] = (totals[name] ?? 0) + count;
    }
    for (const [name, count] of Object.entries(totals)) assert.ok(count > 0, `${name} never happened`);
  });
}

/** A sequence of `count` tokens with lanes, alone in its cache. */
async function alone(
  count: number,
  blocks = 32,
): Promise<{ core: Core; cache: KvCache; sequence: SequenceId; lanes: CoreLanes }> {
  const core = await Core.create();
  const cache = core.kvCache({ blocks, blockSize: 4, maxSequences: 4, maxSequenceTokens: 128 });
  const arena = core.laneArena({ cache, layers: 1, kvHeads: 2, capacity: 128 });
  const sequence = cache.open({ tokens: [] });
  cache.reserve(sequence, count);
  cache.append(sequence, new Uint32Array(count));
  const lanes = arena.open(sequence);
  lanes.append(count);
  return { core, cache, sequence, lanes };
}

const slots = (...list: number[]): Uint32Array => Uint32Array.from(list);

test("dropped tokens free their blocks at once, for others in the same step", async () => {
  const { cache, sequence, lanes } = await alone(40, 12);
  const other = cache.open({ tokens: [9] });
  assert.throws(() => cache.reserve(other, 32), { code: "OUT_OF_BLOCKS" });
  const recent = slots(0, 1, 34, 35, 36, 37, 38, 39);
  const plan = lanes.plan({ keep: [recent, recent] });
  assert.equal(plan.copied, 2, "the prompt's blocks are cached: survivors go to fresh ones");
  plan.allMoves();
  plan.commit();
  assert.equal(cache.blockTable(sequence).length, 2);
  assert.equal(cache.length(sequence), 40);
  assert.equal(cache.slots(sequence), 8);
  assert.equal(cache.reserve(other, 32), 8);
});

test("runs of consecutive slots within two blocks are one move", async () => {
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 8, blockSize: 8, maxSequenceTokens: 64, maxSequences: 2 });
  const lanes = (() => {
    const arena = core.laneArena({ cache, layers: 1, kvHeads: 1, capacity: 64 });
    const sequence = cache.open({ tokens: [], lossy: true });
    cache.reserve(sequence, 24);
    cache.append(sequence, new Uint32Array(24));
    const made = arena.open(sequence);
    made.append(24);
    return made;
  })();
  const table = [...cache.blockTable(lanes.sequence)];
  const plan = lanes.plan({ keep: [slots(0, 1, 2, 4, 5, 6, 7, 8, 9, 23)] });
  assert.equal(plan.copied, 0);
  assert.equal(plan.released, 1);
  assert.deepEqual(
    [...plan.allMoves()],
    [
      ...[0, 0, table[0], 4, table[0], 3, 4, 0],
      ...[0, 0, table[1], 0, table[0], 7, 1, 0],
      ...[0, 0, table[1], 1, table[1], 0, 1, 0],
      ...[0, 0, table[2], 7, table[1], 1, 1, 0],
    ],
  );
  plan.commit();
  assert.deepEqual([...cache.blockTable(lanes.sequence)], table.slice(0, 2));
});

test("whole blocks that every lane drops leave the table without a move", async () => {
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 16, blockSize: 4, maxSequenceTokens: 64, maxSequences: 2 });
  const arena = core.laneArena({ cache, layers: 2, kvHeads: 1, capacity: 64 });
  const sequence = cache.open({ tokens: [], lossy: true });
  cache.reserve(sequence, 18);
  cache.append(sequence, new Uint32Array(18));
  const lanes = arena.open(sequence);
  lanes.append(18);
  const table = [...cache.blockTable(sequence)];
  const keep = Uint32Array.from({ length: 18 }, (_, i) => i).filter(
    (slot) => slot >> 2 !== 1 && slot >> 2 !== 2,
  );
  const plan = lanes.plan({ keep: [keep, keep] });
  assert.equal(plan.allMoves().length, 0);
  plan.commit();
  assert.deepEqual([...cache.blockTable(sequence)], [table[0], table[3], table[4]]);
  assert.deepEqual([...lanes.lane(1, 0).pos.subarray(0, 10)], [...keep]);
  assert.equal(cache.available, 16 - 3);
});

test("a lossy sequence publishes nothing, and a dropped prompt is not found under its prefix", async () => {
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 32, blockSize: 4, maxSequenceTokens: 64, maxSequences: 4 });
  const arena = core.laneArena({ cache, layers: 1, kvHeads: 1, capacity: 64 });
  const tokens = Uint32Array.from({ length: 17 }, (_, i) => i);
  const sequence = cache.open({ tokens, lossy: true });
  cache.reserve(sequence, 17);
  cache.append(sequence, tokens);
  assert.equal(cache.match(tokens), 0);
  const lanes = arena.open(sequence);
  lanes.append(17);
  const plan = lanes.plan({ keep: [slots(0, 13, 14, 15, 16)] });
  plan.allMoves();
  plan.commit();
  cache.reserve(sequence, 12);
  cache.append(sequence, tokens.subarray(0, 12));
  cache.close(sequence);
  assert.equal(cache.match(tokens), 0);
  assert.equal(cache.stats().cached, 0);
});

test("a shared prefix stays what it was, and stays cached, when one of its holders drops tokens", async () => {
  const { cache, sequence, lanes } = await alone(17);
  const tokens = new Uint32Array(17);
  assert.equal(cache.match(tokens), 16);
  const twin = cache.open({ tokens });
  const shared = [...cache.blockTable(twin)];
  assert.deepEqual([...cache.blockTable(sequence)].slice(0, 4), shared);
  const keep = slots(0, 9, 10, 11, 12, 13, 14, 15, 16);
  const plan = lanes.plan({ keep: [keep, keep] });
  assert.equal(plan.copied, 3);
  for (let at = 0, moves = plan.allMoves(); at < moves.length; at += MOVE_WORDS)
    assert.ok(!shared.includes(moves[at + 4]), "no move ends in a shared block");
  plan.commit();
  assert.deepEqual([...cache.blockTable(twin)], shared);
  assert.equal(cache.match(tokens), 16);
});

test("without a free block a drop from shared blocks is refused whole", async () => {
  const { core, cache, sequence, lanes } = await alone(32, 8);
  const before = [...cache.blockTable(sequence)];
  const keep = slots(1, 2, 3, 29, 30, 31);
  assert.throws(() => lanes.plan({ keep: [keep, keep] }), { code: "OUT_OF_BLOCKS" });
  assert.deepEqual([...cache.blockTable(sequence)], before);
  assert.deepEqual([...lanes.lengths()], [32, 32]);
  core.validate();
});

test("wrong answers are refused, and change nothing", async () => {
  const { core, cache, sequence, lanes } = await alone(10);
  const all = null;
  const wrong: readonly KeepPlan[] = [
    { keep: [slots(0, 1), slots()] },
    { keep: [slots(1, 0), all] },
    { keep: [slots(1, 1), all] },
    { keep: [slots(10), all] },
    { keep: [all] },
    { keep: [all, all], inPlace: { victim: slots(10, APPEND_SLOT) } },
    { keep: [slots(1), all], inPlace: { victim: slots(2, APPEND_SLOT) } },
    { keep: [all, all], inPlace: { victim: slots(2, APPEND_SLOT), successor: slots(2, APPEND_SLOT) } },
    {
      keep: [all, all],
      inPlace: { victim: slots(APPEND_SLOT, APPEND_SLOT), successor: slots(2, APPEND_SLOT) },
    },
  ];
  for (const answer of wrong) assert.throws(() => lanes.plan(answer), { code: "INVALID_ARGUMENT" });
  cache.reserve(sequence, 1);
  cache.append(sequence, [1]);
  assert.throws(
    () => lanes.unshare(),
    { code: "INVALID_ARGUMENT" },
    "the lanes have not seen the last token",
  );
  lanes.append(1);
  lanes.unshare().rollback();
  assert.throws(() => lanes.append(118), { code: "TOO_LONG" });
  core.validate();
});

test("lanes with more slots than their sequence has blocks for are refused, and the core goes on", async () => {
  const { core, cache, sequence, lanes } = await alone(40);
  const recent = slots(36, 37, 38, 39);
  const plan = lanes.plan({ keep: [recent, recent] });
  plan.allMoves();
  plan.commit();
  const others = lanes.arena.open(sequence);
  others.append(40);
  assert.throws(() => others.plan({ keep: [recent, recent] }), { code: "INVALID_ARGUMENT" });
  others.close();
  lanes.plan({ keep: [slots(0, 3), slots(0, 3)] }).rollback();
  core.validate();
  assert.equal(cache.slots(sequence), 4);
});

test("one compaction at a time, and lossy sequences are not shortened", async () => {
  const { core, cache, sequence, lanes } = await alone(12);
  const twin = cache.fork(sequence);
  const twins = lanes.fork(twin);
  const plan = lanes.plan({ keep: [slots(3, 4), slots(5)] });
  assert.throws(() => twins.unshare(), { code: "COMPACTION_PENDING" });
  plan.allMoves();
  plan.commit();
  assert.throws(() => plan.commit(), { code: "NOT_FOUND" });
  assert.throws(() => cache.truncate(sequence, 5), { code: "LOSSY_SEQUENCE" });
  cache.truncate(twin, 11);
  core.validate();
});

test("lanes survive a snapshot in the middle of a plan, in every build", async () => {
  const { core, lanes } = await alone(30);
  const keep = slots(0, 5, 6, 7, 20, 21, 29);
  const plan = lanes.plan({ keep: [keep, slots(29)] });
  const bytes = core.snapshot();
  const moves = plan.allMoves();
  plan.commit();
  for (const build of BUILDS) {
    const restored = await Core.restore(bytes, { build });
    const [arena] = restored.laneArenas;
    const { exports } = restored;
    const count = exports.lanesMoves(arena.pointer);
    assert.deepEqual(arena.words(arena.section("records"), count * MOVE_WORDS), moves);
    assert.equal(exports.lanesMoves(arena.pointer), 0);
    assert.equal(exports.lanesCommit(arena.pointer), 0);
    const [again] = arena.opened();
    assert.deepEqual(again.lengths(), lanes.lengths());
    assert.deepEqual([...again.lane(0, 0).pos.subarray(0, 7)], [...keep]);
    restored.validate();
  }
});

/**
 * Dropping tokens against a shadow of the executor's memory: survivors keep their content and their order, blocks that
 * others can read are never written, and every block is held by exactly those who should hold it.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  APPEND_SLOT,
  type Build,
  type CompactionPlan,
  Core,
  type CoreLanes,
  type KeepPlan,
  type KvCache,
  type LaneArena,
  MOVE_WORDS,
  PlaneMask,
  QuartermasterError,
  type SequenceId,
  TRANSFER_WORDS,
} from "../../bindings/main.js";
import { Random } from "../support/random.js";

const BUILDS: readonly Build[] = ["core", "core-threads", "core-scalar", "debug"];
const [LAYERS, KV_HEADS] = [2, 2];
const LANES = LAYERS * KV_HEADS;

/** One slot as it should be. */
interface Token {
  readonly position: number;
  /** What the executor's memory must hold there. */
  readonly content: number;
  readonly score: number;
}

interface Live {
  readonly sequence: SequenceId;
  lanes: CoreLanes | undefined;
  readonly tokens: number[];
  /** [lane][slot]; undefined: a place that the next token takes. */
  slots: (Token | undefined)[][];
  lossy: boolean;
}

function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    assert.ok(error instanceof QuartermasterError, String(error));
    return error.code;
  }
  return "OK";
}

class Harness {
  readonly cache: KvCache;
  readonly arena: LaneArena;
  /** [lane][block * blockSize + offset] what the executor holds. */
  readonly memory: Float64Array[];
  readonly live: Live[] = [];
  readonly prompts: number[][] = [];
  readonly counts = { drops: 0, fresh: 0, spliced: 0, reused: 0, rolledBack: 0, refused: 0, shared: 0 };
  #unique = 2 ** 33;

  constructor(
    readonly core: Core,
    readonly random: Random,
    blocks: number,
    readonly blockSize: number,
    moveCapacity: number,
  ) {
    this.cache = core.kvCache({ blocks, blockSize, maxSequences: 12, maxSequenceTokens: 256 });
    this.arena = core.laneArena({
      cache: this.cache,
      layers: LAYERS,
      kvHeads: KV_HEADS,
      capacity: 200,
      planes: PlaneMask.SCORE | PlaneMask.MRI,
      sequences: 8,
      moveCapacity,
    });
    this.memory = Array.from({ length: LANES }, () => new Float64Array(blocks * blockSize));
  }

  step(): void {
    const { random, live } = this;
    const one = live.length > 0 ? random.pick(live) : undefined;
    const action = random.below(12);
    if (one === undefined || (action === 0 && live.length < 8)) return this.open();
    if (action < 5) return this.grow(one, 1 + random.below(action < 3 ? 12 : 1));
    if (action < 10) return this.drop(one);
    if (action === 10) return this.fork(one);
    return random.below(3) === 0 ? this.close(one) : this.grow(one, 1);
  }

  /** K and V of an undropped token depend on the tokens before it, and on nothing else. */
  contentOf(tokens: readonly number[], position: number): number {
    let hash = 7;
    for (let i = 0; i <= position; i++) hash = (Math.imul(hash, 31) + tokens[i] + 1) >>> 0;
    return hash;
  }

  open(): void {
    const { random, cache, prompts } = this;
    const old = prompts.length > 0 && random.below(3) > 0 ? random.pick(prompts) : [];
    const tokens = [...old.slice(0, random.below(old.length + 1))];
    while (tokens.length < 4 + random.below(60)) tokens.push(random.below(3));
    prompts.push(tokens);
    if (prompts.length > 6) prompts.shift();
    const lossy = random.below(3) === 0;
    let sequence: SequenceId;
    try {
      sequence = cache.open({ tokens, lossy });
    } catch (error) {
      assert.equal((error as QuartermasterError).code, "OUT_OF_SEQUENCES");
      return;
    }
    const cached = cache.length(sequence);
    const one: Live = { sequence, lanes: undefined, tokens: [], slots: [], lossy };
    one.slots = Array.from({ length: LANES }, () => []);
    for (let position = 0; position < cached; position++) {
      one.tokens.push(tokens[position]);
      const content = this.contentOf(tokens, position);
      for (const slots of one.slots) slots.push({ position, content, score: 0 });
    }
    this.live.push(one);
    this.grow(one, tokens.length - cached, tokens.slice(cached));
  }

  grow(one: Live, count: number, tokens = Array.from({ length: count }, () => this.random.below(3))): void {
    const { cache, random } = this;
    const code = codeOf(() => cache.reserve(one.sequence, count));
    if (code === "LANES_SHARED") {
      this.counts.shared += 1;
      if (this.lanesOf(one) === undefined) return;
      this.apply(one, one.lanes!, one.slots, () => one.lanes!.unshare());
      if (codeOf(() => cache.reserve(one.sequence, count)) !== "OK") return;
    } else if (code !== "OK") {
      assert.ok(code === "OUT_OF_BLOCKS" || code === "TOO_LONG", code);
      return;
    }
    this.copy();
    // Sometimes the tokens are not computed after all.
    if (random.below(8) === 0) return;
    const table = cache.blockTable(one.sequence).slice();
    const dropped = one.slots.some(
      (slots) => slots.length !== one.tokens.length || slots.includes(undefined),
    );
    const before = one.tokens.length;
    for (let i = 0; i < count; i++) {
      one.tokens.push(tokens[i]);
      const content = dropped ? this.#unique++ : this.contentOf(one.tokens, before + i);
      one.slots.forEach((slots, lane) => {
        const hole = slots.indexOf(undefined);
        const slot = hole < 0 ? slots.length : hole;
        slots[slot] = { position: before + i, content, score: 0 };
        this.memory[lane][this.place(table, slot)] = content;
      });
    }
    cache.append(one.sequence, tokens);
    one.lanes?.append(count);
    if (one.lanes) this.score(one, one.lanes);
  }

  place(table: Uint32Array, slot: number): number {
    return table[Math.floor(slot / this.blockSize)] * this.blockSize + (slot % this.blockSize);
  }

  /** Gives the newest slots scores that must travel with them. */
  score(one: Live, lanes: CoreLanes): void {
    one.slots.forEach((slots, lane) => {
      const view = lanes.lane(Math.floor(lane / KV_HEADS), lane % KV_HEADS);
      slots.forEach((token, slot) => {
        if (token === undefined || token.score !== 0) return;
        assert.equal(view.score![slot], 0, "planes of a new token are zero");
        const score = token.position * LANES + lane + 1;
        slots[slot] = { ...token, score };
        view.score![slot] = score;
        view.mri![slot] = score;
      });
    });
  }

  lanesOf(one: Live): CoreLanes | undefined {
    if (one.lanes) return one.lanes;
    if (codeOf(() => (one.lanes = this.arena.open(one.sequence))) !== "OK") return undefined;
    one.lanes!.append(one.tokens.length);
    this.score(one, one.lanes!);
    return one.lanes;
  }

  drop(one: Live): void {
    const { random } = this;
    const lanes = this.lanesOf(one);
    if (lanes === undefined || one.tokens.length === 0) return;
    const { answer, after, whole, reused } = this.answerFor(one, random.below(4));
    const touched = one.slots.some(
      (lane, i) =>
        lane.includes(undefined) &&
        (answer.keep[i] !== null || (answer.inPlace?.victim[i] ?? APPEND_SLOT) !== APPEND_SLOT),
    );
    if (touched) {
      assert.equal(
        codeOf(() => lanes.plan(answer)),
        "INVALID_ARGUMENT",
        "a place is open already",
      );
      return;
    }
    const done = this.apply(one, lanes, after, () => lanes.plan(answer));
    if (done === undefined) return;
    this.counts.drops += 1;
    this.counts.reused += reused ? 1 : 0;
    if (whole && done.moves === 0) this.counts.spliced += 1;
  }

  /** A random answer of a policy, and the slots as they are once it has been carried out. */
  answerFor(
    one: Live,
    kind: number,
  ): { answer: KeepPlan; after: (Token | undefined)[][]; whole: boolean; reused: boolean } {
    const { random, blockSize } = this;
    const victim = new Uint32Array(LANES).fill(APPEND_SLOT);
    const successor = new Uint32Array(LANES).fill(APPEND_SLOT);
    const share = random.below(10);
    const blocks = Array.from({ length: 64 }, () => random.below(3) > 0);
    const after: (Token | undefined)[][] = [];
    const keep = one.slots.map((slots, lane): Uint32Array | null => {
      const untouched = (): null => {
        after[lane] = [...slots];
        return null;
      };
      if (kind === 1 && slots.length > 1) {
        // In place, some with a successor; other lanes pack.
        if (random.below(4) === 0) return untouched();
        victim[lane] = random.below(slots.length);
        const heir = random.below(slots.length);
        if (random.below(2) === 0 && heir !== victim[lane]) successor[lane] = heir;
        const next = [...slots];
        if (successor[lane] !== APPEND_SLOT) next[victim[lane]] = slots[heir];
        next[successor[lane] === APPEND_SLOT ? victim[lane] : heir] = undefined;
        after[lane] = next;
        return null;
      }
      if (kind === 3 && random.below(4) === 0) return untouched();
      const stays = slots.flatMap((_, slot) =>
        (kind === 2 ? blocks[Math.floor(slot / blockSize)] : random.below(10) <= share) ? [slot] : [],
      );
      if (stays.length === 0) return untouched();
      after[lane] = stays.map((slot) => slots[slot]);
      return Uint32Array.from(stays);
    });
    const reused = victim.some((slot) => slot !== APPEND_SLOT);
    return {
      answer: { keep, ...(reused && { inPlace: { victim, successor } }) },
      after,
      whole: kind === 2,
      reused,
    };
  }

  /** Plans, moves and commits, or rolls back. */
  apply(
    one: Live,
    lanes: CoreLanes,
    after: (Token | undefined)[][],
    run: () => CompactionPlan,
  ): { moves: number } | undefined {
    const { cache, counts, random } = this;
    let plan: CompactionPlan | undefined;
    const available = cache.available;
    const code = codeOf(() => (plan = run()));
    if (code !== "OK") {
      assert.equal(code, "OUT_OF_BLOCKS");
      assert.equal(cache.available, available, "a refusal takes nothing");
      counts.refused += 1;
      return undefined;
    }
    this.core.validate();
    const held = cache.blockTable(one.sequence).length;
    assert.equal(cache.available, available - plan!.copied);
    assert.equal(
      codeOf(() => cache.reserve(one.sequence, 1)),
      "COMPACTION_PENDING",
    );
    assert.equal(
      codeOf(() => cache.fork(one.sequence)),
      "COMPACTION_PENDING",
    );
    assert.equal(
      codeOf(() => lanes.append(1)),
      "COMPACTION_PENDING",
    );
    if (random.below(6) === 0) {
      if (random.below(4) === 0) {
        // Closing a sequence gives its plan up.
        this.close(one, true);
        assert.equal(
          codeOf(() => plan!.commit()),
          "NOT_FOUND",
        );
        lanes.close();
      } else plan!.rollback();
      counts.rolledBack += 1;
      return undefined;
    }
    const others = this.live.filter((other) => other !== one).map((other) => this.contentsOf(other));
    let moves = 0;
    for (const records of plan!.moves()) moves += this.move(records);
    plan!.commit();
    const freed = cache.available - (available - plan!.copied);
    assert.ok(freed >= 0 && freed <= plan!.released && plan!.released <= held);
    assert.equal(cache.blockTable(one.sequence).length, held + plan!.copied - plan!.released);
    one.slots = after;
    one.lossy = true;
    counts.fresh += plan!.copied > 0 ? 1 : 0;
    this.live
      .filter((other) => other !== one)
      .forEach((other, i) => assert.deepEqual(this.contentsOf(other), others[i]));
    return { moves };
  }

  move(records: Uint32Array): number {
    for (let at = 0; at < records.length; at += MOVE_WORDS) {
      const [layer, kvHead, source, sourceOffset, target, targetOffset, slots] = records.subarray(
        at,
        at + MOVE_WORDS,
      );
      assert.ok(sourceOffset + slots <= this.blockSize && targetOffset + slots <= this.blockSize);
      assert.ok(this.cache.references(target) === 1, "a target belongs to one sequence");
      const lane = this.memory[layer * KV_HEADS + kvHead];
      const from = source * this.blockSize + sourceOffset;
      lane.copyWithin(target * this.blockSize + targetOffset, from, from + slots);
    }
    return records.length / MOVE_WORDS;
  }

  /** Runs pending copies of shared tails. */
  copy(): void {
    const copies = this.cache.copies();
    for (let at = 0; at < copies.length; at += TRANSFER_WORDS) {
      const [source, target, tokens] = [copies[at + 2], copies[at + 4], copies[at + 5]];
      for (const lane of this.memory)
        lane.copyWithin(target * this.blockSize, source * this.blockSize, source * this.blockSize + tokens);
    }
    this.cache.settleCopies();
  }

  fork(one: Live): void {
    const { cache, arena } = this;
    if (this.live.length >= 8) return;
    let sequence: SequenceId = 0;
    if (codeOf(() => (sequence = cache.fork(one.sequence))) !== "OK") return;
    let lanes: CoreLanes | undefined;
    if (one.lanes && codeOf(() => (lanes = one.lanes!.fork(sequence))) !== "OK") {
      assert.equal(arena.size, arena.sequences);
      cache.close(sequence);
      return;
    }
    const slots = one.slots.map((lane) => [...lane]);
    this.live.push({ sequence, lanes, tokens: [...one.tokens], slots, lossy: one.lossy });
  }

  close(one: Live, keepLanes = false): void {
    this.cache.close(one.sequence);
    if (!keepLanes) one.lanes?.close();
    this.live.splice(this.live.indexOf(one), 1);
  }

  contentsOf(one: Live): (number | undefined)[][] {
    const table = this.cache.blockTable(one.sequence);
    return one.slots.map((slots, lane) =>
      slots.map((token, slot) => token && this.memory[lane][this.place(table, slot)]),
    );
  }

  check(): void {
    this.core.validate();
    for (const one of this.live) {
      const { cache } = this;
      assert.equal(cache.length(one.sequence), one.tokens.length);
      const longest = Math.max(...one.slots.map(({ length }) => length));
      assert.equal(cache.slots(one.sequence), longest);
      assert.ok(cache.blockTable(one.sequence).length >= Math.ceil(longest / this.blockSize));
      assert.deepEqual(
        this.contentsOf(one),
        one.slots.map((slots) => slots.map((token) => token?.content)),
      );
      if (one.lanes === undefined) continue;
      assert.equal(one.lanes.seen, one.tokens.length);
      one.slots.forEach((slots, lane) => {
        const view = one.lanes!.lane(Math.floor(lane / KV_HEADS), lane % KV_HEADS);
        assert.equal(view.length, slots.length);
        assert.equal(view.hole, slots.includes(undefined) ? slots.indexOf(undefined) : APPEND_SLOT);
        slots.forEach((token, slot) => {
          if (token === undefined) return;
          assert.equal(view.pos[slot], token.position);
          assert.equal(view.score![slot], token.score);
          assert.equal(view.mri![slot], token.score);
        });
      });
    }
  }

  /** With nothing open every block is free again, once the cached ones are forgotten. */
  audit(): void {
    while (this.live.length > 0) this.close(this.live[0]);
    this.cache.forget();
    assert.equal(this.cache.stats().free, this.cache.blocks);
    assert.equal(this.arena.size, 0);
    this.core.validate();
  }
}

for (const build of BUILDS) {
  test(`random drops, forks and prefixes keep every survivor and every other sequence: ${build}`, async () => {
    const totals: Record<string, number> = {};
    for (let seed = 1; seed <= (build === "core" ? 60 : 12); seed++) {
      const random = new Random(seed);
      const core = await Core.create({ build, seed });
      const blocks = random.pick([12, 40, 120]);
      const harness = new Harness(core, random, blocks, random.pick([1, 2, 4, 8]), random.pick([1, 3, 4096]));
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

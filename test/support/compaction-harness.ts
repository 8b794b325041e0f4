/**
 * A shadow of an executor's memory: opens, grows, forks and drops from sequences at random, carries out every plan, and
 * compares what the blocks hold with what each sequence should see.
 */
import assert from "node:assert/strict";
import {
  APPEND_SLOT,
  type CompactionPlan,
  type Core,
  type CoreLanes,
  type KvCache,
  type LaneArena,
  MOVE_WORDS,
  PlaneMask,
  QuartermasterError,
  type SequenceId,
  TRANSFER_WORDS,
} from "../../bindings/main.js";
import type { Random } from "./random.js";
import { randomAnswer, type Token } from "./random-answer.js";
import { codeOf } from "./code-of.js";

const [LAYERS, KV_HEADS] = [2, 2];
const LANES = LAYERS * KV_HEADS;

interface Live {
  readonly sequence: SequenceId;
  lanes: CoreLanes | undefined;
  readonly tokens: number[];
  /** [lane][slot]; undefined: a place that the next token takes. */
  slots: (Token | undefined)[][];
  lossy: boolean;
}

export class CompactionHarness {
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
    const { answer, after, whole, reused } = randomAnswer(random, one.slots, random.below(4), this.blockSize);
    const touched = one.slots.some(
      (lane, i) =>
        lane.includes(undefined) &&
        (answer.keep[i]?.includes(lane.indexOf(undefined)) ||
          (answer.inPlace?.victim[i] ?? APPEND_SLOT) !== APPEND_SLOT),
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

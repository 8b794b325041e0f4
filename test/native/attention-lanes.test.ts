/**
 * Attention over ragged lanes: tokens dropped from each lane alone, moved, written in place or hidden, against a
 * float64 forward pass over the same lanes; and a lane with every token gives the bits of the paged row.
 */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { after, test } from "node:test";
import {
  APPEND_SLOT,
  type Executor,
  type LaneRow,
  MOVE_WORDS,
  StatMask,
  type StepResult,
} from "../../bindings/main.js";
import { handPlan, type PlanRow } from "../support/hand-plan.js";
import { writeModel } from "../support/model-fixtures.js";
import { NaiveModel } from "../support/naive-forward.js";
import { Random } from "../support/random.js";
import { relativeDifference } from "../support/run-tokens.js";
import { assertStatistics, BACKENDS, BLOCK_SIZE, greedy, openExecutor } from "./attention-support.js";

const ALL = Object.values(StatMask).reduce((all, bit) => all | bit, 0);
const BLOCKS = Array.from({ length: 14 }, (_, i) => (i * 5 + 3) % 39);
const tokens = Array.from({ length: 60 }, (_, i) => (i * 17 + 3) % 40);
const fixture = writeModel();
const sliding = writeModel({ config: { architectures: ["MistralForCausalLM"], sliding_window: 9 } });
after(() => [fixture, sliding].forEach(({ directory }) => rmSync(directory, { recursive: true })));

/** A lossy sequence: the naive lanes and the executor's, kept alike. */
class Lossy {
  readonly model = new NaiveModel(fixture);
  readonly random = new Random(7);
  position = 0;

  constructor(
    readonly executor: Executor,
    readonly tolerance: number,
  ) {}

  get lengths(): Uint32Array {
    return Uint32Array.from(this.model.lanes, ({ keys }) => keys.length);
  }

  /** Feeds the next `count` tokens and compares logits and every statistic. */
  async feed(
    count: number,
    lanes: Omit<LaneRow, "lengths"> & { live?: Uint32Array } = {},
  ): Promise<StepResult> {
    const next = tokens.slice(this.position, this.position + count);
    const lengths = this.lengths;
    const measured = lanes.writeSlots === undefined ? ALL : ALL & ~StatMask.PROBE_MAX;
    const keep = [...lengths].map((length, lane) =>
      Array.from({ length }, (_, slot) => slot).filter((slot) => (slot + lane) % 2 === 0),
    );
    const request = { mask: measured, window: 3, keep };
    const words = Math.ceil((BLOCKS.length * BLOCK_SIZE) / 32);
    const isLive = (lane: number, slot: number): boolean =>
      lanes.live === undefined || ((lanes.live[lane * words + (slot >> 5)] >> (slot & 31)) & 1) !== 0;
    const naive = this.model.forward(next, this.position, {
      ...(lanes.writeSlots && {
        writeSlots: [...lanes.writeSlots].map((slot) => (slot === APPEND_SLOT ? undefined : slot)),
      }),
      live: [...lengths].map(
        (length, lane) =>
          new Set(Array.from({ length }, (_, slot) => slot).filter((slot) => isLive(lane, slot))),
      ),
      keep: keep.map((slots, lane) => new Set(slots.filter((slot) => isLive(lane, slot)))),
    });
    const row: PlanRow = {
      computedBefore: this.position,
      tokens: next,
      blocks: BLOCKS,
      slots: next.map(() => 0),
    };
    const result = await this.executor.run(handPlan([row], BLOCK_SIZE), greedy, {
      lanes: () => ({ lengths, ...lanes }),
      statistics: () => request,
    });
    for (let layer = 0; layer < this.model.layers; layer++)
      assertStatistics(result.statistics!(0, layer), naive, this.model, request, this.tolerance);
    const difference = relativeDifference(result.logits!, naive.logits.at(-1)!);
    assert.ok(difference < this.tolerance * 2, `position ${this.position}: ${difference}`);
    this.position += count;
    return result;
  }

  /** Drops slots at random, another share in each lane, and packs the rest by moves of runs. */
  async evict(): Promise<void> {
    const moves: number[] = [];
    this.model.lanes.forEach(({ keys }, lane) => {
      const kept = keys.map((_, slot) => slot).filter(() => this.random.next() % 8 > lane);
      if (kept.length === 0) kept.push(0);
      kept.forEach((slot, target) => {
        if (slot !== target) moves.push(...moveRecord(this.model.kvHeads, lane, slot, target));
      });
      this.model.keep(lane, kept);
    });
    await this.executor.move!(Uint32Array.from(moves));
  }
}

function moveRecord(kvHeads: number, lane: number, from: number, to: number, blocks = BLOCKS): number[] {
  const place = (list: readonly number[], slot: number): number[] => [
    list[Math.floor(slot / BLOCK_SIZE)],
    slot % BLOCK_SIZE,
  ];
  return [Math.floor(lane / kvHeads), lane % kvHeads, ...place(BLOCKS, from), ...place(blocks, to), 1, 0];
}

for (const backend of BACKENDS) {
  const { skip, tolerance, name } = backend;
  const open = (directory = fixture.directory, threads = 2): Promise<Executor> =>
    openExecutor(directory, backend, threads);

  test(`${name}: lanes of different lengths equal the plain forward pass over them`, { skip }, async () => {
    const lossy = new Lossy(await open(), tolerance);
    await lossy.feed(24);
    for (let round = 0; round < 4; round++) {
      await lossy.evict();
      await lossy.feed(1);
      await lossy.feed(5);
      await lossy.feed(1);
    }
    assert.ok(new Set(lossy.lengths).size > 1, "the lanes are ragged");
    await lossy.executor.close();
  });

  test(`${name}: new tokens take given slots, or are appended, lane by lane`, { skip }, async () => {
    const lossy = new Lossy(await open(), tolerance);
    await lossy.feed(18);
    await lossy.evict();
    for (let i = 0; i < 5; i++) {
      const { lengths } = lossy;
      const writeSlots = lengths.map((length, lane) =>
        (lane + i) % 3 === 0 ? APPEND_SLOT : (i * 5 + lane) % length,
      );
      await lossy.feed(1, { writeSlots });
    }
    await lossy.executor.close();
  });

  test(`${name}: slots that are not live are not seen`, { skip }, async () => {
    const lossy = new Lossy(await open(), tolerance);
    await lossy.feed(22);
    for (const count of [1, 4, 1]) {
      const words = Math.ceil((BLOCKS.length * BLOCK_SIZE) / 32);
      const live = Uint32Array.from({ length: lossy.lengths.length * words }, () => lossy.random.next());
      await lossy.feed(count, { live });
    }
    const nothing = new Uint32Array(lossy.lengths.length * Math.ceil((BLOCKS.length * BLOCK_SIZE) / 32));
    await lossy.feed(1, { live: nothing });
    await lossy.executor.close();
  });

  test(`${name}: a lane with every token gives the bits of the paged row`, { skip }, async () => {
    for (const directory of [fixture.directory, sliding.directory]) {
      const results: Float32Array[][] = [];
      for (const withLanes of [false, true]) {
        const executor = await open(directory);
        const logits: Float32Array[] = [];
        for (const [from, to] of [
          [0, 30],
          [30, 41],
          [41, 42],
          [42, 43],
        ]) {
          const row = { computedBefore: from, tokens: tokens.slice(from, to), blocks: BLOCKS };
          const lanes = withLanes ? { lengths: new Uint32Array(4).fill(from) } : undefined;
          logits.push(
            (await executor.run(handPlan([row], BLOCK_SIZE), greedy, { lanes: () => lanes })).logits!,
          );
        }
        results.push(logits);
        await executor.close();
      }
      assert.deepEqual(results[1], results[0]);
    }
  });

  test(
    `${name}: moved lanes give the same bits, and a lossy row changes no other row's`,
    { skip },
    async () => {
      const others = { computedBefore: 0, tokens: tokens.slice(7, 26), blocks: [40, 41, 42, 43, 44] };
      const target = Array.from({ length: 14 }, (_, i) => 50 + i);
      const seen: Float32Array[][] = [];
      for (const way of ["stay", "move", "alone"]) {
        const executor = await open(fixture.directory, way === "move" ? 3 : 1);
        const first = { computedBefore: 0, tokens: tokens.slice(0, 20), blocks: BLOCKS };
        await executor.run(handPlan(way === "alone" ? [others] : [first, others], BLOCK_SIZE), greedy);
        const lengths = Uint32Array.of(5, 9, 20, 13);
        if (way === "move") {
          const moves = [...lengths].flatMap((length, lane) =>
            Array.from({ length }, (_, slot) => moveRecord(2, lane, slot, slot, target)).flat(),
          );
          await executor.move!(Uint32Array.from(moves));
        }
        const row = { computedBefore: 20, tokens: [9], blocks: way === "move" ? target : BLOCKS };
        const next = { ...others, computedBefore: 19, tokens: [3] };
        const rows = way === "alone" ? [next] : [row, next];
        const { logits } = await executor.run(handPlan(rows, BLOCK_SIZE), greedy, {
          lanes: (i) => (way !== "alone" && i === 0 ? { lengths } : undefined),
        });
        const vocab = executor.describe().vocabSize;
        seen.push([logits!.slice(0, -vocab), logits!.slice(-vocab)]);
        await executor.close();
      }
      const [stay, move, alone] = seen;
      assert.deepEqual(move[0], stay[0], "the moved row");
      assert.deepEqual(move[1], stay[1], "the other row");
      assert.deepEqual(alone[1], stay[1], "the other row without company");
    },
  );

  test(`${name}: merged slots are the mean of keys and values`, { skip }, async () => {
    const lossy = new Lossy(await open(), tolerance);
    await lossy.feed(16);
    const merges: number[] = [];
    lossy.model.lanes.forEach((lane, index) => {
      const members = [2, 5, 11 + index];
      const [layer, kvHead] = [Math.floor(index / 2), index % 2];
      const places = members.flatMap((slot) => [BLOCKS[Math.floor(slot / BLOCK_SIZE)], slot % BLOCK_SIZE]);
      merges.push(layer, kvHead, BLOCKS[1], 2, members.length, ...places);
      for (const rows of [lane.keys, lane.values]) {
        const mean = rows[6].map((_, d) => [6, ...members].reduce((sum, slot) => sum + rows[slot][d], 0) / 4);
        rows[6] = mean;
      }
    });
    await lossy.executor.merge!(Uint32Array.from(merges));
    await lossy.feed(1);
    await lossy.executor.close();
  });

  test(
    `${name}: lanes, moves and merges outside their limits are refused by name and change nothing`,
    { skip },
    async () => {
      const executor = await open();
      const feed = (computedBefore: number, count: number, lanes?: LaneRow): Promise<StepResult> => {
        const row = { computedBefore, tokens: tokens.slice(0, count), blocks: BLOCKS };
        return executor.run(handPlan([row], BLOCK_SIZE), greedy, { lanes: () => lanes });
      };
      const lengths = Uint32Array.of(20, 7, 20, 1);
      await feed(0, 20);
      const wanted = (await feed(20, 1, { lengths })).logits;
      const cases: [number, LaneRow, string][] = [
        [1, { lengths: Uint32Array.of(1, 2, 3) }, "lanes.lengths"],
        [1, { lengths: Uint32Array.of(20, 21, 0, 0) }, "lanes.lengths[1]"],
        [2, { lengths, writeSlots: new Uint32Array(4) }, "lanes.writeSlots"],
        [1, { lengths, writeSlots: new Uint32Array(3) }, "lanes.writeSlots"],
        [1, { lengths, writeSlots: Uint32Array.of(0, 7, 0, 0) }, "lanes.writeSlots[1]"],
        [1, { lengths, live: new Uint32Array(3) }, "lanes.live"],
        [1, { lengths: new Uint32Array(4).fill(BLOCKS.length * BLOCK_SIZE) }, "lanes.lengths[0]"],
      ];
      for (const [count, lanes, argument] of cases)
        await assert.rejects(feed(count === 1 && argument === "lanes.lengths[0]" ? 60 : 20, count, lanes), {
          code: "INVALID_ARGUMENT",
          argument,
        });
      const move = [0, 0, 0, 0, 1, 0, 1, 0];
      for (const [word, value] of [
        [0, 2],
        [1, 2],
        [2, 64],
        [3, BLOCK_SIZE],
        [4, 0xffffffff],
        [5, 0xffffffff],
        [6, 5],
      ])
        await assert.rejects(executor.move!(Uint32Array.from(move.with(word, value))), {
          code: "INVALID_ARGUMENT",
        });
      await assert.rejects(executor.move!(new Uint32Array(MOVE_WORDS + 1)), { code: "INVALID_ARGUMENT" });
      for (const merge of [
        [0, 0, 0, 0],
        [0, 0, 0, 0, 1, 2],
        [2, 0, 0, 0, 0],
        [0, 0, 64, 0, 0],
        [0, 0, 0, 0, 1, 0, 4],
      ])
        await assert.rejects(executor.merge!(Uint32Array.from(merge)), { code: "INVALID_ARGUMENT" });
      assert.deepEqual((await feed(20, 1, { lengths })).logits, wanted);
      await executor.close();
      const other = await open(sliding.directory);
      await assert.rejects(
        other.run(handPlan([{ computedBefore: 20, tokens: [1], blocks: BLOCKS }], BLOCK_SIZE), greedy, {
          lanes: () => ({ lengths }),
        }),
        { code: "UNSUPPORTED" },
      );
      await other.close();
    },
  );
}

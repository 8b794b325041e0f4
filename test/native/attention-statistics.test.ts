/** Every statistic that StatMask names equals one read off a float64 forward pass with the full attention matrix. */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { after, test } from "node:test";
import { type Executor, StatMask, type StatisticsRequest, type StepResult } from "../../bindings/main.js";
import { handPlan } from "../support/hand-plan.js";
import { type Fixture, writeModel } from "../support/model-fixtures.js";
import { NaiveModel } from "../support/naive-forward.js";
import { relativeDifference } from "../support/run-tokens.js";
import { assertStatistics, BACKENDS, BLOCK_SIZE, greedy, openExecutor } from "./attention-support.js";

const ALL = Object.values(StatMask).reduce((all, bit) => all | bit, 0);
const BLOCKS = Array.from({ length: 14 }, (_, i) => (i * 5 + 3) % 39);
const tokens = Array.from({ length: 50 }, (_, i) => (i * 17 + 3) % 40);

const FAMILIES: Readonly<Record<string, Record<string, unknown>>> = {
  "grouped heads": {},
  "no grouped heads": { num_key_value_heads: 4 },
  "one KV head of its own size": { num_key_value_heads: 1, head_dim: 20 },
  "a sliding window": { architectures: ["MistralForCausalLM"], sliding_window: 9 },
  "attention biases": { architectures: ["Qwen2ForCausalLM"], tie_word_embeddings: true },
};
const fixtures = new Map<string, Fixture>(
  Object.entries(FAMILIES).map(([name, config]) => [name, writeModel({ config })]),
);
after(() => fixtures.forEach(({ directory }) => rmSync(directory, { recursive: true })));

/** Runs one row and gives its result. */
function feed(
  executor: Executor,
  from: number,
  to: number,
  request?: StatisticsRequest,
  phase?: number,
): Promise<StepResult> {
  const row = {
    computedBefore: from,
    tokens: tokens.slice(from, to),
    blocks: BLOCKS,
    ...(phase !== undefined && { phase }),
  };
  return executor.run(handPlan([row], BLOCK_SIZE), greedy, { statistics: () => request });
}

/** Slots that a smaller cache keeps: others in each lane. */
function keepOf(model: NaiveModel, length: number): number[][] {
  return model.lanes.map((_, lane) =>
    Array.from({ length }, (_, i) => i).filter((slot) => (slot * 7 + lane) % 3 !== 0),
  );
}

for (const [family, fixture] of fixtures) {
  for (const backend of BACKENDS) {
    test(
      `${backend.name}, ${family}: every statistic equals the full matrix's`,
      { skip: backend.skip },
      async () => {
        const executor = await openExecutor(fixture.directory, backend);
        assert.equal(executor.describe().statMask, ALL);
        const model = new NaiveModel(fixture);
        // A prefill chunk that does not sample, a last chunk, decodes: windows longer and shorter than the chunk.
        const steps = [
          { from: 0, to: 13, phase: 0, window: 5, probe: 3 },
          { from: 13, to: 37, phase: 2, window: 8, probe: 24 },
          { from: 37, to: 40, phase: 0, window: 8, probe: 2 },
          { from: 40, to: 41, phase: 1, window: 1, probe: 1 },
          { from: 41, to: 42, phase: 1, window: 16, probe: 1 },
        ];
        for (const { from, to, phase, window, probe } of steps) {
          const keep = keepOf(model, from);
          const naive = model.forward(tokens.slice(from, to), from, {
            keep: keep.map((slots) => new Set(slots)),
          });
          const heads = [[1, 3], null];
          const request = { mask: ALL, window, probe, heads, keep };
          const { statistics, logits } = await feed(executor, from, to, request, phase);
          for (let layer = 0; layer < model.layers; layer++)
            assertStatistics(statistics!(0, layer), naive, model, request, backend.tolerance);
          if (phase !== 0)
            assert.ok(relativeDifference(logits!, naive.logits.at(-1)!) < backend.tolerance * 2);
        }
        await executor.close();
      },
    );
  }
}

for (const backend of BACKENDS) {
  const fixture = fixtures.get("grouped heads")!;

  test(
    `${backend.name}: each statistic alone, and other ones in each layer`,
    { skip: backend.skip },
    async () => {
      const executor = await openExecutor(fixture.directory, backend);
      const masks = [
        ...Object.values(StatMask),
        [StatMask.LAST_ROW, 0],
        [0, StatMask.COLSUM | StatMask.KEYS],
      ];
      for (const mask of masks) {
        const model = new NaiveModel(fixture);
        for (const [from, to] of [
          [0, 20],
          [20, 29],
          [29, 30],
        ]) {
          const keep = keepOf(model, from);
          const naive = model.forward(tokens.slice(from, to), from, {
            keep: keep.map((slots) => new Set(slots)),
          });
          const request = { mask, window: 4, keep };
          const { statistics } = await feed(executor, from, to, request);
          for (let layer = 0; layer < model.layers; layer++)
            assertStatistics(statistics!(0, layer), naive, model, request, backend.tolerance);
        }
      }
      await executor.close();
    },
  );

  test(
    `${backend.name}: measuring changes no logit, of the row or of others`,
    { skip: backend.skip },
    async () => {
      const fixture = fixtures.get("grouped heads")!;
      const plain: Float32Array[] = [];
      for (const measure of ["nothing", "all", "other"]) {
        const executor = await openExecutor(fixture.directory, backend, measure === "other" ? 3 : 1);
        const requestOf = (row: number): StatisticsRequest | undefined =>
          measure === "all" || (measure === "other" && row === 1)
            ? { mask: ALL & ~StatMask.OUTPUT_ERROR, window: 6 }
            : undefined;
        const rows = [
          { computedBefore: 0, tokens: tokens.slice(0, 21), blocks: BLOCKS },
          {
            computedBefore: 0,
            tokens: tokens.slice(3, 40),
            blocks: [40, 41, 42, 43, 44, 45, 46, 47, 48, 49],
          },
          { computedBefore: 0, tokens: tokens.slice(9, 16), blocks: [60, 61, 62] },
        ];
        const first = await executor.run(handPlan(rows, BLOCK_SIZE), greedy, { statistics: requestOf });
        const next = rows.map((row) => ({ ...row, computedBefore: row.tokens.length, tokens: [7] }));
        const second = await executor.run(handPlan(next, BLOCK_SIZE), greedy, { statistics: requestOf });
        for (const [i, { logits }] of [first, second].entries()) {
          plain[i] ??= logits!;
          assert.deepEqual(logits, plain[i], `step ${i}, measured: ${measure}`);
        }
        assert.equal(first.statistics !== undefined, measure !== "nothing");
        await executor.close();
      }
    },
  );

  test(
    `${backend.name}: a chunk's columns and windows do not depend on threads or company`,
    { skip: backend.skip },
    async () => {
      const request = { mask: StatMask.COLSUM | StatMask.WINDOW | StatMask.WINDOW_MOMENTS, window: 9 };
      const seen: Float32Array[] = [];
      for (const threads of [1, 4]) {
        const executor = await openExecutor(fixture.directory, backend, threads);
        const rows = [
          { computedBefore: 0, tokens: tokens.slice(0, 45), blocks: BLOCKS },
          {
            computedBefore: 0,
            tokens: tokens.slice(3, 40),
            blocks: [40, 41, 42, 43, 44, 45, 46, 47, 48, 49],
          },
        ];
        const taken = threads === 1 ? rows.slice(0, 1) : rows;
        const { statistics } = await executor.run(handPlan(taken, BLOCK_SIZE), greedy, {
          statistics: () => request,
        });
        const { colsum, window, moments } = statistics!(0, 1);
        [colsum!, window!, moments!].forEach((values, i) => {
          seen[i] ??= values.slice();
          assert.deepEqual(values, seen[i]);
        });
        await executor.close();
      }
    },
  );

  test(
    `${backend.name}: what cannot be measured is refused by name and changes nothing`,
    { skip: backend.skip },
    async () => {
      const executor = await openExecutor(fixture.directory, backend);
      await feed(executor, 0, 20);
      const wanted = (await feed(executor, 20, 21)).logits;
      const cases: [Partial<StatisticsRequest>, string][] = [
        [{ mask: 128 }, "statistics.mask"],
        [{ mask: [1] }, "statistics.mask"],
        [{ mask: StatMask.WINDOW }, "statistics.window"],
        [{ mask: StatMask.WINDOW_MOMENTS, window: 0 }, "statistics.window"],
        [{ mask: StatMask.WINDOW, window: 2, heads: [[0]] }, "statistics.heads"],
        [{ mask: StatMask.WINDOW, window: 2, heads: [[4], null] }, "statistics.heads[0]"],
        [{ mask: StatMask.PROBE_MAX, probe: 1.5 }, "statistics.probe"],
        [{ mask: StatMask.OUTPUT_ERROR }, "statistics.keep"],
        [{ mask: StatMask.OUTPUT_ERROR, keep: [null, [3, 3], null, null] }, "statistics.keep[1]"],
        [{ mask: StatMask.OUTPUT_ERROR, keep: [null, null, null, [20]] }, "statistics.keep[3]"],
      ];
      for (const [request, argument] of cases) {
        await assert.rejects(feed(executor, 20, 21, { mask: 1, ...request }), {
          code: "INVALID_ARGUMENT",
          argument,
        });
      }
      const { logits, statistics } = await feed(executor, 20, 21, { mask: 1 });
      assert.deepEqual(logits, wanted);
      assert.throws(() => statistics!(1, 0), { code: "INVALID_ARGUMENT", argument: "row" });
      assert.throws(() => statistics!(0, 2), { code: "INVALID_ARGUMENT", argument: "layer" });
      await executor.close();
    },
  );
}

/**
 * Statistics are exactly what StatMask names, at the cost of what was asked for: no field, no float and no layer more, the same
 * bits alone as among all, and nothing at all for rows whose policy asks for nothing.
 */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { after, test } from "node:test";
import {
  Core,
  Engine,
  EVICTION_POLICIES,
  Phase,
  PlaneMask,
  policyFromText,
  StatMask,
  type StatisticsRequest,
  type StatView,
} from "../../bindings/main.js";
import { readSpecialRows } from "../../native-host/executor/lane-rows.js";
import { openModel } from "../../native-host/executor/main.js";
import { BOS, tokensOf } from "../../sim/eviction/alphabet.js";
import { makeTask } from "../../sim/eviction/tasks.js";
import { handPlan } from "../support/hand-plan.js";
import { writeModel } from "../support/model-fixtures.js";
import { TINY_RETRIEVAL } from "../support/package-root.js";
import { Random } from "../support/random.js";
import { GREEDY } from "../support/run-tokens.js";

const fixture = writeModel();
after(() => rmSync(fixture.directory, { recursive: true }));
const BLOCK = 8;
const BLOCKS = [3, 1, 4, 2, 6, 5];
const ALL = Object.values(StatMask).reduce((all, bit) => all | bit, 0);
const SHAPE = { layers: 2, heads: 4, kvHeads: 2, headDim: 8, slidingWindow: 0 };
const tokens = Array.from({ length: 40 }, (_, i) => (i * 13 + 5) % 40);

/** Fields of a StatView by the bit that names them; windowRows comes with both windows. */
const FIELDS: Readonly<Record<number, readonly (keyof StatView)[]>> = {
  [StatMask.LAST_ROW]: ["lastRow"],
  [StatMask.WINDOW]: ["window", "windowRows"],
  [StatMask.COLSUM]: ["colsum", "colcount"],
  [StatMask.WINDOW_MOMENTS]: ["moments", "entropy", "windowRows"],
  [StatMask.PROBE_MAX]: ["probeMax"],
  [StatMask.KEYS]: ["keys"],
  [StatMask.OUTPUT_ERROR]: ["outputError"],
};
const STATISTICS = [...new Set(Object.values(FIELDS).flat())];

/** Floats that the table of StatMask gives each statistic, to whole vectors. */
function floatsOf(mask: number, rows: number, stride: number): number {
  const { heads, kvHeads, headDim } = SHAPE;
  const sizes: [number, number][] = [
    [StatMask.LAST_ROW, heads * stride],
    [StatMask.WINDOW, heads * rows * stride],
    [StatMask.COLSUM, heads * stride],
    [StatMask.WINDOW_MOMENTS, heads * 2 * stride + 4],
    [StatMask.PROBE_MAX, kvHeads * stride],
    [StatMask.KEYS, kvHeads * stride * headDim],
    [StatMask.OUTPUT_ERROR, 4],
  ];
  return sizes.reduce((sum, [bit, floats]) => sum + ((mask & bit) === 0 ? 0 : Math.ceil(floats / 4) * 4), 0);
}

/** What a view has of one statistic, without what lies past a lane's length. */
function valuesOf(view: StatView, field: keyof StatView): number[] {
  const value = field === "keys" ? view.keys?.data : view[field];
  if (typeof value === "number") return [value];
  const row = view.stride * (field === "keys" ? SHAPE.headDim : 1);
  const used = view.lengths[0] * (row / view.stride);
  return [...((value as Float32Array | undefined) ?? [])].filter((_, i) => i % row < used);
}

const plan = handPlan([{ computedBefore: 20, tokens: tokens.slice(20, 29), blocks: BLOCKS }], BLOCK);

test("every one of the 128 masks, alike in all layers or not: the floats of its statistics, and no others", () => {
  const random = new Random(3);
  for (let mask = 0; mask <= ALL; mask++) {
    const other = random.below(ALL + 1);
    for (const asked of [mask, [mask, other]]) {
      const window = 1 + random.below(12);
      const request = { mask: asked, window, keep: [null, null, null, null] };
      const { rows, floats } = readSpecialRows(plan, { statistics: () => request }, SHAPE, BLOCK);
      const masks = typeof asked === "number" ? [asked, asked] : asked;
      const stride = Math.ceil(29 / 4) * 4;
      const expected = masks.reduce((sum, one) => sum + floatsOf(one, Math.min(window, 9), stride), 0);
      assert.equal(floats, expected, `mask ${masks.join()}`);
      assert.equal(rows.length, 1);
    }
  }
  assert.deepEqual(readSpecialRows(plan, { statistics: () => undefined }, SHAPE, BLOCK), {
    rows: [],
    floats: 0,
  });
});

test("views have the fields that the mask names in their layer, with the bits that they have among all", async () => {
  const { executor } = await openModel(fixture.directory, { backend: "wasm", blocks: 8, blockSize: BLOCK });
  const run = async (from: number, to: number, request?: StatisticsRequest) => {
    const row = { computedBefore: from, tokens: tokens.slice(from, to), blocks: BLOCKS };
    const { statistics } = await executor.run(handPlan([row], BLOCK), () => GREEDY, {
      statistics: () => request,
    });
    return statistics;
  };
  await run(0, 20);
  const keep = Array.from({ length: 4 }, (_, lane) =>
    Array.from({ length: 20 }, (_, i) => i).filter((i) => (i + lane) % 3),
  );
  const rest = { window: 5, probe: 4, keep };
  const whole = await run(20, 29, { mask: ALL, ...rest });
  const reference = [0, 1].map((layer) =>
    Object.fromEntries(STATISTICS.map((field) => [field, valuesOf(whole!(0, layer), field)])),
  );
  const random = new Random(7);
  const masks: [number, number][] = Object.values(StatMask).flatMap((bit) => [
    [bit, 0] as [number, number],
    [ALL & ~bit, bit] as [number, number],
  ]);
  for (let i = 0; i < 40; i++) masks.push([random.below(ALL + 1), random.below(ALL + 1)]);
  for (const mask of masks) {
    const statistics = await run(20, 29, { mask, ...rest });
    for (const layer of [0, 1]) {
      const view = statistics!(0, layer);
      const named = new Set(
        Object.entries(FIELDS).flatMap(([bit, fields]) => ((mask[layer] & Number(bit)) === 0 ? [] : fields)),
      );
      for (const field of STATISTICS) {
        assert.equal(
          view[field] !== undefined,
          named.has(field),
          `${field} of mask ${mask.join()}, layer ${layer}`,
        );
        if (named.has(field)) assert.deepEqual(valuesOf(view, field), reference[layer][field], field);
      }
    }
  }
  assert.equal(await run(20, 29), undefined, "who asks for nothing is told nothing");
  await executor.close();
});

test("an engine asks for what each row's policy needs in its phase, and for nothing else", async () => {
  const { executor } = await openModel(TINY_RETRIEVAL, { backend: "wasm", blocks: 128, blockSize: 16 });
  const core = await Core.create();
  const cache = core.kvCache({ blocks: 128, blockSize: 16, maxSequences: 24, maxSequenceTokens: 512 });
  const scheduler = core.scheduler({ cache, vocabSize: 64, maxRequests: 24, maxRunning: 20 });
  const planes = PlaneMask.SCORE | PlaneMask.LAST_IMP | PlaneMask.MRI;
  const lanes = core.laneArena({ cache, layers: 3, kvHeads: 2, capacity: 512, planes, sequences: 20 });
  const selection = core.selection({ capacity: 4096 });
  const names = EVICTION_POLICIES.filter((name) => name !== "epicache");
  const policies = names.map((name) => {
    if (name === "full") return policyFromText(selection, name);
    const windowed = ["snapkv", "pyramidkv", "ada-kv", "cake", "compresskv", "lazy-eviction"].includes(name);
    return policyFromText(selection, `${name}:ratio=0.4${windowed ? ",window=8" : ""}`);
  });
  let asked = 0;
  /** Policies in the order of their requests' ids. */
  const ids: number[] = [];
  const { run } = executor;
  executor.run = function (plan, context, options) {
    for (let row = 0; row < plan.rows; row++) {
      const id = plan.requests[row];
      if (!ids.includes(id)) ids.push(id);
      const policy = policies[ids.indexOf(id)];
      const request = options?.statistics?.(row);
      if (policy === undefined) {
        assert.equal(request, undefined, "a request without a policy is not measured");
        assert.equal(options?.lanes?.(row), undefined);
        continue;
      }
      const mask = plan.phases[row] === Phase.Decode ? policy.needs.decode : policy.needs.prefill;
      assert.equal(request?.mask ?? 0, mask, `${policy.name}, phase ${plan.phases[row]}`);
      assert.equal(request === undefined, mask === 0, "nothing is asked for at no cost");
      asked += 1;
    }
    return run.call(this, plan, context, options);
  };
  const engine = new Engine({ scheduler, executor, lanes });
  const prompt = [BOS, ...tokensOf(makeTask("needle", { seed: 4, length: 90 }).context)];
  await Promise.all(
    [...policies, undefined].map(async (evict) => {
      for await (const event of engine.generate({ tokens: prompt, maxNewTokens: 6, ...(evict && { evict }) }))
        assert.ok(event.token < 64);
    }),
  );
  assert.ok(asked >= policies.length * 6);
  await engine.close();
});

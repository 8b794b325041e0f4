/** What do the statistics that policies read cost, and what does a policy's step, relative to attention itself? */
import { Core, StatMask } from "../bindings/main.js";
import { loadAddon } from "../native-host/executor/main.js";
import type { SpecialRow } from "../native-host/executor/lane-rows.js";
import { packLanes } from "../native-host/executor/native-lanes.js";
import { clear, layOut } from "../native-host/executor/statistics-layout.js";
import { RandomStream } from "../sim/random.js";
import { interleave, type Report, type Subject } from "./measure.js";

export const title =
  "statistics, scores and victims against attention, on the same thread (D = 64, n = 2,048)";

const SHAPE = { layers: 1, heads: 8, kvHeads: 4, headDim: 64, slidingWindow: 0 };
const SLOTS = 2048;
const BLOCK_SIZE = 16;
const WINDOW = 32;
/** Queries of a prefill chunk: those of one kernel call, and no more, so that a call is short beside interruptions. */
const CHUNK = 32;
const RECENT = 256;
/** Share of attention that a policy's step may take. */
const BAR = 0.15;

const STATISTICS = {
  LAST_ROW: StatMask.LAST_ROW,
  WINDOW: StatMask.WINDOW,
  COLSUM: StatMask.COLSUM,
  WINDOW_MOMENTS: StatMask.WINDOW_MOMENTS,
  PROBE_MAX: StatMask.PROBE_MAX,
} as const;

type Addon = Extract<ReturnType<typeof loadAddon>, { addon: unknown }>["addon"];

export async function run(report: Report): Promise<void> {
  const loaded = loadAddon();
  if ("reason" in loaded) {
    report.unmeasured("h2o step: scores and victims, share of attention", loaded.reason);
    return;
  }
  const { addon } = loaded;
  const isa = addon.isa()[addon.isa().length - 1];
  const rounds = report.quick ? 5 : 200;
  for (const queries of [1, CHUNK]) {
    const plain = attention(addon, queries, 0);
    const measured = Object.entries(STATISTICS).map(([name, mask]) => ({
      ...attention(addon, queries, mask),
      name,
    }));
    const where = queries === 1 ? "decode" : `prefill ${queries}`;
    const timings = await interleave([{ ...plain, name: "attention" }, ...measured], rounds);
    const [{ medianUs, bestUs }, ...others] = timings;
    report.measured(where, `attention/${isa}`, "median", medianUs, "us");
    report.measured(where, `attention/${isa}`, "best", bestUs, "us");
    for (const { name, bestUs: us } of others)
      report.measured(where, name, "share of attention", us / bestUs - 1, "ratio");
  }
  await policySteps(report, addon, rounds);
  report.note(`${SHAPE.heads} query heads, ${SHAPE.kvHeads} KV heads, one layer, f32; ${SLOTS} slots a lane`);
}

/** A decode step's attention alone, and with what H2O does after it: read LAST_ROW, add it up, find each victim. */
async function policySteps(report: Report, addon: Addon, rounds: number): Promise<void> {
  const { kvHeads: lanes, heads } = SHAPE;
  const core = await Core.create();
  const selection = core.selection({ capacity: lanes * SLOTS, floats: heads * SLOTS });
  const lastRow = attention(addon, 1, StatMask.LAST_ROW);
  const rows = lastRow.statistics.subarray(0, heads * SLOTS);
  const layer = {
    rows,
    rowStride: SLOTS,
    heads,
    lengths: new Array<number>(lanes).fill(SLOTS),
    planeStride: SLOTS,
  };
  const scores = selection.scores;
  const protectedFrom = { recentFrom: SLOTS - RECENT };
  const planes = Array.from({ length: lanes }, (_, lane) =>
    scores.subarray(lane * SLOTS, (lane + 1) * SLOTS),
  );
  const victims = (): void => {
    for (const plane of planes) selection.argmin(plane, protectedFrom);
  };
  const score = (): void => void selection.accumulate(scores, layer, 1.0001);
  // Long enough to be timed, short enough to be left alone now and then.
  const repeat = (name: string, run: () => void, operations = 1): Subject => ({
    name,
    operations,
    run: () => {
      for (let i = 0; i < operations; i++) run();
    },
  });
  const plain = attention(addon, 1, 0);
  const [attend, whole, scored, found] = await interleave(
    [
      repeat("attention", plain.run),
      repeat("with LAST_ROW, scores and victims", () => {
        lastRow.run();
        score();
        victims();
      }),
      repeat("scores", score, 8),
      repeat("victims", victims, 8),
    ],
    rounds,
  );
  for (const { name, medianUs, bestUs } of [attend, whole, scored, found]) {
    report.measured("h2o step", name, "median", medianUs, "us");
    report.measured("h2o step", name, "best", bestUs, "us");
  }
  const share = (scored.bestUs + found.bestUs) / attend.bestUs;
  report.measured("h2o step", "scores and victims", "share of attention", share, "ratio");
  const all = whole.bestUs / attend.bestUs - 1;
  report.measured("h2o step", "statistics, scores and victims", "share of attention", all, "ratio");
  report.note("shares are of best times: what other work on the machine adds falls on all alike");
  report.bar("h2o step: scores and victims, share of attention", share, "<", BAR);
}

const POOL = randomFloats(2 * SLOTS * SHAPE.kvHeads * SHAPE.headDim, 1);

function randomFloats(length: number, seed: number): Float32Array {
  const random = new RandomStream(seed);
  return Float32Array.from({ length }, () => 2 * random.uniform() - 1);
}

/** One call of the kernel over lanes that hold SLOTS slots once its `queries` are in. */
function attention(addon: Addon, queries: number, mask: number): Subject & { statistics: Float32Array } {
  const { heads, kvHeads, headDim } = SHAPE;
  const masks = Uint32Array.of(mask);
  const window = Math.min(WINDOW, queries);
  const { outputs, end } = layOut(masks, window, SLOTS, SHAPE, 0);
  const measured = {
    masks,
    window,
    probe: queries,
    stride: SLOTS,
    windowHeads: undefined,
    keep: undefined,
    outputs,
  };
  const row: SpecialRow = {
    row: 0,
    newTokens: queries,
    lengths: new Uint32Array(kvHeads).fill(SLOTS - queries),
    lengthsAfter: new Uint32Array(kvHeads).fill(SLOTS),
    writeSlots: undefined,
    live: undefined,
    bitmapWords: SLOTS / 32,
    measured: mask === 0 ? undefined : measured,
  };
  const statistics = new Float32Array(end);
  const kvType = "f32" as const;
  const shape = { blocks: SLOTS / BLOCK_SIZE, layers: 1, kvHeads, headDim, blockSize: BLOCK_SIZE, kvType };
  const { rows, words } = packLanes([row], shape);
  const kv = new Uint8Array(POOL.buffer);
  const table = Uint32Array.from({ length: shape.blocks }, (_, i) => (i * 37) % shape.blocks);
  const q = randomFloats(queries * heads * headDim, 2);
  const out = new Float32Array(q.length);
  clear(statistics, measured, SHAPE);
  return {
    name: "attention",
    operations: 1,
    statistics,
    run: () =>
      addon.kernels.attentionLanes("auto", kv, shape, 0, table, heads, q, out, rows, words, statistics),
  };
}

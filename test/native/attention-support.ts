/** Executors of every backend over a small model, and the naive statistics that theirs are compared with. */
import assert from "node:assert/strict";
import type { Executor, RowContext, StatisticsRequest, StatView } from "../../bindings/main.js";
import { StatMask } from "../../bindings/main.js";
import { loadAddon, type NativeExecutorOptions, openModel } from "../../native-host/executor/main.js";
import type { NaiveModel, NaiveStep } from "../support/naive-forward.js";
import { GREEDY } from "../support/run-tokens.js";

export const BLOCK_SIZE = 4;
const addon = loadAddon();
const isas = "addon" in addon ? addon.addon.isa() : (["portable"] as const);

export interface Backend {
  readonly name: string;
  readonly skip: string | false;
  readonly options: Partial<NativeExecutorOptions> & { backend: "wasm" | "cpu" };
  /** Largest difference from float64, of logits relative to the largest and of probabilities. */
  readonly tolerance: number;
}

/** The wasm kernels, each instruction set, and each number type of the KV pool. */
export const BACKENDS: readonly Backend[] = [
  { name: "wasm", skip: false, options: { backend: "wasm" }, tolerance: 2e-5 },
  ...isas.flatMap((isa) =>
    (["f32", "f16", "bf16"] as const)
      .filter((kvType) => kvType === "f32" || isa === isas.at(-1) || isa === "portable")
      .map((kvType) => ({
        name: `${isa} ${kvType}`,
        skip: "reason" in addon && addon.reason,
        options: { backend: "cpu" as const, isa, kvType, threads: 2 },
        tolerance: { f32: 2e-5, f16: 4e-3, bf16: 3e-2 }[kvType],
      })),
  ),
];

export async function openExecutor(directory: string, backend: Backend, threads = 2): Promise<Executor> {
  const options = { ...backend.options, blocks: 64, blockSize: BLOCK_SIZE, returnLogits: true };
  return (await openModel(directory, { ...options, ...(backend.options.backend === "cpu" && { threads }) }))
    .executor;
}

export const greedy = (): RowContext => GREEDY;

/** Largest absolute difference over the first `count` entries of rows. */
function assertNear(got: Float32Array, wanted: readonly number[], tolerance: number, what: string): void {
  wanted.forEach((value, i) => {
    assert.ok(Math.abs(got[i] - value) <= tolerance, `${what}[${i}] is ${got[i]}, wanted ${value}`);
  });
}

/** Compares everything a view has with the naive step's full attention matrix. */
export function assertStatistics(
  view: StatView,
  step: NaiveStep,
  model: NaiveModel,
  request: StatisticsRequest,
  tolerance: number,
): void {
  const { layer, heads, kvHeads, stride } = view;
  const mask = typeof request.mask === "number" ? request.mask : request.mask[layer];
  const attention = step.attention[layer];
  const tokens = attention[0].length;
  const group = heads / kvHeads;
  const row = (data: Float32Array, i: number): Float32Array => data.subarray(i * stride, (i + 1) * stride);
  const rows = Math.min(request.window ?? 0, tokens);
  assert.equal(view.newTokens, tokens);
  for (const [field, bit] of [
    ["lastRow", StatMask.LAST_ROW],
    ["window", StatMask.WINDOW],
    ["colsum", StatMask.COLSUM],
    ["colcount", StatMask.COLSUM],
    ["moments", StatMask.WINDOW_MOMENTS],
    ["entropy", StatMask.WINDOW_MOMENTS],
    ["probeMax", StatMask.PROBE_MAX],
    ["keys", StatMask.KEYS],
    ["outputError", StatMask.OUTPUT_ERROR],
  ] as const)
    assert.equal(view[field] !== undefined, (mask & bit) !== 0, `${field} where the mask is ${mask}`);
  for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
    const { keys } = model.lanes[layer * kvHeads + kvHead];
    assert.equal(view.lengths[kvHead], keys.length, "lane length");
    keys.forEach((key, slot) => {
      if (view.keys === undefined) return;
      const at = kvHead * view.keys.headStride + slot * view.keys.slotStride;
      const scale = Math.max(1, ...key.map(Math.abs));
      assertNear(view.keys.data.subarray(at, at + key.length), key, tolerance * scale, `key ${slot}`);
    });
    if (view.probeMax) {
      const probes = Math.min(request.probe ?? tokens, tokens);
      const cached = step.cachedAttention[layer].slice(kvHead * group, (kvHead + 1) * group);
      const wanted = keys.map((_, slot) =>
        Math.max(...cached.flatMap((h) => h.slice(-probes).map((r) => r[slot]))),
      );
      assertNear(row(view.probeMax, kvHead), wanted, tolerance, `probeMax ${kvHead}`);
    }
    if (view.colcount)
      keys.forEach((_, slot) => {
        const wanted = attention[kvHead * group].filter((r) => r[slot] > 0).length;
        assert.equal(view.colcount![kvHead * stride + slot], wanted, `count of slot ${slot}`);
      });
  }
  for (let head = 0; head < heads; head++) {
    const matrix = attention[head];
    const columns = (of: (column: number[]) => number, from = 0): number[] =>
      matrix[0].map((_, slot) => of(matrix.slice(from).map((r) => r[slot])));
    const sum = (column: number[]): number => column.reduce((a, b) => a + b, 0);
    if (view.lastRow) assertNear(row(view.lastRow, head), matrix.at(-1)!, tolerance, `lastRow ${head}`);
    if (view.colsum) assertNear(row(view.colsum, head), columns(sum), tolerance * tokens, `colsum ${head}`);
    if (view.window) {
      const asked = request.heads?.[layer]?.includes(head) ?? true;
      for (let i = 0; i < rows; i++) {
        const wanted = matrix[tokens - rows + i].map((value) => (asked ? value : 0));
        assertNear(row(view.window, head * rows + i), wanted, tolerance, `window ${head} ${i}`);
      }
    }
    if (view.moments) {
      const from = tokens - rows;
      const squares = (column: number[]): number => sum(column.map((value) => value * value));
      assertNear(row(view.moments, 2 * head), columns(sum, from), tolerance * rows, `sums ${head}`);
      assertNear(
        row(view.moments, 2 * head + 1),
        columns(squares, from),
        tolerance * 2 * rows,
        `squares ${head}`,
      );
    }
  }
  if (view.windowRows !== undefined) assert.equal(view.windowRows, rows);
  if (view.entropy !== undefined) {
    const inside = attention
      .flatMap((m) => m.slice(-rows))
      .flatMap((r) => r.slice(0, Math.max(0, r.length - rows)));
    const wanted = -inside.reduce((total, a) => total + a * Math.log(a + 1e-10), 0);
    assert.ok(
      Math.abs(view.entropy - wanted) <= tolerance * heads * rows * 5,
      `entropy ${view.entropy} ${wanted}`,
    );
  }
  if (view.outputError !== undefined) {
    const wanted = step.outputErrors[layer];
    assert.ok(Math.abs(view.outputError - wanted) <= tolerance * 10, `error ${view.outputError} ${wanted}`);
  }
}

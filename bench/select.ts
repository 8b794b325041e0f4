/** What do choosing k of n scores and adding attention statistics up cost, a lane? */
import { Core, type Selection } from "../bindings/main.js";
import type { NativeKvShape } from "../native-host/executor/addon.js";
import { loadAddon } from "../native-host/executor/main.js";
import { RandomStream } from "../sim/random.js";
import { interleave, type Report, type Subject, type Timing } from "./measure.js";

export const title = "top-k of a lane's scores, and the kernels that add statistics up, by SIMD and without";

const SIZES = [256, 2048, 16384];
/** Query heads a lane, in the kernels that read rows. */
const GROUP = 2;
const CALLS = 50;
/**
 * At n = 2,048: how many times as fast as a typed-array sort topk is, and as the scalar build accumulate; the share of
 * attention that scoring and finding the victim may take.
 */
const BARS = { size: 2048, topk: 3, accumulate: 2, share: 0.15 } as const;

export async function run(report: Report): Promise<void> {
  const rounds = report.quick ? 6 : 60;
  for (const n of SIZES) {
    const simd = await subjects("core", n);
    const scalar = await subjects("core-scalar", n);
    const scores = randomScores(n);
    const k = Math.floor(n / 5);
    const topk = await interleave(
      [
        { ...simd.topk(scores, k), name: "quartermaster" },
        { ...scalar.topk(scores, k), name: "quartermaster/scalar" },
        sortedBy(n, "typed-array sort", (copy) => copy.sort()),
        sortedBy(n, "sort of indices", (copy) => {
          const order = Array.from(copy, (_, i) => i);
          order.sort((a, b) => copy[b] - copy[a] || b - a);
        }),
      ],
      rounds,
    );
    report.timings(`topk ${n}`, topk);
    if (n === BARS.size) atLeast(report, `topk ${n}`, topk, "typed-array sort", BARS.topk);
    for (const kernel of ["accumulate", "track", "argmin", "pool"] as const) {
      const timings = await interleave(
        [
          { ...simd[kernel](), name: "quartermaster" },
          { ...scalar[kernel](), name: "quartermaster/scalar" },
        ],
        rounds,
      );
      report.timings(`${kernel} ${n}`, timings);
      if (kernel === "accumulate" && n === BARS.size)
        atLeast(report, `accumulate ${n}`, timings, "quartermaster/scalar", BARS.accumulate);
    }
  }
  await shareOfAttention(report, rounds);
  report.note("one lane; rows of 2 query heads; topk keeps a fifth; us a call, through the bindings");
}

/** What a step of H2O costs beside the attention that it looks at: one lane, its rows copied in, summed up, the victim. */
async function shareOfAttention(report: Report, rounds: number): Promise<void> {
  const loaded = loadAddon();
  if ("reason" in loaded) return report.unmeasured("scoring and victim: share of attention", loaded.reason);
  const { addon } = loaded;
  const [n, headDim, blockSize] = [2048, 64, 16];
  const shape: NativeKvShape = {
    blocks: n / blockSize,
    layers: 1,
    kvHeads: 1,
    headDim,
    blockSize,
    kvType: "f32",
  };
  const kv = new Uint8Array(new Float32Array(n * 2 * headDim).map((_, i) => Math.sin(i)).buffer);
  const table = Uint32Array.from({ length: shape.blocks }, (_, i) => (i * 37) % shape.blocks);
  const queries = new Float32Array(GROUP * headDim).fill(0.1);
  const out = new Float32Array(queries.length);
  const [isa] = addon.isa().slice(-1);
  const core = await Core.create();
  const work = core.selection({ capacity: n, floats: GROUP * n });
  const plane = core.selection({ capacity: n }).scores;
  const rows = randomScores(GROUP * n);
  const layer = { rows, rowStride: n, heads: GROUP, lengths: [n], planeStride: n };
  const [scoring, attention] = await interleave(
    [
      {
        name: "quartermaster",
        operations: 20,
        run: () => {
          for (let i = 0; i < 20; i++) {
            work.accumulate(plane, layer, 1.0001);
            work.argmin(plane, { recentFrom: n - (n >> 2) });
          }
        },
      },
      {
        name: `attention of ${GROUP} heads (cpu/${isa})`,
        operations: 5,
        run: () => {
          for (let i = 0; i < 5; i++)
            addon.kernels.attention(isa, kv, shape, 0, table, n - 1, GROUP, 0, queries, out);
        },
      },
    ],
    rounds,
  );
  report.timings(`scoring and victim ${n}`, [scoring, attention]);
  report.measured(
    `scoring and victim ${n}`,
    "quartermaster",
    "share of attention",
    scoring.medianUs / attention.medianUs,
    "ratio",
    { headDim, heads: GROUP, isa },
  );
  report.bar(
    `scoring and victim ${n}: share of attention`,
    scoring.medianUs / attention.medianUs,
    "<",
    BARS.share,
  );
}

/** Ours is the first of `timings`. */
function atLeast(report: Report, name: string, timings: readonly Timing[], peer: string, bar: number): void {
  const [ours, ...others] = timings;
  const speedup = others.find((timing) => timing.name === peer)!.medianUs / ours.medianUs;
  report.bar(`${name}: times as fast as ${peer}`, speedup, ">=", bar);
}

function randomScores(n: number): Float32Array {
  const random = new RandomStream(n);
  return Float32Array.from({ length: n }, () => random.uniform() ** 4);
}

function sortedBy(n: number, name: string, sort: (copy: Float32Array) => void): Subject {
  const scores = randomScores(n);
  return {
    name,
    operations: 5,
    run: () => {
      for (let i = 0; i < 5; i++) sort(scores.slice());
    },
  };
}

type Timed = Omit<Subject, "name">;

async function subjects(build: "core" | "core-scalar", n: number) {
  const core = await Core.create({ build });
  const work = core.selection({ capacity: n, floats: GROUP * n });
  const planes: Selection = core.selection({ capacity: n, floats: n });
  work.rows.set(randomScores(GROUP * n));
  const layer = { rows: work.rows, rowStride: n, heads: GROUP, lengths: [n], planeStride: n };
  const [score, other] = [planes.scores, planes.rows];
  const words = (plane: Float32Array): Uint32Array => new Uint32Array(plane.buffer, plane.byteOffset, n);
  const repeat = (call: (i: number) => void): Timed => ({
    operations: CALLS,
    run: () => {
      for (let i = 0; i < CALLS; i++) call(i);
    },
  });
  return {
    topk: (scores: Float32Array, k: number): Timed => {
      score.set(scores);
      return repeat(() => work.topk(score, k));
    },
    accumulate: (): Timed => repeat(() => work.accumulate(score, layer, 1.0001)),
    track: (): Timed => repeat((i) => work.track(words(score), words(other), layer, 0.05, 100 + i)),
    argmin: (): Timed => repeat(() => work.argmin(score, { recentFrom: n - (n >> 3) })),
    pool: (): Timed => repeat(() => work.pool(score, other, n, [n], 5)),
  };
}

/** How fast is the forward pass, and how close are the matrix kernels to what the machine can do? */
import { Core, type Executor, type RowContext } from "../bindings/main.js";
import { loadAddon, openModel } from "../native-host/executor/main.js";
import { fileURLToPath } from "node:url";
import { median, type Report } from "./measure.js";

export const title =
  "prefill and decode of the embedded model; matrix kernels against peak FLOP/s and copy bandwidth";

const MODEL = fileURLToPath(new URL("../../native-host/models/tiny-retrieval", import.meta.url));
const GREEDY: RowContext = {
  sampling: { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 },
  tokens: new Uint32Array(0),
  generated: 0,
};

/** Tokens a second: one prompt of 512 tokens prefilled, then `rows` sequences decoding. */
async function modelRates(executor: Executor, rounds: number): Promise<{ prefill: number; decode: number }> {
  const rows = 16;
  const core = await Core.create();
  const cache = core.kvCache({
    blocks: 1024,
    maxSequences: rows,
    maxSequenceTokens: 1024,
    prefixCache: false,
  });
  const scheduler = core.scheduler({
    cache,
    vocabSize: 64,
    maxRunning: rows,
    maxBatchTokens: 512,
    maxRequests: rows,
  });
  const tokens = Array.from({ length: 512 }, (_, i) => 3 + ((i * 7) % 40));
  const prefill: number[] = [];
  const decode: number[] = [];
  for (let i = 0; i < rows; i++) scheduler.submit({ tokens, maxNewTokens: rounds + rows + 1 });
  for (let round = 0; round < rows + rounds; round++) {
    const plan = scheduler.step(round);
    const start = performance.now();
    const result = await executor.run(plan, () => GREEDY);
    const seconds = (performance.now() - start) / 1000;
    if (plan.decodeRows === rows) decode.push(rows / seconds);
    else if (plan.decodeRows === 0) prefill.push(plan.totalTokens / seconds);
    else prefill.push((plan.totalTokens - plan.decodeRows) / seconds);
    scheduler.commit(plan.stepId, round, { tokens: result.tokens });
  }
  return { prefill: median(prefill), decode: median(decode) };
}

export async function run(report: Report): Promise<void> {
  const loaded = loadAddon();
  const rates = new Map<string, { prefill: number; decode: number }>();
  for (const backend of ["cpu", "wasm"] as const) {
    if (backend === "cpu" && "reason" in loaded) {
      report.note(`native skipped: ${loaded.reason}`);
      continue;
    }
    const { executor } = await openModel(MODEL, { backend, blocks: 1024 });
    const rate = await modelRates(executor, report.quick ? 10 : 150);
    rates.set(backend, rate);
    const subject = `quartermaster/${executor.describe().backend}`;
    report.measured("prefill 512", subject, "throughput", rate.prefill, "tokens/s");
    report.measured("decode 16 rows", subject, "throughput", rate.decode, "tokens/s");
    await executor.close();
  }
  const [native, wasm] = [rates.get("cpu"), rates.get("wasm")];
  if (native && wasm) {
    report.compared("prefill 512", "quartermaster/wasm", native.prefill / wasm.prefill);
    report.compared("decode 16 rows", "quartermaster/wasm", native.decode / wasm.decode);
  }
  if ("addon" in loaded) matrixKernels(report, loaded.addon);
}

type Addon = Extract<ReturnType<typeof loadAddon>, { addon: unknown }>["addon"];

/** One thread: a product of many tokens against peak, a product of one token against a plain copy. */
function matrixKernels(report: Report, { kernels, isa }: Addon): void {
  const widest = isa()[isa().length - 1];
  const time = (run: () => void): number => {
    run();
    const samples = Array.from({ length: report.quick ? 3 : 15 }, () => {
      const start = performance.now();
      run();
      return (performance.now() - start) / 1000;
    });
    return median(samples);
  };
  const width = 1024;
  const many = 128;
  const weight = new Uint8Array(new Float32Array(width * width).fill(0.01).buffer);
  const x = new Float32Array(many * width).fill(0.5);
  const out = new Float32Array(many * width);
  const seconds = time(() => kernels.matmul(widest, x, weight, "f32", width, null, out));
  const flops = (2 * many * width * width) / seconds;
  report.measured(
    `matmul ${many}x${width}x${width}`,
    `quartermaster/${widest}`,
    "throughput",
    flops / 1e9,
    "GFLOP/s",
  );
  report.measured(
    `matmul ${many}x${width}x${width}`,
    `quartermaster/${widest}`,
    "share of peak",
    flops / kernels.peakFlops(widest),
    "ratio",
  );

  const tall = 16384; // 64 MiB of f32: past the caches
  const matrix = new Uint8Array(new Float32Array(tall * width).fill(0.01).buffer);
  const one = new Float32Array(width).fill(0.5);
  const result = new Float32Array(tall);
  const vectorSeconds = time(() => kernels.matmul(widest, one, matrix, "f32", width, null, result));
  const read = matrix.length / vectorSeconds;
  const copied = kernels.copyBandwidth(64 * 2 ** 20);
  report.measured(`matvec ${tall}x${width}`, `quartermaster/${widest}`, "throughput", read / 1e9, "GB/s");
  report.measured(
    `matvec ${tall}x${width}`,
    `quartermaster/${widest}`,
    "share of copy",
    read / copied,
    "ratio",
  );
}

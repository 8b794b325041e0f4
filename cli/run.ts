/** quartermaster run: serves a workload through the scheduler and an executor, and reports. */
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { Build } from "../bindings/module.js";
import { Engine } from "../bindings/engine.js";
import { type StepReport } from "../bindings/engine-options.js";
import { createScheduler, recordLanes, recordScheduler, type SchedulerSetup } from "../bindings/record.js";
import { EVICTION_POLICIES, policyFromText } from "../bindings/eviction/create-policy.js";
import type { LaneArena } from "../bindings/eviction/lanes.js";
import { PlaneMask } from "../bindings/eviction/policy.js";
import type { Selection } from "../bindings/eviction/select.js";
import { invalidArgument } from "../bindings/errors.js";
import { type HostTierOptions, SWAP_IN } from "../bindings/host-tier.js";
import type { KvCache } from "../bindings/kv-cache.js";
import { POLICIES } from "../bindings/scheduler-options.js";
import { BACKENDS, openModel } from "../native-host/executor/main.js";
import { timelinePlot, type TimelineSample } from "../sim/plot.js";
import { formatReport, LatencyRecorder, type RunReport } from "../sim/report.js";
import { readTrace } from "../sim/traces.js";
import { applyTrace, readPrompts, type WorkloadRequest } from "../sim/workload.js";
import { choice, integer, positive } from "./options.js";
import { Progress } from "./progress.js";
import { RecordFile } from "./record-file.js";

export const RUN_HELP = `quartermaster run [options]

Serves a workload on a model with paged KV, prefix sharing and continuous batching, then reports. Without options:
the embedded model and its workload.

Model and workload
  --model DIR            Hugging Face directory: Llama, Mistral or Qwen2 (default: the embedded tiny-retrieval)
  --prompts FILE         JSON lines {"prompt", "answer"?, "maxNewTokens"?, "arrivalUs"?}, or a JSON file like the
                         embedded model's test_prompts.json (default: that)
  --trace FILE           arrival times from a Mooncake or Azure trace instead of seeded bursts
  --speed X              replay the trace X times as fast (default 1)
  --requests N           requests of the embedded workload, 190 to 10000 (default 240)
  --seed N               seed of the workload and of the core (default 1)

Cache and scheduler
  --blocks N             KV blocks (default 128)
  --block-size N         tokens a block, a power of two (default 16)
  --max-batch-tokens N   token budget of a step (default 256)
  --max-running N        requests running at a time (default 32)
  --policy NAME          ${POLICIES.join(", ")} (default priority)
  --no-prefix-cache      never reuse blocks
  --preemption NAME      recompute (default); swap: preempted requests go to host memory and back; auto: whichever costs
                         less
  --host-blocks N        blocks of host memory for swap and auto (default: as many as --blocks)
  --host-copies N        requests that may have something there at a time (default: all)
  --prefill-us X         auto: microseconds to compute a token, against the measured ones of a copy (default 250)
  --swap-in NAME         a request that is read back joins: async, the step after its blocks have arrived (default); sync, the
                         one that reads them, which waits; adaptive, as sync when the load is short or nobody else could run
  --block-runs N         keep the blocks of a request side by side, up to N reserved ahead (default: not)
  --evict POLICY         drop cached tokens while requests run, h2o:heavy=64,recent=64 or streaming-llm:ratio=0.2;
                         policies: ${EVICTION_POLICIES.join(", ")}

Execution
  --backend NAME         cpu (native addon), wasm, or auto (default: native where it was built)
  --build NAME           core, core-threads, core-scalar, debug (default core)
  --threads N            threads of the native kernels (default: cores)

Output
  --plot FILE            write an SVG timeline of blocks, batches and cache hits
  --record FILE          write everything that goes into the scheduler, for quartermaster replay
  --json                 print one JSON object on standard output`;

const EMBEDDED = fileURLToPath(new URL("../../native-host/models/tiny-retrieval", import.meta.url));

const OPTIONS = {
  model: { type: "string" },
  prompts: { type: "string" },
  trace: { type: "string" },
  speed: { type: "string" },
  requests: { type: "string" },
  seed: { type: "string" },
  blocks: { type: "string" },
  "block-size": { type: "string" },
  "max-batch-tokens": { type: "string" },
  "max-running": { type: "string" },
  policy: { type: "string" },
  "no-prefix-cache": { type: "boolean" },
  preemption: { type: "string" },
  "host-blocks": { type: "string" },
  "host-copies": { type: "string" },
  "prefill-us": { type: "string" },
  "swap-in": { type: "string" },
  "block-runs": { type: "string" },
  evict: { type: "string" },
  backend: { type: "string" },
  build: { type: "string" },
  threads: { type: "string" },
  plot: { type: "string" },
  record: { type: "string" },
  json: { type: "boolean" },
} as const;

type Values = ReturnType<typeof parseRunArgs>;

function parseRunArgs(args: string[]) {
  return parseArgs({ args, options: OPTIONS }).values;
}

async function loadWorkload(values: Values): Promise<WorkloadRequest[]> {
  const seed = integer("seed", values.seed, 1, 0, 2 ** 50);
  const requests = integer("requests", values.requests, 240, 190, 10_000);
  const text = await readFile(values.prompts ?? `${EMBEDDED}/test_prompts.json`, "utf8");
  const workload = readPrompts(text, { seed, requests });
  if (values.trace === undefined) return workload;
  return applyTrace(
    workload,
    readTrace(await readFile(values.trace, "utf8")),
    positive("speed", values.speed, 1),
  );
}

/** The token store hands out pages of 256 tokens. */
function wholePages(tokens: number): number {
  return Math.ceil(tokens / 256) * 256;
}

/** What requests that drop tokens need beside the cache: lanes with every plane, and room to choose in. */
function lanesFor(
  cache: KvCache,
  { layers, kvHeads, longest, maxRunning }: Record<"layers" | "kvHeads" | "longest" | "maxRunning", number>,
): { lanes: LaneArena; selection: Selection } {
  const selection = cache.core.selection({ capacity: 4 * kvHeads * longest });
  const planes = Object.values(PlaneMask).reduce((all, bit) => all | bit, 0);
  const lanes = cache.core.laneArena({
    cache,
    layers,
    kvHeads,
    capacity: longest,
    planes,
    sequences: maxRunning,
  });
  return { lanes, selection };
}

const PREEMPTIONS = ["recompute", "swap", "auto"] as const;

/** The host tier that the options ask for; undefined: preempted requests are computed again. */
function hostTierFor(values: Values, blocks: number, requests: number): HostTierOptions | undefined {
  const preemption = choice("preemption", values.preemption, "recompute", PREEMPTIONS);
  if (preemption === "recompute") {
    for (const name of ["host-blocks", "host-copies", "prefill-us", "swap-in"] as const)
      if (values[name] !== undefined)
        throw invalidArgument(`--${name}`, values[name], "only with --preemption swap or auto");
    return undefined;
  }
  return {
    preemption,
    blocks: integer("host-blocks", values["host-blocks"], blocks, 1, 2 ** 24),
    copies: integer("host-copies", values["host-copies"], requests, 1, requests),
    prefillUs: positive("prefill-us", values["prefill-us"], 250),
    swapIn: choice("swap-in", values["swap-in"], "async", SWAP_IN),
  };
}

export interface Answer {
  readonly request: WorkloadRequest;
  readonly text: string;
}

/** Runs the workload and returns its report, the answers in order, and the timeline. */
export async function serve(
  values: Values,
  workload: readonly WorkloadRequest[],
): Promise<{ report: RunReport; answers: Answer[]; timeline: TimelineSample[]; note: string | undefined }> {
  const blocks = integer("blocks", values.blocks, 128, 1, 2 ** 27);
  const blockSize = integer("block-size", values["block-size"], 16, 1, 256);
  const maxBatchTokens = integer("max-batch-tokens", values["max-batch-tokens"], 256, 1, 2 ** 22);
  const maxRunning = Math.min(maxBatchTokens, integer("max-running", values["max-running"], 32, 1, 2 ** 20));
  const build = choice<Build>("build", values.build, "core", [
    "core",
    "core-threads",
    "core-scalar",
    "debug",
  ]);
  const policy = choice("policy", values.policy, "priority", POLICIES);
  const hostTier = hostTierFor(values, blocks, workload.length);
  const hostBlocks = hostTier?.blocks ?? 0;
  const reserve = integer("block-runs", values["block-runs"], 0, 1, blocks);
  const model = await openModel(values.model ?? EMBEDDED, {
    blocks,
    blockSize,
    backend: choice("backend", values.backend, "auto", BACKENDS),
    hostBlocks,
    threads: integer("threads", values.threads, 0, 0, 64),
  });
  const { layers, kvHeads, maxSequenceTokens, vocabSize, backend } = model.executor.describe();
  const prompts = workload.map((request) => model.tokenizer.encode(request.text));
  const setup: SchedulerSetup = {
    seed: integer("seed", values.seed, 1, 0, 2 ** 50),
    cache: {
      blocks,
      blockSize,
      maxSequences: maxRunning,
      maxSequenceTokens,
      prefixCache: !values["no-prefix-cache"],
      ...(reserve > 0 && { blockRuns: { reserve } }),
    },
    scheduler: {
      vocabSize,
      maxRequests: workload.length,
      maxRunning,
      maxBatchTokens,
      policy,
      ...(hostTier && { hostTier }),
      tokenCapacity: prompts.reduce(
        (sum, tokens, i) => sum + wholePages(tokens.length + workload[i].maxNewTokens),
        0,
      ),
    },
  };
  const record = values.record === undefined ? undefined : new RecordFile(values.record);
  const scheduler =
    record === undefined
      ? await createScheduler(setup, { build })
      : await recordScheduler(setup, (line) => record.write(line), { build });
  const { core, cache } = scheduler;

  const longest = prompts.reduce(
    (most, { length }, i) => Math.max(most, length + workload[i].maxNewTokens),
    1,
  );
  const room =
    values.evict === undefined ? undefined : lanesFor(cache, { layers, kvHeads, longest, maxRunning });
  if (record !== undefined && room !== undefined) recordLanes(scheduler, room.lanes);

  const timeline: TimelineSample[] = [];
  const latency = new LatencyRecorder();
  const progress = new Progress();
  let preemptions = 0;
  let peakBlocks = 0;
  let finished = 0;
  const startUs = performance.now() * 1000;
  const onStep = (step: StepReport): void => {
    const { hitTokens, queriedTokens } = cache.stats();
    const usedBlocks = blocks - step.freeBlocks - step.evictableBlocks;
    preemptions += step.preempted;
    peakBlocks = Math.max(peakBlocks, usedBlocks);
    timeline.push({
      tUs: step.startUs - startUs,
      usedBlocks,
      evictableBlocks: step.evictableBlocks,
      decodeTokens: step.decodeTokens,
      prefillTokens: step.prefillTokens,
      hitTokens,
      queriedTokens,
      preemptions: step.preempted,
    });
    const hitRate = queriedTokens === 0 ? 0 : hitTokens / queriedTokens;
    progress.update(step, {
      tokens: latency.tokens,
      finished,
      requests: workload.length,
      usedBlocks,
      blocks,
      hitRate,
    });
  };
  const engine = new Engine({
    scheduler,
    executor: model.executor,
    eosTokenIds: model.config.eosTokenIds,
    detokenizer: () => model.tokenizer.detokenizer(),
    onStep,
    ...(room && { lanes: room.lanes }),
  });
  const answer = async (request: WorkloadRequest, index: number): Promise<Answer> => {
    const arrivalUs = startUs + request.arrivalUs;
    let text = "";
    const tokens = prompts[index];
    const evict = room && policyFromText(room.selection, values.evict!);
    const { maxNewTokens } = request;
    for await (const event of engine.generate({ tokens, maxNewTokens, arrivalUs, ...(evict && { evict }) })) {
      text += event.text;
      latency.token(request.id, arrivalUs, event.timeUs);
    }
    finished += 1;
    return { request, text };
  };
  let answers: Answer[];
  try {
    answers = await Promise.all(workload.map(answer));
  } finally {
    progress.end();
    await engine.close();
    record?.close();
  }
  const seconds = (performance.now() * 1000 - startUs) / 1e6;
  core.validate();
  const judged = answers.filter(({ request }) => (request.golden ?? request.answer) !== undefined);
  const { hitTokens, queriedTokens } = cache.stats();
  const report: RunReport = {
    requests: answers.length,
    correct: judged.filter(({ request, text }) => text.startsWith((request.golden ?? request.answer)!))
      .length,
    expected: judged.length,
    tokensPerSecond: latency.tokens / seconds,
    ttftMs: latency.ttftMs,
    tbtMs: latency.tbtMs,
    prefixHitRate: queriedTokens === 0 ? 0 : hitTokens / queriedTokens,
    preemptions,
    peakBlocks,
    blocks,
    backend,
    build,
  };
  return { report, answers, timeline, note: model.fallbackReason };
}

export async function run(args: string[]): Promise<void> {
  const values = parseRunArgs(args);
  const workload = await loadWorkload(values);
  const { report, timeline, note } = await serve(values, workload);
  if (values.plot !== undefined) {
    const title = `quartermaster: ${report.requests} requests, ${report.blocks} blocks, ${report.backend}`;
    await writeFile(values.plot, timelinePlot(timeline, { title, blocks: report.blocks }));
  }
  if (values.json) {
    console.log(JSON.stringify(report));
    return;
  }
  if (note !== undefined) console.log(`wasm kernels: ${note}`);
  console.log(formatReport(report));
  if (values.plot !== undefined) console.log(`  timeline              ${values.plot}`);
  if (values.record !== undefined) console.log(`  record                ${values.record}`);
}

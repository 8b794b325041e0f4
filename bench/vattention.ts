/**
 * Virtually contiguous KV memory against its alternatives, on the lengths of a real trace: static slots, block tables, and
 * itself without mapping ahead or without keeping pages ("vAttention", arXiv 2405.04437). Bookkeeping alone, and with
 * real mappings where the native addon is there.
 */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Core } from "../bindings/core.js";
import type { VirtualMemoryOptions } from "../bindings/virtual-memory.js";
import { loadAddon } from "../native-host/executor/addon.js";
import { MappedKVMemory } from "../native-host/executor/mapped-kv-memory.js";
import { type LoopFigures, type LoopPolicy, type LoopRequest, runLoop } from "../sim/virtual-loop.js";
import { readAzureTrace } from "../sim/traces.js";
import type { Report } from "./measure.js";

export const title = "memory, waiting and batch of virtually contiguous KV memory, and of its alternatives";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const DATA = join(process.env.QUARTERMASTER_DATA ?? join(ROOT, "..", "shared"), "data");
const TRACE = join(DATA, "azure", "AzureLLMInferenceTrace_conv.csv");

const REQUESTS = 500;
const MOST_TOKENS = 8192;
/** Llama-3-8B in 16 bits: 32 layers, K and V of a layer 2,048 bytes a token. */
const LAYERS = 32;
const TOKEN_BYTES = 2048;
const SLOTS = 64;
const PAGE = 65536;
/** Of what all slots at full length would take. */
const BUDGET = 0.3;
const EAGER_BLOCKS = 2;

const SHAPE: VirtualMemoryOptions = {
  slots: SLOTS,
  maxTokens: MOST_TOKENS,
  tokenBytes: TOKEN_BYTES,
  tensors: 2 * LAYERS,
  pageBytes: PAGE,
  blocks: Math.floor((BUDGET * SLOTS * MOST_TOKENS * TOKEN_BYTES) / PAGE),
};

const OURS: LoopPolicy = { background: true, unmapOnFree: false };
const SYNC: LoopPolicy = { background: false, unmapOnFree: true };
const NOT_AHEAD: LoopPolicy = { background: false, unmapOnFree: false };

/** All at once: as many as fit are wanted at any time. */
function traceRequests(): LoopRequest[] {
  return readAzureTrace(readFileSync(TRACE, "utf8"))
    .slice(0, REQUESTS)
    .map(({ promptTokens, newTokens }) => {
      const prompt = Math.min(Math.max(1, promptTokens), MOST_TOKENS - 1);
      return { arrival: 0, promptTokens: prompt, newTokens: Math.min(newTokens, MOST_TOKENS - prompt) };
    });
}

/** Lengths within a tenth of each other. */
function similarRequests(): LoopRequest[] {
  return Array.from({ length: REQUESTS }, (_, i) => ({
    arrival: 0,
    promptTokens: 950 + ((i * 37) % 100),
    newTokens: 50,
  }));
}

async function figuresOf(
  requests: readonly LoopRequest[],
  policy: LoopPolicy,
  shape = SHAPE,
): Promise<LoopFigures> {
  const memory = (await Core.create()).virtualMemory(shape);
  const figures = await runLoop(memory, requests, policy);
  memory.validate();
  return figures;
}

/** Bytes mapped behind the last tokens and not used by them, mean over requests at their full length. */
function internalWaste(
  requests: readonly LoopRequest[],
  tensors: number,
  tokenBytes: number,
  page: number,
): number {
  const waste = requests.map(({ promptTokens, newTokens }) => {
    const bytes = (promptTokens + newTokens) * tokenBytes;
    return tensors * (Math.ceil(bytes / page) * page - bytes);
  });
  return waste.reduce((sum, bytes) => sum + bytes, 0) / waste.length;
}

export async function run(report: Report): Promise<void> {
  if (!existsSync(TRACE)) {
    console.error(
      `vattention: skipped, ${TRACE} is not there (QUARTERMASTER_DATA names the folder above data/)`,
    );
    return;
  }
  const requests = traceRequests();
  const name = `azure-conv/${REQUESTS}`;
  const subjects = {
    quartermaster: await figuresOf(requests, OURS),
    "vattn-sync": await figuresOf(requests, SYNC),
    "eagerSteps 0": await figuresOf(requests, OURS, { ...SHAPE, eagerSteps: 0 }),
  };
  for (const [subject, figures] of Object.entries(subjects))
    for (const [metric, unit] of METRICS) report.measured(name, subject, metric, figures[metric], unit);
  const { quartermaster: ours, "vattn-sync": sync, "eagerSteps 0": notAhead } = subjects;
  // Slots of full length within the same budget.
  const staticBatch = Math.floor(BUDGET * SLOTS);
  report.measured(name, "static", "peakBatch", staticBatch, "requests");
  for (const block of [16, 256]) {
    const { batch, waste } = pagedFigures(requests, block);
    report.measured(name, `paged, ${block} tokens`, "peakBatch", batch, "requests");
    report.measured(name, `paged, ${block} tokens`, "waste", (waste * TOKEN_BYTES) / PAGE, "KV blocks");
  }
  report.bar("batch over that of static slots", ours.peakBatch / staticBatch, ">=", 2);
  report.bar("worst waste of a slot, in KV blocks", ours.worstWaste, "<", 1 + EAGER_BLOCKS + 1);
  report.bar(
    "maps that decode steps wait for, over those of vattn-sync",
    ours.decodeWaits / sync.decodeWaits,
    "<",
    0.01 + 1e-9,
  );
  report.bar(
    "the same with eagerSteps 0: the check above can fail",
    notAhead.decodeWaits / sync.decodeWaits,
    ">=",
    0.01,
  );
  const similar = similarRequests();
  const kept = await figuresOf(similar, NOT_AHEAD);
  const given = await figuresOf(similar, SYNC);
  report.measured("similar lengths", "pages kept", "maps", kept.maps, "KV blocks");
  report.measured("similar lengths", "pages given up", "maps", given.maps, "KV blocks");
  report.bar("map calls saved by keeping pages, similar lengths", 1 - kept.maps / given.maps, ">=", 0.5);
  const large = 2 ** 21;
  const apart = internalWaste(requests, 2 * LAYERS, TOKEN_BYTES, large);
  const beside = internalWaste(requests, 2, TOKEN_BYTES * LAYERS, large);
  report.measured("page-groups of 2 MiB", "a tensor a layer", "internal waste", apart / 2 ** 20, "MiB");
  report.measured("page-groups of 2 MiB", "layers side by side", "internal waste", beside / 2 ** 20, "MiB");
  report.bar("waste saved by layers side by side", apart / beside, ">=", 0.8 * LAYERS);
  await mapped(report, requests);
}

const METRICS = [
  ["peakBatch", "requests"],
  ["waste", "KV blocks"],
  ["worstWaste", "KV blocks"],
  ["deferred", "KV blocks"],
  ["decodeWaits", "KV blocks"],
  ["prefillWaits", "KV blocks"],
  ["maps", "KV blocks"],
  ["unmaps", "KV blocks"],
  ["preemptions", "times"],
  ["iterations", "times"],
] as const satisfies readonly (readonly [keyof LoopFigures, string])[];

/** The same loop with block tables of the same budget: batch, and tokens of blocks that hold none. */
function pagedFigures(requests: readonly LoopRequest[], block: number): { batch: number; waste: number } {
  const budget = Math.floor((BUDGET * SLOTS * MOST_TOKENS) / block);
  const blocksOf = (tokens: number): number => Math.ceil(tokens / block);
  const waiting = [...requests];
  let running: { length: number; readonly request: LoopRequest }[] = [];
  let [batch, waste, rows] = [0, 0, 0];
  while (waiting.length > 0 || running.length > 0) {
    const used = (): number => running.reduce((sum, { length }) => sum + blocksOf(length), 0);
    while (
      waiting.length > 0 &&
      running.length < SLOTS &&
      used() + blocksOf(waiting[0].promptTokens + 1) + running.length <= budget
    ) {
      const request = waiting.shift()!;
      running.push({ length: request.promptTokens, request });
    }
    while (used() > budget) waiting.unshift(running.pop()!.request);
    batch = Math.max(batch, running.length);
    rows += running.length;
    for (const { length } of running) waste += blocksOf(length) * block - length;
    running = running.filter((state) => {
      state.length += 1;
      return state.length < state.request.promptTokens + state.request.newTokens;
    });
  }
  return { batch, waste: waste / rows };
}

/** Microseconds in map calls, on real ranges of four tensors (K and V of two layers). */
async function mapped(report: Report, requests: readonly LoopRequest[]): Promise<void> {
  const addon = loadAddon();
  if ("reason" in addon || process.platform !== "linux") {
    console.error(`vattention: nothing mapped, ${"reason" in addon ? addon.reason : "Linux only"}`);
    return;
  }
  for (const [subject, policy] of [
    ["quartermaster", OURS],
    ["vattn-sync", SYNC],
  ] as const) {
    const memory = (await Core.create()).virtualMemory({ ...SHAPE, tensors: 4 });
    const backend = MappedKVMemory.create(memory, addon.addon);
    const { iterations } = await runLoop(memory, requests.slice(0, report.quick ? 100 : REQUESTS), policy, {
      wait: (plan) => (plan.length > 0 ? backend.execute(plan) : undefined),
      beside: (plan) => (plan.length > 0 ? backend.executeAsync(plan) : Promise.resolve()),
    });
    const { waited, beside } = backend.costs;
    report.measured("mapped, 4 tensors", subject, "waited", waited.us / iterations, "us/iteration");
    report.measured("mapped, 4 tensors", subject, "beside", beside.us / iterations, "us/iteration");
    const calls = waited.calls + beside.calls;
    report.measured("mapped, 4 tensors", subject, "call", (waited.us + beside.us) / calls, "us");
    backend.close();
  }
}

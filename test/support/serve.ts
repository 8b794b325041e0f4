/** Serves the embedded workload once under a configuration and gives every request's tokens. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  type Build,
  Core,
  Engine,
  type Executor,
  type HostTierOptions,
  type HostTierStats,
  type KvCacheStats,
  promptLookup,
  type SamplingOptions,
} from "../../bindings/main.js";
import { type Backend, openModel } from "../../native-host/executor/main.js";
import { buildWorkload, type WorkloadRequest } from "../../sim/workload.js";
import { TINY_RETRIEVAL } from "./package-root.js";

export interface Configuration {
  backend?: Backend;
  build?: Build;
  blocks?: number;
  blockSize?: number;
  prefixCache?: boolean;
  partialReuse?: number;
  maxBatchTokens?: number;
  maxRunning?: number;
  /** Blocks of host memory for preempted requests. */
  hostBlocks?: number;
  swapIn?: HostTierOptions["swapIn"];
  /** Changes what the executor does. */
  tamper?: (executor: Executor) => void;
  /** Most drafts a step, guessed by prompt lookup. */
  maxDraftTokens?: number;
  sampling?: SamplingOptions;
}

export interface Served {
  /** Tokens generated for each request, as text of ids. */
  readonly tokens: string[];
  readonly texts: string[];
  readonly preemptions: number;
  readonly steps: number;
  readonly swapped: HostTierStats | undefined;
  readonly drafted: { readonly fed: number; readonly right: number };
  readonly stats: KvCacheStats;
}

export function embeddedWorkload(): WorkloadRequest[] {
  const text = readFileSync(join(TINY_RETRIEVAL, "test_prompts.json"), "utf8");
  return buildWorkload((JSON.parse(text) as { prompts: [] }).prompts, {});
}

export async function serveOnce(
  workload: readonly WorkloadRequest[],
  configuration: Configuration,
): Promise<Served> {
  const { blocks = 2048, blockSize = 16, maxBatchTokens = 256, prefixCache = true } = configuration;
  const maxRunning = Math.min(configuration.maxRunning ?? 32, maxBatchTokens);
  const model = await openModel(TINY_RETRIEVAL, {
    backend: configuration.backend ?? "wasm",
    blocks,
    blockSize,
    ...(configuration.hostBlocks && { hostBlocks: configuration.hostBlocks }),
  });
  configuration.tamper?.(model.executor);
  const core = await Core.create({ build: configuration.build });
  const cache = core.kvCache({
    blocks,
    blockSize,
    maxSequences: maxRunning,
    maxSequenceTokens: 1024,
    prefixCache,
    partialReuse: configuration.partialReuse,
  });
  const scheduler = core.scheduler({
    cache,
    vocabSize: 64,
    maxRequests: workload.length,
    maxRunning,
    maxBatchTokens,
    tokenCapacity: workload.length * 1024,
    ...(configuration.hostBlocks && {
      hostTier: { blocks: configuration.hostBlocks, swapIn: configuration.swapIn },
    }),
    maxDraftTokens: configuration.maxDraftTokens ?? 0,
  });
  let preemptions = 0;
  let steps = 0;
  const engine = new Engine({
    scheduler,
    executor: model.executor,
    detokenizer: () => model.tokenizer.detokenizer(),
    ...(configuration.maxDraftTokens && { drafter: promptLookup() }),
    onStep: (report) => {
      preemptions += report.preempted;
      steps += 1;
    },
  });
  const results = await Promise.all(
    workload.map(async (request) => {
      const tokens: number[] = [];
      let text = "";
      const prompt = model.tokenizer.encode(request.text);
      const { maxNewTokens } = request;
      const { sampling } = configuration;
      for await (const event of engine.generate({ tokens: prompt, maxNewTokens, sampling })) {
        tokens.push(event.token);
        text += event.text;
      }
      return { tokens: tokens.join(" "), text };
    }),
  );
  core.validate();
  const stats = cache.stats();
  const { drafted } = scheduler;
  await engine.close();
  return {
    tokens: results.map(({ tokens }) => tokens),
    texts: results.map(({ text }) => text),
    preemptions,
    steps,
    drafted,
    swapped: scheduler.hostTier,
    stats,
  };
}

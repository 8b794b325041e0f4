/**
 * The measured targets of the core, through the bindings alone, so that one file runs in Node and in Deno.
 * bench/anchors/anchors.c does the same in C: keep sizes and prompts equal.
 */
import process from "node:process";
import {
  Core,
  type KvCache,
  type KvCacheOptions,
  type Scheduler,
  type SchedulerOptions,
} from "../../bindings/main.js";

export interface Figure {
  readonly case: string;
  readonly median: number;
  readonly best: number;
  readonly unit: "us" | "ns" | "bytes";
}

const BLOCK = 16;
const RESIDENT = 1000;
const MATCHED = [64, 512, 4096];
/** Blocks of the contexts that waiting requests share, and tokens of their own behind them. */
const CONTEXTS = [64, 128, 256, 512];
const OWN = 40;

/** Whether caches and schedulers have every add-on that goes together: not cache groups and runs of blocks. */
let everything = false;

function newCache(core: Core, options: KvCacheOptions): KvCache {
  if (!everything) return core.kvCache(options);
  const { blocks } = options;
  return core.kvCache({
    ...options,
    evictionOrder: { kind: "s3-fifo", history: blocks },
    partialReuse: 8,
    tenants: 4,
    quotas: [{ tenant: 1, floor: 16 }],
    marks: 1024,
    pins: { capacity: 64 },
    contentKeys: { domainKey: new Uint8Array(32).fill(7), fingerprint: new Uint8Array(32).fill(9) },
    events: { ring: 4096 },
  });
}

function newScheduler(core: Core, options: SchedulerOptions): Scheduler {
  if (!everything) return core.scheduler(options);
  return core.scheduler({ ...options, tenants: 4, maxDraftTokens: 4, hostTier: { blocks: 4096 } });
}

/** Token ids of a prompt; each seed has its own. */
export function prompt(seed: number, tokens: number): Uint32Array {
  let state = (Math.imul(seed, 2654435761) + 1) >>> 0;
  return Uint32Array.from({ length: tokens }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state % 32000;
  });
}

/** CPU time of the process, which other work on the machine stretches less than the clock on the wall. */
function cpuUs(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}

/** Microseconds of each of `rounds` runs, after a third as many that are not counted. */
function sample(rounds: number, run: () => void, prepare: () => void = () => {}): number[] {
  const times: number[] = [];
  for (let round = -Math.ceil(rounds / 3); round < rounds; round++) {
    prepare();
    const start = cpuUs();
    run();
    const us = cpuUs() - start;
    if (round >= 0) times.push(us);
  }
  return times.sort((a, b) => a - b);
}

function figure(
  name: string,
  times: readonly number[],
  operations: number,
  unit: "us" | "ns" = "us",
): Figure {
  const scale = (unit === "ns" ? 1000 : 1) / operations;
  return { case: name, median: times[times.length >> 1] * scale, best: times[0] * scale, unit };
}

async function match(rounds: number): Promise<Figure[]> {
  const blocks = RESIDENT * 64 + MATCHED.reduce((sum, size) => sum + size, 0) + 64;
  const core = await Core.create();
  const cache = newCache(core, {
    blocks,
    blockSize: BLOCK,
    maxSequences: RESIDENT + 8,
    maxSequenceTokens: 4097 * BLOCK,
  });
  const add = (tokens: Uint32Array): void => {
    const sequence = cache.open({ tokens });
    cache.reserve(sequence, tokens.length);
    cache.append(sequence, tokens);
  };
  for (let i = 0; i < RESIDENT; i++) add(prompt(i + 10_000, 64 * BLOCK));
  return MATCHED.map((size) => {
    const tokens = prompt(size, size * BLOCK + 1);
    add(tokens.subarray(0, size * BLOCK));
    const repeat = Math.max(1, 8192 / size);
    const times = sample(rounds, () => {
      for (let k = 0; k < repeat; k++)
        if (cache.match(tokens) !== size * BLOCK) throw new Error("the prefix was missed");
    });
    return figure(`match ${size} blocks`, times, repeat);
  });
}

async function allocateFree(rounds: number): Promise<Figure> {
  const core = await Core.create();
  const cache = newCache(core, {
    blocks: 65536,
    blockSize: BLOCK,
    maxSequences: 64,
    maxSequenceTokens: 16384,
  });
  const times = sample(rounds, () => {
    for (let i = 0; i < 128; i++) {
      const sequence = cache.open({ tokens: [], private: true });
      cache.reserve(sequence, 64 * BLOCK);
      cache.close(sequence);
    }
  });
  return figure("allocate and free, a block", times, 128 * 64, "ns");
}

async function decode(rounds: number): Promise<Figure> {
  const running = 1024;
  const maxNewTokens = rounds * 2 + 16;
  const maxSequenceTokens = 1024 + maxNewTokens;
  const core = await Core.create();
  const blocks = running * Math.ceil(maxSequenceTokens / BLOCK);
  const scheduler = newScheduler(core, {
    cache: newCache(core, { blocks, blockSize: BLOCK, maxSequences: running, maxSequenceTokens }),
    vocabSize: 32000,
    maxRequests: running,
    maxRunning: running,
    maxBatchTokens: 1 << 16,
    tokenCapacity: running * (maxSequenceTokens + 256),
  });
  for (let i = 0; i < running; i++) scheduler.submit({ tokens: prompt(i, 1024), maxNewTokens });
  const sampled = new Uint32Array(running).fill(5);
  const unfinished = new Uint8Array(running);
  let now = 0;
  const step = (): number => {
    const plan = scheduler.step(now++);
    const rows = plan.samplingRows;
    scheduler.commit(plan.stepId, now, {
      tokens: sampled.subarray(0, rows),
      finished: unfinished.subarray(0, rows),
    });
    return plan.decodeRows;
  };
  while (step() < running);
  return figure("decode step of 1,024", sample(rounds, step), 1);
}

async function admit(rounds: number): Promise<Figure> {
  const core = await Core.create();
  const cache = newCache(core, { blocks: 8192, blockSize: BLOCK, maxSequences: 64, maxSequenceTokens: 2048 });
  const scheduler = newScheduler(core, { cache, vocabSize: 32000, maxRequests: 64, maxRunning: 64 });
  const tokens = prompt(3, 64 * BLOCK + 8);
  const results = { tokens: new Uint32Array(1).fill(5), finished: new Uint8Array(1).fill(1) };
  let now = 0;
  const times = sample(rounds, () => {
    for (let i = 0; i < 50; i++) {
      scheduler.submit({ tokens, maxNewTokens: 4 });
      const { stepId } = scheduler.step(now++);
      scheduler.commit(stepId, now, results);
    }
  });
  return figure("admit with 64 blocks cached", times, 50);
}

/** Nothing is cached and everybody stands in order of arrival; then the contexts are, and the next step orders all. */
async function order(rounds: number, waiting: number): Promise<Figure> {
  const core = await Core.create();
  const cache = newCache(core, { blocks: 2048, blockSize: BLOCK, maxSequences: 16, maxSequenceTokens: 8448 });
  const scheduler = newScheduler(core, {
    cache,
    vocabSize: 32000,
    policy: "longest-prefix",
    maxRunning: 1,
    maxBatchTokens: 8448,
    maxRequests: waiting,
    tokenCapacity: waiting * 4096,
  });
  const contexts = CONTEXTS.map((blocks, i) => prompt(i + 1, blocks * BLOCK));
  for (let i = 0; i < waiting; i++) {
    const context = contexts[i % CONTEXTS.length];
    const tokens = new Uint32Array(context.length + OWN);
    tokens.set(context);
    tokens.set(prompt(i + 100, OWN), context.length);
    scheduler.submit({ tokens, maxNewTokens: 1 });
  }
  let now = 0;
  const step = (): number => scheduler.step(now++).stepId;
  let planned = 0;
  const prepare = (): void => {
    if (planned) scheduler.abandon(planned);
    cache.forget();
    scheduler.abandon(step());
    for (const tokens of contexts) {
      const sequence = cache.open({ tokens });
      cache.reserve(sequence, tokens.length);
      cache.append(sequence, tokens);
      cache.close(sequence);
    }
  };
  const times = sample(rounds, () => (planned = step()), prepare);
  return figure(`order ${waiting.toLocaleString("en")} waiting`, times, 1);
}

/** Memory grows by pages of 64 KiB: a difference over almost 2^20 blocks is right to a tenth of a byte. */
async function bytesPerBlock(): Promise<Figure> {
  const [small, large] = [1 << 16, 1 << 20];
  const bytes = async (blocks: number): Promise<number> => {
    const core = await Core.create();
    newCache(core, { blocks, blockSize: BLOCK, maxSequences: 64, maxSequenceTokens: 4096 });
    return core.memory.buffer.byteLength;
  };
  const each = ((await bytes(large)) - (await bytes(small))) / (large - small) - 4 * BLOCK;
  return { case: "bytes a cached block", median: each, best: each, unit: "bytes" };
}

/** Every case once. `quick`: fewer rounds, fewer waiting. `withAddOns`: caches and schedulers have them all. */
export async function measureAnchors(quick: boolean, withAddOns: boolean): Promise<Figure[]> {
  everything = withAddOns;
  // A round is a fraction of a millisecond: of few a compiler would still be at work on most.
  const rounds = quick ? 5 : 300;
  return [
    ...(await match(rounds)),
    await allocateFree(rounds),
    await decode(quick ? 12 : 120),
    await admit(rounds),
    await order(quick ? 2 : 10, quick ? 256 : 4096),
    await bytesPerBlock(),
  ];
}

/** How long does it take to put thousands of waiting requests in order of their cached prefixes? */
import { Core } from "../bindings/main.js";
import { breathe, median, type Report } from "./measure.js";
import { MapCache } from "./peer/map-cache.js";
import { MapScheduler } from "./peer/map-scheduler.js";

export const title =
  "a step that orders the waiting requests by cached prefix and admits one: median and worst";

const BLOCK = 16;
/** Shared contexts, in blocks; waiting requests take turns. */
const CONTEXTS = [0, 4, 16, 64, 128];
/** Tokens of a request behind its context. */
const OWN = 40;

export async function run(report: Report): Promise<void> {
  for (const waiting of report.quick ? [256] : [256, 1024, 4096]) await ordered(report, waiting);
}

function promptOf(request: number): number[] {
  const context = request % CONTEXTS.length;
  const shared = Array.from({ length: CONTEXTS[context] * BLOCK }, (_, i) => (i * 31 + context) % 32000);
  return [...shared, ...Array.from({ length: OWN }, (_, i) => (request * 7919 + i) % 32000)];
}

async function ordered(report: Report, waiting: number): Promise<void> {
  const shape = { blocks: 4096, blockSize: BLOCK, maxSequences: 64, maxSequenceTokens: 4096 };
  const options = { maxRunning: 1, maxBatchTokens: 4096, maxChunkTokens: 0, watermarkBlocks: 0 };
  const policy = "longest-prefix" as const;
  const core = await Core.create();
  const cache = core.kvCache(shape);
  const scheduler = core.scheduler({
    ...options,
    policy,
    cache,
    vocabSize: 32000,
    maxRequests: waiting,
    tokenCapacity: waiting * 2304,
  });
  const peerCache = new MapCache(shape);
  const peer = new MapScheduler({ ...options, policy, cache: peerCache });
  for (let request = 0; request < waiting; request++) {
    const options = { tokens: promptOf(request), maxNewTokens: 1 };
    scheduler.submit(options);
    peer.submit(options);
  }
  const contexts = CONTEXTS.map((blocks, i) => promptOf(i).slice(0, blocks * BLOCK));
  const fill = (): void => {
    for (const tokens of contexts) {
      const sequence = cache.open({ tokens: [] });
      cache.reserve(sequence, tokens.length);
      cache.append(sequence, tokens);
      cache.close(sequence);
      const twin = peerCache.openSequence([])!;
      peerCache.reserve(twin, tokens.length);
      peerCache.append(twin, tokens);
      peerCache.close(twin);
    }
  };
  const ours: number[] = [];
  const theirs: number[] = [];
  let now = 0;
  const step = (): [number, number] => {
    let start = performance.now();
    const { stepId } = scheduler.step(now);
    const oursUs = (performance.now() - start) * 1000;
    scheduler.abandon(stepId);
    start = performance.now();
    peer.step(now++);
    const theirsUs = (performance.now() - start) * 1000;
    peer.abandon();
    return [oursUs, theirsUs];
  };
  const rounds = report.quick ? 3 : 30;
  for (let round = -8; round < rounds; round++) {
    await breathe();
    // Nothing is cached, and everybody stands in order of arrival; then the contexts are, and nearly everybody moves.
    cache.forget();
    peerCache.forget();
    step();
    fill();
    const [oursUs, theirsUs] = step();
    if (round < 0) continue;
    ours.push(oursUs);
    theirs.push(theirsUs);
  }
  const name = `${waiting} waiting`;
  for (const [subject, times] of [
    ["quartermaster", ours],
    ["Map and arrays", theirs],
  ] as const) {
    report.measured(name, subject, "median", median(times), "us");
    report.measured(name, subject, "worst", Math.max(...times), "us");
  }
  report.compared(name, "Map and arrays", median(theirs) / median(ours));
}

/** What does it cost to admit one request whose first 64 blocks are cached? */
import { Core } from "../bindings/main.js";
import { interleave, type Report } from "./measure.js";
import { MapCache } from "./peer/map-cache.js";
import { MapScheduler } from "./peer/map-scheduler.js";

export const title = "submit, plan, commit and end one request with a 64-block hit";

export async function run(report: Report): Promise<void> {
  const shape = { blocks: 8192, blockSize: 16, maxSequences: 64, maxSequenceTokens: 2048 };
  const options = { maxRunning: 64, maxBatchTokens: 2048, maxChunkTokens: 0, watermarkBlocks: 0 };
  const core = await Core.create();
  const scheduler = core.scheduler({
    cache: core.kvCache(shape),
    vocabSize: 32000,
    maxRequests: 64,
    ...options,
  });
  const peer = new MapScheduler({ cache: new MapCache(shape), policy: "priority", ...options });
  const tokens = Uint32Array.from({ length: 64 * 16 + 8 }, (_, i) => (i * 31) % 32000);
  const list = Array.from(tokens);
  const sampled = new Uint32Array(1).fill(5);
  const last = new Uint8Array(1).fill(1);
  let now = 0;
  const ours = (): void => {
    scheduler.submit({ tokens, maxNewTokens: 4 });
    const plan = scheduler.step(now++);
    scheduler.commit(plan.stepId, now, { tokens: sampled, finished: last });
  };
  const theirs = (): void => {
    peer.submit({ tokens: list, maxNewTokens: 4 });
    peer.step(now);
    peer.commit(sampled, last);
  };
  const repeat = (run: () => void): (() => void) => {
    return () => {
      for (let i = 0; i < 50; i++) run();
    };
  };
  const timings = await interleave(
    [
      { name: "quartermaster", operations: 50, run: repeat(ours) },
      { name: "Map and arrays", operations: 50, run: repeat(theirs) },
    ],
    report.quick ? 5 : 60,
  );
  report.timings("64-block hit", timings);
  report.quoted("64-block hit", "vLLM v1 schedule, per request", "best", 87, "us");
}

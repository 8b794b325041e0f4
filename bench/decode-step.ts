/** What does a step cost when everybody decodes: plan and commit? */
import { Core } from "../bindings/main.js";
import { interleave, type Report } from "./measure.js";
import { MapCache } from "./peer/map-cache.js";
import { MapScheduler } from "./peer/map-scheduler.js";

export const title = "plan + commit of one decode step, 128, 512, 1,024 running sequences of 1,024 tokens";

const PROMPT = 1024;
const QUOTED: Readonly<Record<number, number>> = { 128: 1450, 512: 5600, 1024: 13600 };

export async function run(report: Report): Promise<void> {
  for (const running of [128, 512, 1024]) {
    const rounds = report.quick ? 12 : 200;
    const maxNewTokens = rounds * 2;
    const maxSequenceTokens = PROMPT + maxNewTokens;
    const blocks = running * Math.ceil(maxSequenceTokens / 16);
    const shape = { blocks, blockSize: 16, maxSequences: running, maxSequenceTokens };
    const options = { maxRunning: running, maxBatchTokens: 1 << 16, maxChunkTokens: 0, watermarkBlocks: 0 };
    const core = await Core.create();
    const scheduler = core.scheduler({
      cache: core.kvCache(shape),
      vocabSize: 32000,
      maxRequests: running,
      tokenCapacity: running * (maxSequenceTokens + 256),
      ...options,
    });
    const peer = new MapScheduler({ cache: new MapCache(shape), policy: "priority", ...options });
    for (let i = 0; i < running; i++) {
      const tokens = Array.from({ length: PROMPT }, (_, at) => (i * 7919 + at * 31) % 32000);
      scheduler.submit({ tokens, maxNewTokens });
      peer.submit({ tokens, maxNewTokens });
    }
    const sampled = new Uint32Array(running).fill(5);
    const unfinished = new Uint8Array(running);
    let now = 0;
    const ours = (): number => {
      const plan = scheduler.step(now++);
      scheduler.commit(plan.stepId, now, {
        tokens: sampled.subarray(0, plan.samplingRows),
        finished: unfinished.subarray(0, plan.samplingRows),
      });
      return plan.decodeRows;
    };
    const theirs = (): number => {
      const plan = peer.step(now);
      peer.commit(sampled, unfinished);
      return plan.rows.length;
    };
    while (ours() < running) theirs();
    const timings = await interleave(
      [
        { name: "quartermaster", operations: 1, run: ours },
        { name: "Map and arrays", operations: 1, run: theirs },
      ],
      rounds,
    );
    report.timings(String(running), timings);
    report.quoted(String(running), "vLLM v1 schedule + update_from_output", "best", QUOTED[running], "us");
  }
}

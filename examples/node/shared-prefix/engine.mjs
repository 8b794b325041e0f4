// The engine thread: it alone schedules, computes and writes the cache. Front ends send it prompts through ports of
// their own and read its cache without asking it.
import { parentPort, workerData } from "node:worker_threads";
import { Core, Engine } from "quartermaster";
import { CountingExecutor } from "../../counting-executor.mjs";

const { blocks, blockSize, stepMs } = workerData;
const vocabSize = 50_000;

/** An executor that keeps its thread busy for as long as a forward pass would. */
class BusyExecutor extends CountingExecutor {
  async run(plan) {
    for (const end = performance.now() + stepMs; performance.now() < end;);
    return super.run(plan);
  }
}

const core = await Core.create({ build: "core-threads" });
const cache = core.kvCache({ blocks, blockSize, sharedProbe: true });
const scheduler = core.scheduler({ cache, vocabSize, maxBatchTokens: 512 });
const engine = new Engine({ scheduler, executor: new BusyExecutor({ blocks, blockSize, vocabSize }) });

async function answer({ id, tokens, maxNewTokens, namespace }, port) {
  try {
    const generated = [];
    for await (const { token } of engine.generate({ tokens, maxNewTokens, namespace })) generated.push(token);
    port.postMessage({ id, generated });
  } catch (error) {
    port.postMessage({ id, error: String(error) });
  }
}

parentPort.on("message", async ({ frontEnd, close }) => {
  if (frontEnd) frontEnd.on("message", (request) => answer(request, frontEnd));
  if (!close) return;
  core.validate();
  parentPort.postMessage({ hitTokens: cache.stats().hitTokens });
  await engine.close();
  process.exit();
});
parentPort.postMessage({ shared: core.share() });

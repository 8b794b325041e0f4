// Prompts are computed in one thread and answered in another: K and V cross in between, so long prompts never hold up
// those who are being answered. Run: node examples/node/prefill-decode/main.mjs
//
// This thread keeps the blocks that cross. Between processes or machines the channel would be a socket's.
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { MessageChannel, Worker } from "node:worker_threads";
import { MemoryTier, serveTier } from "quartermaster/native-host";

const { prompts } = JSON.parse(
  readFileSync(
    new URL("../../../native-host/models/tiny-retrieval/test_prompts.json", import.meta.url),
    "utf8",
  ),
);
const asked = prompts.filter(({ task }) => task === "needle").slice(0, 8);

const tier = new MemoryTier({ capacityBytes: 2 ** 26 });
const start = async () => {
  const { port1, port2 } = new MessageChannel();
  serveTier(port1, tier);
  const worker = new Worker(new URL("engine.mjs", import.meta.url), {
    workerData: { blocks: port2 },
    transferList: [port2],
  });
  await once(worker, "message");
  return worker;
};
/** One job, one message back. */
const ask = async (worker, job) => {
  worker.postMessage(job);
  return (await once(worker, "message"))[0];
};

const [prefill, decode] = await Promise.all([start(), start()]);
let [right, taken, computed, prompted] = [0, 0, 0, 0];
let answering = Promise.resolve();
for (const { context, question, answer: expected } of asked) {
  const prompt = context + question;
  const { token } = await ask(prefill, { prompt, maxNewTokens: 1, send: true });
  // The next prompt is computed while this one is answered.
  answering = answering.then(async () => {
    const answer = await ask(decode, { prompt, given: token, maxNewTokens: expected.length - 1, take: true });
    right += answer.text === expected ? 1 : 0;
    taken += answer.taken;
    computed += answer.computed;
    prompted += prompt.length;
  });
}
await answering;
await Promise.all([prefill, decode].map((worker) => ask(worker, { close: true })));

console.log(
  `${right} of ${asked.length} answers right; of ${prompted} prompt tokens the answering engine took over ${taken}, ` +
    `found the others cached, and computed ${computed} with the answers`,
);
if (right < asked.length - 1 || taken < 240 || computed > prompted / 10)
  throw new Error("the prompts were not handed over");
process.exit();

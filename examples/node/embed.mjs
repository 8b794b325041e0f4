// The scheduler and cache in front of your own engine. Run: node examples/node/embed.mjs
import { Core, Engine } from "quartermaster";
import { CountingExecutor } from "../counting-executor.mjs";

const core = await Core.create();
const cache = core.kvCache({ blocks: 64, blockSize: 16 });
const scheduler = core.scheduler({ cache, vocabSize: 1000, maxBatchTokens: 64 });
const engine = new Engine({
  scheduler,
  executor: new CountingExecutor({ blocks: 64, blockSize: 16, vocabSize: 1000 }),
});
const ask = async (tokens) => {
  const answer = [];
  for await (const { token } of engine.generate({ tokens, maxNewTokens: 5 })) answer.push(token);
  return answer;
};

// Two requests at once, batched; a third finds the first one's prompt in the cache.
const prompt = Array.from({ length: 40 }, (_, i) => 100 + i);
const [first, second] = await Promise.all([ask(prompt), ask([7, 8, 9])]);
const third = await ask(prompt);
const { hitTokens } = cache.stats();
await engine.close();

console.log(`first ${first}  second ${second}  third ${third}  tokens found in the cache: ${hitTokens}`);
if (String(first) !== "140,141,142,143,144" || String(second) !== "10,11,12,13,14")
  throw new Error("wrong tokens");
if (String(third) !== String(first) || hitTokens !== 32) throw new Error("the prefix was not reused");

// One engine in a thread of its own. It sends what it has computed to the tier behind its port, or takes it from there.
import { parentPort, workerData } from "node:worker_threads";
import { Core, Engine } from "quartermaster";
import { openModel, PrefixStore, RemoteTier } from "quartermaster/native-host";

const [blocks, blockSize] = [256, 16];
const model = await openModel(
  new URL("../../../native-host/models/tiny-retrieval", import.meta.url).pathname,
  { blocks, blockSize },
);
const core = await Core.create();
const cache = core.kvCache({ blocks, blockSize, maxSequenceTokens: 1024 });
const scheduler = core.scheduler({ cache, vocabSize: model.config.vocab, maxBatchTokens: 256 });
let computed = 0;
const engine = new Engine({
  scheduler,
  executor: model.executor,
  onStep: ({ prefillTokens, decodeTokens }) => (computed += prefillTokens + decodeTokens),
});
const store = new PrefixStore({
  engine,
  tier: new RemoteTier(workerData.blocks),
  model: "tiny-retrieval, f32",
  minLoadTokens: blockSize,
});

parentPort.on("message", async ({ prompt, given, maxNewTokens, send, take, close }) => {
  if (close) {
    await engine.close();
    return parentPort.postMessage({});
  }
  const before = computed;
  const tokens = [...model.tokenizer.encode(prompt), ...(given === undefined ? [] : [given])];
  const taken = take ? await store.load(tokens) : 0;
  const generated = given === undefined ? [] : [given];
  for await (const { token } of engine.generate({ tokens, maxNewTokens })) generated.push(token);
  if (send) await store.save(tokens);
  const text = model.tokenizer.decode(generated);
  parentPort.postMessage({ token: generated[0], text, taken, computed: computed - before });
});
parentPort.postMessage({ ready: true });

// A real model in Deno: the embedded one on the wasm kernels. Run: deno run --allow-read examples/deno/serve.ts
import { Core, Engine } from "../../dist/bindings/main.js";
import { directorySource, openWasmModel } from "../../dist/native-host/executor/wasm.js";

const directory = new URL("../../native-host/models/tiny-retrieval", import.meta.url).pathname;
const model = await openWasmModel(await directorySource(directory), { blocks: 128 });
const { blockSize, vocabSize, maxSequenceTokens } = model.executor.describe();
const core = await Core.create({ build: "core-threads" });
const cache = core.kvCache({ blocks: 128, blockSize, maxSequenceTokens });
const scheduler = core.scheduler({ cache, vocabSize });
const engine = new Engine({
  scheduler,
  executor: model.executor,
  detokenizer: () => model.tokenizer.detokenizer(),
});

const facts = "ab3712;cd0588;ef9071;gh2446;ij6203;kl1159;mn8834;op4490;";
async function ask(question: string): Promise<string> {
  let answer = "";
  const tokens = model.tokenizer.encode(facts + question);
  for await (const event of engine.generate({ tokens, maxNewTokens: 4 })) answer += event.text;
  return answer;
}

const answers = await Promise.all(["?cd", "?kl", "?op"].map(ask));
await engine.close();
console.log(`?cd ${answers[0]}  ?kl ${answers[1]}  ?op ${answers[2]}`);
if (answers.join() !== "0588,1159,4490") throw new Error("wrong answers");

// HTTP front ends that say how much of a prompt is cached, while the engine's thread serves and writes the cache.
// Run: node examples/node/shared-prefix/main.mjs
//
// This thread plays the clients: conversations that start with one system prompt, and probes of it all the while. Every
// answer is held against what must have been cached.
import { once } from "node:events";
import { MessageChannel, Worker } from "node:worker_threads";

const BLOCK_SIZE = 16;
const FRONT_ENDS = 2;
const STEP_MS = 4;
const CONVERSATIONS = 6;
const TURNS = 3;
const ANSWER = 12;
const SYSTEM = Array.from({ length: 10 * BLOCK_SIZE }, (_, i) => 1000 + i);

const start = (file, workerData, transferList = []) =>
  new Worker(new URL(file, import.meta.url), { workerData, transferList });
const said = async (worker) => (await once(worker, "message"))[0];

const engine = start("engine.mjs", { blocks: 512, blockSize: BLOCK_SIZE, stepMs: STEP_MS });
const { shared } = await said(engine);
const frontEnds = Array.from({ length: FRONT_ENDS }, () => {
  const { port1, port2 } = new MessageChannel();
  engine.postMessage({ frontEnd: port1 }, [port1]);
  return start("front-end.mjs", { shared, engine: port2 }, [port2]);
});
const ports = (await Promise.all(frontEnds.map(said))).map(({ port }) => port);

let turn = 0;
/** Asks the front ends in turn. */
async function post(path, body) {
  const url = `http://127.0.0.1:${ports[turn++ % FRONT_ENDS]}${path}`;
  const response = await fetch(url, { method: "POST", body: JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${path}: ${answer.error}`);
  return answer;
}

function check(holds, what) {
  if (!holds) throw new Error(`wrong: ${what}`);
}
const wholeBlocks = (tokens) => Math.floor(tokens / BLOCK_SIZE) * BLOCK_SIZE;

/** Tokens that the front ends said were cached, of all prompts sent to the engine. */
let announced = 0;
let prompted = 0;

/** `cachedFirst`: tokens of the first prompt that are in the cache already. */
async function converse(number, cachedFirst) {
  let prompt = [...SYSTEM, ...Array.from({ length: 21 }, (_, i) => 10_000 + number * 1000 + i)];
  let expected = cachedFirst;
  for (let round = 0; round < TURNS; round++) {
    const { cached, generated } = await post("/generate", { tokens: prompt, maxNewTokens: ANSWER });
    check(cached === expected, `turn ${round} of ${number}: ${cached} tokens cached, not ${expected}`);
    const last = prompt.at(-1);
    check(
      generated.length === ANSWER && generated.every((token, i) => token === last + 1 + i),
      `answer ${generated} after ${last}`,
    );
    announced += cached;
    prompted += prompt.length;
    // Its last token has been sampled, not computed.
    expected = wholeBlocks(prompt.length + ANSWER - 1);
    prompt = [...prompt, ...generated, ...Array.from({ length: 9 }, (_, i) => 30_000 + round * 100 + i)];
  }
}

// Nothing is cached at first; after one conversation the system prompt is, for its own namespace only.
const probe = { tokens: [...SYSTEM, 7] };
check((await post("/probe", probe)).cached === 0, "the empty cache");
await converse(0, 0);
check((await post("/probe", probe)).cached === SYSTEM.length, "the system prompt");
check((await post("/probe", { ...probe, namespace: 1 })).cached === 0, "another tenant's cache");
check((await post("/probe", { tokens: [8, ...SYSTEM] })).cached === 0, "a prompt that starts otherwise");

// The others talk at the same time, while more clients probe.
let serving = true;
const times = [];
async function probeAllTheWhile() {
  while (serving) {
    const { cached, probeUs } = await post("/probe", probe);
    check(cached === SYSTEM.length, `${cached} tokens of the system prompt while the engine writes`);
    times.push(probeUs);
  }
}
const probing = Promise.all([probeAllTheWhile(), probeAllTheWhile()]);
await Promise.race([
  probing,
  Promise.all(Array.from({ length: CONVERSATIONS - 1 }, (_, i) => converse(i + 1, SYSTEM.length))),
]);
serving = false;
await probing;

engine.postMessage({ close: true });
const { hitTokens } = await said(engine);
check(hitTokens === announced, `the engine found ${hitTokens} tokens, the front ends announced ${announced}`);
for (const frontEnd of frontEnds) frontEnd.postMessage("close");

times.sort((a, b) => a - b);
const median = times[times.length >> 1];
check(median < STEP_MS * 1000, "a probe does not wait for the engine's thread");
console.log(
  `${CONVERSATIONS * TURNS} prompts of ${prompted} tokens: ${announced} announced as cached, and found by the engine; ` +
    `${times.length} probes of ${SYSTEM.length} tokens beside it, median ${median.toFixed(0)} us of a step of ${STEP_MS} ms`,
);

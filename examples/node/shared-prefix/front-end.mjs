// A front-end thread: HTTP on a port of its own. POST /probe says how much of a prompt is cached; POST /generate says
// so too, then has the engine thread generate.
import { createServer } from "node:http";
import { parentPort, workerData } from "node:worker_threads";
import { Core } from "quartermaster";

const { shared, engine } = workerData;
const core = await Core.attach(shared);
const [cache] = core.kvCaches;

/** Requests that the engine is answering: id to what settles their promise. */
const waiting = new Map();
let nextId = 0;
engine.on("message", ({ id, generated, error }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error) reject(new Error(error));
  else resolve(generated);
});

function generate(request) {
  const id = nextId++;
  engine.postMessage({ id, ...request });
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

async function bodyOf(request) {
  let text = "";
  for await (const piece of request) text += piece;
  return JSON.parse(text);
}

const server = createServer(async (request, response) => {
  const reply = (status, body) =>
    response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(body));
  try {
    const { tokens, namespace = 0, maxNewTokens = 16 } = await bodyOf(request);
    const start = performance.now();
    const cached = cache.probe(tokens, namespace).tokens;
    const probeUs = (performance.now() - start) * 1000;
    if (request.url === "/probe") return reply(200, { cached, probeUs });
    if (request.url !== "/generate") return reply(404, { error: "POST /probe or /generate" });
    reply(200, { cached, generated: await generate({ tokens, namespace, maxNewTokens }) });
  } catch (error) {
    reply(400, { error: String(error) });
  }
});
server.listen(0, "127.0.0.1", () => parentPort.postMessage({ port: server.address().port }));

parentPort.on("message", () => {
  core.close();
  process.exit();
});

// Serves the page and opens it in headless Chromium. Run: node examples/browser/run.mjs [--serve]
// With --serve it only serves: open the printed address in any browser.
import { existsSync, readFileSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
const TYPES = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
  ".json": "application/json",
};

function serve({ isolated }) {
  const server = createServer((request, response) => {
    const path = normalize(new URL(request.url, "http://localhost").pathname);
    const file = join(root, path === "/" ? "examples/browser/index.html" : path);
    if (!file.startsWith(root) || !existsSync(file) || !statSync(file).isFile())
      return void response.writeHead(404).end();
    response.setHeader("Content-Type", TYPES[extname(file)] ?? "application/octet-stream");
    if (isolated) {
      response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
      response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
    }
    response.end(readFileSync(file));
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

if (process.argv.includes("--serve")) {
  const server = await serve({ isolated: true });
  console.log(`http://127.0.0.1:${server.address().port}/`);
} else {
  const chromium = [
    process.env.CHROMIUM,
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
    "/usr/bin/google-chrome",
  ].find((path) => path && existsSync(path));
  if (!chromium) {
    console.log("SKIPPED: no Chromium on this machine (set CHROMIUM to its path)");
    process.exit(0);
  }
  const { chromium: playwright } = await import("playwright-core");
  const browser = await playwright.launch({
    executablePath: chromium,
    args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"],
    timeout: 180_000,
  });
  try {
    for (const isolated of [true, false]) {
      const server = await serve({ isolated });
      const page = await browser.newPage();
      page.setDefaultTimeout(180_000);
      page.on("pageerror", (error) => console.error(error));
      await page.goto(`http://127.0.0.1:${server.address().port}/`);
      const result = await (await page.waitForFunction("globalThis.result")).jsonValue();
      server.close();
      console.log(JSON.stringify(result));
      const expected = ["?cd -> 0588", "?kl -> 1159", "?op -> 4490"];
      if (String(result.answers) !== String(expected)) throw new Error("wrong answers in the browser");
      if (result.build !== (isolated ? "core-threads" : "core"))
        throw new Error("wrong build in the browser");
    }
  } finally {
    await browser.close();
  }
}

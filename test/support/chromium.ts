/** A page of this package in headless Chromium. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";
import { root } from "./package-root.js";

/** Path of the browser, or undefined: then tests that need it skip. */
export const CHROMIUM: string | undefined = [
  process.env.CHROMIUM,
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
].find((path) => path !== undefined && existsSync(path));

/** How long a page may take on a machine that is busy with other tests; nothing here is about time. */
const PATIENCE_MS = 180_000;

const TYPES: Readonly<Record<string, string>> = {
  ".js": "text/javascript",
  ".wasm": "application/wasm",
  ".json": "application/json",
};

/**
 * Runs a module in a page that may share memory, served with the package's files at its root; the module sets
 * `globalThis.result`. Returns that, and what the page reported as errors.
 */
export async function runInPage(script: string): Promise<{ result: unknown; errors: string[] }> {
  const page = `<!doctype html><meta charset="utf-8" /><script type="module">${script}</script>`;
  const server = createServer((request, response) => {
    response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
    response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
    const path = normalize(new URL(request.url ?? "/", "http://localhost").pathname);
    if (path === "/") return void response.setHeader("Content-Type", "text/html").end(page);
    const file = join(root, path);
    if (!existsSync(file) || !statSync(file).isFile()) return void response.writeHead(404).end();
    response.setHeader("Content-Type", TYPES[extname(file)] ?? "application/octet-stream");
    response.end(readFileSync(file));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { chromium } = await import("playwright-core");
  const browser = await chromium.launch({
    executablePath: CHROMIUM,
    // A container's /dev/shm may be too small for a page.
    args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"],
    timeout: PATIENCE_MS,
  });
  try {
    const errors: string[] = [];
    const tab = await browser.newPage();
    tab.setDefaultTimeout(PATIENCE_MS);
    tab.on("pageerror", (error) => errors.push(String(error)));
    await tab.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
    const handle = await tab.waitForFunction("globalThis.result");
    return { result: await handle.jsonValue(), errors };
  } finally {
    await browser.close();
    server.close();
  }
}

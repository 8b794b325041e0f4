// Runs the compiled tests (Node 20 has no globs): node scripts/run-tests.mjs [--long] [part of a path ...]
// --long: the slow tests as well, and deeper bounds of the others.
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = join(dirname(dirname(fileURLToPath(import.meta.url))), "dist", "test");
const parts = process.argv.slice(2);
if (parts.includes("--long")) process.env.QUARTERMASTER_LONG = "1";
const wanted = parts.filter((part) => part !== "--long");
const files = readdirSync(folder, { recursive: true, encoding: "utf8" })
  .filter((name) => name.endsWith(".test.js"))
  .filter((name) => wanted.length === 0 || wanted.some((part) => name.includes(part)))
  .map((name) => join(folder, name))
  .sort();
if (files.length === 0) {
  console.error(`no test matches ${wanted.join(", ") || folder}`);
  process.exit(1);
}
const { status } = spawnSync(process.execPath, ["--test", "--test-reporter=spec", ...files], {
  stdio: "inherit",
});
process.exit(status ?? 1);

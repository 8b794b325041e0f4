// Runs every example as a new user would, and fails when one does. Run: npm run examples
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const deno = `${root}node_modules/.bin/deno`;
const EXAMPLES = [
  ["node", process.execPath, ["examples/node/embed.mjs"]],
  ["node, shared prefix", process.execPath, ["examples/node/shared-prefix/main.mjs"]],
  ["node, prefill and decode", process.execPath, ["examples/node/prefill-decode/main.mjs"]],
  ["deno", deno, ["run", "--allow-read", "--no-check", "examples/deno/serve.ts"]],
  ["browser", process.execPath, ["examples/browser/run.mjs"]],
];

let failed = false;
for (const [name, command, args] of EXAMPLES) {
  if (!existsSync(command)) {
    console.log(`${name}: SKIPPED: ${command} is not installed`);
    continue;
  }
  const { status, stdout, stderr } = spawnSync(command, args, { cwd: root, encoding: "utf8" });
  console.log(`${name}: ${status === 0 ? stdout.trim() : `FAILED\n${stdout}${stderr}`}`);
  failed ||= status !== 0;
}
process.exitCode = failed ? 1 : 0;

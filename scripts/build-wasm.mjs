// Compiles every WebAssembly target of asconfig.json into build/. Usage: node scripts/build-wasm.mjs [target ...]
import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import binaryen from "binaryen";
import { RULES } from "./check-wasm.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const asc = join(root, "node_modules", "assemblyscript", "bin", "asc.js");
const ENTRIES = {
  core: "assembly/index.ts",
  "core-threads": "assembly/index.ts",
  "core-scalar": "assembly/index.ts",
  debug: "assembly/index.ts",
  kernels: "native-host/kernels/wasm/index.ts",
};

/**
 * Optimizes a compiled module once more: what the compiler's own pass has inlined gets smaller still, and not slower.
 * Debug builds stay as they are.
 */
function optimize(target) {
  const path = join(root, "build", `${target}.wasm`);
  const module = binaryen.readBinary(readFileSync(path));
  module.setFeatures(RULES[`${target}.wasm`].features);
  binaryen.setOptimizeLevel(2);
  binaryen.setShrinkLevel(1);
  module.optimize();
  writeFileSync(path, module.emitBinary());
  module.dispose();
}

function compile(target) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [asc, ENTRIES[target], "--target", target], {
      cwd: root,
      stdio: "inherit",
    });
    child.on("error", reject);
    child.on("exit", (code) =>
      code === 0 ? resolve() : reject(new Error(`asc failed for target ${target}`)),
    );
  });
}

const targets = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(ENTRIES);
for (const target of targets) {
  if (!(target in ENTRIES))
    throw new Error(`unknown target "${target}"; known: ${Object.keys(ENTRIES).join(", ")}`);
}
mkdirSync(join(root, "build"), { recursive: true });
const pending = [...targets];
await Promise.all(
  Array.from({ length: Math.max(1, availableParallelism()) }, async () => {
    for (let target = pending.shift(); target !== undefined; target = pending.shift()) {
      await compile(target);
      if (target.startsWith("core")) optimize(target);
    }
  }),
).catch((error) => {
  console.error(error.message);
  process.exit(1);
});

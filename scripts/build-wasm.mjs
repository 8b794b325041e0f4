// Compiles every WebAssembly target of asconfig.json into build/. Usage: node scripts/build-wasm.mjs [target ...]
import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import binaryen from "binaryen";
import { RULES } from "./check-wasm.mjs";
import { outline } from "./outline-wasm.mjs";
import { shrink } from "./shrink-wasm.mjs";
import { parse, print } from "./wasm-tree.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const asc = join(root, "node_modules", "assemblyscript", "bin", "asc.js");
const ENTRIES = {
  core: "assembly/index.ts",
  "core-threads": "assembly/index.ts",
  "core-scalar": "assembly/index.ts",
  debug: "assembly/index.ts",
  kernels: "native-host/kernels/wasm/index.ts",
};

/** Functions, by source file, that run for every token, block or key: nothing is moved out of them. */
const HOT = new RegExp(
  [
    "/index/(put|probe|read|reading|batch|scan|place|update|delete|edit|nodes|rank)/",
    "/exports/index/",
    "/memory/(blake3|blake3-compress|hash|rng)/",
    "/paging/(pool|prefix|keyed-index|keyed-pool|sequences|growth|copies|quotas|pin-counts|accounts|layout)/",
    "/scheduling/(step|commit|emit|requests|queue|tokens|arrivals|lossy|drafts|fairness|layout|plan-layout|urgency)/",
    "/exports/(scheduling|paging)/(scheduler(Step|Commit)|requestSubmit|kv(Append|Reserve|Match|Open|Close|Truncate|Fork))$",
    "/exports/selection/select",
    "/select/(accumulate|apportion|argmin|keys|pooling|topk)/",
    "/orders/(?!(validate|create)/)",
  ].join("|"),
);
/** Functions that run for every request or call: out of them goes only what is long beside a call. */
const WARM = new RegExp(
  [
    "/(orders|scheduling|eviction|vmm|index|paging)/(?!([\\w-]*/)*(validate|create|layout)/)",
    "/exports/(lanes|paging|views|tiers|scheduling|keyed-pools|pages)/",
  ].join("|"),
);
/** Names of functions that only check, create or measure a structure, wherever they are. */
const COLD = /(valid|validate\w*|create\w*|bytes|layout)$/i;

/** Fewest bytes of what may move out of a function. */
function leastOf(name) {
  if (COLD.test(name)) return 5;
  return HOT.test(name) ? Infinity : WARM.test(name) ? 24 : 5;
}

/** Gives every value a local of its own, so that trees which differ in nothing else look alike. */
const SEPARATE = ["ssa-nomerge", "simplify-locals", "reorder-locals"];
const TIDY = ["simplify-locals", "vacuum", "coalesce-locals", "simplify-locals", "vacuum", "reorder-locals"];

function read(text, features) {
  const module = binaryen.parseText(text);
  module.setFeatures(features);
  return module;
}

/**
 * Optimizes a compiled module once more: what the compiler's own pass has inlined gets smaller still, and not slower. Then
 * moves what cold functions share into functions (outline-wasm.mjs), and says the rest in fewer bytes (shrink-wasm.mjs).
 * Debug builds stay as they are.
 */
function optimize(target) {
  const path = join(root, "build", `${target}.wasm`);
  const { features } = RULES[`${target}.wasm`];
  const compiled = binaryen.readBinary(readFileSync(path));
  compiled.setFeatures(features);
  binaryen.setOptimizeLevel(2);
  binaryen.setShrinkLevel(2);
  compiled.optimize();
  compiled.runPasses(SEPARATE);
  const outlined = read(print(outline(parse(compiled.emitText()), leastOf)), features);
  outlined.runPasses([...TIDY, "reorder-functions"]);
  const shrunk = read(shrink(outlined.emitText()), features);
  writeFileSync(path, shrunk.emitBinary());
  for (const module of [compiled, outlined, shrunk]) module.dispose();
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

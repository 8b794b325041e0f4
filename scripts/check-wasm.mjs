// Checks the shipped modules: no data section, no start function, no import but the memory (and, with threads, the
// host's `park`), the right kind of memory,
// no instruction beyond the declared features, and the size budget. Usage: node scripts/check-wasm.mjs [directory]
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import binaryen from "binaryen";

const { Features } = binaryen;
const BASE =
  Features.MutableGlobals |
  Features.SignExt |
  Features.NontrappingFPToInt |
  Features.BulkMemory |
  Features.BulkMemoryOpt;
const CORE_BUDGET = 114 * 1024;
// The same source with the locks of the shared index.
const THREADS_BUDGET = 122 * 1024;

/** What each module may be. */
export const RULES = {
  "core.wasm": { shared: false, features: BASE | Features.SIMD128, budget: CORE_BUDGET },
  "core-threads.wasm": {
    shared: true,
    imports: ["park"],
    features: BASE | Features.SIMD128 | Features.Atomics,
    budget: THREADS_BUDGET,
  },
  "core-scalar.wasm": { shared: false, features: BASE, budget: CORE_BUDGET },
  "debug.wasm": { shared: false, features: BASE | Features.SIMD128, budget: Infinity },
  "kernels.wasm": { shared: false, features: BASE | Features.SIMD128, budget: CORE_BUDGET },
};

const START_SECTION = 8;
const DATA_SECTION = 11;

/** Ids of the sections that have content. */
function sections(bytes) {
  const ids = [];
  let at = 8;
  const leb = () => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++];
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value >>> 0;
    }
  };
  while (at < bytes.length) {
    const id = bytes[at++];
    const end = leb() + at;
    // A data section of zero segments is one byte: the count 0.
    if (end > at && !(id === DATA_SECTION && bytes[at] === 0)) ids.push(id);
    at = end;
  }
  return ids;
}

function takesMemory(module, shared) {
  try {
    const memory = new WebAssembly.Memory({ initial: 16, maximum: 65536, shared });
    new WebAssembly.Instance(module, { env: { memory, park: () => 0 } });
    return true;
  } catch {
    return false;
  }
}

/** Whether the module uses only the given features. */
function validUnder(bytes, features) {
  const silent = console.error;
  console.error = () => {};
  const module = binaryen.readBinary(bytes);
  try {
    module.setFeatures(features);
    return module.validate() === 1;
  } finally {
    module.dispose();
    console.error = silent;
  }
}

/** What is wrong with a module; empty when nothing is. */
export function problems(bytes, rule) {
  const found = [];
  const ids = sections(bytes);
  const module = new WebAssembly.Module(bytes);
  if (ids.includes(DATA_SECTION)) found.push("has a data section");
  if (ids.includes(START_SECTION)) found.push("has a start function");
  for (const { module: from, name } of WebAssembly.Module.imports(module)) {
    if (from !== "env" || !["memory", ...(rule.imports ?? [])].includes(name))
      found.push(`imports ${from}.${name}`);
  }
  if (found.length === 0 && !takesMemory(module, rule.shared)) {
    found.push(`does not take a ${rule.shared ? "shared" : "plain"} memory`);
  }
  if (!validUnder(bytes, rule.features)) found.push("uses instructions beyond its declared features");
  if (bytes.length > rule.budget) found.push(`is ${bytes.length} bytes, budget ${rule.budget}`);
  return found;
}

function main(directory) {
  let failed = false;
  for (const [name, rule] of Object.entries(RULES)) {
    const path = join(directory, name);
    if (!existsSync(path)) {
      console.error(`${name}: not built`);
      failed = true;
      continue;
    }
    const bytes = readFileSync(path);
    const found = problems(bytes, rule);
    console.log(`${name}: ${found.length === 0 ? "ok" : found.join("; ")} (${bytes.length} bytes)`);
    failed ||= found.length > 0;
  }
  process.exitCode = failed ? 1 : 0;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  main(process.argv[2] ?? join(dirname(dirname(fileURLToPath(import.meta.url))), "build"));
}

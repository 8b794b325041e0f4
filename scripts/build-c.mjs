// Translates the shipped core to C and builds the C library, without SIMD and, where SIMDe is, with it; then builds
// and runs the C examples against each, installed, found by pkg-config. Run: npm run build:c [-- options]
//
//   --require-simd    fails where SIMDe is missing, in place of leaving the SIMD library out
//   --only KIND       scalar or simd alone
//   --prefix FOLDER   installs there, in place of build/c/KIND/installed; with --only
//
// Output: build/c/{core,core-scalar}/core.{c,h} (the translated cores), build/c/{scalar,simd}/ (static and shared
// libraries), build/c/{scalar,simd}/installed/ (header, libraries, CMake package, pkg-config file).
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const out = join(root, "build", "c");

/** The translator: a development dependency of the repository, an optional peer of the installed package. */
function findWasm2c() {
  for (const from of [import.meta.url, join(process.cwd(), "package.json")]) {
    try {
      return join(dirname(createRequire(from).resolve("wabt/package.json")), "bin", "wasm2c");
    } catch {}
  }
  throw new Error(
    "the package wabt, which has wasm2c, is not installed (npm install --save-dev wabt@1.0.39)",
  );
}

function run(command, args, options = {}) {
  const result = spawnSync(command, args, { encoding: "utf8", ...options });
  if (result.error) throw new Error(`${command}: ${result.error.message}`);
  if (result.status !== 0)
    throw new Error(`${command} ${args.join(" ")} failed:\n${result.stdout}${result.stderr}`);
  return result.stdout.trim();
}

const has = (command) => spawnSync(command, ["--version"], { stdio: "ignore" }).status === 0;

function translate(wasm2c, core) {
  mkdirSync(join(out, core), { recursive: true });
  run(process.execPath, [
    wasm2c,
    "-n",
    "qm",
    join(root, "build", `${core}.wasm`),
    "-o",
    join(out, core, "core.c"),
  ]);
}

/** Whether the compiler finds the header that the SIMD core's C needs. */
function hasSimde() {
  const probe = spawnSync("cc", ["-x", "c", "-E", "-"], { input: "#include <simde/wasm/simd128.h>\n" });
  return probe.status === 0;
}

function buildLibrary(name, simd, prefix) {
  const folder = join(out, name);
  const installed = prefix ?? join(folder, "installed");
  if (prefix === undefined) rmSync(installed, { recursive: true, force: true });
  for (const shared of ["OFF", "ON"]) {
    const cache = join(folder, shared === "ON" ? "shared" : "static");
    run("cmake", [
      "-S",
      join(root, "adapters", "c"),
      "-B",
      cache,
      `-DQM_SIMD=${simd ? "ON" : "OFF"}`,
      `-DQM_SHARED=${shared}`,
      `-DCMAKE_INSTALL_PREFIX=${installed}`,
      "-DCMAKE_INSTALL_LIBDIR=lib",
    ]);
    run("cmake", ["--build", cache, "--parallel", "2"]);
    run("cmake", ["--install", cache]);
  }
  return installed;
}

/** Compiles a program as a user would, against the installed library; returns its path. The first source names it. */
function compileProgram(installed, folder, ...sources) {
  const program = join(folder, basename(sources[0], ".c"));
  const environment = { ...process.env, PKG_CONFIG_PATH: join(installed, "lib", "pkgconfig") };
  const flags = has("pkg-config")
    ? run("pkg-config", ["--cflags", "--libs", "--static", "quartermaster"], { env: environment })
    : `-I${installed}/include -L${installed}/lib -lquartermaster -lm`;
  const paths = sources.map((source) => join(root, source));
  run("cc", ["-O2", "-Wall", "-Werror", ...paths, "-o", program, ...flags.split(/\s+/)]);
  return program;
}

/** Runs a program with the installed shared library. */
function runProgram(installed, program, args = []) {
  return run(program, args, { env: { ...process.env, LD_LIBRARY_PATH: join(installed, "lib") } });
}

/** The kinds of library that are asked for and can be built. */
function kindsOf({ only, "require-simd": requireSimd }) {
  if (only !== undefined && only !== "scalar" && only !== "simd")
    throw new Error(`--only is ${only}; allowed: scalar, simd`);
  const kinds = only === undefined ? ["scalar", "simd"] : [only];
  if (!kinds.includes("simd") || hasSimde()) return kinds;
  const missing = "simde/wasm/simd128.h not found (Debian: apt install libsimde-dev)";
  if (requireSimd || only === "simd") throw new Error(`the SIMD library needs SIMDe: ${missing}`);
  console.warn(`quartermaster: SKIPPED the SIMD library: ${missing}`);
  return ["scalar"];
}

function main() {
  const { values } = parseArgs({
    options: {
      "require-simd": { type: "boolean", default: false },
      only: { type: "string" },
      prefix: { type: "string" },
    },
  });
  if (values.prefix !== undefined && values.only === undefined)
    throw new Error("--prefix needs --only: both libraries have the same files");
  const missing = ["cmake", "cc"].filter((command) => !has(command));
  if (missing.length > 0)
    throw new Error(`${missing.join(" and ")} not found (Debian: apt install cmake gcc)`);
  if (!existsSync(join(root, "build", "core.wasm")))
    throw new Error("build/core.wasm is not there: npm run build:wasm");
  const wasm2c = findWasm2c();
  const prefix = values.prefix === undefined ? undefined : resolve(values.prefix);
  for (const name of kindsOf(values)) {
    translate(wasm2c, name === "simd" ? "core" : "core-scalar");
    const installed = buildLibrary(name, name === "simd", prefix);
    const programs = prefix === undefined ? installed : join(out, name);
    const parts = ["", "_add_ons", "_pools", "_lanes"].map((part) => `adapters/c/conformance${part}.c`);
    compileProgram(installed, programs, ...parts);
    for (const example of ["scheduler_loop", "speculation", "connector"]) {
      const program = compileProgram(installed, programs, `examples/c/${example}.c`);
      console.log(`c library (${name}): ${runProgram(installed, program)}`);
    }
  }
}

try {
  main();
} catch (error) {
  console.error(`quartermaster: the C library was not built: ${error.message}`);
  process.exitCode = 1;
}

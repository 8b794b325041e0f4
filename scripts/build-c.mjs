// Translates the shipped core to C and builds the C library, without SIMD and, where SIMDe is, with it; then builds
// and runs the C examples against each, installed, found by pkg-config. Run: npm run build:c
//
// Output: build/c/{core,core-scalar}/core.{c,h} (the translated cores), build/c/{scalar,simd}/ (static and shared
// libraries), build/c/{scalar,simd}/installed/ (header, library, CMake package, pkg-config file).
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const out = join(root, "build", "c");
const wasm2c = join(root, "node_modules", "wabt", "bin", "wasm2c");

function run(command, args, options = {}) {
  const result = spawnSync(command, args, { encoding: "utf8", ...options });
  if (result.error) throw new Error(`${command}: ${result.error.message}`);
  if (result.status !== 0)
    throw new Error(`${command} ${args.join(" ")} failed:\n${result.stdout}${result.stderr}`);
  return result.stdout.trim();
}

const has = (command) => spawnSync(command, ["--version"], { stdio: "ignore" }).status === 0;

function translate(core) {
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

function buildLibrary(name, simd) {
  const folder = join(out, name);
  const installed = join(folder, "installed");
  rmSync(installed, { recursive: true, force: true });
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
function compileProgram(installed, ...sources) {
  const program = join(installed, basename(sources[0], ".c"));
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

function main() {
  const missing = ["cmake", "cc"].filter((command) => !has(command));
  if (missing.length > 0)
    throw new Error(`${missing.join(" and ")} not found (Debian: apt install cmake gcc)`);
  if (!existsSync(join(root, "build", "core.wasm")))
    throw new Error("build/core.wasm is not there: npm run build:wasm");
  for (const core of ["core", "core-scalar"]) translate(core);
  const kinds = [["scalar", false]];
  if (hasSimde()) kinds.push(["simd", true]);
  else
    console.warn(
      "quartermaster: SKIPPED the SIMD library: simde/wasm/simd128.h not found (apt install libsimde-dev)",
    );
  for (const [name, simd] of kinds) {
    const installed = buildLibrary(name, simd);
    const parts = ["", "_add_ons", "_pools"].map((part) => `adapters/c/conformance${part}.c`);
    compileProgram(installed, ...parts);
    for (const example of ["scheduler_loop", "speculation"]) {
      const program = compileProgram(installed, `examples/c/${example}.c`);
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

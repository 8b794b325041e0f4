// Builds the native addon into build/native/quartermaster.node; the `install` script of the package.
//
// The addon is an extra: where a compiler is missing the wasm kernels do its work, so that a failure here
// says what to do and leaves the installation alone (exit 0). With --verbose, or
// QUARTERMASTER_NATIVE=required, it is an error. QUARTERMASTER_NATIVE=off builds nothing. A build that is up
// to date takes a fraction of a second.
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, renameSync, rmSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const source = join(root, "native-host");
const output = join(root, "build", "native");
const addon = join(output, "quartermaster.node");
const verbose = process.argv.includes("--verbose");
const required = verbose || process.env.QUARTERMASTER_NATIVE === "required";

class BuildFailure extends Error {}

function run(command, args) {
  const result = spawnSync(command, args, { encoding: "utf8", stdio: verbose ? "inherit" : "pipe" });
  if (result.error) throw new BuildFailure(`${command}: ${result.error.message}`);
  if (result.status !== 0) {
    const said = `${result.stdout ?? ""}${result.stderr ?? ""}`.trim().split("\n").slice(-15).join("\n");
    throw new BuildFailure(`${command} ${args[0]} failed${said ? `:\n${said}` : ""}`);
  }
}

function has(command) {
  return spawnSync(command, ["--version"], { stdio: "ignore" }).status === 0;
}

function requireTools() {
  if (process.platform === "win32") throw new BuildFailure("Windows is not supported by the native kernels");
  if (!has("cmake")) throw new BuildFailure("cmake (3.16 or newer) was not found");
  const compilers = [process.env.CXX, "c++", "g++", "clang++"].filter(Boolean);
  if (!compilers.some(has)) throw new BuildFailure("no C++17 compiler was found (g++ or clang++)");
}

function headers() {
  try {
    return createRequire(import.meta.url)("node-api-headers").include_dir;
  } catch {
    throw new BuildFailure("the package node-api-headers was not found");
  }
}

function build() {
  requireTools();
  const cache = join(output, "cmake");
  const configure = [
    "-S",
    source,
    "-B",
    cache,
    "-DCMAKE_BUILD_TYPE=Release",
    `-DQMH_NODE_API_INCLUDE=${headers()}`,
  ];
  try {
    run("cmake", configure);
  } catch (failure) {
    // A cache from another place or another compiler: begin anew.
    if (!existsSync(join(cache, "CMakeCache.txt"))) throw failure;
    rmSync(cache, { recursive: true, force: true });
    run("cmake", configure);
  }
  run("cmake", ["--build", cache, "--config", "Release", "--parallel", "2"]);
  const built = join(cache, "quartermaster.node");
  if (existsSync(addon) && statSync(addon).mtimeMs >= statSync(built).mtimeMs) return;
  // Replaced in one move: a process that has the old one loaded keeps it.
  mkdirSync(output, { recursive: true });
  copyFileSync(built, `${addon}.new`);
  renameSync(`${addon}.new`, addon);
}

if (process.env.QUARTERMASTER_NATIVE === "off") {
  console.log(
    "quartermaster: native addon skipped (QUARTERMASTER_NATIVE=off); the wasm kernels will be used",
  );
} else {
  try {
    build();
    const { isa } = createRequire(import.meta.url)(addon);
    console.log(`quartermaster: native addon ready (${isa().join(", ")})`);
  } catch (error) {
    console.warn(
      `quartermaster: native addon not built, the wasm kernels will be used instead.\n  ${error.message}\n` +
        "  To get it: install cmake and a C++17 compiler (Debian: apt install cmake g++; macOS:\n" +
        "  xcode-select --install and brew install cmake), then run: npm rebuild quartermaster",
    );
    if (required) process.exit(1);
  }
}

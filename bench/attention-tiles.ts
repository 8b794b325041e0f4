/** Builds and runs test/native/attention-tiles.cc: the attention kernel by itself, told how many rows a call takes. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));

const compiler = ["c++", "g++", "clang++"].find((name) => spawnSync(name, ["--version"]).status === 0);
/** The fast kernels, for times; counts need no more than a compiler. */
const library = join(root, "build/native/cmake/libquartermaster_host.a");

/** Why it cannot be built; false: it can. */
export function whyNot(counting: boolean): string | false {
  if (compiler === undefined) return "no C++ compiler was found";
  return counting || existsSync(library) ? false : "the C library was not built";
}

const built = new Map<boolean, string>();

/** Runs the program, built once. @param counting that counts rows of K; false: that has the fast kernels */
export function runAttentionTiles(counting: boolean, ...call: readonly (string | number)[]): string {
  const program = built.get(counting) ?? build(counting);
  built.set(counting, program);
  return run(program, call.map(String)).trim();
}

function build(counting: boolean): string {
  const folder = mkdtempSync(join(tmpdir(), "quartermaster-tiles-"));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  const program = join(folder, "attention-tiles");
  const kernels = join(root, "native-host/kernels");
  // Compiled without the flags of wide kernels, their files say that there are none.
  const rest = counting
    ? ["portable", "avx2", "avx512"].map((name) => join(kernels, "cpu", `${name}.cc`))
    : [library, "-lpthread"];
  run(compiler!, [
    ...["-std=gnu++17", "-O1", "-ffp-contract=off", `-I${kernels}`],
    ...(counting ? ["-DQM_COUNT_KV_ROWS"] : []),
    join(root, "test/native/attention-tiles.cc"),
    ...rest,
    "-o",
    program,
  ]);
  return program;
}

function run(command: string, args: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: "utf8" });
  assert.equal(error, undefined);
  assert.equal(status, 0, stderr);
  return stdout;
}

/** The Python adapter for vLLM: its own tests, run by python3 over the C library. Built by npm run build:c. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { long } from "../support/long.js";
import { root } from "../support/package-root.js";

const folder = join(root, "adapters", "vllm", "tests");
const built = ["simd", "scalar"].some((variant) =>
  existsSync(join(root, "build", "c", variant, "installed", "lib", "libquartermaster.so")),
);
const hasPython = spawnSync("python3", ["--version"]).status === 0;
const skip = !hasPython
  ? "python3 is not there"
  : !built
    ? "libquartermaster.so was not built: npm run build:c"
    : false;

for (const file of readdirSync(folder).filter((name) => name.startsWith("test_"))) {
  test(`adapters/vllm/tests/${file} passes`, { skip }, () => {
    const steps = long ? "20000" : "2000";
    const { status, stderr } = spawnSync("python3", [join(folder, file)], {
      encoding: "utf8",
      env: { ...process.env, QUARTERMASTER_STEPS: steps, PYTHONDONTWRITEBYTECODE: "1" },
    });
    assert.equal(status, 0, stderr);
    assert.match(stderr, /^OK/m);
  });
}

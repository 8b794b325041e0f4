/** The C library takes the same decisions, byte for byte, with and without SIMD. Built by npm run build:c. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Core } from "../../bindings/main.js";
import { STATUS_CODES } from "../../bindings/errors.js";
import { ConformanceHost } from "../conformance/host.js";
import { SCRIPTS } from "../conformance/generate.js";
import type { Script } from "../conformance/script.js";
import { root } from "../support/package-root.js";

const scripts = readdirSync(SCRIPTS).sort();

for (const variant of ["scalar", "simd"]) {
  const installed = join(root, "build", "c", variant, "installed");
  const program = join(installed, "conformance");
  const skip = existsSync(program) ? false : `${program} was not built: npm run build:c`;
  const run = (name: string, ...args: string[]): ReturnType<typeof spawnSync> =>
    spawnSync(join(installed, name), args, {
      encoding: "utf8",
      env: { ...process.env, LD_LIBRARY_PATH: join(installed, "lib") },
    });
  const conform = (...args: string[]): ReturnType<typeof spawnSync> => run("conformance", ...args);

  test(`the C library (${variant}) gives every answer of the conformance scripts`, { skip }, () => {
    const { status, stdout } = conform(...scripts.map((name) => join(SCRIPTS, name)));
    assert.equal(status, 0, stdout as string);
    assert.equal((stdout as string).trim().split("\n").length, scripts.length);
  });

  test(`the C example (${variant}) serves everybody, across a gap without work`, { skip }, () => {
    const { status, stdout, stderr } = run("scheduler_loop");
    assert.equal(status, 0, `${stdout as string}${stderr as string}`);
    assert.match(stdout as string, /^10 of 10 requests finished in \d+ steps, idle 1 times/);
  });

  test(`a wrong answer in a script is found by the C library (${variant})`, { skip }, () => {
    const { status, stdout } = conform(join(root, "test", "conformance", "wrong-answer.json"));
    assert.equal(status, 1);
    assert.match(stdout as string, /wrong-answer: step 2 differs at number 0/);
  });

  test(`after the same calls C (${variant}) and JavaScript hold the same bytes`, { skip }, async () => {
    const folder = mkdtempSync(join(tmpdir(), "quartermaster-snapshot-"));
    try {
      for (const name of scripts) {
        const path = join(folder, "state");
        assert.equal(conform("--snapshot", path, join(SCRIPTS, name)).status, 0);
        const state = readFileSync(path);
        const host = new ConformanceHost();
        const { steps } = JSON.parse(readFileSync(join(SCRIPTS, name), "utf8")) as Script;
        for (const [call] of steps) await host.answer(call);
        // Arguments of calls pass through the scratch region: what is left there means nothing.
        const { core } = host;
        const [expected, scratch] = [core.snapshot(), core.scratch(core.scratchBytes)];
        for (const bytes of [expected, state]) bytes.fill(0, scratch, scratch + core.scratchBytes);
        assert.ok(state.equals(expected), `${name}: equal snapshots`);
        (await Core.restore(new Uint8Array(state))).validate();
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
}

test("the header's status codes and constants are the core's", async () => {
  const header = readFileSync(join(root, "adapters/c/include/quartermaster.h"), "utf8");
  for (const [number, code] of Object.entries(STATUS_CODES))
    assert.match(header, new RegExp(`\\bQM_${code} = ${number}\\b`));
  assert.equal(header.match(/\bQM_[A-Z_]+ = -\d+/g)?.length, Object.keys(STATUS_CODES).length);
  const library = readFileSync(join(root, "adapters/c/src/quartermaster.c"), "utf8");
  const [, names] = /names\[\] = \{([^}]*)\}/.exec(library)!;
  const codes = Array.from(
    { length: Object.keys(STATUS_CODES).length },
    (_, i) => STATUS_CODES[(-1 - i) as -1],
  );
  assert.deepEqual(
    [...names.matchAll(/"(\w+)"/g)].map(([, name]) => name),
    ["OK", ...codes],
    "qm_status_name knows all of them",
  );
  const calls = readFileSync(join(root, "adapters/c/src/core_calls.h"), "utf8");
  const core = await Core.create();
  const { pointer } = core.orderedIndex({ capacity: 10 });
  const nodeBytes = core.exports.orderedIndexNodeBytes(pointer);
  assert.match(calls, new RegExp(`QM_DEFAULT_NODE_BYTES = ${nodeBytes}\\b`));
  assert.match(calls, new RegExp(`QM_SCRATCH_BYTES = ${core.scratchBytes}\\b`));
});

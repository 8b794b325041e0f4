/** The C library takes the same decisions, byte for byte, with and without SIMD. Built by npm run build:c. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Core } from "../../bindings/main.js";
import { STATUS_CODES } from "../../bindings/errors.js";
import { ConformanceHost } from "../conformance/host.js";
import { SCRIPTS } from "../conformance/generate.js";
import { print, type Script } from "../conformance/script.js";
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

  test(`a connector in C (${variant}) fetches what another process has computed, once`, { skip }, () => {
    const { status, stdout, stderr } = run("connector");
    assert.equal(status, 0, `${stdout as string}${stderr as string}`);
    assert.match(stdout as string, /^0 tokens fetched of 44 .*, 40 by the second, 0 when it is asked again/);
  });

  test(`a wrong answer in a script is found by the C library (${variant})`, { skip }, () => {
    const { status, stdout } = conform(join(root, "test", "conformance", "wrong-answer.json"));
    assert.equal(status, 1);
    assert.match(stdout as string, /wrong-answer: step 2 differs at number 0/);
  });

  test(`C (${variant}) restores nothing from damaged bytes`, { skip }, () => {
    const folder = mkdtempSync(join(tmpdir(), "quartermaster-damaged-"));
    try {
      writeFileSync(join(folder, "state"), new Uint8Array(4096));
      const { status, stderr } = conform("--restore", join(folder, "state"), join(SCRIPTS, "cache-1.json"));
      assert.equal(status, 2);
      assert.match(stderr as string, /cannot restore the snapshot/);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  test(
    `after the same calls C (${variant}) and JavaScript hold the same bytes, and each goes on from the other's half way`,
    {
      skip,
    },
    async () => {
      const folder = mkdtempSync(join(tmpdir(), "quartermaster-snapshot-"));
      const path = (name: string): string => join(folder, name);
      try {
        for (const name of scripts) {
          const script = JSON.parse(readFileSync(join(SCRIPTS, name), "utf8")) as Script;
          const [before, after] = halves(script);
          for (const [file, half] of Object.entries({ before, after }))
            writeFileSync(path(file), print(half));
          const host = new ConformanceHost();
          for (const [call] of before.steps) await host.answer(call);
          writeFileSync(path("js-half"), host.core.snapshot());
          for (const [call] of after.steps) await host.answer(call);
          const expected = comparable(host);

          const fromJs = conform("--restore", path("js-half"), "--snapshot", path("js-c"), path("after"));
          assert.equal(fromJs.status, 0, `C goes on from JavaScript: ${fromJs.stdout as string}`);
          assert.equal(conform("--snapshot", path("c"), join(SCRIPTS, name)).status, 0);
          for (const end of ["c", "js-c"]) {
            const there = new ConformanceHost();
            await there.restore(new Uint8Array(readFileSync(path(end))));
            assert.ok(expected.equals(comparable(there)), `${name}: equal snapshots (${end})`);
            there.core.validate();
          }

          assert.equal(conform("--snapshot", path("c-half"), path("before")).status, 0);
          const heir = new ConformanceHost();
          await heir.restore(new Uint8Array(readFileSync(path("c-half"))));
          for (const [i, [call, answer]] of after.steps.entries())
            assert.deepEqual(
              await heir.answer(call),
              answer,
              `${name}, step ${before.steps.length + i}: ${call[0]}`,
            );
        }
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    },
  );
}

/** Calls that make something. */
const MAKES = ["core", "cache", "ordered", "named", "isolated", "grouped", "connected", "runs"].concat([
  "scheduler",
  "scheduler-as",
  "pages",
  "pages-eager",
  "index",
  "keyed",
  "virtual",
  "lane-arena",
  "selection",
]);

/** A script up to the middle of what comes behind its last structure, and the rest of it. */
function halves({ format, name, steps }: Script): [Script, Script] {
  const made = steps.findLastIndex(([[operation]]) => MAKES.includes(operation)) + 1;
  const middle = made + Math.ceil((steps.length - made) / 2);
  return [
    { format, name, steps: steps.slice(0, middle) },
    { format, name, steps: steps.slice(middle) },
  ];
}

/**
 * A host's snapshot without what arguments of calls have left in the scratch region, which means nothing. What a cache with runs
 * has yet to enter of freed blocks is entered first, as it is when a core is restored.
 */
function comparable({ core }: ConformanceHost): Buffer {
  for (const { pointer } of core.kvCaches) core.exports.kvRuns(pointer);
  const [bytes, scratch] = [core.snapshot(), core.scratch(core.scratchBytes)];
  return Buffer.from(bytes.fill(0, scratch, scratch + core.scratchBytes));
}

test("behind the middle of the scripts there are many plans", () => {
  const plans = scripts.map((name) => {
    const [, { steps }] = halves(JSON.parse(readFileSync(join(SCRIPTS, name), "utf8")) as Script);
    return steps.filter(([[operation], [, , rows]]) => operation === "step" && rows > 0).length;
  });
  assert.ok(plans.filter((count) => count > 20).length >= 10, plans.join(" "));
});

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

/** The examples for Node run as they stand, and end well only with the right answers. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { root } from "../support/package-root.js";

const run = (file: string): { status: number | null; stdout: string; stderr: string } =>
  spawnSync(process.execPath, [join(root, "examples", "node", file)], {
    cwd: root,
    encoding: "utf8",
    timeout: 300_000,
  });

test("an engine around an executor of one's own", () => {
  const { status, stdout, stderr } = run("embed.mjs");
  assert.equal(status, 0, stderr);
  assert.match(stdout, /found in the cache: 32/);
});

test("prompts are computed in one thread and answered in another", () => {
  const { status, stdout, stderr } = run("prefill-decode/main.mjs");
  assert.equal(status, 0, stderr);
  assert.match(stdout, /of \d+ prompt tokens the answering engine took over 480/);
});

test("HTTP front ends announce what the engine then finds in its cache", () => {
  const { status, stdout, stderr } = run("shared-prefix/main.mjs");
  assert.equal(status, 0, stderr);
  assert.match(stdout, /3200 announced as cached, and found by the engine/);
});

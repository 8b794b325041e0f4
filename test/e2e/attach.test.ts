/** Workers of Deno and of a browser attach to a shared core and use its ordered indexes together. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { CHROMIUM, runInPage } from "../support/chromium.js";
import { root } from "../support/package-root.js";
import { EXPECTED } from "./attach-scenario.js";

const DENO = join(root, "node_modules", ".bin", "deno");
const SCENARIO = join("dist", "test", "e2e", "attach-scenario.js");

test(
  "workers of Deno attach and read and write the ordered index",
  { skip: existsSync(DENO) ? false : `SKIPPED: no Deno at ${DENO}` },
  () => {
    const code =
      `import { attachScenario } from "${pathToFileURL(join(root, SCENARIO))}";` +
      "console.log(JSON.stringify(await attachScenario()));";
    const { status, stdout, stderr } = spawnSync(DENO, ["eval", "--no-check", code], {
      encoding: "utf8",
      cwd: root,
      timeout: 300_000,
    });
    assert.equal(status, 0, stderr);
    assert.deepEqual(JSON.parse(stdout), EXPECTED);
  },
);

test(
  "workers of a browser attach and read and write the ordered index, beside a main thread that may not block",
  { skip: CHROMIUM ? false : "SKIPPED: no Chromium on this machine (set CHROMIUM to its path)" },
  async () => {
    const { result, errors } = await runInPage(
      `import { attachScenario } from "/${SCENARIO}";` +
        "globalThis.result = await attachScenario().catch((error) => ({ error: String(error) }));",
    );
    assert.deepEqual(errors, []);
    assert.deepEqual(result, EXPECTED);
  },
);

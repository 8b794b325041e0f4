/** docs/policies/acceptance.md: every test and every bench that it names exists, and every method of the registry is held to something. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { hasTitle, named } from "../support/named-tests.js";
import { root } from "../support/package-root.js";

const page = readFileSync(join(root, "docs", "policies", "acceptance.md"), "utf8");
const rows = page
  .split("\n")
  .filter((line) => line.startsWith("| ") && !line.startsWith("| ---") && !line.startsWith("| | what"))
  .map((line) => line.slice(1, line.lastIndexOf("|")).split(" | "));

test("every test and bench that the page of acceptances names exists", () => {
  assert.ok(rows.length >= 65, `${rows.length} rows`);
  for (const [, what, tests] of rows) {
    const claims = named(tests.trim());
    assert.ok(claims.length > 0, `"${what}" names a test`);
    for (const { file, title } of claims) {
      const isBench = file.startsWith("bench/");
      const path = isBench ? join(root, `${file}.ts`) : join(root, "test", `${file}.test.ts`);
      assert.ok(existsSync(path), `${what}: ${path}`);
      const source = readFileSync(path, "utf8");
      assert.ok(
        isBench ? source.includes(title) : hasTitle(source, title),
        `${what}: ${file} has "${title}"`,
      );
    }
  }
});

test("a test that is not there would be noticed", () => {
  const [, , tests] = rows[0];
  const [{ file, title }] = named(tests.trim());
  const source = readFileSync(join(root, "test", `${file}.test.ts`), "utf8");
  assert.ok(hasTitle(source, title) && !hasTitle(source, `${title}, or not`));
});

/** docs/features.md claims nothing without a test: every Y names tests, and every test that is named exists. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { hasTitle, named } from "../support/named-tests.js";
import { root } from "../support/package-root.js";

interface Row {
  readonly capability: string;
  readonly mark: string | undefined;
  readonly tests: string;
}

const page = readFileSync(join(root, "docs", "features.md"), "utf8");

/** Cells of the rows of all tables. */
function cellsOf(text: string): string[][] {
  const lines = text.split("\n").filter((line) => line.startsWith("| ") && !line.startsWith("| ---"));
  return lines
    .map((line) =>
      line
        .slice(1, line.lastIndexOf("|"))
        .split("|")
        .map((cell) => cell.trim()),
    )
    .filter(([first]) => first !== "capability");
}

/** Rows that name tests; a table of three columns has no marks, one of more than four is the comparison. */
function rows(text: string): Row[] {
  return cellsOf(text)
    .filter((cells) => cells.length <= 4)
    .map((cells) => ({
      capability: cells[0],
      mark: cells.length === 4 ? cells[1] : undefined,
      tests: cells.at(-1)!,
    }));
}

test("every capability that is there names tests, and every test that is named exists", () => {
  const all = rows(page);
  assert.ok(all.length >= 28);
  for (const { capability, mark, tests } of all) {
    assert.ok(mark === undefined || ["Y", "P", "N"].includes(mark), `${capability}: ${mark}`);
    const claims = named(tests);
    assert.ok(mark === "N" || claims.length > 0, `${capability} names a test`);
    for (const { file, title } of claims) {
      const path = join(root, "test", `${file}.test.ts`);
      assert.ok(existsSync(path), `${capability}: ${file}.test.ts`);
      assert.ok(
        hasTitle(readFileSync(path, "utf8"), title),
        `${capability}: ${file}.test.ts has a test "${title}"`,
      );
    }
  }
});

test("the comparison says of ours what the tables with tests say", () => {
  const marks = new Map(rows(page).map(({ capability, mark }) => [capability, mark]));
  const compared = cellsOf(page).filter((cells) => cells.length > 4);
  assert.ok(compared.length >= 28);
  for (const [capability, ours] of compared) assert.equal(ours, marks.get(capability), capability);
});

test("a capability without a test, and a test that is not there, would be noticed", () => {
  const [row] = rows("| capability | | how | tests |\n| --- | --- | --- | --- |\n| flying | Y | wings | |\n");
  assert.deepEqual(row, { capability: "flying", mark: "Y", tests: "" });
  assert.deepEqual(named("`a/b`: one; two; `c`: three"), [
    { file: "a/b", title: "one; two" },
    { file: "c", title: "three" },
  ]);
  const source = 'test("plain", () => {});\ntest(`${n} of ${m}: done`, () => {});\n';
  assert.ok(hasTitle(source, "plain") && hasTitle(source, "3 of 4: done"));
  assert.ok(!hasTitle(source, "3 of 4: undone"));
});

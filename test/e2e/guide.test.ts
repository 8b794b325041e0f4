/**
 * The snippets on the ordered index in docs/guide.md do what they say: they run in order, in one scope.
 *
 *   expression; // -> value       and  const name = expression; // -> value
 *   statement; // throws CODE
 */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { root } from "../support/package-root.js";

const PRELUDE = `
  import assert from "node:assert/strict";
  import { Core, Operations } from "quartermaster";
  let message;
  const worker = { postMessage: (data) => (message = data) };
  let sum = 0n;
`;

function snippets(section: string): string[] {
  const text = readFileSync(join(root, "docs", "guide.md"), "utf8");
  const body = text.split(`\n## ${section}\n`)[1].split("\n## ")[0];
  return [...body.matchAll(/^\`\`\`ts\n([\s\S]*?)^\`\`\`$/gm)].map(([, code]) => code);
}

/** A line of a snippet as code that checks what its comment says. */
function checked(line: string): string {
  const [, statement, kind, what] = /^(.*); \/\/ (->|throws) (.*)$/.exec(line) ?? [];
  if (kind === "->") return `assert.deepEqual(${statement}, ${what});`;
  if (kind === "throws") return `assert.throws(() => { ${statement}; }, { code: "${what}" });`;
  return line;
}

async function runs(code: string): Promise<void> {
  const folder = mkdtempSync(join(root, "dist", "guide-"));
  try {
    const file = join(folder, "snippets.mjs");
    writeFileSync(file, PRELUDE + code);
    await import(pathToFileURL(file).href);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("the snippets on the ordered index run and give what their comments say", async () => {
  const lines = snippets("Ordered index").join("").split("\n");
  assert.ok(lines.filter((line) => checked(line) !== line).length > 30, "the comments are checked");
  await runs(lines.map(checked).join("\n"));
});

test("a comment that is not true is noticed", async () => {
  const code = snippets("Ordered index")[0].replace("// -> 71n", "// -> 72n");
  await assert.rejects(runs(code.split("\n").map(checked).join("\n")), { code: "ERR_ASSERTION" });
});

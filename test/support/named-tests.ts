/** Tests that a page of the documentation names. */
import assert from "node:assert/strict";

/** "`file`: title; `file`: title": titles may have semicolons, files are in backticks. */
export function named(tests: string): { file: string; title: string }[] {
  return tests
    .split(/(?:^|; )(?=`[^`]+`: )/)
    .filter((part) => part !== "")
    .map((part) => {
      const [, file, title] = /^`([^`]+)`: (.+)$/s.exec(part) ?? [];
      assert.ok(file && title, `"${part}" is a file and a title`);
      return { file, title };
    });
}

/** Whether one of the titles in a source, templates filled in with anything, is `title`. */
export function hasTitle(source: string, title: string): boolean {
  const titles = source.matchAll(/(?:test|describe)\(\s*(?:"((?:[^"\\]|\\.)*)"|`((?:[^`\\]|\\.)*)`)/g);
  for (const [, plain, template] of titles) {
    if (plain === title) return true;
    if (template === undefined) continue;
    const pattern = template
      .split(/\$\{[^}]*\}/)
      .map((part) => part.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&"))
      .join(".*");
    if (new RegExp(`^${pattern}$`).test(title)) return true;
  }
  return false;
}

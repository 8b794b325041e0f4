/** The module check accepts what is shipped and refuses modules that break one rule each. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import binaryen from "binaryen";
import { root } from "../support/package-root.js";

interface Rule {
  shared: boolean;
  features: number;
  budget: number;
}

const script = (await import(pathToFileURL(join(root, "scripts", "check-wasm.mjs")).href)) as {
  RULES: Record<string, Rule>;
  problems: (bytes: Uint8Array, rule: Rule) => string[];
};
const { RULES, problems } = script;

function module(text: string): Uint8Array {
  const parsed = binaryen.parseText(text);
  parsed.setFeatures(binaryen.Features.All);
  return parsed.emitBinary();
}

const MEMORY = `(import "env" "memory" (memory 1 65536))`;

test("every shipped module passes", () => {
  for (const [name, rule] of Object.entries(RULES)) {
    assert.deepEqual(problems(readFileSync(join(root, "build", name)), rule), [], name);
  }
});

const REFUSED: readonly [what: string, text: string, problem: RegExp][] = [
  ["a data section", `(module ${MEMORY} (data (i32.const 8) "x"))`, /data section/],
  ["a start function", `(module ${MEMORY} (func $f) (start $f))`, /start function/],
  ["another import", `(module (import "env" "abort" (func)) ${MEMORY})`, /imports env\.abort/],
  ["a shared memory", `(module (import "env" "memory" (memory 1 65536 shared)))`, /plain memory/],
  [
    "a vector instruction",
    `(module ${MEMORY} (func (export "f") (result i32) (i32x4.extract_lane 0 (v128.load (i32.const 0)))))`,
    /features/,
  ],
  [
    "an atomic instruction",
    `(module ${MEMORY} (func (export "f") (result i32) (i32.atomic.load (i32.const 0))))`,
    /features/,
  ],
];

for (const [what, text, problem] of REFUSED) {
  test(`a scalar module with ${what} is refused`, () => {
    assert.match(problems(module(text), RULES["core-scalar.wasm"]).join("; "), problem);
  });
}

test("a module over its budget is refused", () => {
  const bytes = readFileSync(join(root, "build", "core.wasm"));
  assert.match(problems(bytes, { ...RULES["core.wasm"], budget: bytes.length - 1 }).join(), /budget/);
});

test("the one-thread builds contain no atomic instruction, the threads build does", () => {
  const atomics = (build: string): number => {
    const parsed = binaryen.readBinary(readFileSync(join(root, "build", `${build}.wasm`)));
    return parsed.emitText().match(/\.atomic\.|atomic\.fence|memory\.atomic/g)?.length ?? 0;
  };
  assert.equal(atomics("core"), 0);
  assert.equal(atomics("core-scalar"), 0);
  assert.ok(atomics("core-threads") > 20);
});

/**
 * What the bindings declare is what the module has: export names, parameter counts, status codes, header
 * words.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Core, loadModule } from "../../bindings/main.js";
import { STATUS_CODES } from "../../bindings/errors.js";
import { PlanHeader } from "../../bindings/scheduler.js";
import { root } from "../support/package-root.js";

const read = (path: string): string => readFileSync(join(root, path), "utf8");

/** Declared functions of the exports interfaces: name to parameter count. */
function declared(): Map<string, number> {
  return new Map(
    [...read("bindings/exports.ts").matchAll(/^\s{2}(\w+)\(([^)]*)\): \w+;/gm)].map(
      ([, name, parameters]) => [name, parameters.split(":").length - 1],
    ),
  );
}

test("every declared export exists with that many parameters, and no other does", async () => {
  const { exports } = await Core.create();
  const actual = new Map(
    Object.entries(exports)
      .filter(([, value]) => typeof value === "function")
      .map(([name, value]) => [name, (value as unknown as () => void).length]),
  );
  assert.deepEqual(new Map([...declared()].sort()), new Map([...actual].sort()));
});

test("all builds export the same functions", async () => {
  const names = async (build: "core" | "core-threads" | "core-scalar" | "debug"): Promise<string[]> =>
    WebAssembly.Module.exports(await loadModule(build))
      .filter((entry) => entry.kind === "function")
      .map((entry) => entry.name)
      .sort();
  const expected = await names("core");
  for (const build of ["core-threads", "core-scalar", "debug"] as const)
    assert.deepEqual(await names(build), expected);
});

test("status codes are the same list in core and bindings", () => {
  const core = [...read("assembly/memory/status.ts").matchAll(/export const (\w+): Status = (-\d+);/g)];
  assert.deepEqual(
    Object.fromEntries(core.map(([, name, code]) => [code, name])),
    Object.fromEntries(Object.entries(STATUS_CODES)),
  );
});

test("docs/abi.md documents the words of the plan header as the bindings read them", () => {
  const section = read("docs/abi.md").split("## StepPlan")[1].split("\n## ")[0];
  const documented = [...section.matchAll(/^\| (\d+) \| `(\w+)` \|/gm)].map(([, word, name]) => [
    name,
    Number(word),
  ]);
  assert.deepEqual(Object.fromEntries(documented), PlanHeader);
});

test("a host that knows only docs/abi.md can read a plan", async () => {
  const { exports, memory } = await Core.create();
  assert.equal(exports.kvCacheCreate(4096, 4, 4, 64, 1, 64, 0), -2, "out of memory, until the host grows it");
  memory.grow(64);
  assert.equal(exports.coreExtend(), 0);
  assert.equal(exports.kvCacheCreate(4096, 4, 4, 64, 1, 64, 0), 0);
  const kv = exports.coreRegionPointer(exports.coreRegions() - 1);
  assert.equal(exports.schedulerRegionCreate(kv, 4, 2, 8, 0, 0, 50, 1, 256, 0, 1, 1, 1, 2), 0);
  const scheduler = exports.coreRegionPointer(exports.coreRegions() - 1);
  new Uint32Array(memory.buffer, exports.kvInput(kv), 5).set([10, 11, 12, 13, 14]);
  const request = exports.requestSubmit(scheduler, 0, 0, 5, 3, 0, 0, 0, 0, 0, 0, 0, 0);
  assert.ok(request > 0);
  assert.equal(exports.schedulerStep(scheduler, 0), 1);
  const words = new Uint32Array(memory.buffer);
  const plan = exports.schedulerPlan(scheduler) / 4;
  const word = (name: string): number => {
    const row = new RegExp(`^\\| (\\d+) \\| \`${name}\` \\|`, "m").exec(read("docs/abi.md"))!;
    return words[plan + Number(row[1])];
  };
  const array = (name: string, length: number): number[] => [
    ...words.subarray(word(name) / 4, word(name) / 4 + length),
  ];
  assert.equal(word("rows"), 1);
  assert.equal(word("totalTokens"), 5);
  assert.deepEqual(array("requests", 1), [request]);
  assert.deepEqual(array("phases", 1), [2]);
  assert.deepEqual(array("tokens", 5), [10, 11, 12, 13, 14]);
  const [start] = array("tableStart", 1);
  const table = words.subarray(
    word("tables") / 4 + start,
    word("tables") / 4 + start + array("tableCount", 1)[0],
  );
  assert.deepEqual(
    array("slots", 5),
    [0, 1, 2, 3, 4].map((position) => table[position >> 2] * 4 + (position & 3)),
  );
});

/**
 * Imports run downhill only: memory < index, select, vmm < orders < paging < eviction, experts < scheduling < exports, and
 * inside a folder of the core from file to file as well.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { test } from "node:test";
import { root } from "../support/package-root.js";

const RANK: Readonly<Record<string, number>> = {
  memory: 0,
  index: 1,
  select: 1,
  vmm: 1,
  orders: 2,
  paging: 3,
  eviction: 4,
  experts: 4,
  scheduling: 5,
  exports: 6,
};

/** What each host folder may import from, beside itself. */
const HOST: Readonly<Record<string, readonly string[]>> = {
  bindings: [],
  sim: ["bindings"],
  "native-host": ["bindings"],
  cli: ["bindings", "native-host", "sim"],
  bench: ["bindings", "native-host", "sim"],
};

function sources(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts") && !name.includes("kernels/wasm"))
    .map((name) => join(folder, name));
}

function imports(text: string): string[] {
  return [...text.matchAll(/from "(\.[^"]*)"|import\("(\.[^"]*)"\)/g)].map((match) => match[1] ?? match[2]);
}

/** Why an import of the core is not allowed, or undefined. */
function coreViolation(file: string, target: string): string | undefined {
  const to = relative("assembly", join(dirname(file), target)).split("/");
  const from = relative("assembly", file).split("/")[0];
  if (to[0] === "..") return `${file} leaves the core: ${target}`;
  if (!(from in RANK)) return undefined; // the entry
  if (!(to[0] in RANK)) return `${file} imports an unknown layer: ${target}`;
  if (to[0] !== from && RANK[to[0]] >= RANK[from]) return `${file} imports uphill: ${target}`;
  return undefined;
}

/** A ring of files that import each other, as "a -> b -> a", or undefined. `graph`: what each file imports. */
function ring(graph: ReadonlyMap<string, readonly string[]>): string | undefined {
  const done = new Set<string>();
  const path: string[] = [];
  const visit = (file: string): string | undefined => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file].join(" -> ");
    if (done.has(file)) return undefined;
    path.push(file);
    for (const target of graph.get(file) ?? []) {
      const found = visit(target);
      if (found !== undefined) return found;
    }
    path.pop();
    done.add(file);
    return undefined;
  };
  for (const file of graph.keys()) {
    const found = visit(file);
    if (found !== undefined) return found;
  }
  return undefined;
}

function hostViolation(file: string, target: string): string | undefined {
  const from = file.split("/")[0];
  const to = join(dirname(file), target).split("/")[0];
  return to === from || HOST[from].includes(to) ? undefined : `${file} imports ${target}`;
}

test("the core's imports run downhill", () => {
  const found = sources("assembly").flatMap((file) =>
    imports(readFileSync(join(root, file), "utf8")).map((target) => coreViolation(file, target)),
  );
  assert.ok(found.length > 50, "the check sees the imports");
  assert.deepEqual(found.filter(Boolean), []);
});

test("no two files of the core import each other, directly or through others", () => {
  const graph = new Map(
    sources("assembly").map((file) => {
      const targets = imports(readFileSync(join(root, file), "utf8"));
      return [file, targets.map((target) => `${join(dirname(file), target)}.ts`)];
    }),
  );
  for (const targets of graph.values())
    for (const target of targets) assert.ok(graph.has(target), `${target} is a file`);
  assert.equal(ring(graph), undefined);
});

test("host folders import only what is below them", () => {
  const found = Object.keys(HOST).flatMap((folder) =>
    sources(folder).flatMap((file) =>
      imports(readFileSync(join(root, file), "utf8")).map((target) => hostViolation(file, target)),
    ),
  );
  assert.ok(found.length > 40, "the check sees the imports");
  assert.deepEqual(found.filter(Boolean), []);
});

test("the checks would notice an import that runs uphill", () => {
  assert.match(coreViolation("assembly/paging/pool.ts", "../scheduling/step")!, /uphill/);
  assert.match(coreViolation("assembly/index/layout.ts", "../select/topk")!, /uphill/);
  assert.match(coreViolation("assembly/paging/pool.ts", "../../bindings/core")!, /leaves/);
  const ringed = new Map([
    ["a", ["b", "d"]],
    ["b", ["c"]],
    ["c", ["b"]],
    ["d", []],
  ]);
  assert.equal(ring(ringed), "b -> c -> b");
  assert.match(hostViolation("bindings/core.ts", "../sim/plot.js")!, /imports/);
  assert.match(hostViolation("bench/select.ts", "../test/support/random.js")!, /imports/);
});

/**
 * The index of the threads build as shipped, and mutants of it: the same source with one guard taken out, which a
 * check that is worth its name must notice.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { compileCore, type Edit } from "./compile-core.js";
import { root } from "./package-root.js";

export type Mutant = Edit;

/** Guards and what the source looks like without each. */
export const MUTANTS = {
  "heights differ between threads": {
    file: "assembly/index/put.ts",
    find: "const height = heightOf(index, key);",
    replace: "const height = min(heightOf(index, key) + (workerId() & 1), index.levels - 1);",
  },
  "a level is left before the next is locked": {
    file: "assembly/index/put.ts",
    find: "    if (isShared(index)) lockNode(index, child);\n    leaveSmaller(index, left, at, level);\n",
    replace: "    leaveSmaller(index, left, at, level);\n    if (isShared(index)) lockNode(index, child);\n",
  },
  "a new node is published unlocked": {
    file: "assembly/index/nodes.ts",
    find: "  if (isShared(index)) lockPrivate(at);\n",
    replace: "",
  },
  "a deletion locks right before left": {
    file: "assembly/index/delete.ts",
    find: "      if (isShared(index)) lockNode(index, below);\n",
    replace:
      "      if (isShared(index)) {\n" +
      "        const first = node(below).next;\n" +
      "        if (first != 0) lockNode(index, first);\n" +
      "        lockNode(index, below);\n" +
      "        if (first != 0) releaseExclusive(first);\n" +
      "      }\n",
  },
  "an overwrite lets go of the entry before it locks the leaf": {
    file: "assembly/index/put.ts",
    find: "      lockNode(index, child);\n      releaseExclusive(at);\n",
    replace: "      releaseExclusive(at);\n      lockNode(index, child);\n",
  },
  "a merge does not lock the right neighbour": {
    file: "assembly/index/edit.ts",
    find: "  const lock = isShared(index) && !held;\n",
    replace: "  const lock = false;\n",
  },
  "a locking reader lets go before it has the next node": {
    file: "assembly/index/place.ts",
    find: "    enterShared(index, next);\n    leaveShared(index, at);\n",
    replace: "    leaveShared(index, at);\n    enterShared(index, next);\n",
  },
  "a writer of an inner node does not wait for its readers": {
    file: "assembly/index/reading.ts",
    find: "  if (isNamed(index, at)) awaitReaders(index, at);\n",
    replace: "",
  },
  "a reader does not validate the leaf": {
    file: "assembly/index/read.ts",
    find: "  if (!unchanged(at, version)) return -1;\n",
    replace: "",
  },
  "a reader does not validate the way down": {
    file: "assembly/index/place.ts",
    find: "    if (!unchanged(at, version)) return 0;\n",
    replace: "",
  },
  "a writer does not validate the place it locks": {
    file: "assembly/memory/locks.ts",
    find: "  if (ASC_FEATURE_THREADS) return atomic.cmpxchg<u64>(word, version, version | WRITER) == version;\n",
    replace: "  lockExclusive(word);\n",
  },
  "a scan does not validate its leaf": {
    file: "assembly/index/scan.ts",
    find: "      if (!unchanged(at, version)) break;\n",
    replace: "",
  },
  "a freed node keeps its version": {
    file: "assembly/index/nodes.ts",
    find: "      unlockExclusive(at);\n",
    replace: "      atomic.store<u64>(at, load<u64>(at) & ~(<u64>0xffff));\n",
  },
  "the free list has no change count": {
    file: "assembly/index/nodes.ts",
    find: "  return (((seen >> 32) + 1) << 32) | top;\n",
    replace: "  return top;\n",
  },
  "nodes are not reserved": {
    file: "assembly/index/nodes.ts",
    find: "        if (atomic.cmpxchg<u32>(freeCountWord(index), free, free - count) == free) return true;\n",
    replace: "        atomic.store<u32>(freeCountWord(index), free - count);\n        return true;\n",
  },
  "leaving a lock forgets readers that came in": {
    file: "assembly/memory/locks.ts",
    find: "      const seen = atomic.load<u64>(word);\n      if ((seen & WRITER) == 0) {\n        if (atomic.cmpxchg<u64>(word, seen, seen + READER) == seen) return;\n",
    replace:
      "      const seen = atomic.add<u64>(word, READER);\n      if ((seen & WRITER) == 0) {\n        return;\n      } else if (atomic.sub<u64>(word, READER) == 0) {\n",
  },
  "an exchange lets go of the leaf before it stores": {
    file: "assembly/index/update.ts",
    find:
      "  if (equal) storeValue(index, entry, value);\n" +
      "  if (isShared(index)) {\n" +
      "    if (equal) unlockExclusive(entryLeaf);\n" +
      "    else releaseExclusive(entryLeaf);\n" +
      "  }\n",
    replace: "  unlockExclusive(entryLeaf);\n  if (equal) storeValue(index, entry, value);\n",
  },
  "an addition lets go of the leaf before it stores": {
    file: "assembly/index/update.ts",
    find:
      "  storeValue(index, entry, own.result + delta);\n" +
      "  if (isShared(index)) unlockExclusive(entryLeaf);\n",
    replace: "  unlockExclusive(entryLeaf);\n  storeValue(index, entry, own.result + delta);\n",
  },
  "a leaf found ahead is not proved": {
    file: "assembly/index/read.ts",
    find: "  return n.level == 0 && n.count > 0 && keyAt(at, 0) <= key && key < n.nextHeader ? version : NO_VERSION;\n",
    replace: "  return n.level == 0 ? version : NO_VERSION;\n",
  },
  "a leaf found ahead is locked as it is now, not as it was proved": {
    file: "assembly/index/batch.ts",
    find: "(!isShared(index) || tryUpgrade(at, version));",
    replace: "(!isShared(index) || tryUpgrade(at, load<u64>(at) & ~(<u64>0xffff)));",
  },
  "two workers take one id": {
    file: "assembly/memory/workers.ts",
    find: "      if (atomic.cmpxchg<u64>(ARENA + TAKEN, taken, taken | ((<u64>1) << id)) == taken) {\n",
    replace: "      atomic.store<u64>(ARENA + TAKEN, taken | ((<u64>1) << id));\n      if (true) {\n",
  },
} as const satisfies Readonly<Record<string, Mutant>>;

export type MutantName = keyof typeof MUTANTS;

/** Guards of the shared prefix probe; and one of the index that a probe needs as well. */
const CACHE_MUTANTS = {
  "an evicted block keeps its key": {
    file: "assembly/paging/probe-index.ts",
    find: "  record.key = NO_KEY;\n",
    replace: "",
  },
  "a probe does not look at the key again": {
    file: "assembly/paging/probe.ts",
    find: "    if (probeKey(keyNow(block(kv, id))) != load<u64>(keysOf(work) + ((<usize>counted) << 3))) break;\n",
    replace: "",
  },
  "a reader does not validate the leaf": MUTANTS["a reader does not validate the leaf"],
} as const satisfies Readonly<Record<string, Mutant>>;

export type CacheMutantName = keyof typeof CACHE_MUTANTS;

/** The module that is shipped. */
export function shipped(): Uint8Array<ArrayBuffer> {
  return new Uint8Array(readFileSync(join(root, "build", "core-threads.wasm")));
}

/**
 * Threads sleep now and then where they are about to take a lock or to prove what they have read: so they meet in the
 * middle of calls, however many processors there are. Nothing else changes.
 */
const DISTURBANCE: readonly Mutant[] = [
  {
    file: "assembly/memory/workers.ts",
    find: "/** Takes the lowest free id for this instance; OUT_OF_WORKERS when all are in use. */\n",
    replace:
      "let turns: u32 = 0;\n" +
      "export function disturb(): void {\n" +
      "  turns = turns * 1664525 + 1013904223 + worker;\n" +
      "  if (turns >> 27 == 0) park(ARENA + POISON, 0, 1);\n" +
      "}\n",
  },
  {
    file: "assembly/memory/locks.ts",
    find: 'import { loadFence, waitTurn } from "./workers";\n',
    replace: 'import { disturb, loadFence, waitTurn } from "./workers";\n',
  },
  ...["lockShared(word: usize): void", "lockExclusive(word: usize): void"].map((head) => ({
    file: "assembly/memory/locks.ts",
    find: `export function ${head} {\n`,
    replace: `export function ${head} {\n  disturb();\n`,
  })),
  ...["unchanged(word: usize, version: u64): bool", "tryUpgrade(word: usize, version: u64): bool"].map(
    (head) => ({
      file: "assembly/memory/locks.ts",
      find: `export function ${head} {\n`,
      replace: `export function ${head} {\n  disturb();\n`,
    }),
  ),
];

const INDEX = 'export * from "./assembly/exports/memory";\nexport * from "./assembly/exports/index";\n';
const built = new Map<string, Promise<Uint8Array<ArrayBuffer>>>();

/** Each build is compiled once. */
function once(name: string, run: () => Promise<Uint8Array<ArrayBuffer>>): Promise<Uint8Array<ArrayBuffer>> {
  let bytes = built.get(name);
  if (!bytes) built.set(name, (bytes = run()));
  return bytes;
}

/** Index and memory of the threads build with one guard taken out. */
export function mutant(name: MutantName): Promise<Uint8Array<ArrayBuffer>> {
  return once(name, () => compile(INDEX, [MUTANTS[name]], 3));
}

/** Parts of the threads build with one guard taken out: exports by their file in assembly/exports. */
export function cacheMutant(
  name: CacheMutantName,
  exports: Readonly<Record<string, readonly string[]>>,
): Promise<Uint8Array<ArrayBuffer>> {
  const entry = Object.entries(exports).map(
    ([file, names]) => `export { ${names.join(", ")} } from "./assembly/exports/${file}";\n`,
  );
  return compile(entry.join(""), [CACHE_MUTANTS[name]], 1);
}

/** Index and memory, disturbed; nothing taken out if no name is given. Compiled in haste: it sleeps most of the time. */
export function disturbed(name?: MutantName): Promise<Uint8Array<ArrayBuffer>> {
  const edits = [...DISTURBANCE, ...(name === undefined ? [] : [MUTANTS[name]])];
  return once(`disturbed, ${name}`, () => compile(INDEX, edits, 1));
}

/** Index and memory of the threads build with other edits, compiled quickly. */
export function editedBuild(edits: readonly Mutant[]): Promise<Uint8Array<ArrayBuffer>> {
  return compile(INDEX, edits, 1);
}

function compile(
  entry: string,
  edits: readonly Mutant[],
  optimizeLevel: number,
): Promise<Uint8Array<ArrayBuffer>> {
  return compileCore(entry, edits, { threads: true, optimizeLevel });
}

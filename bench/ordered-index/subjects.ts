/** The maps that replay a workload, each as a command of its own; those of other languages are compiled first. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export interface Subject {
  readonly name: string;
  readonly threads: number;
  /** Whether it keeps keys in order. */
  readonly ordered: boolean;
  readonly ours: boolean;
  command(workloadFile: string): string[];
}

const here = dirname(fileURLToPath(import.meta.url));
/** Sources are not compiled into dist/. */
const peers = join(here, "..", "..", "..", "bench", "peer");

function javascript(name: string, argument: string, threads = 1): Subject {
  const flags = ["--expose-gc", "--max-old-space-size=12288"];
  return {
    name,
    threads,
    ordered: name !== "Map",
    ours: name.startsWith("quartermaster"),
    command: (file) => [process.execPath, ...flags, join(here, "child.js"), file, argument],
  };
}

const ALONE: readonly Subject[] = [
  javascript("quartermaster", "private:batch:1"),
  javascript("quartermaster/single-halves", "private:halves:1"),
  javascript("quartermaster/single-bigint", "private:bigint:1"),
  javascript("quartermaster/optimistic", "optimistic:batch:1"),
  javascript("quartermaster/locked", "locked:batch:1"),
];

/** Ours by one thread and in teams of so many. */
export function ours(teams: readonly number[]): Subject[] {
  return [...ALONE, ...teams.flatMap((threads) => sharedBy(threads))];
}

/** The shared modes by one thread and in teams, in memory whose pages were all touched before: the load meets no page fault. */
export function touched(teams: readonly number[]): Subject[] {
  return [1, ...teams].flatMap((threads) => sharedBy(threads, "touched"));
}

function sharedBy(threads: number, memory?: "touched"): Subject[] {
  return ["optimistic", "locked"].map((mode) =>
    javascript(
      ["quartermaster", mode, ...(memory ? [memory] : [])].join("/"),
      [mode, "batch", threads, ...(memory ? [memory] : [])].join(":"),
      threads,
    ),
  );
}

export const PACKAGES: readonly Subject[] = [
  "sorted-btree",
  "js-sdsl",
  "functional-red-black-tree",
  "Map",
].map((name) => javascript(name, name));

/** Ours of another shape: bytes a node and keys for each one promoted. */
export function shaped(nodeBytes: number, keysPerPromotion: number): Subject {
  return javascript(
    `quartermaster/${nodeBytes}/${keysPerPromotion}`,
    `private:batch:1:${nodeBytes}:${keysPerPromotion}`,
  );
}

export const JAVA = "java ConcurrentSkipListMap";
export const ABSEIL = "absl::btree_map";
export const AUTHORS = "authors' B-skiplist (C++)";
/** Where a checkout of the authors' code lies; its folder bskiplist. */
const AUTHORS_SOURCE = "QUARTERMASTER_BSKIPLIST";

function works(command: string, ...flags: string[]): boolean {
  const { status, error, stderr } = spawnSync(command, flags, { encoding: "utf8" });
  if (error === undefined && status !== 0) process.stderr.write(stderr);
  return error === undefined && status === 0;
}

/** Compiles the drivers into `folder`; says on stderr what cannot be had here. */
export function compiledPeers(folder: string, teams: readonly number[]): Subject[] {
  return [...javaPeer(folder, teams), ...cppPeers(folder)];
}

function skipped(name: string, need: string): [] {
  console.error(`SKIPPED ${name}: it needs ${need}`);
  return [];
}

function javaPeer(folder: string, teams: readonly number[]): Subject[] {
  if (!works("javac", "-version")) return skipped(JAVA, "a JDK, 17 or later (javac)");
  if (!works("javac", "-d", folder, join(peers, "skiplist", "SkipListReplay.java")))
    return skipped(JAVA, "a JDK that compiles Java 17");
  const flags = ["-Xms6g", "-Xmx12g", "-cp", folder, "SkipListReplay"];
  return [1, ...teams].map((threads) => ({
    name: JAVA,
    threads,
    ordered: true,
    ours: false,
    command: (file) => ["java", ...flags, file, String(threads)],
  }));
}

function cppPeers(folder: string): Subject[] {
  if (!works("g++", "--version")) return skipped(`${AUTHORS}, ${ABSEIL} and std::map`, "g++");
  const source = join(peers, "trees", "tree-replay.cpp");
  const flags = ["-O3", "-march=native", "-std=c++20", "-w", "-DNDEBUG", source];
  const subjects: Subject[] = [];
  const add = (name: string, program: string, ...more: string[]): boolean => {
    const path = join(folder, program);
    if (!works("g++", ...flags, "-o", path, ...more)) return false;
    subjects.push({ name, threads: 1, ordered: true, ours: false, command: (file) => [path, file] });
    return true;
  };
  if (!existsSync("/usr/include/absl/container/btree_map.h"))
    skipped(ABSEIL, "the headers of Abseil (Debian: libabsl-dev)");
  else if (!add(ABSEIL, "absl-replay", "-DABSEIL", "-labsl_throw_delegate"))
    skipped(ABSEIL, "a linkable Abseil");
  if (!add("std::map", "std-replay")) skipped("std::map", "a C++20 compiler");
  const authors = process.env[AUTHORS_SOURCE];
  if (authors === undefined)
    skipped(AUTHORS, `${AUTHORS_SOURCE}, the folder bskiplist of github.com/Ratbuyer/bskip_artifact`);
  else if (!add(AUTHORS, "bskiplist-replay", ...authorsFlags(authors)))
    skipped(AUTHORS, `a folder bskiplist that compiles at ${AUTHORS_SOURCE}`);
  return subjects;
}

function authorsFlags(folder: string): string[] {
  const off = ["DEBUG", "CILK", "ENABLE_TRACE_TIMER", "CYCLE_TIMER", "CORRECTNESS"].map(
    (name) => `-D${name}=0`,
  );
  const sources = ["constructor", "destructor", "insert", "value"].map((name) =>
    join(folder, "src", `${name}.cpp`),
  );
  const external = join(folder, "external");
  const include = [`-I${folder}`, "-isystem", join(external, "ParallelTools"), "-isystem", external];
  return ["-DBSKIPLIST", ...off, ...include, ...sources, "-latomic", "-lpthread"];
}

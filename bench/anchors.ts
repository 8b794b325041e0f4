/**
 * Are the core's targets met in every host? The same cases in Node, in Deno and in C through wasm2c, in turns, in CPU
 * time; with a bare cache and scheduler, and with every add-on that goes together. Deno and C are left out, and said to be, where they are not there.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Figure } from "./anchors/cases.js";
import { median, type Report } from "./measure.js";

export const title =
  "the core's targets in Node, in Deno and in C: match, allocate, decode, admit, order, bytes a block";

/** dist/bench/ of the package. */
const here = dirname(fileURLToPath(import.meta.url));
const root = dirname(dirname(here));

/** What each case should stay below, and what it stands beside: best figures of theirs, so the best of ours is held to it. */
const TARGETS: Readonly<
  Record<string, { readonly below: number; readonly anchor: string; readonly value: number }>
> = {
  "match 64 blocks": { below: 3, anchor: "SGLang C++ radix tree", value: 1.0 },
  "match 512 blocks": { below: 12, anchor: "SGLang C++ radix tree", value: 3.9 },
  "match 4096 blocks": { below: 80, anchor: "SGLang C++ radix tree", value: 27 },
  "allocate and free, a block": { below: 20, anchor: "vLLM v1 allocate_slots + free", value: 250 },
  "decode step of 1,024": { below: 300, anchor: "vLLM v1 schedule + update_from_output", value: 13600 },
  "admit with 64 blocks cached": { below: 6, anchor: "vLLM v1 schedule, a request", value: 87 },
  "order 4,096 waiting": { below: 50_000, anchor: "SGLang, 128 waiting of 512 blocks", value: 37_000 },
  "bytes a cached block": { below: 48, anchor: "vLLM v1", value: 250 },
};

interface Host {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
}

/** Compiles the C driver against the C library; returns its path, or why there is none. */
function compile(folder: string): { readonly program: string } | { readonly why: string } {
  const variant = ["simd", "scalar"].find((name) =>
    existsSync(join(root, "build", "c", name, "installed", "lib", "libquartermaster.so")),
  );
  if (variant === undefined) return { why: "the C library was not built (npm run build:c)" };
  const installed = join(root, "build", "c", variant, "installed");
  const program = join(folder, "anchors");
  const source = join(root, "bench", "anchors", "anchors.c");
  const libraries = join(installed, "lib");
  const flags = [
    `-I${join(installed, "include")}`,
    `-L${libraries}`,
    `-Wl,-rpath,${libraries}`,
    "-lquartermaster",
    "-lm",
  ];
  const { status, stderr, error } = spawnSync("cc", ["-O2", "-Wall", source, "-o", program, ...flags], {
    encoding: "utf8",
  });
  if (error) return { why: "no C compiler" };
  if (status !== 0) throw new Error(`cc: ${stderr}`);
  return { program };
}

function hosts(folder: string, report: Report): Host[] {
  const script = join(here, "anchors", "run.js");
  const found: Host[] = [{ name: "quartermaster", command: process.execPath, args: [script] }];
  const deno = join(root, "node_modules", ".bin", "deno");
  if (existsSync(deno))
    found.push({
      name: "quartermaster/deno",
      command: deno,
      args: ["run", "--allow-read", "--no-check", script],
    });
  else skipped(report, "Deno", "it is not installed");
  const compiled = compile(folder);
  if ("program" in compiled) found.push({ name: "quartermaster/c", command: compiled.program, args: [] });
  else skipped(report, "C", compiled.why);
  return found;
}

function skipped(report: Report, host: string, why: string): void {
  console.error(`anchors: SKIPPED in ${host}: ${why}`);
  report.unmeasured(host, why);
}

function measure(host: Host, quick: boolean, everything: boolean): Figure[] {
  const flags = [...(quick ? ["--quick"] : []), ...(everything ? ["--everything"] : [])];
  const { status, stdout, stderr } = spawnSync(host.command, [...host.args, ...flags], { encoding: "utf8" });
  if (status !== 0) throw new Error(`${host.name}: ${stderr}`);
  return JSON.parse(stdout) as Figure[];
}

export async function run(report: Report): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "quartermaster-anchors-"));
  try {
    const all = hosts(folder, report);
    const turns = report.quick ? 1 : 5;
    const runs = [false, true].flatMap((everything) => all.map((host) => ({ host, everything })));
    const figures = runs.map((): Figure[][] => []);
    for (let turn = 0; turn < turns; turn++)
      runs.forEach(({ host, everything }, i) => figures[i].push(measure(host, report.quick, everything)));
    const cases = figures[0][0];
    for (const [i, { case: name, unit }] of cases.entries()) {
      const target = TARGETS[name];
      for (const [run, { host, everything }] of runs.entries()) {
        const subject = everything ? `${host.name}, everything on` : host.name;
        const turned = figures[run].map((turn) => turn[i]);
        const value = median(turned.map((figure) => figure.median));
        report.measured(name, subject, "median", value, unit);
        const best = Math.min(...turned.map((figure) => figure.best));
        report.measured(name, subject, "best", best, unit);
        if (target && !report.quick) report.bar(`${name}, ${subject}`, best, "<", target.below);
      }
      if (target) report.quoted(name, target.anchor, "best", target.value, unit);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
}

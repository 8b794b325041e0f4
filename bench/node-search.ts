/**
 * How should a node be searched? Five searches over nodes of several sizes, in cache and out of it, one after the other
 * and independent of each other: the figures behind docs/decisions/0007.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { RandomStream } from "../sim/random.js";
import { interleave, type Report } from "./measure.js";

export const title =
  "searching one node of 8 to 128 keys: linear, SIMD count, binary with and without branches, four-way";

const SEARCHES = ["Halving", "Quartering", "Branching", "Counting", "Linear"] as const;
type Run = (
  keys: number,
  queries: number,
  nodes: number,
  mask: number,
  count: number,
  seed: number,
  dependent: number,
) => number;

const SIZES = [8, 16, 32, 64, 128];
const QUERIES = 8192;
/** Bytes of all nodes together: within the second-level cache, and far beyond the third. */
const FOOTPRINTS = { "in cache": 128 << 10, "in memory": 256 << 20 };

async function compile(): Promise<WebAssembly.Module> {
  const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
  const folder = mkdtempSync(join(tmpdir(), "node-search-"));
  try {
    const out = join(folder, "search.wasm");
    const flags = ["-O3", "--runtime", "stub", "--enable", "simd", "--importMemory", "--outFile", out];
    const asc = join(root, "node_modules", "assemblyscript", "bin", "asc.js");
    const source = join(root, "bench", "node-search", "assembly", "search.ts");
    const { status, stderr } = spawnSync(process.execPath, [asc, source, ...flags], { encoding: "utf8" });
    if (status !== 0) throw new Error(stderr);
    return await WebAssembly.compile(readFileSync(out));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

export async function run(report: Report): Promise<void> {
  const module = await compile();
  for (const [where, footprint] of Object.entries(FOOTPRINTS)) {
    if (report.quick && where === "in memory") continue;
    for (const size of SIZES)
      for (const dependent of [false, true])
        await measure(report, module, { where, footprint, size, dependent });
  }
}

interface Case {
  readonly where: string;
  readonly footprint: number;
  readonly size: number;
  readonly dependent: boolean;
}

async function measure(
  report: Report,
  module: WebAssembly.Module,
  { where, footprint, size, dependent }: Case,
): Promise<void> {
  const nodesAt = 1 << 16;
  const memory = new WebAssembly.Memory({ initial: (nodesAt + footprint) / 65536, maximum: 65536 });
  const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
  const nodes = footprint / (size * 8);
  // Every node holds keys 4, 8, 12, ...: which slot is right is a matter of the query alone.
  new BigUint64Array(memory.buffer, nodesAt, nodes * size).set(
    BigUint64Array.from({ length: nodes * size }, (_, i) => BigInt((i % size) * 4 + 4)),
  );
  const random = new RandomStream(size);
  const keys = new BigUint64Array(memory.buffer, 0, QUERIES);
  keys.set(BigUint64Array.from(keys, () => BigInt(4 + random.below(size * 4))));
  const expected = keys.reduce((sum, key) => sum + Number(key >> 2n), 0);
  let seed = 0;
  const timings = await interleave(
    SEARCHES.map((name) => {
      const search = exports[`run${name}`] as Run;
      const ask = (): number => search(0, QUERIES, nodesAt, nodes - 1, size, seed++, Number(dependent));
      if (ask() !== expected) throw new Error(`${name} finds other slots`);
      return {
        name: name === "Halving" ? "quartermaster" : name.toLowerCase(),
        operations: QUERIES,
        run: () => {
          ask();
        },
      };
    }),
    report.quick ? 5 : 40,
  );
  report.timings(`${size} keys/${where}/${dependent ? "dependent" : "independent"}`, timings, "ns");
}

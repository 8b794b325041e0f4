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
type Run = (places: number, keys: number, queries: number, count: number, dependent: number) => number;

const SIZES = [8, 16, 32, 64, 128];
const QUERIES = 10_000;
/** Sets of queries, in turn. */
const SETS = 16;
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
  const queriesBytes = QUERIES * 12;
  const nodesAt = (queriesBytes + 0xffff) & ~0xffff;
  const memory = new WebAssembly.Memory({
    initial: Math.ceil((nodesAt + footprint) / 65536),
    maximum: 65536,
  });
  const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
  const nodes = Math.floor(footprint / (size * 8));
  const random = new RandomStream(size);
  // Every node holds keys 4, 8, 12, ...: which slot is right is a matter of the query alone.
  new BigUint64Array(memory.buffer, nodesAt, nodes * size).set(
    BigUint64Array.from({ length: nodes * size }, (_, i) => BigInt((i % size) * 4 + 4)),
  );
  const places = new Uint32Array(memory.buffer, QUERIES * 8, QUERIES);
  const keys = new BigUint64Array(memory.buffer, 0, QUERIES);
  const sets = Array.from({ length: SETS }, () => ({
    places: Uint32Array.from({ length: QUERIES }, () => nodesAt + random.below(nodes) * size * 8),
    keys: BigUint64Array.from({ length: QUERIES }, () => BigInt(4 + random.below(size * 4))),
  }));
  let turn = 0;
  const ask = (): void => {
    const set = sets[turn++ % SETS];
    places.set(set.places);
    keys.set(set.keys);
  };
  ask();
  const expected = keys.reduce((sum, key) => sum + Number(key >> 2n), 0);
  const timings = await interleave(
    SEARCHES.map((name) => {
      const search = exports[`run${name}`] as Run;
      if (search(QUERIES * 8, 0, QUERIES, size, Number(dependent)) !== expected)
        throw new Error(`${name} finds other slots`);
      return {
        name: name === "Halving" ? "quartermaster" : name.toLowerCase(),
        operations: QUERIES,
        // Else what one search fetched would lie ready for the next.
        prepare: ask,
        run: () => {
          search(QUERIES * 8, 0, QUERIES, size, Number(dependent));
        },
      };
    }),
    report.quick ? 5 : 40,
  );
  report.timings(`${size} keys/${where}/${dependent ? "dependent" : "independent"}`, timings, "ns");
}

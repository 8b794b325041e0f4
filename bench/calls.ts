/** What does a call into the core cost, raw, through BigInt, through the loader? */
import Benchmark from "benchmark";
import { Core } from "../bindings/main.js";
import { createCore } from "../bindings/loader.js";
import type { Report } from "./measure.js";

export const title = "single calls: raw export, BigInt export, class method, the loader's wrapper, Map";

export async function run(report: Report): Promise<void> {
  const raw = await Core.create();
  const loaded = await createCore();
  const entries = 10_000;
  const [index, loadedIndex] = [raw, loaded].map((core) => core.orderedIndex({ capacity: entries }));
  const map = new Map<number, number>();
  for (let i = 1; i <= entries; i++) {
    index.set(BigInt(i), BigInt(i));
    loadedIndex.set(BigInt(i), BigInt(i));
    map.set(i, i);
  }
  let at = 0;
  const next = (): number => (at = (at + 7919) % entries) + 1;
  const cases: [name: string, run: () => unknown][] = [
    ["raw export, u32 halves", () => raw.exports.orderedIndexFind(index.pointer, next(), 0)],
    ["raw export, BigInt", () => raw.exports.orderedIndexFind64(index.pointer, BigInt(next()))],
    ["OrderedIndex.get", () => index.get(BigInt(next()))],
    ["loader export, u32 halves", () => loaded.exports.orderedIndexFind(loadedIndex.pointer, next(), 0)],
    ["Map.get", () => map.get(next())],
  ];
  const suite = new Benchmark.Suite();
  const options = { maxTime: report.quick ? 0.05 : 1, minSamples: 5 };
  for (const [name, run] of cases) suite.add(name, run, options);
  await new Promise<void>((resolve) => suite.on("complete", () => resolve()).run({ async: true }));
  suite.forEach((bench: Benchmark) => {
    report.measured("lookup of 10,000 keys", bench.name!, "throughput", bench.hz! / 1e6, "Mops/s");
  });
}

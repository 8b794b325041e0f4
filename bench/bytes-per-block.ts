/** What does a cached block cost in memory, index and links included? */
import { Core } from "../bindings/main.js";
import type { Report } from "./measure.js";

export const title = "bytes a cached block takes, its tokens (kept for verification) not counted";

const QUOTED: readonly [name: string, bytes: number][] = [
  ["vLLM v1, cached block", 250],
  ["SGLang Python radix tree, page 16", 595],
  ["smg radix index, holder-block", 27],
];

export async function run(report: Report): Promise<void> {
  const { exports } = await Core.create();
  // Growing the pool alone: tables, sequences and scratch stay the same and drop out of the difference.
  const bytes = (blocks: number): number => exports.kvCacheBytes(blocks, 16, 64, 4096, 0);
  for (const blocks of [65536, 100_000]) {
    const tokens = 16 * 4;
    report.measured(
      String(blocks),
      "quartermaster",
      "bytes",
      (bytes(blocks) - bytes(1)) / (blocks - 1) - tokens,
      "bytes",
      {
        tokenBytes: tokens,
      },
    );
  }
  for (const [name, figure] of QUOTED) report.quoted("block", name, "bytes", figure, "bytes");
}

/**
 * Which node size and promotion suit the ordered index? Every shape under the YCSB workloads, by batches, in interleaved
 * rounds: the figures behind docs/decisions/0007.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Report } from "./measure.js";
import { reportRun } from "./ordered-index/report.js";
import { runRounds } from "./ordered-index/rounds.js";
import { shaped } from "./ordered-index/subjects.js";

export const title =
  "the ordered index with nodes of 256 to 4,096 bytes and one key promoted in half a leaf or a leaf";

/** Bytes a node; keys for each one promoted: about half a leaf and a leaf of them. */
const SHAPES: readonly (readonly [number, number])[] = [
  [256, 8],
  [256, 16],
  [512, 16],
  [512, 32],
  [1024, 32],
  [1024, 64],
  [2048, 64],
  [2048, 128],
  [4096, 128],
  [4096, 256],
];

export async function run(report: Report): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "ordered-index-shapes-"));
  try {
    const [loaded, rounds] = report.quick ? [20_000, 1] : [1e6, 3];
    const subjects = SHAPES.map(([nodeBytes, keysPerPromotion]) => shaped(nodeBytes, keysPerPromotion));
    const results = runRounds({ subjects, loaded, distribution: "uniform", rounds, folder });
    reportRun(report, `uniform/${loaded >= 1e6 ? "1M" : "20k"}`, results);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

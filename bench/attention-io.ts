/** How many words does exact attention move by each schedule, against the lower bound and the size of the fast memory? */
import { writeFileSync } from "node:fs";
import { attentionBound } from "../sim/attention-io/cost.js";
import { bestOfEach, planAttention } from "../sim/attention-io/plan.js";
import { linePlot, type LineSeries } from "../sim/plot.js";
import { runAttentionTiles, whyNot } from "./attention-tiles.js";
import type { Report } from "./measure.js";

export const title = "words that attention moves against its lower bound; rows a call of the native kernel";

const SCHEDULES = ["rows", "columns", "square"] as const;
const SHAPE = { queries: 4096, keys: 4096, headDim: 64 };

export async function run(report: Report): Promise<void> {
  const points: Record<string, [number, number][]> = { bound: [], rows: [], columns: [], square: [] };
  for (let memory = 64; memory <= SHAPE.keys * SHAPE.headDim; memory *= 2) {
    const found = bestOfEach(SHAPE, memory);
    const bound = attentionBound(SHAPE, memory);
    points.bound.push([memory, bound]);
    for (const schedule of SCHEDULES) {
      const plan = found[schedule];
      if (plan === undefined) continue;
      points[schedule].push([memory, plan.words]);
      const params = { rows: plan.rows, columns: plan.columns };
      report.measured(`${memory} words`, schedule, "moved", plan.words, "words", params);
    }
    const { words, ratio } = planAttention({ ...SHAPE, memory, scratch: 2 ** 50 });
    report.measured(`${memory} words`, "quartermaster", "moved", words, "words");
    report.measured(`${memory} words`, "quartermaster", "over the bound", ratio, "ratio");
  }
  if (report.options.plot) {
    const series: LineSeries[] = Object.entries(points).map(([name, list]) => ({ name, points: list }));
    const plot = {
      title: "Words moved by exact attention, 4096 queries and keys of 64",
      xLabel: "words of fast memory",
      yLabel: "words moved",
    };
    writeFileSync(report.options.plot, linePlot({ ...plot, series, logX: true, logY: true }));
    report.note(`plot: ${report.options.plot}`);
  }
  kernelTimes(report);
}

/** 512 queries at the end of 2048 positions; thread time, so that a busy machine matters little. */
function kernelTimes(report: Report): void {
  const reason = whyNot(false);
  if (reason) return report.note(`kernel times skipped: ${reason}`);
  const rows = [1, 16, 64, 128, 256];
  for (const headDim of report.quick ? [32] : [32, 64, 128, 512])
    for (const group of [1, 4]) {
      const lines = runAttentionTiles(false, "time", rows.join(","), 512, 2048, headDim, group).split("\n");
      const times = lines.map((line) => Number(line.split(" ")[1]));
      rows.forEach((count, i) => {
        const name = `d ${headDim}, ${group} heads a KV head`;
        report.measured(name, `${count} rows a call`, "time", times[i], "us");
        report.measured(name, `${count} rows a call`, "over 256 rows", times[i] / times[4], "ratio");
      });
    }
}

/**
 * How does the ordered index compare with other ordered maps under the YCSB workloads?
 *
 * Every subject replays the same operations in a process of its own; rounds are interleaved; throughput is
 * operations a second of CPU time, medians over the rounds. A run in which checksums differ fails.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Report } from "./measure.js";
import { plotRun, reportRun } from "./ordered-index/report.js";
import { runRounds } from "./ordered-index/rounds.js";
import { compiledPeers, ours, PACKAGES, touched } from "./ordered-index/subjects.js";
import type { Distribution } from "./ordered-index/workload.js";

export const title =
  "ordered maps under YCSB load, A, B, C, E, U: ours in all modes, npm, Java and C++ peers; --full or --keys for zipf and 10 M keys, --threads, --touched";

interface Run {
  readonly loaded: number;
  readonly distribution: Distribution;
  readonly rounds: number;
}

const RUNS: Readonly<Record<string, Run>> = {
  "1M": { loaded: 1e6, distribution: "uniform", rounds: 3 },
  "1M-zipf": { loaded: 1e6, distribution: "zipf", rounds: 3 },
  // A package may take ten minutes.
  "10M": { loaded: 1e7, distribution: "uniform", rounds: 1 },
  "10M-zipf": { loaded: 1e7, distribution: "zipf", rounds: 1 },
};

function runsOf({ quick, options }: Report): Run[] {
  if (quick) return [{ loaded: 20_000, distribution: "uniform", rounds: 1 }];
  const chosen = options.keys?.split(",") ?? ["1M"];
  if (options.full) chosen.push("1M-zipf", "10M", "10M-zipf");
  return [...new Set(chosen)].map((name) => {
    if (!(name in RUNS)) throw new RangeError(`--keys ${name}: one of ${Object.keys(RUNS).join(", ")}`);
    return RUNS[name];
  });
}

/** Sizes of the teams, besides one thread. */
function teamsOf({ options }: Report): number[] {
  const text = options.threads ?? "2";
  const teams = text.split(",").map(Number);
  if (teams.every((threads) => Number.isInteger(threads) && threads >= 2 && threads <= 64)) return teams;
  throw new RangeError(`--threads ${text}: numbers from 2 to 64, separated by commas`);
}

export async function run(report: Report): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "ordered-index-"));
  try {
    const only = report.options.only?.split(",");
    const teams = teamsOf(report);
    const ownTouched = report.options.touched ? touched(teams) : [];
    const subjects = [...ours(teams), ...ownTouched, ...PACKAGES, ...compiledPeers(folder, teams)].filter(
      ({ name }) => only === undefined || only.includes(name),
    );
    for (const { loaded, distribution, rounds } of runsOf(report)) {
      const results = runRounds({ subjects, loaded, distribution, rounds, folder });
      const suffix = `${distribution}/${sizeName(loaded)}`;
      reportRun(report, suffix, results);
      if (report.options.plot !== undefined && distribution === "uniform" && loaded <= 1e6)
        writeFileSync(report.options.plot, plotRun(results, suffix));
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function sizeName(keys: number): string {
  return keys >= 1e6 ? `${keys / 1e6}M` : `${keys / 1e3}k`;
}

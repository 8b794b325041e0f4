/** Interleaved rounds of processes over one workload, and what they printed. */
import { spawnSync } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { median } from "../measure.js";
import type { Figures, PhaseFigures } from "./replay.js";
import type { Subject } from "./subjects.js";
import { type Distribution, generateWorkload } from "./workload.js";

/** Medians of one subject's phase. */
export interface PhaseMedians {
  readonly phase: PhaseFigures["phase"];
  /** Million operations a second of CPU time, and of wall time. */
  readonly throughput: number;
  readonly wallThroughput: number;
  /** Processors that were busy with it at a time. */
  readonly cores: number;
  readonly p50: number | undefined;
  readonly p99: number | undefined;
}

export interface SubjectMedians {
  readonly subject: Subject;
  readonly bytesPerKey: number;
  readonly phases: readonly PhaseMedians[];
}

export interface Rounds {
  readonly subjects: readonly Subject[];
  readonly loaded: number;
  readonly distribution: Distribution;
  readonly rounds: number;
  /** Where the workload file may lie meanwhile. */
  readonly folder: string;
}

export const SEED = 20250729;

export function runRounds({ subjects, loaded, distribution, rounds, folder }: Rounds): SubjectMedians[] {
  const file = join(folder, "workload.bin");
  console.error(`${loaded} keys, ${distribution}: generating`);
  writeFileSync(file, generateWorkload(loaded, distribution, SEED));
  const results = subjects.map(() => [] as Figures[]);
  for (let round = 0; round < rounds; round++) {
    // Starting elsewhere each time, no subject always follows the same one.
    for (let i = 0; i < subjects.length; i++) {
      const at = (i + round) % subjects.length;
      const { name, threads } = subjects[at];
      const start = performance.now();
      results[at].push(runOnce(subjects[at], file));
      const seconds = ((performance.now() - start) / 1000).toFixed(1);
      console.error(`round ${round + 1} of ${rounds}: ${name}, ${threads} thread(s), ${seconds} s`);
    }
  }
  rmSync(file);
  checkAgreement(subjects, results);
  return subjects.map((subject, i) => mediansOf(subject, results[i]));
}

function runOnce(subject: Subject, file: string): Figures {
  const [program, ...flags] = subject.command(file);
  const { status, stdout, stderr, error } = spawnSync(program, flags, { encoding: "utf8" });
  if (error !== undefined || status !== 0)
    throw new Error(`${subject.name} failed: ${error?.message ?? stderr.slice(-2000)}`);
  return JSON.parse(stdout) as Figures;
}

/** All subjects must have found the same. Those of two threads time no single batches: theirs agree among each other. */
function checkAgreement(subjects: readonly Subject[], results: readonly Figures[][]): void {
  const expected = new Map<string, number>();
  const expect = (what: string, value: number, name: string): void => {
    const before = expected.get(what);
    if (before === undefined) expected.set(what, value);
    else if (before !== value) throw new Error(`${name}: ${what} is ${value}, elsewhere ${before}`);
  };
  subjects.forEach(({ name, threads, ordered }, i) => {
    for (const { size, phases } of results[i]) {
      // Whoever skips scans also skips the inserts among them.
      expect(`size (${threads} threads, ${ordered ? "with" : "without"} scans)`, size, name);
      for (const { phase, checksum } of phases)
        expect(`checksum of ${phase} (${threads} threads)`, checksum, name);
    }
  });
}

function mediansOf(subject: Subject, results: readonly Figures[]): SubjectMedians {
  return {
    subject,
    bytesPerKey: median(results.map(({ bytesPerKey }) => bytesPerKey)),
    phases: results[0].phases.map(({ phase, p50 }, i) => {
      const over = (figure: (figures: PhaseFigures) => number): number =>
        median(results.map(({ phases }) => figure(phases[i])));
      return {
        phase,
        throughput: over(({ operations, cpuSeconds }) => operations / cpuSeconds / 1e6),
        wallThroughput: over(({ operations, wallSeconds }) => operations / wallSeconds / 1e6),
        cores: over(({ cpuSeconds, wallSeconds }) => cpuSeconds / wallSeconds),
        p50: p50 === undefined ? undefined : over((figures) => figures.p50!),
        p99: p50 === undefined ? undefined : over((figures) => figures.p99!),
      };
    }),
  };
}

/** Figures of a run as JSON lines for machines, as tables for people, as a plot. */
import { barPlot } from "../../sim/plot.js";
import type { Report } from "../measure.js";
import type { PhaseMedians, SubjectMedians } from "./rounds.js";
import { AUTHORS, JAVA, type Subject } from "./subjects.js";

/**
 * Throughput of the B-skiplist authors' own C++ over that of Java's list, both run beside each other (uniform
 * keys, 1 M, one thread). Where theirs is not at hand, ours is compared by way of Java.
 */
const AUTHORS_OVER_JAVA: Readonly<Record<string, number>> = { load: 6.7, c: 7.0, b: 5.2, e: 15.7, a: 5.0 };

type PhaseName = PhaseMedians["phase"];
const PHASES: readonly PhaseName[] = ["load", "c", "b", "e", "a", "u"];

export function reportRun(report: Report, suffix: string, results: readonly SubjectMedians[]): void {
  if (!report.json) {
    printTables(report, suffix, results);
    return;
  }
  for (const result of results) measure(report, suffix, result);
  for (const result of results) if (result.subject.ours) compare(report, suffix, result, results);
}

function caseName(phase: PhaseName, suffix: string, { threads }: Subject): string {
  return `${phase === "load" ? "load" : `ycsb-${phase}`}/${suffix}/${threads}t`;
}

function phaseOf(result: SubjectMedians | undefined, phase: PhaseName): PhaseMedians | undefined {
  return result?.phases.find((other) => other.phase === phase);
}

function ofThreads(
  results: readonly SubjectMedians[],
  name: string,
  threads: number,
): SubjectMedians | undefined {
  return results.find(({ subject }) => subject.name === name && subject.threads === threads);
}

function measure(report: Report, suffix: string, { subject, bytesPerKey, phases }: SubjectMedians): void {
  for (const { phase, throughput, wallThroughput, cores, p50, p99 } of phases) {
    const name = caseName(phase, suffix, subject);
    report.measured(name, subject.name, "throughput", throughput, "Mops/s");
    report.measured(name, subject.name, "wall-throughput", wallThroughput, "Mops/s", { cores });
    if (p50 !== undefined) report.measured(name, subject.name, "p50", p50, "ns");
    if (p99 !== undefined) report.measured(name, subject.name, "p99", p99, "ns");
    if (phase === "load") report.measured(name, subject.name, "bytes-per-key", bytesPerKey, "bytes");
  }
}

/** Ours against every peer of as many threads, and a team against one thread. */
function compare(
  report: Report,
  suffix: string,
  ours: SubjectMedians,
  results: readonly SubjectMedians[],
): void {
  const { name: subject, threads } = ours.subject;
  for (const own of ours.phases) {
    const name = caseName(own.phase, suffix, ours.subject);
    const one = threads > 1 ? phaseOf(ofThreads(results, subject, 1), own.phase) : undefined;
    if (one !== undefined) {
      report.compared(name, `${subject} of one thread`, own.wallThroughput / one.wallThroughput, {
        subject,
        metric: "wall-speedup",
        params: { cores: own.cores },
      });
    }
    for (const peer of results) {
      const theirs = phaseOf(peer, own.phase);
      if (peer.subject.ours || peer.subject.threads !== threads || theirs === undefined) continue;
      report.compared(name, peer.subject.name, own.throughput / theirs.throughput, { subject });
      if (own.p99 !== undefined && theirs.p99 !== undefined)
        report.compared(name, peer.subject.name, theirs.p99 / own.p99, { subject, metric: "p99-ratio" });
    }
    const authors = threads === 1 ? authorsThroughput(results, suffix, own.phase) : undefined;
    if (authors === undefined) continue;
    report.quoted(name, AUTHORS, "throughput", authors, "Mops/s");
    report.compared(name, AUTHORS, own.throughput / authors, { subject });
  }
}

/** What the authors' code would do here if it kept its lead over Java's list; nothing where it has run. */
function authorsThroughput(
  results: readonly SubjectMedians[],
  suffix: string,
  phase: PhaseName,
): number | undefined {
  const java = phaseOf(ofThreads(results, JAVA, 1), phase);
  const factor = AUTHORS_OVER_JAVA[phase];
  const run = ofThreads(results, AUTHORS, 1) !== undefined;
  return run || java === undefined || factor === undefined || !suffix.startsWith("uniform")
    ? undefined
    : java.throughput * factor;
}

function printTables(report: Report, suffix: string, results: readonly SubjectMedians[]): void {
  const columns = PHASES.map((phase) => (phase === "load" ? phase : phase.toUpperCase()));
  const single = results.filter(({ subject }) => subject.threads === 1);
  const row = (name: string, cell: (phase: PhaseName) => string | undefined, last = ""): void =>
    report.note(
      name.padEnd(34) + PHASES.map((phase) => (cell(phase) ?? "-").padStart(13)).join("") + last.padStart(9),
    );
  const heading = (title: string, last = ""): void => {
    report.note("");
    report.note(title.padEnd(34) + columns.map((name) => name.padStart(13)).join("") + last.padStart(9));
  };
  heading(`${suffix}, Mops a CPU second`, "B/key");
  for (const result of single)
    row(
      result.subject.name,
      (phase) => phaseOf(result, phase)?.throughput.toFixed(3),
      result.bytesPerKey.toFixed(1),
    );
  if (authorsThroughput(results, suffix, "load") !== undefined)
    row(`${AUTHORS} (quoted)`, (phase) => authorsThroughput(results, suffix, phase)?.toFixed(3));
  heading("p50 / p99, ns an operation");
  for (const result of single)
    row(result.subject.name, (phase) => {
      const { p50, p99 } = phaseOf(result, phase) ?? {};
      return p50 === undefined ? undefined : `${p50.toFixed(0)} / ${p99!.toFixed(0)}`;
    });
  const teams = results.filter(({ subject }) => subject.threads > 1);
  let threads = 1;
  for (const result of teams) {
    if (result.subject.threads !== threads) {
      threads = result.subject.threads;
      heading(`${threads} threads: Mops/s, cores busy`);
    }
    const one = ofThreads(results, result.subject.name, 1);
    row(result.subject.name, (phase) => {
      const own = phaseOf(result, phase);
      return own && `${own.wallThroughput.toFixed(2)}, ${own.cores.toFixed(2)}`;
    });
    row("  over one thread", (phase) => {
      const [own, single] = [phaseOf(result, phase), phaseOf(one, phase)];
      return own && single && `${(own.wallThroughput / single.wallThroughput).toFixed(2)}x`;
    });
  }
}

/** Bars of throughput: phases in groups, subjects of one thread side by side. */
export function plotRun(results: readonly SubjectMedians[], suffix: string): string {
  const groups = PHASES.slice(0, 5);
  return barPlot({
    title: `Ordered maps, ${suffix}: million operations a CPU second`,
    groups: groups.map((phase) => (phase === "load" ? phase : phase.toUpperCase())),
    series: results
      .filter(({ subject }) => subject.threads === 1)
      .map((result) => ({
        name: result.subject.name,
        values: groups.map((phase) => phaseOf(result, phase)?.throughput),
      })),
  });
}

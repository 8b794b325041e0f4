/**
 * Interleaved measurement: subjects take turns, medians are compared, so that a noisy machine hits all alike.
 */

export interface Subject {
  readonly name: string;
  /** Operations one run stands for; results are per operation. */
  readonly operations: number;
  readonly run: () => void;
  /** Called before each run, not timed. */
  readonly prepare?: () => void;
}

export interface Timing {
  readonly name: string;
  /** Microseconds an operation. */
  readonly medianUs: number;
  readonly bestUs: number;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Lets the compiler tier up and the collector run between measurements. */
export function breathe(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Runs the subjects in turn, `rounds` times after `warmUp` untimed rounds. */
export async function interleave(
  subjects: readonly Subject[],
  rounds: number,
  warmUp = Math.ceil(rounds / 3),
): Promise<Timing[]> {
  const samples = subjects.map(() => [] as number[]);
  for (let round = -warmUp; round < rounds; round++) {
    if (round % 16 === 0) await breathe();
    subjects.forEach((subject, i) => {
      subject.prepare?.();
      const start = performance.now();
      subject.run();
      const us = (performance.now() - start) * 1000;
      if (round >= 0) samples[i].push(us / subject.operations);
    });
  }
  return subjects.map(({ name }, i) => ({
    name,
    medianUs: median(samples[i]),
    bestUs: Math.min(...samples[i]),
  }));
}

/** One line of `--json` output. */
export interface Measurement {
  bench: string;
  case: string;
  subject: string;
  metric: string;
  value: number;
  unit: string;
  params?: Record<string, unknown>;
  quoted?: boolean;
}

export interface Comparison {
  bench: string;
  case: string;
  subject: string;
  versus: string;
  /** Always better-is-greater: throughput, throughput by wall time, or the peer's p99 over ours. */
  metric: "speedup" | "wall-speedup" | "p99-ratio";
  value: number;
  params?: Record<string, unknown>;
}

/** Flags that only some benches know. */
export interface BenchOptions {
  /** All sizes, however long they take. */
  readonly full?: boolean;
  /** Which workloads of the ordered index, separated by commas. */
  readonly keys?: string;
  readonly threads?: string;
  /** The ordered index also in memory that was touched before. */
  readonly touched?: boolean;
  /** File for an SVG plot. */
  readonly plot?: string;
  /** Subjects to run, separated by commas. */
  readonly only?: string;
}

/** A threshold that a bench holds a figure of its own to. */
export interface Bar {
  bench: string;
  bar: string;
  value: number;
  is: ">=" | "<";
  than: number;
  met: boolean;
}

/** What a bench writes to: JSON lines for machines, aligned lines for people. */
export class Report {
  /** Bars that this run missed. */
  missed = 0;

  constructor(
    readonly bench: string,
    readonly json: boolean,
    readonly quick: boolean,
    readonly options: BenchOptions = {},
  ) {}

  measured(
    name: string,
    subject: string,
    metric: string,
    value: number,
    unit: string,
    params?: Record<string, unknown>,
  ): void {
    this.#write({ bench: this.bench, case: name, subject, metric, value, unit, ...(params && { params }) });
  }

  /** A figure measured elsewhere: quoted, not run here. */
  quoted(name: string, subject: string, metric: string, value: number, unit: string): void {
    this.#write({ bench: this.bench, case: name, subject, metric, value, unit, quoted: true });
  }

  /** How much better than a peer of the same run; above 1 is better. */
  compared(
    name: string,
    versus: string,
    value: number,
    {
      subject = "quartermaster",
      metric = "speedup",
      params,
    }: Partial<Pick<Comparison, "subject" | "metric" | "params">> = {},
  ): void {
    const line: Comparison = {
      bench: this.bench,
      case: name,
      subject,
      versus,
      metric,
      value,
      ...(params && { params }),
    };
    if (this.json) {
      console.log(JSON.stringify(line));
      return;
    }
    const what = {
      speedup: "as fast as",
      "wall-speedup": "as fast by the clock as",
      "p99-ratio": "lower p99 than",
    };
    const by = subject === "quartermaster" ? "" : `${subject}: `;
    console.log(`  ${name.padEnd(28)} ${by}${value.toFixed(value < 10 ? 2 : 0)}x ${what[metric]} ${versus}`);
  }

  /** Timings of one case, and our ratio to each peer; the first subject is ours. */
  timings(name: string, timings: readonly Timing[], unit: "us" | "ns" = "us"): void {
    const scale = unit === "ns" ? 1000 : 1;
    for (const timing of timings) this.measured(name, timing.name, "median", timing.medianUs * scale, unit);
    const [ours, ...peers] = timings;
    for (const peer of peers) this.compared(name, peer.name, peer.medianUs / ours.medianUs);
  }

  /** Says whether a figure meets its bar; a run with `--check` fails by those missed. */
  bar(name: string, value: number, is: Bar["is"], than: number): void {
    const met = is === "<" ? value < than : value >= than;
    if (!met) this.missed += 1;
    const line: Bar = { bench: this.bench, bar: name, value, is, than, met };
    if (this.json) console.log(JSON.stringify(line));
    else
      console.log(
        `  ${met ? "bar met" : "BAR MISSED"}: ${name}: ${Number(value.toPrecision(3))}, wanted ${is} ${than}`,
      );
  }

  /** Says that a bar could not be tried, which for `--check` is a miss. */
  unmeasured(name: string, why: string): void {
    this.missed += 1;
    this.note(`BAR NOT MEASURED: ${name}: ${why}`);
  }

  note(text: string): void {
    if (!this.json) console.log(`  ${text}`);
  }

  #write(line: Measurement): void {
    if (this.json) {
      console.log(JSON.stringify(line));
      return;
    }
    const figure = `${Number(line.value.toPrecision(4))} ${line.unit}`;
    const source = line.quoted ? " (quoted)" : "";
    console.log(
      `  ${line.case.padEnd(28)} ${line.subject.padEnd(34)} ${line.metric.padEnd(12)} ${figure}${source}`,
    );
  }
}

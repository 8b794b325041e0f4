/** What a run is judged by, and how it is printed. */

/** Percentile by linear interpolation between order statistics; NaN of nothing. `share` in [0, 1]. */
export function percentile(values: ArrayLike<number>, share: number): number {
  if (values.length === 0) return NaN;
  const sorted = Float64Array.from(values).sort();
  const at = share * (sorted.length - 1);
  const low = Math.floor(at);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
}

export interface Percentiles {
  p50: number;
  p99: number;
}

export interface RunReport {
  requests: number;
  /** Requests whose text begins as expected, and requests for which something is expected. */
  correct: number;
  expected: number;
  /** Generated tokens a second of wall time. */
  tokensPerSecond: number;
  /** Arrival to first token. */
  ttftMs: Percentiles;
  /** Every gap between consecutive tokens of a request. */
  tbtMs: Percentiles;
  /** Prompt tokens found in the cache, of all looked up. */
  prefixHitRate: number;
  preemptions: number;
  peakBlocks: number;
  blocks: number;
  backend: string;
  build: string;
}

/** Collects token times of requests. All times in microseconds of one clock. */
export class LatencyRecorder {
  readonly #lastUs = new Map<number, number>();
  readonly #ttftMs: number[] = [];
  readonly #tbtMs: number[] = [];
  #tokens = 0;

  token(request: number, arrivalUs: number, timeUs: number): void {
    const last = this.#lastUs.get(request);
    if (last === undefined) this.#ttftMs.push((timeUs - arrivalUs) / 1000);
    else this.#tbtMs.push((timeUs - last) / 1000);
    this.#lastUs.set(request, timeUs);
    this.#tokens += 1;
  }

  get tokens(): number {
    return this.#tokens;
  }

  get ttftMs(): Percentiles {
    return { p50: percentile(this.#ttftMs, 0.5), p99: percentile(this.#ttftMs, 0.99) };
  }

  get tbtMs(): Percentiles {
    return { p50: percentile(this.#tbtMs, 0.5), p99: percentile(this.#tbtMs, 0.99) };
  }
}

function rounded(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** The report as a table for people. */
export function formatReport(report: RunReport): string {
  const latency = ({ p50, p99 }: Percentiles): string => `p50 ${rounded(p50)} ms   p99 ${rounded(p99)} ms`;
  const rows: [string, string][] = [
    ["answers as expected", `${report.correct} of ${report.expected}  (${report.requests} requests)`],
    ["tokens per second", rounded(report.tokensPerSecond)],
    ["time to first token", latency(report.ttftMs)],
    ["time between tokens", latency(report.tbtMs)],
    ["prefix hit rate", `${(100 * report.prefixHitRate).toFixed(1)} %`],
    ["preemptions", String(report.preemptions)],
    ["peak KV blocks", `${report.peakBlocks} of ${report.blocks}`],
    ["backend, core build", `${report.backend}, ${report.build}`],
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `  ${name.padEnd(width)}   ${value}`).join("\n");
}

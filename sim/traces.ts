/**
 * Readers of public request traces.
 *
 * Mooncake: JSON lines { timestamp (ms), input_length, output_length, hash_ids } (arXiv 2407.00079).
 * Azure: CSV TIMESTAMP, ContextTokens, GeneratedTokens, with 100 ns digits ("Splitwise", arXiv 2311.18677).
 */
import { QuartermasterError } from "../bindings/errors.js";

export interface TraceRow {
  /** Microseconds since the first row. */
  readonly arrivalUs: number;
  readonly promptTokens: number;
  /** At least 1: a token has to be sampled for a request to end. */
  readonly newTokens: number;
  /** Names of the prompt's prefix blocks, where the trace has them. */
  readonly blockIds?: readonly number[];
}

function lineError(line: number, field: string, value: unknown): QuartermasterError {
  return new QuartermasterError(
    "TRACE",
    `trace line ${line}: ${field} is ${String(value)}; allowed: a number >= 0`,
    {
      argument: field,
      value,
      range: "a number >= 0",
    },
  );
}

function requireCount(line: number, field: string, value: unknown): number {
  if (typeof value !== "number" || !Number.isFinite(value) || value < 0) throw lineError(line, field, value);
  return value;
}

/** Sorts by arrival, keeping file order among equals, and counts from the first. */
function relative(rows: TraceRow[]): TraceRow[] {
  const sorted = rows
    .map((row, index) => ({ row, index }))
    .sort((a, b) => a.row.arrivalUs - b.row.arrivalUs || a.index - b.index)
    .map(({ row }) => row);
  const start = sorted[0]?.arrivalUs ?? 0;
  return sorted.map((row) => ({ ...row, arrivalUs: row.arrivalUs - start }));
}

export function readMooncakeTrace(text: string): TraceRow[] {
  const rows: TraceRow[] = [];
  text.split("\n").forEach((content, index) => {
    if (content.trim() === "") return;
    const line = index + 1;
    let json: Record<string, unknown>;
    try {
      json = JSON.parse(content) as Record<string, unknown>;
    } catch (error) {
      throw new QuartermasterError("TRACE", `trace line ${line} is not JSON: ${(error as Error).message}`, {
        cause: error,
      });
    }
    rows.push({
      arrivalUs: requireCount(line, "timestamp", json.timestamp) * 1000,
      promptTokens: requireCount(line, "input_length", json.input_length),
      newTokens: Math.max(1, requireCount(line, "output_length", json.output_length)),
      blockIds: Array.isArray(json.hash_ids) ? (json.hash_ids as number[]) : undefined,
    });
  });
  return relative(rows);
}

const AZURE_TIME = /^(\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d+))?$/;

/** Microseconds since 1970, the fraction read by hand: Date keeps milliseconds only. */
function azureTimeUs(line: number, value: string): number {
  const match = AZURE_TIME.exec(value.trim());
  if (match === null) throw lineError(line, "TIMESTAMP", value);
  const [year, month, day, hour, minute, second] = match.slice(1, 7).map(Number);
  const whole = Date.UTC(year, month - 1, day, hour, minute, second) * 1000;
  return whole + Number(`0.${match[7] ?? "0"}`) * 1e6;
}

export function readAzureTrace(text: string): TraceRow[] {
  const rows: TraceRow[] = [];
  text.split("\n").forEach((content, index) => {
    if (index === 0 || content.trim() === "") return;
    const line = index + 1;
    const [time, prompt, generated] = content.split(",");
    rows.push({
      arrivalUs: azureTimeUs(line, time),
      promptTokens: requireCount(line, "ContextTokens", Number(prompt)),
      newTokens: Math.max(1, requireCount(line, "GeneratedTokens", Number(generated))),
    });
  });
  return relative(rows);
}

/** Reads a trace in either format. */
export function readTrace(text: string): TraceRow[] {
  const first = text.slice(0, 200).trimStart();
  if (first.startsWith("{")) return readMooncakeTrace(text);
  if (first.startsWith("TIMESTAMP")) return readAzureTrace(text);
  throw new QuartermasterError(
    "TRACE",
    "the trace is neither Mooncake JSON lines nor an Azure CSV with TIMESTAMP",
  );
}

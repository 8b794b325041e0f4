/**
 * Typed errors. Every refusal is a QuartermasterError with a stable `code`; a refused call has changed no
 * state.
 */

/** Codes of the core's negative status numbers (assembly/memory/status.ts; a test compares the two lists). */
export const STATUS_CODES = {
  [-1]: "INVALID_ARGUMENT",
  [-2]: "OUT_OF_MEMORY",
  [-3]: "OUT_OF_BLOCKS",
  [-4]: "OUT_OF_SEQUENCES",
  [-5]: "OUT_OF_REQUESTS",
  [-6]: "OUT_OF_TOKENS",
  [-7]: "UNKNOWN_SEQUENCE",
  [-8]: "UNKNOWN_REQUEST",
  [-9]: "DUPLICATE_ID",
  [-10]: "EMPTY_PROMPT",
  [-11]: "TOO_LONG",
  [-12]: "POOL_TOO_SMALL",
  [-13]: "INVALID_TIME",
  [-14]: "INVALID_TOKEN",
  [-15]: "UNKNOWN_STEP",
  [-16]: "STEP_IN_FLIGHT",
  [-17]: "NOT_RESERVED",
  [-18]: "SEQUENCE_OWNED",
  [-19]: "NOT_FOUND",
  [-20]: "QUEUE_TIMEOUT",
  [-21]: "BAD_SNAPSHOT",
  [-22]: "CORRUPT",
  [-23]: "COPIES_PENDING",
  [-24]: "OUT_OF_WORKERS",
  [-25]: "POISONED",
  [-26]: "ALREADY_FREE",
  [-27]: "LANES_SHARED",
  [-28]: "COMPACTION_PENDING",
  [-29]: "LOSSY_SEQUENCE",
  [-30]: "QUOTA_EXCEEDED",
  [-31]: "PIN_LIMIT",
  [-32]: "OUT_OF_SCOPES",
} as const;

export type StatusCode = (typeof STATUS_CODES)[keyof typeof STATUS_CODES];

/** Codes that only the host side raises. */
export type HostCode =
  "CLOSED" | "ABORTED" | "EXECUTOR_FAILED" | "EXPIRED" | "UNSUPPORTED" | "UNKNOWN_STATUS";

export interface ErrorDetails {
  /** Name of the offending argument. */
  argument?: string;
  /** Its value as given. */
  value?: unknown;
  /** What would have been accepted. */
  range?: string;
  cause?: unknown;
}

export class QuartermasterError extends Error {
  readonly code: string;
  readonly argument: string | undefined;
  readonly value: unknown;
  readonly range: string | undefined;

  constructor(code: StatusCode | HostCode | (string & {}), message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = "QuartermasterError";
    this.code = code;
    this.argument = details.argument;
    this.value = details.value;
    this.range = details.range;
  }
}

/** The typed error of a negative status. */
export function statusError(status: number, what: string, details = {}): QuartermasterError {
  const code = (STATUS_CODES as Record<number, string>)[status] ?? "UNKNOWN_STATUS";
  return new QuartermasterError(code, `${what}: ${code} (${status})`, details);
}

/** Prints a value for a message: short, and never throwing. */
export function show(value: unknown): string {
  if (typeof value === "string")
    return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}...` : value);
  if (typeof value === "bigint") return `${value}n`;
  if (ArrayBuffer.isView(value)) return `${value.constructor.name}(${(value as Uint8Array).length})`;
  if (typeof value === "object" && value !== null) return value.constructor?.name ?? "object";
  return String(value);
}

/** What would have been accepted in place of a thing that is not there, by code. */
const ACCEPTED: Readonly<Record<string, string>> = {
  UNKNOWN_SEQUENCE: "an open sequence",
  UNKNOWN_REQUEST: "a live request",
  UNKNOWN_STEP: "the step in flight",
};

/** The typed error of a negative status of a call about one thing, named by `argument`. */
export function subjectError(
  status: number,
  what: string,
  argument: string,
  value: unknown,
): QuartermasterError {
  const range = ACCEPTED[(STATUS_CODES as Record<number, string>)[status]];
  return statusError(status, what, range === undefined ? {} : { argument, value, range });
}

export function invalidArgument(argument: string, value: unknown, range: string): QuartermasterError {
  return new QuartermasterError("INVALID_ARGUMENT", `${argument} is ${show(value)}; allowed: ${range}`, {
    argument,
    value,
    range,
  });
}

/** Checks an integer argument against an inclusive range. */
export function requireInteger(argument: string, value: unknown, lowest: number, highest: number): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < lowest || value > highest) {
    throw invalidArgument(argument, value, `an integer from ${lowest} to ${highest}`);
  }
  return value;
}

/** Checks that a list is one before its elements are looked at; returns how many it has. */
export function requireList(argument: string, value: unknown): number {
  const length = (value as { readonly length?: unknown } | null | undefined)?.length;
  if (typeof value !== "object" || typeof length !== "number" || !Number.isInteger(length) || length < 0)
    throw invalidArgument(argument, value, "an array");
  return length;
}

/** Checks that options are an object before they are read. */
export function requireObject(argument: string, value: unknown): void {
  if (typeof value !== "object" || value === null) throw invalidArgument(argument, value, "an object");
}

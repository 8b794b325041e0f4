/** Checks of what a scheduler and its requests are asked for: each refusal names the argument, its value and the range. */
import { invalidArgument, QuartermasterError, requireInteger } from "./errors.js";
import type { RequestId } from "./scheduler-options.js";

const MAX_U64 = (1n << 64n) - 1n;

export function largest(tokens: ArrayLike<number>): number {
  let highest = 0;
  for (let i = 0; i < tokens.length; i++) highest = Math.max(highest, tokens[i]);
  return highest;
}

export function requireRequest(request: RequestId): void {
  if (!Number.isInteger(request) || request < 0 || request > 0x7fffffff)
    throw invalidArgument("request", request, "a request from submit");
}

export function requireStep(stepId: number): void {
  requireInteger("stepId", stepId, 0, 2 ** 32 - 1);
}

export function requireAccepted(accepted: ArrayLike<number>, samplingRows: number, most: number): void {
  if (accepted.length !== samplingRows)
    throw invalidArgument("accepted", accepted, `one count for each of ${samplingRows} sampling rows`);
  for (let i = 0; i < samplingRows; i++) requireInteger(`accepted[${i}]`, accepted[i], 0, most);
}

export function requirePreemptive(preemptive: boolean, policy: string): boolean {
  if (preemptive && policy !== "priority")
    throw invalidArgument("preemptive", preemptive, `false under policy "${policy}"`);
  return preemptive;
}

export function requireWeight(argument: string, weight: unknown): number {
  if (typeof weight !== "number" || !(weight >= 0 && weight <= 2 ** 20))
    throw invalidArgument(argument, weight, "a number from 0 to 2^20");
  return weight;
}

export function requestId(id: number | bigint | undefined): bigint {
  if (id === undefined) return 0n;
  const valid = typeof id === "bigint" ? id >= 1n && id < MAX_U64 : Number.isSafeInteger(id) && id >= 1;
  if (!valid) throw invalidArgument("id", id, "an integer from 1 to 2^64 - 2");
  return BigInt(id);
}

export function requireTime(argument: string, us: unknown): number {
  if (typeof us !== "number" || !(us >= 0 && us < Infinity)) {
    throw new QuartermasterError(
      "INVALID_TIME",
      `${argument} is ${String(us)}; allowed: finite microseconds >= 0`,
      {
        argument,
        value: us,
        range: "finite microseconds >= 0",
      },
    );
  }
  return us;
}

/** Checks of token ids as they come in. */
import { invalidArgument, QuartermasterError } from "./errors.js";

/**
 * Checks an array of token ids: at most `longest`, each a u32 (not looked at in a Uint32Array); returns how many.
 */
export function requireTokenIds(argument: string, tokens: ArrayLike<number>, longest: number): number {
  const count = tokens?.length;
  if (typeof tokens === "function" || !Number.isInteger(count) || count < 0)
    throw invalidArgument(argument, tokens, "an array of token ids");
  if (count > longest) {
    throw new QuartermasterError("TOO_LONG", `${argument} has ${count} tokens; allowed: 0 to ${longest}`, {
      argument,
      value: count,
      range: `0 to ${longest} tokens`,
    });
  }
  if (!(tokens instanceof Uint32Array)) {
    for (let i = 0; i < count; i++) {
      const token = tokens[i];
      if (!Number.isInteger(token) || token < 0 || token > 0xffffffff) {
        throw invalidTokenAt(argument, i, token, "an integer from 0 to 2^32 - 1");
      }
    }
  }
  return count;
}

export function invalidTokenAt(
  argument: string,
  index: number,
  token: unknown,
  range: string,
): QuartermasterError {
  return new QuartermasterError(
    "INVALID_TOKEN",
    `${argument}[${index}] is ${String(token)}; allowed: ${range}`,
    {
      argument: `${argument}[${index}]`,
      value: token,
      range,
    },
  );
}

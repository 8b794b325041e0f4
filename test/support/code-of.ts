/** What a call answers, by name: what is refused is compared with what is not. */
import assert from "node:assert/strict";
import { QuartermasterError } from "../../bindings/main.js";

/** The code that a call is refused with, "OK" when it is not. */
export function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    assert.ok(error instanceof QuartermasterError, String(error));
    return error.code;
  }
  return "OK";
}

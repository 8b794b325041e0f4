/**
 * Conformance scripts: calls of the core and what they must answer, for any host (docs/conformance.md).
 *
 * A script is JSON: `{ "format": 1, "name", "steps": [[call, answer], ...] }`. A call is `[operation, ...numbers and
 * arrays of numbers]`, an answer an array of numbers that starts with the result: >= 0, or a negative status.
 */

export type Argument = number | readonly number[];
export type Call = readonly [operation: string, ...Argument[]];
export type Answer = readonly number[];
export type Step = readonly [Call, Answer];

export interface Script {
  readonly format: 1;
  readonly name: string;
  readonly steps: readonly Step[];
}

/** One step a line, so that a difference is a line of a diff. */
export function print(script: Script): string {
  const { format, name, steps } = script;
  const lines = steps.map((step) => JSON.stringify(step)).join(",\n");
  return `{"format":${format},"name":${JSON.stringify(name)},"steps":[\n${lines}\n]}\n`;
}

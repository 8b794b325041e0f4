/** Options of policies: read by name, checked, and written as text: `h2o:heavy=64,recent=64`. */
import { invalidArgument, QuartermasterError } from "../errors.js";

/** Objects are tables that a policy's file names, such as a HeadProfile. */
export type OptionValue = number | string | boolean | object;
export type PolicyOptions = Readonly<Record<string, OptionValue>>;

/** A policy by name and options. */
export interface PolicySpec {
  readonly name: string;
  readonly options: PolicyOptions;
}

/** Reads `name` or `name:key=value,key=value`; numbers, true and false become values. Throws INVALID_ARGUMENT. */
export function parsePolicy(text: string): PolicySpec {
  const [name, rest] = text.split(/:(.*)/s, 2);
  const options: Record<string, number | string | boolean> = {};
  for (const part of rest ? rest.split(",") : []) {
    const [key, value] = part.split(/=(.*)/s, 2);
    if (!key || !value) throw invalidArgument("policy", text, "name:key=value,key=value");
    if (Object.hasOwn(options, key)) throw invalidArgument(`options.${key}`, text, "given once");
    options[key] = valueOf(value);
  }
  return { name, options };
}

function valueOf(text: string): number | string | boolean {
  if (text === "true" || text === "false") return text === "true";
  const number = Number(text);
  return text.trim() === "" || Number.isNaN(number) ? text : number;
}

/** Hands out options with defaults; `done` refuses what nobody asked for. */
export class OptionReader {
  readonly policy: string;
  readonly #options: PolicyOptions;
  readonly #read = new Set<string>();

  constructor(policy: string, options: PolicyOptions) {
    this.policy = policy;
    this.#options = options;
  }

  has(name: string): boolean {
    this.#read.add(name);
    return this.#options[name] !== undefined;
  }

  integer(name: string, fallback: number, lowest: number, highest: number): number {
    const value = this.#get(name, fallback);
    if (!Number.isInteger(value) || (value as number) < lowest || (value as number) > highest)
      throw invalidArgument(`options.${name}`, value, `an integer from ${lowest} to ${highest}`);
    return value as number;
  }

  /** A finite number within inclusive bounds. */
  number(name: string, fallback: number, lowest: number, highest: number): number {
    const value = this.#get(name, fallback);
    if (typeof value !== "number" || !(value >= lowest && value <= highest))
      throw invalidArgument(`options.${name}`, value, `a number from ${lowest} to ${highest}`);
    return value;
  }

  /** "auto", which is the default, or a number within inclusive bounds. */
  numberOrAuto(name: string, lowest: number, highest: number): number | "auto" {
    return this.#get(name, "auto") === "auto" ? "auto" : this.number(name, 0, lowest, highest);
  }

  /** As given. */
  value(name: string, fallback: OptionValue): OptionValue {
    return this.#get(name, fallback);
  }

  boolean(name: string, fallback: boolean): boolean {
    const value = this.#get(name, fallback);
    if (typeof value !== "boolean") throw invalidArgument(`options.${name}`, value, "true or false");
    return value;
  }

  choice<T extends string>(name: string, fallback: T, allowed: readonly T[]): T {
    const value = this.#get(name, fallback);
    if (!allowed.includes(value as T)) throw invalidArgument(`options.${name}`, value, allowed.join(", "));
    return value as T;
  }

  /** Throws INVALID_ARGUMENT for an option that was never read. */
  done(): void {
    const unknown = Object.keys(this.#options).find((name) => !this.#read.has(name));
    if (unknown === undefined) return;
    const known = [...this.#read].sort().join(", ");
    throw new QuartermasterError(
      "INVALID_ARGUMENT",
      `options.${unknown} is not an option of ${this.policy}; it knows ${known || "none"}`,
      { argument: `options.${unknown}`, value: this.#options[unknown], range: known },
    );
  }

  #get(name: string, fallback: OptionValue): OptionValue {
    this.#read.add(name);
    return this.#options[name] ?? fallback;
  }
}

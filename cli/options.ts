/** Command-line values: numbers with ranges, memory sizes. */
import { invalidArgument } from "../bindings/errors.js";

/** An integer option, or its default when not given. */
export function integer(
  name: string,
  text: string | undefined,
  fallback: number,
  lowest: number,
  highest: number,
): number {
  if (text === undefined) return fallback;
  const value = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!(value >= lowest && value <= highest))
    throw invalidArgument(`--${name}`, text, `an integer from ${lowest} to ${highest}`);
  return value;
}

/** A positive number option, or its default. */
export function positive(name: string, text: string | undefined, fallback: number): number {
  if (text === undefined) return fallback;
  const value = Number(text);
  if (!(value > 0 && value < Infinity)) throw invalidArgument(`--${name}`, text, "a number > 0");
  return value;
}

/** One of a few names. */
export function choice<T extends string>(
  name: string,
  text: string | undefined,
  fallback: T,
  known: readonly T[],
): T {
  if (text === undefined) return fallback;
  if (!known.includes(text as T)) throw invalidArgument(`--${name}`, text, known.join(", "));
  return text as T;
}

const UNITS: Readonly<Record<string, number>> = { "": 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/** A size such as 512M or 8G, in bytes. */
export function bytes(name: string, text: string | undefined, fallback: number): number {
  if (text === undefined) return fallback;
  const match = /^(\d+(?:\.\d+)?)([KMGT]?)i?B?$/i.exec(text);
  if (match === null) throw invalidArgument(`--${name}`, text, "a size such as 512M or 8G");
  return Number(match[1]) * UNITS[match[2].toUpperCase()];
}

/** Bytes for people. */
export function showBytes(size: number): string {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (size < 1024) return `${size >= 100 || unit === "B" ? size.toFixed(0) : size.toFixed(2)} ${unit}`;
    size /= 1024;
  }
  return `${size.toFixed(2)} TiB`;
}

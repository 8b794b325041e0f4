/** The sequential map that the shared index must look like. */
import assert from "node:assert/strict";
import type { Operation } from "./histories.js";

/** A call on one key. "set" and "remove" are a put and a deletion that are not told whether the key was there. */
export type PointStep =
  | readonly ["put" | "set", key: number, value: number]
  | readonly ["get" | "delete" | "remove", key: number]
  | readonly ["add", key: number, summand: number]
  | readonly ["exchange", key: number, expected: number, value: number];

export type Entries = Map<number, number>;

/** Whether it was done, or the value; undefined when the key is not there, null when the call does not say. */
export type Result = number | undefined | null;

export type PointOperation = Operation<PointStep, Result>;

export function applyStep(state: Entries, step: PointStep): { state: Entries; result: Result } {
  const key = step[1];
  const before = state.get(key);
  const there = before !== undefined;
  switch (step[0]) {
    case "put":
      return { state: withValue(state, key, step[2]), result: there ? 0 : 1 };
    case "set":
      return { state: withValue(state, key, step[2]), result: null };
    case "get":
      return { state, result: before };
    case "delete":
      return { state: without(state, key), result: there ? 1 : 0 };
    case "remove":
      return { state: without(state, key), result: null };
    case "add":
      return { state: there ? withValue(state, key, before + step[2]) : state, result: before };
    case "exchange": {
      const equal = before === step[2];
      return {
        state: equal ? withValue(state, key, step[3]) : state,
        result: there ? Number(equal) : undefined,
      };
    }
  }
}

function withValue(state: Entries, key: number, value: number): Entries {
  return new Map(state).set(key, value);
}

function without(state: Entries, key: number): Entries {
  const next = new Map(state);
  next.delete(key);
  return next;
}

/** One text for equal states. */
export const keyOf = (state: Entries): string =>
  [...state]
    .sort(([a], [b]) => a - b)
    .map(([key, value]) => `${key}=${value}`)
    .join();

/** Keys strictly increase; what nobody touched is there; the rest is what somebody put. */
export function checkScan(
  entries: readonly [number, number][],
  steps: readonly PointStep[],
  initial: Entries,
): void {
  const touched = new Map<number, Set<number>>();
  for (const step of steps) {
    const key = step[1];
    if (step[0] === "get") continue;
    const values = touched.get(key) ?? new Set(initial.has(key) ? [initial.get(key)!] : []);
    if (step[0] === "put" || step[0] === "set") values.add(step[2]);
    touched.set(key, values);
  }
  entries.forEach(([key, value], i) => {
    assert.ok(i === 0 || entries[i - 1][0] < key, `scan goes back at ${key}`);
    if (touched.has(key)) assert.ok(touched.get(key)!.has(value), `scan found ${key}=${value}`);
    else assert.equal(value, initial.get(key), `scan found ${key}=${value}`);
  });
  const seen = new Set(entries.map(([key]) => key));
  for (const key of initial.keys()) if (!touched.has(key)) assert.ok(seen.has(key), `scan missed ${key}`);
}

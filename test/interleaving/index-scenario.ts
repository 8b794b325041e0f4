/** Scenarios of a small shared index: tiny nodes, a few keys, two or three threads of one to three calls. */
import assert from "node:assert/strict";
import { isLinearizable } from "./histories.js";
import type { Call, Event } from "./logical-threads.js";
import type { Outcome, Scenario } from "./schedules.js";

type Exports = Outcome["exports"];

export type Mode = "locked" | "optimistic";
const MODES: Readonly<Record<Mode, number>> = { locked: 1, optimistic: 2 };

/** What a thread does. */
export type Step =
  | readonly ["put", key: number, value: number]
  | readonly ["get" | "delete", key: number]
  | readonly ["add", key: number, summand: number]
  | readonly ["scan"];

export interface IndexScenario {
  readonly mode: Mode;
  /** Keys there at the start; the value of key k is 1000 + k. */
  readonly keys: readonly number[];
  /** Keys put and deleted again before: they leave free nodes behind. */
  readonly gone?: readonly number[];
  readonly threads: readonly (readonly Step[])[];
  /** Nodes of the index; by default plenty. */
  readonly nodes?: number;
}

const SEED = 5n;
/** Where the index lies is known once it has been created, the same in every build. */
const NODE_BYTES = 128;
const DIGIT_BITS = 2;
export const LEAF_CAPACITY = 6;
const SCAN_LIMIT = 64;

const MASK = (1n << 64n) - 1n;

function finalize64(x: bigint): bigint {
  x = ((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  x = ((x ^ (x >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return x ^ (x >> 31n);
}

interface Layout {
  index: number;
  scratch: number;
  seed: bigint;
  levels: number;
}

function create(exports: Exports, memory: WebAssembly.Memory, mode: Mode, nodes: number): Layout {
  assert.equal(exports.coreCreate(SEED), 0);
  assert.equal(exports.coreAttach(1), 0);
  assert.equal(exports.scratchCreate(8192), 0);
  const scratch = Number(exports.coreRegionPointer(0));
  assert.equal(exports.orderedIndexCreate(nodes, NODE_BYTES, 8, DIGIT_BITS, MODES[mode]), 0);
  const index = Number(exports.coreRegionPointer(1));
  const view = new DataView(memory.buffer);
  return {
    index,
    scratch,
    seed: view.getBigUint64(index + 40, true),
    levels: view.getUint32(index + 28, true),
  };
}

const NODES = 64;
/** Layout of every scenario's index with the default number of nodes; the same build of it gives the same. */
let known: Layout | undefined;

/** Keys from `from` on, one each of the wanted heights, in ascending order. */
export function keysOfHeights(heights: readonly number[], from = 1, layout = layoutOf()): number[] {
  const keys: number[] = [];
  let key = from;
  for (const height of heights) {
    while (heightOf(key, layout) !== height) key += 1;
    keys.push(key);
    key += 1;
  }
  return keys;
}

export function heightOf(key: number, { seed, levels } = layoutOf()): number {
  const hash = finalize64(BigInt(key) ^ seed);
  let zeros = 0;
  while (zeros < 64 && ((hash >> BigInt(zeros)) & 1n) === 0n) zeros += 1;
  return Math.min(Math.floor(zeros / DIGIT_BITS), levels - 1);
}

/** The layout is the arena's seed and the shape alone: compute it as the core does (memory/rng.ts). */
function layoutOf(): Layout {
  if (!known) throw new Error("useLayout first");
  return known;
}

/** Learns the layout from an instance. */
export function useLayout(exports: Exports, memory: WebAssembly.Memory): void {
  known = create(exports, memory, "locked", NODES);
}

function toCall(step: Step, thread: number, { index, scratch }: Layout): Call {
  const out = scratch + 2048 * thread;
  switch (step[0]) {
    case "put":
      return { name: "orderedIndexSet64", args: [index, BigInt(step[1]), BigInt(step[2])] };
    case "get":
      return { name: "orderedIndexFind64", args: [index, BigInt(step[1])] };
    case "delete":
      return { name: "orderedIndexDelete64", args: [index, BigInt(step[1])] };
    case "add":
      return { name: "orderedIndexFetchAdd64", args: [index, BigInt(step[1]), BigInt(step[2])] };
    case "scan":
      return { name: "orderedIndexRange", args: [index, 1n, MASK - 1n, SCAN_LIMIT, out, out + 1024] };
  }
}

type Entries = Map<number, number>;

function entriesAt(memory: WebAssembly.Memory, at: number, count: number): [number, number][] {
  const keys = new BigUint64Array(memory.buffer, at, count);
  const values = new BigUint64Array(memory.buffer, at + 1024, count);
  return Array.from(keys, (key, i) => [Number(key), Number(values[i])]);
}

/** Result of a point call in the terms of the model: 1 or 0, a value, or undefined for "not there". */
function resultOf({ call, result, observed }: Omit<Event, "thread">): number | undefined {
  if (call.name === "orderedIndexFind64" || call.name === "orderedIndexFetchAdd64") {
    return result === 0 ? undefined : Number(observed);
  }
  return Number(result);
}

function observe({ call, result }: Omit<Event, "thread">, memory: WebAssembly.Memory): unknown {
  if (call.name === "orderedIndexRange") return entriesAt(memory, Number(call.args[4]), Number(result));
  if (call.name === "orderedIndexFind64" || call.name === "orderedIndexFetchAdd64") {
    return result === 0 ? undefined : new DataView(memory.buffer).getBigUint64(Number(result), true);
  }
  return undefined;
}

/** The sequential map that the index must look like. */
function apply(state: Entries, { name, args }: Call): { state: Entries; result: number | undefined } {
  const key = Number(args[1]);
  const before = state.get(key);
  const next = new Map(state);
  switch (name) {
    case "orderedIndexSet64":
      next.set(key, Number(args[2]));
      return { state: next, result: before === undefined ? 1 : 0 };
    case "orderedIndexDelete64":
      next.delete(key);
      return { state: next, result: before === undefined ? 0 : 1 };
    case "orderedIndexFetchAdd64":
      if (before !== undefined) next.set(key, before + Number(args[2]));
      return { state: next, result: before };
    default:
      return { state, result: before };
  }
}

const keyOf = (state: Entries): string =>
  [...state]
    .sort(([a], [b]) => a - b)
    .map(([key, value]) => `${key}=${value}`)
    .join();

function refused({ call, result }: Event): boolean {
  return call.name === "orderedIndexSet64" && Number(result) < 0;
}

/** A scenario whose every outcome must be valid and linearizable, scans complete and in order. */
export function indexScenario({ mode, keys, gone = [], threads, nodes = NODES }: IndexScenario): Scenario {
  const layout = layoutOf();
  const { index, scratch } = layout;
  const nodesAt = index + 128 + 64 * 64;
  const initial: Entries = new Map(keys.map((key) => [key, 1000 + key]));
  return {
    setup(exports, memory) {
      assert.deepEqual(create(exports, memory, mode, nodes).index, index);
      for (const key of [...keys, ...gone]) exports.orderedIndexSet64(index, BigInt(key), BigInt(1000 + key));
      for (const key of gone) assert.equal(exports.orderedIndexDelete64(index, BigInt(key)), 1);
      assert.equal(exports.orderedIndexValidate(index), 0);
    },
    enter: (exports) => void exports.coreAttach(1),
    // The nodes, and the free list's words in the header.
    isShared: (address) =>
      (address >= nodesAt && address < nodesAt + nodes * NODE_BYTES) ||
      (address >= index + 64 && address < index + 80),
    threads: threads.map((steps, i) => steps.map((step) => toCall(step, i, layout))),
    observe,
    check({ events, exports, memory }) {
      assert.equal(exports.orderedIndexValidate(index), 0, "valid");
      const out = scratch + 2048 * threads.length;
      const found = Number(exports.orderedIndexRange(index, 1n, MASK - 1n, SCAN_LIMIT, out, out + 1024));
      const left = keyOf(new Map(entriesAt(memory, out, found)));
      const history = events
        .filter((event) => event.call.name !== "orderedIndexRange" && !refused(event))
        .map((event) => ({
          argument: event.call,
          result: resultOf(event),
          start: event.start,
          end: event.end,
        }));
      const told = history.map(({ argument, result }) => `${argument.name}(${argument.args[1]})=${result}`);
      assert.ok(
        isLinearizable(history, initial, apply, keyOf, (state) => keyOf(state) === left),
        `no order explains ${told.join(" ")} and ${left}`,
      );
      for (const event of events)
        if (event.call.name === "orderedIndexRange") checkScan(event, events, initial);
    },
  };
}

/** Keys strictly increase; what nobody touched is there; the rest is what somebody put. */
function checkScan({ observed }: Event, events: readonly Event[], initial: Entries): void {
  const entries = observed as [number, number][];
  const touched = new Map<number, Set<number>>();
  for (const { call } of events) {
    if (call.name === "orderedIndexRange" || call.name === "orderedIndexFind64") continue;
    const key = Number(call.args[1]);
    const values = touched.get(key) ?? new Set(initial.has(key) ? [initial.get(key)!] : []);
    if (call.name === "orderedIndexSet64") values.add(Number(call.args[2]));
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

/** Scenarios of a small shared index: tiny nodes, a few keys, two or three threads of one to three calls. */
import assert from "node:assert/strict";
import { isLinearizable } from "./histories.js";
import {
  batchCall,
  type BatchResults,
  type BatchStep,
  isBatch,
  operationsOf,
  readBatch,
  writeBatch,
} from "./index-batches.js";
import {
  applyStep,
  checkScan,
  type Entries,
  keyOf,
  type PointOperation,
  type PointStep,
  type Result,
} from "./index-model.js";
import type { Call, Event } from "./logical-threads.js";
import type { Outcome, Scenario } from "./schedules.js";

type Exports = Outcome["exports"];

export type Mode = "locked" | "optimistic";
const MODES: Readonly<Record<Mode, number>> = { locked: 1, optimistic: 2 };

/** What a thread does: one call. */
export type Step = PointStep | BatchStep | readonly ["scan"];

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
/** The workers' stripes, and where one names the inner nodes that its worker reads (assembly/index/layout.ts). */
const STRIPES_AT = 128;
const STRIPE_BYTES = 192;
const READING_AT = 32;
const DIGIT_BITS = 2;
export const LEAF_CAPACITY = 6;
const SCAN_LIMIT = 64;
/** Scratch of a thread: what a scan found, then a batch. */
const THREAD_BYTES = 4096;
const BATCH_AT = 2048;
const NOT_FOUND = -19;
/** Writer and readers of a lock word. */
const LOCKED = 0xffffn;

const MASK = (1n << 64n) - 1n;

function finalize64(x: bigint): bigint {
  x = ((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  x = ((x ^ (x >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return x ^ (x >> 31n);
}

interface Layout {
  index: number;
  /** The first node. */
  nodes: number;
  scratch: number;
  seed: bigint;
  levels: number;
}

function create(exports: Exports, memory: WebAssembly.Memory, mode: Mode, nodes: number): Layout {
  assert.equal(exports.coreCreate(SEED), 0);
  assert.equal(exports.coreAttach(1), 0);
  assert.equal(exports.scratchCreate(4 * THREAD_BYTES), 0);
  const scratch = Number(exports.coreRegionPointer(0));
  assert.equal(exports.orderedIndexCreate(nodes, NODE_BYTES, 8, DIGIT_BITS, MODES[mode]), 0);
  const index = Number(exports.coreRegionPointer(1));
  const view = new DataView(memory.buffer);
  return {
    index,
    nodes: view.getUint32(index, true),
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
export function layoutOf(): Layout {
  if (!known) throw new Error("useLayout first");
  return known;
}

/** Learns the layout from an instance. */
export function useLayout(exports: Exports, memory: WebAssembly.Memory): void {
  known = create(exports, memory, "locked", NODES);
}

function toCall(step: Step, thread: number, { index, scratch }: Layout): Call {
  const out = scratch + THREAD_BYTES * thread;
  if (isBatch(step)) return batchCall(step, index, out + BATCH_AT);
  switch (step[0]) {
    case "put":
    case "set":
      return { name: "orderedIndexSet64", args: [index, BigInt(step[1]), BigInt(step[2])] };
    case "get":
      return { name: "orderedIndexFind64", args: [index, BigInt(step[1])] };
    case "delete":
    case "remove":
      return { name: "orderedIndexDelete64", args: [index, BigInt(step[1])] };
    case "add":
      return { name: "orderedIndexFetchAdd64", args: [index, BigInt(step[1]), BigInt(step[2])] };
    case "exchange": {
      const [key, expected, value] = step.slice(1).map(BigInt);
      return { name: "orderedIndexCompareExchange64", args: [index, key, expected, value] };
    }
    case "scan":
      return { name: "orderedIndexRange", args: [index, 1n, MASK - 1n, SCAN_LIMIT, out, out + 1024] };
  }
}

function entriesAt(memory: WebAssembly.Memory, at: number, count: number): [number, number][] {
  const keys = new BigUint64Array(memory.buffer, at, count);
  const values = new BigUint64Array(memory.buffer, at + 1024, count);
  return Array.from(keys, (key, i) => [Number(key), Number(values[i])]);
}

/** What a call says besides its result: a value, entries, the results of a batch. */
function observe({ call, result }: Omit<Event, "thread">, memory: WebAssembly.Memory): unknown {
  if (call.name === "orderedIndexRange") return entriesAt(memory, Number(call.args[4]), Number(result));
  if (call.name === "orderedIndexFind64" || call.name === "orderedIndexFetchAdd64") {
    return result === 0 ? undefined : new DataView(memory.buffer).getBigUint64(Number(result), true);
  }
  return readBatch(call, memory);
}

/** Result of a call on one key in the terms of the model. */
function resultOf([kind]: PointStep, { result, observed }: Event): Result {
  if (kind === "get" || kind === "add") return result === 0 ? undefined : Number(observed);
  return Number(result) === NOT_FOUND ? undefined : Number(result);
}

/** All calls on single keys that the threads have made, refused ones left out, and what their scans found. */
function told(
  events: readonly Event[],
  threads: readonly (readonly Step[])[],
): { history: PointOperation[]; scans: [number, number][][] } {
  const made = threads.map(() => 0);
  const history: PointOperation[] = [];
  const scans: [number, number][][] = [];
  for (const event of events) {
    const { thread, start, end, observed } = event;
    const step = threads[thread][made[thread]++];
    if (step[0] === "scan") {
      scans.push(observed as [number, number][]);
    } else if (isBatch(step)) {
      history.push(...operationsOf(step, event));
      scans.push(...(observed as BatchResults).scans);
    } else {
      const result = resultOf(step, event);
      if (step[0] !== "put" || (result as number) >= 0) history.push({ argument: step, result, start, end });
    }
  }
  return { history, scans };
}

/** Whether a word of the index is one in which one of the workers names an inner node that it reads. */
function isName(offset: number, threads: number): boolean {
  const within = offset - STRIPES_AT - READING_AT;
  return within >= 0 && within % STRIPE_BYTES < 8 && within / STRIPE_BYTES < threads + 1;
}

/** A scenario whose every outcome must be valid and linearizable, scans complete and in order. */
export function indexScenario({ mode, keys, gone = [], threads, nodes = NODES }: IndexScenario): Scenario {
  const layout = layoutOf();
  const { index, nodes: nodesAt, scratch } = layout;
  const initial: Entries = new Map(keys.map((key) => [key, 1000 + key]));
  return {
    setup(exports, memory) {
      assert.deepEqual(create(exports, memory, mode, nodes).index, index);
      for (const key of [...keys, ...gone]) exports.orderedIndexSet64(index, BigInt(key), BigInt(1000 + key));
      for (const key of gone) assert.equal(exports.orderedIndexDelete64(index, BigInt(key)), 1);
      assert.equal(exports.orderedIndexValidate(index), 0);
      threads.forEach((steps, thread) => {
        const batches = steps.filter(isBatch);
        assert.ok(batches.length <= 1, "a thread has room for one batch");
        for (const batch of batches) writeBatch(batch, memory, scratch + THREAD_BYTES * thread + BATCH_AT);
      });
    },
    enter: (exports) => void exports.coreAttach(1),
    // The nodes, the free list's words in the header, and who reads which inner node.
    isShared: (address) =>
      (address >= nodesAt && address < nodesAt + nodes * NODE_BYTES) ||
      (address >= index + 64 && address < index + 80) ||
      isName(address - index, threads.length),
    // Who comes back to the same node finds the same lock word; only one that is held is waited for.
    mayWait: (address, value) =>
      isName(address - index, threads.length)
        ? value !== 0n
        : (address - nodesAt) % NODE_BYTES === 0 && (value & LOCKED) !== 0n,
    threads: threads.map((steps, i) => steps.map((step) => toCall(step, i, layout))),
    observe,
    check({ events, exports, memory }) {
      assert.equal(exports.orderedIndexValidate(index), 0, "valid");
      const out = scratch + THREAD_BYTES * threads.length;
      const found = Number(exports.orderedIndexRange(index, 1n, MASK - 1n, SCAN_LIMIT, out, out + 1024));
      const left = keyOf(new Map(entriesAt(memory, out, found)));
      const { history, scans } = told(events, threads);
      const explained = isLinearizable(history, initial, applyStep, keyOf, (state) => keyOf(state) === left);
      if (!explained) {
        const calls = history.map(({ argument, result }) => `${argument.join(" ")}=${result}`);
        assert.fail(`no order explains ${calls.join(", ")} and ${left}`);
      }
      const steps = history.map(({ argument }) => argument);
      for (const entries of scans) checkScan(entries, steps, initial);
    },
  };
}

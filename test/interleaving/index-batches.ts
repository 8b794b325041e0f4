/**
 * Batches of the index's calls: their arguments in core memory, and what they say in the terms of the model. Each
 * operation of a batch takes place by itself somewhere within the call, after the one before it.
 */
import assert from "node:assert/strict";
import type { PointOperation, PointStep, Result } from "./index-model.js";
import type { Call, Event } from "./logical-threads.js";

/** Leaves are found ahead for eight keys at a time; a batch has eight operations. */
export const GROUP = 8;

export type BatchStep =
  | readonly ["getMany", keys: readonly number[]]
  /** The i-th key gets the value + i. */
  | readonly ["setMany", keys: readonly number[], value: number]
  | readonly ["deleteMany", keys: readonly number[]]
  | readonly ["apply", steps: readonly (PointStep | readonly ["scan"])[]];

const RECORD_WORDS = 4;
const RECORD_BYTES = RECORD_WORDS * 8;
const KINDS = { get: 0, put: 1, set: 1, delete: 2, remove: 2, add: 3, exchange: 4, scan: 5 } as const;
const NOT_FOUND = -19;
/** Entries a scan may find. */
const SCAN_LIMIT = 40;
/** Keys or records, then values or scanned keys, then flags or scanned values. */
const [SECOND, THIRD] = [RECORD_BYTES * GROUP, RECORD_BYTES * GROUP + 8 * SCAN_LIMIT];
/** Bytes of a batch. */
export const BATCH_BYTES = THIRD + 8 * SCAN_LIMIT;

export function isBatch(step: readonly unknown[]): step is BatchStep {
  return Array.isArray(step[1]) || step[0] === "apply";
}

export function batchCall([kind]: BatchStep, index: number, at: number): Call {
  switch (kind) {
    case "getMany":
      return { name: "orderedIndexGetMany", args: [index, at, GROUP, at + SECOND, at + THIRD] };
    case "setMany":
      return { name: "orderedIndexSetMany", args: [index, at, at + SECOND, GROUP] };
    case "deleteMany":
      return { name: "orderedIndexDeleteMany", args: [index, at, GROUP] };
    case "apply":
      return { name: "orderedIndexApply", args: [index, at, GROUP, at + SECOND, at + THIRD, SCAN_LIMIT] };
  }
}

/** Writes a batch's arguments. */
export function writeBatch(step: BatchStep, memory: WebAssembly.Memory, at: number): void {
  assert.equal(step[1].length, GROUP);
  if (step[0] === "apply") {
    const words = new BigUint64Array(memory.buffer, at, RECORD_WORDS * GROUP);
    step[1].forEach((one, i) => {
      const [key, value, expected] =
        one[0] === "scan"
          ? [1, SCAN_LIMIT, 0]
          : one[0] === "exchange"
            ? [one[1], one[3], one[2]]
            : [one[1], one[2] ?? 0, 0];
      words.set([KINDS[one[0]], key, value, expected].map(BigInt), i * RECORD_WORDS);
    });
    return;
  }
  new BigUint64Array(memory.buffer, at, GROUP).set(step[1].map(BigInt));
  if (step[0] === "setMany") {
    const values = step[1].map((_, i) => BigInt(step[2] + i));
    new BigUint64Array(memory.buffer, at + SECOND, GROUP).set(values);
  }
}

/** What a batch left in memory: results in the terms of the model, and the entries of its scans. */
export interface BatchResults {
  readonly results: readonly Result[];
  readonly scans: readonly [number, number][][];
}

/** Reads it, right after the call; undefined if the call is no batch. */
export function readBatch(call: Call, memory: WebAssembly.Memory): BatchResults | undefined {
  const at = Number(call.args[1]);
  const words = (offset: number, count: number): number[] =>
    Array.from(new BigUint64Array(memory.buffer, at + offset, count), Number);
  switch (call.name) {
    case "orderedIndexGetMany": {
      const found = new Uint8Array(memory.buffer, at + THIRD, GROUP);
      return { results: words(SECOND, GROUP).map((value, i) => (found[i] ? value : undefined)), scans: [] };
    }
    case "orderedIndexSetMany":
    case "orderedIndexDeleteMany":
      return { results: Array.from({ length: GROUP }, () => null), scans: [] };
    case "orderedIndexApply":
      return readRecords(memory, at, words);
    default:
      return undefined;
  }
}

function readRecords(
  memory: WebAssembly.Memory,
  at: number,
  words: (offset: number, count: number) => number[],
): BatchResults {
  const records = new DataView(memory.buffer, at, RECORD_BYTES * GROUP);
  const scans: [number, number][][] = [];
  let scanned = 0;
  const results = Array.from({ length: GROUP }, (_, i): Result => {
    const kind = records.getUint32(i * RECORD_BYTES, true);
    const status = records.getInt32(i * RECORD_BYTES + 4, true);
    if (kind === KINDS.scan) {
      const values = words(THIRD + 8 * scanned, status);
      scans.push(words(SECOND + 8 * scanned, status).map((key, entry) => [key, values[entry]]));
      scanned += status;
      return null;
    }
    const reads = kind === KINDS.get || kind === KINDS.add;
    if (status === NOT_FOUND || (reads && status === 0)) return undefined;
    return reads ? Number(records.getBigUint64(i * RECORD_BYTES + 16, true)) : status;
  });
  return { results, scans };
}

/** The operations of a batch, each with its result, in their order. */
export function operationsOf(step: BatchStep, { start, end, observed }: Event): PointOperation[] {
  const { results } = observed as BatchResults;
  const operations: PointOperation[] = [];
  stepsOf(step).forEach((argument, i) => {
    if (argument[0] === "scan") return;
    const previous = operations[operations.length - 1];
    operations.push({ argument, result: results[i], start: start + i / GROUP, end, previous });
  });
  return operations;
}

function stepsOf(step: BatchStep): readonly (PointStep | readonly ["scan"])[] {
  switch (step[0]) {
    case "getMany":
      return step[1].map((key) => ["get", key]);
    case "setMany":
      return step[1].map((key, i) => ["set", key, step[2] + i]);
    case "deleteMany":
      return step[1].map((key) => ["remove", key]);
    case "apply":
      return step[1];
  }
}

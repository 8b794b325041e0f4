/** What a prompt's cached blocks depend on besides its tokens, typed: scopes by token range, an adapter, items. */
import { invalidArgument, QuartermasterError, requireInteger } from "./errors.js";
import type { KvCache } from "./kv-cache.js";

/** A number from 0 to 2^128 - 1, or its decimal digits. */
export type Wide = number | bigint | string;

/** From `offset` up to the next range the prompt belongs to a scope. */
export interface TokenRange {
  offset: number;
  /** Who may share its blocks: everybody in the namespace, or those with the same salt of a group or a tenant. */
  scope: "public" | "group" | "tenant";
  /** Of a group or a tenant: made on the server, never taken from a request. */
  salt?: Wide;
}

/** An image, a sound, ...: the tokens from `offset` on only hold its place. */
export interface PromptItem {
  offset: number;
  /** Tokens that it takes, >= 1. */
  length: number;
  /** Of its content, as many bits as two contents that differ need: 64 to 128. */
  hash: Wide;
}

export interface PromptMarks {
  /** By offset, ascending. Before the first, and without any, a prompt is public. Needs a cache with `marks`. */
  ranges?: readonly TokenRange[];
  /** The adapter (LoRA) that computes the prompt. Needs a cache with `marks`. */
  adapter?: Wide;
  /** Items, by offset, ascending, that do not overlap. Needs a cache with `marks`. */
  items?: readonly PromptItem[];
}

/** Numbers of the kinds in the core (docs/abi.md). */
export const markKind = { public: 1, group: 2, tenant: 3, adapter: 4, item: 5 } as const;
const MARK_WORDS = 8;
const MOST_MARKS = 256;

export interface Mark {
  readonly kind: number;
  readonly offset: number;
  readonly length: number;
  readonly content: bigint;
}

/** The marks of a list that is held, by position. */
export function readMarks(cache: KvCache, list: number): Mark[] {
  const { core, pointer } = cache;
  const count = core.call(() => core.exports.kvMarksRead(pointer, list), "marks");
  if (count === 0) return [];
  const words = new Uint32Array(
    core.memory.buffer,
    core.exports.kvMarksInput(pointer) >>> 0,
    count * MARK_WORDS,
  );
  return Array.from({ length: count }, (_, i) => {
    const [offset, kind, length, , ...parts] = words.subarray(i * MARK_WORDS, (i + 1) * MARK_WORDS);
    const content = parts.reduceRight((high, part) => (high << 32n) | BigInt(part), 0n);
    return { kind, offset, length, content };
  });
}

function wide(argument: string, value: unknown): bigint {
  const whole =
    typeof value === "bigint" ||
    (typeof value === "number" && Number.isSafeInteger(value)) ||
    (typeof value === "string" && /^\d{1,39}$/.test(value));
  const number = whole ? BigInt(value as Wide) : -1n;
  if (number < 0n || number >= 1n << 128n)
    throw invalidArgument(argument, value, "an integer from 0 to 2^128 - 1");
  return number;
}

function list<T>(argument: string, values: readonly T[] | undefined): readonly T[] {
  if (values === undefined || values === null) return [];
  if (!Array.isArray(values)) throw invalidArgument(argument, values, "an array");
  return values as readonly T[];
}

/** A prompt's marks by position, checked. */
export function marksOf({ ranges, adapter, items }: PromptMarks, longest: number): Mark[] {
  const marks: Mark[] = [];
  if (adapter !== undefined && adapter !== null)
    marks.push({ kind: markKind.adapter, offset: 0, length: 0, content: wide("adapter", adapter) });
  let behind = 0;
  list("ranges", ranges).forEach((range, i) => {
    const offset = requireInteger(`ranges[${i}].offset`, range?.offset, behind, longest);
    behind = offset + 1;
    const { scope, salt } = range;
    if (scope !== "public" && scope !== "group" && scope !== "tenant")
      throw invalidArgument(`ranges[${i}].scope`, scope, "public, group or tenant");
    if (scope === "public" && salt !== undefined)
      throw invalidArgument(`ranges[${i}].salt`, salt, "none for a public range");
    if (scope === "public" && i === 0) return; // as it is without it
    const content = scope === "public" ? 0n : wide(`ranges[${i}].salt`, salt);
    marks.push({ kind: markKind[scope], offset, length: 0, content });
  });
  behind = 0;
  list("items", items).forEach((item, i) => {
    const offset = requireInteger(`items[${i}].offset`, item?.offset, behind, longest);
    const length = requireInteger(`items[${i}].length`, item.length, 1, longest);
    behind = offset + length;
    marks.push({ kind: markKind.item, offset, length, content: wide(`items[${i}].hash`, item.hash) });
  });
  return marks.sort((a, b) => a.offset - b.offset || a.kind - b.kind);
}

const ENTRY_BYTES = 29;

/** Bytes of the marks from position `from` up to `to`, as the extras of a block's content key (docs/abi.md). */
export function markExtras(marks: readonly Mark[], from: number, to: number): Uint8Array {
  const own = marks.filter(({ offset }) => offset >= from && offset < to);
  const bytes = new DataView(new ArrayBuffer(own.length * ENTRY_BYTES));
  own.forEach(({ kind, offset, length, content }, i) => {
    const at = i * ENTRY_BYTES;
    bytes.setUint8(at, 16 + kind);
    bytes.setUint32(at + 1, ENTRY_BYTES - 5, true);
    bytes.setUint32(at + 5, offset, true);
    bytes.setUint32(at + 9, length, true);
    bytes.setBigUint64(at + 13, content & (2n ** 64n - 1n), true);
    bytes.setBigUint64(at + 21, content >> 64n, true);
  });
  return new Uint8Array(bytes.buffer);
}

/**
 * Runs a call with a prompt's marks as the core knows them, 0 when it has none, and lets go of them after it. Throws
 * OUT_OF_SCOPES, INVALID_ARGUMENT, UNSUPPORTED for a cache without marks.
 */
export function withMarks<Result>(
  cache: KvCache,
  options: PromptMarks,
  run: (list: number) => Result,
): Result {
  const marks = marksOf(options, cache.maxSequenceTokens);
  if (marks.length === 0) return run(0);
  const { core, pointer } = cache;
  const { exports } = core;
  const input = exports.kvMarksInput(pointer) >>> 0;
  if (input === 0)
    throw new QuartermasterError("UNSUPPORTED", "ranges, adapter and items need a cache with `marks`");
  if (marks.length > MOST_MARKS)
    throw invalidArgument("ranges and items", marks.length, `at most ${MOST_MARKS} together`);
  const words = new Uint32Array(core.memory.buffer, input, marks.length * MARK_WORDS);
  marks.forEach(({ kind, offset, length, content }, i) => {
    const parts = [0n, 32n, 64n, 96n].map((shift) => Number((content >> shift) & 0xffffffffn));
    words.set([offset, kind, length, 0, ...parts], i * MARK_WORDS);
  });
  const list = core.call(() => exports.kvMarks(pointer, marks.length), "marks");
  try {
    return run(list);
  } finally {
    exports.kvMarksRelease(pointer, list);
  }
}

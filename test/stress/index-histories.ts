/**
 * Linearizability of short histories: at each meeting the threads make twelve calls in all on two keys, noting when
 * each began and ended; some order of the calls within these times must explain every result and what is left.
 */
import assert from "node:assert/strict";
import { QuartermasterError } from "../../bindings/main.js";
import { isLinearizable } from "../interleaving/histories.js";
import { Random } from "../support/random.js";
import type { Figures, Station } from "./station.js";

const CALLS = 12;
const NONE = -1;
const NOTE = { Kind: 0, Which: 1, Argument: 2, Expected: 3, Result: 4, Start: 5, End: 6 } as const;
const NOTE_WORDS = 7;
const KINDS = ["put", "get", "delete", "fetchAdd", "compareExchange"] as const;

export function historyWords(): number {
  return CALLS * NOTE_WORDS;
}

interface Argument {
  readonly kind: (typeof KINDS)[number];
  readonly which: number;
  readonly value: number;
  readonly expected: number;
}

/** Values of the two keys, NONE when missing. */
type State = readonly [number, number];

/** The map that the index must look like. */
function apply(state: State, { kind, which, value, expected }: Argument): { state: State; result: number } {
  const before = state[which];
  const becomes = (after: number): State => (which === 0 ? [after, state[1]] : [state[0], after]);
  switch (kind) {
    case "put":
      return { state: becomes(value), result: Number(before === NONE) };
    case "get":
      return { state, result: before };
    case "delete":
      return { state: becomes(NONE), result: Number(before !== NONE) };
    case "fetchAdd":
      return { state: before === NONE ? state : becomes(before + value), result: before };
    case "compareExchange":
      if (before === NONE) return { state, result: NONE };
      return { state: before === expected ? becomes(value) : state, result: Number(before === expected) };
  }
}

export function histories(station: Station): Figures {
  const { me, random, task, index } = station;
  const { ledger, rounds, keys, workers } = task;
  const share = CALLS / workers;
  let overlapping = 0;
  let state: State = [NONE, NONE];
  const valueOf = (key: bigint): number => Number(index.get(key) ?? NONE);
  for (let round = 0; round < rounds; round++) {
    const common = new Random(task.seed * 4096 + round);
    const first = 1 + common.below(keys);
    const pair = [BigInt(first), BigInt(first + 1 + common.below(4))];
    station.whileAllWait(() => {
      // Other keys around, so that the two stand at ends and in the middle of fuller and emptier nodes.
      for (let i = 0; i < 4; i++) index.set(BigInt(1 + random.below(keys + 4)), BigInt(random.below(8)));
      for (let i = 0; i < 4; i++) index.delete(BigInt(1 + random.below(keys + 4)));
      state = [valueOf(pair[0]), valueOf(pair[1])];
    });
    for (let i = 0; i < share; i++) {
      const kind = random.below(KINDS.length);
      const which = random.below(2);
      const [value, expected] = [random.below(8), random.below(8)];
      const start = station.tick();
      const result = call(station, { kind: KINDS[kind], which, value, expected }, pair[which]);
      const end = station.tick();
      ledger.set([kind, which, value, expected, result, start, end], (me * share + i) * NOTE_WORDS);
    }
    station.whileAllWait(() => {
      const history = noted(ledger);
      overlapping += Number(
        history.some(({ start, end }) => history.some((other) => other.start > start && other.start < end)),
      );
      const left = pair.map(valueOf).join();
      assert.ok(
        isLinearizable(history, state, apply, String, (end) => String(end) === left),
        `no order explains ${told(history)} from ${state.join()} to ${left}`,
      );
      if (round % 16 === 0) index.validate();
    });
  }
  return { overlapping };
}

function call({ index }: Station, { kind, value, expected }: Argument, key: bigint): number {
  switch (kind) {
    case "put":
      return Number(index.set(key, BigInt(value)));
    case "get":
      return Number(index.get(key) ?? NONE);
    case "delete":
      return Number(index.delete(key));
    case "fetchAdd":
      return missingIsNone(() => Number(index.fetchAdd(key, BigInt(value))));
    case "compareExchange":
      return missingIsNone(() => Number(index.compareExchange(key, BigInt(expected), BigInt(value))));
  }
}

function missingIsNone(run: () => number): number {
  try {
    return run();
  } catch (error) {
    if (error instanceof QuartermasterError && error.code === "NOT_FOUND") return NONE;
    throw error;
  }
}

interface Noted {
  readonly argument: Argument;
  readonly result: number;
  readonly start: number;
  readonly end: number;
}

function noted(ledger: Int32Array): Noted[] {
  return Array.from({ length: CALLS }, (_, i) => {
    const word = (offset: number): number => ledger[i * NOTE_WORDS + offset];
    const argument = {
      kind: KINDS[word(NOTE.Kind)],
      which: word(NOTE.Which),
      value: word(NOTE.Argument),
      expected: word(NOTE.Expected),
    };
    return { argument, result: word(NOTE.Result), start: word(NOTE.Start), end: word(NOTE.End) };
  });
}

const told = (history: readonly Noted[]): string =>
  history
    .map(({ argument: { kind, which, value, expected }, result, start, end }) => {
      const operands = kind === "compareExchange" ? `${expected}>${value}` : `${value}`;
      return `${kind}(${which}, ${operands})=${result}@${start}-${end}`;
    })
    .join(" ");

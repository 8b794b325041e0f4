/** Step plans written by hand, for tests of executors without a scheduler. */
import type { StepPlan } from "../../bindings/main.js";

export interface PlanRow {
  /** 0 prefill chunk, 1 decode, 2 last chunk. Default: 2, or 1 for one token. */
  phase?: number;
  computedBefore: number;
  tokens: readonly number[];
  /** Block ids of the whole sequence. */
  blocks: readonly number[];
  /** Slots that the tokens' K and V are said to take, for rows whose lanes decide. Default: by position. */
  slots?: readonly number[];
}

/** A plan of these rows; its arrays lie in one WebAssembly memory, as those of a core do. */
export function handPlan(rows: readonly PlanRow[], blockSize: number, stepId = 1): StepPlan {
  const memory = new WebAssembly.Memory({ initial: 8, maximum: 8 });
  let next = 64;
  const put = (values: readonly number[]): Uint32Array => {
    const view = new Uint32Array(memory.buffer, next, values.length);
    view.set(values);
    next += values.length * 4;
    return view;
  };
  const phases = rows.map((row) => row.phase ?? (row.tokens.length === 1 ? 1 : 2));
  const starts = (counts: readonly number[]): number[] =>
    counts.reduce((sums, count) => [...sums, sums.at(-1)! + count], [0]);
  const tokenStart = starts(rows.map(({ tokens }) => tokens.length));
  const slots = rows.flatMap(
    ({ tokens, blocks, computedBefore, slots }) =>
      slots ??
      tokens.map((_, i) => {
        const position = computedBefore + i;
        return blocks[Math.floor(position / blockSize)] * blockSize + (position % blockSize);
      }),
  );
  return {
    stepId,
    rows: rows.length,
    decodeRows: phases.filter((phase) => phase === 1).length,
    samplingRows: phases.filter((phase) => phase !== 0).length,
    totalTokens: tokenStart.at(-1)!,
    running: rows.length,
    waiting: 0,
    freeBlocks: 0,
    evictableBlocks: 0,
    requests: put(rows.map((_, i) => i)),
    sequences: put(rows.map((_, i) => i)),
    phases: put(phases),
    newTokens: put(rows.map(({ tokens }) => tokens.length)),
    computedBefore: put(rows.map(({ computedBefore }) => computedBefore)),
    layerLo: put(rows.map(() => 0)),
    layerHi: put(rows.map(() => 0)),
    tokenStart: put(tokenStart),
    tokens: put(rows.flatMap(({ tokens }) => [...tokens])),
    slots: put(slots),
    tableStart: put(starts(rows.map(({ blocks }) => blocks.length)).slice(0, -1)),
    tableCount: put(rows.map(({ blocks }) => blocks.length)),
    tables: put(rows.flatMap(({ blocks }) => [...blocks])),
    transfers: put([]),
    transferCount: 0,
    memory,
  };
}

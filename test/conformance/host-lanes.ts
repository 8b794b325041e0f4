/** Answers calls about sequences that drop tokens: their lanes, compactions, requests for them, and selection. */
import { CoreLanes, type LaneArena, type Selection } from "../../bindings/main.js";
import { apportion, type ApportionStrategy } from "../../bindings/eviction/apportion.js";
import type { AggregateName, Scores } from "../../bindings/eviction/select.js";
import type { ConformanceHost } from "./host.js";
import type { Answer } from "./script.js";

type Operations = Readonly<Record<string, (args: never) => Answer>>;

const NONE = 0xffffffff;

/** A policy's answer from flat lists: counts (NONE: all), the slots behind one another; an empty list: none. */
function answerFrom(
  lanes: number,
  counts: number[],
  slots: number[],
  victims: number[],
  successors: number[],
) {
  let at = 0;
  const keep = Array.from({ length: lanes }, (_, lane) => {
    const count = counts[lane] ?? NONE;
    return count === NONE ? null : Uint32Array.from(slots.slice(at, (at += count)));
  });
  const list = (words: number[]): Uint32Array =>
    words.length === 0 ? new Uint32Array(lanes).fill(NONE) : Uint32Array.from(words);
  return { keep, inPlace: { victim: list(victims), successor: list(successors) } };
}

export function laneOperations(host: ConformanceHost): Operations {
  const arena = (): LaneArena => host.lanes;
  const lanesOf = (handle: number): CoreLanes => new CoreLanes(arena(), handle);
  return {
    "lane-arena": ([layers, kvHeads, capacity, planes, sequences, moveCapacity]: number[]) => {
      const { cache } = host;
      host.lanes = host.core.laneArena({
        cache,
        layers,
        kvHeads,
        capacity,
        planes,
        sequences,
        moveCapacity,
      });
      return [0];
    },
    "open-lossy": ([namespace, tokens]: [number, number[]]) => [
      host.cache.open({ tokens, namespace, lossy: true }),
    ],
    "lanes-open": ([sequence, bySlot]: number[]) => [arena().open(sequence, bySlot !== 0).handle],
    "lanes-append": ([lanes, count]: number[]) => [(lanesOf(lanes).append(count), 0)],
    "lanes-reset": ([lanes, sequence]: number[]) => [(lanesOf(lanes).reset(sequence), 0)],
    "lanes-fork": ([lanes, sequence]: number[]) => [lanesOf(lanes).fork(sequence).handle],
    "lanes-close": ([lanes]: number[]) => [(lanesOf(lanes).close(), 0)],
    "lanes-plan": ([lanes, privateFrom, counts, slots, victims, successors]: [
      number,
      number,
      number[],
      number[],
      number[],
      number[],
    ]) => {
      const answer = answerFrom(arena().lanes, counts, slots, victims, successors);
      lanesOf(lanes).plan(answer, privateFrom);
      const { before, after, fresh } = host.cache.planned();
      return [0, before, after, fresh];
    },
    "lanes-moves": () => {
      const { core, pointer } = arena();
      const count = core.call(() => core.exports.lanesMoves(pointer), "moves");
      return [count, ...arena().words(arena().section("records"), 8 * count)];
    },
    "lanes-commit": () => [
      (host.core.call(() => host.core.exports.lanesCommit(arena().pointer), "commit"), 0),
    ],
    "lanes-rollback": () => [
      (host.core.call(() => host.core.exports.lanesRollback(arena().pointer), "rollback"), 0),
    ],
    lane: ([lanes, layer, kvHead]: number[]) => {
      const view = lanesOf(lanes).lane(layer, kvHead);
      const { length, hole, pos, score } = view;
      const evicted = (view as unknown as { evicted: number }).evicted;
      return [0, length, hole, evicted, ...pos.subarray(0, length), ...score!.subarray(0, length)];
    },
    "lane-score": ([lanes, layer, kvHead, scores]: [number, number, number, number[]]) => {
      lanesOf(lanes).lane(layer, kvHead).score!.set(scores);
      return [0];
    },
    "lane-figures": () => {
      const { evicted, moved } = arena().totals;
      return [0, arena().size, evicted, moved];
    },
    "submit-lossy": ([numbers, tokens]: [number[], number[]]) => {
      const [id, namespace, priority, arrivalUs, maxNewTokens, peakSlots, lastChunk] = numbers;
      return [
        host.scheduler.submit({
          ...{ id, namespace, priority, arrivalUs, maxNewTokens, peakSlots, lastChunk, tokens },
        }),
      ];
    },
    "request-lanes": ([request, flags, sequence, prefillBlocks]: number[]) => {
      const share = (flags & 1) !== 0;
      const keep = (flags & 2) !== 0;
      host.scheduler.lanes(request, { share, keep, sequence, prefillBlocks });
      return [0];
    },
    "row-sequences": () => {
      const { rows, sequences } = host.scheduler.plan();
      return [rows, ...sequences];
    },
  };
}

const AGGREGATES: readonly AggregateName[] = ["sum", "mean", "max"];
/** Strategies of the core, and whether the sum is exact. */
const STRATEGIES: readonly (readonly [ApportionStrategy, boolean])[] = [
  ["largest-remainder", true],
  ["cake", true],
  ["error-aware", true],
  ["inverse-power", false],
  ["pyramid", true],
  ["pyramid", false],
];
/** Fractions come as eighths. */
const eighths = (list: readonly number[]): Float32Array => Float32Array.from(list, (value) => value / 8);

export function selectionOperations(host: ConformanceHost): Operations {
  const selection = (): Selection => host.selection;
  const scoresOf = (kind: number, list: number[]): Scores =>
    kind === 0 ? eighths(list) : Uint32Array.from(list);
  const rowsOf = (rowStride: number, heads: number, aggregate: number, planeStride: number) => ({
    rowStride,
    heads,
    planeStride,
    aggregate: AGGREGATES[aggregate],
  });
  /** What the lanes of a plane hold, lane behind lane. */
  const planeOf = (plane: ArrayLike<number>, stride: number, lengths: readonly number[]): number[] =>
    lengths.flatMap((length, lane) => Array.from({ length }, (_, slot) => plane[lane * stride + slot]));
  return {
    selection: ([capacity, floats]: number[]) => [
      ((host.selection = host.core.selection({ capacity, floats })), 0),
    ],
    topk: ([kind, k, stride, minimum, sinks, recentFrom, lengths, scores, ties, positions]: [
      number,
      number,
      number,
      number,
      number,
      number,
      number[],
      number[],
      number[],
      number[],
    ]) => {
      const lanes = selection().topkPooled(scoresOf(kind, scores), k, {
        ...{ lengths, stride, minimum, sinks, recentFrom },
        ...(ties.length > 0 && { ties: Uint32Array.from(ties) }),
        ...(positions.length > 0 && { positions: Uint32Array.from(positions) }),
      });
      const slots = lanes.flatMap((lane) => [...lane]);
      return [slots.length, ...slots, ...lanes.map(({ length }) => length), selection().nanCount];
    },
    argmin: ([kind, sinks, recentFrom, scores, positions]: [number, number, number, number[], number[]]) => {
      const slot = selection().argmin(scoresOf(kind, scores), {
        ...{ sinks, recentFrom },
        ...(positions.length > 0 && { positions: Uint32Array.from(positions) }),
      });
      return [slot ?? -19];
    },
    accumulate: ([planeStride, rowStride, heads, aggregate, limit, lengths, rows]: [
      number,
      number,
      number,
      number,
      number,
      number[],
      number[],
    ]) => {
      const layer = { ...rowsOf(rowStride, heads, aggregate, planeStride), lengths, rows: eighths(rows) };
      const wrong = selection().accumulate(selection().scores, layer, limit / 8);
      return [wrong, ...planeOf(selection().scores, planeStride, lengths)];
    },
    track: ([planeStride, rowStride, heads, aggregate, threshold, now, lengths, rows]: [
      number,
      number,
      number,
      number,
      number,
      number,
      number[],
      number[],
    ]) => {
      const layer = { ...rowsOf(rowStride, heads, aggregate, planeStride), lengths, rows: eighths(rows) };
      const { buffer, byteOffset, length } = selection().scores;
      const half = length / 2;
      const last = new Uint32Array(buffer, byteOffset, half);
      const longest = new Uint32Array(buffer, byteOffset + 4 * half, half);
      const important = selection().track(last, longest, layer, threshold / 8, now);
      const both = [last, longest].flatMap((plane) => planeOf(plane, planeStride, lengths));
      return [important, ...both];
    },
    "scale-above": ([planeStride, limit, factor, lengths, plane]: [
      number,
      number,
      number,
      number[],
      number[],
    ]) => {
      const { scores } = selection();
      scores.set(eighths(plane));
      const scaled = selection().scaleAbove(scores, planeStride, lengths, limit / 8, factor / 8);
      return [scaled, ...planeOf(scores, planeStride, lengths)];
    },
    pool: ([stride, kernel, maximum, lengths, source]: [number, number, number, number[], number[]]) => {
      const { scores } = selection();
      const kind = maximum === 0 ? "average" : "maximum";
      selection().pool(eighths(source), scores, stride, lengths, kernel, kind);
      return [0, ...planeOf(scores, stride, lengths)];
    },
    apportion: ([strategy, total, beta, weights, minimum, maximum]: [
      number,
      number,
      number,
      number[],
      number[],
      number[],
    ]) => {
      const [name, strict] = STRATEGIES[strategy];
      const parts = apportion(host.core, {
        ...{ weights, total, minimum, maximum, strategy: name, strict, beta },
        ...(name === "inverse-power" && { alpha: 0 }),
      });
      return [0, ...parts];
    },
  };
}

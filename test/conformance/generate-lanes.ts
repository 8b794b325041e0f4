/** Scripts about sequences that drop tokens: by themselves, under a scheduler; and selection. */
import { CoreLanes } from "../../bindings/main.js";
import { POLICIES } from "../../bindings/scheduler-options.js";
import type { Random } from "../support/random.js";
import { type Bound, bound, LONGEST } from "./generate-sharing.js";
import { type Generator, type Recorder, tokens } from "./recorder.js";

const [LAYERS, KV_HEADS, BLOCK_SIZE] = [2, 2, 4];
const LANES = LAYERS * KV_HEADS;
const NONE = 0xffffffff;
/** Planes for the score and the interval, which all scripts ask for. */
const PLANES = 1 + 4;

/** Flat lists as `lanes-plan` takes them. */
interface Keep {
  readonly counts: number[];
  readonly slots: number[];
  readonly victims: number[];
  readonly successors: number[];
}

/** What stays, at random: whole lanes, packed ones, the same whole blocks in each, a place in each for the next token. */
function randomKeep(random: Random, lanes: CoreLanes, most = NONE): Keep {
  const keep: Keep = { counts: [], slots: [], victims: [], successors: [] };
  const kind = random.below(4);
  const blocks = Array.from({ length: 16 }, () => random.below(3) > 0);
  const share = 1 + random.below(9);
  for (let lane = 0; lane < LANES; lane++) {
    const { length, hole } = lanes.lane(Math.floor(lane / KV_HEADS), lane % KV_HEADS);
    const whole = length <= most;
    const victim = kind === 1 && whole && hole === NONE && length > 2 ? random.below(length) : NONE;
    const successor = victim === NONE || random.below(2) === 0 ? NONE : random.below(length);
    keep.victims.push(victim);
    keep.successors.push(successor === victim ? NONE : successor);
    const all = Array.from({ length }, (_, slot) => slot).filter((slot) => slot !== hole);
    let slots = all.filter((slot) =>
      kind === 2 ? blocks[Math.floor(slot / BLOCK_SIZE)] : random.below(10) < share,
    );
    if (slots.length > most) slots = slots.slice(-most);
    if (slots.length === 0) slots = all.slice(-1);
    if (victim !== NONE || slots.length === 0 || (whole && random.below(4) === 0)) keep.counts.push(NONE);
    else {
      keep.counts.push(slots.length);
      keep.slots.push(...slots);
    }
  }
  return keep;
}

const ALL: Keep = { counts: [], slots: [], victims: [], successors: [] };

/** Plans, makes the moves, and commits, or takes it back now and then. Returns whether it was committed. */
async function drop(
  { random, call }: Bound,
  lanes: number,
  keep: Keep,
  privateFrom: number,
  surely = false,
): Promise<boolean> {
  const { counts, slots, victims, successors } = keep;
  const [status] = await call("lanes-plan", lanes, privateFrom, counts, slots, victims, successors);
  if (status < 0) return false;
  if (random.below(12) === 0)
    await call("lanes-plan", lanes, privateFrom, counts, slots, victims, successors);
  if (!surely && random.below(8) === 0) {
    await call("lanes-rollback");
    return false;
  }
  for (let moves = 1; moves > 0; [moves] = await call("lanes-moves"));
  await call("lanes-commit");
  return true;
}

async function look({ random, call }: Bound, lanes: CoreLanes): Promise<void> {
  const [layer, head] = [random.below(LAYERS), random.below(KV_HEADS)];
  const { length } = lanes.lane(layer, head);
  await call(
    "lane-score",
    lanes.handle,
    layer,
    head,
    Array.from({ length }, () => random.below(99)),
  );
  await call("lane", lanes.handle, layer, head);
  await call("lane", lanes.handle, random.below(LAYERS), random.below(KV_HEADS));
}

interface Live {
  readonly sequence: number;
  lanes: number;
}

/** Sequences that grow, drop, are forked and end, some on cached prefixes. `bySlot`: keys that moves turn. */
export const lossyLives =
  (bySlot: boolean): Generator =>
  async (recorder) => {
    const host = bound(recorder);
    const { random, call } = host;
    await call("core", 33);
    await call("cache", 40, BLOCK_SIZE, 9, LONGEST, 1);
    await call("lane-arena", LAYERS, KV_HEADS, LONGEST - 4, PLANES, 6, 3);
    const live: Live[] = [];
    const grow = async (one: Live, list: readonly number[]): Promise<void> => {
      const [status] = await call("reserve", one.sequence, list.length);
      if (status === -27) await drop(host, one.lanes, ALL, NONE);
      if (status < 0) return;
      await call("copies");
      await call("settle");
      await call("append", one.sequence, [...list]);
      if (one.lanes > 0) await call("lanes-append", one.lanes, list.length);
    };
    for (let i = 0; i < 400; i++) {
      const one = live.length > 0 ? random.pick(live) : undefined;
      const action = random.below(14);
      if (one === undefined || (action === 0 && live.length < 7)) {
        const prompt = tokens(random, 30);
        const [sequence] =
          random.below(3) === 0 ? await call("open-lossy", 0, prompt) : await call("open", 0, 0, prompt);
        if (sequence < 0) continue;
        const [length] = await call("length", sequence);
        const made: Live = { sequence, lanes: 0 };
        live.push(made);
        await grow(made, prompt.slice(length));
        const [lanes] = await call("lanes-open", sequence, +bySlot);
        if (lanes <= 0) continue;
        made.lanes = lanes;
        await call("lanes-append", lanes, (await call("length", sequence))[0]);
      } else if (action < 5) await grow(one, tokens(random, action < 3 ? 8 : 1));
      else if (action < 10 && one.lanes > 0) {
        const core = new CoreLanes(recorder.host.lanes, one.lanes);
        const keep =
          random.below(20) === 0
            ? { ...ALL, counts: Array<number>(LANES).fill(1), slots: [60, 60, 60, 60] }
            : randomKeep(random, core);
        await drop(host, one.lanes, keep, random.below(4) === 0 ? random.below(20) : NONE);
        await look(host, core);
      } else if (action === 10) {
        const [sequence] = await call("fork", one.sequence);
        if (sequence < 0) continue;
        const twin: Live = { sequence, lanes: 0 };
        live.push(twin);
        if (one.lanes === 0) continue;
        const [lanes] = await call("lanes-fork", one.lanes, sequence);
        if (lanes > 0) twin.lanes = lanes;
      } else if (action === 11 || live.length > 6) {
        if (one.lanes > 0) await call("lanes-close", one.lanes);
        await call("close", one.sequence);
        live.splice(live.indexOf(one), 1);
        if (random.below(4) === 0) await call("lanes-append", one.lanes, 1);
      } else if (action === 12 && one.lanes > 0 && random.below(3) === 0) {
        // It is computed anew: another sequence, the same lanes.
        const prompt = tokens(random, 20);
        await call("close", one.sequence);
        const [sequence] = await call("open", 0, 0, prompt);
        live.splice(live.indexOf(one), 1);
        if (sequence < 0) continue;
        const [length] = await call("length", sequence);
        await call("lanes-reset", one.lanes, sequence);
        await call("lanes-append", one.lanes, length);
        const again: Live = { sequence, lanes: one.lanes };
        live.push(again);
        await grow(again, prompt.slice(length));
      } else {
        await call("slots", one.sequence);
        await call("table", one.sequence);
        await call("truncate", one.sequence, random.below(40));
      }
      if (i % 20 === 0) await call("lane-figures");
      if (i % 40 === 0) await call("validate");
    }
    // What refused calls leave where lanes and tokens come in differs between hosts: calls that fill all of it.
    const [sequence] = await call("open", 0, 1, []);
    const [lanes] = await call("lanes-open", sequence, 0);
    if (lanes > 0) await call("lanes-plan", lanes, NONE, [], [], [], []);
    if (lanes > 0) await call("lanes-rollback");
    await call(
      "match",
      0,
      Array.from({ length: LONGEST }, (_, i) => i % 3),
    );
  };

/** Requests that drop tokens after each step, from nothing, a cached prefix, or what an earlier one has kept. */
export const lossyRequests: Generator = async (recorder) => {
  const host = bound(recorder);
  const { random, call } = host;
  const [vocabulary, peak] = [7, 12];
  await call("core", 34);
  await call("cache", 24, BLOCK_SIZE, 12, LONGEST, 1);
  await call("lane-arena", LAYERS, KV_HEADS, LONGEST, PLANES, 12, 64);
  await call("scheduler", vocabulary, 24, 6, 20, 0, 0, 6144, POLICIES.indexOf("priority"), 0);
  const requests: number[] = [];
  /** Lanes of requests, by handle; sequences that requests have kept, with their lanes. */
  const lanesOf = new Map<number, { lanes: number; sequence: number; keeps: boolean }>();
  const kept: { lanes: number; sequence: number }[] = [];
  const lossy = new Map<number, { keeps: boolean; adopted?: { lanes: number; sequence: number } }>();
  let now = 0;
  for (let i = 0; i < 110; i++) {
    for (let n = random.below(3); n > 0; n--) {
      const numbers = [recorder.steps.length + 1, 0, random.below(3), 0, 1 + random.below(14)];
      if (random.below(3) === 0) {
        await call("submit", ...numbers, tokens(random, 24));
        continue;
      }
      const prompt = tokens(random, 30);
      const [request] = await call("submit-lossy", [...numbers, peak, random.below(3) * 2], prompt);
      if (request <= 0) continue;
      requests.push(request);
      const flags = random.below(4);
      const adopted = random.below(3) === 0 ? kept.pop() : undefined;
      const [status] = await call("request-lanes", request, flags, adopted?.sequence ?? 0, 0);
      if (status < 0 && adopted !== undefined) kept.push(adopted);
      lossy.set(request, {
        keeps: status === 0 && flags >= 2,
        ...(status === 0 && adopted && { adopted }),
      });
    }
    now += random.below(12);
    const [status, stepId, rows, , samplingRows] = await call("step", now);
    if (status < 0) continue;
    const plan = recorder.host.scheduler.plan();
    const [, ...sequences] = await call("row-sequences");
    const planned = Array.from({ length: rows }, (_, row) => ({
      request: plan.requests[row],
      sequence: sequences[row],
      before: plan.computedBefore[row],
      count: plan.newTokens[row],
      whole: plan.phases[row] !== 0,
    }));
    await callOutcomes(recorder, lanesOf);
    if (random.below(10) === 0) {
      await call("abandon", stepId);
      continue;
    }
    for (const { request, sequence, before, count } of planned) {
      const start = lossy.get(request);
      if (start === undefined) continue;
      let own = lanesOf.get(request);
      if (own === undefined) {
        const { adopted, keeps } = start;
        const goesOn = adopted !== undefined && adopted.sequence === sequence;
        if (adopted !== undefined && !goesOn) await call("lanes-close", adopted.lanes);
        const lanes = goesOn ? adopted.lanes : (await call("lanes-open", sequence, 0))[0];
        lossy.set(request, { keeps });
        if (!goesOn) await call("lanes-append", lanes, before);
        own = { lanes, sequence, keeps };
        lanesOf.set(request, own);
      }
      await call("lanes-append", own.lanes, count);
    }
    const sampled = Array.from({ length: samplingRows }, () => random.below(vocabulary));
    await call(
      "commit",
      stepId,
      now,
      sampled,
      sampled.map(() => +(random.below(12) === 0)),
    );
    for (const [, own] of await callOutcomes(recorder, lanesOf))
      if (own.keeps) kept.push(own);
      else await call("lanes-close", own.lanes);
    for (const { request, whole } of planned) {
      const own = lanesOf.get(request);
      if (own === undefined || !whole) continue;
      const core = new CoreLanes(recorder.host.lanes, own.lanes);
      if (Math.max(...core.lengths()) <= peak && random.below(2) === 0) continue;
      await drop(host, own.lanes, randomKeep(random, core, peak), NONE, true);
      if (i % 3 === 0) await look(host, core);
    }
    if (random.below(8) === 0 && requests.length > 0) {
      const request = random.pick(requests);
      await call("abort", request);
      const own = lanesOf.get(request);
      if (own !== undefined && lanesOf.delete(request)) await call("lanes-close", own.lanes);
    }
    if (requests.length > 0) await call("progress", random.pick(requests.slice(-9)));
    if (i % 10 === 0) await call("lane-figures");
    if (i % 20 === 0) await call("validate");
  }
  await call(
    "match",
    0,
    Array.from({ length: LONGEST }, (_, i) => i % 3),
  );
};

type Own = { readonly lanes: number; readonly sequence: number; readonly keeps: boolean };

/** Takes requests that have ended or been preempted out of the map. Returns those that have finished; the others' lanes are closed. */
async function callOutcomes(recorder: Recorder, lanesOf: Map<number, Own>): Promise<[number, Own][]> {
  const finished: [number, Own][] = [];
  for (const { request, kind } of recorder.host.scheduler.outcomes()) {
    const own = lanesOf.get(request);
    if (own === undefined || !lanesOf.delete(request)) continue;
    if (kind === "finished") finished.push([request, own]);
    else await recorder.call("lanes-close", own.lanes);
  }
  return finished;
}

/** Every call of a selection, of lanes of all lengths, some with more protected than may stay. */
export const selecting: Generator = async (recorder) => {
  const { random, call } = bound(recorder);
  await call("core", 35);
  await call("selection", 256, 1024);
  const list = (count: number, most: number): number[] =>
    Array.from({ length: count }, () => random.below(most));
  for (let i = 0; i < 160; i++) {
    const [lanes, stride] = [1 + random.below(4), 4 * (1 + random.below(12))];
    const lengths = list(lanes, stride + 1);
    const positions = lengths.flatMap(() => {
      let position = random.below(3);
      return Array.from({ length: stride }, () => (position += 1 + random.below(2)));
    });
    const kind = random.below(2);
    await call(
      "topk",
      ...[kind, random.below(40), stride, random.below(3), random.below(4)],
      random.below(3) === 0 ? NONE : random.below(60),
      lengths,
      list(lanes * stride, 20),
      random.below(2) === 0 ? [] : list(lanes * stride, 5),
      random.below(2) === 0 ? [] : positions,
    );
    await call(
      "argmin",
      ...[kind, random.below(4), random.below(3) === 0 ? NONE : random.below(40)],
      list(stride, 30),
      random.below(2) === 0 ? [] : positions.slice(0, stride),
    );
    const heads = lanes * (1 + random.below(3));
    const rows = list(heads * stride, 9);
    if (i % 4 === 0) {
      const zeros = Array<number>(lanes * stride).fill(0);
      await call("scale-above", stride, 8, 4, lengths, zeros);
      await call("accumulate", stride, stride, heads, random.below(3), 7, lengths, rows);
      await call("accumulate", stride, stride, heads, random.below(3), 64, lengths, rows);
    }
    if (i % 4 === 1) {
      // Both planes begin with zeros: the whole of the plane of scores.
      await call("scale-above", 64, 8, 4, [64, 64, 64, 64], Array<number>(256).fill(0));
      const [few, short] = [lengths.slice(0, 2), Math.min(stride, 40)];
      const some = list(2 * few.length * short, 9);
      const cut = few.map((length) => Math.min(length, short));
      await call("track", short, short, 2 * few.length, 2, 5, 1 + i, cut, some);
      await call("track", short, short, 2 * few.length, random.below(3), 4, 9 + i, cut, some);
    }
    if (i % 4 === 2)
      await call("scale-above", stride, 40, 1 + random.below(8), lengths, list(lanes * stride, 60));
    if (i % 4 === 3)
      await call("pool", stride, 1 + random.below(5), random.below(2), lengths, list(lanes * stride, 30));
    const entries = 1 + random.below(9);
    const minimum = list(entries, 4);
    await call(
      "apportion",
      ...[random.below(6), random.below(100), 20],
      list(entries, 10),
      minimum,
      minimum.map((least) => least + random.below(30)),
    );
    if (i % 40 === 0) await call("validate");
  }
  // What refused calls leave in the inputs differs between hosts: a call that fills all of them.
  const all = Array.from({ length: 256 }, (_, slot) => slot);
  for (const kind of [0, 1])
    await call("topk", kind, 9, 4, 0, 0, NONE, Array<number>(64).fill(4), all, all, all);
  await call("accumulate", 16, 16, 64, 0, 64, Array<number>(16).fill(16), list(1024, 9));
};

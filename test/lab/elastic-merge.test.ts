/**
 * Merging on a real executor: what the policy's plan makes of K and V gives the attention that plain float64 arithmetic
 * gives for the means, a slot that counts for its members is a slot that stands as often, and merging pays for smooth keys and
 * values only.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core, createPolicy, type KeepPlan, type StatView } from "../../bindings/main.js";
import type { LabSequence } from "../../sim/eviction/lab.js";
import { pushMoves } from "../../sim/eviction/slot-moves.js";
import { RandomStream } from "../../sim/random.js";
import { DIMENSIONS, GivenAttention, type Rows } from "../support/given-attention.js";

const selection = (await Core.create()).selection({ capacity: 1024 });

/** Attention outputs, f64, of queries over keys whose slots count for exp(bias). */
function outputs(queries: Rows, keys: Rows, values: Rows, bias: readonly number[]): number[][] {
  return queries.map((query) => {
    const scores = keys.map(
      (key, i) => key.reduce((sum, k, d) => sum + k * query[d], 0) / Math.sqrt(query.length) + bias[i],
    );
    const largest = Math.max(...scores);
    const weights = scores.map((score) => Math.exp(score - largest));
    const sum = weights.reduce((a, b) => a + b, 0);
    return query.map((_, d) => weights.reduce((total, w, i) => total + (w / sum) * values[i][d], 0));
  });
}

function relativeError(a: Rows, b: Rows): number {
  let [difference, norm] = [0, 0];
  a.forEach((row, i) =>
    row.forEach((value, d) => {
      difference += (value - b[i][d]) ** 2;
      norm += b[i][d] ** 2;
    }),
  );
  return Math.sqrt(difference / norm);
}

type Merges = NonNullable<KeepPlan["merge"]>;

/** Means of K or V that a plan's merges ask for, of the slots that stay. */
function mergedRows(rows: Rows, keep: Uint32Array, merges: Merges): number[][] {
  return [...keep].map((slot) => {
    const members = [slot, ...(merges.find(({ target }) => target === slot)?.members ?? [])];
    return rows[0].map((_, d) => members.reduce((sum, i) => sum + rows[i][d], 0) / members.length);
  });
}

/** Merges as the executor does it, then writes the merged slot over its members: it stands as often as it has members. */
async function mergeCounted(given: GivenAttention, sequence: LabSequence, merges: Merges): Promise<void> {
  await sequence.apply({ keep: [null], merge: merges });
  const place = { layer: 0, kvHead: 0, table: sequence.table, blockSize: given.lab.blockSize };
  const records: number[] = [];
  for (const { target, members } of merges)
    for (const member of members) pushMoves(records, place, target, member, 1);
  await given.lab.executor.move!(Uint32Array.from(records));
}

async function ask(given: GivenAttention, sequence: LabSequence, from: number, to: number) {
  const results: Awaited<ReturnType<GivenAttention["ask"]>>[] = [];
  for (let index = from; index < to; index++) results.push(await given.ask(sequence, index));
  return results;
}

test("equal keys and values: a merged slot loses its members' weight, and nothing else", async () => {
  const random = new RandomStream(8);
  const row = (): number[] => Array.from({ length: DIMENSIONS }, () => random.normal());
  const [base, values, queries] = [6, 6, 5].map((count) => Array.from({ length: count }, row));
  const counts = base.map((_, i) => i + 1);
  const spread = (rows: Rows): number[][] =>
    rows.flatMap((one, i) => Array.from({ length: counts[i] }, () => [...one]));
  const given = await GivenAttention.open(spread(base), spread(values), queries);
  const firsts = counts.map((_, i) => counts.slice(0, i).reduce((a, b) => a + b, 0));
  const merge = firsts.slice(1).map((target, i) => ({
    lane: 0,
    target,
    members: Uint32Array.from({ length: counts[i + 1] - 1 }, (_, m) => target + 1 + m),
  }));
  const full = await given.hold();
  const merged = await full.copyTo(null);
  const counted = await full.copyTo(null);
  await merged.apply({ keep: [Uint32Array.from(firsts)], merge });
  await mergeCounted(given, counted, merge);
  const outputsOf = async (sequence: LabSequence): Promise<number[][]> =>
    (await ask(given, sequence, 0, queries.length)).map(({ output }) => output);
  const zero = base.map(() => 0);
  const logs = counts.map((count) => Math.log(count));
  const [whole, plain, weighted] = [await outputsOf(full), await outputsOf(merged), await outputsOf(counted)];
  assert.equal(merged.lanes.longest, base.length);
  assert.ok(relativeError(whole, outputs(queries, base, values, logs)) < 1e-5, "ln(count) is what is lost");
  assert.ok(relativeError(plain, outputs(queries, base, values, zero)) < 1e-5);
  assert.ok(relativeError(weighted, whole) < 1e-5, "with its weight nothing is lost");
  assert.ok(relativeError(plain, whole) > 0.1, "large clusters count too little");
  await given.close();
});

/** First-order autoregressive rows: like an image where phi is near 1. */
function smoothRows(random: RandomStream, count: number, phi: number): number[][] {
  const rows: number[][] = [];
  for (let i = 0; i < count; i++)
    rows.push(
      Array.from({ length: DIMENSIONS }, (_, d) =>
        i === 0 ? random.normal() : phi * rows[i - 1][d] + Math.sqrt(1 - phi * phi) * random.normal(),
      ),
    );
  return rows;
}

const [TOKENS, LEARN, ASK] = [256, 32, 64];

/** Errors of queries that importance was not taken from, half of the slots merged or dropped by the policy's own plan. */
async function smoothness(phi: number, scale: number, seed: number) {
  const random = new RandomStream(seed);
  const keys = smoothRows(random, TOKENS, phi).map((row) => row.map((value) => value * scale));
  const values = smoothRows(random, TOKENS, phi);
  const queries = Array.from({ length: ASK }, () =>
    Array.from({ length: DIMENSIONS }, () => random.normal()),
  );
  const given = await GivenAttention.open(keys, values, queries);
  const full = await given.hold();
  const colsum = new Float32Array(TOKENS);
  for (const { row } of await ask(given, full, 0, LEARN)) row.forEach((a, slot) => (colsum[slot] += a));
  const view: StatView = {
    layer: 0,
    heads: 1,
    kvHeads: 1,
    newTokens: TOKENS,
    lengths: Uint32Array.of(TOKENS),
    stride: TOKENS,
    colsum,
  };
  const tested = queries.slice(LEARN);
  const all = new Array<number>(TOKENS).fill(0);
  const expectedFull = outputs(tested, keys, values, all);
  const whole = (await ask(given, full, LEARN, ASK)).map(({ output }) => output);
  assert.ok(relativeError(whole, expectedFull) < 1e-5, "the executor attends to what was given");
  /** `bias`: the policy's own option, which the kernel adds to logits; `written`: slots that really stand as often. */
  const errorOf = async (isMerging: boolean, counted?: "bias" | "written"): Promise<number> => {
    const isCounted = counted !== undefined;
    const options = { ratio: 0.5, merge: isMerging, countBias: counted === "bias" };
    const policy = createPolicy(selection, "elastic-cache", options);
    const sequence = await full.copyTo(policy);
    policy.observePrefill(0, view, TOKENS);
    const plan = policy.endPrefill()!;
    const [keep, merges] = [plan.keep[0]!, plan.merge ?? []];
    assert.equal(keep.length, TOKENS / 2);
    assert.equal(merges.length > 0, isMerging);
    if (counted === "written") await mergeCounted(given, sequence, merges);
    else await sequence.apply(plan);
    const got = (await ask(given, sequence, LEARN, ASK)).map(({ output }) => output);
    const counts = [...keep].map(
      (slot) => 1 + (merges.find(({ target }) => target === slot)?.members.length ?? 0),
    );
    const expected = outputs(
      tested,
      mergedRows(keys, keep, merges),
      mergedRows(values, keep, merges),
      counts.map((count) => (isCounted ? Math.log(count) : 0)),
    );
    assert.ok(relativeError(got, expected) < 1e-5, `${relativeError(got, expected)} from plain arithmetic`);
    sequence.close();
    return relativeError(got, whole);
  };
  const errors = {
    evict: await errorOf(false),
    merge: await errorOf(true),
    counted: await errorOf(true, "bias"),
    written: await errorOf(true, "written"),
  };
  assert.ok(Math.abs(errors.counted - errors.written) < 1e-4, "a bias of ln(count) is standing so often");
  full.close();
  assert.equal(given.lab.freeBlocks, 256);
  await given.close();
  return errors;
}

test("merging pays for smooth keys and values; the lost multiplicity is most of the error; unrelated keys are hurt", async (t) => {
  const average = async (phi: number, scale: number) => {
    const runs: Awaited<ReturnType<typeof smoothness>>[] = [];
    for (let seed = 1; seed <= 10; seed++) runs.push(await smoothness(phi, scale, seed));
    const of = (key: keyof (typeof runs)[0]): number =>
      runs.reduce((sum, run) => sum + run[key], 0) / runs.length;
    const got = { evict: of("evict"), merge: of("merge"), counted: of("counted") };
    t.diagnostic(
      `phi ${phi}, scale ${scale}: evict ${got.evict.toFixed(3)}, merge ${got.merge.toFixed(3)}, counted ${got.counted.toFixed(3)}`,
    );
    return got;
  };
  const smooth = await average(0.95, 1);
  assert.ok(smooth.merge <= smooth.evict && smooth.counted <= 0.3 * smooth.evict);
  const less = await average(0.8, 1);
  assert.ok(less.merge <= less.evict);
  await average(0.5, 1);
  await average(0, 1);
  const unrelated = await average(0, 2);
  assert.ok(unrelated.merge > unrelated.evict);
});

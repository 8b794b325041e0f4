/**
 * Paging with one bit of advice: the optimum is one, right bits give it, wrong bits cost what the theorems of "Paging
 * with Succinct Predictions" (arXiv 2210.02775) allow, and a combination is robust against any.
 */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Core, type PageSet, QuartermasterError } from "../../bindings/main.js";
import {
  CombineDet,
  CombineRand,
  harmonic,
  optimum,
  pager,
  type PagingAlgorithm,
  phases,
  wrongBits,
} from "../../sim/paging-lab.js";
import { RandomStream } from "../../sim/random.js";
import { readMooncakeTrace } from "../../sim/traces.js";
import { long } from "../support/long.js";
import { DATA } from "../support/package-root.js";

const PAGES = 40;

/** A random request sequence: uniform, cyclic over k + 1 pages, or in phases of few pages. */
function sequence(random: RandomStream, k: number): number[] {
  const length = 1 + random.below(60);
  const kind = random.below(3);
  if (kind === 0) {
    const pages = k + 1 + random.below(k + 1);
    return Array.from({ length }, () => random.below(pages));
  }
  if (kind === 1) return Array.from({ length }, (_, i) => i % (k + 1));
  let base = 0;
  return Array.from({ length }, (_, i) => {
    if (i % (k + 2) === 0) base = random.below(2 * k);
    return base + random.below(k);
  });
}

function flipped(random: RandomStream, bits: Uint8Array, q: number): Uint8Array {
  return bits.map((bit) => (random.uniform() < q ? 1 - bit : bit));
}

/** Page sets of one algorithm for each k, in one core: cleared for each run. */
async function sets(algorithm: PagingAlgorithm, eager = true): Promise<(k: number) => PageSet> {
  const core = await Core.create();
  const made = new Map<number, PageSet>();
  return (k) => {
    if (!made.has(k)) made.set(k, core.pageSet({ slots: k, pages: PAGES, evictionOrder: algorithm, eager }));
    return made.get(k)!;
  };
}

function faults(set: PageSet, pages: readonly number[], bits?: Uint8Array, seed = 0): number {
  set.clear(seed);
  return set.run(pages, bits);
}

/** Fewest faults, by trying every victim. */
function fewest(pages: readonly number[], k: number): number {
  let states = new Map<string, number>([["", 0]]);
  for (const page of pages) {
    const after = new Map<string, number>();
    const reach = (cache: string[], cost: number): void => {
      const name = cache.sort().join();
      if ((after.get(name) ?? Infinity) > cost) after.set(name, cost);
    };
    for (const [name, cost] of states) {
      const cache = name === "" ? [] : name.split(",");
      if (cache.includes(String(page))) reach(cache, cost);
      else if (cache.length < k) reach([...cache, String(page)], cost + 1);
      else for (const victim of cache) reach([...cache.filter((p) => p !== victim), String(page)], cost + 1);
    }
    states = after;
  }
  return Math.min(...states.values());
}

test("the optimum has the fewest faults there can be", () => {
  const random = new RandomStream(1);
  for (let i = 0; i < 400; i++) {
    const k = 1 + random.below(3);
    const pages = Array.from({ length: 1 + random.below(12) }, () => random.below(5));
    assert.equal(optimum(pages, k).faults, fewest(pages, k), `${pages} with ${k}`);
  }
});

test("with right bits Flush-When-All-0s and Mark0 have exactly the optimum's faults on 10,000 traces", async () => {
  const [flush, mark0] = [await sets("flush-all-0s"), await sets("mark0")];
  const [lazyFlush, lazyMark0] = [await sets("flush-all-0s", false), await sets("mark0", false)];
  const random = new RandomStream(2);
  for (let i = 0; i < 10_000; i++) {
    const k = 2 + random.below(7);
    const pages = sequence(random, k);
    const best = optimum(pages, k);
    for (const set of [flush, mark0, lazyFlush, lazyMark0])
      assert.equal(faults(set(k), pages, best.discard, i), best.faults, `${pages} with ${k}`);
  }
});

const WRONG = [0, 0.1, 0.3, 0.5, 1, "all 0"] as const;
const SEEDS = 30;

/** Greatest mean of faults beyond what a theorem allows, over random instances. */
async function excess(
  algorithm: PagingAlgorithm,
  bound: (k: number, best: number, wrongZeros: number, wrongOnes: number) => number,
  labels: (pages: readonly number[], k: number) => { truth: Uint8Array; counts?: Uint8Array },
): Promise<number> {
  const set = await sets(algorithm);
  const random = new RandomStream(3);
  const seeds = algorithm === "flush-all-0s" ? 1 : SEEDS;
  let greatest = -Infinity;
  for (let i = 0; i < (long ? 4000 : 500); i++) {
    const k = 2 + random.below(7);
    const pages = sequence(random, k);
    const best = optimum(pages, k).faults;
    const { truth, counts } = labels(pages, k);
    for (const q of WRONG) {
      const bits = q === "all 0" ? new Uint8Array(pages.length) : flipped(random, truth, q);
      const allowed = bound(k, best, ...wrongBits(bits, truth, counts));
      let sum = 0;
      for (let seed = 0; seed < seeds; seed++) sum += faults(set(k), pages, bits, seed * 7919 + i);
      greatest = Math.max(greatest, sum / seeds - allowed);
    }
  }
  return greatest;
}

const discardLabels = (pages: readonly number[], k: number): { truth: Uint8Array } => ({
  truth: optimum(pages, k).discard,
});

test("Flush-When-All-0s: at most OPT + (k-1) wrong 0s + wrong 1s", async () => {
  const bound = (k: number, best: number, zeros: number, ones: number): number =>
    best + (k - 1) * zeros + ones;
  assert.ok((await excess("flush-all-0s", bound, discardLabels)) <= 0);
});

test("Flush-When-All-0s: k-2 for k-1 in that bound is too little, on the cyclic trace with all bits 0", async () => {
  const set = await sets("flush-all-0s");
  const k = 6;
  const pages = Array.from({ length: 60 }, (_, i) => i % (k + 1));
  const best = optimum(pages, k);
  const bits = new Uint8Array(pages.length);
  const [zeros, ones] = wrongBits(bits, best.discard);
  assert.ok(faults(set(k), pages, bits) > best.faults + (k - 2) * zeros + ones);
});

test("Mark0: at most OPT + 2 H_k wrong 0s + wrong 1s, in the mean of 30 seeds", async () => {
  const bound = (k: number, best: number, zeros: number, ones: number): number =>
    best + 2 * harmonic(k) * zeros + ones;
  assert.ok((await excess("mark0", bound, discardLabels)) <= 0);
});

test("Mark and Predict: at most 2 OPT + H_k wrong 0s + wrong 1s, in the mean of 30 seeds", async () => {
  const bound = (k: number, best: number, zeros: number, ones: number): number =>
    2 * best + harmonic(k) * zeros + ones;
  const labels = (pages: readonly number[], k: number): { truth: Uint8Array; counts: Uint8Array } => {
    const { absent, last } = phases(pages, k);
    return { truth: absent, counts: last };
  };
  assert.ok((await excess("mark-and-predict", bound, labels)) <= 0);
});

test("what is left readable until its room is needed never costs a fault more", async () => {
  for (const algorithm of ["flush-all-0s", "mark0"] as const) {
    const [eager, lazy] = [await sets(algorithm), await sets(algorithm, false)];
    const random = new RandomStream(4);
    let [eagerFaults, lazyFaults] = [0, 0];
    for (let i = 0; i < 1500; i++) {
      const k = 2 + random.below(7);
      const pages = sequence(random, k);
      const bits = flipped(random, optimum(pages, k).discard, 0.3);
      eagerFaults += faults(eager(k), pages, bits, i);
      lazyFaults += faults(lazy(k), pages, bits, i);
      lazy(k).validate();
    }
    assert.ok(lazyFaults <= eagerFaults, `${algorithm}: ${lazyFaults} against ${eagerFaults}`);
  }
});

test("inverted bits: the plain algorithms fault on nearly every request, the combination stays near LRU", async () => {
  const k = 20;
  const rounds = 200;
  const pages: number[] = [];
  const bits: (0 | 1)[] = [];
  for (let round = 0; round < rounds; round++) {
    for (let hot = 0; hot < k - 1; hot++) (pages.push(hot), bits.push(1));
    (pages.push(k + round), bits.push(0));
  }
  const run = async (algorithm: PagingAlgorithm): Promise<number> =>
    (await pager(algorithm, k, k + rounds)).run(pages, bits);
  const lru = await run("lru");
  assert.ok(lru < 1.2 * (rounds + k), `LRU ${lru}`);
  assert.ok(optimum(pages, k).faults <= lru);
  for (const algorithm of ["flush-all-0s", "mark0"] as const) {
    assert.ok((await run(algorithm)) > 0.8 * pages.length, `${algorithm} ${await run(algorithm)}`);
    const combined = new CombineDet(k, [
      await pager(algorithm, k, k + rounds),
      await pager("lru", k, k + rounds),
    ]);
    pages.forEach((page, i) => combined.request(page, bits[i]));
    assert.ok(combined.faults <= 2.2 * lru + 4 * k, `combined ${combined.faults}, LRU ${lru}`);
  }
});

test("inverted bits: the random combination stays near LRU in the mean, and follows right bits to the optimum", async () => {
  const k = 20;
  const rounds = 200;
  const pages: number[] = [];
  for (let round = 0; round < rounds; round++) {
    for (let hot = 0; hot < k - 1; hot++) pages.push(hot);
    pages.push(k + round);
  }
  const wrong = pages.map((page) => (page < k ? 1 : 0));
  const right = [...optimum(pages, k).discard] as (0 | 1)[];
  const lru = (await pager("lru", k, k + rounds)).run(pages);
  let [sum, followed] = [0, 0];
  const seeds = 10;
  for (let seed = 0; seed < seeds; seed++) {
    for (const bits of [wrong, right] as (0 | 1)[][]) {
      const sets = [
        await pager("mark0", k, k + rounds, { seed }),
        await pager("lru", k, k + rounds),
      ] as const;
      const combined = new CombineRand(k, sets, 0.99, seed);
      pages.forEach((page, i) => combined.request(page, bits[i]));
      if (bits === wrong) sum += combined.faults;
      else followed += combined.faults;
      assert.ok(combined.switches <= 40, `${combined.switches} changes`);
    }
  }
  assert.ok(sum / seeds <= 2.2 * lru + 4 * k, `${sum / seeds} in the mean, LRU ${lru}`);
  assert.ok(followed / seeds <= 1.05 * optimum(pages, k).faults + k, `${followed / seeds} with right bits`);
});

/** 1,000 pages by Zipf's law (0.9), and now and then a scan over 150 of 5,000 others. */
function zipfAndScans(random: RandomStream, length: number): number[] {
  const weights = Array.from({ length: 1000 }, (_, i) => (i + 1) ** -0.9);
  let sum = 0;
  const cumulative = weights.map((weight) => (sum += weight));
  const pages: number[] = [];
  while (pages.length < length) {
    if (random.uniform() < 0.01) {
      const start = random.below(5000 - 150);
      for (let i = 0; i < 150; i++) pages.push(1000 + start + i);
    } else {
      const at = random.uniform() * sum;
      pages.push(cumulative.findIndex((total) => total > at));
    }
  }
  return pages.slice(0, length);
}

test("Zipf's law with scans: OPT = Mark0 with right bits < Mark0 < Flush-When-All-0s < LRU at 1 wrong bit in 20", async () => {
  const random = new RandomStream(5);
  const pages = zipfAndScans(random, 20_000);
  const k = 100;
  const best = optimum(pages, k);
  const run = async (algorithm: PagingAlgorithm, q = 0): Promise<number> =>
    (await pager(algorithm, k, 6000)).run(pages, flipped(new RandomStream(6), best.discard, q));
  const lru = await run("lru");
  const [mark0, slightly, flush] = [
    await run("mark0"),
    await run("mark0", 0.05),
    await run("flush-all-0s", 0.05),
  ];
  assert.equal(mark0, best.faults);
  assert.equal(await run("flush-all-0s"), best.faults);
  assert.ok(
    best.faults < slightly && slightly < flush && flush < lru,
    [best.faults, slightly, flush, lru].join(),
  );
  const absent = phases(pages, k).absent;
  const predicted = (await pager("mark-and-predict", k, 6000)).run(pages, absent);
  const marker = (await pager("marker", k, 6000)).run(pages);
  assert.ok(predicted < marker && predicted < lru, `${predicted}, Marker ${marker}`);
  const random50 = flipped(new RandomStream(6), best.discard, 0.5);
  assert.ok((await run("mark0", 0.5)) > lru, "coin tosses for bits are worse than none");
  const combined = new CombineDet(k, [await pager("mark0", k, 6000), await pager("lru", k, 6000)]);
  pages.forEach((page, i) => combined.request(page, random50[i] as 0 | 1));
  assert.ok(combined.faults <= 1.05 * lru, `combined ${combined.faults}, LRU ${lru}`);
  const drawn = new CombineRand(k, [await pager("mark0", k, 6000), await pager("lru", k, 6000)], 0.99, 1);
  pages.forEach((page, i) => drawn.request(page, random50[i] as 0 | 1));
  assert.ok(drawn.faults <= 1.05 * lru, `drawn ${drawn.faults}, LRU ${lru}`);
});

const trace = join(DATA, "mooncake", "conversation_trace.jsonl");
const skip = existsSync(trace) ? false : `${trace} is not there`;

test(
  "the blocks of a real trace with predicted bits: combined with LRU within 2 % of it",
  { skip },
  async () => {
    const rows = readMooncakeTrace(readFileSync(trace, "utf8"));
    const pages = rows.flatMap((row) => [...row.blockIds!]).slice(0, 60_000);
    const many = pages.reduce((most, page) => Math.max(most, page), 0) + 1;
    const k = 1_000;
    const lru = (await pager("lru", k, many)).run(pages);
    for (const algorithm of ["flush-all-0s", "mark0", "mark-and-predict"] as const) {
      const predicted = await pager(algorithm, k, many, { eager: false });
      const combined = new CombineDet(k, [predicted, await pager("lru", k, many)], 1.01);
      for (const page of pages) combined.request(page);
      assert.ok(combined.faults <= 1.02 * lru, `${algorithm}: ${combined.faults} against ${lru}`);
    }
  },
);

test("one slot: every algorithm replaces; bad arguments are refused and change nothing", async () => {
  for (const algorithm of ["lru", "fifo", "marker", "flush-all-0s", "mark0", "mark-and-predict"] as const) {
    const set = await pager(algorithm, 1, 3);
    assert.equal(set.run([0, 0, 1, 1, 0], [0, 0, 0, 0, 0]), 3, algorithm);
    set.validate();
    const before = set.core.snapshot();
    for (const bad of [3, -1, 0.5, NaN])
      assert.throws(
        () => set.request(bad),
        (error) => error instanceof QuartermasterError,
      );
    assert.throws(() => set.request(0, 2 as never), { code: "INVALID_ARGUMENT" });
    assert.throws(() => set.run([0, 7]), /pages\[1\] is 7/);
    assert.throws(() => set.run([0, 1], [0]), /as many as pages/);
    assert.deepEqual(set.core.snapshot(), before);
  }
  const core = await Core.create();
  for (const bad of [
    { slots: 0 },
    { pages: 0 },
    { evictionOrder: "scored" },
    { evictionOrder: "best" },
    { history: -1 },
  ])
    assert.throws(() => core.pageSet({ slots: 2, pages: 2, ...bad } as never), { code: "INVALID_ARGUMENT" });
  assert.throws(() => optimum([1], 0), { code: "INVALID_ARGUMENT" });
  assert.throws(() => new CombineDet(1.5, [] as never), { code: "INVALID_ARGUMENT" });
  assert.throws(() => new CombineRand(2, [] as never, 1), { code: "INVALID_ARGUMENT", argument: "beta" });
});

/**
 * Every method keeps the positions that a naive version keeps, which has the full attention matrix, sets and sorts; H2O's
 * ways to drop keep the same positions at every step.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core, type EvictionPolicy, policyFromText } from "../../bindings/main.js";
import { long } from "../support/long.js";
import {
  naiveKeyDiff,
  naiveKeyNorm,
  NaiveH2O,
  naiveObserved,
  type NaiveContext,
  type NaivePolicy,
  NaivePrompt,
  naivePyramid,
  NaiveRecurrence,
  naiveSnapKV,
  NaiveTova,
} from "../support/naive-policies.js";
import { Random } from "../support/random.js";
import { seededLogits, SyntheticHost } from "../support/synthetic-host.js";

const core = await Core.create();
const selection = core.selection({ capacity: 4096 });
const make = (text: string): EvictionPolicy => policyFromText(selection, text);

interface Case extends NaiveContext {
  readonly budget: number;
  readonly seed: number;
}

/** Random shapes, prompts and budgets. @param skew above 1: short prompts are more frequent than long ones */
function cases(count: number, mostPrompt: number, leastBudget = 2, skew = 1): Case[] {
  const random = new Random(2024);
  const below = (limit: number): number => random.next() % limit;
  return Array.from({ length: count }, (_, seed) => {
    const group = [1, 2, 4][below(3)];
    const kvHeads = 1 + below(2);
    return {
      shape: { layers: 1 + below(2), heads: group * kvHeads, kvHeads, headDim: 6 },
      logits: seededLogits(seed),
      seed,
      promptTokens: 1 + Math.floor(mostPrompt * (below(mostPrompt) / mostPrompt) ** skew),
      budget: leastBudget + below(63),
    };
  });
}

/** Serves a case under policies and the naive one; all hold the same positions after every step. */
function assertAgree(
  context: Case,
  texts: readonly string[],
  naive: NaivePolicy,
  steps: number,
): SyntheticHost[] {
  const { shape, promptTokens, logits, seed } = context;
  const hosts = texts.map((text) => new SyntheticHost(shape, make(text), promptTokens, { seed, logits }));
  for (const host of hosts) host.prefill();
  let wanted = naive.prefill();
  for (let step = 0; step <= steps; step++) {
    hosts.forEach((host, i) =>
      assert.deepEqual(host.positions(), wanted, `${texts[i]}, case ${seed}, step ${step}`),
    );
    if (step === steps) break;
    for (const host of hosts) host.step();
    wanted = naive.step();
  }
  return hosts;
}

test("h2o: inplace, ring, ordered and mask keep the naive positions, with the naive scores", () => {
  // Prompts of 1 to 300 tokens; all lengths are equally frequent in the long run only, whose attention takes minutes.
  for (const context of cases(200, 300, 2, long ? 1 : 4)) {
    const recent = context.seed % 7 === 0 ? 0 : Math.ceil(context.budget / 2);
    const heavy = context.budget - recent;
    const naive = new NaiveH2O(context, heavy, recent);
    const split = `heavy=${heavy},recent=${recent}`;
    const texts = ["inplace", "ring", "ordered", "mask"].map((mode) => `h2o:${split},mode=${mode}`);
    const hosts = assertAgree(context, texts, naive, 24);
    for (const host of hosts) {
      const { layers, kvHeads } = context.shape;
      for (let lane = 0; lane < layers * kvHeads; lane++) {
        const { pos, score, length, hole } = host.lanes.lane(Math.floor(lane / kvHeads), lane % kvHeads);
        for (let slot = 0; slot < length; slot++) {
          if (slot === hole || score![slot] < 0) continue;
          const wanted = naive.scores[lane].get(pos[slot])!;
          assert.ok(Math.abs(score![slot] - wanted) <= 1e-5 * wanted, `${score![slot]} for ${wanted}`);
        }
      }
    }
  }
});

test("h2o: dropping every few steps, and prompts in chunks", () => {
  for (const context of cases(20, 100)) {
    const heavy = context.budget >> 1;
    const recent = context.budget - heavy;
    const text = `h2o:heavy=${heavy},recent=${recent},every=5`;
    assertAgree(context, [text], new NaiveH2O(context, heavy, recent, 5), 23);
    const host = new SyntheticHost(context.shape, make(text), context.promptTokens, context);
    host.prefill(7);
    assert.deepEqual(host.positions(), new NaiveH2O(context, heavy, recent).prefill());
  }
});

test("tova: one list a layer, per step and windowed", () => {
  for (const context of cases(40, 120)) {
    assertAgree(context, [`tova:budget=${context.budget}`], new NaiveTova(context, context.budget), 20);
    const windowed = new NaiveTova(context, context.budget, 6);
    assertAgree(context, [`tova:budget=${context.budget},every=6`], windowed, 20);
  }
});

test("lazy-eviction: both scores, and both readings of the first term", () => {
  for (const context of cases(100, 60, 6)) {
    const window = 2 + (context.seed % 4);
    const alpha = 0.02 + 0.02 * (context.seed % 5);
    for (const kind of ["release", "gated"] as const) {
      const h1Offset = context.seed % 3 === 0 ? 0 : 1;
      const term = (x: number): number => (x >= 80 ? 0 : 2 / (1 + Math.exp(x)));
      const score = (silence: number, mri: number): number =>
        term(h1Offset + silence / (mri + 1e-5)) +
        (mri === 0 || (kind === "gated" && silence > window) ? 0 : term(mri - 1));
      const { budget } = context;
      const naive = new NaiveRecurrence(context, { budget, window, alpha, recent: window, score });
      const text = `lazy-eviction:budget=${budget},window=${window},alpha=${alpha},score=${kind},h1Offset=${h1Offset}`;
      const [host] = assertAgree(context, [text], naive, 40);
      const { layers, kvHeads } = context.shape;
      for (let lane = 0; lane < layers * kvHeads; lane++) {
        const { pos, length, lastImp, mri } = host.lanes.lane(Math.floor(lane / kvHeads), lane % kvHeads);
        for (let slot = 0; slot < length; slot++) {
          assert.equal(lastImp![slot], naive.lastImportant[lane].get(pos[slot]));
          assert.equal(mri![slot], naive.gaps[lane].get(pos[slot]));
        }
      }
    }
  }
});

test("last-important: the time stamps alone, per step and windowed", () => {
  for (const context of cases(40, 60, 6)) {
    for (const every of [1, 5]) {
      const { budget } = context;
      const recent = every === 1 ? Math.min(16, budget >> 1) : Math.min(every, budget >> 1);
      const score = (silence: number): number => -silence;
      const naive = new NaiveRecurrence(context, { budget, window: every, alpha: 0.06, recent, score });
      assertAgree(context, [`last-important:budget=${budget},alpha=0.06,every=${every}`], naive, 30);
    }
  }
});

test("snapkv: window, pooling and group means", () => {
  for (const context of cases(40, 150, 9)) {
    for (const kernel of [1, 5]) {
      const naive = new NaivePrompt(context, context.budget, 8, naiveSnapKV(8, kernel));
      assertAgree(context, [`snapkv:budget=${context.budget},window=8,kernel=${kernel}`], naive, 2);
    }
  }
});

test("pyramidkv: the published integers", () => {
  for (const context of cases(30, 150, 16)) {
    const shape = { ...context.shape, layers: 3 };
    const promptTokens = context.promptTokens + 100;
    const whole = { ...context, shape, promptTokens };
    const budget = naivePyramid(context.budget, 8, 20, 3, promptTokens);
    const naive = new NaivePrompt(whole, budget, 8, naiveSnapKV(8, 5));
    assertAgree(whole, [`pyramidkv:budget=${context.budget},window=8`], naive, 1);
  }
});

test("observed-attention, keydiff and knorm", () => {
  for (const context of cases(30, 100)) {
    const { budget } = context;
    for (const [name, score] of [
      ["observed-attention", naiveObserved],
      ["keydiff", naiveKeyDiff],
      ["knorm", naiveKeyNorm],
    ] as const)
      assertAgree(context, [`${name}:budget=${budget}`], new NaivePrompt(context, budget, 1, score), 1);
  }
});

test("ada-kv: heads compete, and keep their minimum", () => {
  for (const context of cases(40, 120, 20)) {
    const { shape, promptTokens, budget, logits, seed } = context;
    if (promptTokens <= budget) continue;
    const text = `ada-kv:budget=${budget},window=8,kernel=1`;
    const host = new SyntheticHost(shape, make(text), promptTokens, { seed, logits });
    host.prefill();
    const window = Math.min(8, promptTokens);
    const minimum = Math.max(1, Math.floor(0.2 * (budget - window)));
    for (let layer = 0; layer < shape.layers; layer++) {
      const scores = Array.from({ length: shape.kvHeads }, (_, kvHead) =>
        naiveSnapKV(8, 1)(context, layer * shape.kvHeads + kvHead),
      );
      // Everything that may be kept beside the windows, best first; a head's best are safe.
      const rest = scores.flatMap((score, kvHead) => {
        const positions = Array.from({ length: promptTokens - window }, (_, position) => position);
        const ranked = positions.sort((a, b) => Math.fround(score(b)) - Math.fround(score(a)) || b - a);
        return ranked.map((position, rank) => ({
          kvHead,
          position,
          score: Math.fround(score(position)),
          isSafe: rank < minimum,
        }));
      });
      rest.sort(
        (a, b) =>
          Number(b.isSafe) - Number(a.isSafe) ||
          b.score - a.score ||
          b.position - a.position ||
          a.kvHead - b.kvHead,
      );
      const kept = rest.slice(0, (budget - window) * shape.kvHeads);
      for (let kvHead = 0; kvHead < shape.kvHeads; kvHead++) {
        const wanted = kept.filter((entry) => entry.kvHead === kvHead).map(({ position }) => position);
        for (let position = promptTokens - window; position < promptTokens; position++) wanted.push(position);
        const got = host.positions()[layer * shape.kvHeads + kvHead];
        assert.deepEqual(
          got,
          wanted.sort((a, b) => a - b),
          `case ${seed}, layer ${layer}, head ${kvHead}`,
        );
      }
    }
  }
});

/**
 * The lab serves the small model as if nothing were between them: tasks can be answered, all three ways of asking give
 * the full cache the same answers, and what a plan drops is exactly what attention no longer sees.
 */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import {
  APPEND_SLOT,
  type EvictionPolicy,
  type KeepPlan,
  StatMask,
  type StatView,
} from "../../bindings/main.js";
import { openModel } from "../../native-host/executor/main.js";
import { BOS, tokensOf } from "../../sim/eviction/alphabet.js";
import type { MaskingPolicy } from "../../sim/eviction/lab.js";
import { MODES, runLoop, runTask } from "../../sim/eviction/modes.js";
import { makeLoop, makeTask, TASKS } from "../../sim/eviction/tasks.js";
import { openLab, share } from "../support/lab.js";
import { TINY_RETRIEVAL } from "../support/package-root.js";
import { relativeDifference } from "../support/run-tokens.js";

const lab = await openLab();
after(() => lab.executor.close());

/** Answers what it is told to; keeps what it saw. */
class Scripted implements EvictionPolicy {
  readonly name = "scripted";
  readonly planes = 0;
  readonly seen: StatView[] = [];
  constructor(
    readonly needs: EvictionPolicy["needs"],
    readonly plans: (KeepPlan | null)[],
  ) {}
  budgetFor(): never {
    throw new Error("no budget");
  }
  peakSlots = (): number => Infinity;
  beginSequence(): void {}
  observePrefill = (_: number, view: StatView): void => void this.seen.push(view);
  endPrefill = (): KeepPlan | null => this.plans.shift() ?? null;
  observeDecode = this.observePrefill;
  endStep = this.endPrefill;
  serialize = (): Uint8Array => new Uint8Array(0);
  restore(): void {}
}

test("tasks are seeded, and their answers stand in their contexts", () => {
  for (const name of TASKS) {
    const options = { seed: 5, length: 300, questions: name === "major" ? 1 : 4, digits: 3 };
    assert.deepEqual(makeTask(name, options), makeTask(name, options));
    assert.notEqual(makeTask(name, options).context, makeTask(name, { ...options, seed: 6 }).context);
    const { context, questions } = makeTask(name, options);
    assert.ok(context.length <= 300 && context.length > 250, `${name} has ${context.length} characters`);
    assert.equal(new Set(questions.map(({ text }) => text)).size, options.questions);
    for (const { text, answer } of questions) {
      if (name === "major") {
        const count = (letter: string): number => context.split(letter).length;
        assert.ok([...new Set(context.slice(1))].every((letter) => count(letter) <= count(answer)));
        continue;
      }
      const steps = name === "chain" ? answer.match(/../g)! : [answer];
      steps.reduce(
        (key, step) => {
          assert.ok(context.includes(`${key}${step}`), `${name}: ${key}${step}`);
          return step;
        },
        text.replace("?", ""),
      );
    }
  }
  assert.throws(() => makeTask("kv", { seed: 1, length: 9 }), {
    code: "INVALID_ARGUMENT",
    argument: "length",
  });
});

test("the alphabet is the tokenizer's", async () => {
  const { tokenizer, executor } = await openModel(TINY_RETRIEVAL, { backend: "wasm", blocks: 1 });
  const text = "0123456789abcdefghijklmnopqrstuvwxyz=;?>:!|#[]{}. ";
  assert.deepEqual([...tokenizer.encode(text)], [BOS, ...tokensOf(text)]);
  await executor.close();
});

test("a loop's digits are running sums, and the full cache gets every one of them", async () => {
  const loop = makeLoop({ seed: 3 });
  assert.ok(loop.context.length + loop.run.length > 445);
  let sum = 0;
  for (const [, label, digit] of loop.run.matchAll(/(.)\.(.)/g)) {
    sum = (sum + Number(loop.context[loop.context.indexOf(label) + 1])) % 10;
    assert.equal(Number(digit), sum);
  }
  const { correct, peak } = await runLoop(lab, loop, null);
  assert.equal(share(correct), 1);
  assert.equal(peak, 1 + loop.context.length + loop.run.length);
});

test("the full cache answers alike however it is asked, and is at no distance from itself", async () => {
  for (const name of ["kv", "needle", "major"] as const) {
    const scores = new Map<string, boolean[]>(MODES.map((mode) => [mode, []]));
    for (let seed = 0; seed < 8; seed++) {
      const task = makeTask(name, { seed, questions: name === "major" ? 1 : 3 });
      for (const mode of MODES) {
        const [outcome] = await runTask(lab, task, mode, [() => null]);
        scores.get(mode)!.push(...outcome.correct);
        assert.ok(outcome.distance.recall > 0.99999 && outcome.distance.kl === 0);
        assert.equal(outcome.distance.outputError, 0);
      }
    }
    for (const [mode, correct] of scores) {
      assert.ok(share(correct) >= (name === "major" ? 0.75 : 0.95), `${name} ${mode}: ${share(correct)}`);
    }
  }
  assert.equal(lab.freeBlocks, 256, "every block came back");
});

test("a copy goes on bit for bit like a sequence of its own", async () => {
  const tokens = [BOS, ...tokensOf(makeTask("kv", { seed: 1, length: 200 }).context)];
  const own = lab.open(null, tokens.length);
  await own.prefill(tokens);
  const copy = await own.fork(null);
  for (const token of tokensOf("?ab37")) assert.deepEqual(await copy.feed(token), await own.feed(token));
  own.close();
  copy.close();
});

test("prefill in chunks leaves the same cache", async () => {
  const tokens = [BOS, ...tokensOf(makeTask("kv", { seed: 1, length: 200 }).context)];
  const logits: Float32Array[] = [];
  for (const chunk of [tokens.length, 48, 7]) {
    const sequence = lab.open(null, tokens.length);
    await sequence.prefill(tokens, chunk);
    logits.push(await sequence.feed(tokensOf("?")[0]));
    sequence.close();
  }
  assert.ok(relativeDifference(logits[1], logits[0]) < 1e-5);
  assert.ok(relativeDifference(logits[2], logits[0]) < 1e-5);
});

test("dropping slots is not seeing them: packed, in place, and masked caches give the same logits", async () => {
  const tokens = [BOS, ...tokensOf(makeTask("kv", { seed: 2, length: 150 }).context)];
  const count = lab.shape.layers * lab.shape.kvHeads;
  const kept = Array.from({ length: count }, (_, lane) =>
    Uint32Array.from(tokens.keys()).filter((slot) => slot < 2 || (slot * 7 + lane * 3) % 4 !== 0),
  );
  const packed = new Scripted({ prefill: 0, decode: 0 }, [{ keep: kept }]);
  const masked: MaskingPolicy = Object.assign(new Scripted({ prefill: 0, decode: 0 }, []), {
    live: (layer: number, kvHead: number) => {
      const lane = layer * lab.shape.kvHeads + kvHead;
      const { length } = sequences[1].lanes.lane(layer, kvHead);
      const later = Uint32Array.from({ length: length - tokens.length }, (_, i) => tokens.length + i);
      return length === tokens.length ? kept[lane] : Uint32Array.of(...kept[lane], ...later);
    },
  });
  const sequences = [packed, masked].map((policy) => lab.open(policy, tokens.length));
  for (const sequence of sequences) await sequence.prefill(tokens);
  assert.equal(sequences[0].lanes.longest, Math.max(...kept.map(({ length }) => length)));
  assert.equal(sequences[0].table.length, Math.ceil(sequences[0].lanes.longest / 16), "blocks were freed");
  for (const token of tokensOf("?ab37")) {
    const [a, b] = [await sequences[0].feed(token), await sequences[1].feed(token)];
    assert.ok(relativeDifference(a, b) < 1e-5);
  }

  // One more token dropped in every lane: by packing, by reuse of its slot, by moving a successor there.
  const lengths = [...sequences[0].lanes.lengths()];
  const victims = lengths.map((length, lane) => (lane * 5 + 3) % length);
  const plans: KeepPlan[] = [
    {
      keep: lengths.map((length, lane) =>
        Uint32Array.from({ length }, (_, i) => i).filter((slot) => slot !== victims[lane]),
      ),
    },
    { keep: lengths.map(() => null), inPlace: { victim: Uint32Array.from(victims) } },
    {
      keep: lengths.map(() => null),
      inPlace: {
        victim: Uint32Array.from(victims),
        successor: Uint32Array.from(victims, (victim) => (victim === 40 ? APPEND_SLOT : 40)),
      },
    },
  ];
  const logits: Float32Array[][] = [];
  for (const plan of plans) {
    const copy = await sequences[0].fork(new Scripted({ prefill: 0, decode: 0 }, []));
    await copy.apply(plan);
    const sets = lengths.map((_, lane) => [...copy.lanes.positions(lane)].sort((a, b) => a - b));
    assert.ok(sets.every((set, lane) => set.length === lengths[lane] - 1));
    logits.push([await copy.feed(tokensOf("x")[0]), await copy.feed(tokensOf(";")[0])]);
    copy.close();
  }
  for (const other of logits.slice(1))
    other.forEach((row, i) => assert.ok(relativeDifference(row, logits[0][i]) < 1e-5));
  for (const sequence of sequences) sequence.close();
  assert.equal(lab.freeBlocks, 256);
});

test("a policy sees what it declared and nothing else", async () => {
  const tokens = [BOS, ...tokensOf("ab37;cd05;ef11;")];
  const other = { prefill: StatMask.KEYS | StatMask.COLSUM, decode: 0 };
  const policy = new Scripted({ prefill: StatMask.LAST_ROW, decode: StatMask.COLSUM }, []);
  const prefilled = await lab.prefill(tokens, [policy.needs, other]);
  const sequence = await lab.start(prefilled, policy);
  await sequence.feed(tokensOf("?")[0]);
  const fields = ["lastRow", "window", "colsum", "moments", "probeMax", "keys", "outputError"] as const;
  const shown = policy.seen.map((view) => fields.filter((field) => view[field] !== undefined).join());
  assert.deepEqual(shown, [...Array<string>(3).fill("lastRow"), ...Array<string>(3).fill("colsum")]);
  prefilled.sequence.close();
  sequence.close();
});

test("plans that keep nothing, or slots that are not there, are refused", async () => {
  const tokens = [BOS, ...tokensOf("ab37;cd05;")];
  for (const keep of [[], [3, 3], [99]]) {
    const plan = { keep: Array.from({ length: 6 }, () => Uint32Array.from(keep)) };
    const sequence = lab.open(new Scripted({ prefill: 0, decode: 0 }, [plan]), tokens.length);
    await assert.rejects(sequence.prefill(tokens), { code: "INVALID_ARGUMENT", argument: "keep[0]" });
    sequence.close();
  }
});

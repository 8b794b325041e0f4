/**
 * Lanes that have lost tokens survive what happens to their sequences: preemption, forks, snapshots; and a run with policies
 * replays from its record, plan for plan.
 */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import {
  Core,
  type CoreLanes,
  Engine,
  type EvictionPolicy,
  evict,
  type KeptCache,
  type KvCache,
  PlaneMask,
  policyFromText,
  recordLanes,
  recordScheduler,
  replay,
  type Scheduler,
  type SequenceId,
} from "../../bindings/main.js";
import { openModel } from "../../native-host/executor/main.js";
import { BOS, tokensOf } from "../../sim/eviction/alphabet.js";
import type { Lab } from "../../sim/eviction/lab.js";
import { RowPlan } from "../../sim/eviction/row-plan.js";
import { makeTask } from "../../sim/eviction/tasks.js";
import { shownTo } from "../../sim/eviction/views.js";
import { openLab } from "../support/lab.js";
import { TINY_RETRIEVAL } from "../support/package-root.js";
import { GREEDY } from "../support/run-tokens.js";

const POLICIES = [
  "h2o:budget=60",
  "tova:budget=60",
  "lazy-eviction:budget=60,window=8",
  "cake:budget=60,window=16",
];
const PLANES = PlaneMask.SCORE | PlaneMask.LAST_IMP | PlaneMask.MRI;

/** One sequence of a core's cache, served by a lab's executor. */
class Served {
  constructor(
    readonly lab: Lab,
    readonly cache: KvCache,
    readonly sequence: SequenceId,
    readonly lanes: CoreLanes,
    readonly policy: EvictionPolicy,
  ) {}

  /** Feeds tokens; the policy drops after them. Returns the logits. */
  async feed(tokens: readonly number[]): Promise<Float32Array> {
    const { lab, cache, sequence, lanes, policy } = this;
    const isPrompt = tokens.length > 1;
    const { window, prefill, decode } = policy.needs;
    const mask = isPrompt ? prefill : decode;
    const before = lanes.seen;
    cache.reserve(sequence, tokens.length);
    const holes = lanes.holes();
    const row = { lengths: lanes.lengths(), ...(holes && { writeSlots: holes }) };
    const blocks = [...cache.blockTable(sequence)];
    const result = await lab.executor.run(new RowPlan(8192).of(tokens, before, blocks), () => GREEDY, {
      lanes: () => row,
      statistics: () => (mask === 0 ? undefined : { mask, ...(window !== undefined && { window }) }),
    });
    cache.append(sequence, tokens);
    lanes.append(tokens.length);
    const { layers, heads, kvHeads } = lab.shape;
    for (let layer = 0; layer < layers; layer++) {
      const lengths = lanes.lengths().subarray(layer * kvHeads, (layer + 1) * kvHeads);
      const bare = { layer, heads, kvHeads, newTokens: tokens.length, lengths, stride: 0 };
      const view = shownTo(mask === 0 ? bare : result.statistics!(0, layer), mask);
      if (!isPrompt) policy.observeDecode(layer, view);
      else {
        policy.observePrefill(layer, view, tokens.length);
        await this.#apply(policy.endLayerPrefill?.(layer) ?? null);
      }
    }
    await this.#apply(isPrompt ? policy.endPrefill() : policy.endStep());
    return result.logits!.slice();
  }

  positions(): number[][] {
    const { layers, kvHeads } = this.lab.shape;
    return Array.from({ length: layers * kvHeads }, (_, i) => {
      const { pos, length, hole } = this.lanes.lane(Math.floor(i / kvHeads), i % kvHeads);
      return [...pos.subarray(0, length)].filter((_, slot) => slot !== hole);
    });
  }

  async #apply(answer: ReturnType<EvictionPolicy["endStep"]>): Promise<void> {
    if (answer !== null) await evict(this.lanes, answer, this.lab.executor);
  }
}

const labs = [await openLab(128), await openLab(128)];
after(() => Promise.all(labs.map((lab) => lab.executor.close())));

function begin(core: Core, lab: Lab, text: string, prompt: readonly number[]): Served {
  const { blocks, blockSize, maxSequenceTokens } = lab.executor.describe();
  const cache = core.kvCache({ blocks, blockSize, maxSequences: 4, maxSequenceTokens });
  const policy = policyFromText(core.selection({ capacity: 8192 }), text);
  const { layers, kvHeads } = lab.shape;
  const arena = core.laneArena({
    cache,
    layers,
    kvHeads,
    capacity: 320,
    planes: policy.planes,
    sequences: 4,
  });
  const sequence = cache.open({ tokens: prompt, lossy: true });
  const lanes = arena.open(sequence);
  policy.beginSequence(lanes, prompt.length);
  return new Served(lab, cache, sequence, lanes, policy);
}

const PROMPT = [BOS, ...tokensOf(makeTask("kv", { seed: 9, length: 240 }).context)];
const MIDDLE = tokensOf("?ab37;ab");
const REST = tokensOf("37;cd05;ef11;gh28;?cd05;");

for (const text of POLICIES) {
  test(`lanes survive a snapshot, on another core and pool: ${text}`, async () => {
    // Two pools with the same content: the original goes on in one, what was restored in the other.
    const twins = await Promise.all(
      labs.map(async (lab) => {
        const core = await Core.create();
        const served = begin(core, lab, text, PROMPT);
        await served.feed(PROMPT);
        for (const token of MIDDLE) await served.feed([token]);
        return { core, served };
      }),
    );
    const [{ core, served }, { served: other }] = twins;
    const bytes = core.snapshot();
    const state = served.policy.serialize();
    const restored = await Core.restore(bytes, { build: "core-scalar" });
    const [lanes] = restored.laneArenas[0].opened();
    const policy = policyFromText(restored.selections[0], text);
    policy.beginSequence(lanes, PROMPT.length);
    policy.restore(state);
    const again = new Served(other.lab, restored.kvCaches[0], lanes.sequence, lanes, policy);
    for (const token of REST) {
      assert.deepEqual(await again.feed([token]), await served.feed([token]));
      assert.deepEqual(again.positions(), served.positions());
    }
    restored.validate();
  });

  test(`lanes survive a fork, each going its own way: ${text}`, async () => {
    const core = await Core.create();
    const [lab, otherLab] = labs;
    const served = begin(core, lab, text, PROMPT);
    await served.feed(PROMPT);
    for (const token of MIDDLE) await served.feed([token]);
    const sequence = served.cache.fork(served.sequence);
    const lanes = served.lanes.fork(sequence);
    for (const one of [lanes, served.lanes]) {
      const plan = one.unshare();
      await lab.executor.move!(plan.allMoves());
      plan.commit();
    }
    const policy = policyFromText(core.selections[0], text);
    policy.beginSequence(lanes, PROMPT.length);
    policy.restore(served.policy.serialize());
    const twin = new Served(lab, served.cache, sequence, lanes, policy);
    // The twin says something else; the original goes on as one that was never forked.
    const alone = begin(await Core.create(), otherLab, text, PROMPT);
    await alone.feed(PROMPT);
    for (const token of MIDDLE) await alone.feed([token]);
    const elsewhere = tokensOf("05;zz99;yy88;?zz99;ab37;");
    for (const [i, token] of REST.entries()) {
      await twin.feed([elsewhere[i]]);
      assert.deepEqual(await served.feed([token]), await alone.feed([token]));
    }
    assert.deepEqual(served.positions(), alone.positions());
    core.validate();
  });
}

const SETUP = {
  seed: 3,
  cache: { blocks: 46, blockSize: 8, maxSequences: 12, maxSequenceTokens: 512 },
  scheduler: { vocabSize: 64, maxRequests: 16, maxRunning: 5, maxBatchTokens: 160, watermarkBlocks: 0 },
} as const;

/** Serves requests with policies and without in a pool that is too small for all of them. */
async function serve(scheduler: Scheduler, prepare?: (lanes: ReturnType<Core["laneArena"]>) => void) {
  const { core, cache } = scheduler;
  const { executor } = await openModel(TINY_RETRIEVAL, { backend: "wasm", blocks: 46, blockSize: 8 });
  const { layers, kvHeads } = executor.describe();
  const lanes = core.laneArena({ cache, layers, kvHeads, capacity: 512, planes: PLANES, sequences: 10 });
  prepare?.(lanes);
  const selection = core.selection({ capacity: 4 * kvHeads * 512 });
  let preempted = 0;
  const engine = new Engine({
    scheduler,
    executor,
    lanes,
    onStep: (step) => void (preempted += step.preempted),
  });
  const policies = [
    "h2o:ratio=0.3",
    undefined,
    "snapkv:ratio=0.3,window=8",
    "cake:ratio=0.4,window=8",
    undefined,
  ];
  const answers: string[] = [];
  const read = async (stream: ReturnType<Engine["generate"]>): Promise<KeptCache | undefined> => {
    let kept: KeptCache | undefined;
    const list: number[] = [];
    for await (const event of stream) {
      list.push(event.token);
      kept = event.kept ?? kept;
    }
    answers.push(list.join(" "));
    return kept;
  };
  await Promise.all(
    policies.map((text, i) => {
      const { context } = makeTask("kv", { seed: 30 + i, length: 100 + 20 * i });
      const policy = text === undefined ? {} : { evict: policyFromText(selection, text) };
      return read(engine.generate({ tokens: [BOS, ...tokensOf(context)], maxNewTokens: 50, ...policy }));
    }),
  );
  const tokens = [BOS, ...tokensOf(makeTask("kv", { seed: 40, length: 120 }).context)];
  const policy = () => policyFromText(selection, "h2o:ratio=0.3");
  const first = { tokens, maxNewTokens: 2, evict: policy(), keep: true, sharePrefix: true };
  const kept = (await read(engine.generate(first)))!;
  const copy = await engine.fork(kept, policy());
  await Promise.all(
    [kept, copy].map((from) => read(engine.generate({ tokens: tokensOf("?ab"), maxNewTokens: 9, from }))),
  );
  await engine.close();
  core.validate();
  assert.equal(lanes.size, 0);
  return { preempted, answers };
}

test("lanes survive preemption, and a run with policies, kept caches and forks replays plan for plan", async (t) => {
  const lines: string[] = [];
  const scheduler = await recordScheduler(SETUP, (line) => lines.push(line));
  const { preempted, answers } = await serve(scheduler, (lanes) => recordLanes(scheduler, lanes));
  assert.ok(preempted > 0, "requests with lanes were preempted");
  assert.ok(answers.slice(0, 5).every((text) => text.split(" ").length === 50));
  const dropping = lines.filter((line) => line.includes('"lane":"plan"'));
  assert.ok(dropping.length > 20);
  for (const build of ["core", "core-scalar", "debug"] as const) {
    const { mismatch, steps } = await replay(lines, { build });
    assert.equal(mismatch, undefined, build);
    assert.equal(steps, lines.filter((line) => line.startsWith('{"step"')).length);
  }
  t.diagnostic(`${lines.length} lines, ${dropping.length} plans, ${preempted} preemptions`);

  // A list that keeps everything instead: later plans find other blocks.
  const at = lines.findIndex((line) => line.includes('"lane":"plan"') && /\[\d+,\d+,/.test(line));
  const changed = [...lines];
  changed[at] = JSON.stringify({
    ...JSON.parse(lines[at]),
    keep: JSON.parse(lines[at]).keep.map(() => null),
  });
  assert.notEqual((await replay(changed)).mismatch, undefined, "what was dropped is part of the record");
  const lost = lines.filter((line) => !line.startsWith('{"arena"'));
  await assert.rejects(replay(lost), { code: "INVALID_ARGUMENT" });
  assert.throws(() => recordLanes({} as Scheduler, {} as never), { code: "INVALID_ARGUMENT" });
});

/**
 * Policies over lanes in core memory, with compaction plans of the core and blocks of its cache, generate what they generate
 * over a host's own lanes, bit for bit, and blocks are freed.
 */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import {
  Core,
  type CoreLanes,
  EVICTION_POLICIES,
  type EvictionPolicy,
  type KeepPlan,
  type KvCache,
  policyFromText,
  type SequenceId,
  type StatView,
} from "../../bindings/main.js";
import { evict } from "../../bindings/eviction/evict.js";
import { BOS, tokensOf } from "../../sim/eviction/alphabet.js";
import { prefillBlockwise } from "../../sim/eviction/blockwise.js";
import { HostLanes } from "../../sim/eviction/host-lanes.js";
import { RowPlan } from "../../sim/eviction/row-plan.js";
import { makeTask } from "../../sim/eviction/tasks.js";
import { shownTo } from "../../sim/eviction/views.js";
import { openLab } from "../support/lab.js";
import { GREEDY } from "../support/run-tokens.js";

const lab = await openLab(128);
const other = await openLab(128);
after(async () => {
  await lab.executor.close();
  await other.executor.close();
});
const core = await Core.create();
const selection = core.selection({ capacity: 8192 });
const plan = new RowPlan(8192);

/** One sequence of the core's cache under a policy. */
class CoreSequence {
  readonly #cache: KvCache;
  readonly #sequence: SequenceId;
  readonly lanes: CoreLanes;
  readonly #policy: EvictionPolicy;

  constructor(
    cache: KvCache,
    lanes: (sequence: SequenceId) => CoreLanes,
    policy: EvictionPolicy,
    prompt: number[],
  ) {
    this.#cache = cache;
    this.#policy = policy;
    this.#sequence = cache.open({ tokens: prompt, lossy: true });
    this.lanes = lanes(this.#sequence);
    policy.beginSequence(this.lanes, prompt.length);
  }

  get blocks(): number {
    return this.#cache.blockTable(this.#sequence).length;
  }

  async prefill(tokens: number[]): Promise<Float32Array> {
    const { needs } = this.#policy;
    const { logits, views } = await this.#run(tokens, needs.prefill);
    for (let layer = 0; layer < lab.shape.layers; layer++) {
      this.#policy.observePrefill(
        layer,
        shownTo(views[layer] ?? empty(layer, this.lanes), needs.prefill),
        tokens.length,
      );
      await this.#apply(this.#policy.endLayerPrefill?.(layer) ?? null);
    }
    await this.#apply(this.#policy.endPrefill());
    return logits;
  }

  async feed(token: number): Promise<Float32Array> {
    const { needs } = this.#policy;
    const { logits, views } = await this.#run([token], needs.decode);
    for (let layer = 0; layer < lab.shape.layers; layer++)
      this.#policy.observeDecode(layer, shownTo(views[layer] ?? empty(layer, this.lanes), needs.decode));
    await this.#apply(this.#policy.endStep());
    return logits;
  }

  async #run(
    tokens: number[],
    mask: number,
    stays = true,
  ): Promise<{ logits: Float32Array; views: StatView[] }> {
    const cache = this.#cache;
    const before = this.lanes.seen;
    cache.reserve(this.#sequence, tokens.length);
    const holes = this.lanes.holes();
    const row = { lengths: this.lanes.lengths(), ...(holes && { writeSlots: holes }) };
    const { window, heads } = this.#policy.needs;
    const request = { mask, ...(window !== undefined && { window }), ...(heads && { heads }) };
    const blocks = [...cache.blockTable(this.#sequence)];
    const result = await lab.executor.run(plan.of(tokens, before, blocks), () => GREEDY, {
      lanes: () => row,
      statistics: () => (mask === 0 ? undefined : request),
    });
    if (stays) {
      cache.append(this.#sequence, tokens);
      this.lanes.append(tokens.length);
    }
    const views =
      mask === 0 ? [] : Array.from({ length: lab.shape.layers }, (_, layer) => result.statistics!(0, layer));
    return { logits: result.logits!.slice(), views };
  }

  /** Block by block: each is followed by a probe of which nothing is kept, then the policy drops. */
  async prefillBlockwise(tokens: number[], block: number, probe: number[]): Promise<void> {
    for (let from = 0; from < tokens.length; from += block) {
      const part = tokens.slice(from, from + block);
      await this.#run(part, 0);
      const views = await this.#run(probe, this.#policy.needs.prefill, false);
      for (let layer = 0; layer < lab.shape.layers; layer++)
        this.#policy.observePrefill(
          layer,
          shownTo(views.views[layer], this.#policy.needs.prefill),
          part.length,
        );
      await this.#apply(this.#policy.endPrefill());
    }
  }

  async #apply(answer: KeepPlan | null): Promise<void> {
    if (answer !== null) await evict(this.lanes, answer, lab.executor);
  }

  close(): void {
    this.lanes.close();
    this.#cache.close(this.#sequence);
  }
}

function empty(layer: number, lanes: CoreLanes): StatView {
  const { heads, kvHeads } = lab.shape;
  const lengths = lanes.lengths().subarray(layer * kvHeads, (layer + 1) * kvHeads);
  return { layer, heads, kvHeads, newTokens: 1, lengths, stride: 0 };
}

const { blocks, blockSize, maxSequenceTokens } = lab.executor.describe();
const cache = core.kvCache({ blocks, blockSize, maxSequences: 4, maxSequenceTokens });
const POLICIES = [
  "h2o:budget=60",
  "h2o:budget=60,mode=ring",
  "h2o:budget=60,mode=ordered",
  "h2o:budget=60,aggregate=mean",
  "h2o:budget=60,every=5",
  "tova:budget=60",
  "lazy-eviction:budget=60,window=8",
  "last-important:budget=60",
  "snapkv:budget=60,window=16",
  "ada-kv:budget=60,window=16",
  "cake:budget=60,window=16",
  "compresskv:budget=60",
  "pyramidkv:budget=60,window=16",
  "observed-attention:budget=60",
  "keydiff:budget=60",
  "knorm:budget=60",
  "epicache:budget=60",
  "epicache:budget=60,level=pair-uniform",
  "mpcache:budget=60",
  "mpcache:budget=60,mode=threshold,threshold=0.01",
  "elastic-cache:ratio=0.4",
  "elastic-cache:ratio=0.4,merge=false",
  "streaming-llm:budget=60",
  "local:budget=60",
  "random:budget=60",
  "full",
];

test("every policy that can be made is among them", () => {
  const names = new Set(POLICIES.map((text) => text.split(":")[0]));
  assert.deepEqual([...names].sort(), [...EVICTION_POLICIES].sort());
});

for (const text of POLICIES) {
  test(`${text}: core lanes give the host lanes' tokens, bit for bit`, async () => {
    const { context } = makeTask("kv", { seed: 9, length: 240 });
    const prompt = [BOS, ...tokensOf(context)];
    const policy = policyFromText(selection, text);
    const arena = core.laneArena({
      cache,
      ...{ layers: lab.shape.layers, kvHeads: lab.shape.kvHeads },
      capacity: 320,
      planes: policy.planes,
      sequences: 1,
    });
    const own = new CoreSequence(cache, (sequence) => arena.open(sequence), policy, prompt);
    const host = other.open(policyFromText(selection, text), prompt.length);
    if (text.startsWith("epicache")) {
      const probe = tokensOf("#ab37;#cd05;");
      await own.prefillBlockwise(prompt, 80, probe);
      await prefillBlockwise(host, prompt, { block: 80, probe });
    } else assert.deepEqual(await own.prefill(prompt), await host.prefill(prompt));
    assert.ok(host.lanes instanceof HostLanes);
    for (const token of tokensOf("?ab37;ab37;cd05;ef11;gh28;?cd05;")) {
      assert.deepEqual(await own.feed(token), await host.feed(token));
      for (let lane = 0; lane < 6; lane++) {
        const { pos, length, hole } = own.lanes.lane(lane >> 1, lane & 1);
        const positions = pos.slice(0, length).filter((_, slot) => slot !== hole);
        assert.deepEqual(positions, host.lanes.positions(lane));
      }
      arena.validate();
    }
    cache.validate();
    const isDropping = text !== "full";
    assert.equal(host.lanes.slots < 6 * host.lanes.seen, isDropping, "tokens were dropped");
    assert.equal(
      own.blocks,
      Math.ceil(host.lanes.longest / blockSize),
      "no more blocks than the longest lane needs",
    );
    own.close();
    host.close();
    assert.equal(other.freeBlocks, 128);
  });
}

/**
 * Lab: serves sequences one at a time through a real executor, with a policy that drops tokens.
 *
 * A LabSequence keeps its lanes, its blocks and its accounts; `feed` and `prefill` run the executor, hand the policy its
 * statistics in the order that bindings/eviction/policy.ts gives, and apply what it answers: merges, moves of K and V,
 * lane lengths, freed blocks. What a policy did not ask for it does not see.
 *
 * One file, longer than others: a sequence's lanes, blocks and accounts change together, in one order.
 */
import { invalidArgument, QuartermasterError } from "../../bindings/errors.js";
import type { EvictionPolicy, KeepPlan, LaneShape, StatisticsNeeds } from "../../bindings/eviction/policy.js";
import type { Executor, RowContext } from "../../bindings/executor.js";
import { APPEND_SLOT, StatMask, type StatisticsRequest, type StatView } from "../../bindings/statistics.js";
import { HostLanes } from "./host-lanes.js";
import { RowPlan } from "./row-plan.js";
import { type LanePlace, movedSlots, pushMoves, pushPacking } from "./slot-moves.js";
import { FoldedTables, SharedTable, type SlotStore } from "./slot-stores.js";
import { copyView, shownTo } from "./views.js";

const GREEDY: RowContext = {
  sampling: { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 },
  tokens: new Uint32Array(0),
  generated: 0,
};

/** A policy whose dropped tokens keep their K and V: queries see the slots that it calls live. */
export interface MaskingPolicy extends EvictionPolicy {
  /** Ascending live slots of a lane; null: all. */
  live(layer: number, kvHead: number): Uint32Array | null;
}

/** What serving one sequence took. */
export interface Account {
  /** Tokens run through the model. */
  computed: number;
  /** Slots that queries read, summed over queries and lanes. */
  attended: number;
  /** Slots taken over from another sequence, over all lanes, instead of computing them. */
  reused: number;
  /** Slots that were dropped, over all lanes. */
  evicted: number;
  /** Slots whose K and V were moved or merged. */
  moved: number;
  /** Most slots of a lane at once while decoding, the step's new token included. */
  peak: number;
  /** Sum over decode steps of the slots of all lanes, and the number of these steps. */
  slotSteps: number;
  steps: number;
  /** Time in the policy, and in the executor. */
  policyUs: number;
  modelUs: number;
}

/** A prompt whose K, V and statistics several policies may start from. */
export interface Prefilled {
  readonly sequence: LabSequence;
  readonly tokens: readonly number[];
  /** Logits after the last token. */
  readonly logits: Float32Array;
  /** [layers]. */
  readonly views: readonly StatView[];
}

export class Lab {
  readonly executor: Executor;
  readonly shape: LaneShape;
  readonly headDim: number;
  readonly blockSize: number;
  readonly #free: number[];
  readonly #plan: RowPlan;
  readonly #vocab: number;

  /**
   * @param executor that measures, moves and returns logits
   * @param heads query heads a layer
   */
  constructor(executor: Executor, heads: number) {
    const { layers, kvHeads, headDim, blocks, blockSize, vocabSize, maxSequenceTokens } = executor.describe();
    this.executor = executor;
    this.shape = { layers, heads, kvHeads };
    this.headDim = headDim;
    this.blockSize = blockSize;
    this.#vocab = vocabSize;
    this.#free = Array.from({ length: blocks }, (_, i) => blocks - 1 - i);
    this.#plan = new RowPlan(3 * maxSequenceTokens + 1024);
  }

  /** Blocks that no sequence holds. */
  get freeBlocks(): number {
    return this.#free.length;
  }

  /**
   * An empty sequence.
   * @param policy null: every token stays
   * @param layout folded: a table a layer, so that blocks follow the sum over layers
   */
  open(
    policy: EvictionPolicy | null,
    promptTokens: number,
    layout: "shared" | "folded" = "shared",
  ): LabSequence {
    const { layers, kvHeads } = this.shape;
    const { maxSequenceTokens } = this.executor.describe();
    const lanes = new HostLanes(layers, kvHeads, maxSequenceTokens, policy?.planes ?? 0);
    policy?.beginSequence(lanes, promptTokens);
    const store = layout === "folded" ? new FoldedTables(this) : new SharedTable(this);
    return new LabSequence(this, policy, lanes, promptTokens, store);
  }

  /** Runs a prompt once and measures what all `needs` ask for; their windows must be equal. */
  async prefill(tokens: readonly number[], needs: readonly StatisticsNeeds[]): Promise<Prefilled> {
    const mask = needs.reduce((all, { prefill }) => all | prefill, 0);
    const windows = new Set(needs.filter(hasWindow).map(({ window }) => window));
    if (windows.size > 1) throw invalidArgument("needs", [...windows].join(), "needs of one window");
    const sequence = this.open(null, tokens.length);
    const request = mask === 0 ? undefined : { mask, window: [...windows][0] };
    const { logits, views } = await sequence.run(tokens, request);
    return { sequence, tokens, logits, views: views.map(copyView) };
  }

  /** A sequence of its own that a policy starts from a prompt that has been run. */
  async start({ sequence, tokens, views }: Prefilled, policy: EvictionPolicy): Promise<LabSequence> {
    const started = await sequence.copyTo(policy, tokens.length);
    await started.observePrefill(views, tokens.length);
    return started;
  }

  /** Runs one row. */
  async run(
    tokens: readonly number[],
    before: number,
    { blocks, tables }: Pick<SlotStore, "blocks" | "tables">,
    lanes: HostLanes,
    policy: EvictionPolicy | null,
    live: Uint32Array | undefined,
    request: StatisticsRequest | undefined,
    afterLayer?: (layer: number, view: (layer: number) => StatView) => Promise<void>,
  ): Promise<{ logits: Float32Array; views: StatView[] }> {
    const writeSlots = tokens.length === 1 ? lanes.holes() : undefined;
    const lengths = lanes.lengths();
    const row = {
      lengths,
      // Keys by their place in the cache: all lanes are as long.
      ...(policy?.positions === "cache" && { position: lengths[0] }),
      ...(policy?.isBiased && {
        bias: Array.from(lengths, (length, i) =>
          lanes.lane(Math.floor(i / lanes.kvHeads), i % lanes.kvHeads).aux!.slice(0, length),
        ),
      }),
      ...(writeSlots && { writeSlots }),
      ...(live && { live }),
      ...(tables && { tables }),
    };
    const result = await this.executor.run(this.#plan.of(tokens, before, blocks), () => GREEDY, {
      lanes: () => row,
      statistics: () => request,
      ...(afterLayer && {
        afterLayer: (layer, statistics) => afterLayer(layer, (of) => statistics(0, of)),
      }),
    });
    if (result.logits === undefined)
      throw invalidArgument("executor", this.executor, "one that returns logits");
    const views = request
      ? Array.from({ length: this.shape.layers }, (_, layer) => result.statistics!(0, layer))
      : [];
    return { logits: result.logits.slice(0, this.#vocab), views };
  }

  take(count: number): number[] {
    if (count > this.#free.length)
      throw new QuartermasterError("OUT_OF_BLOCKS", `${count} blocks wanted, ${this.#free.length} free`);
    return count === 0 ? [] : this.#free.splice(-count).reverse();
  }

  give(blocks: readonly number[]): void {
    this.#free.push(...blocks);
  }
}

function hasWindow({ prefill }: StatisticsNeeds): boolean {
  return (prefill & (StatMask.WINDOW | StatMask.WINDOW_MOMENTS)) !== 0;
}

export class LabSequence {
  readonly lab: Lab;
  readonly policy: EvictionPolicy | null;
  lanes: HostLanes;
  readonly promptTokens: number;
  readonly account: Account = {
    computed: 0,
    attended: 0,
    reused: 0,
    evicted: 0,
    moved: 0,
    peak: 0,
    slotSteps: 0,
    steps: 0,
    policyUs: 0,
    modelUs: 0,
  };
  readonly #store: SlotStore;

  constructor(
    lab: Lab,
    policy: EvictionPolicy | null,
    lanes: HostLanes,
    promptTokens: number,
    store: SlotStore,
  ) {
    this.#store = store;
    this.lab = lab;
    this.policy = policy;
    this.lanes = lanes;
    this.promptTokens = promptTokens;
  }

  /** Blocks that it holds, in slot order. */
  get table(): readonly number[] {
    return this.#store.blocks;
  }

  /** Bytes of K and V of the slots in use, f32. */
  get payloadBytes(): number {
    return this.lanes.slots * 2 * this.lab.headDim * 4;
  }

  /** Feeds a prompt in chunks; the policy sees each, and drops after the last. Returns the logits after it. */
  async prefill(tokens: readonly number[], chunk = tokens.length): Promise<Float32Array> {
    let logits: Float32Array = new Float32Array(0);
    for (let from = 0; from < tokens.length; from += chunk) {
      const part = tokens.slice(from, from + chunk);
      const result = await this.run(part, requestOf(this.policy?.needs, this.policy?.needs.prefill));
      logits = result.logits;
      await this.observePrefill(result.views, part.length, from + chunk >= tokens.length);
    }
    return logits;
  }

  /**
   * Feeds a prompt whole, and lets the policy drop after each layer, before the next one is computed: lanes of later layers
   * are empty meanwhile. Folded sequences only. Returns the logits after it.
   */
  async prefillLayered(tokens: readonly number[]): Promise<Float32Array> {
    const { lab, lanes, policy } = this;
    const tables = this.#store.tables;
    if (tables === undefined || policy === null)
      throw invalidArgument("sequence", "shared", "folded, with a policy");
    const count = tokens.length;
    const held = lanes.longestByLayer();
    const cover = (layer: number): Uint32Array => {
      this.#store.cover(layer, held[layer] + count);
      return tables(layer);
    };
    cover(0);
    this.#count(count);
    const before = lanes.seen;
    const request = requestOf(policy.needs, policy.needs.prefill);
    const begun = { blocks: [...this.#store.blocks], tables: cover };
    const { logits } = await lab.run(
      tokens,
      before,
      begun,
      lanes,
      policy,
      undefined,
      request,
      async (layer, view) => {
        if (layer === 0) lanes.begin(count);
        lanes.appendLayer(layer, count);
        const views: StatView[] = [];
        if (request !== undefined) views[layer] = view(layer);
        policy.observePrefill(layer, this.#view(layer, views, policy.needs.prefill), count);
        await this.apply(policy.endLayerPrefill?.(layer) ?? null);
      },
    );
    await this.apply(policy.endPrefill());
    return logits;
  }

  /** Feeds one token; the policy sees it and may drop. Returns the logits after it. */
  async feed(token: number): Promise<Float32Array> {
    const { policy, account } = this;
    const { logits, views } = await this.run([token], requestOf(policy?.needs, policy?.needs.decode));
    account.peak = Math.max(account.peak, this.lanes.longest);
    account.slotSteps += this.lanes.slots;
    account.steps += 1;
    if (policy === null) return logits;
    const start = performance.now();
    this.#layers((layer) => policy.observeDecode(layer, this.#view(layer, views, policy.needs.decode)));
    const plan = policy.endStep();
    account.policyUs += (performance.now() - start) * 1000;
    await this.apply(plan);
    return logits;
  }

  /** Tells the policy of tokens that have been run, and applies what it answers. */
  async observePrefill(views: readonly StatView[], newTokens: number, last = true): Promise<void> {
    const { policy, account } = this;
    if (policy === null) return;
    const timed = <T>(body: () => T): T => {
      const start = performance.now();
      const result = body();
      account.policyUs += (performance.now() - start) * 1000;
      return result;
    };
    for (let layer = 0; layer < this.lanes.layers; layer++) {
      const view = this.#view(layer, views, policy.needs.prefill);
      timed(() => policy.observePrefill(layer, view, newTokens));
      if (last && policy.endLayerPrefill) await this.apply(timed(() => policy.endLayerPrefill!(layer)));
    }
    if (last) await this.apply(timed(() => policy.endPrefill()));
  }

  /**
   * Runs tokens and enters them into the lanes, and tells no policy.
   * @param visible ascending slots that the tokens see beside themselves; null: all. Default: what the policy says
   */
  async run(
    tokens: readonly number[],
    request: StatisticsRequest | undefined,
    visible?: (layer: number, kvHead: number) => Uint32Array | null,
  ): Promise<{ logits: Float32Array; views: StatView[] }> {
    const { lab, lanes } = this;
    const before = lanes.seen;
    if (tokens.length > 1 && lanes.holes())
      throw invalidArgument("tokens", tokens.length, "one token where lanes have holes");
    this.#cover(tokens.length);
    const start = performance.now();
    const result = await lab.run(
      tokens,
      before,
      this.#store,
      lanes,
      this.policy,
      this.#live(visible),
      request,
    );
    this.account.modelUs += (performance.now() - start) * 1000;
    this.#count(tokens.length, visible);
    lanes.append(tokens.length);
    return result;
  }

  /** Measures queries after what is held, and keeps nothing of them. */
  async probe(tokens: readonly number[], request: StatisticsRequest): Promise<StatView[]> {
    const { lab, lanes } = this;
    this.#cover(tokens.length);
    const { views } = await lab.run(
      tokens,
      lanes.seen,
      this.#store,
      lanes,
      this.policy,
      this.#live(),
      request,
    );
    this.#count(tokens.length);
    const copies = views.map(copyView);
    await this.#trim();
    return copies;
  }

  /** Drops and merges what a plan says, and frees the blocks that no lane reaches any more. */
  async apply(plan: KeepPlan | null): Promise<void> {
    if (plan === null) return;
    const { lanes, lab } = this;
    const before = lanes.slots;
    if (plan.merge) await this.#merge(plan.merge);
    const records: number[] = [];
    plan.keep.forEach((keep, lane) => {
      if (keep === null) return;
      const place = this.#place(lane);
      requireKeep(keep, lanes.lane(place.layer, place.kvHead).length, lane);
      pushPacking(records, place, keep);
      lanes.keep(lane, keep);
    });
    if (plan.inPlace) {
      const { victim, successor } = plan.inPlace;
      victim.forEach((slot, lane) => {
        if (slot === APPEND_SLOT) return;
        this.account.evicted += 1;
        const from = successor?.[lane] ?? APPEND_SLOT;
        if (from !== APPEND_SLOT) pushMoves(records, this.#place(lane), from, slot, 1);
      });
      lanes.reuse(plan.inPlace);
    }
    if (records.length > 0) await lab.executor.move!(Uint32Array.from(records));
    this.account.moved += movedSlots(records);
    this.account.evicted += before - lanes.slots;
    await this.#trim();
  }

  /** Another sequence with copies of all slots. @param policy told of the lanes, not of what went before */
  async copyTo(policy: EvictionPolicy | null, promptTokens = this.promptTokens): Promise<LabSequence> {
    const { lab, lanes } = this;
    const copy =
      policy !== null && policy.planes !== lanes.planes
        ? await this.#withPlanes(policy.planes)
        : lanes.fork();
    const store = this.#store.tables === undefined ? new SharedTable(lab) : new FoldedTables(lab);
    const target = new LabSequence(lab, policy, copy, promptTokens, store);
    target.#cover(0);
    const records: number[] = [];
    lanes.lengths().forEach((length, lane) => {
      pushMoves(records, this.#place(lane), 0, 0, length, target.#place(lane).table);
    });
    await lab.executor.move!(Uint32Array.from(records));
    target.account.reused = lanes.slots;
    policy?.beginSequence(copy, promptTokens);
    return target;
  }

  /** Another sequence that goes on as this one would. @param policy of the same kind and options */
  async fork(policy: EvictionPolicy | null): Promise<LabSequence> {
    const copy = await this.copyTo(policy);
    if (policy !== null && this.policy !== null) policy.restore(this.policy.serialize());
    return copy;
  }

  /** Forgets the tokens from a position on; every lane must hold all of them, in order. */
  rewind(seen: number): void {
    this.lanes.truncate(seen);
  }

  /** Ascending slots that queries see; null: all. */
  liveSlots(layer: number, kvHead: number): Uint32Array | null {
    const { policy } = this;
    return policy !== null && "live" in policy ? (policy as MaskingPolicy).live(layer, kvHead) : null;
  }

  /** Gives all blocks back. */
  close(): void {
    this.#store.clear();
  }

  /** Room for `count` more tokens in every lane. */
  #cover(count: number): void {
    this.lanes.longestByLayer().forEach((slots, layer) => this.#store.cover(layer, slots + count));
  }

  #trim(): Promise<void> {
    return this.#store.trim(this.lanes.longestByLayer(), (records) => this.lab.executor.move!(records));
  }

  async #withPlanes(planes: number): Promise<HostLanes> {
    const { layers, kvHeads, capacity, seen } = this.lanes;
    if (this.lanes.slots !== seen * layers * kvHeads)
      throw invalidArgument("policy", planes, "the planes of this sequence, whose lanes have lost tokens");
    const lanes = new HostLanes(layers, kvHeads, capacity, planes);
    lanes.append(seen);
    return lanes;
  }

  async #merge(merges: NonNullable<KeepPlan["merge"]>): Promise<void> {
    const { blockSize, executor } = this.lab;
    if (this.#store.tables !== undefined)
      throw invalidArgument("merge", merges, "nothing in folded sequences");
    const at = (slot: number): number[] => [this.table[Math.floor(slot / blockSize)], slot % blockSize];
    const records = merges.flatMap(({ lane, target, members }) => {
      const { layer, kvHead } = this.#place(lane);
      return [layer, kvHead, ...at(target), members.length, ...[...members].flatMap(at)];
    });
    await executor.merge!(Uint32Array.from(records));
    this.account.moved += merges.reduce((sum, { members }) => sum + members.length + 1, 0);
  }

  #place(lane: number): LanePlace {
    const { kvHeads } = this.lanes;
    const place = this.#store.place(Math.floor(lane / kvHeads), lane % kvHeads);
    return this.policy?.positions === "cache" ? { ...place, turns: true } : place;
  }

  /** Counts what new tokens read: what they see of their lanes, and themselves, each those before it. */
  #count(
    tokens: number,
    visible = (layer: number, kvHead: number): Uint32Array | null => this.liveSlots(layer, kvHead),
  ): void {
    const { layers, kvHeads } = this.lanes;
    this.account.computed += tokens;
    for (let layer = 0; layer < layers; layer++)
      for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
        const { length, hole } = this.lanes.lane(layer, kvHead);
        const seen = visible(layer, kvHead)?.length ?? length - Number(hole !== APPEND_SLOT);
        this.account.attended += tokens * seen + (tokens * (tokens + 1)) / 2;
      }
  }

  /** Bitmaps of the live slots, where the policy masks. */
  #live(
    visible = (layer: number, kvHead: number): Uint32Array | null => this.liveSlots(layer, kvHead),
  ): Uint32Array | undefined {
    const { lanes } = this;
    const count = lanes.layers * lanes.kvHeads;
    const live = Array.from({ length: count }, (_, lane) =>
      visible(Math.floor(lane / lanes.kvHeads), lane % lanes.kvHeads),
    );
    if (live.every((slots) => slots === null)) return undefined;
    const words = Math.ceil((this.table.length * this.lab.blockSize) / 32);
    const bitmaps = new Uint32Array(count * words);
    live.forEach((slots, lane) => {
      if (slots === null) bitmaps.fill(0xffffffff, lane * words, (lane + 1) * words);
      else for (const slot of slots) bitmaps[lane * words + (slot >> 5)] |= 1 << (slot & 31);
    });
    return bitmaps;
  }

  #view(layer: number, views: readonly StatView[], mask: number): StatView {
    const { kvHeads } = this.lanes;
    const { heads } = this.lab.shape;
    const lengths = this.lanes.lengths().subarray(layer * kvHeads, (layer + 1) * kvHeads);
    const found = views[layer] ?? { layer, heads, kvHeads, newTokens: 1, lengths, stride: 0 };
    return shownTo(found, mask);
  }

  #layers(body: (layer: number) => void): void {
    for (let layer = 0; layer < this.lanes.layers; layer++) body(layer);
  }
}

function requestOf(needs: StatisticsNeeds | undefined, mask = 0): StatisticsRequest | undefined {
  if (needs === undefined || mask === 0) return undefined;
  const { window, heads, probe } = needs;
  return {
    mask,
    ...(window !== undefined && { window }),
    ...(heads && { heads }),
    ...(probe !== undefined && { probe }),
  };
}

function requireKeep(keep: Uint32Array, length: number, lane: number): void {
  const ascending = keep.every((slot, i) => slot < length && (i === 0 || slot > keep[i - 1]));
  if (!ascending || keep.length === 0)
    throw invalidArgument(`keep[${lane}]`, keep, `ascending slots below ${length}, at least one`);
}

/**
 * ServedLanes: a policy's work for one request while an engine serves it.
 *
 *   before a step   `row` says what the executor is asked: the lanes once they have lost tokens, the statistics
 *   after a commit  `follow` enters the step's tokens, lets the policy see its statistics and carries out its answers
 *
 * A request that is preempted loses its lanes and begins anew with its next step, unless its slots go to the host tier: then lanes
 * and policy go on once they are back.
 */
import { QuartermasterError } from "../errors.js";
import type { Executor } from "../executor.js";
import { Phase, type StepPlan } from "../plan.js";
import type { LaneRow, StatisticsRequest, StatView } from "../statistics.js";
import { biases, CurrentLanes } from "./current-lanes.js";
import { evict } from "./evict.js";
import { closeHoles, type KeptCache } from "./kept-cache.js";
import type { CoreLanes, LaneArena } from "./lanes.js";
import { isOutOfRoom, LazyLanes } from "./lazy-lanes.js";
import type { EvictionPolicy, KeepPlan, LaneShape, SequenceLanes } from "./policy.js";
import type { SavedLanes } from "./saved-lanes.js";

/** Statistics of one row by layer. */
type RowStatistics = (layer: number) => StatView;

export interface ServedOptions {
  /** The request goes on from it. */
  readonly from?: KeptCache | undefined;
  /** Dropped tokens leave holes. */
  readonly lazy?: boolean;
  /** Its cache outlives it. */
  readonly keep?: boolean;
}

export class ServedLanes {
  readonly policy: EvictionPolicy;
  readonly #arena: LaneArena;
  readonly #executor: Executor;
  readonly #shape: LaneShape;
  readonly #promptTokens: number;
  /** Prompt tokens that the budget was set for. */
  readonly budgetTokens: number;
  /** As many as the policy was told of last. */
  #begunWith: number;
  readonly #most: number;
  readonly #isLazy: boolean;
  readonly #keeps: boolean;
  /** Keys are rotated by their place in the cache. */
  readonly #bySlot: boolean;
  #lanes: CoreLanes | undefined;
  /** Lanes with holes, where tokens are dropped without moving others: asked for, or for want of blocks to pack into. */
  #lazy: LazyLanes | undefined;
  #seen: CurrentLanes | undefined;
  #closed = false;
  /** The step in flight, or the last one, computes a prompt layer by layer; and is at it. */
  #isLayered = false;
  #isRunning = false;
  /** Dropping between layers has failed. */
  #isBroken = false;
  /** The prompt is complete: tokens come one by one. */
  #isDecoding = false;
  /** What waits for the slots of a request that has been swapped out. */
  #away: { readonly lanes: SavedLanes; readonly state: Uint8Array } | undefined;

  /** Throws UNSUPPORTED for an executor that cannot measure or move what the policy needs, or lanes without its planes. */
  constructor(
    policy: EvictionPolicy,
    arena: LaneArena,
    executor: Executor,
    promptTokens: number,
    maxNewTokens: number,
    { from, lazy = false, keep = false }: ServedOptions = {},
  ) {
    const description = executor.describe();
    const { layers, kvHeads, heads = kvHeads, statMask = 0, layered = false } = description;
    const { needs } = policy;
    if (executor.move === undefined) throw unsupported(`${policy.name}: the executor has no lanes`);
    if (((needs.prefill | needs.decode) & ~statMask) !== 0)
      throw unsupported(`${policy.name}: the executor cannot measure what it needs`);
    if ((policy.planes & ~arena.planes) !== 0)
      throw unsupported(`${policy.name}: the engine's lanes lack planes that it needs`);
    if (arena.folded && !layered)
      throw unsupported(`${policy.name}: the executor has no tables by layer, which the engine's lanes need`);
    if (policy.isBiased && (!description.slotBias || lazy))
      throw unsupported(
        `${policy.name}: slots that weigh more than one need packed lanes, and an executor that weighs them`,
      );
    this.policy = policy;
    this.#arena = arena;
    this.#executor = executor;
    this.#shape = { layers, heads, kvHeads, blockSize: arena.cache.blockSize };
    this.#promptTokens = promptTokens;
    this.budgetTokens = from?.promptTokens ?? promptTokens;
    this.#begunWith = this.budgetTokens;
    this.#most = promptTokens + maxNewTokens;
    this.#isLazy = lazy;
    this.#keeps = keep;
    this.#bySlot = policy.positions === "cache";
    if (this.#bySlot) {
      const where = `${policy.name}: positions by place in the cache`;
      if (!description.rotates) throw unsupported(`${where}: this executor's keys do not turn`);
      if (lazy || arena.folded) throw unsupported(`${where} need packed lanes with one table`);
      const { cap, scope } = policy.budgetFor(this.#shape, this.budgetTokens);
      if (scope === "layer-pool" || cap.some((slots) => slots !== cap[0]))
        throw unsupported(`${where} need lanes of one length`);
    }
  }

  /** What the scheduler must leave room for: at least 1, at most every token. */
  get peakSlots(): number {
    const { policy } = this;
    let peak = policy.peakSlots(policy.budgetFor(this.#shape, this.budgetTokens));
    const layered = this.#layeredPeak();
    // A layer's last slice is not full, and neither is the last block.
    if (layered)
      peak = Math.min(peak, Math.ceil(layered.decode / this.#shape.layers) + this.#arena.cache.blockSize);
    // Half of the slots of lanes with holes may be holes.
    if (this.#isLazy) peak = 2 * peak + this.#arena.cache.blockSize;
    return Math.max(1, Math.min(peak, this.#most));
  }

  /** Blocks of the prompt when it is computed layer by layer; 0: it is not. */
  get prefillBlocks(): number {
    const layered = this.#layeredPeak();
    if (layered === undefined || this.policy.endLayerPrefill === undefined) return 0;
    return Math.ceil(layered.prompt / this.#arena.cache.blockSize / this.#shape.layers + 1);
  }

  #layeredPeak(): { prompt: number; decode: number } | undefined {
    if (!this.#arena.folded) return undefined;
    return this.policy.layeredPeak?.(this.#shape.layers, this.budgetTokens);
  }

  /** Queries at the prompt's end that are to be measured in one step. */
  get lastChunk(): number {
    const { window = 0, probe = 0 } = this.policy.needs;
    return Math.max(window, probe);
  }

  /** Slots of the lanes, summed; 0 before the first step. */
  get slots(): number {
    return this.#lanes?.lengths().reduce((sum, length) => sum + length, 0) ?? 0;
  }

  /** Goes on with lanes that an earlier request has left. */
  adopt(lanes: CoreLanes): void {
    this.#lanes = lanes;
  }

  /** The request has finished and its sequence has not: the lanes for those that come after it. */
  async keep(): Promise<CoreLanes> {
    const lanes = this.#lanes!;
    await closeHoles(lanes, this.#executor);
    this.#lanes = undefined;
    return lanes;
  }

  /** As `close`, for a request whose sequence has outlived it. */
  discard(): void {
    this.#closed = true;
    if (this.#lanes !== undefined) this.#arena.closeSequence(this.#lanes.sequence);
    this.preempted();
  }

  /** What the executor is asked for a row of the plan. Throws OUT_OF_SEQUENCES when the arena is full. */
  row(plan: StepPlan, row: number): { lanes?: LaneRow; statistics?: StatisticsRequest } {
    const lanes = this.#begun(plan, row);
    const lengths = lanes.lengths();
    const writeSlots = lanes.holes();
    const { prefill, decode, window, heads, probe } = this.policy.needs;
    const mask = this.phaseOf(plan.phases[row]) === Phase.Decode ? decode : prefill;
    const { folded, cache } = this.#arena;
    const newTokens = plan.newTokens[row];
    this.#isLayered = folded && newTokens > plan.tableCount[row] * cache.blockSize;
    const whole =
      !folded &&
      this.#lazy === undefined &&
      writeSlots === undefined &&
      lengths.every((length) => length === lanes.seen);
    const tables = folded ? this.#tables(lanes, newTokens) : undefined;
    const live = this.#lazy?.live(Math.ceil((plan.tableCount[row] * cache.blockSize) / 32));
    return {
      ...(!whole && {
        lanes: {
          lengths,
          ...(writeSlots && { writeSlots }),
          ...(tables && { tables }),
          ...(live && { live }),
          ...(this.#bySlot && { position: lengths[0] }),
          ...(this.policy.isBiased && { bias: biases(lanes) }),
        },
      }),
      ...(mask !== 0 && {
        statistics: {
          mask,
          ...(window !== undefined && { window }),
          ...(heads !== undefined && { heads }),
          ...(probe !== undefined && { probe }),
        },
      }),
    };
  }

  /** A row's phase for the policy. A request that is back from the host tier is admitted again, and decodes all the same. */
  phaseOf(phase: number): number {
    return this.#isDecoding ? Phase.Decode : phase;
  }

  /** Whether the step in flight computes the prompt layer by layer. */
  get isLayered(): boolean {
    return this.#isLayered;
  }

  /** A layer of the prompt has been computed: the policy sees it and drops before the next one is. */
  async followLayer(layer: number, newTokens: number, view: StatView | undefined): Promise<void> {
    const { policy } = this;
    const lanes = this.#lanes;
    if (lanes === undefined || this.#closed) return;
    this.#isBroken = true;
    lanes.enterLayer(layer, newTokens);
    policy.observePrefill(layer, view ?? this.#bare(lanes, layer, newTokens), newTokens);
    await this.#carryOut(lanes, policy.endLayerPrefill?.(layer) ?? null);
    if (layer + 1 === this.#shape.layers && !this.#closed) lanes.filled();
    this.#isBroken = false;
  }

  /** The run that computed layer by layer is over: what was put off until then is done. */
  endRun(): void {
    this.#isRunning = false;
    if (this.#closed) this.preempted();
  }

  /**
   * The step has been committed and its sequence lives on.
   * @param statistics of the row; undefined when nothing was asked for
   */
  async follow(
    phase: number,
    newTokens: number,
    statistics: ((layer: number) => StatView) | undefined,
  ): Promise<void> {
    const { policy } = this;
    const lanes = this.#lanes;
    if (lanes === undefined || this.#closed) return;
    if (this.#isLayered) {
      this.#isLayered = false;
      this.#isDecoding = true;
      await this.#carryOut(lanes, policy.endPrefill());
      // Slices gather in as many blocks as they need, and the others are free.
      return this.#carryOut(lanes, { keep: new Array<null>(this.#arena.lanes).fill(null) });
    }
    const lazy = this.#lazy;
    (lazy ?? lanes).append(newTokens);
    const measured: RowStatistics = statistics ?? ((layer) => this.#bare(lazy ?? lanes, layer, newTokens));
    const view = lazy && statistics ? (layer: number): StatView => lazy.view(measured(layer)) : measured;
    const { layers } = this.#shape;
    if (phase === Phase.Decode) {
      for (let layer = 0; layer < layers; layer++) policy.observeDecode(layer, view(layer));
      return this.#carryOut(lanes, policy.endStep());
    }
    this.#isDecoding = phase === Phase.LastChunk;
    for (let layer = 0; layer < layers && !this.#closed; layer++) {
      policy.observePrefill(layer, view(layer), newTokens);
      if (phase === Phase.LastChunk) await this.#carryOut(lanes, policy.endLayerPrefill?.(layer) ?? null);
    }
    if (phase === Phase.LastChunk && !this.#closed) await this.#carryOut(lanes, policy.endPrefill());
  }

  /** The request's sequence is gone, the request is not. `sent`: its slots are in the host tier, or on their way there. */
  preempted(sent = false): void {
    if (this.#isRunning) return; // the executor still reads its tables
    if (!sent) {
      this.#lanes?.close();
      this.#lazy = undefined;
      this.#away = undefined;
      // Sent again before its first step: what waits is what it was.
    } else if (this.#lanes !== undefined)
      this.#away = { state: this.policy.serialize(), lanes: this.#lanes.suspend() };
    this.#lanes = undefined;
  }

  /** The request has ended. Idempotent. */
  close(): void {
    this.#closed = true;
    this.preempted();
  }

  /** Slices by layer: of all layers now, or of a prompt's layer when its turn comes. */
  #tables(lanes: CoreLanes, newTokens: number): (layer: number) => Uint32Array {
    if (!this.#isLayered) {
      const tables = lanes.tables(newTokens);
      return (layer) => tables[layer];
    }
    this.#isRunning = true;
    let last = -1;
    let table: Uint32Array = new Uint32Array(0);
    return (layer) => {
      // Once it has failed or is closed any place of its own will do: nobody reads what is written there.
      if (layer !== last && !this.#closed && !this.#isBroken)
        table = lanes.tables(newTokens, layer, layer + 1)[layer];
      last = layer;
      return table;
    };
  }

  #begun(plan: StepPlan, row: number): CoreLanes {
    if (this.#lanes !== undefined) return this.#lanes;
    const sequence = plan.sequences[row];
    const computed = plan.computedBefore[row];
    const away = this.#away;
    this.#away = undefined;
    // What the tier has lost is computed from the first token on.
    if (away !== undefined && computed === away.lanes.seen) {
      const lanes = this.#arena.resume(away.lanes, sequence);
      this.#lanes = lanes;
      this.#lazy?.moveTo(lanes);
      this.#begin(this.#lazy ?? lanes, this.#begunWith);
      this.policy.restore(away.state);
      return lanes;
    }
    const lanes = this.#arena.open(sequence, this.#bySlot);
    lanes.append(computed);
    this.#lanes = lanes;
    this.#isDecoding = false;
    this.#lazy = this.#isLazy ? new LazyLanes(lanes, this.policy.planes) : undefined;
    this.#begin(this.#lazy ?? lanes, this.#promptTokens);
    return lanes;
  }

  #begin(lanes: SequenceLanes, promptTokens: number): void {
    this.#begunWith = promptTokens;
    this.#seen = new CurrentLanes(lanes);
    this.policy.beginSequence(this.#seen, promptTokens);
  }

  async #carryOut(lanes: CoreLanes, answer: KeepPlan | null): Promise<void> {
    if (answer === null && this.#lazy === undefined) return;
    try {
      if (this.#lazy) await this.#lazy.drop(answer, this.#executor);
      else await evict(lanes, answer!, this.#executor);
    } catch (error) {
      // An abort while K and V were moved has closed the sequence, and with it the plan.
      if (this.#closed) return;
      if (!isOutOfRoom(error) || !this.#mayLeaveHoles(answer!)) throw error;
      await this.#leaveHoles(lanes, answer!);
    }
  }

  /** What outlives the request has no holes, nor have lanes whose slots mean more than a place. */
  #mayLeaveHoles({ merge = [] }: KeepPlan): boolean {
    const packs = this.#keeps || this.#arena.folded || this.#bySlot || this.policy.isBiased;
    return !packs && merge.length === 0 && this.#seen !== undefined;
  }

  /** Blocks that others read cannot be packed into, and there are none to copy to: what is dropped leaves holes from now on. */
  async #leaveHoles(lanes: CoreLanes, answer: KeepPlan): Promise<void> {
    // Lossy from here on: what is computed next has not seen what is dropped.
    await evict(lanes, { keep: new Array<null>(this.#arena.lanes).fill(null) }, this.#executor);
    this.#lazy = new LazyLanes(lanes, this.policy.planes);
    this.#seen!.now = this.#lazy;
    await this.#lazy.drop(answer, this.#executor);
  }

  /** What there is to see when nothing was measured. */
  #bare(lanes: SequenceLanes, layer: number, newTokens: number): StatView {
    const { heads, kvHeads } = this.#shape;
    const lengths = Uint32Array.from({ length: kvHeads }, (_, kvHead) => lanes.lane(layer, kvHead).length);
    return { layer, heads, kvHeads, newTokens, lengths, stride: this.#arena.stride };
  }
}

function unsupported(message: string): QuartermasterError {
  return new QuartermasterError("UNSUPPORTED", message, { argument: "evict" });
}

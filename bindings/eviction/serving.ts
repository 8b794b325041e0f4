/**
 * ServedLanes: a policy's work for one request while an engine serves it.
 *
 *   before a step   `row` says what the executor is asked: the lanes once they have lost tokens, the statistics
 *   after a commit  `follow` enters the step's tokens, lets the policy see its statistics and carries out its answers
 *
 * A request that is preempted loses its lanes and begins anew with its next step.
 */
import { QuartermasterError } from "../errors.js";
import type { Executor } from "../executor.js";
import { Phase, type StepPlan } from "../plan.js";
import type { LaneRow, StatisticsRequest, StatView } from "../statistics.js";
import { evict } from "./evict.js";
import { closeHoles, type KeptCache } from "./kept-cache.js";
import type { CoreLanes, LaneArena } from "./lanes.js";
import type { EvictionPolicy, KeepPlan, LaneShape } from "./policy.js";

/** Statistics of one row by layer. */
type RowStatistics = (layer: number) => StatView;

export class ServedLanes {
  readonly policy: EvictionPolicy;
  readonly #arena: LaneArena;
  readonly #executor: Executor;
  readonly #shape: LaneShape;
  readonly #promptTokens: number;
  /** Prompt tokens that the budget was set for. */
  readonly budgetTokens: number;
  readonly #most: number;
  #lanes: CoreLanes | undefined;
  #closed = false;

  /** Throws UNSUPPORTED for an executor that cannot measure or move what the policy needs, or lanes without its planes. */
  constructor(
    policy: EvictionPolicy,
    arena: LaneArena,
    executor: Executor,
    promptTokens: number,
    maxNewTokens: number,
    from?: KeptCache,
  ) {
    const { layers, kvHeads, heads = kvHeads, statMask = 0 } = executor.describe();
    const { needs } = policy;
    if (executor.move === undefined) throw unsupported(`${policy.name}: the executor has no lanes`);
    if (((needs.prefill | needs.decode) & ~statMask) !== 0)
      throw unsupported(`${policy.name}: the executor cannot measure what it needs`);
    if ((policy.planes & ~arena.planes) !== 0)
      throw unsupported(`${policy.name}: the engine's lanes lack planes that it needs`);
    this.policy = policy;
    this.#arena = arena;
    this.#executor = executor;
    this.#shape = { layers, heads, kvHeads };
    this.#promptTokens = promptTokens;
    this.budgetTokens = from?.promptTokens ?? promptTokens;
    this.#most = promptTokens + maxNewTokens;
  }

  /** What the scheduler must leave room for: at least 1, at most every token. */
  get peakSlots(): number {
    const { policy } = this;
    const peak = policy.peakSlots(policy.budgetFor(this.#shape, this.budgetTokens));
    return Math.max(1, Math.min(peak, this.#most));
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
    const mask = plan.phases[row] === Phase.Decode ? decode : prefill;
    const whole = writeSlots === undefined && lengths.every((length) => length === lanes.seen);
    return {
      ...(!whole && { lanes: { lengths, ...(writeSlots && { writeSlots }) } }),
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
    lanes.append(newTokens);
    const view: RowStatistics = statistics ?? ((layer) => this.#bare(lanes, layer, newTokens));
    const { layers } = this.#shape;
    if (phase === Phase.Decode) {
      for (let layer = 0; layer < layers; layer++) policy.observeDecode(layer, view(layer));
      return this.#carryOut(lanes, policy.endStep());
    }
    for (let layer = 0; layer < layers && !this.#closed; layer++) {
      policy.observePrefill(layer, view(layer), newTokens);
      if (phase === Phase.LastChunk) await this.#carryOut(lanes, policy.endLayerPrefill?.(layer) ?? null);
    }
    if (phase === Phase.LastChunk && !this.#closed) await this.#carryOut(lanes, policy.endPrefill());
  }

  /** The request's sequence is gone, the request is not. */
  preempted(): void {
    this.#lanes?.close();
    this.#lanes = undefined;
  }

  /** The request has ended. Idempotent. */
  close(): void {
    this.#closed = true;
    this.preempted();
  }

  #begun(plan: StepPlan, row: number): CoreLanes {
    if (this.#lanes !== undefined) return this.#lanes;
    const lanes = this.#arena.open(plan.sequences[row]);
    lanes.append(plan.computedBefore[row]);
    this.#lanes = lanes;
    this.policy.beginSequence(lanes, this.#promptTokens);
    return lanes;
  }

  async #carryOut(lanes: CoreLanes, answer: KeepPlan | null): Promise<void> {
    if (answer === null) return;
    try {
      await evict(lanes, answer, this.#executor);
    } catch (error) {
      // An abort while K and V were moved has closed the sequence, and with it the plan.
      if (!this.#closed) throw error;
    }
  }

  /** What there is to see when nothing was measured. */
  #bare(lanes: CoreLanes, layer: number, newTokens: number): StatView {
    const { heads, kvHeads } = this.#shape;
    const lengths = Uint32Array.from({ length: kvHeads }, (_, kvHead) => lanes.lane(layer, kvHead).length);
    return { layer, heads, kvHeads, newTokens, lengths, stride: this.#arena.stride };
  }
}

function unsupported(message: string): QuartermasterError {
  return new QuartermasterError("UNSUPPORTED", message, { argument: "evict" });
}

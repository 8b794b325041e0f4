/**
 * KeptCache: what is left of a finished request that dropped tokens, for the requests that go on from it.
 *
 *   turn      generate({ tokens: question, from: kept, keep: true })     goes on with it; it is used up
 *   request   generate({ tokens: question, from: await engine.fork(kept, policy) })   on a copy; blocks are shared until written
 *
 * It holds its blocks until it is used up or closed. Source of the two ways: "SCBench: A KV Cache-Centric Analysis of
 * Long-Context Methods" (ICLR 2025, arXiv 2412.10319).
 */
import { invalidArgument } from "../errors.js";
import type { Executor } from "../executor.js";
import { evict } from "./evict.js";
import type { CoreLanes } from "./lanes.js";
import type { EvictionPolicy } from "./policy.js";

export class KeptCache {
  /** Prompt and generated tokens, the last of which has no K and V yet. */
  readonly tokens: Uint32Array;
  readonly policy: EvictionPolicy;
  /** Tokens of the prompt that the policy began with. */
  readonly promptTokens: number;
  #lanes: CoreLanes | undefined;

  /** Made by an engine. */
  constructor(lanes: CoreLanes, policy: EvictionPolicy, tokens: Uint32Array, promptTokens: number) {
    this.#lanes = lanes;
    this.policy = policy;
    this.tokens = tokens;
    this.promptTokens = promptTokens;
  }

  /** Whether it can still be gone on from. */
  get isOpen(): boolean {
    return this.#lanes !== undefined;
  }

  /** [layers * kvHeads] slots of each lane. Throws INVALID_ARGUMENT once it is used up. */
  lengths(): Uint32Array {
    return this.#held().lengths();
  }

  /** Blocks that it holds, those included that others hold as well. */
  get blocks(): number {
    const { arena, sequence } = this.#held();
    return arena.cache.blockTable(sequence).length;
  }

  /** Hands the lanes over: it is used up. */
  take(): CoreLanes {
    const lanes = this.#held();
    this.#lanes = undefined;
    return lanes;
  }

  /**
   * A copy that goes on as this one would. Lanes are copied, blocks shared but for those that the next token is written to.
   * Not while a step is in flight: `Engine.fork` waits for that. Throws OUT_OF_SEQUENCES, OUT_OF_BLOCKS, and what the
   * executor throws.
   * @param policy of the same kind and options as this one's
   */
  async fork(policy: EvictionPolicy, executor: Pick<Executor, "move">): Promise<KeptCache> {
    const own = this.#held();
    const { arena } = own;
    const sequence = arena.forkSequence(own.sequence);
    let lanes: CoreLanes | undefined;
    try {
      lanes = own.fork(sequence);
      await evict(lanes, { keep: new Array<null>(arena.lanes).fill(null) }, executor);
      policy.beginSequence(lanes, this.promptTokens);
      policy.restore(this.policy.serialize());
    } catch (error) {
      arena.closeSequence(sequence);
      lanes?.close();
      throw error;
    }
    return new KeptCache(lanes, policy, this.tokens, this.promptTokens);
  }

  /** Gives everything back. Idempotent. */
  close(): void {
    if (this.#lanes === undefined) return;
    const lanes = this.take();
    lanes.arena.closeSequence(lanes.sequence);
    lanes.close();
  }

  #held(): CoreLanes {
    if (this.#lanes === undefined)
      throw invalidArgument("from", this, "a kept cache that has not been used up or closed");
    return this.#lanes;
  }
}

/** Closes the places that the next token would have taken: it may come with others, which are appended. */
export async function closeHoles(lanes: CoreLanes, executor: Pick<Executor, "move">): Promise<void> {
  const holes = lanes.holes();
  if (holes === undefined) return;
  const keep = Array.from(lanes.lengths(), (length, lane) => {
    const slots = Uint32Array.from({ length }, (_, slot) => slot);
    return slots.every((slot) => slot !== holes[lane]) ? null : slots.filter((slot) => slot !== holes[lane]);
  });
  await evict(lanes, { keep }, executor);
}

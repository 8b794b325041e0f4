/**
 * BlockTableStore: a `KvCache` behind the interface of `VirtualKVCache`, so that an engine changes between paged and
 * contiguous memory by a constructor. Slots are private sequences; their tokens are not recorded, so that nothing is
 * found by content: sharing is by `sharePrefix`, as with virtual memory.
 */
import { invalidArgument, QuartermasterError, requireInteger } from "./errors.js";
import type { KvCache } from "./kv-cache.js";
import type { SequenceId } from "./kv-cache-options.js";
import type { KVStore, StepMemory } from "./virtual-kv-cache.js";
import type { SharedPrefix } from "./virtual-memory.js";

export class BlockTableStore implements KVStore {
  readonly cache: KvCache;
  readonly #sequences: (SequenceId | undefined)[];

  constructor(cache: KvCache) {
    this.cache = cache;
    this.#sequences = new Array<SequenceId | undefined>(cache.maxSequences).fill(undefined);
  }

  get freeBlocks(): number {
    return this.cache.available;
  }

  /** Block ids of a slot, in order of its tokens: a view until the next call. */
  table(slot: number): Uint32Array {
    return this.cache.blockTable(this.#sequence("slot", slot));
  }

  async allocSlot(tokens: number, prefix?: SharedPrefix): Promise<number> {
    requireInteger("tokens", tokens, 1, this.cache.maxSequenceTokens);
    const slot = this.#sequences.indexOf(undefined);
    if (slot < 0) throw new QuartermasterError("OUT_OF_SEQUENCES", "allocSlot: every slot is active");
    const sequence = prefix
      ? this.#fork(this.#sequence("prefix.from", prefix.from), prefix.tokens)
      : this.cache.open({ tokens: [0], private: true });
    try {
      this.cache.reserve(sequence, tokens - this.cache.length(sequence));
    } catch (error) {
      this.cache.close(sequence);
      throw error;
    }
    this.#sequences[slot] = sequence;
    return slot;
  }

  async freeSlot(slot: number): Promise<void> {
    this.cache.close(this.#sequence("slot", slot));
    this.#sequences[slot] = undefined;
  }

  async step(lengths: ArrayLike<number>): Promise<StepMemory> {
    const before = this.cache.available;
    for (let slot = 0; slot < this.#sequences.length; slot++) {
      const active = this.#sequences[slot] !== undefined;
      const most = active ? this.cache.maxSequenceTokens : 0;
      requireInteger(`lengths[${slot}]`, lengths[slot] ?? 0, active ? 1 : 0, most);
    }
    const oom: number[] = [];
    this.#sequences.forEach((sequence, slot) => {
      if (sequence !== undefined && !this.#setLength(sequence, lengths[slot])) oom.push(slot);
    });
    return { oom, changes: Math.max(0, before - this.cache.available) };
  }

  /** Whole blocks only: `to` reads them in place of its own, and has no other tokens then. */
  async sharePrefix(from: number, to: number, tokens: number): Promise<number> {
    const source = this.#sequence("from", from);
    const target = this.#sequence("to", to);
    if (from === to) throw invalidArgument("to", to, "another slot than from");
    const fork = this.#fork(source, tokens);
    this.cache.close(target);
    this.#sequences[to] = fork;
    return this.cache.length(fork);
  }

  /** Blocks live in one pool for good: there is nothing to give back. */
  async trim(): Promise<number> {
    return 0;
  }

  #sequence(argument: string, slot: number): SequenceId {
    requireInteger(argument, slot, 0, this.#sequences.length - 1);
    const sequence = this.#sequences[slot];
    if (sequence === undefined)
      throw new QuartermasterError("UNKNOWN_SEQUENCE", `slot ${slot} is not active`);
    return sequence;
  }

  /** A sequence over the whole blocks of the first `tokens` tokens. */
  #fork(source: SequenceId, tokens: number): SequenceId {
    requireInteger("tokens", tokens, 0, this.cache.length(source));
    const fork = this.cache.fork(source);
    this.cache.truncate(fork, tokens - (tokens % this.cache.blockSize));
    return fork;
  }

  /** Whether the blocks were there. */
  #setLength(sequence: SequenceId, tokens: number): boolean {
    const length = this.cache.length(sequence);
    if (tokens < length) this.cache.truncate(sequence, tokens);
    if (tokens <= length) return true;
    try {
      this.cache.reserve(sequence, tokens - length);
    } catch (error) {
      if (error instanceof QuartermasterError && error.code === "OUT_OF_BLOCKS") return false;
      throw error;
    }
    this.cache.append(sequence, new Uint32Array(tokens - length));
    return true;
  }
}

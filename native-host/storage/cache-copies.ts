/**
 * CacheCopies: K and V of a prompt's blocks out of an engine's cache and into it, between two steps. Loading never makes a
 * block readable before it is whole: blocks are reserved, filled, and only then recorded.
 */
import type { Engine } from "../../bindings/engine.js";
import { QuartermasterError } from "../../bindings/errors.js";
import type { Executor } from "../../bindings/executor.js";
import type { KvCache } from "../../bindings/kv-cache.js";
import type { SequenceId } from "../../bindings/kv-cache-options.js";
import type { PromptMarks } from "../../bindings/prompt-marks.js";
import { NO_BLOCK } from "../../bindings/plan.js";
import type { PromptBlock, PromptBlocks } from "./prompt-blocks.js";

/** Whose a prompt is, and what its blocks depend on besides its tokens: as `KvCache.open` takes them. */
export interface PrefixOptions extends PromptMarks {
  /** Default 0. */
  namespace?: number;
  /** Who pays for blocks that are loaded, below the cache's `tenants`. Default 0. */
  tenant?: number;
}

export interface Prompt extends PrefixOptions {
  readonly tokens: Uint32Array;
}

type BlockExecutor = Executor & Required<Pick<Executor, "readBlocks" | "writeBlocks">>;

/** There are no blocks for what would be loaded, or its tenant may not have them. */
const NO_ROOM: readonly string[] = ["OUT_OF_BLOCKS", "QUOTA_EXCEEDED"];
/** Tokens loaded at a time into a cache with groups: a block of a window is let go of once the next ones are there. */
const CHUNK_TOKENS = 4096;

export class CacheCopies {
  readonly #executor: BlockExecutor;
  readonly #cache: KvCache;
  readonly #blockBytes: number;

  /** Throws UNSUPPORTED when the engine's executor cannot read and write blocks. */
  constructor({ executor, scheduler }: Engine) {
    if (executor.readBlocks === undefined || executor.writeBlocks === undefined) {
      const groups = scheduler.cache.groups.some(({ kind }) => kind === "recurrent");
      throw new QuartermasterError(
        "UNSUPPORTED",
        `the executor does not read and write blocks${groups ? ", those of recurrent groups among them" : ""}`,
      );
    }
    this.#executor = executor as BlockExecutor;
    this.#cache = scheduler.cache;
    this.#blockBytes = executor.describe().blockBytes;
  }

  /** Copies those of the blocks that are cached; returns them with their payloads. */
  async read(
    prompt: Prompt,
    blocks: PromptBlocks,
    wanted: readonly PromptBlock[],
  ): Promise<(readonly [PromptBlock, Uint8Array])[]> {
    const { tokens } = prompt;
    const cache = this.#cache;
    // `open` leaves the last token to be computed: one more, and the last block is among what it finds.
    const whole = tokens.length - (tokens.length % cache.blockSize);
    const asked = Uint32Array.from({ length: whole + 1 }, (_, i) => (i < whole ? tokens[i] : 0));
    const sequence = cache.open({ ...prompt, tokens: asked.subarray(0, cache.maxSequenceTokens) });
    try {
      const length = cache.length(sequence);
      const tables = blocks.groups.map(({ blockSize }, group) =>
        group === 0
          ? cache.blockTable(sequence).slice(0, Math.floor(length / blockSize))
          : cache.groupCached(sequence, group),
      );
      const cached = wanted.filter(({ group, index }) => (tables[group][index] ?? NO_BLOCK) !== NO_BLOCK);
      const ids = Uint32Array.from(cached, ({ group, index }) => tables[group][index]);
      const payload = await this.#executor.readBlocks(ids);
      const bytes = this.#blockBytes;
      return cached.map((block, i) => [block, payload.subarray(i * bytes, (i + 1) * bytes)] as const);
    } finally {
      cache.close(sequence);
    }
  }

  /**
   * Brings the cached prefix from `from` tokens to `end`, both multiples of the unit, with payloads that there are for what
   * lies between; returns the tokens that this made cached. When the blocks cannot be had that is none.
   */
  async install(
    prompt: Prompt,
    blocks: PromptBlocks,
    from: number,
    end: number,
    payloadOf: (block: PromptBlock) => Uint8Array,
  ): Promise<number> {
    const { tokens, tenant = 0 } = prompt;
    const cache = this.#cache;
    const sequence = cache.open(prompt);
    try {
      const found = cache.length(sequence);
      const length = found - (found % blocks.unit);
      // A part of a block (`partialReuse`) is somebody else's: the block comes whole.
      if (length < found) cache.truncate(sequence, length);
      // Meanwhile blocks may have been computed, or evicted: then there is nothing to do, or a gap.
      if (length < from || length >= end) return 0;
      const needed = blocks.between(length, end);
      if (needed.length > (cache.tenants > 0 ? cache.availableTo(tenant) : cache.available)) return 0;
      const chunk = blocks.groups.length === 1 ? end : Math.max(CHUNK_TOKENS, blocks.unit);
      for (let at = length; at < end; at += chunk) {
        const to = Math.min(at + chunk, end);
        cache.reserve(sequence, to - at);
        const filled = needed.filter(({ group, index }) => {
          const behind = (index + 1) * blocks.groups[group].blockSize;
          return behind > at && behind <= to;
        });
        await this.#write(sequence, filled, payloadOf);
        cache.appendLoaded(sequence, tokens.subarray(at, to), end);
      }
      return end - length;
    } catch (error) {
      if (error instanceof QuartermasterError && NO_ROOM.includes(error.code)) return 0;
      throw error;
    } finally {
      cache.close(sequence);
    }
  }

  /** Fills blocks that the sequence holds. */
  async #write(
    sequence: SequenceId,
    blocks: readonly PromptBlock[],
    payloadOf: (block: PromptBlock) => Uint8Array,
  ): Promise<void> {
    const cache = this.#cache;
    const ids = Uint32Array.from(blocks, ({ group, index }) =>
      group === 0 ? cache.blockTable(sequence)[index] : cache.groupTable(sequence, group)[index],
    );
    const bytes = new Uint8Array(blocks.length * this.#blockBytes);
    blocks.forEach((block, i) => bytes.set(payloadOf(block), i * this.#blockBytes));
    await this.#executor.writeBlocks(ids, bytes);
  }
}

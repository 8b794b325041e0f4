/**
 * BlockDiffusionSession: makes a sequence chunk by chunk, each denoised under a prompt of its own while it reads earlier
 * chunks: the last ones whole, the salient tokens of those whose prompts are nearest.
 *
 *   for each chunk   x = noise
 *                    for each time sigma:  x = denoise(x, sigma, context)
 *                    one clean pass writes K and V, and says what attention it gave
 *                    the chunk enters the ring; the one that leaves it is reduced to its salient tokens; a full bank loses one
 *
 * A chunk is a lossy sequence of the cache with lanes of its own: the ring turns without a copy, a banked chunk gives the
 * blocks of its other tokens back, a dropped one all. Source: "BlockVid: Block Diffusion for High-Quality and Consistent
 * Minute-Long Video Generation" (arXiv 2511.22973), whose code of this is not public: rules and formulas are our own reading.
 *
 * Invariants  1. Chunks with blocks are those of the ring and of the bank, and the one being made.
 *             2. A chunk that could not be made changes nothing, unless K and V were being moved: that ends the session.
 */
import { invalidArgument, QuartermasterError, requireInteger } from "../errors.js";
import type { Executor } from "../executor.js";
import { ChunkBank, type ChunkBankOptions, type ChunkMoves, salientTokens } from "./chunk-bank.js";
import { denoisingTimes, noiseLevel, type NoiseLevels } from "./chunk-noise.js";
import { evict } from "./evict.js";
import type { CoreLanes, LaneArena } from "./lanes.js";
import type { Selection } from "./select.js";

/** The cached tokens of one chunk: slot s of lane l lies in block table[floor(s / blockSize)], offset s % blockSize. */
export interface ChunkPart {
  readonly chunk: number;
  /** Block ids. */
  readonly table: Uint32Array;
  /** [layers * kvHeads] slots; all of the chunk's tokens while it is in the ring. */
  readonly lengths: Uint32Array;
  /** Tokens of a lane's slots, counted from the chunk's first. A view, valid until the call ends. */
  tokens(lane: number): Uint32Array;
}

/** What a clean pass has measured. */
export interface ChunkAttention {
  /** [tokens of a chunk] attention that a context chunk of the ring got from the new chunk, over queries and the group's heads. */
  received(chunk: number, lane: number): Float32Array;
  /** [tokens of a chunk] attention that the new chunk's tokens got from each other. */
  own(lane: number): Float32Array;
}

/** Who computes chunks. All tokens of a chunk see each other and every slot of the context. */
export interface ChunkExecutor extends Pick<Executor, "move"> {
  /** One denoising step at time sigma, 1 (noise) to 0; returns the chunk at the next one. */
  denoise(
    latent: Float32Array,
    sigma: number,
    context: readonly ChunkPart[],
    chunk: number,
  ): Promise<Float32Array>;
  /** Writes K and V of a chunk's tokens to its slots, in order. */
  write(latent: Float32Array, into: ChunkPart, context: readonly ChunkPart[]): Promise<ChunkAttention>;
}

export interface BlockDiffusionOptions extends ChunkBankOptions {
  /** Of a cache for chunks alone or for others too; capacity at least chunkTokens, sequences ring + bank + 2. */
  readonly arena: LaneArena;
  readonly selection: Selection;
  readonly executor: ChunkExecutor;
  /** Tokens of a chunk, 1 to the arena's capacity. */
  readonly chunkTokens: number;
  /** Share of a banked chunk's tokens that stays, above 0, at most 1. Default 0.25. */
  readonly share?: number;
  /** Denoising steps of a chunk. Default 4. */
  readonly steps?: number;
  /** Shift of the denoising times. Default 3. */
  readonly shift?: number;
  /**
   * Later chunks read a chunk as noised to a level that grows along the video, so that they trust its detail less. Needs
   * `chunks`, the length of the video, and standard normal numbers. Default: they read it clean.
   */
  readonly conditionNoise?: NoiseLevels & { readonly chunks: number; normal(): number };
}

/** A chunk that was made. */
export interface MadeChunk extends ChunkMoves {
  readonly chunk: number;
  readonly latent: Float32Array;
  /** Chunks that it read, oldest first. */
  readonly context: readonly number[];
}

interface Stored {
  readonly lanes: CoreLanes;
  /** [layers * kvHeads] attention that decides what stays of it; from its successor, or its own. */
  attention: readonly Float32Array[];
}

export class BlockDiffusionSession {
  readonly bank: ChunkBank;
  readonly options: BlockDiffusionOptions;
  readonly #stored = new Map<number, Stored>();
  readonly #share: number;
  readonly #times: Float64Array;
  #closed = false;
  #busy = false;

  constructor(options: BlockDiffusionOptions) {
    const { arena, chunkTokens, share = 0.25, steps = 4, shift = 3 } = options;
    requireInteger("chunkTokens", chunkTokens, 1, arena.capacity);
    if (!(share > 0 && share <= 1)) throw invalidArgument("share", share, "above 0, at most 1");
    this.bank = new ChunkBank(options);
    const { local, bankChunks } = this.bank.options;
    if (arena.sequences < local + bankChunks + 2)
      throw invalidArgument("arena.sequences", arena.sequences, `at least ${local + bankChunks + 2}`);
    this.#share = share;
    this.#times = denoisingTimes(steps, shift);
    this.options = options;
  }

  /** Blocks that ring and bank hold. */
  get blocks(): number {
    const { cache } = this.options.arena;
    return [...this.#stored.values()].reduce(
      (sum, { lanes }) => sum + cache.blockTable(lanes.sequence).length,
      0,
    );
  }

  /**
   * Makes the next chunk. One at a time. Throws OUT_OF_BLOCKS, OUT_OF_SEQUENCES, CLOSED, and what the executor throws,
   * the session being as before it; moves that fail close it.
   * @param prompt embedding of the chunk's prompt; need not be normalised
   * @param noise initial latent; `shuffleNoise` makes one that shares frames with the chunk before
   */
  async make(prompt: ArrayLike<number>, noise: Float32Array): Promise<MadeChunk> {
    if (this.#closed) throw new QuartermasterError("CLOSED", "the session has been closed");
    if (this.#busy) throw invalidArgument("make", this.bank.next, "one chunk at a time");
    this.#busy = true;
    try {
      return await this.#make(prompt, noise);
    } finally {
      this.#busy = false;
      if (this.#closed) this.#release();
    }
  }

  /** Gives every block back; a chunk that is being made is given up. Idempotent. */
  close(): void {
    this.#closed = true;
    if (!this.#busy) this.#release();
  }

  async #make(prompt: ArrayLike<number>, noise: Float32Array): Promise<MadeChunk> {
    const { executor } = this.options;
    const chunk = this.bank.next;
    const context = this.bank.context(prompt);
    const parts = context.map((other) => this.#part(other, this.#stored.get(other)!.lanes));
    const lanes = this.#open();
    let attention: ChunkAttention;
    let latent = noise;
    try {
      for (const sigma of this.#times) latent = await executor.denoise(latent, sigma, parts, chunk);
      attention = await executor.write(this.#condition(latent, chunk), this.#part(chunk, lanes), parts);
      if (this.#closed) throw new QuartermasterError("CLOSED", "the session was closed");
      this.#stored.set(chunk, { lanes, attention: this.#each((lane) => attention.own(lane).slice()) });
    } catch (error) {
      this.#close(lanes);
      throw error;
    }
    const before = this.#stored.get(chunk - 1);
    if (before !== undefined && this.bank.ring.includes(chunk - 1))
      before.attention = this.#each((lane) => attention.received(chunk - 1, lane).slice());
    const moves = this.bank.push(prompt);
    if (moves.dropped !== undefined) this.#drop(moves.dropped);
    try {
      if (moves.banked !== undefined && moves.banked !== moves.dropped) await this.#compress(moves.banked);
    } catch (error) {
      this.#closed = true; // K and V of the chunk may be half moved
      throw error;
    }
    return { chunk, latent, context, ...moves };
  }

  #each<T>(body: (lane: number) => T): T[] {
    return Array.from({ length: this.options.arena.lanes }, (_, lane) => body(lane));
  }

  /** A sequence with room for a chunk, whose tokens are about to be written. */
  #open(): CoreLanes {
    const { arena, chunkTokens } = this.options;
    const { cache } = arena;
    const sequence = cache.open({ tokens: [], lossy: true });
    try {
      cache.reserve(sequence, chunkTokens);
      cache.append(sequence, new Uint32Array(chunkTokens));
      const lanes = arena.open(sequence);
      lanes.append(chunkTokens);
      return lanes;
    } catch (error) {
      cache.close(sequence);
      throw error;
    }
  }

  #part(chunk: number, lanes: CoreLanes): ChunkPart {
    const { arena } = this.options;
    return {
      chunk,
      table: arena.cache.blockTable(lanes.sequence).slice(),
      lengths: lanes.lengths(),
      tokens: (lane) => {
        const { pos, length } = lanes.lane(Math.floor(lane / arena.kvHeads), lane % arena.kvHeads);
        return pos.subarray(0, length);
      },
    };
  }

  /** What later chunks read of it. */
  #condition(latent: Float32Array, chunk: number): Float32Array {
    const { conditionNoise: noise } = this.options;
    if (noise === undefined) return latent;
    const level = noiseLevel(Math.min(chunk, noise.chunks - 1), noise.chunks, noise);
    return latent.map((value) => (1 - level) * value + level * noise.normal());
  }

  /** A chunk has left the ring: of each lane its salient tokens stay. */
  async #compress(chunk: number): Promise<void> {
    if (this.#share === 1) return;
    const { selection, executor } = this.options;
    const { lanes, attention } = this.#stored.get(chunk)!;
    await evict(
      lanes,
      { keep: attention.map((received) => salientTokens(selection, received, this.#share)) },
      executor,
    );
  }

  #drop(chunk: number): void {
    this.#close(this.#stored.get(chunk)!.lanes);
    this.#stored.delete(chunk);
  }

  #close(lanes: CoreLanes): void {
    lanes.arena.closeSequence(lanes.sequence);
    lanes.close();
  }

  #release(): void {
    for (const chunk of [...this.#stored.keys()]) this.#drop(chunk);
  }
}

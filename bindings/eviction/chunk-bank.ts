/**
 * ChunkBank: which earlier chunks a new chunk reads, when a sequence is made chunk by chunk, each with a prompt of its own.
 *
 * The last chunks are read whole (the ring). A chunk that leaves the ring enters the bank, where only its salient tokens
 * stay; of the bank, the chunks are read whose prompts are nearest to the current one. Source of the idea: "BlockVid: Block
 * Diffusion for High-Quality and Consistent Minute-Long Video Generation" (arXiv 2511.22973), which published no code of it;
 * the rules of saliency, of a full bank and of ties are our own reading.
 *
 * Invariants  1. A chunk is in the ring or in the bank or in neither, never twice.
 *             2. The bank holds at most `bankChunks`; chunk 0 stays when it is the anchor.
 */
import { invalidArgument, QuartermasterError, requireInteger } from "../errors.js";
import type { LaneView, SparseSelector } from "./policy.js";
import type { Selection } from "./select.js";

export interface ChunkBankOptions {
  /** Chunks read whole, 0 to 1024. Default 1. */
  readonly local?: number;
  /** Chunks of the bank that are read, 0 to 64. Default 2. */
  readonly retrieved?: number;
  /** Most chunks in the bank, 1 to 4096. Default 16. */
  readonly bankChunks?: number;
  /** Least cosine of prompts for a chunk of the bank to be read, -1 to 1. Default 0. */
  readonly minSimilarity?: number;
  /** Chunk 0 is always read and never leaves. Default true. */
  readonly anchorFirst?: boolean;
  /**
   * Who leaves a full bank: the older of the two chunks with the nearest prompts (`redundant`, default), or the oldest
   * (`fifo`).
   */
  readonly eviction?: "redundant" | "fifo";
}

/** What entering a chunk has done. */
export interface ChunkMoves {
  /** The chunk that went from the ring to the bank. */
  readonly banked?: number;
  /** The chunk that left the bank: its tokens may be freed. */
  readonly dropped?: number;
}

interface Entry {
  readonly chunk: number;
  readonly prompt: Float64Array;
}

export class ChunkBank {
  readonly options: Required<ChunkBankOptions>;
  readonly #ring: Entry[] = [];
  readonly #bank: Entry[] = [];
  #next = 0;
  #width = 0;

  constructor(options: ChunkBankOptions = {}) {
    const { minSimilarity = 0, anchorFirst = true, eviction = "redundant" } = options;
    if (!(minSimilarity >= -1 && minSimilarity <= 1))
      throw invalidArgument("minSimilarity", minSimilarity, "a number from -1 to 1");
    if (eviction !== "redundant" && eviction !== "fifo")
      throw invalidArgument("eviction", eviction, "redundant, fifo");
    this.options = {
      local: requireInteger("local", options.local ?? 1, 0, 1024),
      retrieved: requireInteger("retrieved", options.retrieved ?? 2, 0, 64),
      bankChunks: requireInteger("bankChunks", options.bankChunks ?? 16, 1, 4096),
      minSimilarity,
      anchorFirst,
      eviction,
    };
  }

  /** Chunks read whole, oldest first. */
  get ring(): number[] {
    return this.#ring.map(({ chunk }) => chunk);
  }

  /** Chunks of the bank, oldest first. */
  get bank(): number[] {
    return this.#bank.map(({ chunk }) => chunk);
  }

  /** Number of the chunk that is pushed next. */
  get next(): number {
    return this.#next;
  }

  /**
   * The chunk that was made is done. @param prompt embedding of its prompt, of one length throughout; need not be normalised
   */
  push(prompt: ArrayLike<number>): ChunkMoves {
    this.#requireWidth(prompt);
    this.#width = prompt.length;
    this.#ring.push({ chunk: this.#next, prompt: normalised(prompt) });
    this.#next += 1;
    if (this.#ring.length <= this.options.local) return {};
    const leaving = this.#ring.shift()!;
    this.#bank.push(leaving);
    if (this.#bank.length <= this.options.bankChunks) return { banked: leaving.chunk };
    const [dropped] = this.#bank.splice(this.#victim(), 1);
    return { banked: leaving.chunk, dropped: dropped.chunk };
  }

  /** Chunks that a chunk with this prompt reads, oldest first: anchor, the nearest of the bank, the ring. */
  context(prompt: ArrayLike<number>): number[] {
    this.#requireWidth(prompt);
    const { retrieved, minSimilarity, anchorFirst } = this.options;
    const query = normalised(prompt);
    const near = this.#bank
      .map(({ chunk, prompt: other }) => ({ chunk, similarity: cosine(query, other) }))
      // A NaN is below any floor.
      .filter(({ similarity }) => similarity >= minSimilarity)
      .sort((a, b) => b.similarity - a.similarity || b.chunk - a.chunk)
      .slice(0, retrieved)
      .map(({ chunk }) => chunk);
    const chunks = new Set([...near, ...this.ring]);
    if (anchorFirst && this.#next > 0 && this.#holds(0)) chunks.add(0);
    return [...chunks].sort((a, b) => a - b);
  }

  #holds(chunk: number): boolean {
    return [...this.#bank, ...this.#ring].some((entry) => entry.chunk === chunk);
  }

  /** Index in the bank of the chunk that goes. */
  #victim(): number {
    const { anchorFirst, eviction } = this.options;
    const first = anchorFirst && this.#bank[0].chunk === 0 && this.#bank.length > 1 ? 1 : 0;
    if (eviction === "fifo") return first;
    let [victim, closest] = [first, -Infinity];
    for (let older = first; older < this.#bank.length; older++)
      for (let newer = older + 1; newer < this.#bank.length; newer++) {
        const similarity = cosine(this.#bank[older].prompt, this.#bank[newer].prompt);
        if (similarity > closest) [victim, closest] = [older, similarity];
      }
    return victim;
  }

  #requireWidth(prompt: ArrayLike<number>): void {
    if (!(prompt?.length > 0) || (this.#width > 0 && prompt.length !== this.#width))
      throw invalidArgument(
        "prompt.length",
        prompt?.length,
        this.#width > 0 ? `${this.#width}` : "at least 1",
      );
  }
}

function normalised(vector: ArrayLike<number>): Float64Array {
  const copy = Float64Array.from(vector);
  const norm = Math.sqrt(cosine(copy, copy));
  return norm > 0 ? copy.map((value) => value / norm) : copy;
}

function cosine(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/**
 * The tokens of a chunk that stay in the bank: the `share` of them, rounded up, that received the most attention from the
 * chunk after it; of equal ones the later. Ascending.
 * @param received [tokens] attention summed over queries and the heads of the group
 */
export function salientTokens(selection: Selection, received: Float32Array, share: number): Uint32Array {
  if (!(share > 0 && share <= 1)) throw invalidArgument("share", share, "above 0, at most 1");
  return selection.topk(received, Math.ceil(share * received.length)).slice();
}

/**
 * Reads, of lanes that hold every token, what the bank says: the ring's tokens, the salient ones of retrieved chunks, and
 * the chunk that is being made. Chunk c is positions [c * chunkTokens, (c + 1) * chunkTokens).
 */
export class ChunkSelector implements SparseSelector {
  readonly name = "blockvid";
  readonly bank: ChunkBank;
  readonly #chunkTokens: number;
  readonly #salient = new Map<string, Uint32Array>();
  #context = new Set<number>();
  #whole = new Set<number>();

  constructor(bank: ChunkBank, chunkTokens: number) {
    this.bank = bank;
    this.#chunkTokens = requireInteger("chunkTokens", chunkTokens, 1, 2 ** 26);
  }

  /** A chunk with this prompt begins. Returns the chunks that it reads. */
  begin(prompt: ArrayLike<number>): number[] {
    const chunks = this.bank.context(prompt);
    this.#context = new Set(chunks);
    this.#whole = new Set([...this.bank.ring, this.bank.next]);
    return chunks;
  }

  /** Tokens of a banked chunk that stay in one lane, counted from its first. Without it all of them are read. */
  keep(chunk: number, layer: number, kvHead: number, tokens: Uint32Array): void {
    const bad = tokens.find((token) => token >= this.#chunkTokens);
    if (bad !== undefined) throw invalidArgument("tokens", bad, `below ${this.#chunkTokens}`);
    this.#salient.set(`${chunk}/${layer}/${kvHead}`, tokens.slice().sort());
  }

  /** Forgets what a chunk that left the bank had. */
  forget(chunk: number): void {
    for (const key of this.#salient.keys()) if (key.startsWith(`${chunk}/`)) this.#salient.delete(key);
  }

  select(layer: number, kvHead: number, _query: Float32Array, lane: LaneView): Uint32Array {
    const kept = new Map<number, Set<number> | undefined>();
    const tokensOf = (chunk: number): Set<number> | undefined => {
      if (!kept.has(chunk)) {
        const list = this.#salient.get(`${chunk}/${layer}/${kvHead}`);
        kept.set(chunk, list && new Set(list));
      }
      return kept.get(chunk);
    };
    const slots: number[] = [];
    for (let slot = 0; slot < lane.length; slot++) {
      const position = lane.pos[slot];
      const chunk = Math.floor(position / this.#chunkTokens);
      if (this.#whole.has(chunk)) slots.push(slot);
      else if (this.#context.has(chunk)) {
        const tokens = tokensOf(chunk);
        if (tokens === undefined || tokens.has(position % this.#chunkTokens)) slots.push(slot);
      }
    }
    if (slots.length === 0 && lane.length > 0)
      throw new QuartermasterError("INVALID_ARGUMENT", "nothing of this lane is in the context; call begin", {
        argument: "lane",
      });
    return Uint32Array.from(slots);
  }
}

/**
 * PrefixStore: K and V of finished prefixes go to a slower tier and come back, in this process or after a restart, so that a
 * prompt that begins alike is not computed again.
 *
 *   const store = new PrefixStore({ engine, tier, model: "tiny-retrieval rev 3, f32" });
 *   await store.load(promptTokens);                     // before generate: what is worth loading becomes cached
 *   for await (const event of engine.generate({ tokens: promptTokens, maxNewTokens })) ...
 *   await store.save([...promptTokens, ...generated]);  // after it
 *
 * Keys are a chain of SHA-256: a block's is the hash of its parent's and its token ids, the first one's parent the hash of
 * the model, the shape of a block and the namespace. Equal in every process.
 *
 * Loading never makes a block readable before it is whole: the blocks are reserved, filled, and only then recorded; when a
 * block is missing or damaged the prefix ends before it. Loading and saving wait for the step in flight, and the engine
 * waits for them while they copy, not while they read or write files.
 */
import { createHash } from "node:crypto";
import type { Engine } from "../../bindings/engine.js";
import { invalidArgument, QuartermasterError } from "../../bindings/errors.js";
import type { Executor, ExecutorDescription } from "../../bindings/executor.js";
import type { KvCache } from "../../bindings/kv-cache.js";
import { LinkMeter, planLoad } from "./load-or-recompute.js";
import { SeenFilter } from "./seen-filter.js";
import type { TierBackend } from "./tier-backend.js";

export interface PrefixStoreOptions {
  /** Its executor must read and write blocks: the native one does. */
  engine: Engine;
  tier: TierBackend;
  /** Everything that K and V depend on beside tokens: the model, its revision, the number type of the cache. */
  model: string;
  /** Microseconds to compute a prompt's tokens from `from` on. Default: loading is always worth it. */
  recomputeUs?: (promptTokens: number, from: number) => number;
  /** Shorter loads are not tried. Default 256. */
  minLoadTokens?: number;
  /**
   * What is stored: everything that is saved, or only blocks that have been saved before, so that prompts which nobody asks
   * twice cost the tier nothing. Default "always".
   */
  admission?: "always" | "seen-twice";
  /** Blocks that "seen-twice" remembers at least, 1 to 2^28; 8 to 16 bytes each. Default 2^20. */
  remember?: number;
}

const ADMISSIONS = ["always", "seen-twice"];

type BlockExecutor = Executor & Required<Pick<Executor, "readBlocks" | "writeBlocks">>;

/** There are no blocks for what would be loaded, or its tenant may not have them. */
const NO_ROOM: readonly string[] = ["OUT_OF_BLOCKS", "QUOTA_EXCEEDED"];

/** What the tier's link is taken for before a load has finished: a disk. */
const FIRST_GUESS = { latencyUs: 200, bandwidth: 500 };

export class PrefixStore {
  readonly tier: TierBackend;
  /** The tier's speed, from the loads that have finished. */
  readonly link = new LinkMeter(FIRST_GUESS);
  readonly #engine: Engine;
  readonly #executor: BlockExecutor;
  readonly #cache: KvCache;
  readonly #shape: ExecutorDescription;
  readonly #model: Uint8Array;
  readonly #options: PrefixStoreOptions;
  readonly #seen: SeenFilter | undefined;
  #turnedAway = 0;

  /** Throws UNSUPPORTED when the engine's executor cannot read and write blocks. */
  constructor(options: PrefixStoreOptions) {
    const { engine, tier, model, admission = "always", remember = 2 ** 20 } = options;
    if (!ADMISSIONS.includes(admission)) throw invalidArgument("admission", admission, ADMISSIONS.join(", "));
    this.#seen = admission === "seen-twice" ? new SeenFilter(remember) : undefined;
    if (typeof model !== "string" || model === "")
      throw invalidArgument("model", model, "a text that names the model");
    const { executor } = engine;
    if (executor.readBlocks === undefined || executor.writeBlocks === undefined)
      throw new QuartermasterError("UNSUPPORTED", "the executor does not read and write blocks");
    this.tier = tier;
    this.#engine = engine;
    this.#executor = executor as BlockExecutor;
    this.#cache = engine.scheduler.cache;
    this.#shape = executor.describe();
    this.#options = options;
    const { layers, kvHeads, headDim, blockSize, blockBytes } = this.#shape;
    this.#model = digest(JSON.stringify([model, layers, kvHeads, headDim, blockSize, blockBytes]));
  }

  /** Keys of the whole blocks of `tokens`, in order. */
  keys(tokens: ArrayLike<number>, namespace = 0): Uint8Array[] {
    const { blockSize } = this.#shape;
    const words = Uint32Array.from(tokens);
    let parent = digest(this.#model, Uint32Array.of(namespace));
    const keys: Uint8Array[] = [];
    for (let at = 0; at + blockSize <= words.length; at += blockSize) {
      parent = digest(parent, words.subarray(at, at + blockSize));
      keys.push(parent);
    }
    return keys;
  }

  /** Blocks that were not stored because they had not been saved before. */
  get turnedAway(): number {
    return this.#turnedAway;
  }

  /**
   * Stores the cached whole blocks of `tokens` that the tier does not have and `admission` lets in; returns how many that
   * was.
   */
  async save(tokens: ArrayLike<number>, namespace = 0): Promise<number> {
    const keys = this.keys(tokens, namespace);
    const from = await this.tier.match(keys);
    const to = this.#admitted(keys, from);
    if (to === from) return 0;
    const payload = await this.#engine.between(() => this.#read(tokens, namespace, from, to));
    const { blockBytes } = this.#shape;
    let stored = 0;
    for (let i = 0; i * blockBytes < payload.length; i++) {
      const block = payload.subarray(i * blockBytes, (i + 1) * blockBytes);
      const parent = from + i === 0 ? {} : { parent: keys[from + i - 1] };
      if (await this.tier.put(keys[from + i], block, parent)) stored += 1;
    }
    return stored;
  }

  /**
   * Makes the prompt's stored prefix cached, as far as it is there, right, and worth it; returns how many tokens were
   * loaded. When the blocks cannot be had nothing is loaded.
   */
  async load(tokens: ArrayLike<number>, namespace = 0): Promise<number> {
    const { blockSize, blockBytes } = this.#shape;
    const cached = Math.floor(this.#cache.match(tokens, namespace) / blockSize);
    const keys = this.keys(tokens, namespace).slice(0, Math.floor((tokens.length - 1) / blockSize));
    const found = (await this.tier.match(keys)) - cached;
    if (!(found > 0)) return 0;
    const wanted = this.#worthLoading(tokens.length, cached, found);
    const payloads: Uint8Array[] = [];
    const started = performance.now();
    let first = started;
    for (let i = 0; i < wanted; i++) {
      const block = await this.tier.get(keys[cached + i]);
      if (i === 0) first = performance.now();
      if (block === undefined || block.lossy || block.payload.length !== blockBytes) break;
      payloads.push(block.payload);
    }
    if (payloads.length === 0) return 0;
    const bytes = (payloads.length - 1) * blockBytes;
    this.link.finished(bytes, (first - started) * 1000, (performance.now() - first) * 1000);
    return this.#engine.between(() => this.#install(tokens, namespace, cached, payloads));
  }

  /** Leading blocks that may be stored, of which `stored` are. */
  #admitted(keys: readonly Uint8Array[], stored: number): number {
    if (this.#seen === undefined) return keys.length;
    let to = stored;
    for (const [i, key] of keys.entries()) if (this.#seen.meet(key) && i === to) to += 1;
    this.#turnedAway += keys.length - to;
    return to;
  }

  /** Blocks of the `found` stored ones behind the `cached` ones that take less time to load than to compute. */
  #worthLoading(promptTokens: number, cached: number, found: number): number {
    const { blockSize, blockBytes } = this.#shape;
    const { minLoadTokens, recomputeUs } = this.#options;
    const plan = planLoad({
      runs: [{ tokens: found * blockSize, bytes: found * blockBytes, tier: "tier" }],
      links: new Map([["tier", this.link]]),
      promptTokens: promptTokens - cached * blockSize,
      recomputeUs: (from) =>
        recomputeUs === undefined
          ? from < found * blockSize
            ? Infinity
            : 0
          : recomputeUs(promptTokens, cached * blockSize + from),
      granularity: blockSize,
      minLoadTokens,
    });
    return plan.split / blockSize;
  }

  /** Copies the cached blocks of a sequence from block `from` up to `to`. */
  async #read(tokens: ArrayLike<number>, namespace: number, from: number, to: number): Promise<Uint8Array> {
    const { blockSize } = this.#shape;
    // `open` leaves the last token to be computed: one more, and the last block is among what it finds.
    const whole = tokens.length - (tokens.length % blockSize);
    const asked = Uint32Array.from({ length: whole + 1 }, (_, i) => (i < whole ? tokens[i] : 0));
    const sequence = this.#cache.open({
      tokens: asked.subarray(0, this.#cache.maxSequenceTokens),
      namespace,
    });
    try {
      const cached = Math.floor(this.#cache.length(sequence) / blockSize);
      const blocks = this.#cache.blockTable(sequence).slice(from, Math.min(cached, to));
      return await this.#executor.readBlocks(blocks);
    } finally {
      this.#cache.close(sequence);
    }
  }

  /** Fills fresh blocks behind the cached prefix and records them; returns the tokens that this made cached. */
  async #install(
    tokens: ArrayLike<number>,
    namespace: number,
    cached: number,
    payloads: readonly Uint8Array[],
  ): Promise<number> {
    const { blockSize, blockBytes } = this.#shape;
    const end = (cached + payloads.length) * blockSize;
    const words = Uint32Array.from({ length: tokens.length }, (_, i) => tokens[i]);
    const sequence = this.#cache.open({ tokens: words, namespace });
    try {
      const found = this.#cache.length(sequence);
      const length = found - (found % blockSize);
      // A part of a block (`partialReuse`) is somebody else's: the block comes whole.
      if (length < found) this.#cache.truncate(sequence, length);
      // Meanwhile blocks may have been computed, or evicted: then there is nothing to do, or a gap.
      const skip = length / blockSize - cached;
      if (skip < 0 || length >= end) return 0;
      this.#cache.reserve(sequence, end - length);
      const blocks = this.#cache.blockTable(sequence).slice(length / blockSize, end / blockSize);
      const bytes = new Uint8Array(blocks.length * blockBytes);
      payloads.slice(skip).forEach((payload, i) => bytes.set(payload, i * blockBytes));
      await this.#executor.writeBlocks(blocks, bytes);
      this.#cache.append(sequence, words.subarray(length, end));
      return end - length;
    } catch (error) {
      if (error instanceof QuartermasterError && NO_ROOM.includes(error.code)) return 0;
      throw error;
    } finally {
      this.#cache.close(sequence);
    }
  }
}

function digest(...parts: (string | Uint8Array | Uint32Array)[]): Uint8Array {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
}

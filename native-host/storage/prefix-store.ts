/**
 * PrefixStore: K and V of finished prefixes go to a slower tier and come back, in this process or after a restart, so that a
 * prompt that begins alike is not computed again.
 *
 *   const store = new PrefixStore({ engine, tier, model: "tiny-retrieval rev 3, f32" });
 *   await store.load(promptTokens);                     // before generate: what is worth loading becomes cached
 *   for await (const event of engine.generate({ tokens: promptTokens, maxNewTokens })) ...
 *   await store.save([...promptTokens, ...generated]);  // after it
 *
 * A block's key in the tier is its content key where the cache has content keys: the one that KV events name it by. Otherwise
 * keys are a chain of SHA-256: a block's is the hash of its parent's, its token ids and its marks, the first one's parent the
 * hash of the model, the shape of a block and the namespace. Either is equal in every process. Of a cache with groups their
 * blocks are stored beside those of its own tables, each under a key of its own; what is loaded is what a prefix of that
 * length needs.
 *
 * Loading never makes a block readable before it is whole: the blocks are reserved, filled, and only then recorded; when a
 * block is missing or damaged the prefix ends before it. Loading and saving wait for the step in flight, and the engine
 * waits for them while they copy, not while they read or write files.
 */
import type { CacheGroup } from "../../bindings/cache-groups.js";
import type { Engine } from "../../bindings/engine.js";
import { invalidArgument, requireInteger } from "../../bindings/errors.js";
import type { ExecutorDescription } from "../../bindings/executor.js";
import type { KvCache } from "../../bindings/kv-cache.js";
import { markExtras, marksOf } from "../../bindings/prompt-marks.js";
import { requireTokenIds } from "../../bindings/token-ids.js";
import { CacheCopies, type PrefixOptions, type Prompt } from "./cache-copies.js";
import { LinkMeter, planLoad } from "./load-or-recompute.js";
import { digest, present, type PromptBlock, PromptBlocks } from "./prompt-blocks.js";
import { SeenFilter } from "./seen-filter.js";
import { KEY_BYTES, type TierBackend } from "./tier-backend.js";

export interface PrefixStoreOptions {
  /** Its executor must read and write blocks: the native one does. */
  engine: Engine;
  tier: TierBackend;
  /**
   * Everything that K and V depend on beside tokens and marks: the model, its revision, the number type of the cache. With
   * content keys it is their fingerprint that names the model; 16 bits of this are compared all the same.
   */
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

/** What the tier's link is taken for before a load has finished: a disk. */
const FIRST_GUESS = { latencyUs: 200, bandwidth: 500 };

export class PrefixStore {
  readonly tier: TierBackend;
  /** The tier's speed, from the loads that have finished. */
  readonly link = new LinkMeter(FIRST_GUESS);
  readonly #engine: Engine;
  readonly #copies: CacheCopies;
  readonly #cache: KvCache;
  readonly #shape: ExecutorDescription;
  readonly #model: Uint8Array;
  /** What is stored beside content keys, and found again: they do not depend on `model` and on what a block looks like. */
  readonly #fingerprint: number;
  /** The cache's own tables first. */
  readonly #groups: readonly CacheGroup[];
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
    this.#copies = new CacheCopies(engine);
    this.tier = tier;
    this.#engine = engine;
    this.#cache = engine.scheduler.cache;
    this.#shape = engine.executor.describe();
    this.#options = options;
    const { layers, kvHeads, headDim, blockSize, blockBytes } = this.#shape;
    const groups = this.#cache.groups.map(({ kind, window, blockSize }) => [kind, window, blockSize]);
    this.#model = digest(JSON.stringify([model, layers, kvHeads, headDim, blockSize, blockBytes, ...groups]));
    this.#fingerprint =
      this.#cache.content === undefined
        ? 0
        : new DataView(this.#model.buffer, this.#model.byteOffset).getUint16(0);
    this.#groups = [{ kind: "full", window: 0, blockSize }, ...this.#cache.groups];
  }

  /**
   * Keys of the whole blocks of a prompt, in order: the cache's content keys if it has any, else the chain. Throws
   * INVALID_ARGUMENT, INVALID_TOKEN, TOO_LONG, OUT_OF_SCOPES, and UNSUPPORTED for marks in a cache without `marks`.
   */
  keys(tokens: ArrayLike<number>, options: PrefixOptions = {}): Uint8Array[] {
    return this.#keys(this.#prompt(tokens, options));
  }

  #keys({ tokens, namespace = 0, ...options }: Prompt): Uint8Array[] {
    const { blockSize, maxSequenceTokens, content } = this.#cache;
    if (content !== undefined) {
      const all = content.ofPrompt(tokens.subarray(0, maxSequenceTokens), namespace, options);
      return Array.from({ length: all.length / KEY_BYTES }, (_, i) =>
        all.subarray(i * KEY_BYTES, (i + 1) * KEY_BYTES),
      );
    }
    const marks = marksOf(options, maxSequenceTokens);
    let parent = digest(this.#model, Uint32Array.of(namespace));
    const keys: Uint8Array[] = [];
    for (let at = 0; at + blockSize <= tokens.length; at += blockSize) {
      const end = at + blockSize;
      parent = digest(parent, tokens.subarray(at, end), markExtras(marks, at, end));
      keys.push(parent);
    }
    return keys;
  }

  /** What was asked for, checked. */
  #prompt(tokens: ArrayLike<number>, options: PrefixOptions): Prompt {
    if (typeof options !== "object" || options === null)
      throw invalidArgument("options", options, "an object");
    const { namespace = 0, tenant = 0, ranges, adapter, items } = options;
    requireInteger("namespace", namespace, 0, 2 ** 31 - 2);
    requireInteger("tenant", tenant, 0, Math.max(this.#cache.tenants, 1) - 1);
    requireTokenIds("tokens", tokens, 2 ** 24);
    return { tokens: Uint32Array.from(tokens), namespace, tenant, ranges, adapter, items };
  }

  /** Blocks that were not stored because they had not been saved before. */
  get turnedAway(): number {
    return this.#turnedAway;
  }

  /**
   * Stores the cached whole blocks of `tokens` that the tier does not have and `admission` lets in; returns how many that
   * was, those of the cache's groups counted too.
   */
  async save(tokens: ArrayLike<number>, options: PrefixOptions = {}): Promise<number> {
    const prompt = this.#prompt(tokens, options);
    const blocks = new PromptBlocks(this.#groups, this.#keys(prompt));
    const wanted = await this.#missing(blocks);
    if (wanted.length === 0) return 0;
    const { tenant } = prompt;
    const fingerprint = this.#fingerprint;
    let stored = 0;
    for (const [{ key, parent, group }, payload] of await this.#engine.between(() =>
      this.#copies.read(prompt, blocks, wanted),
    ))
      if (await this.tier.put(key, payload, { parent, group, tenant, fingerprint })) stored += 1;
    return stored;
  }

  /**
   * Makes the prompt's stored prefix cached, as far as it is there, right, and worth it; returns how many tokens were
   * loaded. When the blocks cannot be had nothing is loaded.
   */
  async load(tokens: ArrayLike<number>, options: PrefixOptions = {}): Promise<number> {
    const { blockSize, blockBytes } = this.#shape;
    const prompt = this.#prompt(tokens, options);
    const cached = this.#cache.match(prompt.tokens, prompt.namespace, prompt);
    const keys = this.#keys(prompt).slice(0, Math.floor((tokens.length - 1) / blockSize));
    const blocks = new PromptBlocks(this.#groups, keys);
    const from = cached - (cached % blocks.unit);
    const found = (await this.tier.match(keys)) * blockSize;
    let end = await blocks.fitting(this.tier, from, found);
    end = await blocks.fitting(this.tier, from, this.#worthLoading(tokens.length, blocks, from, end));
    const payloads = new Map<Uint8Array, Uint8Array>();
    const started = performance.now();
    let first: number | undefined;
    while (end > from) {
      const bad = await this.#fetch(blocks.between(from, end), payloads, () => (first ??= performance.now()));
      if (bad === undefined) break;
      if (bad.group > 0) blocks.isBad(bad.key);
      else end = bad.index * blockSize;
      end = await blocks.fitting(this.tier, from, end);
    }
    if (end <= from) return 0;
    const bytes = (payloads.size - 1) * blockBytes;
    const now = performance.now();
    this.link.finished(bytes, ((first ?? now) - started) * 1000, (now - (first ?? now)) * 1000);
    return this.#engine.between(() =>
      this.#copies.install(prompt, blocks, from, end, ({ key }) => payloads.get(key)!),
    );
  }

  /** Reads blocks that have not been read; returns the first that the tier has no right copy of. */
  async #fetch(
    blocks: readonly PromptBlock[],
    payloads: Map<Uint8Array, Uint8Array>,
    arrived: () => void,
  ): Promise<PromptBlock | undefined> {
    for (const block of blocks) {
      if (payloads.has(block.key)) continue;
      const stored = await this.tier.get(block.key);
      arrived();
      if (stored === undefined || stored.lossy || stored.fingerprint !== this.#fingerprint) return block;
      if (stored.payload.length !== this.#shape.blockBytes) return block;
      payloads.set(block.key, stored.payload);
    }
    return undefined;
  }

  /** Blocks that the tier does not have and may have, each behind those that it stands on. */
  async #missing(blocks: PromptBlocks): Promise<PromptBlock[]> {
    const from = await this.tier.match(blocks.keys);
    const to = this.#admitted(blocks.keys, from);
    const missing: PromptBlock[] = Array.from({ length: to - from }, (_, i) => blocks.at(0, from + i));
    for (let group = 1; group < this.#groups.length; group++) {
      const all = Array.from({ length: blocks.count(group, to) }, (_, i) => blocks.at(group, i));
      const there = await present(
        this.tier,
        all.map(({ key }) => key),
      );
      missing.push(...all.filter((_, i) => !there[i]));
    }
    return missing;
  }

  /** Leading blocks that may be stored, of which `stored` are. */
  #admitted(keys: readonly Uint8Array[], stored: number): number {
    if (this.#seen === undefined) return keys.length;
    let to = stored;
    for (const [i, key] of keys.entries()) if (this.#seen.meet(key) && i === to) to += 1;
    this.#turnedAway += keys.length - to;
    return to;
  }

  /** Where to end between `from` and `end` so that loading takes less time than computing. */
  #worthLoading(promptTokens: number, blocks: PromptBlocks, from: number, end: number): number {
    if (end <= from) return from;
    const { blockBytes } = this.#shape;
    const { minLoadTokens, recomputeUs } = this.#options;
    const tokens = end - from;
    const plan = planLoad({
      runs: [{ tokens, bytes: blocks.between(from, end).length * blockBytes, tier: "tier" }],
      links: new Map([["tier", this.link]]),
      promptTokens: promptTokens - from,
      recomputeUs: (behind) =>
        recomputeUs === undefined
          ? behind < tokens
            ? Infinity
            : 0
          : recomputeUs(promptTokens, from + behind),
      granularity: blocks.unit,
      minLoadTokens,
    });
    return from + plan.split;
  }
}

/**
 * KvCache: block pool, prefix index and block tables of one core.
 *
 *   open(tokens)      a sequence on the longest cached prefix
 *   reserve(n)        slots for n more tokens (and a private copy of a shared, partly filled last block)
 *   ... the host computes K and V of those tokens into the slots ...
 *   append(tokens)    records them; full blocks become reusable by others
 *   truncate, fork, close
 *
 * Paged KV blocks: "Efficient Memory Management for Large Language Model Serving with PagedAttention"
 * (arXiv 2309.06180).
 *
 * One file, longer than others: a method for each call on one structure of the core; options and shapes are beside it.
 */
import { type BlockOrderKind, blockOrderShape, ORDER_KINDS, ADVICE_KINDS } from "./block-order.js";
import { BlockRuns, blockRunShape } from "./block-runs.js";
import {
  cachedTwins,
  type CacheGroup,
  type CacheGroupStats,
  groupShapes,
  readGroups,
} from "./cache-groups.js";
import { ContentKeys, contentKeyShape } from "./content-keys.js";
import type { Core } from "./core.js";
import { invalidArgument, QuartermasterError, requireInteger, requireObject, statusError } from "./errors.js";
import { KvEvents, kvEventShape, type KvReaderOptions } from "./kv-events.js";
import { accountOf, quotaShape, requireQuotas } from "./kv-cache-add-ons.js";
import { TRANSFER_WORDS } from "./plan.js";
import { type PrefixProbe, probePrefix } from "./prefix-probe.js";
import { type PinId, type PinOptions, pinRoom, pinShape } from "./kv-pins.js";
import { type PromptMarks, withMarks } from "./prompt-marks.js";
import { requireTokenIds } from "./token-ids.js";
import {
  type BlockId,
  type SequenceId,
  type KvCacheOptions,
  type KvCacheShape,
  type OpenOptions,
  type TenantAccount,
  type TenantQuota,
  type RetentionTerms,
  type KvCacheStats,
} from "./kv-cache-options.js";

function requireTime(argument: string, us: number | undefined): number {
  if (us === undefined) return Infinity;
  if (typeof us !== "number" || !(us >= 0))
    throw new QuartermasterError("INVALID_TIME", `${argument} is ${String(us)}; allowed: a number >= 0`, {
      argument,
      value: us,
      range: "a number >= 0",
    });
  return us;
}

const DEFAULT_PRIORITY = 35;
const PRIVATE = 1;
const LOSSY = 4;
/** Words of an account that a host reads (docs/abi.md). */
const ACCOUNT_WORDS = 15;
const MAX_NAMESPACE = 2 ** 31 - 2;
const MAX_BLOCKS_OF_A_SEQUENCE = 2 ** 24;

/** Word offsets in the KvCache header (docs/abi.md). */
const Header = {
  blockCount: 0,
  blockSize: 1,
  maxSequences: 3,
  maxSequenceTokens: 4,
  freeCount: 22,
  evictableCount: 25,
  cachedCount: 26,
  openSequences: 29,
  queriedTokens: 30,
  hitTokens: 32,
  evictions: 34,
  duplicates: 36,
  staged: 42,
  stagedSequence: 43,
  stagedCount: 44,
  stagedFresh: 45,
} as const;
const HEADER_WORDS = 46;

export class KvCache {
  readonly core: Core;
  /** Address of the structure in core memory. */
  readonly pointer: number;
  readonly blocks: number;
  readonly blockSize: number;
  readonly maxSequences: number;
  readonly maxSequenceTokens: number;
  /** Whether `probe` can be called. */
  readonly sharedProbe: boolean;
  /** Groups beside its own tables, which are group 0. */
  readonly groups: readonly CacheGroup[];
  /** What its eviction order goes by. */
  readonly evictionOrder: BlockOrderKind;
  /** Its content keys, if it was made with `contentKeys`. */
  readonly content: ContentKeys | undefined;
  /** Its runs of blocks, if it was made with `blockRuns`. */
  readonly runs: BlockRuns | undefined;
  /** Tenants with accounts, 0: none. */
  readonly tenants: number;

  /** Made by `core.kvCache(...)`. */
  constructor(core: Core, pointer: number) {
    this.core = core;
    this.pointer = pointer;
    const header = this.#header();
    this.blocks = header[Header.blockCount];
    this.blockSize = header[Header.blockSize];
    this.maxSequences = header[Header.maxSequences];
    this.maxSequenceTokens = header[Header.maxSequenceTokens];
    this.sharedProbe = core.exports.kvCacheProbeIndex(pointer) !== 0;
    this.groups = readGroups(core, pointer).map(({ kind, window, blockSize }) => ({
      kind,
      window,
      blockSize,
    }));
    this.tenants = core.exports.kvTenants(pointer);
    this.evictionOrder = ORDER_KINDS[core.exports.kvOrderKind(pointer)];
    this.runs = core.exports.kvRuns(pointer) === 0 ? undefined : new BlockRuns(this);
    this.content = core.exports.kvContent(pointer) === 0 ? undefined : new ContentKeys(this);
  }

  /** Checks options and fills in defaults. */
  static shape(options: KvCacheOptions): KvCacheShape {
    if (typeof options !== "object" || options === null)
      throw invalidArgument("options", options, "an object");
    const blocks = requireInteger("blocks", options.blocks, 1, 2 ** 27);
    const tenants = requireInteger("tenants", options.tenants ?? 0, 0, 2 ** 16);
    const shape = {
      blocks,
      blockSize: requireInteger("blockSize", options.blockSize ?? 16, 1, 256),
      maxSequences: requireInteger("maxSequences", options.maxSequences ?? 1024, 1, 2 ** 20),
      maxSequenceTokens: requireInteger("maxSequenceTokens", options.maxSequenceTokens ?? 8192, 1, 2 ** 24),
      prefixCache: options.prefixCache ?? true,
      keyBits: requireInteger("keyBits", options.keyBits ?? 64, 0, 64),
      sharedProbe: options.sharedProbe ?? false,
      evictionOrder: blockOrderShape(options.evictionOrder, blocks),
      partialReuse: requireInteger("partialReuse", options.partialReuse ?? 0, 0, options.blockSize ?? 16),
      groups: groupShapes(options.groups ?? [], options.blockSize ?? 16),
      tenants,
      marks: requireInteger("marks", options.marks ?? 0, 0, 2 ** 24),
      pins: pinRoom(options.pins),
      blockRuns: blockRunShape(options.blockRuns, blocks),
      quotas: requireQuotas(options.quotas ?? [], tenants, blocks),
      retainBlocks: requireInteger("retainBlocks", options.retainBlocks ?? blocks, 0, blocks),
      contentKeys: contentKeyShape(options.contentKeys),
      events: kvEventShape(options.events, options.contentKeys !== undefined),
    };
    if ((shape.blockSize & (shape.blockSize - 1)) !== 0) {
      throw invalidArgument("blockSize", shape.blockSize, "a power of two from 1 to 256");
    }
    if (shape.blockRuns !== undefined && (shape.groups.length > 0 || blocks > 2 ** 24))
      throw invalidArgument(
        "blockRuns",
        options.blockRuns,
        "none for a cache with groups or over 2^24 blocks",
      );
    if (shape.partialReuse > 0 && shape.groups.length > 0)
      throw invalidArgument("partialReuse", shape.partialReuse, "0 for a cache with groups");
    if (shape.partialReuse > 0 && !shape.prefixCache)
      throw invalidArgument("partialReuse", shape.partialReuse, "0 when prefixCache is false");
    if (shape.sharedProbe && !shape.prefixCache)
      throw invalidArgument("sharedProbe", true, "false when prefixCache is false");
    return shape;
  }

  /**
   * Opens a sequence on the longest cached prefix of `tokens` (whole blocks, unless the cache has `partialReuse`; the
   * last token is always left to compute). Throws OUT_OF_SEQUENCES, TOO_LONG.
   */
  open(options: OpenOptions): SequenceId {
    requireObject("options", options);
    const namespace = requireInteger("namespace", options.namespace ?? 0, 0, MAX_NAMESPACE);
    const tenant = requireInteger("tenant", options.tenant ?? 0, 0, Math.max(this.tenants, 1) - 1);
    const count = this.writeInput("tokens", options.tokens);
    const flags = (options.private ? PRIVATE : 0) | (options.lossy ? LOSSY : 0);
    const { exports } = this.core;
    return withMarks(this, options, (marks) =>
      this.core.call(() => exports.kvOpenAs(this.pointer, namespace, count, flags, tenant, marks), "open"),
    );
  }

  /**
   * Pins the sequence's cached prefix: its full blocks so far stay when nobody holds them. Returns a handle for `unpin`.
   * Throws UNKNOWN_SEQUENCE, NOT_FOUND when it has no cached block, PIN_LIMIT when hard pins would keep more than their
   * share or there are too many pins, INVALID_TIME, UNSUPPORTED for a cache without `pins`; then nothing has changed.
   */
  pin(sequence: SequenceId, options: PinOptions = {}): PinId {
    if (this.core.exports.kvPinFigure(this.pointer, 4) === 0)
      throw new QuartermasterError("UNSUPPORTED", "pin: the cache was created without `pins`");
    const { hard, priority, us } = pinShape(options, "untilUs");
    return this.#onSequence("pin", sequence, (kv) =>
      this.core.exports.kvPin(kv, sequence, hard, priority, us),
    );
  }

  /** Ends a pin. Throws NOT_FOUND when it has ended: it was unpinned, its time came, or it gave way. */
  unpin(pin: PinId): void {
    requireInteger("pin", pin, 0, 0x7fffffff);
    this.core.call(() => this.core.exports.kvUnpin(this.pointer, pin), `unpin(pin ${pin})`);
  }

  /** Blocks kept by hard pins, blocks kept by nothing but soft ones, pins, and soft pins that gave way since creation. */
  pinned(): {
    readonly hard: number;
    readonly soft: number;
    readonly pins: number;
    readonly gaveWay: number;
  } {
    const figure = (index: number): number => this.core.exports.kvPinFigure(this.pointer, index);
    return { hard: figure(0), soft: figure(1), pins: figure(2), gaveWay: figure(3) };
  }

  /**
   * Changes what a tenant may have. What it has above a lower ceiling and does not hold is forgotten. Throws
   * INVALID_ARGUMENT, also when the floors do not fit the pool together.
   */
  setQuota(quota: TenantQuota): void {
    const account = this.#account(quota?.tenant);
    const { floor, watermark, ceiling } = quotaShape(quota, this.blocks);
    const { exports } = this.core;
    this.core.call(() => exports.kvSetQuota(this.pointer, account, floor, watermark, ceiling), "setQuota");
  }

  /** What a tenant, or several in common, may have and has. Throws INVALID_ARGUMENT. */
  account(tenant: number | "common"): TenantAccount {
    const pointer = this.core.exports.kvAccount(this.pointer, this.#account(tenant)) >>> 0;
    const words = new Uint32Array(this.core.memory.buffer, pointer, ACCOUNT_WORDS);
    const wide = (word: number): number => words[word] + words[word + 1] * 2 ** 32;
    const [floor, watermark, ceiling, used, evictable] = words;
    const counts = { evictedOwn: wide(9), evictedByOthers: wide(11), refused: wide(13) };
    return { floor, watermark, ceiling, used, evictable, ...counts };
  }

  /** Blocks that a tenant could take now, its ceiling apart: `available` less what others' floors keep. */
  availableTo(tenant: number | "common"): number {
    return this.core.exports.kvTenantAvailable(this.pointer, this.#account(tenant));
  }

  /** Tokens that `open` would find cached now. Changes nothing. */
  match(tokens: ArrayLike<number>, namespace = 0, marks: PromptMarks = {}): number {
    requireInteger("namespace", namespace, 0, MAX_NAMESPACE);
    const count = this.writeInput("tokens", tokens);
    const { exports } = this.core;
    return withMarks(this, marks, (list) =>
      this.core.call(() => exports.kvMatchAs(this.pointer, namespace, count, list), "match"),
    );
  }

  /**
   * As `match`, and from any thread attached to the core, while the engine thread changes the cache: tokens that
   * were cached at one moment during the call. A hint: nothing is referenced, the blocks may be evicted before a
   * request gets there. Throws UNSUPPORTED for a cache without `sharedProbe`, TOO_LONG.
   */
  probe(tokens: ArrayLike<number>, namespace = 0): PrefixProbe {
    return probePrefix(this, tokens, namespace);
  }

  /**
   * Makes room for `count` tokens behind the sequence's length, all or nothing; returns how many blocks were
   * added. When the last block is shared and partly filled the sequence gets a copy of its own: see `copies`.
   * Throws OUT_OF_BLOCKS, QUOTA_EXCEEDED, TOO_LONG, UNKNOWN_SEQUENCE, and LANES_SHARED for a lossy sequence whose next token would be
   * written to a shared block (`CoreLanes.unshare`).
   */
  reserve(sequence: SequenceId, count: number): number {
    requireInteger("count", count, 0, this.maxSequenceTokens);
    return this.#onSequence("reserve", sequence, (kv) => this.core.exports.kvReserve(kv, sequence, count));
  }

  /**
   * Records tokens whose K and V have been written to the slots behind the sequence's length.
   * Throws NOT_RESERVED, COPIES_PENDING (settle the copies first), UNKNOWN_SEQUENCE.
   */
  append(sequence: SequenceId, tokens: ArrayLike<number>): void {
    const count = this.writeInput("tokens", tokens);
    this.#onSequence("append", sequence, (kv) => this.core.exports.kvAppend(kv, sequence, count));
  }

  /**
   * As `append`, for tokens whose blocks were copied from elsewhere, in one call or more: of the cache's groups only what the
   * next token of a sequence of `whole` tokens needs has been written. What its windows have left behind by then is not
   * cached. Close the sequence, or go on until it has `whole` tokens.
   */
  appendLoaded(sequence: SequenceId, tokens: ArrayLike<number>, whole: number): void {
    const count = requireTokenIds("tokens", tokens, this.maxSequenceTokens);
    requireInteger("whole", whole, this.length(sequence) + count, this.maxSequenceTokens);
    this.writeInput("tokens", tokens);
    this.#onSequence("appendLoaded", sequence, (kv) =>
      this.core.exports.kvAppendLoaded(kv, sequence, count, whole),
    );
  }

  /**
   * Drops the tokens from `length` on, and the blocks only they needed. Returns the length that is left: with groups it
   * may be less, as far back as a window's tokens or a recurrent state are still there for. Throws UNKNOWN_SEQUENCE,
   * INVALID_ARGUMENT, LOSSY_SEQUENCE.
   */
  truncate(sequence: SequenceId, length: number): number {
    const current = this.length(sequence);
    requireInteger("length", length, 0, current);
    this.#onSequence("truncate", sequence, (kv) => this.core.exports.kvTruncate(kv, sequence, length));
    return this.length(sequence);
  }

  /**
   * A second sequence over the same tokens. Nothing is copied until one of the two writes. Throws
   * OUT_OF_SEQUENCES.
   */
  fork(sequence: SequenceId): SequenceId {
    return this.#onSequence("fork", sequence, (kv) => this.core.exports.kvFork(kv, sequence));
  }

  /** Ends a sequence; its full blocks stay cached until their room is needed. Throws UNKNOWN_SEQUENCE. */
  close(sequence: SequenceId): void {
    this.#onSequence("close", sequence, (kv) => this.core.exports.kvClose(kv, sequence));
  }

  /** Tokens of the sequence whose K and V exist. Throws UNKNOWN_SEQUENCE. */
  length(sequence: SequenceId): number {
    const length = this.core.exports.kvLength(this.pointer, this.#handle(sequence));
    if (length < 0) throw this.#unknown(sequence);
    return length;
  }

  /**
   * Slots of the sequence's longest lane: its length, unless it is lossy and has dropped tokens. Throws
   * UNKNOWN_SEQUENCE.
   */
  slots(sequence: SequenceId): number {
    const slots = this.core.exports.kvSlots(this.pointer, this.#handle(sequence));
    if (slots < 0) throw this.#unknown(sequence);
    return slots;
  }

  /** Whether a compaction of one of its sequences is planned. */
  get compacting(): boolean {
    return this.#header()[Header.stagedSequence] !== 0;
  }

  /** Table entries of the planned compaction's sequence before and after it, and fresh blocks among the latter. */
  planned(): { readonly before: number; readonly after: number; readonly fresh: number } {
    const header = this.#header();
    const before = this.core.exports.kvTableCount(this.pointer, header[Header.stagedSequence]);
    return { before, after: header[Header.stagedCount], fresh: header[Header.stagedFresh] };
  }

  /** Table of the planned compaction: a view, valid until it is committed. */
  plannedTable(): Uint32Array {
    const header = this.#header();
    return new Uint32Array(this.core.memory.buffer, header[Header.staged], header[Header.stagedCount]);
  }

  /** The sequence's block ids, in order: a view, valid until the sequence changes or the memory grows. */
  blockTable(sequence: SequenceId): Uint32Array {
    const { exports, memory } = this.core;
    const count = exports.kvTableCount(this.pointer, this.#handle(sequence));
    if (count < 0) throw this.#unknown(sequence);
    return new Uint32Array(memory.buffer, exports.kvTable(this.pointer, sequence) >>> 0, count);
  }

  /**
   * The sequence's block ids in a group, 1 for the first of `groups`: NO_BLOCK where a window has let go. A view, as
   * `blockTable`.
   */
  groupTable(sequence: SequenceId, group: number): Uint32Array {
    const { exports, memory } = this.core;
    requireInteger("group", group, 1, this.groups.length);
    const count = exports.kvGroupTableCount(this.pointer, this.#handle(sequence), group - 1);
    if (count < 0) throw this.#unknown(sequence);
    return new Uint32Array(
      memory.buffer,
      exports.kvGroupTable(this.pointer, sequence, group - 1) >>> 0,
      count,
    );
  }

  /**
   * Blocks of a group, 1 for the first of `groups`, that are cached along the sequence's cached prefix, one for each whole
   * block of its length: also those that a window has left behind, which the sequence does not hold; NO_BLOCK where there is
   * none. A copy.
   */
  groupCached(sequence: SequenceId, group: number): Uint32Array {
    requireInteger("group", group, 1, this.groups.length);
    return cachedTwins(this, group - 1, this.blockTable(sequence), this.length(sequence));
  }

  /** Figures of `groups`. */
  groupStats(): CacheGroupStats[] {
    return readGroups(this.core, this.pointer).map(
      ({ stride: _, tables: __, twins: ___, ...stats }) => stats,
    );
  }

  /**
   * Pending copies of shared blocks, [n][8] u32: op 0 (in a group: the group times 256), source tier, source block, target tier, target block,
   * tokens, mark, sequence. Run them before writing to the sequences, then call `settleCopies`. A view until
   * the next call.
   */
  copies(): Uint32Array {
    const { exports, memory } = this.core;
    const count = exports.kvCopyCount(this.pointer);
    return new Uint32Array(memory.buffer, exports.kvCopies(this.pointer) >>> 0, count * TRANSFER_WORDS);
  }

  /** The pending copies have been run. */
  settleCopies(): void {
    this.#run((kv) => this.core.exports.kvSettleCopies(kv), "settleCopies");
  }

  /** The pending copies have not been run: sequences get their shared blocks back. */
  revertCopies(): void {
    this.#run((kv) => this.core.exports.kvRevertCopies(kv), "revertCopies");
  }

  /**
   * Order "scored": gives the sequence's blocks from table entry `from` on a score each, for when nobody holds them:
   * any number but NaN, the lowest goes first. Returns how many blocks there were to score: those that are cached.
   * A block starts with 0. Throws UNKNOWN_SEQUENCE, UNSUPPORTED under another order.
   */
  score(sequence: SequenceId, scores: ArrayLike<number>, from = 0): number {
    if (this.evictionOrder !== "scored")
      throw new QuartermasterError(
        "UNSUPPORTED",
        `scores need evictionOrder "scored", not "${this.evictionOrder}"`,
      );
    this.length(sequence);
    requireInteger("from", from, 0, MAX_BLOCKS_OF_A_SEQUENCE);
    for (let i = 0; i < scores.length; i++) {
      if (typeof scores[i] !== "number" || Number.isNaN(scores[i]))
        throw invalidArgument(`scores[${i}]`, scores[i], "a number");
    }
    const room = this.core.scratchBytes >> 3;
    let scored = 0;
    for (let at = 0; at < scores.length; at += room) {
      const count = Math.min(room, scores.length - at);
      const address = this.core.scratch(count * 8);
      const values = new Float64Array(this.core.memory.buffer, address, count);
      for (let i = 0; i < count; i++) values[i] = scores[at + i];
      scored += this.#onSequence("score", sequence, (kv) =>
        this.core.exports.kvScore(kv, sequence, from + at, count, address),
      );
    }
    return scored;
  }

  /**
   * Orders by advice: whether the sequence's cached blocks will be worth keeping once nobody holds them, until their next
   * use: "discard" when its session has ended, "keep" while a tool call is pending. Returns how many blocks there were.
   * Throws UNKNOWN_SEQUENCE, UNSUPPORTED under another order.
   */
  advise(sequence: SequenceId, advice: "keep" | "discard"): number {
    if (!ADVICE_KINDS.includes(this.evictionOrder))
      throw new QuartermasterError(
        "UNSUPPORTED",
        `advice needs an evictionOrder of ${ADVICE_KINDS.join(", ")}, not "${this.evictionOrder}"`,
      );
    if (advice !== "keep" && advice !== "discard")
      throw invalidArgument("advice", advice, '"keep" or "discard"');
    this.length(sequence);
    const discard = advice === "discard" ? 1 : 0;
    return this.#onSequence("advise", sequence, (kv) => this.core.exports.kvAdvise(kv, sequence, discard));
  }

  /**
   * Order "priority": how the sequence's cached blocks rank once nobody holds them. Returns how many blocks there were.
   * Nothing changes with time but in `advance`. Throws UNKNOWN_SEQUENCE, INVALID_TIME, UNSUPPORTED under another order.
   */
  prioritize(sequence: SequenceId, terms: RetentionTerms): number {
    if (this.evictionOrder !== "priority")
      throw new QuartermasterError(
        "UNSUPPORTED",
        `priorities need evictionOrder "priority", not "${this.evictionOrder}"`,
      );
    if (typeof terms !== "object" || terms === null) throw invalidArgument("terms", terms, "an object");
    const priority = requireInteger("priority", terms.priority ?? DEFAULT_PRIORITY, 0, 100);
    const priorityUntilUs = requireTime("priorityUntilUs", terms.priorityUntilUs);
    const liveUntilUs = requireTime("liveUntilUs", terms.liveUntilUs);
    this.length(sequence);
    return this.#onSequence("prioritize", sequence, (kv) =>
      this.core.exports.kvPrioritize(kv, sequence, priority, priorityUntilUs, liveUntilUs),
    );
  }

  /**
   * The clock has come to `nowUs` (microseconds, finite, >= 0): pins end and, under order "priority", priorities fall back
   * and times to live pass. Returns the next time at which something changes, or Infinity.
   */
  advance(nowUs: number): number {
    if (typeof nowUs !== "number" || !(nowUs >= 0 && nowUs < Infinity))
      throw new QuartermasterError(
        "INVALID_TIME",
        `nowUs is ${String(nowUs)}; allowed: a finite number >= 0`,
        {
          argument: "nowUs",
          value: nowUs,
          range: "a finite number >= 0",
        },
      );
    this.core.call(() => this.core.exports.kvAdvance(this.pointer, nowUs), "advance");
    return this.core.exports.kvNextDeadlineUs(this.pointer);
  }

  /**
   * Names of the sequence's cached blocks for the outside, [n][32] bytes, from table entry `from` on. Throws
   * UNKNOWN_SEQUENCE, UNSUPPORTED for a cache without `contentKeys`.
   */
  contentKeys(sequence: SequenceId, from = 0): Uint8Array {
    if (!this.content)
      throw new QuartermasterError("UNSUPPORTED", "contentKeys: the cache was created without contentKeys");
    return this.content.ofSequence(sequence, from);
  }

  /**
   * A reader of what enters and leaves the cache, beginning a new epoch; the one before it has had its day. Throws
   * UNSUPPORTED for a cache without `events`.
   */
  events(options: KvReaderOptions = {}): KvEvents {
    return new KvEvents(this, options);
  }

  /** Forgets every cached block that no sequence holds; returns how many. */
  forget(): number {
    return this.core.call(() => this.core.exports.kvForget(this.pointer), "forget");
  }

  /** Open sequences (and pending copies) that hold a block. */
  references(block: BlockId): number {
    requireInteger("block", block, 0, this.blocks - 1);
    return this.core.call(() => this.core.exports.kvReferences(this.pointer, block), "references");
  }

  /** Blocks that can be taken without preempting anybody: free and evictable. */
  get available(): number {
    return this.core.exports.kvAvailable(this.pointer);
  }

  stats(): KvCacheStats {
    const header = this.#header();
    const wide = (word: number): number => header[word] + header[word + 1] * 2 ** 32;
    return {
      blocks: this.blocks,
      free: header[Header.freeCount],
      evictable: header[Header.evictableCount],
      cached: header[Header.cachedCount],
      openSequences: header[Header.openSequences],
      queriedTokens: wide(Header.queriedTokens),
      hitTokens: wide(Header.hitTokens),
      copiedTokens: this.core.exports.kvCopiedTokens(this.pointer),
      evictions: wide(Header.evictions),
      duplicates: wide(Header.duplicates),
    };
  }

  /** Full check, O(blocks); throws CORRUPT. */
  validate(): void {
    this.core.call(() => this.core.exports.kvValidateCache(this.pointer), "kvCache");
  }

  /**
   * Copies token ids to the input region; returns how many. Checks each when they are not in a Uint32Array.
   */
  writeInput(argument: string, tokens: ArrayLike<number>): number {
    const count = requireTokenIds(argument, tokens, this.maxSequenceTokens);
    const input = this.core.exports.kvInput(this.pointer) >>> 0;
    new Uint32Array(this.core.memory.buffer, input, count).set(tokens);
    return count;
  }

  #account(tenant: number | "common"): number {
    if (this.tenants === 0)
      throw new QuartermasterError("UNSUPPORTED", "accounts need a cache with `tenants`");
    return accountOf(tenant, this.tenants);
  }

  #header(): Uint32Array {
    return new Uint32Array(this.core.memory.buffer, this.pointer, HEADER_WORDS);
  }

  #handle(sequence: SequenceId): number {
    this.core.requireUsable();
    if (!Number.isInteger(sequence) || sequence < 0 || sequence > 0x7fffffff) {
      throw invalidArgument("sequence", sequence, "a sequence from open or fork");
    }
    return sequence;
  }

  #unknown(sequence: SequenceId): QuartermasterError {
    return statusError(-7, `sequence ${sequence} is not open`, {
      argument: "sequence",
      value: sequence,
      range: "an open sequence",
    });
  }

  #onSequence(what: string, sequence: SequenceId, run: (kv: number) => number): number {
    this.#handle(sequence);
    return this.core.call(() => run(this.pointer), `${what}(sequence ${sequence})`, ["sequence", sequence]);
  }

  #run(run: (kv: number) => void, what: string): void {
    this.core.call(() => {
      run(this.pointer);
      return 0;
    }, what);
  }
}

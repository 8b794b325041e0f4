/**
 * KV events: what has entered and left a cache, for routers and other tiers that keep a picture of it.
 *
 * A batch is what happened between two reads. Applied in the order of their numbers they give the cached blocks as they
 * were at the last read. A batch with a gap ends that: the ring in the core was full, so take a snapshot. Every reader is an
 * epoch of its own; when the epoch changes (a restart, a restored core), forget the picture and take a snapshot.
 */
import { parentReader, ROOT } from "./block-records.js";
import type { CacheGroup } from "./cache-groups.js";
import type { ContentScope } from "./content-keys.js";
import { invalidArgument, QuartermasterError, requireInteger, requireList, requireObject } from "./errors.js";
import type { KvCache } from "./kv-cache.js";
import { type BlockMarks, marksOfBlocks } from "./kv-event-marks.js";
import { DIGEST_BYTES, requireBytes } from "./keyed-hash.js";

/** Where the data of an event lies. Any text may name a tier; these are the ones that other engines know. */
export type KvMedium = "GPU" | "CPU" | "STORAGE" | "REMOTE" | (string & {});

export interface KvStored {
  readonly type: "stored";
  /** Content keys of blocks one behind the other, 32 bytes each. */
  readonly keys: readonly Uint8Array[];
  /** Key of the block before the first of them; null when it begins a prompt. */
  readonly parentKey: Uint8Array | null;
  /** Tokens of the blocks, one behind the other; empty when the tier does not know them. */
  readonly tokenIds: Uint32Array;
  /** Tokens a block. */
  readonly blockTokens: number;
  /** Namespace of the prefix, and what it stands for outside if that was said with `cache.content.scope`. */
  readonly namespace: number;
  readonly scope?: ContentScope;
  /** Of each block, what it depends on besides its tokens; undefined when no block depends on anything else. */
  readonly marks?: readonly (BlockMarks | null)[];
  readonly medium: KvMedium;
  /** Group of the cache's layers: `events.group` for its own tables, one more for each of its `groups`. */
  readonly group: number;
  /** What the group is, of a cache with `groups`. */
  readonly layers?: Pick<CacheGroup, "kind" | "window">;
}

export interface KvRemoved {
  readonly type: "removed";
  readonly keys: readonly Uint8Array[];
  readonly medium: KvMedium;
  readonly group: number;
}

export type KvEvent =
  | KvStored
  | KvRemoved
  /** Nothing is left in this tier and group. */
  | { readonly type: "cleared"; readonly medium: KvMedium; readonly group: number }
  /** What happened before this batch, from batch `fromSeq` on, is not known: take a snapshot. */
  | { readonly type: "gap"; readonly fromSeq: number }
  /** The stored blocks up to the end are all there are, each behind its ancestors. */
  | { readonly type: "snapshot-begin" }
  /** The snapshot has what happened up to batch `seq`, this one included; -1: before all of them. */
  | { readonly type: "snapshot-end"; readonly seq: number };

export interface KvEventBatch {
  /** Whose events these are. */
  readonly instance: string;
  /** Grows with each reader of an instance. */
  readonly epoch: number;
  /** Number in the epoch, from 0, one more for each batch; -1 for a snapshot, which is out of the sequence. */
  readonly seq: number;
  /** Seconds since 1970, or what the caller of `read` gave. */
  readonly ts: number;
  readonly dataParallelRank?: number;
  readonly events: readonly KvEvent[];
}

/** Options of a cache that has events. */
export interface KvEventOptions {
  /** Events that the core keeps between two reads, 1 to 2^26, 40 bytes each, and 4 bytes a block. Default 8192. */
  ring?: number;
  /** Group of the cache's layers in every event, 0 to 65535; its `groups` have the numbers behind it. Default 0. */
  group?: number;
}

/** Options of a reader. */
export interface KvReaderOptions {
  /** Name of this cache among those that a consumer listens to. Default "quartermaster". */
  instance?: string;
  /** Larger than that of every earlier reader of the instance. Default: microseconds since 1970. */
  epoch?: number;
  dataParallelRank?: number;
  /** Tier of the cache's blocks. Default "GPU". */
  medium?: KvMedium;
}

/** What another tier says of its blocks; its group and tokens may be left out. */
export type TierEvent =
  | {
      type: "stored";
      keys: readonly Uint8Array[];
      parentKey: Uint8Array | null;
      tokenIds?: Uint32Array;
      medium: KvMedium;
      group?: number;
    }
  | { type: "removed"; keys: readonly Uint8Array[]; medium: KvMedium; group?: number }
  | { type: "cleared"; medium: KvMedium; group?: number };

/** Words of a record (docs/abi.md). */
const EVENT_BYTES = 96;
const EVENT_WORDS = EVENT_BYTES / 4;
const Word = { block: 1, parent: 2, namespace: 3, group: 6, marks: 7 } as const;
const KEY_AT = 32;
const PARENT_KEY_AT = 64;
const STORED = 1;
const REMOVED = 2;
const CLEARED = 3;
/** Words of the events' header and of the cache's (docs/abi.md). */
const GROUP_WORD = 7;
const HEADER_TOKENS = 14;

/** Events of other tiers that are kept between two reads. */
const MOST_TOLD = 65_536;

let latestEpoch = 0;

/** Microseconds since 1970, and more than the last one. */
function nextEpoch(): number {
  latestEpoch = Math.max(latestEpoch + 1, Math.floor(Date.now() * 1000));
  return latestEpoch;
}

/** Checks options and fills in defaults. */
export function kvEventShape(
  options: KvEventOptions | true | undefined,
  contentKeys: boolean,
): Required<KvEventOptions> | undefined {
  if (options === undefined) return undefined;
  const { ring, group } = options === true ? ({} as KvEventOptions) : options;
  if (!contentKeys) throw invalidArgument("events", options, "nothing, unless there are contentKeys");
  return {
    ring: requireInteger("events.ring", ring ?? 8192, 1, 2 ** 26),
    group: requireInteger("events.group", group ?? 0, 0, 65535),
  };
}

/** Reader of a cache's events; there is one at a time. Made by `cache.events()`. */
export class KvEvents {
  readonly cache: KvCache;
  readonly instance: string;
  readonly epoch: number;
  readonly medium: KvMedium;
  readonly dataParallelRank: number | undefined;
  /** Batches that a snapshot has read ahead. */
  readonly #ahead: KvEventBatch[] = [];
  #told: KvEvent[] = [];
  readonly #tiers = new Map<KvMedium, () => Iterable<TierEvent>>();
  readonly #firstBatch: number;
  /** The cache's groups, its own tables first, and the number of these. */
  readonly #groups: readonly CacheGroup[];
  readonly #firstGroup: number;

  constructor(cache: KvCache, options: KvReaderOptions = {}) {
    const { exports } = cache.core;
    if (exports.kvEvents(cache.pointer) === 0)
      throw new QuartermasterError("UNSUPPORTED", "events: the cache was created without events");
    this.cache = cache;
    this.instance = options.instance ?? "quartermaster";
    this.epoch = requireInteger("epoch", options.epoch ?? nextEpoch(), 0, Number.MAX_SAFE_INTEGER);
    this.medium = options.medium ?? "GPU";
    this.dataParallelRank = options.dataParallelRank;
    this.#groups = [{ kind: "full", window: 0, blockSize: cache.blockSize }, ...cache.groups];
    const header = exports.kvEvents(cache.pointer) >>> 0;
    this.#firstGroup = new Uint32Array(cache.core.memory.buffer, header, GROUP_WORD + 1)[GROUP_WORD];
    this.#firstBatch = exports.kvEventsBatches(cache.pointer);
    // Somebody who has heard nothing yet knows an empty cache, and no other.
    if (this.#firstBatch > 0 || cache.stats().cached > 0)
      cache.core.call(() => exports.kvEventsLose(cache.pointer), "events");
  }

  /** Number of the next batch. */
  get seq(): number {
    return this.#ahead[0]?.seq ?? this.#next();
  }

  #next(): number {
    return this.cache.core.exports.kvEventsBatches(this.cache.pointer) - this.#firstBatch;
  }

  /**
   * The next batch, or undefined when nothing has happened. `ts`: seconds, for the batch. Up to 682 events of the cache a
   * batch; call until there is none.
   */
  read(ts = Date.now() / 1000): KvEventBatch | undefined {
    return this.#ahead.shift() ?? this.#read(ts);
  }

  /** All batches that there are now. */
  *[Symbol.iterator](): Generator<KvEventBatch> {
    for (let batch = this.read(); batch; batch = this.read()) yield batch;
  }

  /** Number of the cache's own tables among groups; those of its `groups` follow. */
  get group(): number {
    return this.#firstGroup;
  }

  /**
   * Adds what another tier says of itself to the next batch, behind what the cache says. Of more than 65,536 such events
   * between two reads the first are given up, and the next batch has a gap.
   */
  tell(event: TierEvent): void {
    const told = this.#ofTier(event);
    if (this.#told.length === MOST_TOLD) {
      this.#told = [];
      const { core, pointer } = this.cache;
      core.call(() => core.exports.kvEventsLose(pointer), "events");
    }
    this.#told.push(told);
  }

  /** Names a tier whose blocks belong in snapshots: its stored blocks, ancestors first. */
  addTier(medium: KvMedium, stored: () => Iterable<TierEvent>): void {
    this.#tiers.set(medium, stored);
  }

  /**
   * What is cached now, ancestors first. Batches that had not been read yet are in it; `read` gives them all the same,
   * and a consumer of the snapshot skips them by their numbers.
   */
  snapshot(ts = Date.now() / 1000): KvEventBatch {
    for (let batch = this.#read(ts); batch; batch = this.#read(ts)) this.#ahead.push(batch);
    const { core, pointer } = this.cache;
    const limit = Math.floor(core.scratchBytes / EVENT_BYTES);
    const stored: KvEvent[] = [];
    for (let begin = 1; ; begin = 0) {
      const at = core.scratch(core.scratchBytes);
      const first = begin;
      const count = core.call(() => core.exports.kvEventsSnapshot(pointer, at, limit, first), "snapshot");
      if (count === 0) break;
      this.#decode(at, count, 0, stored);
    }
    for (const tier of this.#tiers.values()) for (const event of tier()) stored.push(this.#ofTier(event));
    return this.#batch(-1, ts, [
      { type: "snapshot-begin" },
      ...stored,
      { type: "snapshot-end", seq: this.#next() - 1 },
    ]);
  }

  #read(ts: number): KvEventBatch | undefined {
    const { core, pointer } = this.cache;
    const limit = Math.floor(core.scratchBytes / EVENT_BYTES);
    const at = core.scratch(core.scratchBytes);
    const seq = this.#next();
    const told = this.#told;
    const count = core.call(() => core.exports.kvEventsRead(pointer, at, limit, told.length), "events");
    if (count + told.length === 0) return undefined;
    const events: KvEvent[] = [];
    this.#decode(at, count, seq, events);
    this.#told = [];
    return this.#batch(seq, ts, [...events, ...told]);
  }

  #batch(seq: number, ts: number, events: readonly KvEvent[]): KvEventBatch {
    const { instance, epoch, dataParallelRank } = this;
    return { instance, epoch, seq, ts, ...(dataParallelRank !== undefined && { dataParallelRank }), events };
  }

  #ofTier(event: TierEvent): KvEvent {
    requireObject("event", event);
    const group = requireInteger("group", event.group ?? 0, 0, 0xffffffff);
    if (event.type === "cleared") return { ...event, group };
    if (event.type !== "removed" && event.type !== "stored")
      throw invalidArgument("type", (event as TierEvent).type, "stored, removed, cleared");
    requireList("keys", event.keys);
    for (const key of event.keys) requireBytes("keys", key, DIGEST_BYTES);
    if (event.type === "removed") return { ...event, group };
    const { tokenIds = new Uint32Array(0) } = event;
    const layers = this.#groups[group - this.#firstGroup];
    return {
      ...event,
      group,
      tokenIds,
      blockTokens: layers?.blockSize ?? this.cache.blockSize,
      namespace: 0,
      ...(layers && this.#groups.length > 1 && { layers: { kind: layers.kind, window: layers.window } }),
    };
  }

  /** Turns records into events; blocks that stand one behind the other, and removals in a row, are one event. */
  #decode(at: number, count: number, seq: number, events: KvEvent[]): void {
    const { core, content } = this.cache;
    const { buffer } = core.memory;
    const { medium } = this;
    const readTokens = this.#tokenReader();
    const bytes = (address: number): Uint8Array => new Uint8Array(buffer, address, DIGEST_BYTES).slice();
    for (let i = 0; i < count;) {
      const first = at + i * EVENT_BYTES;
      const words = new Uint32Array(buffer, first, ((count - i) * EVENT_BYTES) / 4);
      const [kind] = words;
      const group = words[Word.group];
      const run = kind === STORED || kind === REMOVED ? runOf(words) : 1;
      const keys = Array.from({ length: run }, (_, n) => bytes(first + n * EVENT_BYTES + KEY_AT));
      if (kind === STORED) {
        const namespace = words[Word.namespace];
        const scope = content?.scopes.get(namespace);
        const { kind: layers, window, blockSize } = this.#groups[group - this.#firstGroup];
        const tokenIds = new Uint32Array(run * blockSize);
        const lists = new Array<number>(run);
        for (let n = 0; n < run; n++) {
          const block = words[n * EVENT_WORDS + Word.block];
          readTokens(block, tokenIds.subarray(n * blockSize, (n + 1) * blockSize));
          lists[n] = words[n * EVENT_WORDS + Word.marks];
        }
        const marks = marksOfBlocks(this.cache, words[Word.block], lists, blockSize);
        events.push({
          type: "stored",
          keys,
          parentKey: words[Word.parent] >= ROOT ? null : bytes(first + PARENT_KEY_AT),
          tokenIds,
          blockTokens: blockSize,
          namespace,
          ...(scope && { scope }),
          ...(marks.some((own) => own !== null) && { marks }),
          medium,
          group,
          ...(this.#groups.length > 1 && { layers: { kind: layers, window } }),
        });
      } else if (kind === REMOVED) events.push({ type: "removed", keys, medium, group });
      else if (kind === CLEARED)
        for (const at of this.#groups.keys()) events.push({ type: "cleared", medium, group: group + at });
      else events.push({ type: "gap", fromSeq: seq });
      i += run;
    }
  }

  /** Fills what it is given with the tokens of a cached block and of those before it. */
  #tokenReader(): (block: number, to: Uint32Array) => void {
    const { core, pointer, blockSize, blocks } = this.cache;
    const { buffer } = core.memory;
    const at = new Uint32Array(buffer, pointer, HEADER_TOKENS + 1)[HEADER_TOKENS];
    const tokens = new Uint32Array(buffer, at, blocks * blockSize);
    const parentOf = parentReader(this.cache);
    return (block, to) => {
      for (let from = to.length - blockSize, id = block; from >= 0; from -= blockSize) {
        to.set(tokens.subarray(id * blockSize, (id + 1) * blockSize), from);
        id = parentOf(id);
      }
    };
  }
}

/** Records from the first on that make one event of a group: removals, or stored blocks of which each is the parent of the next. */
function runOf(words: Uint32Array): number {
  const [kind] = words;
  let run = 1;
  for (let next = EVENT_WORDS; next < words.length && words[next] === kind; next += EVENT_WORDS) {
    if (words[next + Word.group] !== words[Word.group]) break;
    if (kind === STORED && words[next + Word.parent] !== words[next - EVENT_WORDS + Word.block]) break;
    run += 1;
  }
  return run;
}

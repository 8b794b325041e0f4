/**
 * Cache groups: layers of a model that keep their tokens in another way than the cache's own tables do, in the same pool
 * of blocks. The cache's own are group 0, full attention over all tokens; these are groups 1, 2, ...
 */
import type { Core } from "./core.js";
import { invalidArgument, requireInteger } from "./errors.js";
import type { KvCache } from "./kv-cache.js";

/** "full": every token. "window": the tokens that a sliding window still sees. "recurrent": a state. */
export type CacheGroupKind = "full" | "window" | "recurrent";

const KINDS: readonly CacheGroupKind[] = ["full", "window", "recurrent"];
const MAX_GROUPS = 7;

export interface CacheGroupOptions {
  kind: CacheGroupKind;
  /** Kind "window": tokens that a query sees, itself included, 1 to 2^24. */
  window?: number;
  /**
   * Tokens a block, the cache's `blockSize` times a power of two, up to 65536: more where the group has fewer or smaller
   * layers, since all blocks are pages of one size. Of a recurrent group: tokens from one checkpoint of the state to the
   * next. Default: the cache's.
   */
  blockSize?: number;
}

/** A group as it is. */
export interface CacheGroup {
  readonly kind: CacheGroupKind;
  /** 0 unless it is a window. */
  readonly window: number;
  readonly blockSize: number;
}

export interface CacheGroupStats extends CacheGroup {
  /** Blocks in the tables of open sequences, one that several share counted for each. */
  readonly held: number;
  /** Blocks that can be found again, held or not. */
  readonly cached: number;
  readonly evictions: number;
}

/** Checks options and fills in defaults. */
export function groupShapes(options: readonly CacheGroupOptions[], blockSize: number): CacheGroup[] {
  if (!Array.isArray(options) || options.length > MAX_GROUPS)
    throw invalidArgument("groups", options, `at most ${MAX_GROUPS} groups beside the cache's own`);
  return options.map((group: CacheGroupOptions, i) => {
    const at = `groups[${i}]`;
    if (!KINDS.includes(group?.kind)) throw invalidArgument(`${at}.kind`, group?.kind, KINDS.join(", "));
    if (group.kind !== "window" && group.window !== undefined)
      throw invalidArgument(`${at}.window`, group.window, `nothing for kind "${group.kind}"`);
    const tokens = requireInteger(`${at}.blockSize`, group.blockSize ?? blockSize, blockSize, 65536);
    if (!Number.isInteger(Math.log2(tokens / blockSize)))
      throw invalidArgument(`${at}.blockSize`, tokens, `${blockSize} times a power of two`);
    const window = group.kind === "window" ? requireInteger(`${at}.window`, group.window, 1, 2 ** 24) : 0;
    return { kind: group.kind, window, blockSize: tokens };
  });
}

/** Writes the records that `kvGroupsBytes` and `kvGroupsCreate` read to the scratch region; returns their address. */
export function writeGroups(core: Core, groups: readonly CacheGroup[]): number {
  const words = groups.flatMap(({ kind, window, blockSize }) => [KINDS.indexOf(kind), window, blockSize]);
  const address = core.scratch(words.length * 4);
  new Uint32Array(core.memory.buffer, address, words.length).set(words);
  return address;
}

/** u32 words of the header, and of the record of a group (docs/abi.md). */
const HEADER_WORDS = 8;
const GROUP_WORDS = 12;
const Word = {
  kind: 0,
  reach: 1,
  shift: 2,
  stride: 4,
  tables: 5,
  twins: 7,
  held: 8,
  cached: 9,
  evictions: 10,
} as const;

/** What the core says of a group: its figures, and where its tables are. */
export interface GroupRecord extends CacheGroupStats {
  /** Entries of a sequence's table, and the address of that of slot 0. */
  readonly stride: number;
  readonly tables: number;
  /** Address of the group's blocks that end where each of the cache's blocks ends. */
  readonly twins: number;
}

/** The groups of a cache; none without the add-on. */
export function readGroups(core: Core, kv: number): GroupRecord[] {
  const address = core.exports.kvGroups(kv) >>> 0;
  if (address === 0) return [];
  const [count] = new Uint32Array(core.memory.buffer, address, 1);
  return Array.from({ length: count }, (_, g) => {
    const at = address + 4 * (HEADER_WORDS + g * GROUP_WORDS);
    const record = new Uint32Array(core.memory.buffer, at, GROUP_WORDS);
    const kind = KINDS[record[Word.kind]];
    return {
      kind,
      window: kind === "window" ? record[Word.reach] + 1 : 0,
      blockSize: 2 ** record[Word.shift],
      held: record[Word.held],
      cached: record[Word.cached],
      evictions: record[Word.evictions] + record[Word.evictions + 1] * 2 ** 32,
      stride: record[Word.stride],
      tables: record[Word.tables],
      twins: record[Word.twins],
    };
  });
}

/** Cached blocks of a group along a prefix of cached blocks, of which `length` tokens count. */
export function cachedTwins(cache: KvCache, group: number, prefix: Uint32Array, length: number): Uint32Array {
  const { twins, blockSize } = readGroups(cache.core, cache.pointer)[group];
  const of = new Uint32Array(cache.core.memory.buffer, twins, cache.blocks);
  const ratio = blockSize / cache.blockSize;
  return Uint32Array.from(
    { length: Math.floor(length / blockSize) },
    (_, i) => of[prefix[(i + 1) * ratio - 1]],
  );
}

/** First block of a group that the next token of a sequence of `length` tokens needs. */
export function firstNeeded({ kind, window, blockSize }: CacheGroup, length: number): number {
  if (kind === "full") return 0;
  const reach = kind === "window" ? window - 1 : 1;
  return Math.floor(Math.max(0, length - reach) / blockSize);
}

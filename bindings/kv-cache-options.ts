/** What a KV cache is made with and what it says of itself: ids, options, figures. */
import type { BlockRunOptions } from "./block-runs.js";
import type { CacheGroup, CacheGroupOptions } from "./cache-groups.js";
import type { PinRoom } from "./kv-pins.js";
import type { PromptMarks } from "./prompt-marks.js";
import type { BlockOrderKind, BlockOrderOptions } from "./block-order.js";
import type { KvEventOptions } from "./kv-events.js";
import type { ContentKeyOptions, ContentKeyShape } from "./content-keys.js";

/** A physical block, 0 <= id < blocks. */
export type BlockId = number & { readonly brand?: "BlockId" };
/** An open sequence; dead after `close`, and never equal to a later one's within 2,047 reuses of its slot. */
export type SequenceId = number & { readonly brand?: "SequenceId" };

export interface KvCacheOptions {
  /** Physical blocks, 1 to 2^27. About 40 bytes each, plus 4 bytes a token, plus the tables. */
  blocks: number;
  /** Tokens a block: a power of two, 1 to 256. Default 16. */
  blockSize?: number;
  /** Sequences open at a time, 1 to 2^20. Default 1024. */
  maxSequences?: number;
  /**
   * Longest sequence in tokens, 1 to 2^24. Default 8192. Tables take maxSequences * maxSequenceTokens /
   * blockSize * 4 bytes.
   */
  maxSequenceTokens?: number;
  /** Whether full blocks are kept for reuse by later sequences. Default true. */
  prefixCache?: boolean;
  /**
   * Bits of the prefix hash, 0 to 64. Default 64. Fewer force collisions, which cost time and never
   * correctness: for tests.
   */
  keyBits?: number;
  /**
   * Whether `probe` may ask, from any thread attached to the core, how much of a prompt is cached. Needs build
   * "core-threads". Default false; about 75 bytes a block (100 at 4,096 blocks), and an index entry written for each block that
   * enters or leaves the cache.
   */
  sharedProbe?: boolean;
  /** Which unheld cached block goes first when room is needed: a name, or a name with options. Default "lru". */
  evictionOrder?: BlockOrderKind | BlockOrderOptions;
  /**
   * Layers that keep their tokens in another way than full attention, each group with block tables of its own in the same
   * pool. Not together with `partialReuse` and lossy sequences. Default: none.
   */
  groups?: readonly CacheGroupOptions[];
  /**
   * Unheld cached blocks to keep at most, 0 to `blocks`: what is above is forgotten as soon as sequences let go of it,
   * so that a new block may be turned away in favour of older ones. Default: all.
   */
  retainBlocks?: number;
  /**
   * Reuse inside a block: a prompt that leaves the cached prefixes in the middle of a block gets a block of its own with
   * what it has in common with a cached one copied, when that is at least so many tokens, 1 to `blockSize`. A copy to
   * run before the sequence is written to, as after a fork (`copies`, the plan's transfers). 12 bytes a block, 4
   * beside an eviction order. Default 0: whole blocks only.
   */
  partialReuse?: number;
  /** What the names of cached blocks for the outside depend on; 32 bytes a block. Default: there are none. */
  contentKeys?: ContentKeyOptions;
  /** Whether `events` can be read; needs `contentKeys`. Default: not. */
  events?: KvEventOptions | true;
  /**
   * Tenants with accounts of the blocks that they hold or have cached, 1 to 65,536; sequences and requests name one. 24
   * bytes a block, 128 a tenant. A block is paid by the tenant that it was taken for, and by the common account once a
   * sequence of another tenant holds it too. Default 0: no accounts, and no quotas.
   */
  tenants?: number;
  /**
   * Marks that the cache can tell apart at a time, up to 2^24: scopes, adapters and items of prompts (`ranges`, `adapter`,
   * `items`) that are open, waiting or cached; 40 bytes each and 4 bytes a block. Default 0: prompts have none.
   */
  marks?: number;
  /**
   * Room for pins of cached prefixes (`pin`), or true for the defaults; up to 255 take 2 bytes a block, up to 65,535 take 4, and
   * more take 8. Default: there are none.
   */
  pins?: PinRoom | true;
  /**
   * Blocks of a sequence lie side by side as far as there is room, so that swapping it takes few copies (`KvCache.runs`); true
   * for the defaults. About 80 bytes a block; 2^24 blocks at most; not with `groups`. Which cached block is forgotten next is
   * the same, but some are forgotten sooner (docs/decisions/0014). Default: in whatever order they were freed.
   */
  blockRuns?: BlockRunOptions | true;
  /** Quotas to begin with; `setQuota` changes them. Default: nobody has any. */
  quotas?: readonly TenantQuota[];
}

/**
 * What a tenant may have of the pool, in blocks. With all quotas at their defaults the cache does what it does without
 * accounts.
 */
export interface TenantQuota {
  /** Its number, or "common": the blocks that several tenants use. */
  tenant: number | "common";
  /** Others never push a cached block of its out that leaves it with fewer. All floors together fit the pool. Default 0. */
  floor?: number;
  /** From so many blocks on it makes room among its own first, and goes first when others need room. Default: `ceiling`. */
  watermark?: number;
  /** It never takes more: its own cached blocks go, then reservations are refused (QUOTA_EXCEEDED). Default: all blocks. */
  ceiling?: number;
}

/** A tenant's quota and what has become of it. */
export interface TenantAccount {
  readonly floor: number;
  readonly watermark: number;
  readonly ceiling: number;
  /** Blocks that it holds or has cached. */
  readonly used: number;
  /** Those that no sequence holds. */
  readonly evictable: number;
  /** Its cached blocks that were forgotten for itself, and for others. */
  readonly evictedOwn: number;
  readonly evictedByOthers: number;
  /** Reservations refused with QUOTA_EXCEEDED. */
  readonly refused: number;
}

/** Options with everything filled in. */
export type KvCacheShape = Required<
  Omit<KvCacheOptions, "evictionOrder" | "contentKeys" | "events" | "groups" | "pins" | "blockRuns">
> & {
  blockRuns: Required<BlockRunOptions> | undefined;
  groups: readonly CacheGroup[];
  pins: Required<PinRoom> | undefined;
  evictionOrder: Required<BlockOrderOptions>;
  contentKeys: ContentKeyShape | undefined;
  events: Required<KvEventOptions> | undefined;
};

export interface OpenOptions extends PromptMarks {
  /** Token ids of the prompt, u32 each; may be empty. At most maxSequenceTokens. */
  tokens: ArrayLike<number>;
  /**
   * Only sequences of the same namespace share blocks: one id for each tenant, adapter or salt, 0 to 2^31 -
   * 2. Default 0.
   */
  namespace?: number;
  /** Who pays for its blocks, below the cache's `tenants`. Default 0. */
  tenant?: number;
  /** A private sequence neither reuses nor publishes blocks. Default false. */
  private?: boolean;
  /** A sequence whose lanes will drop tokens: it may reuse blocks, and publishes none. Default false. */
  lossy?: boolean;
}

/** Under the order "priority": for whom a block makes room, and until when. */
export interface RetentionTerms {
  /** 0 goes first, 100 last. Default 35, which every block has at first. */
  priority?: number;
  /** Microseconds on the host's clock at which the priority is 35 again. Default: never. */
  priorityUntilUs?: number;
  /** Time after which the blocks go before all others, unless they are used before. Default: never. */
  liveUntilUs?: number;
}

export interface KvCacheStats {
  readonly blocks: number;
  /** Blocks with no content worth keeping. */
  readonly free: number;
  /** Cached blocks that no sequence holds: reusable, and evicted when room is needed. */
  readonly evictable: number;
  /** Blocks in the prefix index, held or not. */
  readonly cached: number;
  readonly openSequences: number;
  /** Prompt tokens looked up, and found, since creation. */
  readonly queriedTokens: number;
  readonly hitTokens: number;
  /** Those of them that were copied out of a block (`partialReuse`). */
  readonly copiedTokens: number;
  readonly evictions: number;
  /** Blocks that were filled twice and merged into one. */
  readonly duplicates: number;
}

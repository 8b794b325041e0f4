/**
 * TierBackend: a place outside the process's caches where blocks of K and V are kept by key. Keys are 32 bytes that name a
 * block's content (everything it depends on: model, namespace, the tokens up to its end), opaque here.
 */

export const KEY_BYTES = 32;

export interface BlockInfo {
  /** Key of the block before it; none: it is the first of its prefix. */
  readonly parent?: Uint8Array;
  /** The host's number of the model fingerprint, 0 to 65535. Default 0. */
  readonly fingerprint?: number;
  /** 0 to 65535. Default 0. */
  readonly tenant?: number;
  /**
   * The cache's group whose block it is, 0 to 7: then `parent` is the block of the cache's own tables that it ends with.
   * Default 0, its own tables.
   */
  readonly group?: number;
  /** Whether the payload is not exactly what was computed. Default false. */
  readonly lossy?: boolean;
}

export interface StoredBlock extends Required<Omit<BlockInfo, "parent">> {
  readonly parent: Uint8Array | undefined;
  readonly payload: Uint8Array;
  /** Some block before it is gone: of use for reuse of chunks, not as part of a prefix. */
  readonly orphan: boolean;
}

/** A block as `watch` tells it. */
export interface TierBlock {
  readonly key: Uint8Array;
  readonly parent: Uint8Array | undefined;
  readonly group: number;
}

/** What a tier says of itself: blocks have come, or gone, whyever they went; nothing can be had from it any more. */
export type TierChange =
  | { readonly type: "stored"; readonly blocks: readonly TierBlock[] }
  | { readonly type: "removed"; readonly keys: readonly Uint8Array[] }
  | { readonly type: "cleared" };

export interface TierStat {
  /** Blocks that `get` can give. */
  readonly blocks: number;
  /** Bytes of their records. */
  readonly liveBytes: number;
  /** Bytes of all records, those of forgotten blocks included, until their room is used again. */
  readonly usedBytes: number;
  readonly capacityBytes: number;
  readonly orphans: number;
  readonly evictions: number;
  /** Blocks that were dropped because their checksum was wrong when they were read. */
  readonly corrupt: number;
  /** Writes that the device did not take: it was full, or failed. */
  readonly failedWrites: number;
}

export interface TierBackend {
  /** Keeps a copy of the payload; resolves to false when the key is there already. */
  put(key: Uint8Array, payload: Uint8Array, info?: BlockInfo): Promise<boolean>;
  /** The block, its checksum verified; undefined when it is not there or no longer right. */
  get(key: Uint8Array): Promise<StoredBlock | undefined>;
  /** Forgets a block; resolves to whether it was there. */
  del(key: Uint8Array): Promise<boolean>;
  /**
   * How many of these blocks, one behind the other in a prefix, are there from the first on; lossy ones only if asked for.
   * Reads nothing.
   */
  match(keys: readonly Uint8Array[], options?: { readonly lossy?: boolean }): number | Promise<number>;
  /** Which of these blocks `match` would count by themselves. Reads nothing. Without it each of them is matched. */
  has?(keys: readonly Uint8Array[]): boolean[] | Promise<boolean[]>;
  /**
   * Tells which blocks `get` can give, ancestors first, then every change of that, in order: a block is stored once its data
   * is, and removed when it is put out for room, dropped as damaged, or deleted. Returns what ends that. The listener must not
   * throw, and changes nothing in the tier.
   */
  watch?(listener: (change: TierChange) => void): () => void;
  stat(): TierStat | Promise<TierStat>;
}

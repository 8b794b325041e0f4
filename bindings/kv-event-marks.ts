/** What stored blocks depend on besides their tokens, as KV events say it: never a salt. */
import type { KvCache } from "./kv-cache.js";
import { markKind, readMarks } from "./prompt-marks.js";

/** An item (an image, a sound) some of whose places are in a block. */
export interface BlockItem {
  /** Of its first token, from the block's first; negative when it begins in a block before. */
  readonly offset: number;
  readonly length: number;
  readonly hash: bigint;
}

/** What the K and V of a block depend on besides the tokens up to its end. */
export interface BlockMarks {
  readonly adapter?: bigint;
  /** Who may share the block, the most private range up to its end: everybody, or those with the same salt. */
  readonly scope: "public" | "group" | "tenant";
  readonly items: readonly BlockItem[];
}

/** Words of the cache's header and of a block's record (docs/abi.md). */
const HEADER_BLOCKS = 12;
const BLOCK_WORDS = 8;
const PARENT_WORD = 3;
const ROOT = 0x80000000;

/** Position behind the last token of a cached block. */
function endOf(cache: KvCache, block: number): number {
  const { buffer } = cache.core.memory;
  const at = new Uint32Array(buffer, cache.pointer, HEADER_BLOCKS + 1)[HEADER_BLOCKS];
  const records = new Uint32Array(buffer, at, cache.blocks * BLOCK_WORDS);
  let depth = 1;
  for (let id = block; records[id * BLOCK_WORDS + PARENT_WORD] < ROOT; depth++)
    id = records[id * BLOCK_WORDS + PARENT_WORD];
  return depth * cache.blockSize;
}

/** What the list of marks of a cached block of `tokens` tokens says of it. */
export function marksOfBlock(cache: KvCache, block: number, list: number, tokens: number): BlockMarks {
  const marks = readMarks(cache, list);
  const start = marks.some(({ kind }) => kind === markKind.item) ? endOf(cache, block) - tokens : 0;
  const adapter = marks.find(({ kind }) => kind === markKind.adapter)?.content;
  const most = Math.max(...marks.map(({ kind }) => (kind <= markKind.tenant ? kind : markKind.public)));
  return {
    ...(adapter !== undefined && { adapter }),
    scope: most === markKind.tenant ? "tenant" : most === markKind.group ? "group" : "public",
    items: marks
      .filter(({ kind, offset, length }) => kind === markKind.item && offset + length > start)
      .map(({ offset, length, content }) => ({ offset: offset - start, length, hash: content })),
  };
}

/** What stored blocks depend on besides their tokens, as KV events say it: never a salt. */
import { parentReader, ROOT } from "./block-records.js";
import type { KvCache } from "./kv-cache.js";
import { type Mark, markKind, readMarks } from "./prompt-marks.js";

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

/** Position behind the last token of a cached block. */
function endOf(cache: KvCache, block: number): number {
  const parentOf = parentReader(cache);
  let depth = 1;
  for (let id = parentOf(block); id < ROOT; id = parentOf(id)) depth += 1;
  return depth * cache.blockSize;
}

/** What a list of marks says of the block of which the first token is at `start`. */
function marksAt(marks: readonly Mark[], start: number): BlockMarks {
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

/** What the lists of marks of cached blocks of `tokens` tokens say, each block behind the one before it; null: no list. */
export function marksOfBlocks(
  cache: KvCache,
  first: number,
  lists: readonly number[],
  tokens: number,
): (BlockMarks | null)[] {
  if (lists.every((list) => list === 0)) return lists.map(() => null);
  const start = endOf(cache, first) - tokens;
  const known = new Map<number, readonly Mark[]>();
  return lists.map((list, n) => {
    if (list === 0) return null;
    const marks = known.get(list) ?? readMarks(cache, list);
    known.set(list, marks);
    return marksAt(marks, start + n * tokens);
  });
}

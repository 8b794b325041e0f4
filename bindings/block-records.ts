/** The records of a cache's blocks in core memory (docs/abi.md): which block each stands behind. */
import type { KvCache } from "./kv-cache.js";

/** From here on the block before it is none, but its namespace. */
export const ROOT = 0x80000000;

/** Words of the cache's header and of a record. */
const HEADER_BLOCKS = 12;
const BLOCK_WORDS = 8;
const PARENT_WORD = 3;

/** Tells the block before a cached one, or ROOT and more; as long as nothing else is called. */
export function parentReader({ core, pointer, blocks }: KvCache): (block: number) => number {
  const { buffer } = core.memory;
  const at = new Uint32Array(buffer, pointer, HEADER_BLOCKS + 1)[HEADER_BLOCKS];
  const records = new Uint32Array(buffer, at, blocks * BLOCK_WORDS);
  return (block) => records[block * BLOCK_WORDS + PARENT_WORD];
}

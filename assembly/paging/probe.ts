/**
 * Probing the prefix index from any thread: how much of a prompt is cached, while the engine thread writes.
 *
 * Keys of up to MATCH_GROUP blocks are computed in one pass, looked up together in the shared probe index, and
 * the blocks found are compared with the prompt as `matchPrefix` does: parent and tokens. Block records and
 * tokens are read without a lock; a block counts only if it still carries the key once its tokens have been
 * read (probe-index.ts, invariant 3). So a probe of n blocks says: all n were cached at one moment during the
 * call. Blocks cached during the whole call are always counted, unless two prefixes have the same 63-bit key
 * (then the index shows one of the two).
 *
 * The result is a hint: no reference is taken. What a probe writes is the caller's `work` and its own stripe
 * of the index.
 */
import { indexGetMany } from "../index/batch";
import { rootKey } from "../memory/hash";
import { loadFence } from "../memory/workers";
import { Block, block, KvCache, MATCH_GROUP, ROOT, tokensOf } from "./layout";
import { wordOf } from "./marks";
import { extendKey, sameTokens } from "./prefix";
import { probeKey } from "./probe-index";

/** State of a probe between calls, and the batch of lookups. */
@unmanaged
class ProbeWork {
  /** Prefix key and block of the last block counted. */
  key: u64;
  parent: u32;
  unused: u32;
}

// @ts-ignore: decorator
@inline
function keysOf(work: usize): usize {
  return work + offsetof<ProbeWork>();
}

// @ts-ignore: decorator
@inline
function valuesOf(work: usize): usize {
  return keysOf(work) + ((<usize>MATCH_GROUP) << 3);
}

// @ts-ignore: decorator
@inline
function foundOf(work: usize): usize {
  return valuesOf(work) + ((<usize>MATCH_GROUP) << 3);
}

/** Bytes of a probe's `work`. */
// @ts-ignore: decorator
@inline
export function probeWorkBytes(): usize {
  return offsetof<ProbeWork>() + <usize>MATCH_GROUP * 17;
}

/** Begins a probe of a prompt of this namespace. */
export function probeStart(kv: KvCache, namespace: u32, work: usize): void {
  const state = changetype<ProbeWork>(work);
  state.key = rootKey(kv.seed, namespace);
  state.parent = namespace | ROOT;
}

/**
 * Goes on with the next `count` whole blocks of the prompt; returns how many are cached. When all are, the
 * probe may be gone on with.
 */
export function probeBlocks(kv: KvCache, tokensPtr: usize, count: u32, work: usize): u32 {
  const state = changetype<ProbeWork>(work);
  const blockBytes = (<usize>kv.blockSize) << 2;
  let matched: u32 = 0;
  while (matched < count) {
    const group = min(count - matched, MATCH_GROUP);
    const at = tokensPtr + <usize>matched * blockBytes;
    state.key = groupKeys(kv, state.key, at, group, keysOf(work));
    indexGetMany(kv.probeIndex, keysOf(work), group, valuesOf(work), foundOf(work));
    const counted = countCached(kv, state, at, group, work);
    matched += counted;
    if (counted < group) break;
  }
  return matched;
}

/** Writes the index keys of `group` blocks; returns the prefix key of the last. */
function groupKeys(kv: KvCache, key: u64, at: usize, group: u32, keys: usize): u64 {
  const blockBytes = (<usize>kv.blockSize) << 2;
  for (let i: u32 = 0; i < group; i++) {
    key = extendKey(kv, key, at + <usize>i * blockBytes);
    store<u64>(keys + ((<usize>i) << 3), probeKey(key));
  }
  return key;
}

/** How many leading blocks of the group are the prompt's, by parent and tokens, and were so throughout. */
function countCached(kv: KvCache, state: ProbeWork, at: usize, group: u32, work: usize): u32 {
  const blockBytes = (<usize>kv.blockSize) << 2;
  const values = valuesOf(work);
  const found = foundOf(work);
  let parent = state.parent;
  let equal: u32 = 0;
  for (; equal < group; equal++) {
    if (load<u8>(found + <usize>equal) == 0) break;
    const id = <u32>load<u64>(values + ((<usize>equal) << 3));
    // A probe is for prompts without marks.
    if (wordOf(kv, id) != 0) break;
    if (block(kv, id).parent != parent || !sameTokens(tokensOf(kv, id), at, blockBytes)) break;
    parent = id;
    at += blockBytes;
  }
  loadFence();
  let counted: u32 = 0;
  for (; counted < equal; counted++) {
    const id = <u32>load<u64>(values + ((<usize>counted) << 3));
    if (probeKey(keyNow(block(kv, id))) != load<u64>(keysOf(work) + ((<usize>counted) << 3))) break;
    state.parent = id;
  }
  return counted;
}

/** The key that a block carries now, whatever was read of it before. */
// @ts-ignore: decorator
@inline
function keyNow(record: Block): u64 {
  const word = changetype<usize>(record) + offsetof<Block>("key");
  return ASC_FEATURE_THREADS ? atomic.load<u64>(word) : load<u64>(word);
}

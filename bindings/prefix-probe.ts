/**
 * Probing a KV cache from any thread: how much of a prompt is cached, while the engine thread writes.
 *
 * The prompt goes in pieces through this thread's scratch; the chain of keys goes on from piece to piece.
 */
import { QuartermasterError, requireInteger } from "./errors.js";
import type { KvCache } from "./kv-cache.js";
import { requireTokenIds } from "./token-ids.js";

export interface PrefixProbe {
  /** Tokens of the prompt that were cached at one moment during the call, in whole blocks. */
  readonly tokens: number;
  readonly blocks: number;
}

export function probePrefix(cache: KvCache, prompt: ArrayLike<number>, namespace: number): PrefixProbe {
  const { core, blockSize } = cache;
  core.requireUsable();
  if (!cache.sharedProbe)
    throw new QuartermasterError("UNSUPPORTED", "probe: the cache was created without sharedProbe");
  requireInteger("namespace", namespace, 0, 2 ** 31 - 2);
  const count = requireTokenIds("tokens", prompt, cache.maxSequenceTokens);
  const { exports, memory } = core;
  const work = core.scratch(core.scratchBytes);
  const tokensAt = work + exports.kvCacheProbeBytes();
  const room = core.scratchBytes - exports.kvCacheProbeBytes();
  const pieceBlocks = Math.floor(room / 4 / blockSize);
  const scratch = new Uint32Array(memory.buffer, tokensAt, pieceBlocks * blockSize);

  // The last token is never taken from the cache: somebody has to compute it.
  const wanted = Math.floor(Math.max(0, count - 1) / blockSize);
  core.call(() => exports.kvCacheProbeStart(cache.pointer, namespace, work), "probe");
  let blocks = 0;
  while (blocks < wanted) {
    const piece = Math.min(pieceBlocks, wanted - blocks);
    copyTokens(scratch, prompt, blocks * blockSize, piece * blockSize);
    const cached = core.call(() => exports.kvCacheProbe(cache.pointer, tokensAt, piece, work), "probe");
    blocks += cached;
    if (cached < piece) break;
  }
  return { tokens: blocks * blockSize, blocks };
}

function copyTokens(to: Uint32Array, tokens: ArrayLike<number>, from: number, count: number): void {
  if (tokens instanceof Uint32Array) to.set(tokens.subarray(from, from + count));
  else for (let i = 0; i < count; i++) to[i] = tokens[from + i];
}

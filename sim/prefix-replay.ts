/**
 * Prefix-cache replay: prompts as lists of block ids through a real KvCache, one at a time, under one eviction order.
 *
 * A prompt's hit is its longest cached leading run, counted before the prompt's own blocks are entered; then all of its
 * blocks are offered, and the order forgets down to the capacity. The pool has room for one prompt beside the
 * capacity, as an engine has for what it runs.
 */
import { type BlockOrderKind, type BlockOrderOptions, Core } from "../bindings/main.js";

/** "min": the block needed latest goes first (Belady), by scores from the whole trace. */
export type ReplayOrder = BlockOrderKind | BlockOrderOptions | "min";

export interface ReplayResult {
  readonly hits: number;
  readonly references: number;
  readonly evictions: number;
  /** Hits over references. */
  readonly hitRate: number;
}

/** Ends each prompt: the last token is always left to compute, so the last block needs one behind it. */
const LAST = 0xffffffff;

/** For each block of each prompt, the prompt that needs it next, or Infinity. */
export function nextUses(prompts: readonly ArrayLike<number>[]): Float64Array[] {
  const next = new Map<number, number>();
  const uses: Float64Array[] = new Array(prompts.length);
  for (let at = prompts.length - 1; at >= 0; at--) {
    const prompt = prompts[at];
    uses[at] = Float64Array.from(prompt, (id) => next.get(id) ?? Infinity);
    for (let i = 0; i < prompt.length; i++) next.set(prompt[i], at);
  }
  return uses;
}

/** Replays prompts (block ids below 2^32 - 1, each naming the whole prefix up to it) at a capacity in blocks. */
export async function replayPrefixes(
  prompts: readonly ArrayLike<number>[],
  capacity: number,
  order: ReplayOrder,
): Promise<ReplayResult> {
  const longest = prompts.reduce((most, { length }) => Math.max(most, length), 0);
  const core = await Core.create();
  // One token a block: a block id stands for the tokens of its block.
  const cache = core.kvCache({
    blocks: capacity + longest + 1,
    blockSize: 1,
    maxSequences: 1,
    maxSequenceTokens: longest + 1,
    evictionOrder: order === "min" ? "scored" : order,
    retainBlocks: capacity,
  });
  const next = order === "min" ? nextUses(prompts) : undefined;
  let hits = 0;
  let references = 0;
  prompts.forEach((prompt, at) => {
    const tokens = new Uint32Array(prompt.length + 1);
    tokens.set(prompt);
    tokens[prompt.length] = LAST;
    const sequence = cache.open({ tokens });
    const cached = cache.length(sequence);
    const rest = tokens.subarray(cached, prompt.length);
    cache.reserve(sequence, rest.length);
    cache.append(sequence, rest);
    if (next)
      cache.score(
        sequence,
        next[at].map((use) => -use),
      );
    cache.close(sequence);
    hits += cached;
    references += prompt.length;
  });
  core.validate();
  return { hits, references, evictions: cache.stats().evictions, hitRate: hits / references };
}

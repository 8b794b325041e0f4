/**
 * Drafting: who guesses what a request will generate next. The guesses are verified by the executor, so a bad one costs
 * time and never a token.
 */
import { requireInteger } from "./errors.js";

export interface Drafter {
  /**
   * Guesses what follows.
   * @param tokens prompt and generated tokens so far. A view: do not keep it.
   * @param most guesses that are made use of, at most
   * @returns token ids below the vocabulary size, in order; none when it has no guess
   */
  draft(tokens: Uint32Array, most: number): ArrayLike<number>;
}

export interface PromptLookupOptions {
  /** Longest run of last tokens to look for, 1 to 64. Default 3. */
  longest?: number;
  /** Shortest run that is worth a guess, 1 to `longest`. Default 1. */
  shortest?: number;
}

/**
 * Guesses that what followed the last tokens when they last occurred follows again: the longest run first, its latest
 * occurrence first. O(tokens * longest) a guess. Source of the idea: "Inference with Reference: Lossless Acceleration of
 * Large Language Models" (arXiv 2304.04487).
 */
export function promptLookup(options: PromptLookupOptions = {}): Drafter {
  const longest = requireInteger("longest", options.longest ?? 3, 1, 64);
  const shortest = requireInteger("shortest", options.shortest ?? 1, 1, longest);
  return {
    draft(tokens, most) {
      for (let run = Math.min(longest, tokens.length - 1); run >= shortest; run--) {
        const end = earlierEnd(tokens, run);
        if (end > 0) return tokens.slice(end, end + most);
      }
      return [];
    },
  };
}

/** Where the latest earlier occurrence of the last `run` tokens ends; 0 = there is none. */
function earlierEnd(tokens: Uint32Array, run: number): number {
  const tail = tokens.length - run;
  for (let start = tail - 1; start >= 0; start--) {
    let same = 0;
    while (same < run && tokens[start + same] === tokens[tail + same]) same += 1;
    if (same === run) return start + run;
  }
  return 0;
}

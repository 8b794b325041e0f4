/** What the engine thread and the probing threads of the stress test agree on. */

/** Words of the clock that they share. */
export const Clock = {
  /** Twice the number of changes made, plus one while a change is under way. */
  Time: 0,
  Stop: 1,
  Probes: 2,
} as const;

/** A note: which prompt, time before, time after, blocks. */
export const NOTE_WORDS = 4;

export const BLOCK_SIZE = 4;

/** Prompts of 2 to 12 blocks in three families that share beginnings. */
export function prompts(): number[][] {
  return Array.from({ length: 24 }, (_, p) => {
    const blocks = 2 + (p % 11);
    return Array.from({ length: blocks * BLOCK_SIZE + 1 }, (_, i) =>
      i < (p % 4) * BLOCK_SIZE ? (p % 3) * 1000 + i : p * 1000 + 500 + i,
    );
  });
}

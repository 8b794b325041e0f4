/** Answers that no policy would give: which slots of each lane stay, at random, in every form that a plan has. */
import { APPEND_SLOT, type KeepPlan } from "../../bindings/main.js";
import type { Random } from "./random.js";

/** One slot as it should be. */
export interface Token {
  readonly position: number;
  /** What the executor's memory must hold there. */
  readonly content: number;
  readonly score: number;
}

/**
 * A random answer of a policy to lanes of slots, and the slots as they are once it has been carried out.
 * @param kind 1: in place where it can; 2: whole blocks; 3: some lanes untouched; else packed
 */
export function randomAnswer(
  random: Random,
  lanes: readonly (readonly (Token | undefined)[])[],
  kind: number,
  blockSize: number,
): { answer: KeepPlan; after: (Token | undefined)[][]; whole: boolean; reused: boolean } {
  const victim = new Uint32Array(lanes.length).fill(APPEND_SLOT);
  const successor = new Uint32Array(lanes.length).fill(APPEND_SLOT);
  const share = random.below(10);
  const blocks = Array.from({ length: 64 }, () => random.below(3) > 0);
  const after: (Token | undefined)[][] = [];
  const keep = lanes.map((slots, lane): Uint32Array | null => {
    const untouched = (): null => {
      after[lane] = [...slots];
      return null;
    };
    if (kind === 1 && slots.length > 1) {
      // In place, some with a successor; other lanes pack.
      if (random.below(4) === 0) return untouched();
      victim[lane] = random.below(slots.length);
      const heir = random.below(slots.length);
      if (random.below(2) === 0 && heir !== victim[lane]) successor[lane] = heir;
      const next = [...slots];
      if (successor[lane] !== APPEND_SLOT) next[victim[lane]] = slots[heir];
      next[successor[lane] === APPEND_SLOT ? victim[lane] : heir] = undefined;
      after[lane] = next;
      return null;
    }
    if (kind === 3 && random.below(4) === 0) return untouched();
    const stays = slots.flatMap((_, slot) =>
      (kind === 2 ? blocks[Math.floor(slot / blockSize)] : random.below(10) <= share) ? [slot] : [],
    );
    if (stays.length === 0) return untouched();
    after[lane] = stays.map((slot) => slots[slot]);
    return Uint32Array.from(stays);
  });
  const reused = victim.some((slot) => slot !== APPEND_SLOT);
  return {
    answer: { keep, ...(reused && { inPlace: { victim, successor } }) },
    after,
    whole: kind === 2,
    reused,
  };
}

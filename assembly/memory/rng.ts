/**
 * A seeded generator whose whole state is one u64 in memory (splitmix64), so that it is part of every
 * snapshot.
 */
import { finalize64 } from "./hash";

/** Advances the state at `statePtr` and returns the next 64 random bits. */
export function nextRandom(statePtr: usize): u64 {
  const state = load<u64>(statePtr) + 0x9e3779b97f4a7c15;
  store<u64>(statePtr, state);
  return finalize64(state);
}

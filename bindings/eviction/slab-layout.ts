/** Layout of a slab of lanes in core memory (docs/abi.md; assembly/eviction/layout.ts). */
import { PlaneMask } from "./policy.js";

/** Words of a slab's header and of a lane's head. */
export const SLAB_WORDS = 16;
export const HEAD_WORDS = 8;
export const Slab = { sequence: 2, seen: 3, filling: 5, bySlot: 6 } as const;
export const Head = { length: 0, hole: 1, evicted: 2 } as const;

/** Planes behind the positions, in their order. */
export const PLANES = [
  ["score", PlaneMask.SCORE, Float32Array],
  ["lastImp", PlaneMask.LAST_IMP, Uint32Array],
  ["mri", PlaneMask.MRI, Uint32Array],
  ["aux", PlaneMask.AUX, Float32Array],
] as const;

/** Sections begin on cache lines. */
export function lineUp(bytes: number): number {
  return Math.ceil(bytes / 64) * 64;
}

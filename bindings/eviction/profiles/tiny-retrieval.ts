/**
 * Head profile of the embedded model tiny-retrieval: 50 needles of 4 digits in 448 characters, then errors with 32 slots a
 * lane. A test measures it again.
 */
import type { HeadProfile } from "../head-profile.js";

export const TINY_RETRIEVAL_PROFILE: HeadProfile = {
  model: "tiny-retrieval",
  layers: 3,
  heads: 4,
  kvHeads: 2,
  headOrder: [
    [2, 3, 0, 1],
    [3, 2, 1, 0],
    [2, 0, 3, 1],
  ],
  headScore: [
    [0.01, 0.007, 0.035, 0.034],
    [0, 0, 0, 0],
    [3.599, 3.297, 3.644, 3.573],
  ],
  layerScore: [0.1333, 0.0004, 0.8663],
};

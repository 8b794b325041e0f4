/**
 * Noise of video that is made chunk by chunk: levels that grow along the video, and noise that neighbours share. That
 * BlockVid (arXiv 2511.22973) does both is published; the formulas are our own reading of its abstract.
 */
import { invalidArgument, requireInteger } from "../errors.js";

export interface NoiseLevels {
  /** Level of the first chunk, 0 to 1. Default 0. */
  readonly lowest?: number;
  /** Level of the last chunk, `lowest` to 1. Default 0.1. */
  readonly highest?: number;
}

/** Level that chunk `chunk` of `chunks` is noised to when later chunks read it: half a cosine from lowest to highest. */
export function noiseLevel(
  chunk: number,
  chunks: number,
  { lowest = 0, highest = 0.1 }: NoiseLevels = {},
): number {
  requireInteger("chunks", chunks, 1, 2 ** 26);
  requireInteger("chunk", chunk, 0, chunks - 1);
  if (!(lowest >= 0 && lowest <= 1)) throw invalidArgument("lowest", lowest, "a number from 0 to 1");
  if (!(highest >= lowest && highest <= 1)) throw invalidArgument("highest", highest, `${lowest} to 1`);
  if (chunk === 0) return lowest;
  if (chunk === chunks - 1) return highest;
  return lowest + ((highest - lowest) * (1 - Math.cos((Math.PI * chunk) / (chunks - 1)))) / 2;
}

/** Flow-matching times of `steps` denoising steps, from 1 down, shifted: s t / (1 + (s - 1) t). @param shift above 0 */
export function denoisingTimes(steps: number, shift = 3): Float64Array {
  requireInteger("steps", steps, 1, 2 ** 20);
  if (!(shift > 0 && shift < Infinity)) throw invalidArgument("shift", shift, "a number above 0");
  return Float64Array.from({ length: steps }, (_, k) => {
    const time = 1 - k / steps;
    return (shift * time) / (1 + (shift - 1) * time);
  });
}

/**
 * Initial noise of a chunk: its first `shared` frames are the last ones of the chunk before it in a random order of all
 * their numbers, the rest is fresh. Every number stays standard normal.
 * @param previous [frames][frameSize] noise of the chunk before
 * @param random next standard normal number, and an integer from 0 to limit - 1
 */
export function shuffleNoise(
  previous: Float32Array,
  frameSize: number,
  random: { normal(): number; below(limit: number): number },
  shared = 1,
): Float32Array {
  requireInteger("frameSize", frameSize, 1, 2 ** 30);
  if (previous.length % frameSize !== 0)
    throw invalidArgument("previous.length", previous.length, `frames of ${frameSize}`);
  requireInteger("shared", shared, 0, previous.length / frameSize);
  const count = shared * frameSize;
  const noise = new Float32Array(previous.length);
  const order = permutation(count, (limit) => random.below(limit));
  const from = previous.length - count;
  for (let i = 0; i < count; i++) noise[i] = previous[from + order[i]];
  for (let i = count; i < noise.length; i++) noise[i] = random.normal();
  return noise;
}

/** 0 to count - 1 in random order. */
export function permutation(count: number, below: (limit: number) => number): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = below(i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

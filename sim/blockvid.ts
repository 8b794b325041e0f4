/**
 * What a context policy does to identity, without a video model: how a scene looks is stored in cached chunks alone, never
 * in the prompt. And VDE, the drift measure of LV-Bench (arXiv 2511.22973; as its script computes it).
 */
import { ChunkBank } from "../bindings/eviction/chunk-bank.js";
import { RandomStream } from "./random.js";

export const CONTEXTS = ["window", "sink", "random", "recent", "semantic", "full"] as const;
export type ContextPolicy = (typeof CONTEXTS)[number];

export interface IdentityResult {
  /** Distance to the first visit at returns to a scene, in units of the norm of an identity. */
  readonly distance: number;
  /** Share of returns with no chunk of the scene in the context. */
  readonly misses: number;
  /** VDE of 1 - distance over chunks, the mean of seeds. */
  readonly drift: number;
}

const PROMPT = 64;
const IDENTITY = 32;
const CHUNKS = 20;

/** @param retrieved chunks beside the window @param local chunks of the window */
export function identityExperiment(
  policy: ContextPolicy,
  scenes: number,
  { seeds = 40, retrieved = 2, local = 1 }: { seeds?: number; retrieved?: number; local?: number } = {},
): IdentityResult {
  const distances: number[] = [];
  let missed = 0;
  let drift = 0;
  for (let seed = 0; seed < seeds; seed++) {
    const random = new RandomStream(seed);
    const bank = new ChunkBank({ local, retrieved, bankChunks: CHUNKS, anchorFirst: false });
    const prompts: Float64Array[] = [];
    const identities: Float64Array[] = [];
    const sceneOf: number[] = [];
    const likeness: number[] = [];
    for (let chunk = 0; chunk < CHUNKS; chunk++) {
      const scene = chunk < scenes ? chunk : random.below(scenes);
      const prompt = promptOf(scene, random);
      const past = Array.from({ length: chunk }, (_, i) => i);
      const context = contextOf(policy, past, bank, prompt, random, retrieved, local);
      const identity = generate(context, prompt, prompts, identities, random);
      const first = sceneOf.indexOf(scene);
      if (first >= 0) {
        distances.push(distance(identity, identities[first]));
        if (!context.some((other) => sceneOf[other] === scene)) missed += 1;
      }
      likeness.push(first < 0 ? 1 : 1 - distances[distances.length - 1]);
      prompts.push(prompt);
      identities.push(identity);
      sceneOf.push(scene);
      bank.push(prompt);
    }
    drift += vde(likeness, { chunks: 10 }) / seeds;
  }
  const mean = distances.reduce((sum, value) => sum + value, 0) / distances.length;
  return { distance: mean, misses: missed / distances.length, drift };
}

/** Scenes are axes; 0.04 of noise in every number. */
function promptOf(scene: number, random: RandomStream): Float64Array {
  const prompt = Float64Array.from(
    { length: PROMPT },
    (_, i) => (i === scene ? 1 : 0) + 0.04 * random.normal(),
  );
  const norm = Math.hypot(...prompt);
  return prompt.map((value) => value / norm);
}

function contextOf(
  policy: ContextPolicy,
  past: readonly number[],
  bank: ChunkBank,
  prompt: Float64Array,
  random: RandomStream,
  retrieved: number,
  local: number,
): number[] {
  const window = past.slice(-local);
  const older = past.slice(0, -local);
  switch (policy) {
    case "window":
      return window;
    case "sink":
      return [...new Set([...past.slice(0, 1), ...window])];
    case "random":
      return [...random.shuffle(older).slice(0, retrieved), ...window];
    case "recent":
      return [...older.slice(-retrieved), ...window];
    case "semantic":
      return bank.context(prompt);
    case "full":
      return [...past];
  }
}

/** Softmax over 8 cos(prompts) and a null logit of 4, noise of 0.05, rescaled to the norm of an identity. */
function generate(
  context: readonly number[],
  prompt: Float64Array,
  prompts: readonly Float64Array[],
  identities: readonly Float64Array[],
  random: RandomStream,
): Float64Array {
  const weights = context.map((other) =>
    Math.exp(8 * prompts[other].reduce((sum, value, i) => sum + value * prompt[i], 0)),
  );
  const nothing = Math.exp(4);
  const total = weights.reduce((sum, weight) => sum + weight, nothing);
  const made = Float64Array.from({ length: IDENTITY }, (_, i) => {
    const read = context.reduce((sum, other, at) => sum + weights[at] * identities[other][i], 0);
    return (read + nothing * random.normal()) / total + 0.05 * random.normal();
  });
  const scale = Math.sqrt(IDENTITY) / Math.hypot(...made);
  return made.map((value) => value * scale);
}

function distance(a: Float64Array, b: Float64Array): number {
  return Math.hypot(...a.map((value, i) => value - b[i])) / Math.sqrt(IDENTITY);
}

/**
 * Sum over chunks i = 2..N of w_i |m_i - m_1| / m_1, where m_i is the mean of the i-th of N equal parts (the rest at the end
 * is left out) and w_i is N - i + 1, or its logarithm. 0 for N < 2; Infinity where m_1 is 0. Lower is better.
 */
export function vde(
  values: readonly number[],
  { chunks = 10, weights = "linear" }: { chunks?: number; weights?: "linear" | "log" } = {},
): number {
  const size = Math.floor(values.length / chunks);
  if (chunks < 2 || size === 0) return 0;
  const means = Array.from(
    { length: chunks },
    (_, i) => values.slice(i * size, (i + 1) * size).reduce((sum, value) => sum + value, 0) / size,
  );
  if (means[0] === 0) return Infinity;
  return means.slice(1).reduce((sum, mean, at) => {
    const left = chunks - at - 1;
    return sum + ((weights === "log" ? Math.log(left) : left) * Math.abs(mean - means[0])) / means[0];
  }, 0);
}

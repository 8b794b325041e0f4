/**
 * Episodes of a long conversation: windows of utterances clustered by topic, each with the text that stands for it, and
 * the episode that a question belongs to. Source: "EpiCache: Episodic KV Cache Management for Long Conversational Question
 * Answering" (arXiv 2509.17396).
 */
import { invalidArgument, requireInteger } from "../errors.js";

/** A vector for a text, of one length for all texts. */
export type Embedder = (text: string) => Float64Array;

/** Consecutive groups of `size` utterances as lines; the last may be shorter. */
export function conversationWindows(utterances: readonly string[], size = 4): string[] {
  requireInteger("size", size, 1, 2 ** 20);
  return Array.from({ length: Math.ceil(utterances.length / size) }, (_, i) =>
    utterances.slice(i * size, (i + 1) * size).join("\n"),
  );
}

/**
 * Hashed character n-grams of 2 and 3, weighted by how rare they are among `corpus`: deterministic, no model. Stands in for
 * a sentence encoder.
 */
export function ngramEmbedder(corpus: readonly string[], dimensions = 2048): Embedder {
  requireInteger("dimensions", dimensions, 1, 2 ** 20);
  const documents = new Float64Array(dimensions);
  for (const text of corpus) for (const bucket of new Set(buckets(text, dimensions))) documents[bucket] += 1;
  const rarity = documents.map((count) => Math.log((1 + corpus.length) / (1 + count)) + 1);
  return (text) => {
    const vector = new Float64Array(dimensions);
    for (const bucket of buckets(text, dimensions)) vector[bucket] += rarity[bucket];
    return vector;
  };
}

/** FNV-1a of each n-gram. */
function buckets(text: string, dimensions: number): number[] {
  const list: number[] = [];
  for (const size of [2, 3])
    for (let at = 0; at + size <= text.length; at++) {
      let hash = 0x811c9dc5;
      for (let i = at; i < at + size; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
      list.push((hash >>> 0) % dimensions);
    }
  return list;
}

export interface Clusters {
  /** [points] cluster of each. */
  readonly labels: Uint32Array;
  readonly centroids: readonly Float64Array[];
  /** Sum of squared distances to the centroids, after each round of the best start. */
  readonly inertia: readonly number[];
}

/**
 * k-means with k-means++ starts, the best of `restarts`; seeded. A cluster that loses all its points starts again at the
 * point farthest from its centroid. Centroids are not normalised.
 */
export function kMeans(
  points: readonly Float64Array[],
  clusters: number,
  { seed = 1, restarts = 10, rounds = 50 } = {},
): Clusters {
  requireInteger("clusters", clusters, 1, points.length);
  const random = generator(seed);
  let best: Clusters | undefined;
  for (let i = 0; i < restarts; i++) {
    const found = oneStart(points, firstCentroids(points, clusters, random), rounds);
    if (best === undefined || found.inertia.at(-1)! < best.inertia.at(-1)!) best = found;
  }
  return best!;
}

function oneStart(points: readonly Float64Array[], centroids: Float64Array[], rounds: number): Clusters {
  const labels = new Uint32Array(points.length);
  const inertia: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const distances = points.map((point, i) => {
      labels[i] = nearest(point, centroids);
      return squaredDistance(point, centroids[labels[i]]);
    });
    inertia.push(distances.reduce((a, b) => a + b, 0));
    if (round > 0 && inertia[round] >= inertia[round - 1]) break;
    centroids = centroids.map((old, cluster) => {
      const members = points.filter((_, i) => labels[i] === cluster);
      if (members.length > 0) return mean(members);
      const farthest = distances.indexOf(Math.max(...distances));
      distances[farthest] = -1;
      return points[farthest] ?? old;
    });
  }
  points.forEach((point, i) => (labels[i] = nearest(point, centroids)));
  return { labels, centroids, inertia };
}

function firstCentroids(
  points: readonly Float64Array[],
  clusters: number,
  random: () => number,
): Float64Array[] {
  const chosen = [points[Math.floor(random() * points.length)]];
  while (chosen.length < clusters) {
    const weights = points.map((point) => squaredDistance(point, chosen[nearest(point, chosen)]));
    const total = weights.reduce((a, b) => a + b, 0);
    let at = random() * total;
    const index = weights.findIndex((weight) => (at -= weight) < 0);
    chosen.push(points[index < 0 ? Math.floor(random() * points.length) : index]);
  }
  return chosen.map((point) => point.slice());
}

export interface EpisodeOptions {
  /** Default 4, or the windows there are. */
  episodes?: number;
  /** Windows whose text stands for an episode. Default 8. */
  medoids?: number;
  seed?: number;
  embed: Embedder;
}

/** The topics of one conversation. */
export class EpisodeIndex {
  readonly windows: readonly string[];
  /** [windows] episode of each. */
  readonly labels: Uint32Array;
  readonly centroids: readonly Float64Array[];
  /** Windows whose vector was 0 or not finite: they belong to the episode of the window before. */
  readonly rejected: number;
  readonly #embed: Embedder;
  readonly #vectors: readonly Float64Array[];
  readonly #medoids: number;

  constructor(windows: readonly string[], options: EpisodeOptions) {
    if (windows.length === 0) throw invalidArgument("windows", windows, "at least one");
    const { episodes = 4, medoids = 8, seed = 1, embed } = options;
    this.windows = windows;
    this.#embed = embed;
    this.#medoids = requireInteger("medoids", medoids, 1, 2 ** 20);
    this.#vectors = windows.map((text) => normalised(embed(text)));
    const usable = [...windows.keys()].filter((i) => isUsable(this.#vectors[i]));
    if (usable.length === 0) throw invalidArgument("windows", windows, "one whose vector is not 0");
    this.rejected = windows.length - usable.length;
    const count = Math.min(requireInteger("episodes", episodes, 1, 2 ** 16), usable.length);
    const found = kMeans(
      usable.map((i) => this.#vectors[i]),
      count,
      { seed },
    );
    this.centroids = found.centroids;
    this.labels = new Uint32Array(windows.length);
    let label = found.labels[0];
    windows.forEach((_, i) => {
      const at = usable.indexOf(i);
      if (at >= 0) label = found.labels[at];
      this.labels[i] = label;
    });
  }

  get episodes(): number {
    return this.centroids.length;
  }

  /** Windows nearest to an episode's centroid, in the order of the conversation: the text it is probed with. */
  episodeText(episode: number): string {
    const centroid = this.centroids[requireInteger("episode", episode, 0, this.episodes - 1)];
    const norm = Math.sqrt(dot(centroid, centroid)) || 1;
    const cosine = (i: number): number => {
      const value = dot(this.#vectors[i], centroid) / norm;
      return Number.isFinite(value) ? value : -Infinity;
    };
    return [...this.windows.keys()]
      .filter((i) => this.labels[i] === episode)
      .sort((a, b) => cosine(b) - cosine(a) || a - b)
      .slice(0, this.#medoids)
      .sort((a, b) => a - b)
      .map((i) => this.windows[i])
      .join("");
  }

  /** The episode whose centroid has the largest dot product with the question; ties: the lower one. */
  match(question: string): number {
    const vector = normalised(this.#embed(question));
    let best = 0;
    this.centroids.forEach((centroid, i) => {
      if (dot(vector, centroid) > dot(vector, this.centroids[best])) best = i;
    });
    return best;
  }
}

function isUsable(vector: Float64Array): boolean {
  return vector.every(Number.isFinite) && vector.some((value) => value !== 0);
}

function normalised(vector: Float64Array): Float64Array {
  const norm = Math.sqrt(dot(vector, vector));
  return norm > 0 ? vector.map((value) => value / norm) : vector;
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let d = 0; d < a.length; d++) sum += a[d] * b[d];
  return sum;
}

function squaredDistance(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let d = 0; d < a.length; d++) sum += (a[d] - b[d]) ** 2;
  return sum;
}

function nearest(point: Float64Array, centroids: readonly Float64Array[]): number {
  let [best, least] = [0, Infinity];
  centroids.forEach((centroid, i) => {
    const distance = squaredDistance(point, centroid);
    if (distance < least) [best, least] = [i, distance];
  });
  return best;
}

function mean(points: readonly Float64Array[]): Float64Array {
  const sum = new Float64Array(points[0].length);
  for (const point of points) point.forEach((value, d) => (sum[d] += value / points.length));
  return sum;
}

/** mulberry32, in [0, 1). */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

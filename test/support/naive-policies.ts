/**
 * Eviction methods written down a second time, plainly: sets of positions, maps, sorts and f64, over attention that can be
 * asked for again. Nothing is shared with the policies but the definition of attention.
 */
import { attend, keyOf, type Logits, type SyntheticShape } from "./synthetic-host.js";

/** One lane: what it holds, and what attention it gives. */
export interface NaiveContext {
  readonly shape: SyntheticShape;
  readonly logits: Logits;
  readonly seed: number;
  readonly promptTokens: number;
}

/** Positions held, [layers * kvHeads], ascending. */
export interface NaivePolicy {
  prefill(): number[][];
  step(): number[][];
}

type Row = Map<number, number>;

/** The best `k` of positions: protected ones first, then by score, ties in an order of their own, larger positions. */
export function keepLargest(
  positions: readonly number[],
  score: (position: number) => number,
  k: number,
  isProtected: (position: number) => boolean = () => false,
  tie: (position: number) => number = () => 0,
): number[] {
  const rank = (a: number, b: number): number =>
    Number(isProtected(b)) - Number(isProtected(a)) || score(b) - score(a) || tie(b) - tie(a) || b - a;
  return [...positions]
    .sort(rank)
    .slice(0, k)
    .sort((a, b) => a - b);
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

/** Attention of one query head over a set of positions, as a map. */
export function rowOf(
  { logits }: NaiveContext,
  layer: number,
  head: number,
  query: number,
  held: readonly number[],
): Row {
  const seen = held.filter((position) => position <= query);
  const row = attend(logits, layer, head, query, seen);
  return new Map(seen.map((position, i) => [position, row[i]]));
}

/** Lanes that hold sets of positions; subclasses say what is dropped. */
abstract class NaiveLanes implements NaivePolicy {
  protected readonly context: NaiveContext;
  protected readonly held: number[][];
  protected seen = 0;
  protected t = 0;

  constructor(context: NaiveContext) {
    this.context = context;
    this.held = range(0, context.shape.layers * context.shape.kvHeads).map(() => []);
  }

  prefill(): number[][] {
    this.seen = this.context.promptTokens;
    this.held.forEach((_, lane) => (this.held[lane] = range(0, this.seen)));
    this.afterPrefill();
    return this.snapshot();
  }

  step(): number[][] {
    this.held.forEach((positions) => positions.push(this.seen));
    this.seen += 1;
    this.t += 1;
    this.afterStep();
    return this.snapshot();
  }

  protected abstract afterPrefill(): void;
  protected abstract afterStep(): void;

  protected headsOf(lane: number): { layer: number; heads: number[] } {
    const { heads, kvHeads } = this.context.shape;
    const group = heads / kvHeads;
    const kvHead = lane % kvHeads;
    return { layer: Math.floor(lane / kvHeads), heads: range(kvHead * group, (kvHead + 1) * group) };
  }

  private snapshot(): number[][] {
    return this.held.map((positions) => [...positions]);
  }
}

export class NaiveH2O extends NaiveLanes {
  readonly scores: Map<number, number>[];
  readonly #heavy: number;
  readonly #recent: number;
  readonly #every: number;

  constructor(context: NaiveContext, heavy: number, recent: number, every = 1) {
    super(context);
    [this.#heavy, this.#recent, this.#every] = [heavy, recent, every];
    this.scores = this.held.map(() => new Map());
  }

  protected afterPrefill(): void {
    for (const lane of this.held.keys()) {
      for (let query = 0; query < this.seen; query++) this.#add(lane, query);
      this.#keep(lane);
    }
  }

  protected afterStep(): void {
    for (const lane of this.held.keys()) {
      this.#add(lane, this.seen - 1);
      if (this.t % this.#every === 0) this.#keep(lane);
    }
  }

  #add(lane: number, query: number): void {
    const { layer, heads } = this.headsOf(lane);
    for (const head of heads)
      for (const [position, value] of rowOf(this.context, layer, head, query, this.held[lane]))
        this.scores[lane].set(position, (this.scores[lane].get(position) ?? 0) + value);
  }

  #keep(lane: number): void {
    const recent = (position: number): boolean => position >= this.seen - this.#recent;
    const score = (position: number): number => this.scores[lane].get(position)!;
    this.held[lane] = keepLargest(this.held[lane], score, this.#heavy + this.#recent, recent);
  }
}

export class NaiveTova extends NaiveLanes {
  readonly #budget: number;
  readonly #every: number;

  constructor(context: NaiveContext, budget: number, every = 1) {
    super(context);
    [this.#budget, this.#every] = [budget, every];
  }

  protected afterPrefill(): void {
    this.#keep();
  }

  protected afterStep(): void {
    if (this.t % this.#every === 0) this.#keep();
  }

  #keep(): void {
    const { layers, heads, kvHeads } = this.context.shape;
    for (let layer = 0; layer < layers; layer++) {
      const positions = this.held[layer * kvHeads];
      const rows = range(0, heads).map((head) => rowOf(this.context, layer, head, this.seen - 1, positions));
      const score = (position: number): number =>
        rows.reduce((sum, row) => sum + row.get(position)!, 0) / heads;
      const newest = (position: number): boolean => position === this.seen - 1;
      const kept = keepLargest(positions, score, this.#budget, newest);
      for (let kvHead = 0; kvHead < kvHeads; kvHead++) this.held[layer * kvHeads + kvHead] = [...kept];
    }
  }
}

/** Keeps the last-important step and the longest gap of every token ever seen, held or not. */
export class NaiveRecurrence extends NaiveLanes {
  readonly lastImportant: Map<number, number>[];
  readonly gaps: Map<number, number>[];
  readonly #options: {
    budget: number;
    window: number;
    alpha: number;
    recent: number;
    score: (silence: number, mri: number) => number;
  };

  constructor(
    context: NaiveContext,
    options: {
      budget: number;
      /** Steps from one dropping to the next. */
      window: number;
      alpha: number;
      recent: number;
      score: (silence: number, mri: number) => number;
    },
  ) {
    super(context);
    this.#options = options;
    this.lastImportant = this.held.map(() => new Map());
    this.gaps = this.held.map(() => new Map());
  }

  protected afterPrefill(): void {}

  protected afterStep(): void {
    const { budget, window, alpha, recent, score } = this.#options;
    for (const lane of this.held.keys()) {
      const { layer, heads } = this.headsOf(lane);
      const [last, gaps] = [this.lastImportant[lane], this.gaps[lane]];
      for (const position of this.held[lane]) {
        if (last.has(position)) continue;
        last.set(position, this.t > 1 ? this.t - 1 : 0);
        gaps.set(position, 0);
      }
      const rows = heads.map((head) => rowOf(this.context, layer, head, this.seen - 1, this.held[lane]));
      for (const position of this.held[lane]) {
        if (Math.max(...rows.map((row) => row.get(position)!)) < alpha) continue;
        gaps.set(position, Math.max(gaps.get(position)!, this.t - last.get(position)!));
        last.set(position, this.t);
      }
      if (this.t % window !== 0) continue;
      this.held[lane] = keepLargest(
        this.held[lane],
        (position) => Math.fround(score(this.t - last.get(position)!, gaps.get(position)!)),
        budget,
        (position) => position >= this.seen - recent,
        (position) => last.get(position)!,
      );
    }
  }
}

/** Methods that choose once, from a score of (lane, position). */
export class NaivePrompt extends NaiveLanes {
  readonly #budget: number | ((layer: number) => number);
  readonly #recent: number;
  readonly #score: (context: NaiveContext, lane: number) => (position: number) => number;

  constructor(
    context: NaiveContext,
    budget: number | ((layer: number) => number),
    recent: number,
    score: (context: NaiveContext, lane: number) => (position: number) => number,
  ) {
    super(context);
    [this.#budget, this.#recent, this.#score] = [budget, recent, score];
  }

  protected afterPrefill(): void {
    for (const lane of this.held.keys()) {
      const budget =
        typeof this.#budget === "number"
          ? this.#budget
          : this.#budget(Math.floor(lane / this.context.shape.kvHeads));
      const recent = Math.min(this.#recent, budget);
      const score = this.#score(this.context, lane);
      this.held[lane] = keepLargest(
        this.held[lane],
        (position) => Math.fround(score(position)),
        budget,
        (position) => position >= this.seen - recent,
      );
    }
  }

  protected afterStep(): void {}
}

/** [query][position] rows of a query head over the whole prompt. */
function promptMatrix(context: NaiveContext, layer: number, head: number): number[][] {
  const all = range(0, context.promptTokens);
  return all.map((query) => {
    const row = rowOf(context, layer, head, query, all);
    return all.map((position) => row.get(position) ?? 0);
  });
}

function groupOf({ shape }: NaiveContext, lane: number): { layer: number; heads: number[] } {
  const group = shape.heads / shape.kvHeads;
  const kvHead = lane % shape.kvHeads;
  return { layer: Math.floor(lane / shape.kvHeads), heads: range(kvHead * group, (kvHead + 1) * group) };
}

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

/** Mean of each head's pooled window column, mean over heads. */
export function naiveSnapKV(window: number, kernel: number) {
  return (context: NaiveContext, lane: number) => {
    const { layer, heads } = groupOf(context, lane);
    const before = context.promptTokens - Math.min(window, context.promptTokens);
    const matrices = heads.map((head) => promptMatrix(context, layer, head).slice(before));
    const column = (position: number): number =>
      position < 0 || position >= before ? 0 : mean(matrices.map((m) => mean(m.map((row) => row[position]))));
    const reach = (kernel - 1) / 2;
    return (position: number) =>
      range(position - reach, position + reach + 1).reduce((sum, p) => sum + column(p), 0) / kernel;
  };
}

/** Column sum over the number of queries that saw the key, mean over heads. */
export function naiveObserved(context: NaiveContext, lane: number): (position: number) => number {
  const { layer, heads } = groupOf(context, lane);
  const matrices = heads.map((head) => promptMatrix(context, layer, head));
  return (position) =>
    mean(matrices.map((m) => m.reduce((sum, row) => sum + row[position], 0))) /
    (context.promptTokens - position);
}

export function naiveKeyDiff(context: NaiveContext, lane: number): (position: number) => number {
  const { kvHeads, headDim } = context.shape;
  const keys = range(0, context.promptTokens).map((position) =>
    keyOf(context.seed, Math.floor(lane / kvHeads), lane % kvHeads, position, headDim),
  );
  const norm = (key: readonly number[]): number => Math.hypot(...key);
  const anchor = range(0, headDim).map((d) => mean(keys.map((key) => key[d] / norm(key))));
  return (position) =>
    -keys[position].reduce((sum, value, d) => sum + value * anchor[d], 0) /
    (norm(keys[position]) * norm(anchor));
}

export function naiveKeyNorm(context: NaiveContext, lane: number): (position: number) => number {
  const { kvHeads, headDim } = context.shape;
  return (position) =>
    -Math.hypot(...keyOf(context.seed, Math.floor(lane / kvHeads), lane % kvHeads, position, headDim));
}

/** PyramidKV's published integers. */
export function naivePyramid(budget: number, window: number, beta: number, layers: number, prompt: number) {
  const inner = budget - window;
  let low = Math.floor(inner / beta);
  let high = 2 * inner - low;
  if (high >= prompt - window) {
    high = prompt - window;
    low = 2 * inner - high;
  }
  const step = Math.floor((high - low) / (layers - 1));
  return (layer: number) => high - layer * step + window;
}

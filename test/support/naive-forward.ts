/**
 * A plain float64 forward pass over a fixture: nothing shared with the executors, the whole attention matrix, and
 * lanes (the cached tokens of a layer and KV head) as lists from which anything may be taken.
 */
import type { Fixture } from "./model-fixtures.js";

type Config = Record<string, unknown>;

function frequency(config: Config, headDim: number, i: number): number {
  const base = (config.rope_theta as number) ** ((-2 * i) / headDim);
  const scaling = config.rope_scaling as Record<string, number | string> | undefined;
  const type = scaling?.rope_type ?? scaling?.type;
  if (scaling === undefined || type === undefined) return base;
  const factor = scaling.factor as number;
  if (type === "linear") return base / factor;
  const [low, high] = [scaling.low_freq_factor as number, scaling.high_freq_factor as number];
  const original = scaling.original_max_position_embeddings as number;
  const length = (2 * Math.PI) / base;
  if (length < original / high) return base;
  if (length > original / low) return base / factor;
  const mix = (original / length - low) / (high - low);
  return (base / factor) * (1 - mix) + base * mix;
}

/** The cached tokens of one layer and KV head. */
export interface NaiveLane {
  keys: number[][];
  values: number[][];
  positions: number[];
}

export interface NaiveStep {
  /** [token][vocab]. */
  readonly logits: number[][];
  /** Probabilities [layer][head][token][slot]; slots that a token does not see are 0. */
  readonly attention: number[][][][];
  /** Like attention, with softmax over the slots held before the step. */
  readonly cachedAttention: number[][][][];
  /** |O' - O| / (|O| + 1e-5) by layer, O' over `keep`. */
  readonly outputErrors: number[];
}

export interface NaiveOptions {
  /** [layers * kvHeads] slot that the only new token takes; undefined = append. */
  writeSlots?: readonly (number | undefined)[];
  /** [layers * kvHeads] slots that queries see, beside new tokens; undefined = all. */
  live?: readonly (ReadonlySet<number> | undefined)[];
  /** [layers * kvHeads] slots that the smaller cache keeps; undefined = all. */
  keep?: readonly (ReadonlySet<number> | undefined)[];
}

function softmax(scores: number[]): number[] {
  const largest = Math.max(...scores);
  if (largest === -Infinity) return scores.map(() => 0);
  const weights = scores.map((score) => Math.exp(score - largest));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}

const norm2 = (rows: number[][]): number =>
  Math.sqrt(rows.flat().reduce((sum, value) => sum + value * value, 0));

/** One sequence: `forward` feeds tokens, `lanes` is what they left. */
export class NaiveModel {
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  /** [layers * kvHeads]. */
  readonly lanes: NaiveLane[];
  readonly #fixture: Fixture;
  readonly #headDim: number;
  readonly #window: number;

  constructor(fixture: Fixture) {
    this.#fixture = fixture;
    const { config } = fixture;
    this.layers = this.#n("num_hidden_layers");
    this.heads = this.#n("num_attention_heads");
    this.kvHeads = (config.num_key_value_heads as number | undefined) ?? this.heads;
    this.#headDim = (config.head_dim as number | undefined) ?? this.#n("hidden_size") / this.heads;
    const mistral = String(config.architectures).startsWith("Mistral");
    this.#window = mistral ? ((config.sliding_window as number) ?? 0) : 0;
    this.lanes = Array.from({ length: this.layers * this.kvHeads }, () => ({
      keys: [],
      values: [],
      positions: [],
    }));
  }

  /** Feeds tokens at positions `first`, `first` + 1, ... */
  forward(tokens: readonly number[], first: number, options: NaiveOptions = {}): NaiveStep {
    const hidden = this.#n("hidden_size");
    const embedding = this.#get("model.embed_tokens.weight");
    const positions = tokens.map((_, i) => first + i);
    let states = tokens.map((token) => Array.from(embedding.subarray(token * hidden, (token + 1) * hidden)));
    const attention: number[][][][] = [];
    const cachedAttention: number[][][][] = [];
    const outputErrors: number[] = [];
    for (let layer = 0; layer < this.layers; layer++) {
      const at = `model.layers.${layer}`;
      const normed = states.map((x) => this.#norm(x, `${at}.input_layernorm.weight`));
      const rotated = (name: string): number[][] =>
        normed.map((x, i) => this.#rotate(this.#product(x, `${at}.self_attn.${name}`), positions[i]));
      const queries = rotated("q_proj");
      const before = this.#write(layer, rotated("k_proj"), normed, positions, options.writeSlots);
      const seen = this.#attend(layer, queries, before, options, options.live);
      const project = (rows: number[][]): number[][] =>
        rows.map((row) => this.#product(row, `${at}.self_attn.o_proj`));
      const output = project(seen.outputs);
      const kept = project(
        this.#attend(layer, queries, before, options, options.keep ?? options.live).outputs,
      );
      const difference = kept.map((row, i) => row.map((value, d) => value - output[i][d]));
      outputErrors.push(norm2(difference) / (norm2(output) + 1e-5));
      attention.push(seen.attention);
      cachedAttention.push(seen.cached);
      states = states.map((x, i) => this.#feedForward(add(x, output[i]), at));
    }
    const head = this.#fixture.config.tie_word_embeddings ? "model.embed_tokens" : "lm_head";
    const logits = states.map((x) => this.#product(this.#norm(x, "model.norm.weight"), head));
    return { logits, attention, cachedAttention, outputErrors };
  }

  /** Keeps only the given slots of a lane. */
  keep(lane: number, slots: readonly number[]): void {
    const { keys, values, positions } = this.lanes[lane];
    this.lanes[lane] = {
      keys: slots.map((slot) => keys[slot]),
      values: slots.map((slot) => values[slot]),
      positions: slots.map((slot) => positions[slot]),
    };
  }

  /** Enters K and V of the new tokens; returns the lanes' lengths before. */
  #write(
    layer: number,
    keys: number[][],
    normed: number[][],
    positions: number[],
    writeSlots: NaiveOptions["writeSlots"],
  ): number[] {
    const values = normed.map((x) => this.#product(x, `model.layers.${layer}.self_attn.v_proj`));
    const dim = this.#headDim;
    return Array.from({ length: this.kvHeads }, (_, head) => {
      const lane = this.lanes[layer * this.kvHeads + head];
      const length = lane.keys.length;
      const part = (row: number[]): number[] => row.slice(head * dim, (head + 1) * dim);
      const place = writeSlots?.[layer * this.kvHeads + head];
      positions.forEach((position, i) => {
        const slot = place ?? lane.keys.length;
        lane.keys[slot] = part(keys[i]);
        lane.values[slot] = part(values[i]);
        lane.positions[slot] = position;
      });
      return length;
    });
  }

  #attend(
    layer: number,
    queries: number[][],
    before: number[],
    options: NaiveOptions,
    visible: NaiveOptions["live"],
  ): { outputs: number[][]; attention: number[][][]; cached: number[][][] } {
    const dim = this.#headDim;
    const outputs = queries.map(() => [] as number[]);
    const attention: number[][][] = [];
    const cached: number[][][] = [];
    for (let head = 0; head < this.heads; head++) {
      const kvHead = Math.floor((head * this.kvHeads) / this.heads);
      const index = layer * this.kvHeads + kvHead;
      const lane = this.lanes[index];
      const place = options.writeSlots?.[index];
      const rows = queries.map((query, t) => {
        const last = place === undefined ? before[kvHead] + t : before[kvHead] - 1;
        const scores = lane.keys.map((key, slot) => {
          const isNew = slot >= before[kvHead] || slot === place;
          const outside = this.#window > 0 && lane.positions[slot] <= lane.positions[last] - this.#window;
          const hidden = !isNew && visible?.[index] !== undefined && !visible[index].has(slot);
          if (slot > last || outside || hidden) return -Infinity;
          let dot = 0;
          for (let d = 0; d < dim; d++) dot += query[head * dim + d] * key[d];
          return dot / Math.sqrt(dim);
        });
        const row = softmax(scores);
        for (let d = 0; d < dim; d++)
          outputs[t].push(row.reduce((sum, weight, slot) => sum + weight * lane.values[slot][d], 0));
        const old = scores.map((score, slot) => (slot < before[kvHead] ? score : -Infinity));
        return { row, old: softmax(old) };
      });
      attention.push(rows.map(({ row }) => row));
      cached.push(rows.map(({ old }) => old));
    }
    return { outputs, attention, cached };
  }

  #feedForward(x: number[], at: string): number[] {
    const inner = this.#norm(x, `${at}.post_attention_layernorm.weight`);
    const up = this.#product(inner, `${at}.mlp.up_proj`);
    const gate = this.#product(inner, `${at}.mlp.gate_proj`);
    const gated = gate.map((g, i) => (g / (1 + Math.exp(-g))) * up[i]);
    return add(x, this.#product(gated, `${at}.mlp.down_proj`));
  }

  #n(field: string): number {
    return this.#fixture.config[field] as number;
  }

  #get(name: string): Float64Array {
    return this.#fixture.tensors.get(name)!.values;
  }

  #product(x: number[], name: string): number[] {
    const w = this.#get(`${name}.weight`);
    const bias = this.#fixture.tensors.get(`${name}.bias`)?.values;
    return Array.from({ length: w.length / x.length }, (_, o) =>
      x.reduce((sum, value, i) => sum + value * w[o * x.length + i], bias?.[o] ?? 0),
    );
  }

  #norm(x: number[], name: string): number[] {
    const mean = x.reduce((sum, value) => sum + value * value, 0) / x.length;
    const scale = 1 / Math.sqrt(mean + this.#n("rms_norm_eps"));
    const w = this.#get(name);
    return x.map((value, i) => value * scale * w[i]);
  }

  #rotate(x: number[], position: number): number[] {
    const dim = this.#headDim;
    const out = x.slice();
    for (let head = 0; head < x.length / dim; head++) {
      for (let i = 0; i < dim / 2; i++) {
        const angle = position * frequency(this.#fixture.config, dim, i);
        const [a, b] = [head * dim + i, head * dim + i + dim / 2];
        out[a] = x[a] * Math.cos(angle) - x[b] * Math.sin(angle);
        out[b] = x[b] * Math.cos(angle) + x[a] * Math.sin(angle);
      }
    }
    return out;
  }
}

const add = (x: number[], y: number[]): number[] => x.map((value, i) => value + y[i]);

/** Logits [tokens][vocab] of a whole sequence. */
export function naiveForward(fixture: Fixture, tokens: readonly number[]): number[][] {
  return new NaiveModel(fixture).forward(tokens, 0).logits;
}

/**
 * A plain float64 forward pass over a fixture: nothing shared with the executors, the whole attention matrix.
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

/** Logits [tokens][vocab] of a whole sequence. */
export function naiveForward({ config, tensors }: Fixture, tokens: readonly number[]): number[][] {
  const n = (field: string): number => config[field] as number;
  const hidden = n("hidden_size");
  const heads = n("num_attention_heads");
  const kvHeads = (config.num_key_value_heads as number | undefined) ?? heads;
  const headDim = (config.head_dim as number | undefined) ?? hidden / heads;
  const window = String(config.architectures).startsWith("Mistral")
    ? ((config.sliding_window as number) ?? 0)
    : 0;
  const get = (name: string): Float64Array => tensors.get(name)!.values;

  const product = (x: number[], name: string): number[] => {
    const w = get(`${name}.weight`);
    const bias = tensors.get(`${name}.bias`)?.values;
    return Array.from({ length: w.length / x.length }, (_, o) =>
      x.reduce((sum, value, i) => sum + value * w[o * x.length + i], bias?.[o] ?? 0),
    );
  };
  const norm = (x: number[], name: string): number[] => {
    const scale =
      1 / Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length + n("rms_norm_eps"));
    const w = get(name);
    return x.map((value, i) => value * scale * w[i]);
  };
  const rotate = (x: number[], position: number): number[] => {
    const out = x.slice();
    for (let head = 0; head < x.length / headDim; head++) {
      for (let i = 0; i < headDim / 2; i++) {
        const angle = position * frequency(config, headDim, i);
        const [a, b] = [head * headDim + i, head * headDim + i + headDim / 2];
        out[a] = x[a] * Math.cos(angle) - x[b] * Math.sin(angle);
        out[b] = x[b] * Math.cos(angle) + x[a] * Math.sin(angle);
      }
    }
    return out;
  };

  let states = tokens.map((token) =>
    Array.from(get("model.embed_tokens.weight").subarray(token * hidden, (token + 1) * hidden)),
  );
  for (let layer = 0; layer < n("num_hidden_layers"); layer++) {
    const at = `model.layers.${layer}`;
    const normed = states.map((x) => norm(x, `${at}.input_layernorm.weight`));
    const q = normed.map((x, position) => rotate(product(x, `${at}.self_attn.q_proj`), position));
    const k = normed.map((x, position) => rotate(product(x, `${at}.self_attn.k_proj`), position));
    const v = normed.map((x) => product(x, `${at}.self_attn.v_proj`));
    states = states.map((x, position) => {
      const attended: number[] = [];
      for (let head = 0; head < heads; head++) {
        const [from, kvFrom] = [head * headDim, Math.floor((head * kvHeads) / heads) * headDim];
        const first = window > 0 ? Math.max(0, position + 1 - window) : 0;
        const scores = k.slice(first, position + 1).map((key) => {
          let dot = 0;
          for (let d = 0; d < headDim; d++) dot += q[position][from + d] * key[kvFrom + d];
          return Math.exp(dot / Math.sqrt(headDim));
        });
        const sum = scores.reduce((total, score) => total + score, 0);
        for (let d = 0; d < headDim; d++) {
          attended.push(
            scores.reduce((total, score, i) => total + (score / sum) * v[first + i][kvFrom + d], 0),
          );
        }
      }
      const projected = product(attended, `${at}.self_attn.o_proj`);
      return x.map((value, i) => value + projected[i]);
    });
    states = states.map((x) => {
      const inner = norm(x, `${at}.post_attention_layernorm.weight`);
      const up = product(inner, `${at}.mlp.up_proj`);
      const gated = product(inner, `${at}.mlp.gate_proj`).map((g, i) => (g / (1 + Math.exp(-g))) * up[i]);
      const down = product(gated, `${at}.mlp.down_proj`);
      return x.map((value, i) => value + down[i]);
    });
  }
  const head = config.tie_word_embeddings ? "model.embed_tokens" : "lm_head";
  return states.map((x) => product(norm(x, "model.norm.weight"), head));
}

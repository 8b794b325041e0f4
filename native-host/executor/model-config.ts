/**
 * ModelConfig: what config.json says, checked, in our terms; and the tensors a model of that shape must have.
 *
 * Families: Llama, Mistral, Qwen2 (decoder-only, RMSNorm, rotary positions, grouped-query attention, SwiGLU).
 */
import { QuartermasterError, show } from "../../bindings/errors.js";

export type WeightType = "f32" | "f16" | "bf16";

export type RopeScaling =
  | { type: "none" }
  | { type: "linear"; factor: number }
  | {
      type: "llama3";
      factor: number;
      lowFreqFactor: number;
      highFreqFactor: number;
      originalMaxPositions: number;
    };

export interface ModelConfig {
  readonly architecture: string;
  readonly layers: number;
  readonly hidden: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly intermediate: number;
  readonly vocab: number;
  readonly rmsEps: number;
  readonly ropeTheta: number;
  /** "half": element i turns with i + headDim/2 (Hugging Face); "interleaved": 2i with 2i + 1. */
  readonly ropeLayout: "half" | "interleaved";
  readonly ropeScaling: RopeScaling;
  /** Whether the q, k, v projections have biases. */
  readonly attentionBias: boolean;
  readonly tiedEmbeddings: boolean;
  /** Tokens a query sees at most, itself included; 0 = all. */
  readonly slidingWindow: number;
  /** By layer, where layers differ; undefined: all have `slidingWindow`. */
  readonly layerWindows?: readonly number[];
  readonly maxPositions: number;
  readonly eosTokenIds: readonly number[];
}

interface Family {
  readonly attentionBias: boolean;
  readonly slidingWindow: boolean;
}

const FAMILIES: Readonly<Record<string, Family>> = {
  LlamaForCausalLM: { attentionBias: false, slidingWindow: false },
  MistralForCausalLM: { attentionBias: false, slidingWindow: true },
  Qwen2ForCausalLM: { attentionBias: true, slidingWindow: false },
};

type Json = Readonly<Record<string, unknown>>;

function configError(field: string, value: unknown, range: string): QuartermasterError {
  return new QuartermasterError(
    "MODEL_CONFIG",
    `config.json: ${field} is ${show(value)}; allowed: ${range}`,
    {
      argument: field,
      value,
      range,
    },
  );
}

function count(json: Json, field: string, fallback?: number): number {
  const value = json[field] ?? fallback;
  if (typeof value !== "number" || !Number.isInteger(value) || value < 1)
    throw configError(field, value, "an integer >= 1");
  return value;
}

function positive(json: Json, field: string, fallback?: number): number {
  const value = json[field] ?? fallback;
  if (typeof value !== "number" || !(value > 0 && value < Infinity))
    throw configError(field, value, "a number > 0");
  return value;
}

function readRopeScaling(json: Json): RopeScaling {
  const scaling = (json.rope_scaling ?? json.rope_parameters) as Json | null | undefined;
  if (scaling === null || scaling === undefined) return { type: "none" };
  const type = scaling.rope_type ?? scaling.type ?? "default";
  switch (type) {
    case "default":
      return { type: "none" };
    case "linear":
      return { type: "linear", factor: positive(scaling, "factor") };
    case "llama3":
      return {
        type: "llama3",
        factor: positive(scaling, "factor"),
        lowFreqFactor: positive(scaling, "low_freq_factor"),
        highFreqFactor: positive(scaling, "high_freq_factor"),
        originalMaxPositions: count(scaling, "original_max_position_embeddings"),
      };
    default:
      throw configError("rope_scaling.rope_type", type, "default, linear, llama3");
  }
}

/** Windows by layer from `layer_types`, where some layers slide and others do not. */
function readLayerWindows(json: Json): readonly number[] | undefined {
  const types = json.layer_types;
  if (!Array.isArray(types)) return undefined;
  if (types.length !== count(json, "num_hidden_layers"))
    throw configError("layer_types", types, "one for each layer");
  const windows = types.map((type: unknown) => {
    if (type === "full_attention") return 0;
    if (type === "sliding_attention") return count(json, "sliding_window");
    throw configError("layer_types", type, "full_attention, sliding_attention");
  });
  return windows.some((window) => window > 0) ? windows : undefined;
}

/** Tokens that a query of a layer sees at most, itself included; 0 = all. */
export function windowOf(config: ModelConfig, layer: number): number {
  return config.layerWindows?.[layer] ?? config.slidingWindow;
}

function readIds(value: unknown): number[] {
  const ids = Array.isArray(value) ? value : [value];
  return ids.filter((id): id is number => typeof id === "number" && Number.isInteger(id) && id >= 0);
}

/**
 * Reads config.json (and the end-of-text ids of generation_config.json). Throws MODEL_CONFIG,
 * UNKNOWN_ARCHITECTURE.
 */
export function parseModelConfig(text: string, generationText?: string): ModelConfig {
  const json = parseObject(text, "config.json");
  const generation =
    generationText === undefined ? {} : parseObject(generationText, "generation_config.json");
  const architecture = String((json.architectures as unknown[] | undefined)?.[0] ?? json.model_type);
  const family = FAMILIES[architecture];
  if (family === undefined) {
    const known = Object.keys(FAMILIES).join(", ");
    throw new QuartermasterError(
      "UNKNOWN_ARCHITECTURE",
      `architecture ${show(architecture)}; known: ${known}`,
      {
        argument: "architectures",
        value: architecture,
        range: known,
      },
    );
  }
  const activation = json.hidden_act ?? "silu";
  if (activation !== "silu") throw configError("hidden_act", activation, "silu");
  if (json.mlp_bias === true) throw configError("mlp_bias", true, "false");
  const hidden = count(json, "hidden_size");
  const heads = count(json, "num_attention_heads");
  const kvHeads = count(json, "num_key_value_heads", heads);
  if (heads % kvHeads !== 0) throw configError("num_key_value_heads", kvHeads, `a divisor of ${heads} heads`);
  const headDim = count(json, "head_dim", hidden / heads);
  if (headDim % 4 !== 0) throw configError("head_dim", headDim, "a multiple of 4");
  if (hidden % 4 !== 0) throw configError("hidden_size", hidden, "a multiple of 4");
  const rope = (json.rope_parameters ?? {}) as Json;
  const window = family.slidingWindow && json.use_sliding_window !== false ? json.sliding_window : undefined;
  const layerWindows = readLayerWindows(json);
  return {
    ...(layerWindows && { layerWindows }),
    architecture,
    layers: count(json, "num_hidden_layers"),
    hidden,
    heads,
    kvHeads,
    headDim,
    intermediate: count(json, "intermediate_size"),
    vocab: count(json, "vocab_size"),
    rmsEps: positive(json, "rms_norm_eps", 1e-6),
    ropeTheta: positive({ rope_theta: json.rope_theta ?? rope.rope_theta }, "rope_theta", 10000),
    ropeLayout: json.rope_interleaved === true ? "interleaved" : "half",
    ropeScaling: readRopeScaling(json),
    attentionBias: (json.attention_bias as boolean | undefined) ?? family.attentionBias,
    tiedEmbeddings: json.tie_word_embeddings === true,
    slidingWindow: typeof window === "number" && window > 0 ? window : 0,
    maxPositions: count(json, "max_position_embeddings", 2048),
    eosTokenIds: readIds(generation.eos_token_id ?? json.eos_token_id),
  };
}

function parseObject(text: string, file: string): Json {
  try {
    const json: unknown = JSON.parse(text);
    if (typeof json === "object" && json !== null && !Array.isArray(json)) return json as Json;
  } catch (error) {
    throw new QuartermasterError("MODEL_CONFIG", `${file} is not JSON: ${(error as Error).message}`, {
      cause: error,
    });
  }
  throw new QuartermasterError("MODEL_CONFIG", `${file} is not a JSON object`);
}

export interface TensorSpec {
  readonly name: string;
  readonly shape: readonly number[];
}

/** Every tensor a model of this shape must have, with Hugging Face's names; matrices are [out, in]. */
export function requiredTensors(config: ModelConfig): TensorSpec[] {
  const { hidden, intermediate, vocab } = config;
  const queries = config.heads * config.headDim;
  const keys = config.kvHeads * config.headDim;
  const tensors: TensorSpec[] = [{ name: "model.embed_tokens.weight", shape: [vocab, hidden] }];
  for (let layer = 0; layer < config.layers; layer++) {
    const at = `model.layers.${layer}`;
    tensors.push(
      { name: `${at}.input_layernorm.weight`, shape: [hidden] },
      { name: `${at}.self_attn.q_proj.weight`, shape: [queries, hidden] },
      { name: `${at}.self_attn.k_proj.weight`, shape: [keys, hidden] },
      { name: `${at}.self_attn.v_proj.weight`, shape: [keys, hidden] },
      { name: `${at}.self_attn.o_proj.weight`, shape: [hidden, queries] },
      { name: `${at}.post_attention_layernorm.weight`, shape: [hidden] },
      { name: `${at}.mlp.gate_proj.weight`, shape: [intermediate, hidden] },
      { name: `${at}.mlp.up_proj.weight`, shape: [intermediate, hidden] },
      { name: `${at}.mlp.down_proj.weight`, shape: [hidden, intermediate] },
    );
    if (config.attentionBias) {
      tensors.push(
        { name: `${at}.self_attn.q_proj.bias`, shape: [queries] },
        { name: `${at}.self_attn.k_proj.bias`, shape: [keys] },
        { name: `${at}.self_attn.v_proj.bias`, shape: [keys] },
      );
    }
  }
  tensors.push({ name: "model.norm.weight", shape: [hidden] });
  if (!config.tiedEmbeddings) tensors.push({ name: "lm_head.weight", shape: [vocab, hidden] });
  return tensors;
}

/** f32 elements of K and V a token takes over all layers. */
export function kvElementsPerToken(config: ModelConfig): number {
  return config.layers * 2 * config.kvHeads * config.headDim;
}

/** Angle a position turns dimension pair `i` by, per position, before scaling of the position. */
export function ropeFrequencies(config: ModelConfig): Float64Array {
  const { headDim, ropeTheta, ropeScaling } = config;
  const frequencies = new Float64Array(headDim / 2);
  for (let i = 0; i < frequencies.length; i++) {
    const frequency = ropeTheta ** ((-2 * i) / headDim);
    frequencies[i] = scaleFrequency(frequency, ropeScaling);
  }
  return frequencies;
}

function scaleFrequency(frequency: number, scaling: RopeScaling): number {
  if (scaling.type === "none") return frequency;
  if (scaling.type === "linear") return frequency / scaling.factor;
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositions } = scaling;
  const wavelength = (2 * Math.PI) / frequency;
  if (wavelength < originalMaxPositions / highFreqFactor) return frequency;
  if (wavelength > originalMaxPositions / lowFreqFactor) return frequency / factor;
  const smooth = (originalMaxPositions / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
  return ((1 - smooth) * frequency) / factor + smooth * frequency;
}

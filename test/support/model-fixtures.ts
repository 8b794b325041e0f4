/** Small random models written as Hugging Face directories, and damaged ones. */
import { copyFileSync, mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { TINY_RETRIEVAL } from "./package-root.js";
import { Random } from "./random.js";

export type Dtype = "F32" | "F16" | "BF16";

export interface FixtureTensor {
  readonly shape: readonly number[];
  /** Values as the file's type can hold them. */
  readonly values: Float64Array;
}

export interface Fixture {
  readonly directory: string;
  readonly config: Record<string, unknown>;
  readonly tensors: Map<string, FixtureTensor>;
}

/** config.json of a two-layer model; `changes` make it one family or another. */
export function smallConfig(changes: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    architectures: ["LlamaForCausalLM"],
    hidden_act: "silu",
    hidden_size: 32,
    intermediate_size: 48,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    vocab_size: 40,
    max_position_embeddings: 256,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    ...changes,
  };
}

function shapes(config: Record<string, unknown>): [string, number[]][] {
  const n = (field: string, fallback?: number): number => (config[field] ?? fallback) as number;
  const [hidden, ffn, vocab, heads] = [
    n("hidden_size"),
    n("intermediate_size"),
    n("vocab_size"),
    n("num_attention_heads"),
  ];
  const headDim = n("head_dim", hidden / heads);
  const [queries, keys] = [heads * headDim, n("num_key_value_heads", heads) * headDim];
  const list: [string, number[]][] = [["model.embed_tokens.weight", [vocab, hidden]]];
  for (let i = 0; i < n("num_hidden_layers"); i++) {
    const at = `model.layers.${i}.`;
    list.push([`${at}input_layernorm.weight`, [hidden]], [`${at}post_attention_layernorm.weight`, [hidden]]);
    list.push(
      [`${at}self_attn.q_proj.weight`, [queries, hidden]],
      [`${at}self_attn.k_proj.weight`, [keys, hidden]],
    );
    list.push(
      [`${at}self_attn.v_proj.weight`, [keys, hidden]],
      [`${at}self_attn.o_proj.weight`, [hidden, queries]],
    );
    list.push([`${at}mlp.gate_proj.weight`, [ffn, hidden]], [`${at}mlp.up_proj.weight`, [ffn, hidden]]);
    list.push([`${at}mlp.down_proj.weight`, [hidden, ffn]]);
    if (String(config.architectures).startsWith("Qwen2")) {
      list.push([`${at}self_attn.q_proj.bias`, [queries]], [`${at}self_attn.k_proj.bias`, [keys]]);
      list.push([`${at}self_attn.v_proj.bias`, [keys]]);
    }
  }
  list.push(["model.norm.weight", [hidden]]);
  if (!config.tie_word_embeddings) list.push(["lm_head.weight", [vocab, hidden]]);
  return list;
}

/** Rounds to the type: values with a short mantissa, so that f16 and bf16 hold them exactly. */
function encode(dtype: Dtype, value: number): { bytes: number[]; value: number } {
  const view = new DataView(new ArrayBuffer(4));
  const rounded = dtype === "F32" ? Math.fround(value) : Math.round(value * 64) / 64;
  view.setFloat32(0, rounded, true);
  const bits = view.getUint32(0, true);
  if (dtype === "F32")
    return { bytes: [bits & 255, (bits >> 8) & 255, (bits >> 16) & 255, bits >>> 24], value: rounded };
  const half = dtype === "BF16" ? bits >>> 16 : toHalf(bits);
  return { bytes: [half & 255, half >> 8], value: rounded };
}

/** f32 bits to f16 bits of a normal or zero value. */
function toHalf(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const exponent = ((bits >>> 23) & 255) - 112;
  return (bits & 0x7fffffff) === 0 ? sign : sign | (exponent << 10) | ((bits >>> 13) & 0x3ff);
}

/** One safetensors file. */
export function safetensors(
  tensors: ReadonlyMap<string, { dtype: string; shape: readonly number[]; bytes: Uint8Array }>,
): Uint8Array {
  const header: Record<string, unknown> = {};
  let offset = 0;
  for (const [name, { dtype, shape, bytes }] of tensors) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes.length] };
    offset += bytes.length;
  }
  let text = JSON.stringify(header);
  text += " ".repeat((8 - (text.length % 8)) % 8);
  const file = new Uint8Array(8 + text.length + offset);
  new DataView(file.buffer).setBigUint64(0, BigInt(text.length), true);
  file.set(new TextEncoder().encode(text), 8);
  let at = 8 + text.length;
  for (const { bytes } of tensors.values()) {
    file.set(bytes, at);
    at += bytes.length;
  }
  return file;
}

/** Writes a model with random weights; `shards` above 1 spreads them over files with an index. */
export function writeModel(
  options: { config?: Record<string, unknown>; dtype?: Dtype; shards?: number; seed?: number } = {},
): Fixture {
  const { dtype = "F32", shards = 1, seed = 1 } = options;
  const config = smallConfig(options.config);
  const directory = mkdtempSync(join(tmpdir(), "quartermaster-model-"));
  const random = new Random(seed);
  const tensors = new Map<string, FixtureTensor>();
  const files: Map<string, { dtype: string; shape: readonly number[]; bytes: Uint8Array }>[] = Array.from(
    { length: shards },
    () => new Map(),
  );
  const weightMap: Record<string, string> = {};
  const fileName = (shard: number): string =>
    shards === 1 ? "model.safetensors" : `model-${shard + 1}-of-${shards}.safetensors`;
  shapes(config).forEach(([name, shape], i) => {
    const count = shape.reduce((product, extent) => product * extent, 1);
    const encoded = Array.from({ length: count }, () => {
      const noise = (random.next() / 2 ** 32 - 0.5) * 0.6;
      return encode(dtype, name.includes("norm") ? 1 + noise : noise);
    });
    tensors.set(name, { shape, values: Float64Array.from(encoded, ({ value }) => value) });
    files[i % shards].set(name, {
      dtype,
      shape,
      bytes: Uint8Array.from(encoded.flatMap(({ bytes }) => bytes)),
    });
    weightMap[name] = fileName(i % shards);
  });
  mkdirSync(directory, { recursive: true });
  files.forEach((file, shard) => writeFileSync(join(directory, fileName(shard)), safetensors(file)));
  if (shards > 1)
    writeFileSync(join(directory, "model.safetensors.index.json"), JSON.stringify({ weight_map: weightMap }));
  writeFileSync(join(directory, "config.json"), JSON.stringify(config));
  for (const file of ["tokenizer.json", "tokenizer_config.json"])
    copyFileSync(join(TINY_RETRIEVAL, file), join(directory, file));
  return { directory, config, tensors };
}

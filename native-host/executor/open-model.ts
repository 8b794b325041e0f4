/** Opens a Hugging Face directory as it comes: config, tokenizer, weights, and an executor for them. */
import type { Executor } from "../../bindings/executor.js";
import { kvElementsPerToken, type ModelConfig, parseModelConfig } from "./model-config.js";
import { modelFileError, type ModelSource } from "./model-source.js";
import { perQueryHead } from "./query-head-lanes.js";
import { locateTensors, type TensorLocation } from "./safetensors.js";
import { openTokenizer, type Tokenizer } from "./tokenizer.js";
import { type ExecutorOptions, WasmExecutor } from "./wasm-executor.js";

export interface Model {
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  readonly executor: Executor;
}

/** Reads and checks config.json and generation_config.json. */
export async function readModelConfig(source: ModelSource): Promise<ModelConfig> {
  const text = await source.text("config.json");
  if (text === undefined) throw modelFileError(source.name, "config.json", "is not there");
  return parseModelConfig(text, await source.text("generation_config.json"));
}

export interface ModelRequirements {
  readonly parameters: number;
  readonly weightBytes: number;
  /** K and V of one token over all layers, f32. */
  readonly kvBytesPerToken: number;
  readonly types: readonly string[];
}

/** What a model needs, from its headers alone. */
export async function modelRequirements(
  source: ModelSource,
): Promise<ModelRequirements & { config: ModelConfig }> {
  const config = await readModelConfig(source);
  const tensors = [...(await locateTensors(source, config)).values()];
  const elements = (tensor: TensorLocation): number =>
    tensor.shape.reduce((product, extent) => product * extent, 1);
  return {
    config,
    parameters: tensors.reduce((sum, tensor) => sum + elements(tensor), 0),
    weightBytes: tensors.reduce((sum, tensor) => sum + tensor.bytes, 0),
    kvBytesPerToken: kvElementsPerToken(config) * 4,
    types: [...new Set(tensors.map((tensor) => tensor.type))],
  };
}

/** A model on the wasm kernels, from any source; closes the source. */
export async function openWasmModel(source: ModelSource, options: ExecutorOptions): Promise<Model> {
  try {
    const read = await readModelConfig(source);
    const whole = { source, config: read, tensors: await locateTensors(source, read) };
    const parts = options.perQueryHead ? perQueryHead(whole) : whole;
    const { config, tensors } = parts;
    const tokenizer = await openTokenizer(source);
    return { config, tokenizer, executor: await WasmExecutor.load(parts.source, config, tensors, options) };
  } finally {
    await source.close();
  }
}

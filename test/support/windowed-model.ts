/** The small model with a sliding window on two of its three layers. */
import {
  type Backend,
  loadAddon,
  NativeExecutor,
  type NativeExecutorOptions,
} from "../../native-host/executor/main.js";
import { type Model, readModelConfig } from "../../native-host/executor/open-model.js";
import { locateTensors } from "../../native-host/executor/safetensors.js";
import {
  directorySource,
  type ModelSource,
  openTokenizer,
  openWasmModel,
} from "../../native-host/executor/wasm.js";
import { TINY_RETRIEVAL } from "./package-root.js";

/** Tokens that layers 0 and 2 see. */
export const WINDOW = 48;

/** The model's files, with a configuration in which layers 0 and 2 slide. */
export async function windowedSource(): Promise<ModelSource> {
  const files = await directorySource(TINY_RETRIEVAL);
  const types = ["sliding_attention", "full_attention", "sliding_attention"];
  return {
    ...files,
    text: async (file) => {
      const text = await files.text(file);
      if (file !== "config.json") return text;
      return JSON.stringify({ ...JSON.parse(text!), layer_types: types, sliding_window: WINDOW });
    },
  };
}

/** On the wasm kernels where the addon was not built. */
export async function openWindowed(backend: Backend, options: NativeExecutorOptions): Promise<Model> {
  const source = await windowedSource();
  const loaded = loadAddon();
  if (backend === "wasm" || "reason" in loaded) return openWasmModel(source, options);
  const config = await readModelConfig(source);
  const tensors = await locateTensors(source, config);
  const tokenizer = await openTokenizer(source);
  const executor = NativeExecutor.load(loaded.addon, source, config, tensors, options);
  await source.close();
  return { config, tokenizer, executor };
}

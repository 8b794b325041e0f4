/** quartermaster/native-host: models from disk, on native kernels where there are any. */
import { invalidArgument, QuartermasterError } from "../../bindings/errors.js";
import { loadAddon } from "./addon.js";
import { directorySource } from "./model-source.js";
import { type Model, openWasmModel, readModelConfig } from "./open-model.js";
import { NativeExecutor, type NativeExecutorOptions } from "./native-executor.js";
import { locateTensors } from "./safetensors.js";
import { openTokenizer } from "./tokenizer.js";

export * from "../storage/main.js";
export * from "./wasm.js";
export { type Addon, loadAddon } from "./addon.js";
export { MappedKVMemory } from "./mapped-kv-memory.js";
export { NativeExecutor, type NativeExecutorOptions } from "./native-executor.js";

/** "cpu": the native addon; "wasm": the wasm kernels; "auto": native where the addon loads, else wasm. */
export type Backend = "auto" | "cpu" | "wasm";

export const BACKENDS: readonly Backend[] = ["auto", "cpu", "wasm"];

export interface OpenModelOptions extends NativeExecutorOptions {
  /** Default "auto". */
  backend?: Backend;
}

/**
 * Opens a Hugging Face directory on disk.
 * Throws MODEL_FILE, MODEL_CONFIG, UNKNOWN_ARCHITECTURE, MISSING_TENSOR, TENSOR_SHAPE; UNSUPPORTED when backend "cpu" is
 * asked for and there is no addon.
 */
export async function openModel(
  directory: string,
  options: OpenModelOptions,
): Promise<Model & { readonly fallbackReason: string | undefined }> {
  const backend = options.backend ?? "auto";
  if (!BACKENDS.includes(backend)) throw invalidArgument("backend", backend, BACKENDS.join(", "));
  const source = await directorySource(directory);
  if (options.perQueryHead && backend === "cpu")
    throw new QuartermasterError("UNSUPPORTED", "backend cpu: lanes by query head are for the wasm kernels", {
      argument: "perQueryHead",
      value: true,
    });
  const native = backend === "wasm" || options.perQueryHead ? undefined : loadAddon();
  if (native && "addon" in native) {
    try {
      const config = await readModelConfig(source);
      const tensors = await locateTensors(source, config);
      const tokenizer = await openTokenizer(source);
      const executor = NativeExecutor.load(native.addon, source, config, tensors, options);
      return { config, tokenizer, executor, fallbackReason: undefined };
    } finally {
      await source.close();
    }
  }
  if (native && backend === "cpu") {
    throw new QuartermasterError("UNSUPPORTED", `backend cpu: ${native.reason}`, {
      argument: "backend",
      value: backend,
    });
  }
  return { ...(await openWasmModel(source, options)), fallbackReason: native?.reason };
}

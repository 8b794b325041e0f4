/** quartermaster/wasm-executor: models on the wasm kernels, in browsers too. */
export { parseModelConfig, type ModelConfig } from "./model-config.js";
export { directorySource, urlSource, type ModelSource } from "./model-source.js";
export { modelRequirements, openWasmModel, type Model, type ModelRequirements } from "./open-model.js";
export { sampleRow } from "./sampling.js";
export { openTokenizer, StreamingDetokenizer, type Tokenizer } from "./tokenizer.js";
export { type ExecutorOptions, WasmExecutor } from "./wasm-executor.js";

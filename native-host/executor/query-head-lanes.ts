/**
 * A model in which every query head has K and V of its own: the rows of a group's K and V projections stand there once for each
 * of its heads. Its answers are the same, its cache is G times as large, and its lanes are one a query head, as released code
 * of several eviction methods has them. For experiments: what is G-fold here is G-fold in every report.
 */
import type { ModelConfig } from "./model-config.js";
import type { ModelSource } from "./model-source.js";
import type { TensorLocation } from "./safetensors.js";

export interface ModelParts {
  readonly source: ModelSource;
  readonly config: ModelConfig;
  readonly tensors: ReadonlyMap<string, TensorLocation>;
}

/** Names of the files that stand for repeated tensors; no file of a model begins like this. */
const PREFIX = "per-query-head:";

export function perQueryHead({ source, config, tensors }: ModelParts): ModelParts {
  const group = config.heads / config.kvHeads;
  if (group === 1) return { source, config, tensors };
  const repeated = new Map<string, TensorLocation>();
  const located = new Map(tensors);
  for (const [name, tensor] of tensors) {
    if (!/\.self_attn\.[kv]_proj\.(weight|bias)$/.test(name)) continue;
    const [rows, ...rest] = tensor.shape;
    repeated.set(PREFIX + name, tensor);
    located.set(name, {
      ...tensor,
      file: PREFIX + name,
      offset: 0,
      bytes: tensor.bytes * group,
      shape: [rows * group, ...rest],
    });
  }
  const read = async (file: string, offset: number, into: Uint8Array): Promise<void> => {
    const tensor = repeated.get(file);
    if (tensor === undefined) return source.read(file, offset, into);
    const headBytes = tensor.bytes / config.kvHeads;
    for (let done = 0; done < into.length;) {
      const at = offset + done;
      const kvHead = Math.floor(at / headBytes / group);
      const within = at % headBytes;
      const count = Math.min(headBytes - within, into.length - done);
      const from = tensor.offset + kvHead * headBytes + within;
      await source.read(tensor.file, from, into.subarray(done, done + count));
      done += count;
    }
  };
  return {
    source: { ...source, read, path: () => undefined },
    config: { ...config, kvHeads: config.heads },
    tensors: located,
  };
}

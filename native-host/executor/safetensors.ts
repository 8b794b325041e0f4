/**
 * Safetensors: where each tensor of a model lies, checked, without reading its bytes.
 *
 *   file: u64 header length | header JSON { name: { dtype, shape, data_offsets: [begin, end] } } | data
 *
 * A model is one file, or shards named by model.safetensors.index.json.
 */
import { QuartermasterError } from "../../bindings/errors.js";
import { type ModelConfig, requiredTensors, type WeightType } from "./model-config.js";
import { modelFileError, type ModelSource } from "./model-source.js";

export interface TensorLocation {
  readonly name: string;
  readonly file: string;
  /** Bytes from the start of the file. */
  readonly offset: number;
  readonly bytes: number;
  readonly type: WeightType;
  readonly shape: readonly number[];
}

const SINGLE = "model.safetensors";
const INDEX = "model.safetensors.index.json";
const MAX_HEADER_BYTES = 100 * 2 ** 20;
const TYPES: Readonly<Record<string, { type: WeightType; bytes: number }>> = {
  F32: { type: "f32", bytes: 4 },
  F16: { type: "f16", bytes: 2 },
  BF16: { type: "bf16", bytes: 2 },
};

interface HeaderEntry {
  dtype?: unknown;
  shape?: unknown;
  data_offsets?: unknown;
}

async function readHeader(
  source: ModelSource,
  file: string,
): Promise<{ entries: Record<string, HeaderEntry>; data: number; size: number }> {
  const size = await source.size(file);
  const prefix = new Uint8Array(8);
  if (size < 8) throw modelFileError(source.name, file, "is shorter than a safetensors header");
  await source.read(file, 0, prefix);
  const length = Number(new DataView(prefix.buffer).getBigUint64(0, true));
  if (length > MAX_HEADER_BYTES || 8 + length > size) {
    throw modelFileError(source.name, file, `header of ${length} bytes in a file of ${size}`);
  }
  const bytes = new Uint8Array(length);
  await source.read(file, 8, bytes);
  try {
    const entries = JSON.parse(new TextDecoder().decode(bytes)) as Record<string, HeaderEntry>;
    return { entries, data: 8 + length, size };
  } catch (error) {
    throw modelFileError(source.name, file, "header is not JSON", error);
  }
}

function locate(
  source: ModelSource,
  file: string,
  name: string,
  entry: HeaderEntry,
  data: number,
  size: number,
): TensorLocation {
  const fail = (problem: string): QuartermasterError =>
    modelFileError(source.name, file, `tensor ${name}: ${problem}`);
  const known = TYPES[String(entry.dtype)];
  if (known === undefined) throw fail(`type ${String(entry.dtype)}; known: ${Object.keys(TYPES).join(", ")}`);
  const { shape, data_offsets: offsets } = entry;
  const isSize = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
  if (!Array.isArray(shape) || !shape.every(isSize)) throw fail("shape is not a list of sizes");
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize))
    throw fail("data_offsets are not two offsets");
  const [begin, end] = offsets as [number, number];
  const bytes = shape.reduce((product, extent) => product * extent, known.bytes);
  if (end - begin !== bytes)
    throw fail(`${end - begin} bytes for shape [${shape}] of ${String(entry.dtype)}`);
  if (data + end > size) throw fail(`ends at byte ${data + end} of a file of ${size}`);
  return { name, file, offset: data + begin, bytes, type: known.type, shape };
}

async function filesOf(source: ModelSource): Promise<string[]> {
  const index = await source.text(INDEX);
  if (index === undefined) return [SINGLE];
  try {
    const { weight_map: map } = JSON.parse(index) as { weight_map: Record<string, string> };
    return [...new Set(Object.values(map))];
  } catch (error) {
    throw modelFileError(source.name, INDEX, "is not an index with a weight_map", error);
  }
}

/**
 * Finds every tensor the config asks for. Throws MODEL_FILE for damaged files, MISSING_TENSOR naming the
 * tensor, TENSOR_SHAPE naming it and both shapes. Tensors the model does not need are passed over.
 */
export async function locateTensors(
  source: ModelSource,
  config: ModelConfig,
): Promise<Map<string, TensorLocation>> {
  const required = new Map(requiredTensors(config).map((spec) => [spec.name, spec.shape]));
  const found = new Map<string, TensorLocation>();
  for (const file of await filesOf(source)) {
    const { entries, data, size } = await readHeader(source, file);
    for (const [name, entry] of Object.entries(entries)) {
      const shape = required.get(name);
      if (shape === undefined) continue;
      const location = locate(source, file, name, entry, data, size);
      if (location.shape.length !== shape.length || location.shape.some((extent, i) => extent !== shape[i])) {
        throw new QuartermasterError(
          "TENSOR_SHAPE",
          `tensor ${name} has shape [${location.shape.join(", ")}]; the config asks for [${shape.join(", ")}]`,
          { argument: name, value: location.shape, range: `[${shape.join(", ")}]` },
        );
      }
      found.set(name, location);
    }
  }
  for (const name of required.keys()) {
    if (!found.has(name)) {
      throw new QuartermasterError("MISSING_TENSOR", `tensor ${name} is in none of the model's files`, {
        argument: name,
      });
    }
  }
  return found;
}

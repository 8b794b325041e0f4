/**
 * The native addon: its typed face and how it is found.
 *
 * The addon is a Node-API library over the C ABI of native-host/include/quartermaster_host.h. It is optional:
 * where it was not built, `loadAddon` says why and the wasm kernels take over. Refusals are Errors with a
 * string `code`: INVALID_ARGUMENT, OUT_OF_MEMORY, BAD_BATCH, BAD_TENSOR, MISSING_TENSOR, UNSUPPORTED, IO,
 * BUSY, CLOSED.
 *
 * Threading: a model belongs to the thread that created it. `run` computes on other threads and never blocks
 * the event loop. The core's memory is read in place while a run is in flight: do not step, commit or grow it
 * until the promise settles.
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import process from "node:process";
import { fileURLToPath } from "node:url";
import type { ModelConfig, RopeScaling } from "./model-config.js";

/** Version of the interface below; an addon of another version is refused. */
export const ADDON_ABI_VERSION = 3;

/** u32 words of one sampling record. */
export const SAMPLING_WORDS = 12;

/** u32 words of one record of lanes: qmh_lane_row of native-host/include/quartermaster_host.h. */
export const LANE_ROW_WORDS = 12;

/** u32 words of one copy: source tier (0 device, 1 host), source block, target tier, target block, blocks. */
export const COPY_WORDS = 5;

export type NumberType = "f32" | "f16" | "bf16";
export type Isa = "portable" | "avx2" | "avx512";

/** A weight as it lies in a safetensors file, row-major [out, in]. */
export interface NativeTensor {
  /** Name as in Hugging Face files: "model.layers.0.self_attn.q_proj.weight". */
  name: string;
  /** Index into the list of files. */
  file: number;
  /** Bytes from the start of the file, a multiple of the element size. */
  offset: number;
  bytes: number;
  dtype: NumberType;
  shape: number[];
}

/** The model's numbers, `heads` a multiple of kvHeads, `headDim` even and at most 512; and how much of it is held. */
export interface NativeModelConfig extends Omit<
  ModelConfig,
  "architecture" | "layerWindows" | "maxPositions" | "eosTokenIds"
> {
  maxSequenceTokens: number;
  /** KV blocks to hold, and tokens a block. */
  blocks: number;
  blockSize: number;
  kvType: NumberType;
  /** Threads of a forward pass; 0 is the number of cores, at most 8. */
  threads: number;
  isa: "auto" | Isa;
  /**
   * By layer three words: group, window (0: all), tokens a block, for layers that do not all keep their tokens alike. Pages
   * are as large as the largest group needs. Default: all in group 0, with slidingWindow.
   */
  places?: Uint32Array;
}

/**
 * A plan's batch: counts, and byte offsets into the attached core memory (meaning of each array:
 * bindings/plan.ts).
 */
export interface NativeBatch {
  /** Counts. */
  rows: number;
  totalTokens: number;
  samplingRows: number;
  transferCount: number;
  /** Byte offsets, each a multiple of 4. */
  phases: number;
  newTokens: number;
  computedBefore: number;
  tokenStart: number;
  tokens: number;
  slots: number;
  tableStart: number;
  tableCount: number;
  tables: number;
  transfers: number;
}

/** Where a batch's rows keep their tokens in a group of layers beside group 0 (bindings/plan.ts, PlanGroup). */
export interface NativeGroupTables {
  slots: Uint32Array;
  tableStart: Uint32Array;
  tableCount: Uint32Array;
  tables: Uint32Array;
}

export interface NativeModel {
  /** Gives the core's whole memory, plain or shared, as a view. Call again after it has grown. */
  attach(memory: Uint8Array): void;
  /**
   * Runs one batch. A refused batch has changed nothing.
   * @param sampling SAMPLING_WORDS u32 a sampling row: temperature, topK, topP, minP, repetition penalty, seed low and
   *   high, position of the draw, start and count of the row's tokens in `history`, 0, 0 (floats by bit pattern)
   * @param history token ids that repetition penalties read
   * @param tokensOut one token id a sampling row
   * @param logitsOut [samplingRows][vocab], or null
   * @param laneRows records of LANE_ROW_WORDS, by row, of rows with lanes or statistics; none or null: all are plain
   * @param laneWords what the records point to
   * @param statistics what the records have measured; null where they measure nothing
   * @param groups of group 1, 2, ...: as many as the model has
   */
  run(
    batch: NativeBatch,
    sampling: Uint32Array,
    history: Uint32Array,
    tokensOut: Uint32Array,
    logitsOut: Float32Array | null,
    laneRows?: Uint32Array | null,
    laneWords?: Uint32Array | null,
    statistics?: Float32Array | null,
    groups?: readonly NativeGroupTables[] | null,
  ): Promise<void>;
  /**
   * `run` in parts: begins the batch, computes each layer in turn, and ends it. In between, K and V of the layers computed may
   * be moved and merged, and slices of layers to come be written to `laneWords`; `run` throws BUSY.
   */
  beginLayers(...batch: Parameters<NativeModel["run"]>): Promise<void>;
  nextLayer(): Promise<void>;
  endLayers(): Promise<void>;
  /** Gives a begun batch up; K and V stay as they are. May be repeated. */
  abandonLayers(): void;
  /** Moves K and V within lanes (records of `Executor.move`), off the calling thread. */
  move(moves: Uint32Array): Promise<void>;
  /** Merges slots of lanes (records of `Executor.merge`), off the calling thread. */
  merge(merges: Uint32Array): Promise<void>;
  /** Copies K and V of whole blocks out of the pool, [blocks][bytes of a block], on the calling thread. */
  readBlocks(blocks: Uint32Array, payload: Uint8Array): void;
  writeBlocks(blocks: Uint32Array, payload: Uint8Array): void;
  /** A copier between this model's pool and host memory of its own. */
  createCopier(options: NativeCopierOptions): NativeCopier;
  readonly isa: Isa;
  readonly threads: number;
  /** Bytes of the KV pool; pages are taken from the system when first written. */
  readonly kvBytes: number;
  /** Bytes of the weights, which stay in their memory-mapped files. */
  readonly weightBytes: number;
  /** Frees the model; may be repeated. Throws BUSY while a run is in flight. */
  close(): void;
}

/** "reference" is the plain implementation the others are tested against. */
export type KernelIsa = "auto" | Isa | "reference";

/** Shape of a KV pool: [block][layer][K, V][kvHead][blockSize][headDim] of kvType. */
export interface NativeKvShape {
  blocks: number;
  layers: number;
  kvHeads: number;
  headDim: number;
  blockSize: number;
  kvType: NumberType;
}

/**
 * Single kernels on the calling thread, for tests and benches. Weights and KV pools are bytes, numbers as
 * stored.
 */
export interface NativeKernels {
  /** out[i] = table[tokens[i]]; table is [vocab][width]. */
  embed(
    isa: KernelIsa,
    table: Uint8Array,
    dtype: NumberType,
    width: number,
    tokens: Uint32Array,
    out: Float32Array,
  ): void;
  /** out[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight, rows of `width`. */
  rmsnorm(
    isa: KernelIsa,
    x: Float32Array,
    weight: Uint8Array,
    dtype: NumberType,
    width: number,
    eps: number,
    out: Float32Array,
  ): void;
  /**
   * out[t][o] = sum over k of x[t][k] * weight[o][k] (+ bias[o]); x is [tokens][inputs], weight
   * [outputs][inputs].
   */
  matmul(
    isa: KernelIsa,
    x: Float32Array,
    weight: Uint8Array,
    dtype: NumberType,
    inputs: number,
    bias: Uint8Array | null,
    out: Float32Array,
  ): void;
  /** Rotates x, [positions.length][heads][headDim], in place. */
  rope(
    isa: KernelIsa,
    x: Float32Array,
    positions: Uint32Array,
    heads: number,
    headDim: number,
    theta: number,
    layout: "half" | "interleaved",
    scaling: RopeScaling,
  ): void;
  /** Writes k and v, [slots.length][kvHeads][headDim], to their slots of one layer. */
  kvWrite(
    isa: KernelIsa,
    kv: Uint8Array,
    shape: NativeKvShape,
    layer: number,
    slots: Uint32Array,
    k: Float32Array,
    v: Float32Array,
  ): void;
  /**
   * Causal attention of queries [tokens][heads][headDim] at positions firstPosition, firstPosition + 1, ...
   * of one sequence.
   */
  attention(
    isa: KernelIsa,
    kv: Uint8Array,
    shape: NativeKvShape,
    layer: number,
    table: Uint32Array,
    firstPosition: number,
    heads: number,
    window: number,
    q: Float32Array,
    out: Float32Array,
  ): void;
  /**
   * Attention of the new tokens of one row with lanes, queries [tokens][heads][headDim], measured as its one record
   * says.
   */
  attentionLanes(
    isa: KernelIsa,
    kv: Uint8Array,
    shape: NativeKvShape,
    layer: number,
    table: Uint32Array,
    heads: number,
    q: Float32Array,
    out: Float32Array,
    laneRow: Uint32Array,
    laneWords: Uint32Array,
    statistics: Float32Array | null,
  ): void;
  /** gate = gate / (1 + exp(-gate)) * up. */
  swiglu(isa: KernelIsa, gate: Float32Array, up: Float32Array): void;
  /** Picks a token from one row of logits; `record` is one sampling record. */
  sample(logits: Float32Array, record: Uint32Array, history: Uint32Array): number;
  /** Bytes a second that one thread copies (reads plus writes) between buffers of `bytes` bytes. */
  copyBandwidth(bytes: number): number;
  /** Multiply-adds (2 operations each) a second of one thread on registers alone: the ceiling of matmul. */
  peakFlops(isa: KernelIsa): number;
}

export interface NativeCopierOptions {
  blockBytes: number;
  hostBlocks: number;
  /** Batches that are copied at a time from the device to the host, and back; 1 to 16. */
  outThreads: number;
  inThreads: number;
  /** For tests. */
  testing?: {
    /** Each run of blocks is copied up to so many microseconds late, by `seed`. */
    delayUs: number;
    seed: number;
    /** Batches that share blocks are not kept in order. */
    unordered: boolean;
  };
}

/**
 * Copies of blocks between a device's pool and host memory, on threads of their own
 * (native-host/include/quartermaster_copy.h).
 */
export interface NativeCopier {
  /**
   * Hands a batch of copies over, in one call whatever their number; all of them go the same way. It waits for exactly those
   * batches before it that touch its blocks. Resolves to how many of its blocks, from the first on, have arrived.
   * @param copies records of COPY_WORDS; read during the call
   */
  copyBatch(copies: Uint32Array): Promise<number>;
  /** Frees the host memory; may be repeated. Throws BUSY while batches are in flight. */
  close(): void;
}

/** Shape of virtually contiguous memory; `pageBytes` a multiple of the system's page. */
export interface NativeVirtualShape {
  slots: number;
  /** Page-groups of a slot in one tensor. */
  slotPages: number;
  tensors: number;
  /** KV blocks of physical memory, `tensors` page-groups each. */
  blocks: number;
  pageBytes: number;
}

/** What executing a plan took: calls into the system, and microseconds in them. */
export interface MapCost {
  calls: number;
  us: number;
}

/** Reserved ranges with memory behind parts of them. Touching a page-group that has none ends the process (SIGSEGV). */
export interface NativeVirtualMemory {
  /** Executes records of 4 u32: op (0 unmap, 1 map), slot, page, KV block. */
  execute(plan: Uint32Array): MapCost;
  /** The same on another thread; the plan must not change meanwhile. One at a time: BUSY. */
  executeAsync(plan: Uint32Array): Promise<MapCost>;
  /** Gives the memory of KV blocks that are mapped nowhere back to the system. */
  trim(blocks: Uint32Array): void;
  /** Bytes of physical memory in use. */
  residentBytes(): number;
  /** A slot's ranges: [tensor][slotPages * pageBytes]. */
  view(slot: number): Uint8Array;
  /** Frees the memory; views become empty. May be repeated. */
  close(): void;
}

export interface Addon {
  abiVersion(): number;
  /** Instruction sets this machine can run, slowest first. */
  isa(): Isa[];
  createModel(config: NativeModelConfig, files: string[], tensors: NativeTensor[]): NativeModel;
  /**
   * A copier over memory of the caller's: [blocks][blockBytes] each; null: host memory of its own. Neither may be detached
   * while it lives.
   */
  createCopier(options: NativeCopierOptions, device: Uint8Array, host: Uint8Array | null): NativeCopier;
  /** Throws UNSUPPORTED where the system cannot map memory page by page. */
  createVirtualMemory(shape: NativeVirtualShape): NativeVirtualMemory;
  kernels: NativeKernels;
}

let loaded: { addon: Addon } | { reason: string } | undefined;

/**
 * Loads the addon once. QUARTERMASTER_ADDON names another file, or "off" to do without.
 * @returns the addon, or one sentence on why there is none
 */
export function loadAddon(): { addon: Addon } | { reason: string } {
  loaded ??= load();
  return loaded;
}

function load(): { addon: Addon } | { reason: string } {
  const override = process.env.QUARTERMASTER_ADDON;
  if (override === "off") return { reason: "the native addon is turned off (QUARTERMASTER_ADDON=off)" };
  // From dist/native-host/executor/ to build/native/ of the same package.
  const path =
    override ?? fileURLToPath(new URL("../../../build/native/quartermaster.node", import.meta.url));
  if (!existsSync(path)) {
    return {
      reason:
        `the native addon is not there (${path}); with cmake and a C++ compiler installed, ` +
        "build it with: npm rebuild quartermaster (in a checkout: npm run build:native)",
    };
  }
  let addon: Addon;
  try {
    addon = createRequire(import.meta.url)(path) as Addon;
  } catch (error) {
    const cause = error instanceof Error ? error.message.split("\n")[0] : String(error);
    return { reason: `the native addon could not be loaded: ${cause}` };
  }
  if (addon.abiVersion() !== ADDON_ABI_VERSION) {
    return {
      reason: `the native addon has interface ${addon.abiVersion()}, this package needs ${ADDON_ABI_VERSION}: rebuild it`,
    };
  }
  return { addon };
}

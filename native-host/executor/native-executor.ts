/**
 * NativeExecutor: runs plans on the addon's CPU kernels, which read the plan and the block tables in core
 * memory.
 */
import { invalidArgument, requireInteger } from "../../bindings/errors.js";
import type { Executor, ExecutorDescription, RowContext, StepResult } from "../../bindings/executor.js";
import { Phase, type StepPlan } from "../../bindings/plan.js";
import type { RunOptions } from "../../bindings/statistics.js";
import { type Addon, type NativeModel, type NativeTensor, SAMPLING_WORDS } from "./addon.js";
import { DraftRows } from "./draft-rows.js";
import { HostCopies } from "./host-copies.js";
import { ALL_STATISTICS, measuredOf, refuseBias, rowsFor } from "./lane-rows.js";
import { type GroupLayout, layOutGroups } from "./layer-groups.js";
import type { ModelConfig } from "./model-config.js";
import { modelFileError, type ModelSource } from "./model-source.js";
import { checkBlocks, checkMoves, readMerges } from "./moves.js";
import { NativeStatistics, packLanes, type PackedLanes } from "./native-lanes.js";
import type { TensorLocation } from "./safetensors.js";
import { type ExecutorOptions, executorShape } from "./wasm-executor.js";

export interface NativeExecutorOptions extends ExecutorOptions {
  /** Number type of the KV pool. Default "f32". */
  kvType?: "f32" | "f16" | "bf16";
  /** Threads of a forward pass; 0 (default) = the cores, at most 8. */
  threads?: number;
  /** Instruction set. Default "auto": the widest this machine has. */
  isa?: "auto" | "portable" | "avx2" | "avx512";
  /** Swap-outs, and swap-ins, that are copied at a time, each by a thread of its own; 1 (default) to 16. */
  swapOutThreads?: number;
  swapInThreads?: number;
}

const KV_TYPES = ["f32", "f16", "bf16"] as const;
const ISAS = ["auto", "portable", "avx2", "avx512"] as const;

export class NativeExecutor implements Executor {
  readonly #model: NativeModel;
  readonly #config: ModelConfig;
  readonly #shape: Required<ExecutorOptions>;
  readonly #layout: GroupLayout;
  readonly #kvType: "f32" | "f16" | "bf16";
  readonly #statistics: NativeStatistics;
  readonly #copies: HostCopies | undefined;
  readonly #draftRows = new DraftRows();
  #attached: ArrayBufferLike | undefined;
  #attachedBytes = 0;

  private constructor(
    model: NativeModel,
    config: ModelConfig,
    shape: Required<ExecutorOptions>,
    layout: GroupLayout,
    kvType: "f32" | "f16" | "bf16",
    copyThreads: { readonly outThreads: number; readonly inThreads: number },
  ) {
    this.#model = model;
    this.#config = config;
    this.#shape = shape;
    this.#layout = layout;
    this.#kvType = kvType;
    this.#statistics = new NativeStatistics(config);
    const { hostBlocks } = shape;
    if (hostBlocks === 0) return;
    const { blockBytes } = this.describe();
    this.#copies = new HostCopies(model.createCopier({ blockBytes, hostBlocks, ...copyThreads }), shape);
  }

  /** Memory-maps the weights of a directory. Throws what the addon refuses, with its code. */
  static load(
    addon: Addon,
    source: ModelSource,
    config: ModelConfig,
    tensors: ReadonlyMap<string, TensorLocation>,
    options: NativeExecutorOptions,
  ): NativeExecutor {
    const shape = executorShape(config, options);
    const layout = layOutGroups(config, shape.blockSize, shape.groups);
    const apart = config.layerWindows !== undefined || shape.groups.length > 0;
    const places = layout.layers.flatMap(({ group, window, blockSize }) => [group, window, blockSize]);
    const kvType = options.kvType ?? "f32";
    const isa = options.isa ?? "auto";
    if (!KV_TYPES.includes(kvType)) throw invalidArgument("kvType", kvType, KV_TYPES.join(", "));
    if (!ISAS.includes(isa)) throw invalidArgument("isa", isa, ISAS.join(", "));
    const threads = requireInteger("threads", options.threads ?? 0, 0, 64);
    const copyThreads = {
      outThreads: requireInteger("swapOutThreads", options.swapOutThreads ?? 1, 1, 16),
      inThreads: requireInteger("swapInThreads", options.swapInThreads ?? 1, 1, 16),
    };
    const files = [...new Set([...tensors.values()].map((tensor) => tensor.file))];
    const located = [...tensors.values()].map(
      ({ name, file, offset, bytes, type, shape: extents }): NativeTensor => ({
        name,
        file: files.indexOf(file),
        offset,
        bytes,
        dtype: type,
        shape: [...extents],
      }),
    );
    const paths = files.map((file) => {
      const path = source.path(file);
      if (path === undefined)
        throw modelFileError(source.name, file, "is not on this machine: the native executor maps files");
      return path;
    });
    const { blocks, blockSize, maxSequenceTokens } = shape;
    const { architecture: _, maxPositions: __, eosTokenIds: ___, layerWindows: ____, ...numbers } = config;
    const pool = { blocks, blockSize, maxSequenceTokens, kvType };
    const model = addon.createModel(
      { ...numbers, ...pool, threads, isa, ...(apart && { places: Uint32Array.from(places) }) },
      paths,
      located,
    );
    return new NativeExecutor(model, config, shape, layout, kvType, copyThreads);
  }

  describe(): ExecutorDescription {
    const { layers, heads, kvHeads, headDim, vocab } = this.#config;
    const { blocks, blockSize, maxSequenceTokens, hostBlocks } = this.#shape;
    const elementBytes = this.#kvType === "f32" ? 4 : 2;
    return {
      backend: `cpu/${this.#model.isa}`,
      layers,
      kvHeads,
      heads,
      headDim,
      blockBytes: this.#layout.pageElements * elementBytes,
      blocks,
      blockSize,
      vocabSize: vocab,
      maxSequenceTokens,
      statMask: ALL_STATISTICS,
      drafts: true,
      hostBlocks,
      layered: true,
      groups: this.#layout.groups,
    };
  }

  run(plan: StepPlan, context: (row: number) => RowContext, options?: RunOptions): Promise<StepResult> {
    return this.#draftRows.run(plan, context, options, this.#run.bind(this));
  }

  async #run(
    plan: StepPlan,
    context: (row: number) => RowContext,
    options?: RunOptions,
  ): Promise<StepResult> {
    const { blockSize } = this.#shape;
    const special = rowsFor(plan, options, { config: this.#config, layout: this.#layout, blockSize });
    refuseBias(plan, special.rows);
    const groups = plan.groups ?? [];
    const statistics = this.#statistics.begin(special);
    const lanes = special.rows.length > 0 ? packLanes(special.rows, this.#pool) : undefined;
    this.#attach(plan.memory);
    const { sampling, history } = packSampling(plan, context);
    const tokens = new Uint32Array(plan.samplingRows);
    const logits = this.#shape.returnLogits ? new Float32Array(plan.samplingRows * this.#config.vocab) : null;
    const batch: Parameters<NativeModel["run"]> = [
      {
        rows: plan.rows,
        totalTokens: plan.totalTokens,
        samplingRows: plan.samplingRows,
        transferCount: plan.transferCount,
        phases: plan.phases.byteOffset,
        newTokens: plan.newTokens.byteOffset,
        computedBefore: plan.computedBefore.byteOffset,
        tokenStart: plan.tokenStart.byteOffset,
        tokens: plan.tokens.byteOffset,
        slots: plan.slots.byteOffset,
        tableStart: plan.tableStart.byteOffset,
        tableCount: plan.tableCount.byteOffset,
        tables: plan.tables.byteOffset,
        transfers: plan.transfers.byteOffset,
      },
      sampling,
      history,
      tokens,
      logits,
      lanes?.rows,
      lanes?.words,
      lanes && statistics,
      groups.map(({ slots, tableStart, tableCount, tables }) => ({ slots, tableStart, tableCount, tables })),
    ];
    if (options?.afterLayer !== undefined) await this.#runLayered(batch, lanes, options.afterLayer);
    else await this.#runWhole(batch, lanes);
    return {
      tokens,
      ...(logits && { logits }),
      ...measuredOf(special, (row, layer) => this.#statistics.view(row, layer)),
    };
  }

  get #pool() {
    const { layers, kvHeads } = this.#config;
    const { blocks, blockSize } = this.#shape;
    return { layers, kvHeads, blocks, blockSize };
  }

  async #runWhole(batch: Parameters<NativeModel["run"]>, lanes: PackedLanes | undefined): Promise<void> {
    for (let layer = 0; layer < this.#config.layers; layer++) lanes?.fillSlices(layer);
    await this.#model.run(...batch);
  }

  /** Stops after each layer. */
  async #runLayered(
    batch: Parameters<NativeModel["run"]>,
    lanes: PackedLanes | undefined,
    afterLayer: NonNullable<RunOptions["afterLayer"]>,
  ): Promise<void> {
    const model = this.#model;
    await model.beginLayers(...batch);
    try {
      for (let layer = 0; layer < this.#config.layers; layer++) {
        lanes?.fillSlices(layer);
        await model.nextLayer();
        await afterLayer(layer, (row, of) => this.#statistics.view(row, of));
      }
      await model.endLayers();
    } finally {
      model.abandonLayers();
    }
  }

  async move(moves: Uint32Array): Promise<void> {
    checkMoves(moves, this.describe());
    await this.#model.move(moves);
  }

  async merge(merges: Uint32Array): Promise<void> {
    readMerges(merges, this.describe());
    await this.#model.merge(merges);
  }

  /** Copied by threads of the addon, beside runs. */
  async transfer(records: Uint32Array): Promise<number> {
    if (this.#copies === undefined) throw invalidArgument("hostBlocks", 0, "an executor with host blocks");
    return this.#copies.transfer(records);
  }

  async readBlocks(blocks: Uint32Array): Promise<Uint8Array> {
    checkBlocks(blocks, this.describe());
    const payload = new Uint8Array(blocks.length * this.describe().blockBytes);
    this.#model.readBlocks(blocks, payload);
    return payload;
  }

  async writeBlocks(blocks: Uint32Array, payload: Uint8Array): Promise<void> {
    checkBlocks(blocks, this.describe(), payload);
    this.#model.writeBlocks(blocks, payload);
  }

  /** Gives the addon the core's memory; again when it has grown. */
  #attach(memory: WebAssembly.Memory): void {
    const { buffer } = memory;
    if (this.#attached === buffer && this.#attachedBytes === buffer.byteLength) return;
    this.#model.attach(new Uint8Array(buffer));
    this.#attached = buffer;
    this.#attachedBytes = buffer.byteLength;
  }

  async close(): Promise<void> {
    await this.#copies?.close();
    this.#model.close();
  }
}

/**
 * The sampling records and token histories of a plan's sampling rows; histories only where a penalty reads
 * them.
 */
function packSampling(
  plan: StepPlan,
  context: (row: number) => RowContext,
): { sampling: Uint32Array; history: Uint32Array } {
  const words = new Uint32Array(plan.samplingRows * SAMPLING_WORDS);
  const floats = new Float32Array(words.buffer);
  const histories: Uint32Array[] = [];
  let historyTokens = 0;
  let at = 0;
  for (let row = 0; row < plan.rows; row++) {
    if (plan.phases[row] === Phase.PrefillChunk) continue;
    const { sampling, tokens, generated } = context(row);
    floats[at] = sampling.temperature;
    words[at + 1] = sampling.topK;
    floats[at + 2] = sampling.topP;
    floats[at + 3] = sampling.minP;
    floats[at + 4] = sampling.repetitionPenalty;
    words[at + 5] = sampling.seed >>> 0;
    words[at + 6] = Math.floor(sampling.seed / 2 ** 32);
    words[at + 7] = generated;
    if (sampling.repetitionPenalty !== 1) {
      words[at + 8] = historyTokens;
      words[at + 9] = tokens.length;
      histories.push(tokens);
      historyTokens += tokens.length;
    }
    at += SAMPLING_WORDS;
  }
  const history = new Uint32Array(historyTokens);
  let offset = 0;
  for (const tokens of histories) {
    history.set(tokens, offset);
    offset += tokens.length;
  }
  return { sampling: words, history };
}

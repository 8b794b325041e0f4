/** WasmExecutor: runs plans on the wasm kernels, on the calling thread. Works in Node, Deno and browsers. */
import { invalidArgument, requireInteger } from "../../bindings/errors.js";
import type { Executor, ExecutorDescription, RowContext, StepResult } from "../../bindings/executor.js";
import { Phase, type StepPlan, TRANSFER_WORDS, TransferOp } from "../../bindings/plan.js";
import type { RunOptions } from "../../bindings/statistics.js";
import { DraftRows } from "./draft-rows.js";
import { ALL_STATISTICS, measuredOf, rowsFor, type SpecialRow } from "./lane-rows.js";
import type { LayerGroup } from "./layer-groups.js";
import type { ModelConfig } from "./model-config.js";
import type { ModelSource } from "./model-source.js";
import { checkBlocks, checkMoves, readMerges } from "./moves.js";
import type { TensorLocation } from "./safetensors.js";
import { sampleRow } from "./sampling.js";
import type { LanePart } from "./wasm-lanes.js";
import { MAX_TOKENS, type TokenPlaces, WasmModel } from "./wasm-model.js";

export interface ExecutorOptions {
  /** KV blocks to hold, >= 1. */
  blocks: number;
  /** Tokens a block, a power of two from 1 to 256. Default 16. */
  blockSize?: number;
  /** Longest sequence, at most the model's. Default: the model's. */
  maxSequenceTokens?: number;
  /** Blocks to keep in host memory for requests that are swapped out. Default 0. */
  hostBlocks?: number;
  /** Whether results carry the logits of the sampling rows. Default false. */
  returnLogits?: boolean;
  /**
   * Layers with cache groups of their own, for a cache with `describe().groups`. Default: all layers are in group 0.
   */
  groups?: readonly LayerGroup[];
  /**
   * K and V for every query head instead of every group of them, for experiments with policies by query head: as many times as
   * large; on the wasm kernels. Default false.
   */
  perQueryHead?: boolean;
}

/** Checks the options against the model. */
export function executorShape(config: ModelConfig, options: ExecutorOptions): Required<ExecutorOptions> {
  const blockSize = requireInteger("blockSize", options.blockSize ?? 16, 1, 256);
  if ((blockSize & (blockSize - 1)) !== 0)
    throw invalidArgument("blockSize", blockSize, "a power of two from 1 to 256");
  const maxSequenceTokens = options.maxSequenceTokens ?? config.maxPositions;
  return {
    blocks: requireInteger("blocks", options.blocks, 1, 2 ** 27),
    blockSize,
    maxSequenceTokens: requireInteger("maxSequenceTokens", maxSequenceTokens, 1, config.maxPositions),
    returnLogits: options.returnLogits ?? false,
    hostBlocks: requireInteger("hostBlocks", options.hostBlocks ?? 0, 0, 2 ** 24),
    groups: options.groups ?? [],
    perQueryHead: options.perQueryHead ?? false,
  };
}

/** Loads the package's kernel module: from disk in Node and Deno, by fetch in a browser. */
async function loadKernels(): Promise<WebAssembly.Module> {
  const url = new URL("../../../build/kernels.wasm", import.meta.url);
  if (url.protocol === "file:") {
    const { readFile } = await import("node:fs/promises");
    return WebAssembly.compile(await readFile(url));
  }
  return WebAssembly.compile(await (await fetch(url)).arrayBuffer());
}

export class WasmExecutor implements Executor {
  readonly #model: WasmModel;
  readonly #returnLogits: boolean;
  readonly #draftRows = new DraftRows();

  readonly #host: Uint8Array;

  private constructor(model: WasmModel, returnLogits: boolean, host: Uint8Array) {
    this.#model = model;
    this.#returnLogits = returnLogits;
    this.#host = host;
  }

  static async load(
    source: ModelSource,
    config: ModelConfig,
    tensors: ReadonlyMap<string, TensorLocation>,
    options: ExecutorOptions,
  ): Promise<WasmExecutor> {
    const shape = executorShape(config, options);
    const model = await WasmModel.load(await loadKernels(), source, config, tensors, shape);
    return new WasmExecutor(model, shape.returnLogits, new Uint8Array(shape.hostBlocks * model.blockBytes));
  }

  describe(): ExecutorDescription {
    const { config, blockBytes, blocks, blockSize, maxSequenceTokens } = this.#model;
    const { layers, heads, kvHeads, headDim, vocab } = config;
    return {
      backend: "wasm",
      layers,
      kvHeads,
      heads,
      headDim,
      blockBytes,
      blocks,
      blockSize,
      vocabSize: vocab,
      maxSequenceTokens,
      statMask: ALL_STATISTICS,
      drafts: true,
      hostBlocks: this.#host.length / blockBytes,
      layered: true,
      slotBias: true,
      rotates: true,
      groups: this.#model.layout.groups,
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
    const model = this.#model;
    const special = rowsFor(plan, options, model);
    model.lanes.begin(special);
    for (let i = 0; i < plan.transferCount; i++) {
      const at = i * TRANSFER_WORDS;
      const [op, , source, , target, tokens] = plan.transfers.subarray(at, at + TRANSFER_WORDS);
      if ((op & 0xff) === TransferOp.Copy) model.pool.copyBlock(source, target, tokens, op >> 8);
    }
    model.setTables([plan.tables, ...(plan.groups ?? []).map(({ tables }) => tables)]);
    const sampled = new Uint32Array(plan.samplingRows);
    const vocab = model.config.vocab;
    const logits = this.#returnLogits ? new Float32Array(plan.samplingRows * vocab) : undefined;
    let samples = 0;
    const sample = (row: number, rowLogits: Float32Array): void => {
      logits?.set(rowLogits, samples * vocab);
      const { sampling, tokens, generated } = context(row);
      sampled[samples++] = sampleRow(rowLogits, sampling, tokens, generated);
    };
    if (options?.afterLayer !== undefined) {
      for (const row of await this.#computeLayered(plan, special.rows, options.afterLayer))
        sample(row, model.layeredLogits(plan.tokenStart[row + 1] - 1));
    } else
      for (let from = 0; from < plan.totalTokens; from += MAX_TOKENS) {
        if (from > 0) await breathe();
        const end = Math.min(from + MAX_TOKENS, plan.totalTokens);
        for (const row of this.#compute(plan, from, end, special.rows))
          sample(row, model.logits(plan.tokenStart[row + 1] - 1 - from));
      }
    return {
      tokens: sampled,
      ...(logits && { logits }),
      ...measuredOf(special, (row, layer) => model.lanes.view(row, layer)),
    };
  }

  /** On the calling thread, as everything here: complete when it returns. */
  async transfer(records: Uint32Array): Promise<number> {
    const { blocks, blockSize } = this.describe();
    return this.#model.pool.swap(records, this.#host, { blocks, blockSize });
  }

  async move(moves: Uint32Array): Promise<void> {
    checkMoves(moves, this.describe());
    this.#model.pool.move(moves);
  }

  async readBlocks(blocks: Uint32Array): Promise<Uint8Array> {
    checkBlocks(blocks, this.describe());
    return this.#model.pool.read(blocks);
  }

  async writeBlocks(blocks: Uint32Array, payload: Uint8Array): Promise<void> {
    checkBlocks(blocks, this.describe(), payload);
    this.#model.pool.write(blocks, payload);
  }

  async merge(merges: Uint32Array): Promise<void> {
    this.#model.pool.merge(readMerges(merges, this.describe()));
  }

  /** Computes the plan layer by layer, and stops after each; returns the rows that sample. */
  async #computeLayered(
    plan: StepPlan,
    special: readonly SpecialRow[],
    afterLayer: NonNullable<RunOptions["afterLayer"]>,
  ): Promise<number[]> {
    const model = this.#model;
    model.beginLayers(plan.totalTokens);
    let sampling: number[] = [];
    for (let layer = 0; layer < model.config.layers; layer++) {
      sampling = [];
      for (let from = 0; from < plan.totalTokens; from += MAX_TOKENS) {
        const end = Math.min(from + MAX_TOKENS, plan.totalTokens);
        const part = placeTokens(plan, from, end, special);
        sampling.push(...part.sampling);
        const tokens = plan.tokens.subarray(from, end);
        const parts = partsOf(plan, from, end, special);
        model.computeLayer(layer, from, tokens, part.positions, part.places, parts);
      }
      await afterLayer(layer, (row, of) => model.lanes.view(row, of));
    }
    return sampling;
  }

  /** Computes tokens `from` to `end` of the plan; returns the rows that sample after one of them. */
  #compute(plan: StepPlan, from: number, end: number, special: readonly SpecialRow[]): number[] {
    const { positions, places, sampling } = placeTokens(plan, from, end, special);
    this.#model.computeTokens(
      plan.tokens.subarray(from, end),
      positions,
      places,
      partsOf(plan, from, end, special),
    );
    return sampling;
  }

  async close(): Promise<void> {}
}

/** Positions and tables of tokens `from` to `end` of the plan, and the rows that sample after one of them. */
function placeTokens(
  plan: StepPlan,
  from: number,
  end: number,
  special: readonly SpecialRow[],
): { positions: Uint32Array; places: TokenPlaces[]; sampling: number[] } {
  const positions = new Uint32Array(end - from);
  const groups = [plan, ...(plan.groups ?? [])];
  const places = groups.map(({ slots }) => ({
    slots: slots.subarray(from, end),
    tableStart: new Uint32Array(end - from),
  }));
  const sampling: number[] = [];
  const firstOf = Uint32Array.from(plan.computedBefore.subarray(0, plan.rows));
  for (const { row, position } of special) firstOf[row] = position ?? firstOf[row];
  let row = 0;
  while (plan.tokenStart[row + 1] <= from) row += 1;
  for (let token = from; token < end; token++) {
    while (plan.tokenStart[row + 1] <= token) row += 1;
    positions[token - from] = firstOf[row] + token - plan.tokenStart[row];
    groups.forEach(({ tableStart }, group) => (places[group].tableStart[token - from] = tableStart[row]));
    if (token + 1 === plan.tokenStart[row + 1] && plan.phases[row] !== Phase.PrefillChunk) sampling.push(row);
  }
  return { positions, places, sampling };
}

/** The tokens of special rows among tokens `from` to `end` of the plan. */
function partsOf(plan: StepPlan, from: number, end: number, special: readonly SpecialRow[]): LanePart[] {
  const parts: LanePart[] = [];
  for (const row of special) {
    const start = plan.tokenStart[row.row];
    const first = Math.max(start, from);
    const count = Math.min(start + row.newTokens, end) - first;
    if (count <= 0) continue;
    const tableStart = plan.tableStart[row.row];
    parts.push({ row, tableStart, first: first - from, count, firstQuery: first - start });
  }
  return parts;
}

/** Lets timers and input in between two parts of a long step. */
function breathe(): Promise<void> {
  return new Promise((resolve) => {
    if (typeof setImmediate === "function") setImmediate(resolve);
    else setTimeout(resolve, 0);
  });
}

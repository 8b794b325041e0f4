/**
 * WasmModel: weights, KV pool and forward pass in the memory of the wasm kernels.
 *
 *   weights, as stored in the files | rope tables | KV pool [block][layer][2][kvHead][blockSize][headDim] f32 |
 *   tables of the step | activations of up to MAX_TOKENS tokens
 *
 * Weights are streamed from the files to their place: they are never held twice.
 */
import { QuartermasterError } from "../../bindings/errors.js";
import { type ModelConfig, ropeFrequencies, type WeightType } from "./model-config.js";
import { type GroupLayout, type LayerGroup, layOutGroups } from "./layer-groups.js";
import type { ModelSource } from "./model-source.js";
import type { TensorLocation } from "./safetensors.js";
import type { KernelExports, Weight } from "./wasm-kernels.js";
import { type LanePart, type LayerPlace, WasmLanes } from "./wasm-lanes.js";
import { WasmPool } from "./wasm-pool.js";

/** Tokens computed together; the activations' memory is sized for it. */
export const MAX_TOKENS = 128;

const TYPES: Readonly<Record<WeightType, number>> = { f32: 0, f16: 1, bf16: 2 };
const PAGE = 65536;
const READ_BYTES = 4 * 2 ** 20;

interface Layer {
  readonly inputNorm: number;
  readonly postNorm: number;
  readonly q: Weight;
  readonly k: Weight;
  readonly v: Weight;
  readonly o: Weight;
  readonly gate: Weight;
  readonly up: Weight;
  readonly down: Weight;
  readonly biases: { q: number; k: number; v: number };
}

export interface WasmModelOptions {
  blocks: number;
  blockSize: number;
  maxSequenceTokens: number;
  groups: readonly LayerGroup[];
}

/** Where a group keeps the tokens that are computed together: slots, and index of their tables' first entries. */
export interface TokenPlaces {
  readonly slots: ArrayLike<number>;
  readonly tableStart: ArrayLike<number>;
}

/** Addresses of what is known of a group in a step: its tables, and by token the slot and the table. */
interface GroupInputs {
  readonly slots: number;
  readonly tableOf: number;
  tables: number;
  tableWords: number;
}

export class WasmModel {
  readonly config: ModelConfig;
  readonly blocks: number;
  readonly blockSize: number;
  readonly blockBytes: number;
  readonly maxSequenceTokens: number;
  readonly layout: GroupLayout;
  readonly #memory: WebAssembly.Memory;
  readonly #kernels: KernelExports;
  readonly #layers: Layer[] = [];
  #embedding!: Weight;
  #head!: Weight;
  #finalNorm!: number;
  #cos!: number;
  #sin!: number;
  /** K and V. */
  pool!: WasmPool;
  /** Rows with lanes or statistics. */
  lanes!: WasmLanes;
  #top = 64;
  // Activations and inputs of up to MAX_TOKENS tokens.
  #ids!: number;
  #positions!: number;
  /** Of group 0, 1, ... */
  #inputs: GroupInputs[] = [];
  #x!: number;
  #normed!: number;
  #q!: number;
  #k!: number;
  #v!: number;
  #attended!: number;
  #gate!: number;
  #up!: number;
  #scores!: number;
  #logits!: number;
  /** Hidden states of a step that is computed layer by layer. */
  #states = { pointer: 0, bytes: 0 };

  private constructor(
    config: ModelConfig,
    options: WasmModelOptions,
    memory: WebAssembly.Memory,
    kernels: KernelExports,
  ) {
    this.config = config;
    this.blocks = options.blocks;
    this.blockSize = options.blockSize;
    this.maxSequenceTokens = options.maxSequenceTokens;
    this.layout = layOutGroups(config, options.blockSize, options.groups);
    this.blockBytes = this.layout.pageElements * 4;
    this.#memory = memory;
    this.#kernels = kernels;
  }

  /**
   * Streams the weights in and sets up the KV pool. Throws OUT_OF_MEMORY when all of it does not fit 4 GiB.
   */
  static async load(
    module: WebAssembly.Module,
    source: ModelSource,
    config: ModelConfig,
    tensors: ReadonlyMap<string, TensorLocation>,
    options: WasmModelOptions,
  ): Promise<WasmModel> {
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536 });
    const instance = await WebAssembly.instantiate(module, { env: { memory } });
    const model = new WasmModel(config, options, memory, instance.exports as unknown as KernelExports);
    await model.#loadWeights(source, tensors);
    model.#makeRopeTables();
    const kv = model.#take(model.blockBytes * options.blocks, "KV pool");
    model.pool = new WasmPool(memory, kv, config, options.blockSize, model.layout);
    model.#makeScratch();
    const take = (bytes: number, what: string): number => model.#take(bytes, what);
    model.lanes = new WasmLanes(memory, model.#kernels, take, config, options, model.#scores);
    return model;
  }

  #take(bytes: number, what: string): number {
    const pointer = this.#top;
    const end = pointer + Math.ceil(bytes / 64) * 64;
    const missing = end - this.#memory.buffer.byteLength;
    if (missing > 0) {
      try {
        this.#memory.grow(Math.ceil(missing / PAGE));
      } catch (error) {
        throw new QuartermasterError(
          "OUT_OF_MEMORY",
          `${what} of ${bytes} bytes does not fit the wasm kernels' memory`,
          {
            argument: what,
            value: bytes,
            cause: error,
          },
        );
      }
    }
    this.#top = end;
    return pointer;
  }

  async #loadWeights(source: ModelSource, tensors: ReadonlyMap<string, TensorLocation>): Promise<void> {
    const load = async (name: string): Promise<Weight> => {
      const tensor = tensors.get(name)!;
      const pointer = this.#take(tensor.bytes, name);
      for (let done = 0; done < tensor.bytes; done += READ_BYTES) {
        const bytes = Math.min(READ_BYTES, tensor.bytes - done);
        await source.read(
          tensor.file,
          tensor.offset + done,
          new Uint8Array(this.#memory.buffer, pointer + done, bytes),
        );
      }
      return { pointer, type: TYPES[tensor.type] };
    };
    /** Norms and biases are few: kept as f32. */
    const loadVector = async (name: string): Promise<number> => {
      const { pointer, type } = await load(name);
      const length = tensors.get(name)!.shape[0];
      if (type === TYPES.f32) return pointer;
      const wide = this.#take(length * 4, name);
      this.#kernels.toF32(pointer, type, length, wide);
      return wide;
    };
    this.#embedding = await load("model.embed_tokens.weight");
    for (let i = 0; i < this.config.layers; i++) {
      const at = `model.layers.${i}`;
      const biased = this.config.attentionBias;
      this.#layers.push({
        inputNorm: await loadVector(`${at}.input_layernorm.weight`),
        postNorm: await loadVector(`${at}.post_attention_layernorm.weight`),
        q: await load(`${at}.self_attn.q_proj.weight`),
        k: await load(`${at}.self_attn.k_proj.weight`),
        v: await load(`${at}.self_attn.v_proj.weight`),
        o: await load(`${at}.self_attn.o_proj.weight`),
        gate: await load(`${at}.mlp.gate_proj.weight`),
        up: await load(`${at}.mlp.up_proj.weight`),
        down: await load(`${at}.mlp.down_proj.weight`),
        biases: {
          q: biased ? await loadVector(`${at}.self_attn.q_proj.bias`) : 0,
          k: biased ? await loadVector(`${at}.self_attn.k_proj.bias`) : 0,
          v: biased ? await loadVector(`${at}.self_attn.v_proj.bias`) : 0,
        },
      });
    }
    this.#finalNorm = await loadVector("model.norm.weight");
    this.#head = this.config.tiedEmbeddings ? this.#embedding : await load("lm_head.weight");
  }

  #makeRopeTables(): void {
    const frequencies = ropeFrequencies(this.config);
    const length = this.maxSequenceTokens * frequencies.length;
    this.#cos = this.#take(length * 4, "rope table");
    this.#sin = this.#take(length * 4, "rope table");
    const cos = new Float32Array(this.#memory.buffer, this.#cos, length);
    const sin = new Float32Array(this.#memory.buffer, this.#sin, length);
    for (let position = 0, at = 0; position < this.maxSequenceTokens; position++) {
      for (const frequency of frequencies) {
        cos[at] = Math.cos(position * frequency);
        sin[at++] = Math.sin(position * frequency);
      }
    }
  }

  #makeScratch(): void {
    const { hidden, heads, kvHeads, headDim, intermediate, vocab } = this.config;
    const perToken = (width: number): number => this.#take(MAX_TOKENS * width * 4, "activations");
    this.#ids = perToken(1);
    this.#positions = perToken(1);
    this.#inputs = [0, ...this.layout.groups].map(() => ({
      slots: perToken(1),
      tableOf: perToken(1),
      tables: 0,
      tableWords: 0,
    }));
    this.#x = perToken(hidden);
    this.#normed = perToken(Math.max(hidden, heads * headDim));
    this.#q = perToken(heads * headDim);
    this.#k = perToken(kvHeads * headDim);
    this.#v = perToken(kvHeads * headDim);
    this.#attended = perToken(heads * headDim);
    this.#gate = perToken(intermediate);
    this.#up = perToken(intermediate);
    this.#scores = this.#take((this.maxSequenceTokens + 4) * 4, "activations");
    this.#logits = this.#take(vocab * 4, "activations");
  }

  /** Copies the block tables of a step in, group by group; `computeTokens` names rows of them by index. */
  setTables(tables: readonly Uint32Array[]): void {
    for (const [group, words] of tables.entries()) {
      const inputs = this.#inputs[group];
      if (words.length > inputs.tableWords) {
        inputs.tableWords = words.length;
        inputs.tables = this.#take(words.length * 4, "block tables");
      }
      new Uint32Array(this.#memory.buffer, inputs.tables, words.length).set(words);
    }
  }

  /**
   * Computes up to MAX_TOKENS tokens through all layers, writing their K and V. `places`: of group 0, 1, ... `parts`:
   * tokens of special rows, in order. Hidden states stay for `logits`.
   */
  computeTokens(
    ids: ArrayLike<number>,
    positions: ArrayLike<number>,
    places: readonly TokenPlaces[],
    parts: readonly LanePart[] = [],
  ): void {
    const n = this.#enter(ids, positions, places);
    this.#embed(n, this.#x);
    this.#layers.forEach((layer, i) => this.#computeLayer(layer, i, n, parts, this.#x));
  }

  /** Room for the hidden states of a step that is computed layer by layer. Throws OUT_OF_MEMORY. */
  beginLayers(tokens: number): void {
    const bytes = tokens * this.config.hidden * 4;
    if (bytes > this.#states.bytes) this.#states = { pointer: this.#take(bytes, "hidden states"), bytes };
  }

  /**
   * As `computeTokens`, through one layer; `first` is the index of the first token in the step. Layer 0 comes first, and
   * all tokens pass a layer before the next one.
   */
  computeLayer(
    index: number,
    first: number,
    ids: ArrayLike<number>,
    positions: ArrayLike<number>,
    places: readonly TokenPlaces[],
    parts: readonly LanePart[],
  ): void {
    const n = this.#enter(ids, positions, places);
    const x = this.#states.pointer + first * this.config.hidden * 4;
    if (index === 0) this.#embed(n, x);
    this.#computeLayer(this.#layers[index], index, n, parts, x);
  }

  /** Copies what is computed together in; returns how many tokens. */
  #enter(ids: ArrayLike<number>, positions: ArrayLike<number>, places: readonly TokenPlaces[]): number {
    const n = ids.length;
    const { buffer } = this.#memory;
    const put = (pointer: number, values: ArrayLike<number>): void =>
      new Uint32Array(buffer, pointer, n).set(values);
    put(this.#ids, ids);
    put(this.#positions, positions);
    for (const [group, { slots, tableStart }] of places.entries()) {
      const inputs = this.#inputs[group];
      put(inputs.slots, slots);
      const tableOf = new Uint32Array(buffer, inputs.tableOf, n);
      for (let i = 0; i < n; i++) tableOf[i] = inputs.tables + tableStart[i] * 4;
    }
    return n;
  }

  #embed(n: number, x: number): void {
    const { pointer, type } = this.#embedding;
    this.#kernels.embed(pointer, type, this.#ids, n, this.config.hidden, x);
  }

  #computeLayer(layer: Layer, index: number, n: number, parts: readonly LanePart[], x: number): void {
    const { hidden, heads, kvHeads, headDim, intermediate, rmsEps } = this.config;
    const kernels = this.#kernels;
    const { group, window, blockSize } = this.layout.layers[index];
    const { slots, tableOf, tables } = this.#inputs[group];
    const shift = Math.log2(blockSize);
    const interleaved = this.config.ropeLayout === "interleaved" ? 1 : 0;
    const layerBase = this.pool.layerBase(index);
    const project = (
      from: number,
      w: Weight,
      bias: number,
      rows: number,
      columns: number,
      out: number,
    ): void => kernels.matmul(from, w.pointer, w.type, bias, n, rows, columns, out);

    kernels.rmsNorm(x, layer.inputNorm, n, hidden, rmsEps, this.#normed);
    project(this.#normed, layer.q, layer.biases.q, heads * headDim, hidden, this.#q);
    project(this.#normed, layer.k, layer.biases.k, kvHeads * headDim, hidden, this.#k);
    project(this.#normed, layer.v, layer.biases.v, kvHeads * headDim, hidden, this.#v);
    kernels.rope(this.#q, this.#positions, n, heads, headDim, this.#cos, this.#sin, interleaved);
    kernels.rope(this.#k, this.#positions, n, kvHeads, headDim, this.#cos, this.#sin, interleaved);
    const place: LayerPlace = { index, layerBase, tables };
    const each = (width: number, part: LanePart, pointer: number): number => pointer + part.first * width * 4;
    const [queryWidth, keyWidth] = [heads * headDim, kvHeads * headDim];
    // K and V of all tokens before any attends: nothing reads another row's, but a row's own tokens see each other.
    eachPlain(n, parts, (first, count) =>
      kernels.writeKv(
        this.#k + first * keyWidth * 4,
        this.#v + first * keyWidth * 4,
        slots + first * 4,
        count,
        kvHeads,
        headDim,
        shift,
        layerBase,
        this.blockBytes,
      ),
    );
    for (const part of parts)
      this.lanes.write(part, place, each(keyWidth, part, this.#k), each(keyWidth, part, this.#v));
    eachPlain(n, parts, (first, count) =>
      kernels.attention(
        this.#q + first * queryWidth * 4,
        this.#positions + first * 4,
        tableOf + first * 4,
        count,
        heads,
        kvHeads,
        headDim,
        shift,
        layerBase,
        this.blockBytes,
        window,
        this.#scores,
        this.#attended + first * queryWidth * 4,
      ),
    );
    for (const part of parts)
      this.lanes.attend(part, place, each(queryWidth, part, this.#q), each(queryWidth, part, this.#attended));
    project(this.#attended, layer.o, 0, hidden, queryWidth, this.#normed);
    for (const part of parts)
      this.lanes.compareOutputs(
        part,
        place,
        each(queryWidth, part, this.#q),
        layer.o,
        each(hidden, part, this.#normed),
      );
    kernels.addTo(x, this.#normed, n * hidden);

    kernels.rmsNorm(x, layer.postNorm, n, hidden, rmsEps, this.#normed);
    project(this.#normed, layer.gate, 0, intermediate, hidden, this.#gate);
    project(this.#normed, layer.up, 0, intermediate, hidden, this.#up);
    kernels.swiglu(this.#gate, this.#up, n * intermediate);
    project(this.#gate, layer.down, 0, hidden, intermediate, this.#normed);
    kernels.addTo(x, this.#normed, n * hidden);
  }

  /** Logits [vocab] after the `i`-th token of a step computed layer by layer: a view until the next call. */
  layeredLogits(i: number): Float32Array {
    return this.logits(i, this.#states.pointer);
  }

  /** Logits [vocab] after the `i`-th token computed last: a view until the next call. */
  logits(i: number, x = this.#x): Float32Array {
    const { hidden, vocab, rmsEps } = this.config;
    this.#kernels.rmsNorm(x + i * hidden * 4, this.#finalNorm, 1, hidden, rmsEps, this.#normed);
    this.#kernels.matmul(
      this.#normed,
      this.#head.pointer,
      this.#head.type,
      0,
      1,
      vocab,
      hidden,
      this.#logits,
    );
    return new Float32Array(this.#memory.buffer, this.#logits, vocab);
  }
}

/** Calls body with each run of tokens [first, first + count) that no part covers. */
function eachPlain(
  n: number,
  parts: readonly LanePart[],
  body: (first: number, count: number) => void,
): void {
  let first = 0;
  for (const part of parts) {
    if (part.first > first) body(first, part.first - first);
    first = part.first + part.count;
  }
  if (n > first) body(first, n - first);
}

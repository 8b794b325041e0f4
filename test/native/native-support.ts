/** Plans written by hand into a core memory, and the tiny model, for tests of the native addon. */
import { closeSync, openSync, readFileSync, readSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import {
  loadAddon,
  SAMPLING_WORDS,
  type Addon,
  type NativeBatch,
  type NativeModel,
  type NativeModelConfig,
  type NativeTensor,
} from "../../native-host/executor/addon.js";

const loaded = loadAddon();

/** Options for test(): skips, and says why, where there is no addon. */
export const needsAddon = "addon" in loaded ? {} : { skip: loaded.reason };

export function theAddon(): Addon {
  if ("reason" in loaded) throw new Error(loaded.reason);
  return loaded.addon;
}

export const isas = "addon" in loaded ? loaded.addon.isa() : [];

export const TINY = fileURLToPath(new URL("../../../native-host/models/tiny-retrieval/", import.meta.url));
export const TINY_FILE = `${TINY}model.safetensors`;

export interface Golden {
  ids: number[];
  last_logits: number[];
  argmax_all: number[];
}
export const golden = JSON.parse(readFileSync(`${TINY}golden.json`, "utf8")) as Golden;

export const TINY_CONFIG: NativeModelConfig = {
  layers: 3,
  hidden: 128,
  heads: 4,
  kvHeads: 2,
  headDim: 32,
  intermediate: 256,
  vocab: 64,
  rmsEps: 1e-5,
  ropeTheta: 10000,
  ropeLayout: "half",
  ropeScaling: { type: "none" },
  attentionBias: false,
  tiedEmbeddings: false,
  slidingWindow: 0,
  maxSequenceTokens: 1024,
  blocks: 128,
  blockSize: 16,
  kvType: "f32",
  threads: 2,
  isa: "auto",
};

/** The tensors of a safetensors file. */
export function tensorsOf(path: string, file = 0): NativeTensor[] {
  const descriptor = openSync(path, "r");
  const length = Buffer.alloc(8);
  readSync(descriptor, length, 0, 8, 0);
  const headerBytes = Number(length.readBigUInt64LE());
  const text = Buffer.alloc(headerBytes);
  readSync(descriptor, text, 0, headerBytes, 8);
  closeSync(descriptor);
  const header = JSON.parse(text.toString()) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  return Object.entries(header)
    .filter(([name]) => name !== "__metadata__")
    .map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [from, to],
        },
      ]) => ({
        name,
        file,
        offset: 8 + headerBytes + from,
        bytes: to - from,
        dtype: dtype.toLowerCase() as NativeTensor["dtype"],
        shape,
      }),
    );
}

export interface HandRow {
  /** 0 prefill chunk, 1 decode, 2 last chunk. */
  phase: number;
  computedBefore: number;
  tokens: number[];
  /** Block ids of the whole sequence. */
  blocks: number[];
}

export interface HandSampling {
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  seed?: number;
  position?: number;
}

/** One sampling record; `history` is where the row's tokens lie. */
export function samplingRecord(s: HandSampling = {}, historyStart = 0, historyCount = 0): Uint32Array {
  const record = new Uint32Array(SAMPLING_WORDS);
  const floats = new Float32Array(record.buffer);
  const seed = BigInt(s.seed ?? 0);
  floats[0] = s.temperature ?? 0;
  record[1] = s.topK ?? 0;
  floats[2] = s.topP ?? 1;
  floats[3] = s.minP ?? 0;
  floats[4] = s.repetitionPenalty ?? 1;
  record[5] = Number(seed & 0xffffffffn);
  record[6] = Number(seed >> 32n);
  record[7] = s.position ?? 0;
  record[8] = historyStart;
  record[9] = historyCount;
  return record;
}

export interface HandBatch {
  batch: NativeBatch;
  sampling: Uint32Array;
  tokensOut: Uint32Array;
  logitsOut: Float32Array;
}

/** A model, and a memory to write plans into. */
export class Host {
  readonly model: NativeModel;
  readonly memory: WebAssembly.Memory;
  readonly config: NativeModelConfig;
  #words: Uint32Array;
  #next = 1;

  constructor(config: Partial<NativeModelConfig> = {}, file = TINY_FILE, shared = false) {
    this.config = { ...TINY_CONFIG, ...config };
    this.model = theAddon().createModel(this.config, [file], tensorsOf(file));
    this.memory = new WebAssembly.Memory({ initial: 16, maximum: 64, shared });
    this.#words = new Uint32Array(this.memory.buffer);
    this.model.attach(new Uint8Array(this.memory.buffer));
  }

  /** Lays out a plan by hand; `patch` may spoil it. */
  plan(rows: HandRow[], transfers: number[][] = []): HandBatch {
    this.#next = 1;
    const tokenStart = [0];
    const tableStart: number[] = [];
    const tables: number[] = [];
    const slots: number[] = [];
    for (const row of rows) {
      tokenStart.push(tokenStart[tokenStart.length - 1] + row.tokens.length);
      tableStart.push(tables.length);
      tables.push(...row.blocks);
      row.tokens.forEach((_, i) => {
        const position = row.computedBefore + i;
        const { blockSize } = this.config;
        slots.push(row.blocks[Math.floor(position / blockSize)] * blockSize + (position % blockSize));
      });
    }
    const samplingRows = rows.filter((row) => row.phase !== 0).length;
    const batch: NativeBatch = {
      rows: rows.length,
      totalTokens: slots.length,
      samplingRows,
      transferCount: transfers.length,
      phases: this.put(rows.map((row) => row.phase)),
      newTokens: this.put(rows.map((row) => row.tokens.length)),
      computedBefore: this.put(rows.map((row) => row.computedBefore)),
      tokenStart: this.put(tokenStart),
      tokens: this.put(rows.flatMap((row) => row.tokens)),
      slots: this.put(slots),
      tableStart: this.put(tableStart),
      tableCount: this.put(rows.map((row) => row.blocks.length)),
      tables: this.put(tables),
      transfers: this.put(transfers.flat()),
    };
    const sampling = new Uint32Array(samplingRows * SAMPLING_WORDS);
    for (let i = 0; i < samplingRows; i++) sampling.set(samplingRecord(), i * SAMPLING_WORDS);
    return {
      batch,
      sampling,
      tokensOut: new Uint32Array(samplingRows),
      logitsOut: new Float32Array(samplingRows * this.config.vocab),
    };
  }

  /** Writes words to the memory and returns their byte offset. */
  put(values: number[]): number {
    const at = this.#next;
    this.#words.set(values, at);
    this.#next += values.length;
    return at * 4;
  }

  word(offset: number): number {
    return this.#words[offset / 4];
  }

  setWord(offset: number, value: number): void {
    this.#words[offset / 4] = value;
  }

  async submit(hand: HandBatch, history = new Uint32Array(0)): Promise<HandBatch> {
    await this.model.run(hand.batch, hand.sampling, history, hand.tokensOut, hand.logitsOut);
    return hand;
  }

  run(rows: HandRow[], transfers: number[][] = []): Promise<HandBatch> {
    return this.submit(this.plan(rows, transfers));
  }
}

export function blockRange(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => first + i);
}

/** Feeds a prompt in chunks, each a sampling row, and returns the logits after the last one. */
export async function prefill(
  host: Host,
  tokens: number[],
  blocks: number[],
  chunk = tokens.length,
): Promise<Float32Array> {
  let logits = new Float32Array(0);
  for (let from = 0; from < tokens.length; from += chunk) {
    const part = tokens.slice(from, from + chunk);
    const phase = from + chunk >= tokens.length ? 2 : 0;
    logits = (await host.run([{ phase, computedBefore: from, tokens: part, blocks }]))
      .logitsOut as Float32Array<ArrayBuffer>;
  }
  return logits;
}

/** Numbers in [-1, 1) from a seed. */
export function randomFloats(count: number, seed: number, scale = 1): Float32Array {
  let state = seed >>> 0 || 1;
  return Float32Array.from({ length: count }, () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return ((state >>> 0) / 2 ** 31 - 1) * scale;
  });
}

/** Largest difference, relative to the larger of 1 and the wanted magnitude. */
export function largestError(got: ArrayLike<number>, wanted: ArrayLike<number>): number {
  if (got.length !== wanted.length) throw new Error(`lengths ${got.length} and ${wanted.length}`);
  let largest = 0;
  for (let i = 0; i < got.length; i++) {
    const error = Math.abs(got[i] - wanted[i]) / Math.max(1, Math.abs(wanted[i]));
    if (!(error <= largest)) largest = error;
  }
  return largest;
}

export function bitsOf(values: Float32Array): string {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString("hex");
}

/** The numbers as bytes of another type, rounded to nearest, ties to even. */
export function numbersAs(dtype: NativeTensor["dtype"], values: Float32Array): Uint8Array {
  if (dtype === "f32") return new Uint8Array(values.slice().buffer);
  const halves = Uint16Array.from(values, dtype === "bf16" ? bf16Bits : f16Bits);
  return new Uint8Array(halves.buffer);
}

/** Writes the tiny model with its weights in another number type; returns the path. */
export function rewriteTiny(path: string, dtype: NativeTensor["dtype"]): string {
  const file = readFileSync(TINY_FILE);
  const header: Record<string, unknown> = {};
  const parts: Uint8Array[] = [];
  let at = 0;
  for (const { name, offset, bytes, shape } of tensorsOf(TINY_FILE)) {
    const values = new Float32Array(
      file.buffer.slice(file.byteOffset + offset, file.byteOffset + offset + bytes),
    );
    const part = numbersAs(dtype, values);
    header[name] = { dtype: dtype.toUpperCase(), shape, data_offsets: [at, at + part.length] };
    parts.push(part);
    at += part.length;
  }
  const text = JSON.stringify(header);
  const padded = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  writeFileSync(path, Buffer.concat([length, padded, ...parts]));
  return path;
}

const scratch = new DataView(new ArrayBuffer(4));

function bf16Bits(value: number): number {
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/** For finite values below 65504. */
function f16Bits(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  const exponent = magnitude === 0 ? -14 : Math.max(-14, Math.floor(Math.log2(magnitude)));
  const units = magnitude / 2 ** (exponent - 10);
  const floor = Math.floor(units);
  const rounded = floor + (units - floor > 0.5 || (units - floor === 0.5 && floor % 2 === 1) ? 1 : 0);
  // A mantissa that rounds up to the next power of two carries into the exponent by itself.
  return sign | ((exponent + 14) * 1024 + rounded);
}

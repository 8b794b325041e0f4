/**
 * A real executor whose attention runs over keys, values and queries that a test gives: a model of one layer and one head
 * whose embeddings carry them, and whose logits are the attention's output. What merging and moving do to K and V is then
 * done by the executor itself, and can be compared with plain float64 attention.
 */
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { StatMask } from "../../bindings/main.js";
import { openModel } from "../../native-host/executor/main.js";
import { Lab, type LabSequence } from "../../sim/eviction/lab.js";
import { safetensors, smallConfig } from "./model-fixtures.js";
import { TINY_RETRIEVAL } from "./package-root.js";

export type Rows = readonly (readonly number[])[];

/** Dimensions of a key, a value, a query. */
export const DIMENSIONS = 32;
/** Hidden: key, value, query, output, then one constant element, one that makes all norms alike, and zeros. */
const HIDDEN = 5 * DIMENSIONS;
const [CONSTANT, FILL] = [4 * DIMENSIONS, 4 * DIMENSIONS + 1];
const THETA = 10_000;

/** The rotation that the executor undoes at `position`, in halves. */
function rotatedBack(row: readonly number[], position: number): number[] {
  const half = DIMENSIONS / 2;
  const result = [...row];
  for (let i = 0; i < half; i++) {
    const angle = -position * THETA ** ((-2 * i) / DIMENSIONS);
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
    result[i] = row[i] * cos - row[i + half] * sin;
    result[i + half] = row[i + half] * cos + row[i] * sin;
  }
  return result;
}

export class GivenAttention {
  readonly lab: Lab;
  readonly #tokens: number;
  readonly #directory: string;

  private constructor(lab: Lab, tokens: number, directory: string) {
    this.lab = lab;
    this.#tokens = tokens;
    this.#directory = directory;
  }

  /** @param keys [tokens][DIMENSIONS] after rotation; token i stands at position i, a query after all tokens */
  static async open(keys: Rows, values: Rows, queries: Rows): Promise<GivenAttention> {
    const zeros = new Array<number>(DIMENSIONS).fill(0);
    const embedding = [
      ...keys.map((key, i) => [...rotatedBack(key, i), ...values[i], ...zeros]),
      // A query does not see itself: its key lies opposite to it.
      ...queries.map((query) => {
        const row = rotatedBack(query, keys.length);
        return [...row.map((value) => -6 * value), ...zeros, ...row];
      }),
    ];
    // Logits are as many as tokens: enough for the output.
    while (embedding.length < DIMENSIONS + 1) embedding.push(new Array<number>(3 * DIMENSIONS).fill(0));
    const squares = embedding.map((row) => row.reduce((sum, value) => sum + value * value, 0));
    const largest = Math.max(...squares) + 1;
    const hidden = embedding.map((row, i) => {
      const whole = new Float64Array(HIDDEN);
      whole.set(row);
      whole[CONSTANT] = 1;
      whole[FILL] = Math.sqrt(largest - 1 - squares[i]);
      return whole;
    });
    const rms = Math.sqrt(largest / HIDDEN + 1e-5);
    const directory = writeModel(hidden, rms);
    const { executor } = await openModel(directory, {
      backend: "wasm",
      blocks: 256,
      blockSize: 16,
      returnLogits: true,
    });
    return new GivenAttention(new Lab(executor, 1), keys.length, directory);
  }

  async close(): Promise<void> {
    await this.lab.executor.close();
    rmSync(this.#directory, { recursive: true });
  }

  /** A sequence that holds all tokens. */
  async hold(): Promise<LabSequence> {
    const sequence = this.lab.open(null, this.#tokens);
    await sequence.run(
      Array.from({ length: this.#tokens }, (_, token) => token),
      undefined,
    );
    return sequence;
  }

  /** Attention's output of query `index` over what a sequence holds, and the probabilities of its slots; leaves nothing. */
  async ask(sequence: LabSequence, index: number): Promise<{ output: number[]; row: Float32Array }> {
    const spare = this.lab.take(1);
    const { logits, views } = await this.lab.run(
      [this.#tokens + index],
      this.#tokens,
      { blocks: [...sequence.table, ...spare], tables: undefined },
      sequence.lanes,
      sequence.policy,
      undefined,
      { mask: StatMask.LAST_ROW },
    );
    this.lab.give(spare);
    // The last norm scales everything alike: the constant element says by how much.
    const scale = 1 / logits[DIMENSIONS];
    return {
      output: Array.from({ length: DIMENSIONS }, (_, d) => logits[d] * scale),
      row: views[0].lastRow!.slice(0, sequence.lanes.longest),
    };
  }
}

function writeModel(embedding: readonly Float64Array[], rms: number): string {
  const vocab = embedding.length;
  const ffn = 4;
  const tensors = new Map<string, { dtype: string; shape: readonly number[]; bytes: Uint8Array }>();
  const put = (name: string, shape: readonly number[], values: ArrayLike<number>): void => {
    tensors.set(name, { dtype: "F32", shape, bytes: new Uint8Array(Float32Array.from(values).buffer) });
  };
  /** [rows][columns] zero but for element (i, from + i), i below `count`. */
  const pick = (rows: number, columns: number, to: number, from: number, count: number, value: number) => {
    const values = new Float32Array(rows * columns);
    for (let i = 0; i < count; i++) values[(to + i) * columns + from + i] = value;
    return values;
  };
  const ones = new Float32Array(HIDDEN).fill(1);
  const at = "model.layers.0.";
  put(
    "model.embed_tokens.weight",
    [vocab, HIDDEN],
    embedding.flatMap((row) => [...row]),
  );
  put(`${at}input_layernorm.weight`, [HIDDEN], ones);
  put(`${at}post_attention_layernorm.weight`, [HIDDEN], ones);
  ["k", "v", "q"].forEach((name, part) =>
    put(
      `${at}self_attn.${name}_proj.weight`,
      [DIMENSIONS, HIDDEN],
      pick(DIMENSIONS, HIDDEN, 0, part * DIMENSIONS, DIMENSIONS, rms),
    ),
  );
  put(
    `${at}self_attn.o_proj.weight`,
    [HIDDEN, DIMENSIONS],
    pick(HIDDEN, DIMENSIONS, 3 * DIMENSIONS, 0, DIMENSIONS, 1),
  );
  put(`${at}mlp.gate_proj.weight`, [ffn, HIDDEN], new Float32Array(ffn * HIDDEN));
  put(`${at}mlp.up_proj.weight`, [ffn, HIDDEN], new Float32Array(ffn * HIDDEN));
  put(`${at}mlp.down_proj.weight`, [HIDDEN, ffn], new Float32Array(HIDDEN * ffn));
  put("model.norm.weight", [HIDDEN], ones);
  // Output, then the constant element, by which the last norm is undone.
  put("lm_head.weight", [vocab, HIDDEN], pick(vocab, HIDDEN, 0, 3 * DIMENSIONS, DIMENSIONS + 1, 1));
  const directory = mkdtempSync(join(tmpdir(), "quartermaster-attention-"));
  const config = smallConfig({
    hidden_size: HIDDEN,
    intermediate_size: ffn,
    num_hidden_layers: 1,
    num_attention_heads: 1,
    num_key_value_heads: 1,
    head_dim: DIMENSIONS,
    vocab_size: vocab,
    max_position_embeddings: 1024,
    rope_theta: THETA,
  });
  writeFileSync(join(directory, "model.safetensors"), safetensors(tensors));
  writeFileSync(join(directory, "config.json"), JSON.stringify(config));
  for (const file of ["tokenizer.json", "tokenizer_config.json"])
    copyFileSync(join(TINY_RETRIEVAL, file), join(directory, file));
  return directory;
}

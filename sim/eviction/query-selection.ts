/**
 * Serves tokens whose attention reads only what a selector chooses, with the full cache kept.
 *
 * The executor takes bitmaps of what queries see, but gives no query away: each layer's query is recovered from the
 * probabilities of a run in which that layer sees everything and the layers below see their selection. log p_i = q.k_i /
 * sqrt(D) - log Z, so differences over many keys determine q (least squares, f64).
 */
import type { SparseSelector } from "../../bindings/eviction/policy.js";
import { StatMask, type StatView } from "../../bindings/statistics.js";
import { BOS, tokensOf } from "./alphabet.js";
import type { Lab, LabSequence } from "./lab.js";
import { argmax } from "./measures.js";
import type { Mode } from "./modes.js";
import type { Task } from "./tasks.js";

/** A selector that wants to be told the keys. */
export interface KeyedSelector extends SparseSelector {
  setKeys(view: StatView): void;
}

/** [heads * dimensions] queries of the last token, from LAST_ROW and KEYS. */
export function recoverQueries({ heads, kvHeads, lengths, stride, lastRow, keys }: StatView): Float32Array {
  const { data, headStride, slotStride: dimensions } = keys!;
  const queries = new Float32Array(heads * dimensions);
  const width = dimensions + 1;
  for (let head = 0; head < heads; head++) {
    const kvHead = Math.floor((head * kvHeads) / heads);
    const length = lengths[kvHead];
    const rows: Float64Array[] = [];
    for (let slot = 0; slot < length; slot++) {
      const probability = lastRow![head * stride + slot];
      if (!(probability > 1e-30)) continue;
      const row = new Float64Array(width);
      const at = kvHead * headStride + slot * dimensions;
      for (let d = 0; d < dimensions; d++) row[d] = data[at + d];
      row[dimensions] = Math.log(probability) * Math.sqrt(dimensions);
      rows.push(row);
    }
    // The normaliser is the same for all keys: it goes with the means.
    const center = new Float64Array(width);
    for (const row of rows) for (let d = 0; d < width; d++) center[d] += row[d] / rows.length;
    const square = Array.from({ length: dimensions }, () => new Float64Array(width));
    for (const row of rows) {
      for (let d = 0; d < width; d++) row[d] -= center[d];
      for (let a = 0; a < dimensions; a++) {
        const [sums, factor] = [square[a], row[a]];
        for (let b = 0; b < width; b++) sums[b] += factor * row[b];
      }
    }
    queries.set(solve(square), head * dimensions);
  }
  return queries;
}

/** Gaussian elimination with pivots; rows carry their right side. A direction that no key has gets 0. */
function solve(rows: Float64Array[]): Float64Array {
  const n = rows.length;
  for (let column = 0; column < n; column++) {
    let pivot = column;
    for (let i = column + 1; i < n; i++)
      if (Math.abs(rows[i][column]) > Math.abs(rows[pivot][column])) pivot = i;
    [rows[column], rows[pivot]] = [rows[pivot], rows[column]];
    if (Math.abs(rows[column][column]) < 1e-9) continue;
    for (let i = 0; i < n; i++) {
      const factor = i === column ? 0 : rows[i][column] / rows[column][column];
      if (factor !== 0) for (let d = column; d <= n; d++) rows[i][d] -= factor * rows[column][d];
    }
  }
  return Float64Array.from(rows, (row, i) => (Math.abs(row[i]) < 1e-9 ? 0 : row[n] / row[i]));
}

/** What one token read. */
export interface SelectedStep {
  readonly logits: Float32Array;
  /** [layers][kvHeads] slots read, the new token's own not counted. */
  readonly read: readonly (readonly Uint32Array[])[];
  /** [layers] what the layer's queries see of everything: LAST_ROW. */
  readonly rows: readonly { readonly lastRow: Float32Array; readonly stride: number }[];
}

/** Feeds a token to a sequence that holds everything; attention reads the selected slots and the token itself. */
export async function feedSelecting(
  sequence: LabSequence,
  token: number,
  selector: KeyedSelector,
): Promise<SelectedStep> {
  const { layers, kvHeads, seen } = sequence.lanes;
  const read: Uint32Array[][] = [];
  const rows: { lastRow: Float32Array; stride: number }[] = [];
  const visible = (layer: number, kvHead: number): Uint32Array | null => read[layer]?.[kvHead] ?? null;
  for (let layer = 0; layer < layers; layer++) {
    const { views } = await sequence.run([token], { mask: StatMask.LAST_ROW | StatMask.KEYS }, visible);
    const view = views[layer];
    const queries = recoverQueries(view);
    const group = view.heads / kvHeads;
    const dimensions = view.keys!.slotStride;
    selector.setKeys(view);
    rows.push({ lastRow: view.lastRow!.slice(), stride: view.stride });
    read.push(
      Array.from({ length: kvHeads }, (_, kvHead) => {
        const own = queries.subarray(kvHead * group * dimensions, (kvHead + 1) * group * dimensions);
        const slots = selector.select(layer, kvHead, own, sequence.lanes.lane(layer, kvHead));
        return slots.filter((slot) => slot < seen);
      }),
    );
    sequence.rewind(seen);
  }
  const { logits } = await sequence.run([token], undefined, visible);
  return { logits, read, rows };
}

/**
 * Asks a task with every token after the prompt reading what a selector chooses. The prompt is read in full, and nothing
 * is dropped. Returns [questions] whether the answer was right, and the share of slots that was read.
 */
export async function runSelecting(
  lab: Lab,
  task: Task,
  mode: Mode,
  selector: KeyedSelector,
): Promise<{ correct: boolean[]; read: number }> {
  const asked = mode === "single" ? task.questions.slice(0, 1) : task.questions;
  const prompt = [BOS, ...tokensOf(task.context + (mode === "multi-request" ? "" : asked[0].text))];
  const sequence = lab.open(null, prompt.length);
  let { logits } = await sequence.run(prompt, undefined);
  let [read, held] = [0, 0];
  const feed = async (text: string): Promise<void> => {
    for (const token of tokensOf(text)) {
      const step = await feedSelecting(sequence, token, selector);
      logits = step.logits;
      for (const slots of step.read.flat())
        [read, held] = [read + slots.length, held + sequence.lanes.seen - 1];
    }
  };
  const correct: boolean[] = [];
  for (const [turn, { text, answer }] of asked.entries()) {
    if (mode === "multi-request") await feed(text);
    else if (turn > 0) await feed(`;${text}`);
    let right = true;
    for (const character of answer) {
      right &&= argmax(logits) === tokensOf(character)[0];
      await feed(character);
    }
    correct.push(right);
    if (mode === "multi-request") sequence.rewind(prompt.length);
  }
  sequence.close();
  return { correct, read: read / held };
}

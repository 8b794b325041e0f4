/** How far a sequence that dropped tokens is from one that kept them all. */
import { StatMask } from "../../bindings/statistics.js";
import type { LabSequence } from "./lab.js";

/** Compared at one token, which both sequences are fed. */
export interface Distance {
  /**
   * Share of the full cache's attention that falls on tokens which the sequence still holds, mean over layers and query
   * heads; [layers] in `recallByLayer`.
   */
  readonly recall: number;
  readonly recallByLayer: readonly number[];
  /**
   * |O' - O| / (|O| + 1e-5) of the attention block's output, O' from the held tokens only and the full cache's query, mean
   * over layers.
   */
  readonly outputError: number;
  /** KL(full || dropped) of the next token's distribution, in nats. */
  readonly kl: number;
}

/** Index of the largest logit, the smaller one of equal ones. */
export function argmax(logits: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
  return best;
}

/** KL(softmax(p) || softmax(q)) in nats. */
export function divergence(p: ArrayLike<number>, q: ArrayLike<number>): number {
  const [logP, logQ] = [logSoftmax(p), logSoftmax(q)];
  return logP.reduce((sum, value, i) => sum + Math.exp(value) * (value - logQ[i]), 0);
}

function logSoftmax(logits: ArrayLike<number>): Float64Array {
  const values = Float64Array.from(logits);
  const largest = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const sum = values.reduce((total, value) => total + Math.exp(value - largest), 0);
  return values.map((value) => value - largest - Math.log(sum));
}

/**
 * Feeds `token` to both and compares. The full sequence is left as it was before: the token is run again and again in
 * its place. @param full holds every token, slot = position; both have seen the same tokens
 */
export async function distanceAt(
  full: LabSequence,
  sequence: LabSequence,
  token: number,
): Promise<{ distance: Distance; logits: Float32Array }> {
  const { layers, kvHeads } = full.lanes;
  const held = Array.from({ length: layers * kvHeads }, (_, lane) => heldPositions(sequence, lane));
  const before = full.lanes.seen;
  const reference = await full.run([token], {
    mask: StatMask.LAST_ROW | StatMask.OUTPUT_ERROR,
    keep: held,
  });
  const recallByLayer: number[] = [];
  let outputError = 0;
  for (const { layer, heads, lastRow, stride, outputError: error } of reference.views) {
    const group = heads / kvHeads;
    let mass = 0;
    for (let head = 0; head < heads; head++) {
      const row = lastRow!.subarray(head * stride, head * stride + before + 1);
      mass += row[before];
      for (const position of held[layer * kvHeads + Math.floor(head / group)]) mass += row[position];
    }
    recallByLayer.push(mass / heads);
    outputError += error! / layers;
  }
  full.rewind(before);
  const logits = await sequence.feed(token);
  const recall = recallByLayer.reduce((sum, value) => sum + value, 0) / layers;
  return {
    distance: { recall, recallByLayer, outputError, kl: divergence(reference.logits, logits) },
    logits,
  };
}

/** Ascending positions whose tokens queries see. */
function heldPositions(sequence: LabSequence, lane: number): Uint32Array {
  const { kvHeads } = sequence.lanes;
  const live = sequence.liveSlots(Math.floor(lane / kvHeads), lane % kvHeads);
  const positions = sequence.lanes.positions(lane);
  return (live === null ? positions : live.map((slot) => positions[slot])).sort();
}

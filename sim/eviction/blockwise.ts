/** Prefill block by block with dropping after each block, and how much each layer's keys depend on distant context. */
import type { StatView } from "../../bindings/statistics.js";
import { StatMask } from "../../bindings/statistics.js";
import type { Lab, LabSequence } from "./lab.js";

export interface BlockwiseOptions {
  /** Tokens of a block. */
  readonly block: number;
  /** Tokens that are run after each block to score what is held; undefined: the policy needs none. */
  readonly probe?: readonly number[] | ((block: readonly number[]) => readonly number[]);
}

/** What a blockwise prefill took. */
export interface BlockwisePeak {
  /** Most slots of a lane, the block in flight included. */
  readonly slots: number;
  /** Most slots of a lane that a probe was run after, its own tokens included. */
  readonly withProbe: number;
}

/** Feeds tokens to an open sequence; its policy drops after every block. */
export async function prefillBlockwise(
  sequence: LabSequence,
  tokens: readonly number[],
  { block, probe }: BlockwiseOptions,
): Promise<BlockwisePeak> {
  let [slots, withProbe] = [0, 0];
  for (let from = 0; from < tokens.length; from += block) {
    const part = tokens.slice(from, from + block);
    await sequence.run(part, undefined);
    slots = Math.max(slots, sequence.lanes.longest);
    const asked = typeof probe === "function" ? probe(part) : probe;
    let views: StatView[] = [];
    if (asked) {
      views = await sequence.probe(asked, { mask: StatMask.PROBE_MAX });
      withProbe = Math.max(withProbe, sequence.lanes.longest + asked.length);
    }
    await sequence.observePrefill(views, part.length);
  }
  return { slots, withProbe };
}

/**
 * Cosine of each layer's keys from an ordinary prefill with those from one in which a block sees only itself, the first
 * `sinks` tokens, and the last half of the block before; mean over heads and windows of 100 tokens. [layers]
 */
export async function layerSimilarity(
  lab: Lab,
  tokens: readonly number[],
  { block = 128, sinks = 16 } = {},
): Promise<number[]> {
  const { layers, kvHeads } = lab.shape;
  const full = lab.open(null, tokens.length);
  const whole = (await full.run(tokens, { mask: StatMask.KEYS })).views.map(keysOf);
  full.close();
  const masked = lab.open(null, tokens.length);
  let views: StatView[] = [];
  for (let from = 0; from < tokens.length; from += block) {
    const visible = Uint32Array.from({ length: from }, (_, slot) => slot).filter(
      (slot) => slot < sinks || slot >= from - block / 2,
    );
    views = (await masked.run(tokens.slice(from, from + block), { mask: StatMask.KEYS }, () => visible))
      .views;
  }
  const blocked = views.map(keysOf);
  masked.close();
  const width = 100 * lab.headDim;
  return Array.from({ length: layers }, (_, layer) => {
    let [sum, count] = [0, 0];
    for (let head = 0; head < kvHeads; head++) {
      const [a, b] = [whole[layer][head], blocked[layer][head]];
      for (let at = 0; at < a.length; at += width) {
        sum += cosine(a.subarray(at, at + width), b.subarray(at, at + width));
        count += 1;
      }
    }
    return sum / count;
  });
}

/** [kvHeads] keys of a lane, one after another. */
function keysOf({ keys, lengths, kvHeads }: StatView): Float32Array[] {
  const { data, headStride, slotStride } = keys!;
  return Array.from({ length: kvHeads }, (_, head) =>
    data.slice(head * headStride, head * headStride + lengths[head] * slotStride),
  );
}

function cosine(a: Float32Array, b: Float32Array): number {
  let [product, left, right] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    product += a[i] * b[i];
    left += a[i] * a[i];
    right += b[i] * b[i];
  }
  return product / Math.sqrt(left * right);
}

/**
 * A host without a model: attention is a seeded function of layer, head, query position and key position, normalised over
 * the slots that a lane holds. Serves one sequence under a policy by the contract of bindings/eviction/policy.ts, checks
 * every plan, and can be asked for the same attention again by a naive implementation.
 */
import assert from "node:assert/strict";
import {
  APPEND_SLOT,
  type EvictionPolicy,
  type KeepPlan,
  StatMask,
  type StatView,
} from "../../bindings/main.js";
import { HostLanes } from "../../sim/eviction/host-lanes.js";
import { shownTo } from "../../sim/eviction/views.js";

export interface SyntheticShape {
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** Uniform in [0, 1), by hashing integers. */
export function hash(...values: number[]): number {
  let h = 0x9e3779b9;
  for (const value of values) {
    h = Math.imul(h ^ (value + 0x7f4a7c15), 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
    h ^= h >>> 16;
  }
  return (h >>> 0) / 2 ** 32;
}

/** Logit of a query at a key. */
export type Logits = (layer: number, head: number, query: number, key: number) => number;

const MOST_POSITIONS = 1024;

/** Noise, tokens that matter to everyone, and tokens that come back with a period. Remembered: hosts ask again and again. */
export function seededLogits(seed: number): Logits {
  const rows = new Map<number, Float64Array>();
  return (layer, head, query, key) => {
    const index = (layer * 64 + head) * MOST_POSITIONS + query;
    let row = rows.get(index);
    if (row === undefined) rows.set(index, (row = new Float64Array(query + 1).fill(NaN)));
    if (Number.isNaN(row[key])) {
      const noise = 2 * hash(seed, layer, head, query, key);
      const heavy = hash(seed, layer, 77, key) < 0.1 ? 2 : 0;
      const period = 3 + Math.floor(hash(seed, layer, 88, key) * 12);
      const back = hash(seed, layer, 99, key) < 0.2 && (query - key) % period === 0 ? 4 : 0;
      row[key] = noise + heavy + back;
    }
    return row[key];
  };
}

/** Rows over every key up to the query: hosts and naive versions ask for them again and again. */
const wholeRows = new WeakMap<Logits, Map<number, Float64Array>>();

/** Softmax of a query over key positions, f64. Do not write to it. */
export function attend(
  logits: Logits,
  layer: number,
  head: number,
  query: number,
  keys: ArrayLike<number>,
): Float64Array {
  if (keys.length !== query + 1 || !isCounting(keys)) return softmax(logits, layer, head, query, keys);
  let rows = wholeRows.get(logits);
  if (rows === undefined) wholeRows.set(logits, (rows = new Map()));
  const index = (layer * 64 + head) * MOST_POSITIONS + query;
  let row = rows.get(index);
  if (row === undefined) rows.set(index, (row = softmax(logits, layer, head, query, keys)));
  return row;
}

/** Whether it is 0, 1, 2, ... */
function isCounting(keys: ArrayLike<number>): boolean {
  for (let i = 0; i < keys.length; i++) if (keys[i] !== i) return false;
  return true;
}

function softmax(
  logits: Logits,
  layer: number,
  head: number,
  query: number,
  keys: ArrayLike<number>,
): Float64Array {
  const row = Float64Array.from(keys, (key) => logits(layer, head, query, key));
  const largest = row.reduce((a, b) => Math.max(a, b), -Infinity);
  const weights = row.map((value) => Math.exp(value - largest));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((value) => value / sum);
}

export function keyOf(
  seed: number,
  layer: number,
  kvHead: number,
  position: number,
  headDim: number,
): number[] {
  return Array.from({ length: headDim }, (_, d) => hash(seed, 5, layer, kvHead, position, d) - 0.4);
}

export class SyntheticHost {
  readonly shape: SyntheticShape;
  readonly policy: EvictionPolicy;
  readonly promptTokens: number;
  readonly logits: Logits;
  readonly seed: number;
  lanes: HostLanes;
  /** Most slots of a lane while decoding. */
  peak = 0;
  /** Most slots of one KV head over the layers that a prompt's last chunk has reached. */
  prefillPeak = 0;

  constructor(
    shape: SyntheticShape,
    policy: EvictionPolicy,
    promptTokens: number,
    options: { seed?: number; logits?: Logits; capacity?: number } = {},
  ) {
    const { seed = 1, capacity = promptTokens + 400 } = options;
    this.shape = shape;
    this.policy = policy;
    this.promptTokens = promptTokens;
    this.seed = seed;
    this.logits = options.logits ?? seededLogits(seed);
    this.lanes = new HostLanes(shape.layers, shape.kvHeads, capacity, policy.planes);
    policy.beginSequence(this.lanes, promptTokens);
  }

  /** Feeds the prompt in chunks. */
  prefill(chunk = this.promptTokens): void {
    const { policy, lanes, shape } = this;
    for (let from = 0; from < this.promptTokens; from += chunk) {
      const count = Math.min(chunk, this.promptTokens - from);
      const last = from + count >= this.promptTokens;
      const before = lanes.lengths();
      lanes.append(count);
      for (let layer = 0; layer < shape.layers; layer++) {
        policy.observePrefill(
          layer,
          shownTo(this.#measure(layer, count, before), policy.needs.prefill),
          count,
        );
        const reached = lanes
          .lengths()
          .filter((_, lane) => lane % shape.kvHeads === 0 && lane / shape.kvHeads <= layer);
        this.prefillPeak = Math.max(
          this.prefillPeak,
          reached.reduce((sum, length) => sum + length, 0),
        );
        if (last && policy.endLayerPrefill) this.#apply(policy.endLayerPrefill(layer), layer);
      }
    }
    this.#apply(policy.endPrefill());
  }

  /** One decode step. */
  step(): void {
    const { policy, lanes, shape } = this;
    const before = lanes.lengths();
    lanes.append(1);
    this.peak = Math.max(this.peak, lanes.longest);
    for (let layer = 0; layer < shape.layers; layer++)
      policy.observeDecode(layer, shownTo(this.#measure(layer, 1, before), policy.needs.decode));
    this.#apply(policy.endStep());
  }

  /** Ascending positions of every lane. */
  positions(): number[][] {
    const { layers, kvHeads } = this.shape;
    return Array.from({ length: layers * kvHeads }, (_, lane) => {
      const positions = this.lanes.positions(lane);
      const live = this.#live(lane);
      return (live ? [...live].map((slot) => positions[slot]) : [...positions]).sort((a, b) => a - b);
    });
  }

  /** Goes on with a copy of the lanes and another policy of the same kind and options. */
  resume(policy: EvictionPolicy): SyntheticHost {
    const copy = new SyntheticHost(this.shape, policy, this.promptTokens, {
      seed: this.seed,
      logits: this.logits,
    });
    copy.lanes = this.lanes.fork();
    policy.beginSequence(copy.lanes, this.promptTokens);
    policy.restore(this.policy.serialize());
    return copy;
  }

  #live(lane: number): Uint32Array | null {
    const { kvHeads } = this.shape;
    const { policy } = this;
    if (!("live" in policy)) return null;
    const live = policy.live as (layer: number, kvHead: number) => Uint32Array | null;
    return live.call(policy, Math.floor(lane / kvHeads), lane % kvHeads);
  }

  #apply(plan: KeepPlan | null, upToLayer = this.shape.layers - 1): void {
    if (plan === null) return;
    const { lanes, shape } = this;
    assert.equal(plan.keep.length, shape.layers * shape.kvHeads);
    plan.merge?.forEach(({ lane, target, members }) => {
      assert.ok(plan.keep[lane]!.includes(target), "a merge's target stays");
      assert.ok(
        members.length > 0 && members.every((slot) => !plan.keep[lane]!.includes(slot)),
        "its members go",
      );
    });
    plan.keep.forEach((keep, lane) => {
      if (keep === null) return;
      assert.ok(
        Math.floor(lane / shape.kvHeads) <= upToLayer,
        "a plan for a layer that was not observed yet",
      );
      const { length } = lanes.lane(Math.floor(lane / shape.kvHeads), lane % shape.kvHeads);
      assert.ok(keep.length > 0, "a lane never gets empty");
      keep.forEach((slot, i) =>
        assert.ok(slot < length && (i === 0 || slot > keep[i - 1]), "ascending slots"),
      );
      lanes.keep(lane, keep);
    });
    if (plan.inPlace) {
      plan.inPlace.victim.forEach((slot, lane) => {
        if (slot !== APPEND_SLOT) assert.equal(plan.keep[lane], null, "reuse or packing, not both");
      });
      lanes.reuse(plan.inPlace);
    }
  }

  /** Everything that StatMask names but OUTPUT_ERROR, of the last `count` positions. */
  #measure(layer: number, count: number, before: Uint32Array): StatView {
    const { heads, kvHeads, headDim } = this.shape;
    const { lanes, policy } = this;
    const views = Array.from({ length: kvHeads }, (_, kvHead) => lanes.lane(layer, kvHead));
    const lengths = Uint32Array.from(views, ({ length }) => length);
    const stride = Math.ceil(Math.max(...lengths) / 4) * 4;
    const rows = Math.min(policy.needs.window ?? 1, count);
    const probes = Math.min(policy.needs.probe ?? count, count);
    const mask = policy.needs.prefill | policy.needs.decode;
    // Nothing is allocated or computed that the policy never asks for.
    const floats = (bits: number, count: number): Float32Array =>
      new Float32Array((mask & bits) !== 0 ? count : 0);
    const { LAST_ROW, COLSUM, WINDOW, WINDOW_MOMENTS, PROBE_MAX, KEYS } = StatMask;
    const lastRow = floats(LAST_ROW, heads * stride);
    const colsum = floats(COLSUM, heads * stride);
    const window = floats(WINDOW, heads * rows * stride);
    const moments = floats(WINDOW_MOMENTS, heads * 2 * stride);
    const probeMax = floats(PROBE_MAX, kvHeads * stride);
    const colcount = new Uint32Array(mask & COLSUM ? kvHeads * stride : 0);
    const keys = floats(KEYS, kvHeads * stride * headDim);
    const rowBits = LAST_ROW | COLSUM | WINDOW | WINDOW_MOMENTS | PROBE_MAX;
    let entropy = 0;
    views.forEach(({ length, pos }, kvHead) => {
      const old = before[layer * kvHeads + kvHead];
      const live = this.#live(layer * kvHeads + kvHead);
      const visible = live ?? Uint32Array.from({ length }, (_, slot) => slot);
      if (mask & KEYS)
        for (let slot = 0; slot < length; slot++)
          keys.set(keyOf(this.seed, layer, kvHead, pos[slot], headDim), (kvHead * stride + slot) * headDim);
      for (let g = 0; g < heads / kvHeads && mask & rowBits; g++) {
        const head = (kvHead * heads) / kvHeads + g;
        for (let t = 0; t < count; t++) {
          const query = lanes.seen - count + t;
          if (!(mask & COLSUM) && t < count - Math.max(rows, probes, 1)) continue;
          const seen = visible.filter((slot) => pos[slot] <= query);
          const row = attend(
            this.logits,
            layer,
            head,
            query,
            Uint32Array.from(seen, (slot) => pos[slot]),
          );
          const inWindow = t - (count - rows);
          seen.forEach((slot, i) => {
            colsum[head * stride + slot] += row[i];
            if (g === 0) colcount[kvHead * stride + slot] += 1;
            if (t === count - 1) lastRow[head * stride + slot] = row[i];
            if (inWindow < 0) return;
            window[(head * rows + inWindow) * stride + slot] = row[i];
            moments[2 * head * stride + slot] += row[i];
            moments[(2 * head + 1) * stride + slot] += row[i] * row[i];
            if (slot < length - rows) entropy -= row[i] * Math.log(row[i] + 1e-10);
          });
          if (t < count - probes || !(mask & PROBE_MAX)) continue;
          const cached = seen.filter((slot) => slot < old);
          const probe = attend(
            this.logits,
            layer,
            head,
            query,
            Uint32Array.from(cached, (slot) => pos[slot]),
          );
          cached.forEach((slot, i) => {
            const at = kvHead * stride + slot;
            probeMax[at] = Math.max(probeMax[at], probe[i]);
          });
        }
      }
    });
    return {
      layer,
      heads,
      kvHeads,
      newTokens: count,
      lengths,
      stride,
      lastRow,
      colsum,
      colcount,
      window,
      windowRows: rows,
      moments,
      entropy,
      probeMax,
      keys: { data: keys, headStride: stride * headDim, slotStride: headDim },
    };
  }
}

/**
 * EpiCache: a long conversation is prefilled block by block, and after each block the tokens stay that the text of one
 * episode attends to; layers whose keys need distant context get more. Source: "EpiCache: Episodic KV Cache Management for
 * Long Conversational Question Answering" (arXiv 2509.17396) and its released code. episodes.ts has the episodes.
 *
 * Score of a token: the largest probability that any probe query of any head of the group gives it, softmax over the
 * cached slots only. All heads of a layer compete for its budget; each keeps at least one token. Neither sinks nor recent
 * tokens are protected, unless asked for.
 *
 * The host calls, for every block: run the block; run the probe (the episode's text) after it, keeping nothing of its K and
 * V, with PROBE_MAX; observePrefill with that for each layer, then endPrefill. The most that is held is budget + block +
 * probe. What is generated is appended.
 *
 * Options: budget or ratio (mean slots of a lane); level: pair (default, heads of a layer compete) or pair-uniform (each
 * head its own); similarity: [layers] cosine of keys with and without distant context (default: all layers alike); alpha:
 * exponent (default 1.1); strict: exact sum (default true; false: floors, as released, whose sum may be larger); sinks,
 * recent (default 0).
 */
import { invalidArgument } from "../../errors.js";
import { type StatView, StatMask } from "../../statistics.js";
import { apportion } from "../apportion.js";
import type { OptionReader } from "../options.js";
import { LaneScorer, PromptPolicy } from "../prompt-policy.js";
import type { Selection } from "../select.js";

/** Least slots of a layer: this share of the mean. [code] */
const LEAST_SHARE = 0.25;

export interface SensitivityOptions {
  /** [layers] 1: keys do not change without distant context. */
  readonly similarity: ArrayLike<number>;
  /** Slots of a layer's lanes on average. */
  readonly slots: number;
  readonly alpha?: number;
  readonly strict?: boolean;
}

/** Slots of each layer's lanes: the less similar, the more. */
export function sensitivityBudgets(selection: Selection, options: SensitivityOptions): Int32Array {
  const { similarity, slots, alpha = 1.1, strict = true } = options;
  return apportion(selection.core, {
    weights: similarity,
    total: slots * similarity.length,
    minimum: Math.max(1, Math.floor(LEAST_SHARE * slots)),
    strategy: "inverse-power",
    alpha,
    strict,
  });
}

class ProbeScorer extends LaneScorer {
  readonly mask = StatMask.PROBE_MAX;

  observe(layer: number, { kvHeads, stride, probeMax }: StatView): void {
    for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
      const { length } = this.lanes.lane(layer, kvHead);
      const cached = new Float32Array(length);
      cached.set(probeMax!.subarray(kvHead * stride, kvHead * stride + Math.min(length, stride)));
      this.put(layer, kvHead, cached);
    }
  }
}

export function epicache(read: OptionReader, selection: Selection): PromptPolicy {
  const level = read.choice("level", "pair", ["pair", "pair-uniform"]);
  const similarity = read.value("similarity", 0);
  const alpha = read.number("alpha", 1.1, 0, 100);
  const strict = read.boolean("strict", true);
  if (similarity !== 0 && !(Array.isArray(similarity) && similarity.every((value) => Number.isFinite(value))))
    throw invalidArgument("options.similarity", similarity, "[layers] numbers");
  const layerSlots = (slots: number, layers: number): Int32Array => {
    const list = similarity as number[];
    if (list.length !== layers) throw invalidArgument("options.similarity", list.length, `${layers} layers`);
    return sensitivityBudgets(selection, { similarity: list, slots, alpha, strict });
  };
  return new PromptPolicy(read, selection, {
    scorer: new ProbeScorer(),
    scope: level === "pair" ? "layer-pool" : "lane",
    sinks: read.integer("sinks", 0, 0, 2 ** 20),
    recent: 0,
    ...(similarity !== 0 && { layerSlots }),
  });
}

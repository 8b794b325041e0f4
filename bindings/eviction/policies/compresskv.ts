/**
 * CompressKV: the few query heads that read answers choose what all heads of their layer keep, and layers that suffer more
 * from a small cache get more of it. Source: "CompressKV: Semantic Retrieval Heads Know What Tokens are Not Important Before
 * Generation" (arXiv 2508.02401) and its released code. Both are measured once a model: head-profile.ts.
 *
 * Score of a token before the window: its probability, mean over the window's queries, pooled over neighbours, mean over
 * the first heads of the profile; query head h reads KV head floor(h / G). One keep list a layer. Chosen once, at the end
 * of the prompt.
 *
 * Options: budget or ratio (mean slots of a lane, the window included); profile: a HeadProfile, or the name of one that is
 * built in (default tiny-retrieval); window (default 8); heads (first heads of the profile, default 4 or all there are);
 * kernel and pooling as in snapkv; layers: error-aware (default) or uniform; least (slots of a layer, default 32; less
 * where the budget is smaller, unless strict); strict (default false); fallback: a layer whose best head scores below this
 * share of the model's best uses all its heads (default 0: never).
 */
import { invalidArgument } from "../../errors.js";
import { type StatView, StatMask } from "../../statistics.js";
import { apportion } from "../apportion.js";
import { type HeadProfile, readHeadProfile, requireProfileFor } from "../head-profile.js";
import type { OptionReader } from "../options.js";
import { LaneScorer, PromptPolicy } from "../prompt-policy.js";
import { TINY_RETRIEVAL_PROFILE } from "../profiles/tiny-retrieval.js";
import type { Selection } from "../select.js";
import { pooled, type PoolingOptions, readPooling, windowScores } from "./snapkv.js";

const PROFILES: Readonly<Record<string, HeadProfile>> = { "tiny-retrieval": TINY_RETRIEVAL_PROFILE };
/** Most slots of a layer, in budgets. [code] */
const MOST_SHARE = 3;

/** Slots of each layer's lanes: exactly layers * slots together, within [least, 3 * slots]. */
export function errorAwareBudgets(
  selection: Selection,
  layerScore: readonly number[],
  slots: number,
  least: number,
): Int32Array {
  const total = slots * layerScore.length;
  return apportion(selection.core, {
    weights: layerScore,
    total,
    minimum: least,
    maximum: MOST_SHARE * slots,
    strategy: "error-aware",
  });
}

class CompressKVScorer extends LaneScorer {
  readonly mask = StatMask.WINDOW;
  override readonly window: number;
  readonly heads: readonly (readonly number[])[];
  readonly #profile: HeadProfile;
  readonly #pooling: PoolingOptions;
  readonly #selection: Selection;

  constructor(read: OptionReader, selection: Selection, profile: HeadProfile) {
    super();
    this.window = read.integer("window", 8, 1, 4096);
    this.#pooling = readPooling(read);
    this.#selection = selection;
    this.#profile = profile;
    const first = Math.min(profile.heads, read.integer("heads", 4, 1, 4096));
    const fallback = read.number("fallback", 0, 0, 1);
    const best = profile.headScore.map((scores) => Math.max(...scores));
    const share = fallback * Math.max(...best);
    this.heads = profile.headOrder.map((order, layer) =>
      order.slice(0, best[layer] < share ? profile.heads : first),
    );
  }

  observe(layer: number, stats: StatView): void {
    const { layers } = this.lanes;
    const { heads, kvHeads, lengths } = stats;
    requireProfileFor(this.#profile, { layers, heads, kvHeads });
    const scores = windowScores(stats, this.heads[layer], lengths[0] - stats.windowRows!);
    const shared = pooled(this.#selection, scores, lengths[0], this.#pooling);
    for (let kvHead = 0; kvHead < kvHeads; kvHead++) this.put(layer, kvHead, shared);
  }
}

export function compresskv(read: OptionReader, selection: Selection): PromptPolicy {
  const given = read.value("profile", "tiny-retrieval");
  if (typeof given === "string" && !Object.hasOwn(PROFILES, given))
    throw invalidArgument("options.profile", given, `a HeadProfile, or ${Object.keys(PROFILES).join(", ")}`);
  const profile = typeof given === "string" ? PROFILES[given] : readHeadProfile(given);
  const least = read.integer("least", 32, 1, 2 ** 20);
  const isStrict = read.boolean("strict", false);
  const isUniform = read.choice("layers", "error-aware", ["error-aware", "uniform"]) === "uniform";
  const layerSlots = (slots: number): ArrayLike<number> => {
    if (isStrict && least > slots)
      throw invalidArgument("options.budget", slots, `at least ${least} a layer`);
    return errorAwareBudgets(selection, profile.layerScore, slots, Math.min(least, slots));
  };
  return new PromptPolicy(read, selection, {
    scorer: new CompressKVScorer(read, selection, profile),
    scope: "layer-shared",
    ...(!isUniform && { layerSlots }),
  });
}

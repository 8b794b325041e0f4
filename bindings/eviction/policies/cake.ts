/**
 * CAKE: layers that attend widely and unsteadily get more of one budget, and lower layers shrink while higher ones are
 * still being computed. Source: "CAKE: Cascading and Adaptive KV Cache Eviction with Layer Preferences" (ICLR 2025) and
 * its released code.
 *
 * Over the last `window` queries, all query heads, and the keys before the window: dispersion H = -sum a ln a, shift V =
 * sum of the variances over queries, preference P = H^(1/tau1) V^(1/tau2). A token's indicator is the mean of its
 * probability plus gamma times its variance, pooled over neighbours, mean over the group. After each layer the slots beside
 * the windows are split over the layers so far by preference, and each keeps its best; a budget never grows again, so the
 * result is that of one split after the last layer. (The released code has no such guard: its integer repair can raise a
 * budget by slots that are gone.) Prompts of at most budget + window tokens stay whole.
 *
 * While decoding, the slot that the current query attends to least, mean over the group, goes from lanes over their
 * budget; the window's worth of recent slots stays.
 *
 * Options: budget or ratio (mean slots of a lane, the window included); window (default 32, at least 2); gamma (default
 * 200, made for contexts of thousands: at a few hundred tokens the variance dominates); tau1, tau2 (default 1); kernel and
 * pooling as in snapkv; cascade (default true; false: split once, with the peak of all layers' full caches); minPerLayer
 * (default 0, as published; 5 kernels keep pooling from wasting small budgets); allocation: cake (default) or uniform;
 * preference: both (default), dispersion or shift; indicator: cake (default) or mean (SnapKV's); decodePooling: none
 * (default) or position.
 */
import type { Core } from "../../core.js";
import { type StatView, StatMask } from "../../statistics.js";
import { apportion } from "../apportion.js";
import { BudgetRule, uniformBudget } from "../budget.js";
import type { OptionReader } from "../options.js";
import {
  type BudgetAllocator,
  type BudgetPlan,
  type KeepPlan,
  type LaneShape,
  type LaneView,
  type LayerSignals,
  PlaneMask,
  type SequenceLanes,
} from "../policy.js";
import { keepPlan, PolicyBase } from "../policy-base.js";
import { groupMean } from "../rows.js";
import type { Selection } from "../select.js";
import type { StateArray } from "../state.js";
import { pooled, type PoolingOptions, readPooling } from "./snapkv.js";

/** Splits slots over the layers seen so far; a layer's budget never grows. */
export class CakeAllocator implements BudgetAllocator {
  readonly name = "cake";
  readonly #core: Core;
  readonly #minimum: number;
  /** Preferences of the layers so far. */
  preferences: number[] = [];
  /** Their budgets. */
  budgets: number[] = [];

  /** @param minimum least slots of a layer */
  constructor(core: Core, minimum = 1) {
    this.#core = core;
    this.#minimum = Math.max(1, minimum);
  }

  /**
   * Budgets of layers 0 to this one, per KV head and beside the window.
   * @param most slots that a layer can use
   */
  addLayer(preference: number, total: number, most: number): readonly number[] {
    this.preferences.push(preference);
    const fresh = this.split(this.preferences, total, most);
    this.budgets = Array.from(fresh, (slots, layer) => Math.min(slots, this.budgets[layer] ?? most));
    return this.budgets;
  }

  /** The published integers, without the guard. All preferences 0: alike. */
  split(preferences: ArrayLike<number>, total: number, most: ArrayLike<number> | number): Int32Array {
    const least = (layer: number): number =>
      Math.min(this.#minimum, typeof most === "number" ? most : most[layer]);
    return apportion(this.#core, {
      weights: preferences,
      total,
      minimum: Array.from({ length: preferences.length }, (_, layer) => least(layer)),
      maximum: most,
      strategy: "cake",
    });
  }

  allocate({ weight, most }: LayerSignals, total: number): BudgetPlan {
    return { cap: this.split(weight, total, most), sinks: 0, recent: 0, scope: "lane" };
  }
}

/** Dispersion and shift of one layer, and each lane's indicator without pooling, [kvHeads][slots before the window]. */
export function cakeSignals(
  { heads, kvHeads, stride, lengths, moments, entropy, windowRows }: StatView,
  gamma: number,
): { dispersion: number; shift: number; indicators: Float32Array[] } {
  const group = heads / kvHeads;
  const rows = windowRows!;
  let shift = 0;
  const indicators = Array.from({ length: kvHeads }, (_, kvHead) => {
    const before = Math.max(0, lengths[kvHead] - rows);
    const indicator = new Float32Array(before);
    for (let head = kvHead * group; head < (kvHead + 1) * group; head++) {
      const at = 2 * head * stride;
      for (let slot = 0; slot < before; slot++) {
        const sum = moments![at + slot];
        const spread = Math.max(0, moments![at + stride + slot] - (sum * sum) / rows);
        const variance = rows > 1 ? spread / (rows - 1) : 0;
        shift += variance;
        indicator[slot] += (sum / rows + gamma * variance) / group;
      }
    }
    return indicator;
  });
  return { dispersion: entropy!, shift, indicators };
}

export class CakePolicy extends PolicyBase {
  readonly needs;
  readonly planes = PlaneMask.SCORE;
  readonly #rule: BudgetRule;
  readonly #window: number;
  readonly #gamma: number;
  readonly #tau: readonly [number, number];
  readonly #pooling: PoolingOptions;
  readonly #cascade: boolean;
  readonly #minPerLayer: number;
  readonly #allocation: "cake" | "uniform";
  readonly #preference: "both" | "dispersion" | "shift";
  readonly #indicator: "cake" | "mean";
  readonly #decodePooling: "none" | "position";
  #allocator: CakeAllocator;
  #prompt = 0;
  /** [layers * kvHeads] mean row of the step. */
  readonly #rows: Float32Array[] = [];

  constructor(read: OptionReader, selection: Selection) {
    super(read, selection);
    this.#rule = new BudgetRule(read);
    this.#window = read.integer("window", 32, 2, 4096);
    this.#gamma = read.number("gamma", 200, 0, 1e6);
    this.#tau = [read.number("tau1", 1, 0.01, 100), read.number("tau2", 1, 0.01, 100)];
    this.#pooling = readPooling(read);
    this.#cascade = read.boolean("cascade", true);
    this.#minPerLayer = read.integer("minPerLayer", 0, 0, 2 ** 20);
    this.#allocation = read.choice("allocation", "cake", ["cake", "uniform"]);
    this.#preference = read.choice("preference", "both", ["both", "dispersion", "shift"]);
    this.#indicator = read.choice("indicator", "cake", ["cake", "mean"]);
    this.#decodePooling = read.choice("decodePooling", "none", ["none", "position"]);
    read.done();
    this.needs = { prefill: StatMask.WINDOW_MOMENTS, decode: StatMask.LAST_ROW, window: this.#window };
    this.#allocator = new CakeAllocator(selection.core, this.#minPerLayer);
  }

  /** Slots of each layer's lanes beside the window, as split so far. */
  get layerBudgets(): readonly number[] {
    return this.#allocator.budgets;
  }

  /** The mean; what a layer gets is known after the prompt. */
  budgetFor(shape: LaneShape, promptTokens: number): BudgetPlan {
    this.#prompt = promptTokens;
    return uniformBudget(shape, this.#rule.slots(promptTokens), { recent: this.#window });
  }

  /** One layer may get all slots that its prompt can use. */
  override peakSlots({ cap }: BudgetPlan): number {
    const slots = cap[0];
    if (this.#prompt <= slots + this.#window) return Math.max(this.#prompt, slots) + 1;
    const layers = cap.length;
    return Math.min((slots - this.#window) * layers, this.#prompt - this.#window) + this.#window + 1;
  }

  layeredPeak(layers: number, promptTokens: number): { prompt: number; decode: number } | undefined {
    const slots = this.#rule.slots(promptTokens);
    if (!this.#cascade || promptTokens <= slots + this.#window) return undefined;
    const held = layers * (Math.max(1, slots - this.#window, this.#minPerLayer) + this.#window);
    return { prompt: held + promptTokens, decode: held + layers };
  }

  override beginSequence(lanes: SequenceLanes, promptTokens: number): void {
    super.beginSequence(lanes, promptTokens);
    this.#allocator = new CakeAllocator(this.selection.core, this.#minPerLayer);
  }

  override observePrefill(layer: number, stats: StatView): void {
    const { dispersion, shift, indicators } = cakeSignals(
      stats,
      this.#indicator === "cake" ? this.#gamma : 0,
    );
    indicators.forEach((indicator, kvHead) => {
      const { score, length } = this.lanes.lane(layer, kvHead);
      score!.set(pooled(this.selection, indicator, length, this.#pooling));
    });
    const [tau1, tau2] = this.#tau;
    const wide = this.#preference === "shift" ? 1 : Math.max(0, dispersion) ** (1 / tau1);
    const unsteady = this.#preference === "dispersion" ? 1 : shift ** (1 / tau2);
    // A later chunk of the same prompt measures anew.
    if (layer === 0) this.#allocator = new CakeAllocator(this.selection.core, this.#minPerLayer);
    if (this.#isOver) {
      const preference = this.#allocation === "uniform" ? 1 : wide * unsteady;
      this.#allocator.addLayer(preference, this.#total, this.lanes.seen - this.#window);
    }
  }

  endLayerPrefill(layer: number): KeepPlan | null {
    return this.#cascade && this.#isOver ? this.#keepUpTo(layer) : null;
  }

  override endPrefill(): KeepPlan | null {
    if (!this.#isOver) this.#allocator.budgets = Array.from({ length: this.lanes.layers }, () => this.#own);
    this.#settle();
    return this.#isOver && !this.#cascade ? this.keepBest(({ score }) => score!) : null;
  }

  override observeDecode(layer: number, stats: StatView): void {
    for (let kvHead = 0; kvHead < stats.kvHeads; kvHead++) {
      const row = groupMean(stats, kvHead);
      const lane = this.lanes.lane(layer, kvHead);
      this.#rows[layer * stats.kvHeads + kvHead] =
        this.#decodePooling === "none" ? row : poolByPosition(lane, row, this.#pooling.kernel);
    }
  }

  override endStep(): KeepPlan | null {
    this.steps += 1;
    const { cap } = this.budget;
    const isFar = this.eachLane(({ length }, i) => length > cap[i] + 1).some(Boolean);
    const row = (_: LaneView, i: number): Float32Array => this.#rows[i];
    return isFar ? this.keepBest(row) : this.reuseSmallest(row);
  }

  /** From now on every lane has what its layer was given. */
  #settle(): void {
    const { layers, kvHeads } = this.lanes;
    if (this.layerBudgets.length !== layers) return;
    const cap = Int32Array.from(
      { length: layers * kvHeads },
      (_, i) => this.layerBudgets[Math.floor(i / kvHeads)] + this.#window,
    );
    this.budget = { ...this.budget, cap };
  }

  /** Slots of a layer beside the window, on average. */
  get #own(): number {
    return Math.max(1, this.#rule.slots(this.promptTokens) - this.#window);
  }

  get #total(): number {
    return this.#own * this.lanes.layers;
  }

  get #isOver(): boolean {
    return this.lanes.seen > this.#rule.slots(this.promptTokens) + this.#window;
  }

  #keepUpTo(layer: number): KeepPlan | null {
    const { kvHeads } = this.lanes;
    return keepPlan(
      this.eachLane((lane, i) => {
        const at = Math.floor(i / kvHeads);
        if (at > layer) return null;
        return this.best(lane, lane.score!, this.layerBudgets[at] + this.#window);
      }),
    );
  }

  protected override state(): StateArray[] {
    return [Float64Array.from(this.#allocator.preferences), Float64Array.from(this.#allocator.budgets)];
  }

  protected override setState(parts: readonly StateArray[]): void {
    this.requireParts(parts.length === 2);
    [this.#allocator.preferences, this.#allocator.budgets] = parts.map((part) => [...part]);
    this.#settle();
  }
}

/** Average over slots whose positions lie within the kernel's reach; slots need not be in order. */
function poolByPosition({ pos, length }: LaneView, row: Float32Array, kernel: number): Float32Array {
  const slotAt = new Map<number, number>();
  for (let slot = 0; slot < length; slot++) slotAt.set(pos[slot], slot);
  const reach = (kernel - 1) / 2;
  return row.map((_, slot) => {
    let sum = 0;
    for (let at = pos[slot] - reach; at <= pos[slot] + reach; at++) sum += row[slotAt.get(at) ?? -1] ?? 0;
    return sum / kernel;
  });
}

/**
 * Who competes with whom for a budget, and in what units: options that score policies share.
 *
 *   scope=lane     every lane keeps its own best
 *   scope=layer    one list a layer, by the mean score of its heads
 *   scope=pool     the heads of a layer compete for the sum of their budgets
 *   scope=global   one list for the whole sequence, by the sum over layers and heads
 *   unit=block     one list for the whole sequence, of whole blocks: they leave the table and nothing moves
 *
 * A block is worth the sum of its tokens; blocks with protected tokens stay. Source of block-level eviction under a table that
 * all layers share: section 4.7 of our reading of "H2O" (arXiv 2306.14048).
 */
import type { Core } from "../core.js";
import { invalidArgument } from "../errors.js";
import type { Protections, SharedBudget } from "./budget.js";
import type { OptionReader } from "./options.js";
import type { BudgetPlan, BudgetScope, LaneShape, LaneView } from "./policy.js";
import type { Scores } from "./select.js";

export const SCOPES = {
  lane: "lane",
  layer: "layer-shared",
  pool: "layer-pool",
  global: "global-shared",
} as const satisfies Record<string, BudgetScope>;
export type ScopeName = keyof typeof SCOPES;

/** Slots of a block where neither the option nor the host says. */
const USUAL_BLOCK = 16;

export interface Competition {
  readonly scope: ScopeName;
  /** Whole blocks go, of so many slots; 0: of as many as the host's have. undefined: slots go. */
  readonly block: number | undefined;
}

/**
 * Reads `scope`, `unit` (slot or block; block means scope global) and `block`, the slots of a block (default: the host's).
 * @param scopes those that the method has; the first is its own
 * @param every steps from one dropping to the next
 */
export function readCompetition(read: OptionReader, scopes: readonly ScopeName[], every = 1): Competition {
  const isBlock = read.choice("unit", "slot", ["slot", "block"]) === "block";
  const scope = read.choice("scope", isBlock ? "global" : scopes[0], scopes);
  if (!isBlock) return { scope, block: undefined };
  if (scope !== "global") throw invalidArgument("options.unit", "block", `slot, with scope ${scope}`);
  if (every > 1) throw invalidArgument("options.every", every, "1, where whole blocks go");
  return { scope, block: read.integer("block", 0, 0, 2 ** 20) };
}

/** A budget in whole blocks: the largest multiple within it. Throws INVALID_ARGUMENT when what is protected takes all of it. */
function inBlocks(plan: BudgetPlan, wanted: number, hostBlock: number | undefined): BudgetPlan {
  const block = wanted || (hostBlock ?? USUAL_BLOCK);
  const held = Math.floor(plan.cap[0] / block);
  const least = Math.ceil(plan.sinks / block) + Math.ceil(plan.recent / block) + 1;
  if (held < least)
    throw invalidArgument(
      "options.budget",
      plan.cap[0],
      `at least ${least * block} slots, in blocks of ${block}`,
    );
  return { ...plan, cap: plan.cap.map(() => held * block), block };
}

/** The budget of a competition. */
export function planIn(
  { scope, block }: Competition,
  rule: Pick<SharedBudget, "plan">,
  core: Core,
  shape: LaneShape,
  promptTokens: number,
  how: Omit<Protections, "scope">,
): BudgetPlan {
  const plan = rule.plan(core, shape, promptTokens, { ...how, scope: SCOPES[scope] });
  return block === undefined ? plan : inBlocks(plan, block, shape.blockSize);
}

/** The sum of some lanes' scores; of integer scores, which rank and do not add up, the first lane's. */
export function addedUp(lists: readonly Scores[], length: number): Scores {
  if (lists[0] instanceof Uint32Array || lists.length === 1) return lists[0];
  const sums = new Float32Array(length);
  for (const list of lists) for (let slot = 0; slot < length; slot++) sums[slot] += list[slot];
  return sums;
}

/**
 * Slots that stay when whole blocks go, so that the next token finds room within the budget; null: all. The last block stays,
 * and of blocks of equal sums the later one.
 */
export function keepBlocks(
  scores: Scores,
  { length, pos }: Pick<LaneView, "length" | "pos">,
  { cap, block = USUAL_BLOCK, sinks }: BudgetPlan,
  recentFrom: number,
): Uint32Array | null {
  if (length < cap[0]) return null;
  const count = Math.ceil(length / block);
  const allowed = cap[0] / block - (length % block === 0 ? 1 : 0);
  const blocks = Array.from({ length: count }, (_, index) => {
    let sum = 0;
    let stays = index === count - 1;
    for (let slot = index * block; slot < Math.min(length, (index + 1) * block); slot++) {
      sum += Number.isNaN(scores[slot]) ? 0 : scores[slot];
      stays ||= pos[slot] < sinks || pos[slot] >= recentFrom;
    }
    return { index, sum, stays };
  });
  const best = blocks.sort((a, b) => Number(b.stays) - Number(a.stays) || b.sum - a.sum || b.index - a.index);
  const kept = new Set(best.slice(0, allowed).map(({ index }) => index));
  return Uint32Array.from({ length }, (_, slot) => slot).filter((slot) => kept.has(Math.floor(slot / block)));
}

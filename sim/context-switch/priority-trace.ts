/**
 * Priorities that change while requests live, computed before anything runs: every system is asked the same. At each
 * update every conversation draws one.
 *
 *   random   uniform, whatever it was before
 *   markov   a conversation is hot or cold: hot ones draw from the upper half. One that was served tends to be served again.
 *
 * The two kinds of traces of "FastSwitch" (arXiv 2411.18424); the numbers of the second are ours.
 */
import { invalidArgument, requireInteger } from "../../bindings/errors.js";

export type TraceKind = "random" | "markov";
export const TRACE_KINDS: readonly TraceKind[] = ["random", "markov"];

/** Chance that a hot conversation stays hot. */
const STAYS_HOT = 0.9;

/** Uniform in [0, 1), a function of its arguments alone. */
function draw(seed: number, update: number, conversation: number, salt: number): number {
  let h = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(update + 1, 0xc2b2ae35);
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d) ^ Math.imul(conversation + 1, 0x27d4eb2f) ^ (salt << 7);
  h = Math.imul(h ^ (h >>> 13), 0x297a2d39);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  return ((h ^ (h >>> 15)) >>> 0) / 2 ** 32;
}

export class PriorityTrace {
  readonly kind: TraceKind;
  readonly conversations: number;
  readonly #seed: number;
  readonly #hotShare: number;
  /** Whether each conversation is hot at the updates computed so far. */
  readonly #hot: Uint8Array[] = [];

  /** `hotShare`: of the conversations that are hot in the long run, in (0, 0.9). Throws INVALID_ARGUMENT. */
  constructor(kind: TraceKind, conversations: number, seed: number, hotShare = 0.3) {
    if (!TRACE_KINDS.includes(kind)) throw invalidArgument("kind", kind, TRACE_KINDS.join(", "));
    if (typeof hotShare !== "number" || !(hotShare > 0 && hotShare < 0.9))
      throw invalidArgument("hotShare", hotShare, "a number between 0 and 0.9");
    this.kind = kind;
    this.conversations = requireInteger("conversations", conversations, 1, 2 ** 24);
    this.#seed = requireInteger("seed", seed, 0, 2 ** 31 - 1);
    this.#hotShare = hotShare;
  }

  /** Priority of a conversation from an update on, 0 (most urgent) to 255. */
  priority(conversation: number, update: number): number {
    requireInteger("conversation", conversation, 0, this.conversations - 1);
    requireInteger("update", update, 0, 2 ** 31 - 1);
    const uniform = draw(this.#seed, update, conversation, 1);
    const urgency =
      this.kind === "random" ? uniform : (uniform + Number(this.isHot(conversation, update))) / 2;
    return 255 - Math.floor(256 * urgency);
  }

  /** Kind "markov": whether a conversation is hot at an update. */
  isHot(conversation: number, update: number): boolean {
    const becomesHot = ((1 - STAYS_HOT) * this.#hotShare) / (1 - this.#hotShare);
    for (let at = this.#hot.length; at <= update; at++) {
      const states = new Uint8Array(this.conversations);
      for (let i = 0; i < this.conversations; i++) {
        const chance = at === 0 ? this.#hotShare : this.#hot[at - 1][i] !== 0 ? STAYS_HOT : becomesHot;
        states[i] = Number(draw(this.#seed, at, i, 2) < chance);
      }
      this.#hot.push(states);
    }
    return this.#hot[update][conversation] !== 0;
  }
}

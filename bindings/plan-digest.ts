/**
 * Digest of a plan: 64 bits over every word that a host may act on, and over what the step did to requests.
 *
 * Two lanes of 32 bits, each word multiplied in and shifted down, so that a flipped bit reaches all others. It tells
 * a changed plan from an equal one; it does not withstand anybody who looks for a collision.
 */
import type { StepPlan } from "./plan.js";
import type { Outcome } from "./scheduler-options.js";
import { STATUS_CODES } from "./errors.js";

class Digest {
  #high = 0xdeadbeef;
  #low = 0x41c6ce57;

  word(word: number): void {
    const high = Math.imul(this.#high ^ word, 0x9e3779b1);
    const low = Math.imul(this.#low ^ word, 0x5f356495);
    this.#high = high ^ (high >>> 15);
    this.#low = low ^ (low >>> 13);
  }

  /** An array: its length, then its words. */
  words(words: ArrayLike<number>): void {
    this.word(words.length);
    for (let i = 0; i < words.length; i++) this.word(words[i]);
  }

  /** 16 hexadecimal digits. */
  text(): string {
    const hex = (lane: number): string => (lane >>> 0).toString(16).padStart(8, "0");
    return hex(this.#high) + hex(this.#low);
  }
}

const KINDS = ["finished", "preempted", "rejected", "expired"] as const;
const CODES = Object.values(STATUS_CODES);

function addOutcomes(digest: Digest, outcomes: readonly Outcome[]): void {
  digest.word(outcomes.length);
  for (const outcome of outcomes) {
    digest.word(outcome.request);
    digest.word(KINDS.indexOf(outcome.kind));
    digest.word(CODES.indexOf(outcome.code as never));
    digest.words([outcome.generated, outcome.cachedTokens, outcome.preemptions]);
  }
}

/** Digest of a plan and of its outcomes so far. */
export function planDigest(plan: StepPlan, outcomes: readonly Outcome[]): string {
  const digest = new Digest();
  digest.words([plan.stepId, plan.rows, plan.decodeRows, plan.samplingRows, plan.totalTokens]);
  digest.words([plan.running, plan.waiting, plan.freeBlocks, plan.evictableBlocks]);
  for (const section of [plan.requests, plan.sequences, plan.phases, plan.newTokens, plan.computedBefore])
    digest.words(section);
  for (const section of [plan.layerLo, plan.layerHi, plan.tokenStart, plan.tokens, plan.slots])
    digest.words(section);
  for (let row = 0; row < plan.rows; row++) digest.words(blockTableOf(plan, row));
  for (const { tables, tableStart, tableCount, slots } of plan.groups ?? []) {
    for (let row = 0; row < plan.rows; row++)
      digest.words(tables.subarray(tableStart[row], tableStart[row] + tableCount[row]));
    digest.words(slots);
  }
  digest.words(plan.transfers);
  addOutcomes(digest, outcomes);
  return digest.text();
}

/** Digest of outcomes alone. */
export function outcomesDigest(outcomes: readonly Outcome[]): string {
  const digest = new Digest();
  addOutcomes(digest, outcomes);
  return digest.text();
}

/** Block ids of a row: a view. */
export function blockTableOf(plan: StepPlan, row: number): Uint32Array {
  return plan.tables.subarray(plan.tableStart[row], plan.tableStart[row] + plan.tableCount[row]);
}

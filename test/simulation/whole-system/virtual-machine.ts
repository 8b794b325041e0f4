/** The memory that block ids stand for, and the executor that reads and writes it. */
import assert from "node:assert/strict";
import { type CacheGroup, NO_BLOCK, type StepPlan, TRANSFER_WORDS } from "../../../bindings/main.js";
import type { Random } from "../../support/random.js";
import { contentInGroup } from "./answers.js";

/** What lies where nothing has been written, or nothing worth reading. */
const GARBAGE = 0xdeadbeef;

export class VirtualMachine {
  /** Copies of blocks so far. */
  copies = 0;
  /** Layers that keep their tokens in tables of their own; group 0 are the cache's. */
  readonly groups: readonly CacheGroup[];
  /** Words of a block: as many tokens as the group with the most has in one. */
  readonly #page: number;
  readonly #slots: Uint32Array;
  /** What is on the host tier, a block each. */
  readonly #host: Uint32Array;

  constructor(blocks: number, blockSize: number, groups: readonly CacheGroup[] = [], hostBlocks = 0) {
    this.groups = [{ kind: "full", window: 0, blockSize }, ...groups];
    this.#page = Math.max(...this.groups.map((group) => group.blockSize));
    this.#slots = new Uint32Array(blocks * this.#page).fill(GARBAGE);
    this.#host = new Uint32Array(hostBlocks * this.#page).fill(GARBAGE);
  }

  /**
   * The slots of a group's table hold `contents` up to token `length` - 1: all tokens of full groups, those that token `from`
   * and later ones see of windows, the state behind the last token of recurrent ones.
   */
  expect(
    table: Uint32Array,
    contents: ArrayLike<number>,
    length: number,
    whose: string,
    group = 0,
    from = length,
  ): void {
    const { kind, window, blockSize } = this.groups[group];
    const first = kind === "full" ? 0 : kind === "window" ? Math.max(0, from + 1 - window) : length - 1;
    for (let at = Math.max(0, first); at < length; at++) {
      const content = contentInGroup(contents[at], group);
      const block = table[Math.floor(at / blockSize)];
      if (block !== NO_BLOCK && this.#slots[this.#slot(table, at, group)] === content) continue;
      assert.fail(
        `${whose} reads something else at token ${at} of ${length}, group ${group}, block ${block === NO_BLOCK ? "none" : block}`,
      );
    }
  }

  /** Writes `contents` from token `from` to `to` - 1. */
  write(table: Uint32Array, contents: ArrayLike<number>, from: number, to: number, group = 0): void {
    for (let at = from; at < to; at++)
      this.#slots[this.#slot(table, at, group)] = contentInGroup(contents[at], group);
  }

  /** Runs copies of blocks; swaps are left to the transfers (host-transfers.ts). */
  transfer(records: Uint32Array): void {
    for (let at = 0; at < records.length; at += TRANSFER_WORDS) {
      const [op, , source, , target, tokens] = records.subarray(at, at + 6);
      if ((op & 255) !== 0) continue;
      const { blockSize } = this.groups[op >> 8];
      assert.ok(tokens <= blockSize);
      this.copies += 1;
      const start = source * this.#page;
      this.#slots.copyWithin(target * this.#page, start, start + tokens);
    }
  }

  /** A block's first `tokens` tokens go to the host tier, or come from it; with groups a whole page. */
  swap(out: boolean, source: number, target: number, tokens: number): void {
    const [from, to] = out ? [this.#slots, this.#host] : [this.#host, this.#slots];
    const words = this.groups.length > 1 ? this.#page : tokens;
    to.set(from.subarray(source * this.#page, source * this.#page + words), target * this.#page);
  }

  /** A transfer of a block breaks off: what it was to write may be anything. */
  breakSwap(out: boolean, target: number): void {
    (out ? this.#host : this.#slots).fill(GARBAGE, target * this.#page, (target + 1) * this.#page);
  }

  /** The content of a block of the cache's own tables, a copy; and the same written back. */
  read(block: number): Uint32Array {
    return this.#slots.slice(block * this.#page, (block + 1) * this.#page);
  }
  fill(block: number, content: Uint32Array): void {
    this.#slots.set(content, block * this.#page);
  }

  /**
   * The machine fails in the middle of a step: whatever it was to write may be anything now. States stay, since the next
   * step needs those that it would have overwritten: with recurrent layers a step is abandoned before it has begun.
   */
  fail(plan: StepPlan, random: Random): void {
    this.groups.forEach(({ kind, blockSize }, group) => {
      if (kind === "recurrent") return;
      for (const slot of group === 0 ? plan.slots : plan.groups![group - 1].slots) {
        const at = Math.floor(slot / blockSize) * this.#page + (slot % blockSize);
        if (random.below(2) === 0) this.#slots[at] = GARBAGE;
      }
    });
    for (let at = 0; at < plan.transfers.length; at += TRANSFER_WORDS) {
      const [op, , , , target] = plan.transfers.subarray(at, at + 5);
      if ((op & 255) === 0 && random.below(2) === 0) this.spoil(target);
    }
  }

  /** Nobody may read a block any more. */
  spoil(block: number): void {
    this.#slots.fill(GARBAGE, block * this.#page, (block + 1) * this.#page);
  }

  /** A state lies at the beginning of its last token's block. */
  #slot(table: Uint32Array, at: number, group: number): number {
    const { kind, blockSize } = this.groups[group];
    const offset = kind === "recurrent" ? 0 : at % blockSize;
    return table[Math.floor(at / blockSize)] * this.#page + offset;
  }
}

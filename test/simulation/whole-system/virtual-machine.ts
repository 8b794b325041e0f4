/** The memory that block ids stand for, and the executor that reads and writes it. */
import assert from "node:assert/strict";
import { type StepPlan, TRANSFER_WORDS } from "../../../bindings/main.js";
import type { Random } from "../../support/random.js";

/** What lies where nothing has been written, or nothing worth reading. */
const GARBAGE = 0xdeadbeef;

export class VirtualMachine {
  /** Copies of blocks so far. */
  copies = 0;
  readonly #slots: Uint32Array;

  constructor(
    readonly blocks: number,
    readonly blockSize: number,
  ) {
    this.#slots = new Uint32Array(blocks * blockSize).fill(GARBAGE);
  }

  /** The slots of a table hold `contents`, from token 0 to `length` - 1. */
  expect(table: Uint32Array, contents: ArrayLike<number>, length: number, whose: string): void {
    for (let at = 0; at < length; at++) {
      if (this.#slots[this.#slot(table, at)] === contents[at]) continue;
      assert.fail(
        `${whose} reads something else at token ${at} of ${length}, block ${table[Math.floor(at / this.blockSize)]}`,
      );
    }
  }

  /** Writes `contents` from token `from` to `to` - 1. */
  write(table: Uint32Array, contents: ArrayLike<number>, from: number, to: number): void {
    for (let at = from; at < to; at++) this.#slots[this.#slot(table, at)] = contents[at];
  }

  /** Runs copies of blocks. */
  transfer(records: Uint32Array): void {
    const { blockSize } = this;
    for (let at = 0; at < records.length; at += TRANSFER_WORDS) {
      const [op, , source, , target, tokens] = records.subarray(at, at + 6);
      assert.equal(op, 0, "a copy");
      assert.ok(tokens <= blockSize);
      this.copies += 1;
      this.#slots.copyWithin(target * blockSize, source * blockSize, source * blockSize + tokens);
    }
  }

  /** The machine fails in the middle of a step: whatever it was to write may be anything now. */
  fail(plan: StepPlan, random: Random): void {
    for (const slot of plan.slots) if (random.below(2) === 0) this.#slots[slot] = GARBAGE;
    for (let at = 0; at < plan.transfers.length; at += TRANSFER_WORDS)
      if (random.below(2) === 0) this.spoil(plan.transfers[at + 4]);
  }

  /** Nobody may read a block any more. */
  spoil(block: number): void {
    this.#slots.fill(GARBAGE, block * this.blockSize, (block + 1) * this.blockSize);
  }

  #slot(table: Uint32Array, at: number): number {
    return table[Math.floor(at / this.blockSize)] * this.blockSize + (at % this.blockSize);
  }
}

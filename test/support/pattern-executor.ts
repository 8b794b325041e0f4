/**
 * An executor with real memory and no model: every slot of its pool holds (request, position, version), and a run reads
 * all that its rows would attend to. Its swaps are copied by the native copier, on threads. Whatever is wrong is kept in
 * `wrong`: engines and transfers survive errors.
 */
import {
  type Executor,
  type ExecutorDescription,
  type RequestId,
  type StepPlan,
  type StepResult,
  TRANSFER_WORDS,
  TransferOp,
} from "../../bindings/main.js";
import { type Addon, COPY_WORDS, type NativeCopier } from "../../native-host/executor/addon.js";
import { toCopies } from "../../native-host/executor/host-copies.js";
import type { Random } from "./random.js";

const SLOT_WORDS = 4;

export interface PatternShape {
  readonly blocks: number;
  readonly hostBlocks: number;
  readonly blockSize: number;
  readonly vocab: number;
  /** Threads of each direction. */
  readonly threads: number;
  /** A run of blocks is copied up to so many microseconds late. */
  readonly delayUs: number;
}

/** Blocks of one tier that a copy reads, and how often each had been given away when it began. */
interface Reading {
  readonly owners: Uint32Array;
  readonly blocks: readonly number[];
  readonly versions: readonly number[];
}

export class PatternExecutor implements Executor {
  readonly wrong: string[] = [];
  /** Requests seen in plans. */
  readonly seen = new Set<RequestId>();
  readonly #shape: PatternShape;
  readonly #random: Random;
  readonly #copier: NativeCopier;
  readonly #device: Uint32Array;
  /** How often a block of the device, or of the host, was given to new content. */
  readonly #owners: readonly [device: Uint32Array, host: Uint32Array];
  /** By request and position, the versions that were written there: computed again, a token's K and V are the same. */
  readonly #written = new Map<RequestId, number[][]>();
  #version = 0;

  constructor(addon: Addon, shape: PatternShape, random: Random) {
    this.#shape = shape;
    this.#random = random;
    const { blocks, hostBlocks, blockSize, threads, delayUs } = shape;
    const blockBytes = blockSize * SLOT_WORDS * 4;
    const bytes = new Uint8Array(blocks * blockBytes);
    this.#device = new Uint32Array(bytes.buffer);
    this.#owners = [new Uint32Array(blocks), new Uint32Array(hostBlocks)];
    const testing = { delayUs, seed: random.next(), unordered: false };
    this.#copier = addon.createCopier(
      { blockBytes, hostBlocks, outThreads: threads, inThreads: threads, testing },
      bytes,
      null,
    );
  }

  describe(): ExecutorDescription {
    const { blocks, blockSize, hostBlocks, vocab } = this.#shape;
    const model = { layers: 1, kvHeads: 1, headDim: SLOT_WORDS, maxSequenceTokens: 256 };
    const blockBytes = blockSize * SLOT_WORDS * 4;
    return { backend: "pattern", ...model, blockBytes, blocks, blockSize, vocabSize: vocab, hostBlocks };
  }

  async run(plan: StepPlan): Promise<StepResult> {
    const tables = Array.from({ length: plan.rows }, (_, row) =>
      plan.tables.slice(plan.tableStart[row], plan.tableStart[row] + plan.tableCount[row]),
    );
    tables.forEach((table, row) => this.#read(plan, row, table));
    this.#write(plan);
    // Copies go on meanwhile: what is read again has not moved.
    for (let i = this.#random.below(4); i > 0; i--) await new Promise((resolve) => setImmediate(resolve));
    tables.forEach((table, row) => this.#read(plan, row, table));
    return { tokens: new Uint32Array(plan.samplingRows) };
  }

  async transfer(records: Uint32Array): Promise<number> {
    const reading = this.#begin(records);
    const arrived = await this.#copier.copyBatch(toCopies(records, this.#shape));
    reading.blocks.forEach((block, i) => {
      if (reading.owners[block] !== reading.versions[i])
        this.wrong.push(`block ${block} was given away unread`);
    });
    return arrived;
  }

  async close(): Promise<void> {
    this.#copier.close();
  }

  /** What a transfer writes has a new owner from here on; what it reads must keep its own until the end. */
  #begin(records: Uint32Array): Reading {
    const blocks: number[] = [];
    const out = records[0] === TransferOp.SwapOut;
    const [sources, targets] = out ? this.#owners : [this.#owners[1], this.#owners[0]];
    for (let at = 0; at < records.length; at += TRANSFER_WORDS) {
      const [, , source, , target, tokens] = records.subarray(at, at + TRANSFER_WORDS);
      for (let i = 0; i < Math.ceil(tokens / this.#shape.blockSize); i++) {
        blocks.push(source + i);
        targets[target + i] += 1;
      }
    }
    return { owners: sources, blocks, versions: blocks.map((block) => sources[block]) };
  }

  #read(plan: StepPlan, row: number, table: Uint32Array): void {
    const request = plan.requests[row];
    for (let position = 0; position < plan.computedBefore[row]; position++) {
      const slot = table[Math.floor(position / this.#shape.blockSize)] * this.#shape.blockSize;
      const at = (slot + (position % this.#shape.blockSize)) * SLOT_WORDS;
      const [owner, place, version] = this.#device.subarray(at, at + SLOT_WORDS);
      const right = this.#written.get(request)?.[position]?.includes(version) === true;
      if (owner !== request || place !== position || !right)
        this.wrong.push(`request ${request} at ${position} reads ${place} of ${owner}, version ${version}`);
    }
  }

  #write(plan: StepPlan): void {
    for (let row = 0; row < plan.rows; row++) {
      const request = plan.requests[row];
      this.seen.add(request);
      const written = this.#written.get(request) ?? [];
      this.#written.set(request, written);
      for (let token = plan.tokenStart[row]; token < plan.tokenStart[row + 1]; token++) {
        const position = plan.computedBefore[row] + token - plan.tokenStart[row];
        const slot = plan.slots[token];
        if (slot % this.#shape.blockSize === 0) this.#owners[0][slot / this.#shape.blockSize] += 1;
        this.#version += 1;
        this.#device.set([request, position, this.#version, 0], slot * SLOT_WORDS);
        (written[position] ??= []).push(this.#version);
      }
    }
  }
}

/** Copies of all blocks of one tier to the same ones of the other, one copy each. */
export function blockCopies(
  pairs: readonly (readonly [source: number, target: number, blocks: number])[],
  out: boolean,
): Uint32Array {
  const copies = new Uint32Array(pairs.length * COPY_WORDS);
  pairs.forEach(([source, target, blocks], i) =>
    copies.set([out ? 0 : 1, source, out ? 1 : 0, target, blocks], i * COPY_WORDS),
  );
  return copies;
}

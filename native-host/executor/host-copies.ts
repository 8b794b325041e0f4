/**
 * HostCopies: the swaps of plans on the addon's copiers. Records of transfers become one batch of block runs, which the
 * copier's threads carry out beside the executor's runs.
 */
import { invalidArgument } from "../../bindings/errors.js";
import { TRANSFER_WORDS, TransferOp } from "../../bindings/plan.js";
import { COPY_WORDS, type NativeCopier } from "./addon.js";

export interface HostCopiesShape {
  /** Blocks on either side, and tokens of one. */
  readonly blocks: number;
  readonly hostBlocks: number;
  readonly blockSize: number;
}

export class HostCopies {
  readonly #copier: NativeCopier;
  readonly #shape: HostCopiesShape;
  readonly #inFlight = new Set<Promise<number>>();

  constructor(copier: NativeCopier, shape: HostCopiesShape) {
    this.#copier = copier;
    this.#shape = shape;
  }

  /** As `Executor.transfer`. Throws INVALID_ARGUMENT, before anything is copied. */
  async transfer(records: Uint32Array): Promise<number> {
    const end = this.#copier.copyBatch(toCopies(records, this.#shape));
    this.#inFlight.add(end);
    try {
      return await end;
    } finally {
      this.#inFlight.delete(end);
    }
  }

  /** Waits for what is in flight, and frees the host memory. */
  async close(): Promise<void> {
    await Promise.allSettled(this.#inFlight);
    this.#copier.close();
  }
}

/** The copies of one transfer's records. Throws INVALID_ARGUMENT naming the first one that leaves its memory. */
export function toCopies(
  records: Uint32Array,
  { blocks, hostBlocks, blockSize }: HostCopiesShape,
): Uint32Array {
  const copies = new Uint32Array((records.length / TRANSFER_WORDS) * COPY_WORDS);
  for (let at = 0, to = 0; at < records.length; at += TRANSFER_WORDS, to += COPY_WORDS) {
    const [op, , source, , target, tokens] = records.subarray(at, at + TRANSFER_WORDS);
    const name = `records[${at / TRANSFER_WORDS}]`;
    if (op !== TransferOp.SwapOut && op !== TransferOp.SwapIn)
      throw invalidArgument(`${name} op`, op, "swaps, 1 and 2");
    const out = op === TransferOp.SwapOut;
    const count = Math.ceil(tokens / blockSize);
    const [sources, targets] = out ? [blocks, hostBlocks] : [hostBlocks, blocks];
    if (source + count > sources || target + count > targets)
      throw invalidArgument(name, `${source} to ${target}`, "blocks that there are");
    copies.set([out ? 0 : 1, source, out ? 1 : 0, target, count], to);
  }
  return copies;
}

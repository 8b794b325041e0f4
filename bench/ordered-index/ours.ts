/** Our index under a workload: through batches, and through single calls. */
import { Core, type IndexMode, type Operations, type OrderedIndex } from "../../bindings/main.js";
import type { MakeReplayer, Replayer } from "./replay.js";
import { Kind, type Phase, type Workload } from "./workload.js";

/** Operations recorded before they are applied, and keys of one `getMany`. */
const BATCH = 1024;

export interface IndexShape {
  readonly mode: IndexMode;
  readonly nodeBytes?: number;
  readonly keysPerPromotion?: number;
  /** Whether every page of the memory is touched before anything is timed. */
  readonly touched?: boolean;
}

const PAGE_BYTES = 4096;

function touch({ buffer }: WebAssembly.Memory): void {
  const bytes = new Uint8Array(buffer);
  for (let at = 0; at < bytes.length; at += PAGE_BYTES) Atomics.or(bytes, at, 0);
}

/** Entries that the workload leaves behind at the end. */
function finalEntries({ loaded, phases }: Workload): number {
  return phases.reduce(
    (sum, { codes }) => sum + codes.filter((code) => code === Kind.Insert).length,
    loaded.length,
  );
}

/** An index for the workload, in a core of its own. */
export async function makeIndex(workload: Workload, shape: IndexShape, workers = 1): Promise<OrderedIndex> {
  const shared = shape.mode !== "private";
  const core = await Core.create(shared ? { build: "core-threads", workers } : {});
  const { touched, ...options } = shape;
  const index = core.orderedIndex({ capacity: finalEntries(workload), ...options });
  if (touched) touch(core.memory);
  return index;
}

abstract class OurReplayer implements Replayer {
  readonly sampled: boolean = true;
  protected keys: BigUint64Array = new BigUint64Array(0);
  /** Low and high half of each key in turn. */
  protected halves: Uint32Array = new Uint32Array(0);
  protected codes: Uint32Array = new Uint32Array(0);

  constructor(protected readonly index: OrderedIndex) {}

  prepareLoad(keys: BigUint64Array): void {
    this.keys = keys;
    this.halves = halvesOf(keys);
  }

  load(): void {
    this.loadRange(0, this.keys.length);
  }

  abstract loadRange(from: number, to: number): void;

  prepare(phase: Phase): boolean {
    this.keys = phase.keys;
    this.halves = halvesOf(phase.keys);
    this.codes = phase.codes;
    return true;
  }

  abstract run(from: number, to: number): number;

  size(): number {
    return this.index.size;
  }

  bytes(): number {
    const { bytesPerEntry, entries } = this.index.stats();
    return bytesPerEntry * entries;
  }
}

/** Signed, so that summing them stays within 32-bit integers. */
function signedHalvesOf(keys: BigUint64Array): Int32Array {
  return new Int32Array(keys.buffer, keys.byteOffset, keys.length * 2);
}

function halvesOf(keys: BigUint64Array): Uint32Array {
  return new Uint32Array(keys.buffer, keys.byteOffset, keys.length * 2);
}

/** Sums the low halves of `count` entries. */
function sumEntries(keys: BigUint64Array, values: BigUint64Array, count: number): number {
  const [keyHalves, valueHalves] = [signedHalvesOf(keys), signedHalvesOf(values)];
  let sum = 0;
  for (let i = 0; i < count * 2; i += 2) sum = (sum + keyHalves[i] + valueHalves[i]) | 0;
  return sum;
}

/**
 * `setMany` to load, `getMany` where there are only reads, for the rest operations recorded straight into core memory,
 * where their results are read as well.
 */
export class BatchReplayer extends OurReplayer {
  #onlyReads = false;

  override loadRange(from: number, to: number): void {
    const keys = this.keys.subarray(from, to);
    this.index.setMany(keys, keys);
  }

  override prepare(phase: Phase): boolean {
    this.#onlyReads = phase.letter === "c";
    return super.prepare(phase);
  }

  override run(from: number, to: number): number {
    let sum = 0;
    for (let at = from, end: number; at < to; at = end) {
      end = this.#onlyReads ? Math.min(to, at + BATCH) : this.#endOfBatch(at, Math.min(to, at + BATCH));
      sum = (sum + (this.#onlyReads ? this.#getMany(at, end) : this.#apply(at, end))) | 0;
    }
    return sum;
  }

  /** As many operations as the region has room for what their scans may find, in whole groups of eight. */
  #endOfBatch(from: number, to: number): number {
    let room = this.index.region.operations.scanKeys.length;
    for (let i = from; i < to; i++) {
      const code = this.codes[i];
      if ((code & 0xff) === Kind.Scan) room -= code >> 8;
      if (room < 0) return from + ((i - from) & -8);
    }
    return to;
  }

  #getMany(from: number, to: number): number {
    const { values } = this.index.getMany(this.keys.subarray(from, to));
    const halves = halvesOf(values);
    let sum = 0;
    for (let i = 0; i < halves.length; i += 2) sum = (sum + halves[i]) | 0;
    return sum;
  }

  #apply(from: number, to: number): number {
    const { halves, codes } = this;
    const { region } = this.index;
    const { operations } = region;
    operations.clear();
    for (let i = from; i < to; i++) {
      const [low, high] = [halves[i * 2], halves[i * 2 + 1]];
      const code = codes[i];
      switch (code & 0xff) {
        case Kind.Read:
          operations.getHalves(low, high);
          break;
        case Kind.Scan:
          operations.scanHalves(low, high, code >> 8);
          break;
        case Kind.Insert:
          operations.putHalves(low, high, low, high);
          break;
        default:
          operations.putHalves(low, high, (low + 1) >>> 0, low === 0xffffffff ? high + 1 : high);
      }
    }
    region.apply();
    return this.#sumResults(from, to, operations);
  }

  #sumResults(from: number, to: number, operations: Operations): number {
    let sum = 0;
    let scanned = 0;
    for (let i = from; i < to; i++) {
      const kind = this.codes[i] & 0xff;
      const result = operations.status(i - from);
      if (result < 0) throw new Error(`operation ${i} was refused: ${result}`);
      if (kind === Kind.Read) sum = (sum + operations.valueLow(i - from)) | 0;
      else if (kind === Kind.Scan) scanned += result;
    }
    return (sum + sumEntries(operations.scanKeys, operations.scanValues, scanned)) | 0;
  }
}

/** One call an operation, keys as bigint. */
export class BigintReplayer extends OurReplayer {
  override loadRange(from: number, to: number): void {
    for (let i = from; i < to; i++) this.index.set(this.keys[i], this.keys[i]);
  }

  override run(from: number, to: number): number {
    const { index, keys, codes } = this;
    let sum = 0;
    for (let i = from; i < to; i++) {
      const key = keys[i];
      const code = codes[i];
      switch (code & 0xff) {
        case Kind.Read:
          sum = (sum + Number(BigInt.asUintN(32, index.get(key) ?? 0n))) | 0;
          break;
        case Kind.Scan:
          for (const [found, value] of index.scan(key, code >> 8))
            sum = (sum + Number(BigInt.asUintN(32, found)) + Number(BigInt.asUintN(32, value))) | 0;
          break;
        case Kind.Insert:
          index.set(key, key);
          break;
        default:
          index.set(key, key + 1n);
      }
    }
    return sum;
  }
}

/** One call an operation, keys as two u32 halves, scans into typed arrays. */
export class HalvesReplayer extends OurReplayer {
  readonly #scanKeys = new BigUint64Array(128);
  readonly #scanValues = new BigUint64Array(128);

  override loadRange(from: number, to: number): void {
    const { index, halves } = this;
    for (let i = from; i < to; i++)
      index.setHalves(halves[i * 2], halves[i * 2 + 1], halves[i * 2], halves[i * 2 + 1]);
  }

  override run(from: number, to: number): number {
    const { index, halves, keys, codes } = this;
    let sum = 0;
    for (let i = from; i < to; i++) {
      const [low, high] = [halves[i * 2], halves[i * 2 + 1]];
      const code = codes[i];
      switch (code & 0xff) {
        case Kind.Read:
          sum = (sum + (index.getLow(low, high) ?? 0)) | 0;
          break;
        case Kind.Scan: {
          const found = index.scanInto(keys[i], code >> 8, this.#scanKeys, this.#scanValues);
          sum = (sum + sumEntries(this.#scanKeys, this.#scanValues, found)) | 0;
          break;
        }
        case Kind.Insert:
          index.setHalves(low, high, low, high);
          break;
        default:
          index.setHalves(low, high, (low + 1) >>> 0, low === 0xffffffff ? high + 1 : high);
      }
    }
    return sum;
  }
}

export const INTERFACES = { batch: BatchReplayer, bigint: BigintReplayer, halves: HalvesReplayer };

export function ours(shape: IndexShape, through: keyof typeof INTERFACES): MakeReplayer {
  return async (workload) => new INTERFACES[through](await makeIndex(workload, shape));
}

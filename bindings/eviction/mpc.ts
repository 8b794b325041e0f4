/**
 * What selection costs when queries and keys are secret-shared: a machine that allows only operations which three parties
 * can run without learning anything, and counts them; and the closed form of a decode step's traffic. Source: "MPCache:
 * MPC-Friendly KV Cache Eviction for Efficient Private LLM Inference" (NeurIPS 2025, arXiv 2501.06807); the table of costs
 * is our estimate for three semi-honest parties and a ring of 64 bits, made for comparing methods.
 */
import { QuartermasterError } from "../errors.js";

/** Bytes of all parties together. */
export interface MpcCosts {
  /** Integer product, select by a bit, one output of a one-hot product. */
  readonly integer: number;
  /** Fixed-point product or inner product, with truncation. */
  readonly fixed: number;
  readonly compare: number;
  readonly exp: number;
  readonly reciprocal: number;
  /** One class of a one-hot vector. */
  readonly oneHot: number;
}

export const MPC_COSTS: MpcCosts = {
  integer: 24,
  fixed: 48,
  compare: 500,
  exp: 1384,
  reciprocal: 2288,
  oneHot: 64,
};

const ROUNDS = { integer: 1, fixed: 2, compare: 8, exp: 32, reciprocal: 44, oneHot: 8 } as const;

export interface OperationCount {
  calls: number;
  rounds: number;
  bytes: number;
}

/** What was done, by operation. */
export type MpcLedger = Record<string, OperationCount>;

/** A value that no party knows. Everything that would branch on it, or print it, throws. */
export class Shared {
  readonly #values: Float64Array;

  constructor(values: ArrayLike<number>) {
    this.#values = Float64Array.from(values);
  }

  get length(): number {
    return this.#values.length;
  }

  /** For the machine that made it. */
  static open(shared: Shared): Float64Array {
    return shared.#values;
  }

  [Symbol.toPrimitive](): never {
    throw new QuartermasterError(
      "UNSUPPORTED",
      "a shared value was used as a plain one: it must not decide anything",
      {
        argument: "value",
      },
    );
  }

  toJSON(): never {
    return this[Symbol.toPrimitive]();
  }
}

/** Runs the operations on plain numbers, and keeps the ledger that parties would have. */
export class MpcVm {
  readonly costs: MpcCosts;
  readonly ledger: MpcLedger = {};

  constructor(costs: MpcCosts = MPC_COSTS) {
    this.costs = costs;
  }

  share(values: ArrayLike<number>): Shared {
    return new Shared(values);
  }

  /** Ends the secret: for tests, and for what the protocol opens. */
  reveal(shared: Shared): Float64Array {
    return Shared.open(shared).slice();
  }

  get bytes(): number {
    return Object.values(this.ledger).reduce((sum, { bytes }) => sum + bytes, 0);
  }

  get rounds(): number {
    return Object.values(this.ledger).reduce((sum, { rounds }) => sum + rounds, 0);
  }

  /** Free: every party adds its shares. */
  add(a: Shared, b: Shared): Shared {
    const right = Shared.open(b);
    return new Shared(Shared.open(a).map((value, i) => value + right[i]));
  }

  /** Free: the factor is known to all. */
  mulPublic(a: Shared, factor: number): Shared {
    return new Shared(Shared.open(a).map((value) => value * factor));
  }

  /** Rows of a shared matrix times a shared vector; one fixed-point output a row. */
  matvec(rows: readonly Shared[], vector: Shared): Shared {
    this.#charge("innerProduct", ROUNDS.fixed, this.costs.fixed * rows.length);
    const right = Shared.open(vector);
    return new Shared(
      rows.map((row) => Shared.open(row).reduce((sum, value, i) => sum + value * right[i], 0)),
    );
  }

  /** Element-wise larger: one comparison and one select each. */
  larger(a: Shared, b: Shared): Shared {
    this.#charge("compare", ROUNDS.compare, this.costs.compare * a.length, a.length);
    this.#charge("select", ROUNDS.integer, this.costs.integer * a.length, a.length);
    const right = Shared.open(b);
    return new Shared(Shared.open(a).map((value, i) => Math.max(value, right[i])));
  }

  /** Secret indices of the `k` largest, ascending: a shuffle, then quickselect on opened comparison bits. */
  topk(values: Shared, k: number): Shared {
    const n = values.length;
    const rounds = 2 + 16 * Math.ceil(Math.log2(Math.max(2, n)));
    this.#charge("topk", rounds, this.costs.fixed * n + 3 * n * this.costs.compare);
    const plain = Shared.open(values);
    const order = Array.from({ length: n }, (_, i) => i).sort((a, b) => plain[b] - plain[a] || b - a);
    return new Shared(order.slice(0, k).sort((a, b) => a - b));
  }

  /** One row a secret index, over `classes`. */
  oneHot(indices: Shared, classes: number): Shared[] {
    this.#charge("oneHot", ROUNDS.oneHot, this.costs.oneHot * indices.length * classes, indices.length);
    return [...Shared.open(indices)].map(
      (index) => new Shared(Array.from({ length: classes }, (_, i) => Number(i === index))),
    );
  }

  /** One-hot rows times a matrix: the secret rows of it. One integer output an element. */
  gather(selectors: readonly Shared[], rows: readonly Shared[]): Shared[] {
    const width = rows[0].length;
    this.#charge("gather", ROUNDS.integer, this.costs.integer * selectors.length * width);
    return selectors.map((selector) => {
      const weights = Shared.open(selector);
      const sum = new Float64Array(width);
      rows.forEach((row, i) => Shared.open(row).forEach((value, d) => (sum[d] += weights[i] * value)));
      return new Shared(sum);
    });
  }

  #charge(operation: string, rounds: number, bytes: number, calls = 1): void {
    const entry = (this.ledger[operation] ??= { calls: 0, rounds: 0, bytes: 0 });
    entry.calls += calls;
    entry.rounds += rounds;
    entry.bytes += bytes;
  }
}

export interface SecureLevels {
  /** [clusters] mixed bound vectors of each level, coarse first; each coarse cluster has two children. */
  readonly coarse: readonly Shared[];
  readonly fine: readonly Shared[];
}

/**
 * Two-level selection on the machine: no comparison when scoring, and no party learns which clusters were chosen. The
 * first clusters are public, so is the last one when it is open.
 * @returns one-hot rows over the fine clusters, `reads` of them; a cluster may stand twice
 */
export function secureSelect(
  vm: MpcVm,
  { coarse, fine }: SecureLevels,
  query: Shared,
  { coarseRatio = 0.5, ratio = 0.2, isOpen = false } = {},
): { reads: Shared[]; candidates: number } {
  const always = (count: number): number[] => (isOpen ? [0, count - 1] : [0]);
  const k1 = Math.max(1, Math.floor(coarseRatio * coarse.length));
  const chosen = vm.topk(vm.matvec(coarse, query), k1);
  const first = vm.share([...always(coarse.length), ...vm.reveal(chosen)].slice(0, coarse.length));
  const hot = vm.oneHot(first, coarse.length);
  // A coarse cluster's row holds both children's vectors.
  const pairs = coarse.map((_, i) => {
    const children = [2 * i, 2 * i + 1].map((child) => fine[Math.min(child, fine.length - 1)]);
    return vm.share(children.flatMap((child) => [...Shared.open(child)]));
  });
  const gathered = vm.gather(hot, pairs);
  const width = query.length;
  const candidates = gathered
    .flatMap((row) =>
      [0, 1].map((half) => vm.share(Shared.open(row).subarray(half * width, (half + 1) * width))),
    )
    .slice(0, fine.length);
  const scores = vm.matvec(candidates, query);
  const k2 = Math.max(1, Math.floor(ratio * fine.length));
  const best = vm.topk(scores, k2);
  const second = vm.oneHot(vm.share([...always(candidates.length), ...vm.reveal(best)]), candidates.length);
  // Candidate rows over the fine clusters, from the rows over the coarse ones: free, then one product.
  const places = hot
    .flatMap((row) => {
      const weights = Shared.open(row);
      return [0, 1].map((half) =>
        vm.share(Array.from({ length: fine.length }, (_, i) => (i % 2 === half ? weights[i >> 1] : 0))),
      );
    })
    .slice(0, candidates.length);
  return { reads: vm.gather(second, places), candidates: candidates.length };
}

/** Ways to attend for one head and one decode step. */
export type MpcMethod = "full" | "tokens" | "quest" | "mpcache" | "static+mpcache";

/** Bytes of one head's decode step over `tokens` keys of `dimensions`; the composition that the ledger adds up to. */
export function mpcBytes(
  method: MpcMethod,
  tokens: number,
  dimensions: number,
  costs: MpcCosts = MPC_COSTS,
): number {
  const { integer, fixed, compare, exp, reciprocal, oneHot } = costs;
  const bound = compare + integer;
  const full = (n: number): number => fixed * (2 * n + dimensions) + (n - 1) * bound + n * exp + reciprocal;
  const topk = (n: number): number => fixed * n + 3 * n * compare;
  if (method === "full") return full(tokens);
  if (method === "tokens") {
    const k = Math.floor(0.2 * tokens);
    return fixed * tokens + topk(tokens) + oneHot * k * tokens + 2 * k * dimensions * integer + full(k);
  }
  if (method === "quest") {
    const clusters = Math.ceil(tokens / 16);
    const reads = Math.floor(0.2 * clusters) + 1;
    return (
      2 * dimensions * bound +
      clusters * dimensions * (2 * fixed + bound) +
      topk(clusters) +
      oneHot * reads * clusters +
      reads * 16 * dimensions * 2 * integer +
      full(16 * reads)
    );
  }
  if (method === "static+mpcache") return mpcBytes("mpcache", Math.floor(0.3 * tokens), dimensions, costs);
  const open = tokens % 32 === 0 ? 0 : 1;
  const [coarse, fine] = [Math.ceil(tokens / 32), Math.ceil(tokens / 16)];
  const first = Math.min(coarse, Math.max(1, Math.floor(0.5 * coarse)) + 1 + open);
  const candidates = Math.min(fine, 2 * first);
  const reads = Math.min(fine, Math.max(1, Math.floor(0.2 * fine)) + 1 + open);
  return (
    2 * dimensions * bound * (1 + 1 / 32) +
    fixed * (coarse + candidates) +
    topk(coarse) +
    topk(candidates) +
    oneHot * first * coarse +
    first * 2 * dimensions * integer +
    oneHot * reads * candidates +
    reads * fine * integer +
    reads * 16 * dimensions * 2 * integer +
    full(16 * reads)
  );
}

/** Links between the parties: round trip in seconds, bytes a second. */
export const MPC_LINKS = {
  lan: { roundTrip: 0.0002, bandwidth: 3e9 / 8 },
  wan: { roundTrip: 0.04, bandwidth: 200e6 / 8 },
} as const;

/** Seconds that rounds and bytes take on a link. */
export function mpcLatency(
  { rounds, bytes }: { readonly rounds: number; readonly bytes: number },
  { roundTrip, bandwidth }: { readonly roundTrip: number; readonly bandwidth: number },
): number {
  return rounds * roundTrip + bytes / bandwidth;
}

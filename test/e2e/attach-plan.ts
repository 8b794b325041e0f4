/** What the threads of an attach run do to the ordered indexes of a shared core; the main thread checks the sums. */
import type { OrderedIndex } from "../../bindings/main.js";

export const WORKERS = 3;
/** Keys 1 to this are entered before the workers start, value three times the key, and stay. */
export const STANDING = 2000;
export const COUNTERS: readonly number[] = Array.from({ length: 10 }, (_, i) => 5001 + i);
/** Additions to counters by each worker, and by the main thread beside them. */
export const ADDITIONS = 2000;
export const MAIN_ADDITIONS = 500;
/** Keys that each worker enters; every second one it removes again. */
export const OWN = 1500;

export const ownKey = (worker: number, i: number): number => 10_000 + i * WORKERS + worker;

export interface WorkerReport {
  /** Ids of the threads among those attached. */
  readonly worker: number;
  /** What was not as it had to be, in words. */
  readonly wrong: readonly string[];
}

/** One worker's part, through every way to call an index. */
export function work(index: OrderedIndex, me: number): string[] {
  const wrong: string[] = [];
  const expect = (holds: boolean, what: string): void => void (holds || wrong.push(`${index.mode}: ${what}`));
  for (let i = 0; i < OWN; i++) {
    const key = ownKey(me, i);
    if (i < 500) expect(index.set(BigInt(key), BigInt(i)), `set ${key}`);
    else if (i < 1000) expect(index.setHalves(key, 0, i), `setHalves ${key}`);
    const standing = 1 + ((i * 7) % STANDING);
    expect(index.get(BigInt(standing)) === BigInt(standing * 3), `get ${standing}`);
    expect(index.getLow(standing, 0) === standing * 3, `getLow ${standing}`);
  }
  const { region } = index;
  const batch = OWN - 1000;
  for (let i = 0; i < batch; i++) {
    region.keys[i] = BigInt(ownKey(me, 1000 + i));
    region.values[i] = BigInt(1000 + i);
  }
  region.setMany(batch);
  for (let i = 0; i < ADDITIONS; i++) {
    const counter = COUNTERS[(i + me) % COUNTERS.length];
    if (i % 2 === 0) index.fetchAdd(BigInt(counter), 1n);
    else index.fetchAddHalves(counter, 0, 1);
  }
  const own = BigUint64Array.from({ length: OWN }, (_, i) => BigInt(ownKey(me, i)));
  const { values, found } = index.getMany(own);
  expect(
    found.every((flag) => flag === 1),
    "own keys are found",
  );
  expect(
    values.every((value, i) => value === BigInt(i)),
    "own values are read",
  );
  const removed = index.deleteMany(own.filter((_, i) => i % 2 === 1));
  expect(removed === OWN / 2, `removed ${removed}`);
  let next = 1n;
  for (const [key, value] of index.range(1n, BigInt(STANDING))) {
    expect(key === next && value === key * 3n, `scanned ${key}`);
    next += 1n;
  }
  expect(next === BigInt(STANDING + 1), `scan ended before ${next}`);
  return wrong;
}

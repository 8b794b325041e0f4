/**
 * Writers enter keys of their own, scattered over the key space, and come and go with others in between; the other
 * threads scan. Whatever a writer had said was in before a scan began is in the scan; nothing is in it that nobody
 * had begun to enter when it ended; keys strictly increase.
 */
import assert from "node:assert/strict";
import type { Figures, Station } from "./station.js";

/** Odd, so that multiples of it modulo a power of two visit every number once. */
const STRIDE = 40503;
const CHUNK = 2048;
/** Keys a writer enters for each scan: all have their share however few processors there are. */
const KEYS_PER_SCAN = 24;

interface Plan {
  readonly writers: number;
  /** Keys that all writers enter, a power of two. */
  readonly keys: number;
}

/** The `i`-th key of a writer; even. What lies between two such keys comes and goes. */
function keyOf({ writers, keys }: Plan, writer: number, i: number): number {
  return 2 + 2 * (((i * writers + writer) * STRIDE) % keys);
}

/** Ledger: how many keys each writer has entered; for a scanner, how many scans it has made. */
export function scans(station: Station): Figures {
  const { workers, keys } = station.task;
  const plan = { writers: workers / 2, keys };
  return station.me < plan.writers ? write(station, plan) : scan(station, plan);
}

function write(station: Station, plan: Plan): Figures {
  const { index, me, random, task } = station;
  const { ledger, workers } = task;
  const share = plan.keys / plan.writers;
  const passing: bigint[] = [];
  for (let i = 0; i < share; i++) {
    const key = BigInt(keyOf(plan, me, i));
    index.set(key, key * 3n);
    Atomics.store(ledger, me, i + 1);
    passing.push(BigInt(keyOf(plan, me, random.below(share)) + 1));
    index.set(passing[passing.length - 1], 1n);
    if (passing.length > 20) index.delete(passing.splice(random.below(20), 1)[0]);
    station.step();
    for (let scanner = plan.writers; scanner < workers; scanner++) {
      for (let made = 0; i > KEYS_PER_SCAN * ((made = Atomics.load(ledger, scanner)) + 4);)
        Atomics.wait(ledger, scanner, made, 1);
    }
  }
  index.deleteMany(BigUint64Array.from(passing));
  station.whileAllWait(() => {
    index.validate();
    assert.equal(index.size, plan.keys);
  });
  return { entered: share };
}

function scan(station: Station, plan: Plan): Figures {
  const { index, me, task } = station;
  const { ledger } = task;
  const share = plan.keys / plan.writers;
  const enteredBy = (): number[] =>
    Array.from({ length: plan.writers }, (_, writer) => Atomics.load(ledger, writer));
  /** Place of each key in its writer's order, and the writer. */
  const places = new Map<number, [writer: number, i: number]>();
  for (let writer = 0; writer < plan.writers; writer++)
    for (let i = 0; i < share; i++) places.set(keyOf(plan, writer, i), [writer, i]);

  const keys = new BigUint64Array(CHUNK);
  const values = new BigUint64Array(CHUNK);
  let met = 0;
  for (let made = 1; ; made++) {
    const before = enteredBy();
    const found = before.map(() => 0);
    const late: [writer: number, i: number][] = [];
    let last = 0;
    for (let count = CHUNK; count === CHUNK;) {
      count = index.scanInto(BigInt(last + 1), CHUNK, keys, values);
      for (let at = 0; at < count; at++) {
        const key = Number(keys[at]);
        if (key <= last) throw new Error(`the scan goes back from ${last} to ${key}`);
        last = key;
        if (key % 2 === 1) continue;
        if (values[at] !== keys[at] * 3n) throw new Error(`key ${key} has the value ${values[at]}`);
        const [writer, i] = places.get(key)!;
        if (i < before[writer]) found[writer] += 1;
        else late.push([writer, i]);
      }
    }
    assert.deepEqual(found, before, "keys that were in before the scan");
    const after = enteredBy();
    for (const [writer, i] of late) assert.ok(i <= after[writer], `key ${i} of ${writer} before its time`);
    met += Number(after.some((entered, writer) => entered !== before[writer]));
    Atomics.store(ledger, me, made);
    Atomics.notify(ledger, me);
    station.step();
    if (before.every((entered) => entered === share)) {
      // Writers that wait for more scans than are left to make go on.
      Atomics.store(ledger, me, share);
      station.whileAllWait(() => {});
      return { scans: made, met };
    }
  }
}

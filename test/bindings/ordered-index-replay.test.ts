/** The workloads of bench/ordered-index, and that every way to call the index finds the same under them. */
import assert from "node:assert/strict";
import test from "node:test";
import { INTERFACES, ours } from "../../bench/ordered-index/ours.js";
import { replay } from "../../bench/ordered-index/replay.js";
import { decodeWorkload, type Distribution, generateWorkload } from "../../bench/ordered-index/workload.js";
import { NUMBER_MAPS, NumberMapReplayer } from "../../bench/peer/ordered-maps.js";
import { Core } from "../../bindings/main.js";

const LOADED = 3000;

function workload(distribution: Distribution) {
  return decodeWorkload(generateWorkload(LOADED, distribution, 7).buffer as ArrayBuffer);
}

test("keys of a workload are distinct and below 2^53, and only inserted keys are new", () => {
  const { loaded, phases } = workload("uniform");
  const known = new Set(loaded);
  assert.equal(known.size, LOADED);
  for (const { keys, codes } of phases)
    for (let i = 0; i < keys.length; i++) {
      const inserts = (codes[i] & 0xff) === 1;
      assert.equal(known.has(keys[i]), !inserts);
      assert.ok(keys[i] > 0n && keys[i] < 1n << 53n);
      if (inserts) known.add(keys[i]);
    }
});

test("the popular keys of a zipf workload are asked for far more often than the others", () => {
  const { phases } = workload("zipf");
  const reads = new Map<bigint, number>();
  for (const key of phases[0].keys) reads.set(key, (reads.get(key) ?? 0) + 1);
  const counts = [...reads.values()].sort((a, b) => b - a);
  // The most popular of n keys has a share of 1 / zeta(n), an eighth at 3,000.
  assert.ok(counts[0] / phases[0].keys.length > 0.09, `share of the most popular key: ${counts[0]}`);
  assert.ok(reads.size > LOADED / 4, `${reads.size} keys were read at all`);
});

test("batches, single calls and the ordered maps of npm find the same under every workload", async () => {
  for (const distribution of ["uniform", "zipf"] as const) {
    const makers = [
      ...Object.values(NUMBER_MAPS).map((NumberMap) => async () => new NumberMapReplayer(new NumberMap())),
      ...(Object.keys(INTERFACES) as (keyof typeof INTERFACES)[]).flatMap((through) =>
        (["private", "locked", "optimistic"] as const).map((mode) => ours({ mode }, through)),
      ),
    ];
    const found = [];
    for (const make of makers) {
      const { phases, size } = await replay(make, workload(distribution));
      const checksums = Object.fromEntries(phases.map(({ phase, checksum }) => [phase, checksum]));
      // A map without order runs no scans, nor the inserts among them.
      if (checksums.e !== undefined) found.push({ checksums, size });
    }
    assert.equal(found.length, makers.length - 1);
    for (const other of found) assert.deepEqual(other, found[0]);
  }
});

test("scanInto reads more entries than one crossing moves, and refuses arrays that are too short", async () => {
  const core = await Core.create();
  const index = core.orderedIndex({ capacity: 10_000 });
  const keys = BigUint64Array.from({ length: 10_000 }, (_, i) => BigInt(i * 3 + 1));
  index.setMany(
    keys,
    keys.map((key) => key * 2n),
  );
  const [foundKeys, foundValues] = [new BigUint64Array(9000), new BigUint64Array(9000)];
  assert.equal(index.scanInto(2n, 9000, foundKeys, foundValues), 9000);
  assert.deepEqual(foundKeys, keys.subarray(1, 9001));
  assert.deepEqual(
    foundValues,
    foundKeys.map((key) => key * 2n),
  );
  assert.equal(index.scanInto(keys[9990], 100, foundKeys, foundValues), 10);
  assert.equal(index.scanInto(1n << 63n, 100, foundKeys, foundValues), 0);
  assert.throws(() => index.scanInto(1n, 9001, foundKeys, foundValues), { code: "INVALID_ARGUMENT" });
});

/**
 * What selection costs between parties: the machine chooses the same clusters, counts exactly what it does, and its ledger
 * adds up to the closed form, which reproduces the worked table.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { clusterBounds, mixBounds, selectClusters } from "../../bindings/eviction/cluster-selector.js";
import { MPC_LINKS, mpcBytes, mpcLatency, MpcVm, secureSelect } from "../../bindings/eviction/mpc.js";
import { RandomStream } from "../../sim/random.js";

const normals = (random: RandomStream, count: number): Float32Array =>
  Float32Array.from({ length: count }, () => random.normal());

function laneOf(data: Float32Array, dimensions: number) {
  return { data, base: 0, stride: dimensions, dimensions, length: data.length / dimensions };
}

test("on the machine: the same clusters, exact counts, no comparison when scoring, and secrets that decide nothing", () => {
  const random = new RandomStream(4);
  const [tokens, dimensions] = [512, 64];
  const keys = laneOf(normals(random, tokens * dimensions), dimensions);
  const query = normals(random, dimensions);
  const levels = [32, 16].map((size) => clusterBounds(keys, size));
  const vm = new MpcVm();
  const rowsOf = (level: 0 | 1) => {
    const mixed = mixBounds(levels[level], 0.6);
    return Array.from({ length: levels[level].count }, (_, i) =>
      vm.share(mixed.subarray(i * dimensions, (i + 1) * dimensions)),
    );
  };
  const { reads, candidates } = secureSelect(vm, { coarse: rowsOf(0), fine: rowsOf(1) }, vm.share(query));
  assert.deepEqual([reads.length, candidates], [7, 18], "16 clusters, 8 + 1 stay, 18 halves, 6 + 1 are read");
  const { ledger } = vm;
  assert.deepEqual(Object.keys(ledger).sort(), ["gather", "innerProduct", "oneHot", "topk"]);
  assert.equal(ledger.compare, undefined);
  assert.equal(ledger.innerProduct.bytes, 48 * (16 + 18));
  assert.equal(ledger.topk.calls, 2);
  assert.equal(ledger.topk.bytes, 48 * 16 + 1500 * 16 + 48 * 18 + 1500 * 18);
  assert.equal(ledger.oneHot.bytes, 64 * (9 * 16 + 7 * 18));
  assert.equal(ledger.gather.bytes, 24 * (9 * 2 * 64 + 7 * 32));
  // The first coarse cluster is always there: where it is also among the best it takes two places.
  const plain = selectClusters(levels, query, tokens, {
    metric: "linear",
    alpha: 0.6,
    coarseRatio: 0.5,
    ratio: 0.2,
  });
  const secure = new Set(reads.map((row) => vm.reveal(row).indexOf(1)));
  assert.ok([...secure].every((cluster) => plain.clusters.includes(cluster)));
  const quest = new MpcVm();
  const one = quest.share([1, 2, 3]);
  quest.larger(one, quest.share([3, 2, 1]));
  assert.equal(quest.ledger.compare.calls, 3, "one a dimension");
  assert.throws(() => Number(one as unknown as number) > 1, { code: "UNSUPPORTED" });
  assert.throws(() => `${one as unknown as string}`, { code: "UNSUPPORTED" });
  assert.throws(() => JSON.stringify(one), { code: "UNSUPPORTED" });
});

test("the ledger of a decode step adds up to the closed form, open and closed last clusters", () => {
  const random = new RandomStream(5);
  const dimensions = 64;
  for (const tokens of [64, 512, 520, 1024, 1040, 2048]) {
    const isOpen = tokens % 32 !== 0;
    const keys = laneOf(normals(random, tokens * dimensions), dimensions);
    const vm = new MpcVm();
    const rows = [32, 16].map((size) => {
      const bounds = clusterBounds(keys, size);
      const mixed = mixBounds(bounds, 0.6);
      return Array.from({ length: bounds.count }, (_, i) =>
        vm.share(mixed.subarray(i * dimensions, (i + 1) * dimensions)),
      );
    });
    const query = vm.share(normals(random, dimensions));
    const { reads } = secureSelect(vm, { coarse: rows[0], fine: rows[1] }, query, { isOpen });
    // The open cluster's bounds take the new key: larger, and smaller by negation; K and V of what is read are gathered.
    const key = vm.share(normals(random, dimensions));
    vm.larger(key, rows[1].at(-1)!);
    vm.larger(vm.mulPublic(key, -1), vm.mulPublic(rows[1].at(-1)!, -1));
    const clusters = rows[1].map(() => vm.share(new Float64Array(2 * 16 * dimensions)));
    vm.gather(reads, clusters);
    // Beside it: a coarse cluster's bounds once in 32 tokens, and attention over what was read.
    const rest = (2 * dimensions * 524) / 32 + mpcBytes("full", 16 * reads.length, dimensions);
    assert.equal(vm.bytes + rest, mpcBytes("mpcache", tokens, dimensions), `${tokens} tokens`);
    assert.equal(vm.ledger.compare.calls, 2 * dimensions, "bounds alone compare");
  }
});

test("traffic of a decode step: the worked table within 3 %", (t) => {
  const table: Record<number, Record<string, number>> = {
    512: { full: 1031, tokens: 4682, quest: 1974, mpcache: 747, "static+mpcache": 436 },
    1024: { full: 2057, tokens: 16044, quest: 3820, mpcache: 1370, "static+mpcache": 634 },
    2048: { full: 4109, tokens: 58958, quest: 7674, mpcache: 2819, "static+mpcache": 950 },
  };
  for (const [tokens, row] of Object.entries(table)) {
    for (const [method, wanted] of Object.entries(row)) {
      const kilobytes = mpcBytes(method as "full", Number(tokens), 64) / 1000;
      t.diagnostic(`${tokens} ${method}: ${kilobytes.toFixed(0)} kB, table ${wanted}`);
      assert.ok(Math.abs(kilobytes - wanted) <= 0.03 * wanted, `${tokens} ${method}: ${kilobytes}`);
    }
  }
  const gain = (tokens: number): number =>
    mpcBytes("full", tokens, 64) / mpcBytes("static+mpcache", tokens, 64);
  assert.ok(gain(2048) >= 4 && gain(1024) > gain(512) && gain(2048) > gain(1024));
  for (const tokens of [512, 1024, 2048])
    for (const method of ["tokens", "quest"] as const)
      assert.ok(
        mpcBytes(method, tokens, 64) > mpcBytes("full", tokens, 64),
        "touching fewer tokens costs more",
      );
  assert.ok(
    mpcLatency({ rounds: 100, bytes: 1e6 }, MPC_LINKS.wan) >
      mpcLatency({ rounds: 100, bytes: 1e6 }, MPC_LINKS.lan),
  );
});

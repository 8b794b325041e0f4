/** How many keys reach each level follows the geometric law, whatever the keys look like. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Core, type OrderedIndex } from "../../bindings/main.js";
import { IndexMemory } from "../support/index-memory.js";
import { editedBuild } from "../support/threads-builds.js";

const COUNT = 50_000;
const PATTERNS: Readonly<Record<string, (i: number) => bigint>> = {
  ascending: (i) => BigInt(i + 1),
  descending: (i) => BigInt(COUNT - i),
  "one prefix": (i) => 0x1234567800000000n + BigInt(i + 1),
  "multiples of 64": (i) => BigInt(i + 1) * 64n,
  // The square of the promotion's inverse, in nodes of 1024 bytes.
  "multiples of 1024": (i) => BigInt(i + 1) * 1024n,
  "high bits only": (i) => BigInt(i + 1) << 40n,
  "spread over all keys": (i) => (BigInt(i + 1) * 0x9e3779b97f4a7c15n) & ((1n << 64n) - 1n),
};

async function filled(
  seed: number,
  nodeBytes: number,
  key: (i: number) => bigint,
  module?: WebAssembly.Module,
): Promise<OrderedIndex> {
  const core = await Core.create(module ? { build: "core-threads", module, seed } : { seed });
  // More room than the law needs: a broken hash may promote every key.
  const index = core.orderedIndex({ capacity: COUNT, nodeBytes });
  const keys = BigUint64Array.from({ length: COUNT }, (_, i) => key(i));
  index.setMany(keys, keys);
  return index;
}

/** Deviation of each level's count of keys from the law, in standard deviations. */
function deviations(index: OrderedIndex): number[] {
  const memory = new IndexMemory(index);
  return Array.from({ length: memory.levels - 1 }, (_, i) => {
    const level = i + 1;
    const share = 2 ** (-memory.digitBits * level);
    const expected = COUNT * share;
    return (memory.keysOnLevel(level) - expected) / Math.sqrt(expected * (1 - share));
  });
}

for (const nodeBytes of [128, 1024]) {
  test(`every level has its share of the keys, within five sigma: nodes of ${nodeBytes}`, async () => {
    for (const [name, key] of Object.entries(PATTERNS)) {
      for (const seed of [0, 21, 22]) {
        const found = deviations(await filled(seed, nodeBytes, key));
        assert.ok(found.length >= 2, "several levels are compared");
        assert.ok(
          found.every((deviation) => Math.abs(deviation) < 5),
          `${name}, seed ${seed}: ${found.map((deviation) => deviation.toFixed(1)).join(", ")} sigma`,
        );
      }
    }
  });
}

test("without the hash the same check fails: heights are then the zero bits of the keys", async () => {
  const bytes = await editedBuild([
    { file: "assembly/index/rank.ts", find: "finalize64(key ^ index.seed)", replace: "key" },
  ]);
  const module = await WebAssembly.compile(bytes);
  const failing: string[] = [];
  for (const [name, key] of Object.entries(PATTERNS)) {
    const outcome = await filled(21, 1024, key, module).then(deviations, () => [Infinity]);
    if (outcome.some((deviation) => Math.abs(deviation) >= 5)) failing.push(name);
  }
  for (const name of ["multiples of 64", "multiples of 1024", "high bits only"])
    assert.ok(failing.includes(name), `${name} breaks the law`);
});

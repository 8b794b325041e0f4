/**
 * Experts of a mixture-of-experts model as pages of a PageSet: the routing of Qwen1.5-MoE-A2.7B-Chat (60 experts, 4 a token)
 * on five layers of a real run, a set of slots for each layer.
 */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { type BlockOrderKind, Core } from "../../bindings/main.js";
import { optimum } from "../../sim/paging-lab.js";
import { DATA } from "../support/package-root.js";

const trace = join(DATA, "moe-routing", "qwen15-moe-gsm8k.csv");
const skip = existsSync(trace) ? false : `${trace} is not there`;

const EXPERTS = 60;
const SLOTS = [15, 30, 45];
/** Steps in which each row of the batch is one request. */
const DECODE = { from: 2, to: 83 };
const Column = { step: 0, row: 2, layer: 3, expert: 4 } as const;

/** Experts asked for in each layer: the prefills, one request behind the other, then what was decoded in mixed batches. */
function requests(): number[][] {
  const rows = readFileSync(trace, "utf8")
    .trim()
    .split("\n")
    .slice(1)
    .map((line) => line.split(",").map(Number));
  const group = (step: number): number => (step < DECODE.from ? 0 : step <= DECODE.to ? 1 : 2);
  const layers = new Map<number, number[][]>();
  for (const row of rows) {
    const of = layers.get(row[Column.layer]) ?? [];
    of.push(row);
    layers.set(row[Column.layer], of);
  }
  return [...layers.values()].map((of) =>
    of
      .map((row, index) => ({ row, index, part: group(row[Column.step]) }))
      .sort(
        (a, b) =>
          a.part - b.part || (a.part === 1 ? a.row[Column.row] - b.row[Column.row] : 0) || a.index - b.index,
      )
      .flatMap(({ row }) => row.slice(Column.expert, Column.expert + 4)),
  );
}

async function hitRate(layers: number[][], slots: number, evictionOrder: BlockOrderKind): Promise<number> {
  let rate = 0;
  for (const pages of layers) {
    const core = await Core.create();
    rate += 1 - core.pageSet({ slots, pages: EXPERTS, evictionOrder }).run(pages) / pages.length;
  }
  return rate / layers.length;
}

test(
  "experts of a real routing trace: s3-fifo finds more in the slots than LRU at every size, and no order more than the optimum",
  { skip },
  async (t) => {
    const layers = requests();
    assert.equal(layers.length, 5);
    for (const slots of SLOTS) {
      const best =
        layers.reduce((sum, pages) => sum + 1 - optimum(pages, slots).faults / pages.length, 0) /
        layers.length;
      const orders = ["lru", "fifo", "lfu", "s3-fifo", "gittins", "gdsf"] satisfies BlockOrderKind[];
      const rates = await Promise.all(orders.map((order) => hitRate(layers, slots, order)));
      t.diagnostic(
        `${slots} of 60: ${orders.map((order, i) => `${order} ${(100 * rates[i]).toFixed(1)}`).join(", ")}, optimum ${(100 * best).toFixed(1)} %`,
      );
      for (const rate of rates) assert.ok(rate <= best);
      assert.ok(rates[3] > rates[0] + 0.01, `${rates[3]} against ${rates[0]}`);
    }
    const faults = (1 - (await hitRate(layers, EXPERTS, "lru"))) * layers[0].length;
    assert.equal(Math.round(faults), EXPERTS, "where all fit, an expert is fetched once");
  },
);

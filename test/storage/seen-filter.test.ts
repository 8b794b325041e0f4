/**
 * What the admission filter of the lower tiers lets in: keys that were met before, as long as it remembers; of a real trace
 * it keeps what is asked for once off the disk and loses next to nothing of what is found there.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { SeenFilter } from "../../native-host/storage/seen-filter.js";
import { readMooncakeTrace } from "../../sim/traces.js";
import { DATA } from "../support/package-root.js";

const keyOf = (name: number): Uint8Array => createHash("sha256").update(`block ${name}`).digest();

test("a key is remembered for so many keys behind it, and forgotten after twice as many", () => {
  for (const remember of [1, 3, 64, 1000]) {
    const filter = new SeenFilter(remember);
    assert.equal(filter.meet(keyOf(-1)), false, "nothing has been met");
    for (let i = 0; i < remember - 1; i++) filter.meet(keyOf(i));
    assert.ok(filter.meet(keyOf(-1)));
    let taken = 0;
    for (let i = 10_000; i < 10_000 + 4 * remember; i++) taken += Number(filter.meet(keyOf(i)));
    assert.ok(taken <= 2 + remember / 10, `${taken} of ${4 * remember} taken for others`);
    const fresh = new SeenFilter(64);
    fresh.meet(keyOf(-1));
    for (let i = 0; i < 200; i++) fresh.meet(keyOf(i));
    assert.equal(fresh.meet(keyOf(-1)), false);
  }
});

test("one key in 80 or fewer is taken for one that was met", () => {
  const remember = 1 << 14;
  const filter = new SeenFilter(remember);
  for (let i = 0; i < 2 * remember - 1; i++) filter.meet(keyOf(i));
  let taken = 0;
  for (let i = 0; i < 8000; i++) taken += Number(new Set([filter.meet(keyOf(1e6 + i))]).has(true));
  assert.ok(taken < 8000 / 40, `${taken} of 8000`);
});

test("bad capacities and keys are refused by name", () => {
  assert.throws(() => new SeenFilter(0), { code: "INVALID_ARGUMENT", argument: "remember" });
  assert.throws(() => new SeenFilter(8).meet(new Uint8Array(31)), {
    code: "INVALID_ARGUMENT",
    argument: "key",
  });
});

/** A tier of unlimited size behind no cache: blocks stored, and blocks of requests that are found in it. */
function serve(
  requests: readonly (readonly number[])[],
  admit: (block: number) => boolean,
): [number, number] {
  const stored = new Set<number>();
  let found = 0;
  for (const blocks of requests) {
    let hit = 0;
    while (hit < blocks.length && stored.has(blocks[hit])) hit += 1;
    found += hit;
    let open = true;
    for (const block of blocks) {
      const wanted = admit(block);
      open &&= stored.has(block) || wanted;
      if (open) stored.add(block);
    }
  }
  return [stored.size, found];
}

const trace = join(DATA, "mooncake", "conversation_trace.jsonl");
const skip = existsSync(trace) ? false : `${trace} is not there`;

test("a real trace: most blocks are asked for once and never stored", { skip }, () => {
  const requests = readMooncakeTrace(readFileSync(trace, "utf8")).map((row) => [...row.blockIds!]);
  const [everything, most] = serve(requests, () => true);
  const filter = new SeenFilter(1 << 18);
  const [stored, found] = serve(requests, (block) => filter.meet(keyOf(block)));
  assert.ok(stored < 0.35 * everything, `${stored} of ${everything} blocks stored`);
  assert.ok(found > 0.4 * most, `${found} of ${most} found`);
});

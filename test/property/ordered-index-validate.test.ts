/**
 * The full check of an ordered index notices every broken invariant, and each of its conditions is needed for
 * one.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Build, IndexMode } from "../../bindings/main.js";
import { type Corruption, CORRUPTIONS, example, LOCK_CORRUPTIONS } from "../support/index-corruptions.js";
import { IndexMemory } from "../support/index-memory.js";
import { long } from "../support/long.js";
import { editedBuild } from "../support/threads-builds.js";

const CORRUPT = -22;
const VARIANTS: readonly (readonly [Build, IndexMode])[] = [
  ["core", "private"],
  ["core-scalar", "private"],
  ["core-threads", "locked"],
  ["core-threads", "optimistic"],
];

for (const [invariant, corrupt] of Object.entries({ ...CORRUPTIONS, ...LOCK_CORRUPTIONS })) {
  test(`the full check finds the break: ${invariant}`, async () => {
    for (const variant of VARIANTS) {
      if (invariant in LOCK_CORRUPTIONS && variant[1] === "private") continue;
      const index = await example(variant);
      const { exports, memory } = index.core;
      assert.equal(exports.orderedIndexValidate(index.pointer), 0, "before");
      const bytes = new Uint8Array(memory.buffer).slice();
      corrupt(new IndexMemory(index));
      assert.notDeepEqual(new Uint8Array(memory.buffer), bytes);
      assert.equal(exports.orderedIndexValidate(index.pointer), CORRUPT, variant.join(", "));
      assert.throws(() => index.validate(), { code: "CORRUPT" });
      assert.throws(() => index.core.validate(), { code: "CORRUPT" });
      new Uint8Array(memory.buffer).set(bytes);
      index.core.validate();
    }
  });
}

test("the full check follows broken links no further than the nodes, whatever a byte is changed to", async () => {
  const index = await example(["core", "private"]);
  const { exports, memory } = index.core;
  const layout = new IndexMemory(index);
  const bytes = new Uint8Array(memory.buffer);
  let found = 0;
  for (let i = 0; i < 3000; i++) {
    const at = layout.nodes + ((i * 7919) % (layout.nodeCapacity * layout.nodeBytes));
    const before = bytes[at];
    bytes[at] ^= 1 + (i % 255);
    const status = exports.orderedIndexValidate(index.pointer);
    assert.ok(status === 0 || status === CORRUPT);
    if (status === CORRUPT) found += 1;
    bytes[at] = before;
  }
  // The others hit values, locks, links and slots that are not in use.
  assert.ok(found > 300, `${found} of 3000 broke an invariant`);
  index.validate();
});

/** Conditions of the check, and what is found only by them. */
const CONDITIONS: readonly (readonly [find: string, replace: string, only: readonly string[]])[] = [
  ["key <= previous || heightOf", "heightOf", ["keys increase within a node", "a key is there once"]],
  [" || heightOf(index, key) < level)", ")", ["a key stands on no level above its height"]],
  ["first ? key != KEY_MIN :", "first ? false :", ["a level starts with the smallest key"]],
  [
    "if (n.nextHeader != (n.next == 0 ? KEY_MAX : keyAt(n.next, 0))) return 0;",
    "",
    ["nextHeader is the neighbour's first key", "nextHeader at the end of a level is the largest key"],
  ],
  ["      count == 0 ||\n", "", ["a node has a key"]],
  ["count > capacityOf(index, level)\n", "false\n", ["a node has no more keys than fit"]],
  ["      n.level != <u8>level ||\n", "", ["a node is on the level it says"]],
  ["(n.next != 0 && !isNode(index, n.next)) ||", "", ["a neighbour is a node"]],
  ["      isHeld(index, at) ||\n", "", ["no reader holds a node", "no writer holds a node"]],
  [
    "if (nodes > 0 && heightOf",
    "if (false && heightOf",
    ["a leaf that came from an overflow is worth its place"],
  ],
  ["if (!first && slot > 0 && heightOf", "if (false && heightOf", ["a promoted key starts its node"]],
  [" || keyAt(below, 0) != key) return 0;", ") return 0;", ["a child starts with its key"]],
  [
    "if (heightOf(index, keyAt(below, 0)) >= level && ",
    "if (false && ",
    ["a key stands on every level up to its height"],
  ],
  [
    "below = node(below).next) if (heightOf",
    "below = node(below).next) if (false && heightOf",
    ["so does the last key of a level"],
  ],
  ["if (level == 0 && entries !=", "if (false && entries !=", ["entries are counted"]],
  ["!isNode(index, at) || ", "", ["the free list leads to nodes"]],
  [" || node(at).count != 0", "", ["a head is not free", "a node in use is not free"]],
  [" || isHeld(index, at))", ")", ["no writer holds a free node"]],
  [
    "if (free + index.nodeCapacity - index.fresh != index.freeCount) return CORRUPT;",
    "",
    ["free nodes are counted"],
  ],
  ["nodes + index.freeCount == index.nodeCapacity ?", "true ?", ["no node is lost"]],
];

test(
  "without one of its conditions the full check no longer finds what that is for",
  { skip: !long && "npm run test:long" },
  async () => {
    const corruptions: Readonly<Record<string, Corruption>> = { ...CORRUPTIONS, ...LOCK_CORRUPTIONS };
    for (const [find, replace, only] of CONDITIONS) {
      const module = await WebAssembly.compile(
        await editedBuild([{ file: "assembly/index/validate.ts", find, replace }]),
      );
      for (const invariant of only) {
        const index = await example(["core-threads", "locked"], module);
        corruptions[invariant](new IndexMemory(index));
        const { exports } = index.core;
        const status = outcome(() => exports.orderedIndexValidate(index.pointer));
        assert.notEqual(status, CORRUPT, `${invariant}, without ${find}`);
      }
    }
  },
);

/** The status, or "trap". */
function outcome(run: () => number): number | string {
  try {
    return run();
  } catch {
    return "trap";
  }
}

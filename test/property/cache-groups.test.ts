/**
 * Cache groups against a model with maps and arrays: every operation leaves the same tables, the same blocks cached and the
 * same blocks to go first, whatever the groups; and what a sequence finds is never more than every group has.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Build, Core, type KvCache, QuartermasterError, type SequenceId } from "../../bindings/main.js";
import { GroupHarness, randomShape } from "../support/group-harness.js";
import { GroupModel } from "../support/group-model.js";
import { Random } from "../support/random.js";

/** Lives with hits, shortened prefixes and evictions: few random ones may have none. */
const EVENTFUL: [seed: number, operations: number][] = [
  [1, 500],
  [3, 500],
];

async function run(build: Build, runs: number): Promise<void> {
  let [hits, shortened, evictions] = [0, 0, 0];
  await fc.assert(
    fc.asyncProperty(fc.integer(), fc.integer({ min: 1, max: 500 }), async (seed, operations) => {
      const random = new Random(seed);
      const { shape, options } = randomShape(random);
      const core = await Core.create({ build, seed: seed >>> 0 });
      const cache = core.kvCache(options);
      assert.deepEqual(cache.groups, shape.groups);
      const harness = new GroupHarness(cache, new GroupModel(shape), random);
      for (let i = 0; i < operations; i++) harness.operate();
      hits += harness.hits;
      shortened += harness.shortened;
      evictions += harness.model.evictions;
      harness.finish();
    }),
    { numRuns: runs, examples: EVENTFUL },
  );
  assert.ok(hits > 0 && shortened > 0 && evictions > 0, `${hits} hits, ${shortened}, ${evictions}`);
}

test("random operations on full, window and recurrent groups equal the model, validated after each", () =>
  run("core", 600));
test("the debug and the scalar build do the same", async () => {
  await run("debug", 20);
  await run("core-scalar", 20);
});

test("under every eviction order a twin goes before its block, and nothing held goes", async () => {
  for (const [i, evictionOrder] of (
    ["fifo", "lfu", "s3-fifo", "gdsf", "gittins", "mark0", "priority"] as const
  ).entries()) {
    const random = new Random(i + 1);
    const core = await Core.create({ build: "debug", seed: i });
    const groups = [
      { kind: "window", window: 9 },
      { kind: "recurrent", blockSize: 8 },
    ] as const;
    const cache = core.kvCache({
      blocks: 40,
      blockSize: 4,
      maxSequences: 5,
      maxSequenceTokens: 64,
      groups,
      evictionOrder,
    });
    const open: SequenceId[] = [];
    for (let step = 0; step < 300; step++) {
      try {
        const tokens = Array.from({ length: random.below(60) }, (_, at) =>
          at < 20 ? at % 3 : random.below(2),
        );
        open.push(cache.open({ tokens }));
        cache.reserve(open.at(-1)!, tokens.length - cache.length(open.at(-1)!));
        cache.append(open.at(-1)!, tokens.slice(cache.length(open.at(-1)!)));
        if (random.below(3) === 0) cache.truncate(open.at(-1)!, random.below(cache.length(open.at(-1)!) + 1));
      } catch (error) {
        assert.ok(error instanceof QuartermasterError);
        assert.ok(["OUT_OF_SEQUENCES", "OUT_OF_BLOCKS"].includes(error.code), error.code);
      }
      while (open.length > random.below(5)) cache.close(open.splice(random.below(open.length), 1)[0]);
      cache.validate();
    }
    assert.ok(cache.stats().evictions > 50, evictionOrder);
    assert.ok(cache.stats().hitTokens > 0, evictionOrder);
  }
});

test("groups that cannot be are refused by the name of the argument, and what they exclude is refused too", async () => {
  const core = await Core.create();
  const make = (groups: unknown, more = {}): KvCache =>
    core.kvCache({ blocks: 64, maxSequenceTokens: 64, groups, ...more } as never);
  const refused: [unknown, string][] = [
    [[{ kind: "sliding" }], "groups[0].kind"],
    [[{ kind: "window" }], "groups[0].window"],
    [[{ kind: "full" }, { kind: "recurrent", window: 4 }], "groups[1].window"],
    [[{ kind: "window", window: 0 }], "groups[0].window"],
    [[{ kind: "full", blockSize: 8 }], "groups[0].blockSize"],
    [[{ kind: "full", blockSize: 48 }], "groups[0].blockSize"],
    [new Array(8).fill({ kind: "full" }), "groups"],
  ];
  for (const [groups, argument] of refused)
    assert.throws(() => make(groups), { code: "INVALID_ARGUMENT", argument });
  const recurrent = [{ kind: "recurrent" }];
  assert.throws(() => make(recurrent, { partialReuse: 4 }), { argument: "partialReuse" });
  const cache = make(recurrent);
  assert.throws(() => cache.open({ tokens: [], lossy: true }), { code: "INVALID_ARGUMENT" });
  assert.throws(() => cache.groupTable(cache.open({ tokens: [] }), 2), { argument: "group" });
  const scheduler = core.scheduler({ cache, vocabSize: 9, maxDraftTokens: 2 });
  const request = { tokens: [1, 2, 3], maxNewTokens: 9 };
  assert.throws(() => scheduler.submit({ ...request, peakSlots: 2 }), { code: "INVALID_ARGUMENT" });
  const id = scheduler.submit(request);
  const { stepId } = scheduler.step(1);
  scheduler.commit(stepId, 1, { tokens: [4] });
  assert.equal(scheduler.propose(id, [5, 6]), 0, "a state is overwritten: no drafts");
});

/**
 * Cache groups against a model with maps and arrays: every operation leaves the same tables, the same blocks cached and the
 * same blocks to go first, whatever the groups; and what a sequence finds is never more than every group has.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  type Build,
  type CacheGroup,
  Core,
  type KvCache,
  NO_BLOCK,
  QuartermasterError,
  type SequenceId,
} from "../../bindings/main.js";
import { GroupModel, type ModelBlock, type ModelSequence } from "../support/group-model.js";
import { Random } from "../support/random.js";

const MOST_TOKENS = 64;

interface Pair {
  readonly real: SequenceId;
  readonly model: ModelSequence;
}

function randomGroups(random: Random, blockSize: number): CacheGroup[] {
  return Array.from({ length: 1 + random.below(3) }, () => {
    const kind = random.pick(["full", "window", "window", "recurrent"] as const);
    const window = kind === "window" ? 1 + random.below(14) : 0;
    return { kind, window, blockSize: blockSize << random.below(3) };
  });
}

class Harness {
  readonly pairs: Pair[] = [];
  hits = 0;
  shortened = 0;

  constructor(
    readonly cache: KvCache,
    readonly model: GroupModel,
    readonly random: Random,
  ) {}

  /** Few texts, so that prefixes meet; now and then one that leaves them. */
  tokens(count: number): number[] {
    const { random } = this;
    const twist = random.below(3) === 0 ? random.below(count + 1) : count;
    return Array.from({ length: count }, (_, i) => (i < twist ? i % 3 : (i + 1) % 3));
  }

  refused(run: () => unknown, code: string): void {
    assert.throws(run, (error) => error instanceof QuartermasterError && error.code === code, code);
  }

  operate(): void {
    const { random, cache, model, pairs } = this;
    const pair = pairs.length > 0 ? random.pick(pairs) : undefined;
    const choice = random.below(12);
    if (choice < 2) {
      const tokens = this.tokens(random.below(MOST_TOKENS));
      const namespace = random.below(2);
      const isPrivate = random.below(6) === 0;
      assert.equal(cache.match(tokens, namespace), model.match(tokens, namespace));
      const opened = model.open(tokens, namespace, isPrivate);
      const options = { tokens, namespace, private: isPrivate };
      if (opened === undefined) this.refused(() => cache.open(options), "OUT_OF_SEQUENCES");
      else pairs.push({ real: cache.open(options), model: opened });
      if (opened && opened.tokens.length > 0) this.hits += 1;
    } else if (pair === undefined) {
      return;
    } else if (choice < 5) {
      const count = Math.min(random.below(14), MOST_TOKENS - pair.model.tokens.length);
      const status = model.reserve(pair.model, count);
      if (status === "OK") cache.reserve(pair.real, count);
      else this.refused(() => cache.reserve(pair.real, count), status);
    } else if (choice < 8) {
      const length = pair.model.tokens.length;
      const count = Math.min(random.below(12), MOST_TOKENS - length);
      const tokens = this.tokens(length + count).slice(length);
      const status = model.append(pair.model, tokens);
      if (status === "OK") cache.append(pair.real, tokens);
      else this.refused(() => cache.append(pair.real, tokens), status);
    } else if (choice === 8) {
      const length = random.below(pair.model.tokens.length + 1);
      const left = model.truncate(pair.model, length);
      assert.equal(cache.truncate(pair.real, length), left);
      this.shortened += Number(left < length);
    } else if (choice === 9) {
      model.close(pair.model);
      cache.close(pair.real);
      pairs.splice(pairs.indexOf(pair), 1);
    } else if (choice === 10) {
      const twin = model.fork(pair.model);
      if (twin === undefined) this.refused(() => cache.fork(pair.real), "OUT_OF_SEQUENCES");
      else pairs.push({ real: cache.fork(pair.real), model: twin });
    } else {
      const what = random.below(6);
      if (what === 0) assert.equal(cache.forget(), model.forget());
      else if (what < 3) (cache.revertCopies(), model.revertCopies());
      else (cache.settleCopies(), model.settleCopies());
    }
    this.compare();
  }

  compare(): void {
    const { cache, model } = this;
    cache.validate();
    const stats = cache.stats();
    assert.equal(stats.free, model.free);
    assert.equal(stats.evictable, model.evictable.size);
    assert.equal(stats.cached, model.cached.size);
    assert.equal(stats.evictions, model.evictions);
    assert.deepEqual(
      Array.from({ length: model.copies.length }, (_, i) => cache.copies()[8 * i] >> 8),
      model.copies.map(({ group }) => group),
    );
    const ids = new Map<ModelBlock, number>();
    for (const { real, model: sequence } of this.pairs) {
      assert.equal(cache.length(real), sequence.tokens.length);
      for (const [g, expected] of sequence.tables.entries()) {
        const table = g === 0 ? cache.blockTable(real) : cache.groupTable(real, g);
        assert.equal(table.length, expected.length);
        expected.forEach((block, i) => {
          if (block === undefined) return assert.equal(table[i], NO_BLOCK);
          assert.equal(ids.get(block) ?? table[i], table[i], "one model block, one id");
          ids.set(block, table[i]);
          assert.equal(cache.references(table[i]), block.refs);
        });
      }
    }
    assert.equal(new Set(ids.values()).size, ids.size, "one id, one model block");
    const names = [...model.cached.keys()];
    cache.groupStats().forEach(({ held, cached }, i) => {
      const blocks = this.pairs.flatMap(({ model: sequence }) => sequence.tables[i + 1]).filter(Boolean);
      assert.equal(held, blocks.length);
      assert.equal(cached, names.filter((name) => name.startsWith(`${i + 1}/`)).length);
    });
  }
}

async function run(build: Build, runs: number): Promise<void> {
  let [hits, shortened, evictions] = [0, 0, 0];
  await fc.assert(
    fc.asyncProperty(fc.integer(), fc.integer({ min: 1, max: 500 }), async (seed, operations) => {
      const random = new Random(seed);
      const blockSize = 1 << random.below(3);
      const shape = {
        blocks: 16 + random.below(60),
        blockSize,
        maxSequences: 1 + random.below(6),
        groups: randomGroups(random, blockSize),
      };
      const core = await Core.create({ build, seed: seed >>> 0 });
      const groups = shape.groups.map(({ window, ...group }) =>
        group.kind === "window" ? { ...group, window } : group,
      );
      const cache = core.kvCache({ ...shape, groups, maxSequenceTokens: MOST_TOKENS });
      assert.deepEqual(cache.groups, shape.groups);
      const harness = new Harness(cache, new GroupModel(shape), random);
      for (let i = 0; i < operations; i++) harness.operate();
      hits += harness.hits;
      shortened += harness.shortened;
      evictions += harness.model.evictions;
      for (const { real, model } of harness.pairs.splice(0)) {
        cache.close(real);
        harness.model.close(model);
      }
      harness.compare();
      assert.equal(cache.available, shape.blocks, "closed sequences hold nothing");
    }),
    { numRuns: runs },
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

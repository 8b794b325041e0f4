/**
 * Prompts of equal tokens share cached blocks exactly as far as their scopes, adapter and items are equal too, typed and
 * compared whole: hits equal a model that names each prefix by all of its content, with every hash colliding.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  type Build,
  Core,
  type KvCache,
  type PromptMarks,
  QuartermasterError,
  recordScheduler,
  replay,
  type SequenceId,
} from "../../bindings/main.js";
import { Random } from "../support/random.js";

const SHAPE = { blocks: 4096, blockSize: 4, maxSequences: 8, maxSequenceTokens: 64, marks: 4096 };

interface Prompt extends PromptMarks {
  tokens: number[];
}

/** Everything that a prefix of `length` tokens depends on, as text. */
function nameOf(prompt: Prompt, length: number): string {
  const ranges = (prompt.ranges ?? [])
    .filter(({ offset }, i) => offset < length && !(i === 0 && prompt.ranges![0].scope === "public"))
    .map(({ offset, scope, salt }) => `${scope}@${offset}=${String(salt ?? "")}`);
  const items = (prompt.items ?? [])
    .filter(({ offset }) => offset < length)
    .map((item) => `item@${item.offset}+${item.length}=${String(item.hash)}`);
  const adapter = prompt.adapter === undefined ? "" : String(prompt.adapter);
  return [prompt.tokens.slice(0, length).join(), adapter, ...ranges, "/", ...items].join(" ");
}

/** Prefixes that have been cached, never forgotten. */
class NaivePrefixes {
  readonly #blocks = new Set<string>();
  readonly #parts = new Set<string>();

  constructor(readonly partialReuse: number) {}

  enter(prompt: Prompt, length: number): void {
    for (let end = 4; end <= length; end += 4) {
      this.#blocks.add(nameOf(prompt, end));
      for (let part = end - 3; part <= end; part++) this.#parts.add(nameOf(prompt, part));
    }
  }

  match(prompt: Prompt): number {
    const most = prompt.tokens.length - 1;
    let found = 0;
    while (found + 4 <= most && this.#blocks.has(nameOf(prompt, found + 4))) found += 4;
    if (this.partialReuse === 0) return found;
    for (let part = Math.min(most - found, 4); part >= this.partialReuse; part--)
      if (this.#parts.has(nameOf(prompt, found + part))) return found + part;
    return found;
  }
}

function randomPrompt(random: Random): Prompt {
  const tokens = Array.from({ length: 1 + random.below(30) }, (_, i) =>
    random.below(25) === 0 ? random.below(2) : i % 2,
  );
  const prompt: Prompt = { tokens };
  if (random.below(4) === 0) prompt.adapter = random.below(2);
  if (random.below(2) === 0) {
    const second = 1 + random.below(20);
    prompt.ranges = [
      { offset: 0, scope: "public" as const },
      { offset: second, scope: random.pick(["group", "tenant"] as const), salt: BigInt(random.below(2)) },
      ...(random.below(3) === 0 ? [{ offset: second + 1 + random.below(6), scope: "public" as const }] : []),
    ];
  }
  if (random.below(2) === 0)
    prompt.items = [{ offset: random.below(12), length: 1 + random.below(2), hash: BigInt(random.below(2)) }];
  return prompt;
}

function serve(cache: KvCache, prompt: Prompt): SequenceId {
  const sequence = cache.open(prompt);
  const found = cache.length(sequence);
  cache.reserve(sequence, prompt.tokens.length - found);
  cache.settleCopies();
  cache.append(sequence, prompt.tokens.slice(found));
  return sequence;
}

async function run(
  build: Build,
  runs: number,
  options: { keyBits?: number; partialReuse?: number },
): Promise<void> {
  await fc.assert(
    fc.asyncProperty(fc.integer(), async (seed) => {
      const core = await Core.create({ build, seed: seed >>> 0 });
      const cache = core.kvCache({ ...SHAPE, blocks: 256, ...options, keyBits: options.keyBits ?? 64 });
      const model = new NaivePrefixes(options.partialReuse ?? 0);
      const random = new Random(seed);
      const open: SequenceId[] = [];
      for (let i = 0; i < 30; i++) {
        const prompt = randomPrompt(random);
        assert.equal(cache.match(prompt.tokens, 0, prompt), model.match(prompt));
        open.push(serve(cache, prompt));
        if (random.below(4) === 0 && open.length < 7) open.push(cache.fork(open[0]));
        model.enter(prompt, prompt.tokens.length);
        core.validate();
        while (open.length > 5) cache.close(open.splice(random.below(open.length), 1)[0]);
      }
      assert.equal(cache.stats().evictions, 0, "the model never forgets");
    }),
    { numRuns: runs },
  );
}

test("hits equal those of a model that compares all of a prefix's content", () => run("core", 150, {}));
test("with a 2-bit hash everything collides and no block of other marks is returned", () =>
  run("core", 60, { keyBits: 2 }));
test("inside a block, what is copied has equal marks too", () => run("core", 150, { partialReuse: 1 }));
test("the scalar and the debug build take the same decisions", async () => {
  await run("core-scalar", 20, { partialReuse: 2 });
  await run("debug", 5, { partialReuse: 2 });
});

const TOKENS = Array.from({ length: 17 }, (_, i) => i);

test("a salt, an adapter and an item hash of the same number never match each other", async () => {
  const cache = (await Core.create()).kvCache(SHAPE);
  const kinds: PromptMarks[] = [
    {},
    { ranges: [{ offset: 0, scope: "group", salt: 7 }] },
    { ranges: [{ offset: 0, scope: "tenant", salt: 7 }] },
    { adapter: 7 },
    { items: [{ offset: 0, length: 1, hash: 7 }] },
    { items: [{ offset: 0, length: 2, hash: 7 }] },
  ];
  kinds.forEach((marks, i) => {
    kinds.forEach((other, j) => assert.equal(cache.match(TOKENS, 0, other), j < i ? 16 : 0));
    cache.close(serve(cache, { tokens: TOKENS, ...marks }));
  });
  kinds.forEach((marks) => assert.equal(cache.match(TOKENS, 0, marks), 16));
});

test("placeholders of two images never match, those of one do, and 128 bits count", async () => {
  const cache = (await Core.create()).kvCache(SHAPE);
  const image = (hash: bigint): PromptMarks => ({ items: [{ offset: 5, length: 8, hash }] });
  const tokens = TOKENS.map((token, i) => (i >= 5 && i < 13 ? 99 : token));
  cache.close(serve(cache, { tokens, ...image((1n << 127n) + 3n) }));
  assert.equal(cache.match(tokens, 0, image((1n << 127n) + 3n)), 16);
  assert.equal(cache.match(tokens, 0, image((1n << 126n) + 3n)), 4, "what is before the image");
  assert.equal(cache.match(tokens, 0, image((1n << 127n) + 2n)), 4);
});

test("a public system prompt is shared between tenants, what follows is private", async () => {
  const cache = (await Core.create()).kvCache({ ...SHAPE, tenants: 2 });
  const forTenant = (tenant: number): PromptMarks => ({
    ranges: [
      { offset: 0, scope: "public" },
      { offset: 10, scope: "tenant", salt: 100 + tenant },
    ],
  });
  cache.close(serve(cache, { tokens: TOKENS, ...forTenant(0) }));
  assert.equal(cache.match(TOKENS, 0, forTenant(0)), 16);
  assert.equal(cache.match(TOKENS, 0, forTenant(1)), 8, "whole blocks of the public part");
  const other = cache.open({ tokens: TOKENS, tenant: 1, ...forTenant(1) });
  assert.equal(cache.account("common").used, 2);
  cache.close(other);
});

test("content keys for the outside differ with marks, and are equal where they are", async () => {
  const contentKeys = { domainKey: new Uint8Array(32).fill(1), fingerprint: new Uint8Array(32) };
  const keysOf = async (marks: PromptMarks): Promise<string[]> => {
    const cache = (await Core.create({ seed: 5 })).kvCache({ ...SHAPE, contentKeys });
    const keys = cache.contentKeys(serve(cache, { tokens: TOKENS, ...marks }));
    return Array.from({ length: 4 }, (_, i) => Buffer.from(keys.slice(i * 32, i * 32 + 32)).toString("hex"));
  };
  const plain = await keysOf({});
  const first = await keysOf({ items: [{ offset: 6, length: 2, hash: 1 }] });
  const second = await keysOf({ items: [{ offset: 6, length: 2, hash: 2 }] });
  assert.deepEqual(await keysOf({ items: [{ offset: 6, length: 2, hash: 1 }] }), first);
  assert.equal(first[0], plain[0]);
  for (const block of [1, 2, 3])
    assert.equal(new Set([plain[block], first[block], second[block]]).size, 3, `block ${block}`);
});

test("marks come back when nothing needs them: a small table serves for ever, and says when it is full", async () => {
  const core = await Core.create();
  const cache = core.kvCache({ ...SHAPE, blocks: 64, marks: 3 });
  for (let i = 0; i < 200; i++) {
    const sequence = serve(cache, { tokens: TOKENS, adapter: i, items: [{ offset: 3, length: 2, hash: i }] });
    core.validate();
    cache.close(sequence);
    assert.equal(cache.forget(), 4);
  }
  const first = serve(cache, { tokens: TOKENS, adapter: 1, items: [{ offset: 3, length: 2, hash: 1 }] });
  const before = core.snapshot();
  assert.throws(() => cache.match(TOKENS, 0, { adapter: 2, items: [{ offset: 3, length: 2, hash: 1 }] }), {
    code: "OUT_OF_SCOPES",
  });
  core.validate();
  assert.equal(core.snapshot().length, before.length);
  cache.close(first);
  core.validate();
});

test("marks that cannot be are refused, naming the argument", async () => {
  const core = await Core.create();
  const cache = core.kvCache(SHAPE);
  const refused = (marks: PromptMarks, argument: string): void =>
    assert.throws(
      () => cache.match(TOKENS, 0, marks),
      (error) => error instanceof QuartermasterError && error.argument === argument,
    );
  refused({ ranges: [{ offset: 0, scope: "tenant" }] }, "ranges[0].salt");
  refused({ ranges: [{ offset: 0, scope: "all" as never }] }, "ranges[0].scope");
  refused({ ranges: [{ offset: -1, scope: "public" }] }, "ranges[0].offset");
  refused({ adapter: -1 }, "adapter");
  refused({ adapter: 1n << 128n }, "adapter");
  refused({ items: [{ offset: 0, length: 0, hash: 1 }] }, "items[0].length");
  refused(
    {
      items: [
        { offset: 0, length: 3, hash: 1 },
        { offset: 2, length: 1, hash: 1 },
      ],
    },
    "items[1].offset",
  );
  const { marks: _, ...plain } = SHAPE;
  assert.throws(() => core.kvCache(plain).match(TOKENS, 0, { adapter: 1 }), { code: "UNSUPPORTED" });
});

test("requests carry marks through waiting and preemption, and a record of them replays", async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer(), async (seed) => {
      const random = new Random(seed);
      const lines: string[] = [];
      const scheduler = await recordScheduler(
        {
          seed: seed >>> 0,
          cache: { ...SHAPE, blocks: 20, marks: 64, partialReuse: 2, pins: { share: 0.2 } },
          scheduler: {
            vocabSize: 2,
            maxRunning: 6,
            maxBatchTokens: 24,
            policy: "longest-prefix",
            maxRequests: 16,
          },
        },
        (line) => lines.push(line),
      );
      let live = 0;
      for (let i = 0; i < 60 || live > 0; i++) {
        assert.ok(i < 2000);
        if (i < 60 && random.below(2) === 0) {
          try {
            const pin = { hard: random.below(3) === 0, forUs: random.below(50) };
            scheduler.submit({
              ...randomPrompt(random),
              maxNewTokens: 1 + random.below(12),
              ...(random.below(3) === 0 && { pin }),
            });
            live += 1;
          } catch (error) {
            assert.ok(error instanceof QuartermasterError, String(error));
            assert.ok(["OUT_OF_REQUESTS", "OUT_OF_SCOPES", "OUT_OF_TOKENS"].includes(error.code), error.code);
          }
        }
        const plan = scheduler.step(i);
        scheduler.core.validate();
        if (random.below(8) === 0) scheduler.abandon(plan.stepId);
        else
          scheduler.commit(plan.stepId, i, {
            tokens: Array.from({ length: plan.samplingRows }, () => random.below(2)),
          });
        scheduler.core.validate();
        for (const { kind } of scheduler.outcomes()) if (kind !== "preempted") live -= 1;
      }
      const report = await replay(lines);
      assert.equal(report.mismatch, undefined);
    }),
    { numRuns: 40 },
  );
});

/** KV events say what a block depends on besides its tokens: adapter and items, whose salt never. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  type BlockMarks,
  Core,
  encodeKvEvents,
  type KvCache,
  type KvCacheOptions,
  type KvEventBatch,
  type PromptMarks,
} from "../../bindings/main.js";
import { type Unpacked, unpack } from "../support/naive-msgpack.js";
import { Random } from "../support/random.js";

const BLOCK = 4;
const contentKeys = { domainKey: new Uint8Array(32), fingerprint: new Uint8Array(32).fill(1) };

async function cacheWith(options: Partial<KvCacheOptions> = {}): Promise<KvCache> {
  const core = await Core.create({ seed: 3 });
  const shape = { blocks: 64, blockSize: BLOCK, maxSequences: 8, maxSequenceTokens: 64 };
  return core.kvCache({ ...shape, marks: 256, contentKeys, events: true, ...options });
}

function fill(cache: KvCache, tokens: readonly number[], marks: PromptMarks): number {
  const sequence = cache.open({ tokens, ...marks });
  const rest = tokens.slice(cache.length(sequence));
  cache.reserve(sequence, rest.length);
  cache.append(sequence, rest);
  return sequence;
}

const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/** What the marks of a prompt say of its block from `start` to `end`, by the definition. */
function expected(marks: PromptMarks, start: number, end: number): BlockMarks | null {
  const ranges = (marks.ranges ?? []).filter(({ offset }) => offset < end);
  const items = (marks.items ?? []).filter(({ offset }) => offset < end);
  const { adapter } = marks;
  if (
    ranges.every((range, i) => i === 0 && range.scope === "public") &&
    items.length === 0 &&
    adapter === undefined
  )
    return null;
  const scopes = ranges.map(({ scope }) => scope);
  return {
    ...(adapter !== undefined && { adapter: BigInt(adapter) }),
    scope: scopes.includes("tenant") ? "tenant" : scopes.includes("group") ? "group" : "public",
    items: items
      .filter(({ offset, length }) => offset + length > start)
      .map(({ offset, length, hash }) => ({ offset: offset - start, length, hash: BigInt(hash) })),
  };
}

/** Marks of the stored blocks of each batch, by key, of one group. */
function told(batches: Iterable<KvEventBatch>, group = 0): Map<string, BlockMarks | null> {
  const byKey = new Map<string, BlockMarks | null>();
  for (const { events } of batches)
    for (const event of events)
      if (event.type === "stored" && event.group === group)
        event.keys.forEach((key, i) => byKey.set(Buffer.from(key).toString("hex"), event.marks?.[i] ?? null));
  return byKey;
}

function randomMarks(random: Random, length: number): PromptMarks {
  const items = [];
  for (let offset = random.below(9); offset < length; offset += 1 + random.below(12)) {
    const item = { offset, length: 1 + random.below(9), hash: (1n << 127n) + BigInt(random.below(3)) };
    items.push(item);
    offset += item.length;
  }
  const ranges = [];
  for (
    let offset = random.below(3) * 5;
    offset < length && ranges.length < 3;
    offset += 1 + random.below(20)
  ) {
    const scope = (["public", "group", "tenant"] as const)[random.below(3)];
    ranges.push({ offset, scope, ...(scope !== "public" && { salt: random.below(3) }) });
  }
  return {
    ...(random.below(2) === 0 && { adapter: random.below(3) }),
    ...(random.below(3) > 0 && { items }),
    ...(random.below(2) === 0 && { ranges }),
  };
}

test("the events of random prompts with marks say of each block what its marks say, and so does a snapshot", async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer(), async (seed) => {
      const random = new Random(seed);
      const cache = await cacheWith();
      const events = cache.events();
      for (let i = 0; i < 8; i++) {
        const tokens = upTo(8 + random.below(40));
        const marks = randomMarks(random, tokens.length);
        const sequence = fill(cache, tokens, marks);
        const of = told([...events, events.snapshot()]);
        const keys = Buffer.from(cache.contentKeys(sequence)).toString("hex").match(/.{64}/g)!;
        keys.forEach((key, n) => assert.deepEqual(of.get(key), expected(marks, n * BLOCK, (n + 1) * BLOCK)));
        cache.close(sequence);
      }
      cache.validate();
    }),
    { numRuns: 40 },
  );
});

test("a block of a window group is told with the items among its own tokens", async () => {
  const cache = await cacheWith({ groups: [{ kind: "window", window: 16, blockSize: 8 }] });
  const events = cache.events();
  const marks = { items: [{ offset: 5, length: 6, hash: 9 }] };
  const sequence = fill(cache, upTo(25), marks);
  const of = [...told(events, 1).values()];
  cache.close(sequence);
  assert.deepEqual(of, [expected(marks, 0, 8), expected(marks, 8, 16), expected(marks, 16, 24)]);
});

function storedFields(batch: KvEventBatch): Map<string, Unpacked>[] {
  return (unpack(encodeKvEvents(batch, { extended: false })) as Unpacked[])[1] as Map<string, Unpacked>[];
}

test("vLLM's extra_keys and lora fields tell two images apart, and a salt is nowhere in the bytes", async () => {
  const cache = await cacheWith();
  const events = cache.events();
  const tokens = upTo(9);
  const salt = 0xdecafbadn * 0x100000001n;
  for (const hash of [1, 2]) fill(cache, tokens, { adapter: 7, items: [{ offset: 2, length: 6, hash }] });
  fill(cache, tokens, { ranges: [{ offset: 4, scope: "tenant", salt }] });
  const batch = events.read(1)!;
  const fields = storedFields(batch);
  assert.deepEqual(
    fields.map((event) => [
      event.get("lora_id") ?? null,
      event.get("lora_name") ?? null,
      event.get("extra_keys"),
    ]),
    [
      [
        7,
        "7",
        [
          ["7", ["1", 2]],
          ["7", ["1", -2n]],
        ],
      ],
      [
        7,
        "7",
        [
          ["7", ["2", 2]],
          ["7", ["2", -2n]],
        ],
      ],
      [null, null, [null, ["tenant"]]],
    ],
  );
  const bytes = Buffer.from(encodeKvEvents(batch));
  for (const digits of [salt.toString(), salt.toString(16), "decafbad"]) assert.ok(!bytes.includes(digits));
  for (const endian of ["decafbad", "adfbcade"]) assert.ok(!bytes.includes(Buffer.from(endian, "hex")));
});

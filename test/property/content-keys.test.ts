/**
 * Content keys: the hash is keyed BLAKE3, a key says what is cached and nothing else, and it is the same everywhere.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import fc from "fast-check";
import {
  type Build,
  type ContentScope,
  Core,
  type KvCache,
  type KvCacheOptions,
  keyedHash,
  modelFingerprint,
  QuartermasterError,
  recordScheduler,
  replay,
} from "../../bindings/main.js";
import { naiveBlake3 } from "../support/naive-blake3.js";
import { root } from "../support/package-root.js";
import { Random } from "../support/random.js";

const BUILDS: readonly Build[] = ["core", "core-scalar", "core-threads", "debug"];
const MODEL = { model: "tiny", dtype: "f16", layers: 2, kvHeads: 2, headDim: 16 };
const DOMAIN = Uint8Array.from({ length: 32 }, (_, i) => i);
const OPTIONS: KvCacheOptions = {
  blocks: 64,
  blockSize: 4,
  maxSequences: 8,
  maxSequenceTokens: 128,
  contentKeys: { domainKey: DOMAIN, fingerprint: MODEL },
};

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
const keysOf = (bytes: Uint8Array): string[] => hex(bytes).match(/.{64}/g) ?? [];

/** Lengths and keyed digests of the official vectors (BLAKE3 test_vectors.json): bytes 0 to 250, again and again. */
const VECTOR_KEY = new TextEncoder().encode("whats the Elvish word for friend");
const VECTORS: readonly (readonly [length: number, digest: string])[] = [
  [0, "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26"],
  [1, "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b"],
  [1023, "c951ecdf03288d0fcc96ee3413563d8a6d3589547f2c2fb36d9786470f1b9d6e"],
  [1024, "75c46f6f3d9eb4f55ecaaee480db732e6c2105546f1e675003687c31719c7ba4"],
  [1025, "357dc55de0c7e382c900fd6e320acc04146be01db6a8ce7210b7189bd664ea69"],
  [2048, "879cf1fa2ea0e79126cb1063617a05b6ad9d0b696d0d757cf053439f60a99dd1"],
  [2049, "9f29700902f7c86e514ddc4df1e3049f258b2472b6dd5267f61bf13983b78dd5"],
  [3072, "044a0e7b172a312dc02a4c9a818c036ffa2776368d7f528268d2e6b5df191770"],
  [3073, "68dede9bef00ba89e43f31a6825f4cf433389fedae75c04ee9f0cf16a427c95a"],
  [4096, "befc660aea2f1718884cd8deb9902811d332f4fc4a38cf7c7300d597a081bfc0"],
  [4097, "00df940cd36bb9fa7cbbc3556744e0dbc8191401afe70520ba292ee3ca80abbc"],
  [5120, "2c493e48e9b9bf31e0553a22b23503c0a3388f035cece68eb438d22fa1943e20"],
  [5121, "6ccf1c34753e7a044db80798ecd0782a8f76f33563accaddbfbb2e0ea4b2d024"],
  [6144, "3d6b6d21281d0ade5b2b016ae4034c5dec10ca7e475f90f76eac7138e9bc8f1d"],
  [6145, "9ac301e9e39e45e3250a7e3b3df701aa0fb6889fbd80eeecf28dbc6300fbc539"],
  [7168, "b42835e40e9d4a7f42ad8cc04f85a963a76e18198377ed84adddeaecacc6f3fc"],
  [7169, "ed9b1a922c046fdb3d423ae34e143b05ca1bf28b710432857bf738bcedbfa511"],
  [8192, "dc9637c8845a770b4cbf76b8daec0eebf7dc2eac11498517f08d44c8fc00d58a"],
  [8193, "954a2a75420c8d6547e3ba5b98d963e6fa6491addc8c023189cc519821b4a1f5"],
  [16384, "9e9fc4eb7cf081ea7c47d1807790ed211bfec56aa25bb7037784c13c4b707b0d"],
  [31744, "efa53b389ab67c593dba624d898d0f7353ab99e4ac9d42302ee64cbf9939a419"],
  [102400, "1c35d1a5811083fd7119f5d5d1ba027b4d01c0c6c49fb6ff2cf75393ea5db4a7"],
];

const vectorInput = (length: number): Uint8Array => Uint8Array.from({ length }, (_, i) => i % 251);

for (const build of BUILDS) {
  test(`${build}: the hash gives the published vectors of keyed BLAKE3, of one chunk and of many`, async () => {
    const core = await Core.create({ build });
    for (const [length, digest] of VECTORS)
      assert.equal(hex(keyedHash(core, VECTOR_KEY, vectorInput(length))), digest, `${length} bytes`);
  });
}

test("the model of the hash gives the published vectors", () => {
  for (const [length, digest] of VECTORS)
    assert.equal(hex(naiveBlake3(VECTOR_KEY, vectorInput(length))), digest);
});

test("fed in pieces of any sizes, the hash equals the model", async () => {
  const core = await Core.create();
  const { exports, memory } = core;
  const hasher = core.scratch(core.scratchBytes);
  const at = hasher + exports.hasherBytes();
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 1500 }), { maxLength: 8 }),
      fc.integer(),
      (sizes, seed) => {
        const random = new Random(seed);
        const input = Uint8Array.from({ length: sizes.reduce((a, b) => a + b, 0) }, () => random.below(256));
        const bytes = new Uint8Array(memory.buffer);
        bytes.set(DOMAIN, at);
        exports.hasherStart(hasher, at);
        let from = 0;
        for (const size of sizes) {
          bytes.set(input.subarray(from, from + size), at);
          exports.hasherUpdate(hasher, at, size);
          from += size;
        }
        exports.hasherEnd(hasher, at);
        assert.equal(hex(bytes.slice(at, at + 32)), hex(naiveBlake3(DOMAIN, input)));
      },
    ),
    { numRuns: 200 },
  );
});

/** What docs/abi.md says a key is, word for word. */
class NaiveKeys {
  constructor(
    readonly fingerprint: Uint8Array,
    readonly domainKey = DOMAIN,
  ) {}

  #name(parts: readonly ArrayLike<number>[], list: ArrayLike<number>, domain: number): Uint8Array {
    const bytes = parts.flatMap((part) => Array.from(part));
    const length = new Uint8Array(Uint32Array.of(list.length).buffer);
    return naiveBlake3(this.domainKey, Uint8Array.from([...bytes, ...Array.from(list), ...length, domain]));
  }

  root(list: ArrayLike<number>): Uint8Array {
    return this.#name([this.fingerprint], list, 0);
  }

  block(parent: Uint8Array, tokens: ArrayLike<number>): Uint8Array {
    return this.#name([parent, new Uint8Array(Uint32Array.from(tokens).buffer)], [], 1);
  }

  chunk(tokens: ArrayLike<number>, list: ArrayLike<number>): Uint8Array {
    return this.#name([this.fingerprint, new Uint8Array(Uint32Array.from(tokens).buffer)], list, 2);
  }

  prefix(list: ArrayLike<number>, tokens: readonly number[], blockSize: number): string[] {
    const keys: string[] = [];
    let key = this.root(list);
    for (let at = 0; at + blockSize <= tokens.length; at += blockSize) {
      key = this.block(key, tokens.slice(at, at + blockSize));
      keys.push(hex(key));
    }
    return keys;
  }
}

function fill(cache: KvCache, tokens: readonly number[], namespace = 0): number {
  const sequence = cache.open({ tokens, namespace });
  const rest = tokens.slice(cache.length(sequence));
  cache.reserve(sequence, rest.length);
  cache.append(sequence, rest);
  return sequence;
}

for (const build of BUILDS) {
  test(`${build}: keys are the documented hashes of parent, tokens and scope, for every block size`, async () => {
    for (const blockSize of [1, 4, 16, 256]) {
      const core = await Core.create({ build, seed: 5 });
      const cache = core.kvCache({ ...OPTIONS, blockSize, maxSequenceTokens: 1024 });
      const naive = new NaiveKeys(modelFingerprint(core, MODEL));
      const tokens = Array.from({ length: 3 * blockSize + 1 }, (_, i) => (i * 2654435761) % 2 ** 32);
      cache.content!.scope(7, { tenant: "t", salt: Uint8Array.of(9) });
      const scope = [2, 1, 0, 0, 0, 116, 4, 1, 0, 0, 0, 9];
      const lists = new Map([
        [0, []],
        [3, [1, 4, 0, 0, 0, 3, 0, 0, 0]],
        [7, scope],
      ]);
      for (const [namespace, list] of lists) {
        const sequence = fill(cache, tokens, namespace);
        const expected = naive.prefix(list, tokens, blockSize);
        assert.deepEqual(keysOf(cache.contentKeys(sequence)), expected);
        assert.deepEqual(keysOf(cache.contentKeys(sequence, 1)), expected.slice(1));
        const [, , last] = cache.blockTable(sequence);
        assert.equal(hex(cache.content!.ofBlock(last)), expected[2]);
      }
      const items = [{ hash: Uint8Array.of(1, 2), offset: 5 }];
      assert.equal(
        hex(cache.content!.ofChunk(tokens, { adapter: "a", items })),
        hex(naive.chunk(tokens, [3, 1, 0, 0, 0, 97, 5, 6, 0, 0, 0, 5, 0, 0, 0, 1, 2])),
      );
      core.validate();
    }
  });
}

test("random opens, truncations and evictions: every cached block has the key of its own prefix", async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer(), async (seed) => {
      const core = await Core.create({ seed: seed >>> 0 });
      const random = new Random(seed);
      const cache = core.kvCache({ ...OPTIONS, blocks: 24 });
      const naive = new NaiveKeys(modelFingerprint(core, MODEL));
      let open: { sequence: number; tokens: number[] }[] = [];
      for (let i = 0; i < 60; i++) {
        const tokens = Array.from({ length: random.below(40) }, (_, at) => (random.below(9) ? at % 3 : 5));
        try {
          open.push({ sequence: fill(cache, tokens), tokens });
        } catch (error) {
          assert.ok(error instanceof QuartermasterError && error.code.startsWith("OUT_OF"), String(error));
          cache.forget();
        }
        if (open.length > 4) {
          const { sequence } = open.shift()!;
          cache.close(sequence);
        }
        const shortened = random.below(3) === 0 ? open.at(-1) : undefined;
        if (shortened) {
          shortened.tokens.length = random.below(shortened.tokens.length + 1);
          cache.truncate(shortened.sequence, shortened.tokens.length);
        }
        if (random.below(2) === 0) continue; // computed late: ancestors first
        open = open.filter(({ sequence }) => cache.core.exports.kvLength(cache.pointer, sequence) >= 0);
        for (const { sequence, tokens } of open)
          assert.deepEqual(
            keysOf(cache.contentKeys(sequence)),
            naive.prefix([], tokens.slice(0, cache.length(sequence)), 4),
          );
      }
    }),
    { numRuns: 30 },
  );
});

test("keys are computed when asked for, once", async () => {
  const core = await Core.create();
  const cache = core.kvCache(OPTIONS);
  const computed = (): number =>
    new Uint32Array(core.memory.buffer, core.exports.kvContent(cache.pointer), 26)[24];
  const sequence = fill(
    cache,
    Array.from({ length: 41 }, (_, i) => i),
  );
  assert.equal(computed(), 0, "nobody has asked");
  cache.contentKeys(sequence, 4);
  assert.equal(computed(), 10, "of the ancestors as well");
  cache.contentKeys(sequence);
  assert.equal(computed(), 10);
});

test("a salt never equals an adapter, a tenant, an item or a namespace of the same bytes", async () => {
  const core = await Core.create();
  const cache = core.kvCache({ ...OPTIONS, maxSequences: 16 });
  const bytes = Uint8Array.of(7, 0, 0, 0);
  const scopes: ContentScope[] = [
    { tenant: bytes },
    { adapter: bytes },
    { salt: bytes },
    { tenant: bytes, adapter: bytes },
    { adapter: bytes, salt: bytes },
    { salt: Uint8Array.of(7, 0, 0, 0, 0) },
    { tenant: Uint8Array.of(7, 0, 0, 0, 3, 4, 0, 0, 0, 7, 0, 0, 0) },
  ];
  scopes.forEach((scope, i) => cache.content!.scope(100 + i, scope));
  const tokens = [1, 2, 3, 4];
  const names = [
    ...scopes.map((_, i) => hex(cache.contentKeys(fill(cache, tokens, 100 + i)))),
    ...[0, 7].map((namespace) => hex(cache.contentKeys(fill(cache, tokens, namespace)))),
    hex(cache.content!.ofChunk(tokens)),
    hex(cache.content!.ofChunk(tokens, { salt: bytes })),
    hex(cache.content!.ofChunk(tokens, { items: [{ hash: new Uint8Array(0), offset: 7 }] })),
  ];
  assert.ok(names.every((name) => name.length === 64));
  assert.equal(new Set(names).size, names.length);
});

test("other domain key, model, dtype or part of the heads: other keys", async () => {
  const core = await Core.create();
  const variants: NonNullable<KvCacheOptions["contentKeys"]>[] = [
    { domainKey: DOMAIN, fingerprint: MODEL },
    { domainKey: DOMAIN.slice().fill(1, 31), fingerprint: MODEL },
    { domainKey: DOMAIN, fingerprint: { ...MODEL, model: "tin", revision: "y" } },
    { domainKey: DOMAIN, fingerprint: { ...MODEL, dtype: "bf16" } },
    { domainKey: DOMAIN, fingerprint: { ...MODEL, tensorParallelSize: 2 } },
    { domainKey: DOMAIN, fingerprint: { ...MODEL, tensorParallelSize: 2, tensorParallelRank: 1 } },
    { domainKey: DOMAIN, fingerprint: new Uint8Array(32) },
  ];
  const keys = variants.map((contentKeys) => {
    const cache = core.kvCache({ ...OPTIONS, contentKeys });
    return hex(cache.contentKeys(fill(cache, [1, 2, 3, 4])));
  });
  assert.equal(new Set(keys).size, variants.length);
});

/** Keys that a process of its own computes, in every build. */
const CHILD = `
const { Core } = await import(process.argv[1]);
const options = JSON.parse(process.argv[2]);
options.contentKeys.domainKey = Uint8Array.from(options.contentKeys.domainKey);
const keys = [];
for (const build of ["core", "core-scalar", "core-threads", "debug"]) {
  const core = await Core.create({ build, seed: Number(process.argv[3]) });
  const cache = core.kvCache(options);
  cache.content.scope(3, { salt: "s", adapter: "a" });
  const tokens = Array.from({ length: 33 }, (_, i) => i * i);
  const sequence = cache.open({ tokens, namespace: 3 });
  cache.reserve(sequence, 33);
  cache.append(sequence, tokens);
  keys.push(Buffer.from(cache.contentKeys(sequence)).toString("hex"));
}
process.stdout.write(keys.join(" "));
`;

test("three processes with other seeds and all builds compute the same keys, and so did the first version", () => {
  const main = pathToFileURL(join(root, "dist", "bindings", "main.js")).href;
  const options = { ...OPTIONS, contentKeys: { domainKey: [...DOMAIN], fingerprint: MODEL } };
  const seen = new Set<string>();
  for (const seed of [1, 2, 3]) {
    const { stdout, stderr, status } = spawnSync(
      process.execPath,
      ["--input-type=module", "-e", CHILD, main, JSON.stringify(options), String(seed)],
      { encoding: "utf8" },
    );
    assert.equal(status, 0, stderr);
    for (const keys of stdout.split(" ")) seen.add(keys);
  }
  assert.equal(seen.size, 1);
  const [keys] = seen;
  assert.equal(keys.length, 8 * 64);
  assert.equal(keys.slice(-64), LAST_KEY, "keys that are stored elsewhere must go on being found");
});
const LAST_KEY = "63b94855bcf2b514260a5d01f03bfd377c2724449bba9385fff49edd554883ed";

test("a restored core goes on with the same keys", async () => {
  const core = await Core.create();
  const cache = core.kvCache(OPTIONS);
  cache.content!.scope(2, { salt: "s" });
  const first = fill(cache, [1, 2, 3, 4, 5, 6, 7, 8], 2);
  const expected = hex(cache.contentKeys(first));
  const [restored] = (await Core.restore(core.snapshot(), { build: "core-scalar" })).kvCaches;
  assert.equal(hex(restored.contentKeys(first)), expected);
  restored.content!.scope(2, { salt: "s" });
  assert.throws(() => restored.content!.scope(2, { salt: "t" }), { code: "INVALID_ARGUMENT" });
});

test("refused: no content keys, short keys, other scopes, more scopes than there is room for", async () => {
  const core = await Core.create();
  const plain = core.kvCache({ ...OPTIONS, contentKeys: undefined });
  assert.equal(plain.content, undefined);
  assert.throws(() => plain.contentKeys(plain.open({ tokens: [] })), { code: "UNSUPPORTED" });
  const refuse = (contentKeys: unknown, argument: string): void => {
    assert.throws(
      () => core.kvCache({ ...OPTIONS, contentKeys: contentKeys as KvCacheOptions["contentKeys"] }),
      { code: "INVALID_ARGUMENT", argument },
    );
  };
  refuse(5, "contentKeys");
  refuse({ fingerprint: MODEL }, "domainKey");
  refuse({ domainKey: DOMAIN.slice(1), fingerprint: MODEL }, "domainKey");
  refuse({ domainKey: DOMAIN, fingerprint: DOMAIN.slice(1) }, "fingerprint");
  refuse({ domainKey: DOMAIN, fingerprint: { ...MODEL, layers: -1 } }, "fingerprint.layers");
  refuse({ domainKey: DOMAIN, fingerprint: { ...MODEL, model: 5 } }, "fingerprint.model");
  refuse({ domainKey: DOMAIN, fingerprint: MODEL, scopes: 2 ** 21 }, "scopes");
  const cache = core.kvCache({ ...OPTIONS, contentKeys: { ...OPTIONS.contentKeys!, scopes: 1 } });
  cache.content!.scope(1, { salt: "a" });
  assert.throws(() => cache.content!.scope(2, { salt: "a" }), { code: "OUT_OF_MEMORY" });
  assert.throws(() => cache.content!.scope(1, { salt: "b" }), { code: "INVALID_ARGUMENT" });
  assert.throws(() => cache.content!.scope(-1, {}), { code: "INVALID_ARGUMENT" });
  assert.throws(() => cache.content!.scope(3, { salt: 3 as never }), { argument: "scope.salt" });
  assert.throws(() => cache.content!.ofBlock(3), { code: "NOT_FOUND" });
  assert.throws(() => cache.contentKeys(99), { code: "UNKNOWN_SEQUENCE" });
  core.validate();
});

test("a record of a scheduler has no domain key in it, and replays", async () => {
  const lines: string[] = [];
  const setup = { seed: 3, cache: { ...OPTIONS, events: true as const }, scheduler: { vocabSize: 9 } };
  const scheduler = await recordScheduler(setup, (line) => void lines.push(line));
  scheduler.submit({ tokens: [1, 2, 3, 4, 5], maxNewTokens: 2 });
  for (let now = 1; now < 4; now++) {
    const plan = scheduler.step(now);
    if (plan.rows > 0) scheduler.commit(plan.stepId, now, { tokens: new Uint32Array(plan.samplingRows) });
  }
  assert.ok(!/contentKeys|domainKey|events/.test(lines[0]));
  assert.equal((await replay(lines)).mismatch, undefined);
});

test("a prompt's keys are those that its blocks get once they are cached, of any marks, scope and length", async () => {
  const core = await Core.create();
  const shape = { blocks: 4096, blockSize: 2, maxSequences: 2, maxSequenceTokens: 8192, marks: 4096 };
  const cache = core.kvCache({ ...OPTIONS, ...shape });
  cache.content!.scope(1, { tenant: "a", salt: "b" });
  const run = (seed: number): void => {
    const random = new Random(seed);
    // Some have more keys than the scratch region has room for.
    const length = random.below(20) === 0 ? 5000 + random.below(3000) : random.below(60);
    const tokens = Array.from({ length }, () => random.below(3));
    const namespace = random.below(3);
    const marks = {
      ...(random.below(2) === 0 && { adapter: random.below(3) }),
      ranges: Array.from({ length: random.below(3) }, (_, i) => {
        return { offset: 20 * i + random.below(20), scope: "tenant", salt: random.below(3) } as const;
      }),
      items: Array.from({ length: random.below(3) }, (_, i) => {
        return { offset: 20 * i + random.below(10), length: 1 + random.below(10), hash: 2n ** 100n };
      }),
    };
    const keys = cache.content!.ofPrompt(tokens, namespace, marks);
    const sequence = cache.open({ tokens, namespace, ...marks });
    const cached = cache.length(sequence);
    cache.reserve(sequence, length - cached);
    cache.append(sequence, tokens.slice(cached));
    assert.equal(hex(keys), hex(cache.contentKeys(sequence)));
    assert.equal(keys.length, 32 * Math.floor(length / 2));
    cache.close(sequence);
  };
  fc.assert(fc.property(fc.integer(), run), { numRuns: 200 });
  cache.validate();
});

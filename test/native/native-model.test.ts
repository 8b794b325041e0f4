// The life of a native model: what it is made of, what it refuses to be made of, one run at a time, both
// kinds of
// memory, copies of blocks, and its end.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { spawnSync } from "node:child_process";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { Worker } from "node:worker_threads";
import type { NativeModelConfig, NativeTensor } from "../../native-host/executor/addon.js";
import {
  bitsOf,
  blockRange,
  golden,
  Host,
  isas,
  largestError,
  needsAddon,
  prefill,
  rewriteTiny,
  tensorsOf,
  theAddon,
  TINY_CONFIG,
  TINY_FILE,
} from "./native-support.js";

const folder = mkdtempSync(join(tmpdir(), "quartermaster-native-"));
after(() => rmSync(folder, { recursive: true, force: true }));

const create = (
  config: Partial<NativeModelConfig>,
  tensors: NativeTensor[] = tensorsOf(TINY_FILE),
  files = [TINY_FILE],
) => theAddon().createModel({ ...TINY_CONFIG, ...config }, files, tensors);
const spoiled = (name: string, change: Partial<NativeTensor>) =>
  tensorsOf(TINY_FILE).map((t) => (t.name === name ? { ...t, ...change } : t));

test("says what it is", needsAddon, () => {
  const model = create({ threads: 3, blocks: 10 });
  assert.equal(model.threads, 3);
  assert.equal(model.isa, isas[isas.length - 1]);
  assert.equal(model.kvBytes, 10 * 3 * 2 * 2 * 16 * 32 * 4);
  assert.equal(model.weightBytes, 459648 * 4);
  const automatic = create({ threads: 0 });
  assert.ok(automatic.threads >= 1 && automatic.threads <= 8);
});

test("plain and shared memory are read in place", needsAddon, async () => {
  for (const shared of [false, true]) {
    const host = new Host({}, TINY_FILE, shared);
    const hand = host.plan([{ phase: 2, computedBefore: 0, tokens: golden.ids, blocks: blockRange(0, 4) }]);
    // Written after the plan was made and the memory attached: seen, so nothing was copied.
    host.setWord(hand.batch.tokens, 2);
    const other = bitsOf((await host.submit(hand)).logitsOut);
    host.setWord(hand.batch.tokens, golden.ids[0]);
    const logits = (await host.submit(hand)).logitsOut;
    assert.ok(largestError(logits, golden.last_logits) < 1e-3);
    assert.notEqual(bitsOf(logits), other);
    // Growth moves the end: attach again.
    const grown = host.memory.grow(1) + 1;
    host.model.attach(new Uint8Array(host.memory.buffer));
    assert.equal(host.memory.buffer.byteLength, grown * 65536);
    assert.equal(bitsOf((await host.submit(hand)).logitsOut), bitsOf(logits));
  }
});

test("one run at a time", needsAddon, async () => {
  const host = new Host();
  const hand = host.plan([{ phase: 2, computedBefore: 0, tokens: golden.ids, blocks: blockRange(0, 4) }]);
  const first = host.submit(hand);
  await assert.rejects(host.submit(hand), { code: "BUSY" });
  assert.throws(() => host.model.close(), { code: "BUSY" });
  assert.throws(() => host.model.attach(new Uint8Array(host.memory.buffer)), { code: "BUSY" });
  await first;
  assert.ok(largestError(hand.logitsOut, golden.last_logits) < 1e-3);
  host.model.close();
  host.model.close();
  await assert.rejects(host.submit(hand), { code: "CLOSED" });
  assert.throws(() => host.model.attach(new Uint8Array(host.memory.buffer)), { code: "CLOSED" });
});

test("a batch before any memory is refused", needsAddon, async () => {
  const model = create({});
  const host = new Host();
  const hand = host.plan([{ phase: 1, computedBefore: 0, tokens: [1], blocks: [0] }]);
  const run = model.run(hand.batch, hand.sampling, new Uint32Array(0), hand.tokensOut, null);
  await assert.rejects(run, { code: "BAD_BATCH" });
});

test("methods refuse a stranger", needsAddon, async () => {
  const { attach, run, close } = new Host().model;
  assert.throws(() => attach.call({} as never, new Uint8Array(4)), { code: "INVALID_ARGUMENT" });
  assert.throws(() => close.call({} as never), { code: "INVALID_ARGUMENT" });
  await assert.rejects(
    run.call({} as never, {} as never, new Uint32Array(0), new Uint32Array(0), new Uint32Array(0), null),
    {
      code: "INVALID_ARGUMENT",
    },
  );
});

test("logits are optional, and the sampled token is theirs", needsAddon, async () => {
  const host = new Host();
  const hand = host.plan([{ phase: 2, computedBefore: 0, tokens: golden.ids, blocks: blockRange(0, 4) }]);
  await host.model.run(hand.batch, hand.sampling, new Uint32Array(0), hand.tokensOut, null);
  assert.equal(hand.tokensOut[0], golden.argmax_all[golden.ids.length - 1]);
});

test("copies of blocks: whole, in part, before and after the batch", needsAddon, async () => {
  const host = new Host();
  const last = golden.ids[golden.ids.length - 1];
  const before = golden.ids.slice(0, -1);
  const wanted = bitsOf(await prefill(host, golden.ids, blockRange(0, 4)));
  const decode = (blocks: number[]) => [{ phase: 1, computedBefore: before.length, tokens: [last], blocks }];
  // Blocks 0 to 3 hold 63 tokens; 20 to 22 are whole copies, 23 has what the last block needs.
  const copies = [0, 1, 2].map((b) => [0, 0, b, 0, 20 + b, 16, 0, 0]);
  const partial = [0, 0, 3, 0, 23, before.length - 48, 0, 0];
  assert.equal(bitsOf((await host.run(decode(blockRange(20, 4)), [...copies, partial])).logitsOut), wanted);
  // A copy too short by one token leaves an empty entry behind, which shows.
  const short = [0, 0, 3, 0, 33, before.length - 49, 0, 0];
  const moved = [20, 21, 22].map((b) => [0, 0, b, 0, b + 10, 16, 0, 0]);
  assert.notEqual(bitsOf((await host.run(decode(blockRange(30, 4)), [...moved, short])).logitsOut), wanted);
  // Mark 1 runs after the rows: what it copies is what they wrote.
  await host.run(
    [{ phase: 2, computedBefore: 0, tokens: before, blocks: blockRange(40, 4) }],
    [...[0, 1, 2, 3].map((i) => [0, 0, 40 + i, 0, 50 + i, 16, 1, 0])],
  );
  assert.equal(bitsOf((await host.run(decode(blockRange(50, 4)))).logitsOut), wanted);
});

test("refuses configurations outside their ranges", needsAddon, () => {
  const invalid: Partial<NativeModelConfig>[] = [
    { heads: 0 },
    { kvHeads: 3 },
    { kvHeads: 8 },
    { headDim: 31 },
    { headDim: 514 },
    { blocks: 0 },
    { blockSize: 0 },
    { blocks: 2 ** 30, blockSize: 4096 },
    { threads: 1000 },
    { rmsEps: NaN },
    { ropeTheta: 0 },
    { isa: "sse9" as never },
    { kvType: "f8" as never },
    { ropeLayout: "none" as never },
    { ropeScaling: { type: "yarn" } as never },
    { ropeScaling: { type: "linear", factor: 0 } },
    { layers: -1 },
    { vocab: 1.5 },
    { tiedEmbeddings: 1 as never },
  ];
  for (const config of invalid) {
    assert.throws(() => create(config), { code: "INVALID_ARGUMENT" }, JSON.stringify(config));
  }
  assert.throws(() => create({ blocks: 2 ** 20 - 1, blockSize: 4096, headDim: 512 }), {
    code: "OUT_OF_MEMORY",
  });
});

test("refuses tensors and files that do not fit, by name", needsAddon, () => {
  const norm = "model.layers.1.input_layernorm.weight";
  const rejects = (tensors: NativeTensor[], code: string, files = [TINY_FILE]) =>
    assert.throws(
      () => create({}, tensors, files),
      (error: Error & { code?: string }) => {
        assert.equal(error.code, code, error.message);
        return true;
      },
    );
  rejects(
    tensorsOf(TINY_FILE).filter((t) => t.name !== norm),
    "MISSING_TENSOR",
  );
  assert.throws(
    () => create({}, spoiled(norm, { shape: [127] })),
    /model\.layers\.1\.input_layernorm\.weight.*127/,
  );
  rejects(spoiled(norm, { shape: [128, 1] }), "BAD_TENSOR");
  rejects(spoiled(norm, { bytes: 508 }), "BAD_TENSOR");
  rejects(spoiled(norm, { dtype: "f16" }), "BAD_TENSOR");
  rejects(spoiled(norm, { offset: 1 << 30 }), "BAD_TENSOR");
  rejects(spoiled(norm, { offset: 2 ** 53 - 1 }), "BAD_TENSOR");
  rejects(spoiled(norm, { offset: 3130 }), "BAD_TENSOR");
  rejects(spoiled(norm, { file: 1 }), "BAD_TENSOR");
  rejects(tensorsOf(TINY_FILE), "IO", [join(folder, "absent.safetensors")]);
  const empty = join(folder, "empty.safetensors");
  writeFileSync(empty, "");
  rejects(tensorsOf(TINY_FILE), "IO", [empty]);
  const cut = rewriteTiny(join(folder, "cut.safetensors"), "f32");
  truncateSync(cut, 1_000_000);
  rejects(tensorsOf(TINY_FILE), "BAD_TENSOR", [cut]);
});

for (const dtype of ["f16", "bf16"] as const) {
  for (const isa of isas.length > 0 ? isas : (["portable"] as const)) {
    test(`${isa}: ${dtype} weights and cache give logits near those of f32`, needsAddon, async () => {
      const file = rewriteTiny(join(folder, `${isa}-${dtype}.safetensors`), dtype);
      const host = new Host({ isa, kvType: dtype }, file);
      assert.equal(host.model.weightBytes, 459648 * 2);
      const logits = await prefill(host, golden.ids, blockRange(0, 4), 20);
      const error = largestError(logits, golden.last_logits);
      assert.ok(error < (dtype === "f16" ? 0.02 : 0.15), `error ${error}`);
      assert.ok(error > 1e-6, "the weights are not f32");
    });
  }
}

test("tied embeddings and a bias enter the forward pass", needsAddon, async () => {
  const tied = new Host({ tiedEmbeddings: true });
  const logits = await prefill(tied, golden.ids, blockRange(0, 4));
  assert.ok(largestError(logits, golden.last_logits) > 0.1, "the embedding is not the head of this model");
  assert.throws(() => new Host({ attentionBias: true }), { code: "MISSING_TENSOR" });
});

test("a sliding window as long as the prompt changes nothing, a shorter one does", needsAddon, async () => {
  const whole = bitsOf(await prefill(new Host(), golden.ids, blockRange(0, 4)));
  const wide = new Host({ slidingWindow: golden.ids.length });
  assert.equal(bitsOf(await prefill(wide, golden.ids, blockRange(0, 4))), whole);
  const narrow = new Host({ slidingWindow: 16 });
  const far = bitsOf(await prefill(narrow, golden.ids, blockRange(0, 4)));
  assert.notEqual(far, whole);
  assert.equal(
    bitsOf(await prefill(new Host({ slidingWindow: 16, blockSize: 8 }), golden.ids, blockRange(0, 8), 5)),
    far,
  );
});

test("a worker that ends under a running batch ends quietly", needsAddon, async () => {
  const support = new URL("./native-support.js", import.meta.url).href;
  const source = `import { Host, blockRange } from ${JSON.stringify(support)};
    const host = new Host();
    const tokens = Array.from({ length: 500 }, (_, i) => i % 60);
    void host.run([{ phase: 2, computedBefore: 0, tokens, blocks: blockRange(0, 32) }]);
    process.exit(0);`;
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(source)}`));
  const code = await new Promise((resolve, reject) => worker.on("exit", resolve).on("error", reject));
  assert.equal(code, 0);
});

test("QUARTERMASTER_ADDON: off, a file that is not there, and one that is no addon", () => {
  const url = new URL("../../native-host/executor/addon.js", import.meta.url).href;
  const reasonWith = (value: string): string => {
    const script = `import { loadAddon } from ${JSON.stringify(url)}; console.log(loadAddon().reason ?? "loaded");`;
    const env = { ...process.env, QUARTERMASTER_ADDON: value };
    return spawnSync(process.execPath, ["--input-type=module", "-e", script], { env, encoding: "utf8" })
      .stdout;
  };
  assert.match(reasonWith("off"), /turned off/);
  assert.match(reasonWith(join(folder, "nothing.node")), /is not there .*build it with/);
  const broken = join(folder, "broken.node");
  writeFileSync(broken, "no library");
  assert.match(reasonWith(broken), /could not be loaded/);
});

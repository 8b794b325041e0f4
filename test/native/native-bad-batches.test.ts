// A batch that points outside the pool, the vocabulary, the memory or its own limits is refused with a code,
// and has
// changed nothing: the same good batch gives the same bits before and after.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { NativeBatch } from "../../native-host/executor/addon.js";
import { bitsOf, blockRange, Host, needsAddon, type HandBatch } from "./native-support.js";

type Spoil = (hand: HandBatch, host: Host) => void;
const words = (section: keyof NativeBatch, index: number, value: number): Spoil => {
  return (hand, host) => host.setWord(hand.batch[section] + index * 4, value);
};
const field = (name: keyof NativeBatch, value: number): Spoil => {
  return (hand) => void ((hand.batch as unknown as Record<string, number>)[name] = value);
};
const float = (word: number, value: number): Spoil => {
  return (hand) => void (new Float32Array(hand.sampling.buffer)[word] = value);
};

// Row 0 decodes at position 40 (blocks 0 to 2), row 1 is a prefill chunk of 5 tokens (block 8).
const SPOILED: [string, string, Spoil][] = [
  ["phase", "BAD_BATCH", words("phases", 1, 3)],
  ["no new tokens", "BAD_BATCH", words("newTokens", 0, 0)],
  ["first row does not start at 0", "BAD_BATCH", words("tokenStart", 0, 1)],
  ["rows overlap", "BAD_BATCH", words("tokenStart", 1, 0)],
  ["row ends beyond the tokens", "BAD_BATCH", words("tokenStart", 2, 0xffffffff)],
  ["total of tokens too small", "BAD_BATCH", field("totalTokens", 5)],
  ["total of tokens too large", "BAD_BATCH", field("totalTokens", 7)],
  ["sampling rows", "BAD_BATCH", field("samplingRows", 0)],
  ["token id", "BAD_BATCH", words("tokens", 3, 64)],
  ["slot", "BAD_BATCH", words("slots", 2, 128 * 16)],
  ["block id", "BAD_BATCH", words("tables", 1, 128)],
  ["table too short", "BAD_BATCH", words("tableCount", 0, 2)],
  ["table start beyond the memory", "BAD_BATCH", words("tableStart", 1, 0x3fffffff)],
  ["table count beyond the memory", "BAD_BATCH", words("tableCount", 1, 0xffffffff)],
  ["longer than the longest sequence", "BAD_BATCH", words("computedBefore", 0, 1024)],
  ["position overflow", "BAD_BATCH", words("computedBefore", 0, 0xffffffff)],
  ["section not aligned", "BAD_BATCH", (hand) => void (hand.batch.tokens += 2)],
  ["section beyond the memory", "BAD_BATCH", field("slots", 1 << 30)],
  ["section ends beyond the memory", "BAD_BATCH", field("phases", 16 * 65536 - 4)],
  ["section at a fraction", "INVALID_ARGUMENT", field("phases", 0.5)],
  ["section missing", "INVALID_ARGUMENT", (hand) => delete (hand.batch as Partial<NativeBatch>).slots],
  ["rows beyond u32", "INVALID_ARGUMENT", field("rows", 2 ** 32)],
  ["transfers beyond the memory", "BAD_BATCH", field("transferCount", 0xffffffff)],
  ["transfer operation", "BAD_BATCH", words("transfers", 0, 4)],
  ["transfer tier", "BAD_BATCH", words("transfers", 3, 1)],
  ["transfer source", "BAD_BATCH", words("transfers", 2, 128)],
  ["transfer target", "BAD_BATCH", words("transfers", 4, 0xffffffff)],
  ["transfer tokens", "BAD_BATCH", words("transfers", 5, 17)],
  ["transfer mark", "BAD_BATCH", words("transfers", 6, 2)],
  ["temperature below 0", "INVALID_ARGUMENT", float(0, -1)],
  ["temperature not a number", "INVALID_ARGUMENT", float(0, NaN)],
  ["topP of 0", "INVALID_ARGUMENT", float(2, 0)],
  ["minP above 1", "INVALID_ARGUMENT", float(3, 1.5)],
  ["penalty of 0", "INVALID_ARGUMENT", float(4, 0)],
  ["history beyond its tokens", "INVALID_ARGUMENT", (hand) => void (hand.sampling[9] = 4)],
  ["history start beyond its tokens", "INVALID_ARGUMENT", (hand) => void (hand.sampling[8] = 4)],
  ["records too few", "INVALID_ARGUMENT", (hand) => void (hand.sampling = hand.sampling.subarray(1))],
  ["tokensOut too short", "INVALID_ARGUMENT", (hand) => void (hand.tokensOut = new Uint32Array(0))],
  ["logitsOut too short", "INVALID_ARGUMENT", (hand) => void (hand.logitsOut = hand.logitsOut.subarray(1))],
  [
    "tokensOut of another type",
    "INVALID_ARGUMENT",
    (hand) => void (hand.tokensOut = new Int32Array(1) as never),
  ],
];

function goodPlan(host: Host): HandBatch {
  return host.plan(
    [
      { phase: 1, computedBefore: 40, tokens: [9], blocks: blockRange(0, 3) },
      { phase: 0, computedBefore: 0, tokens: [1, 2, 3, 4, 5], blocks: [8] },
    ],
    [[0, 0, 0, 0, 5, 16, 0, 0]],
  );
}

async function warmHost(): Promise<Host> {
  const host = new Host();
  const tokens = Array.from({ length: 40 }, (_, i) => 3 + (i % 40));
  await host.run([{ phase: 2, computedBefore: 0, tokens, blocks: blockRange(0, 3) }]);
  return host;
}

for (const [name, code, spoil] of SPOILED) {
  test(`refused: ${name}`, needsAddon, async () => {
    const host = await warmHost();
    const wanted = bitsOf((await host.submit(goodPlan(host))).logitsOut);
    const bad = goodPlan(host);
    spoil(bad, host);
    await assert.rejects(host.submit(bad, new Uint32Array(3)), (error: Error & { code?: string }) => {
      assert.ok(error instanceof Error);
      assert.equal(error.code, code, error.message);
      assert.ok(error.message.length > 10, error.message);
      return true;
    });
    assert.equal(bitsOf((await host.submit(goodPlan(host))).logitsOut), wanted);
    host.model.close();
  });
}

test("refused: a history token outside the vocabulary", needsAddon, async () => {
  const host = await warmHost();
  const plan = goodPlan(host);
  new Float32Array(plan.sampling.buffer)[4] = 1.5;
  plan.sampling[9] = 2;
  await assert.rejects(host.submit(plan, Uint32Array.of(3, 64)), { code: "INVALID_ARGUMENT" });
});

test("an empty batch and a batch of transfers alone are fine", needsAddon, async () => {
  const host = await warmHost();
  await host.run([]);
  await host.run([], [[0, 0, 0, 0, 7, 16, 0, 0]]);
});

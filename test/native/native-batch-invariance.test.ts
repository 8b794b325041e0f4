// The bits computed for a token depend on neither the rest of the batch, nor the chunking of its prompt, nor
// the block
// size, nor the number of threads.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { bitsOf, blockRange, Host, isas, needsAddon, prefill, type HandRow } from "./native-support.js";

const SETS = isas.length > 0 ? isas : (["portable"] as const);
const PROMPT = Array.from({ length: 90 }, (_, i) => (i === 0 ? 1 : 3 + ((i * i * 7 + i) % 45)));

for (const isa of SETS) {
  for (const kvType of ["f32", "f16", "bf16"] as const) {
    test(`${isa} ${kvType}: chunking, block size and threads`, needsAddon, async () => {
      const whole = bitsOf(await prefill(new Host({ isa, kvType, threads: 1 }), PROMPT, blockRange(0, 6)));
      for (const chunk of [1, 7, 16, 33]) {
        const host = new Host({ isa, kvType, threads: 1 });
        assert.equal(
          bitsOf(await prefill(host, PROMPT, blockRange(9, 6), chunk)),
          whole,
          `chunks of ${chunk}`,
        );
      }
      for (const blockSize of [1, 8, 32]) {
        const host = new Host({ isa, kvType, blockSize, threads: 1 });
        const blocks = blockRange(2, Math.ceil(PROMPT.length / blockSize)).reverse();
        assert.equal(bitsOf(await prefill(host, PROMPT, blocks, 25)), whole, `blocks of ${blockSize}`);
      }
      for (const threads of [2, 5]) {
        const host = new Host({ isa, kvType, threads });
        assert.equal(bitsOf(await prefill(host, PROMPT, blockRange(0, 6))), whole, `${threads} threads`);
      }
    });
  }

  test(`${isa}: a row alone and among others`, needsAddon, async () => {
    const alone = new Host({ isa, threads: 1 });
    const expected: string[] = [];
    for (const token of [7, 12]) {
      const at = expected.length;
      if (at === 0) await prefill(alone, PROMPT.slice(0, 40), blockRange(0, 4));
      const row = { phase: 1, computedBefore: 40 + at, tokens: [token], blocks: blockRange(0, 4) };
      expected.push(bitsOf((await alone.run([row])).logitsOut));
    }
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ length: fc.integer({ min: 1, max: 70 }), phase: fc.constantFrom(0, 2) }), {
          maxLength: 6,
        }),
        fc.nat({ max: 6 }),
        fc.integer({ min: 1, max: 3 }),
        async (others, place, threads) => {
          const host = new Host({ isa, threads });
          await prefill(host, PROMPT.slice(0, 40), blockRange(0, 4));
          const rows: HandRow[] = others.map(({ length, phase }, i) => ({
            phase,
            computedBefore: 0,
            tokens: PROMPT.slice(i, i + length),
            blocks: blockRange(8 + i * 5, 5),
          }));
          const at = Math.min(place, rows.length);
          rows.splice(at, 0, { phase: 1, computedBefore: 40, tokens: [7], blocks: blockRange(0, 4) });
          const first = await host.run(rows);
          const index = rows.slice(0, at).filter((row) => row.phase !== 0).length;
          const { vocab } = host.config;
          assert.equal(bitsOf(first.logitsOut.subarray(index * vocab, (index + 1) * vocab)), expected[0]);
          const second = await host.run([
            { phase: 1, computedBefore: 41, tokens: [12], blocks: blockRange(0, 4) },
          ]);
          assert.equal(bitsOf(second.logitsOut), expected[1], "what the batch left in the cache");
          host.model.close();
        },
      ),
      { numRuns: 25 },
    );
  });
}

test("canary: another token gives other bits", needsAddon, async () => {
  const host = new Host();
  const a = bitsOf(await prefill(host, PROMPT, blockRange(0, 6)));
  const b = bitsOf(await prefill(host, [...PROMPT.slice(0, -2), 5, ...PROMPT.slice(-1)], blockRange(0, 6)));
  assert.notEqual(a, b);
});

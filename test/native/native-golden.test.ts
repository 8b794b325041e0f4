// The native forward pass reproduces the logits that the tiny model was published with, on every instruction
// set.
import assert from "node:assert/strict";
import { test } from "node:test";
import { blockRange, golden, Host, isas, largestError, needsAddon, prefill } from "./native-support.js";

for (const isa of isas.length > 0 ? isas : (["portable"] as const)) {
  test(`${isa}: last logits and every argmax of golden.json`, needsAddon, async () => {
    const host = new Host({ isa });
    assert.equal(host.model.isa, isa);
    const logits = await prefill(host, golden.ids, blockRange(3, 4));
    assert.ok(
      largestError(logits, golden.last_logits) < 1e-3,
      `error ${largestError(logits, golden.last_logits)}`,
    );
    // One token a step: each step's greedy token is the argmax at that position.
    const argmax: number[] = [];
    for (let i = 0; i < golden.ids.length; i++) {
      const step = await host.run([
        { phase: 1, computedBefore: i, tokens: [golden.ids[i]], blocks: blockRange(20, 4) },
      ]);
      argmax.push(step.tokensOut[0]);
    }
    assert.deepEqual(argmax, golden.argmax_all);
    host.model.close();
  });
}

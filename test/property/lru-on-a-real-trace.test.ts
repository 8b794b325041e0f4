/**
 * Eviction order on a real trace: least recently used, the tail of a request before its head. The block hit
 * rates of the Mooncake conversation trace (arXiv 2407.00079) are exactly those of the definition, at every
 * capacity.
 */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Core } from "../../bindings/main.js";
import { readMooncakeTrace } from "../../sim/traces.js";
import { DATA } from "../support/package-root.js";

const trace = join(DATA, "mooncake", "conversation_trace.jsonl");
const skip = existsSync(trace) ? false : `${trace} is not there`;

/** Block hit rates: leading run of cached blocks, counted before the request's own blocks are entered. */
const HIT_RATES: readonly [blocks: number, rate: string][] = [
  [1_000, "0.0445"],
  [3_000, "0.0653"],
  [10_000, "0.2116"],
  [30_000, "0.3257"],
  [50_000, "0.3546"],
  [100_000, "0.3637"],
  [200_000, "0.3664"],
];

/** Never part of a prompt: the last token is left to compute, so a request needs one more than its blocks. */
const LAST = 0xffffffff;

async function hitRate(requests: readonly Uint32Array[], blocks: number): Promise<number> {
  const core = await Core.create();
  // One token a block: a block id of the trace stands for its block.
  const cache = core.kvCache({ blocks, blockSize: 1, maxSequences: 1, maxSequenceTokens: 300 });
  let hits = 0;
  let total = 0;
  for (const tokens of requests) {
    const sequence = cache.open({ tokens });
    const cached = cache.length(sequence);
    const rest = tokens.subarray(cached, tokens.length - 1);
    cache.reserve(sequence, rest.length);
    cache.append(sequence, rest);
    cache.close(sequence);
    hits += cached;
    total += tokens.length - 1;
  }
  core.validate();
  return hits / total;
}

test("LRU with tail-first eviction reproduces the trace's hit rates to four decimals", { skip }, async () => {
  const requests = readMooncakeTrace(readFileSync(trace, "utf8")).map((row) =>
    Uint32Array.from([...row.blockIds!, LAST]),
  );
  for (const [blocks, expected] of HIT_RATES) {
    assert.equal((await hitRate(requests, blocks)).toFixed(4), expected, `${blocks} blocks`);
  }
});

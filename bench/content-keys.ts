/** What does the name of a block for the outside cost? Keys of a prompt of 16-token blocks, beside node:crypto. */
import { createHash } from "node:crypto";
import { type Build, Core, type KvCache, type SequenceId } from "../bindings/main.js";
import { interleave, type Report, type Subject } from "./measure.js";

export const title = "content keys: a 256-bit chained key, per block of 16 tokens";

const BLOCKS = 1024;
const BLOCK_SIZE = 16;
/** Budget of a key. */
const BUDGET_US = 1;

async function keyed(build: Build, tokens: Uint32Array): Promise<Subject> {
  const core = await Core.create({ build });
  const cache: KvCache = core.kvCache({
    blocks: BLOCKS,
    blockSize: BLOCK_SIZE,
    maxSequences: 1,
    maxSequenceTokens: BLOCKS * BLOCK_SIZE,
    contentKeys: { domainKey: new Uint8Array(32), fingerprint: new Uint8Array(32) },
  });
  let sequence: SequenceId = 0;
  return {
    name: build === "core" ? "quartermaster" : `quartermaster/${build}`,
    operations: BLOCKS,
    // New content each time: what is cached keeps its keys.
    prepare: () => {
      if (sequence !== 0) cache.close(sequence);
      cache.forget();
      tokens[0] += 1;
      sequence = cache.open({ tokens: [] });
      cache.reserve(sequence, tokens.length);
      cache.append(sequence, tokens);
    },
    run: () => void cache.contentKeys(sequence),
  };
}

export async function run(report: Report): Promise<void> {
  const tokens = Uint32Array.from({ length: BLOCKS * BLOCK_SIZE }, (_, i) => (i * 7919) % 50_000);
  const bytes = new Uint8Array(tokens.buffer);
  const chained: Subject = {
    name: "node:crypto SHA-256",
    operations: BLOCKS,
    run: () => {
      let parent: Uint8Array = new Uint8Array(32);
      for (let at = 0; at < bytes.length; at += BLOCK_SIZE * 4) {
        const block = bytes.subarray(at, at + BLOCK_SIZE * 4);
        parent = createHash("sha256").update(parent).update(block).digest();
      }
    },
  };
  const subjects = [await keyed("core", tokens), await keyed("core-scalar", tokens), chained];
  const timings = await interleave(subjects, report.quick ? 5 : 60);
  report.timings("16 tokens", timings);
  report.bar("us a content key", timings[0].medianUs, "<", BUDGET_US);
}

/** What do KV events cost where blocks enter and leave the cache, and where they are read? */
import { Core, encodeKvEvents, type KvCache, type KvEvents } from "../bindings/main.js";
import { interleave, median, type Report } from "./measure.js";

export const title =
  "KV events: blocks that enter and leave, with and without; reading and encoding; per block of 16 tokens";

const BLOCKS = 4096;
const PROMPT_BLOCKS = 256;
const PROMPTS = 32;

async function cacheWith(events: boolean): Promise<KvCache> {
  const zeros = new Uint8Array(32);
  return (await Core.create()).kvCache({
    blocks: BLOCKS,
    maxSequences: 4,
    maxSequenceTokens: PROMPT_BLOCKS * 16,
    ...(events && {
      contentKeys: { domainKey: zeros, fingerprint: zeros },
      events: { ring: 4 * BLOCKS },
    }),
  });
}

/** Prompts that nobody has asked before: each block enters, and one leaves for it. */
function serve(cache: KvCache, tokens: Uint32Array): void {
  for (let i = 0; i < PROMPTS; i++) {
    tokens[0] += 1;
    const sequence = cache.open({ tokens: [] });
    cache.reserve(sequence, tokens.length);
    cache.append(sequence, tokens);
    cache.close(sequence);
  }
}

export async function run(report: Report): Promise<void> {
  const tokens = Uint32Array.from({ length: PROMPT_BLOCKS * 16 }, (_, i) => i % 50_000);
  const [told, silent] = [await cacheWith(true), await cacheWith(false)];
  const events: KvEvents = told.events();
  const reading: number[] = [];
  const encoding: number[] = [];
  const drain = (): void => {
    let start = performance.now();
    const batches = [...events];
    const count = batches
      .flatMap((batch) => batch.events)
      .reduce((n, e) => n + ("keys" in e ? e.keys.length : 0), 0);
    if (count > 0) reading.push(((performance.now() - start) * 1000) / count);
    start = performance.now();
    for (const batch of batches) encodeKvEvents(batch);
    if (count > 0) encoding.push(((performance.now() - start) * 1000) / count);
  };
  const operations = PROMPTS * PROMPT_BLOCKS;
  const timings = await interleave(
    [
      { name: "quartermaster", operations, run: () => serve(told, tokens), prepare: drain },
      { name: "without events", operations, run: () => serve(silent, tokens) },
    ],
    report.quick ? 5 : 40,
  );
  report.timings("enter and leave", timings, "ns");
  report.measured("read", "quartermaster", "median", median(reading), "us", {
    per: "block told, key computed",
  });
  report.measured("encode", "quartermaster", "median", median(encoding), "us", { per: "block told" });
}

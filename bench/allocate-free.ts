/** What does a block cost from the pool and back? */
import { Core } from "../bindings/main.js";
import { interleave, type Report } from "./measure.js";
import { MapCache } from "./peer/map-cache.js";

export const title = "allocate and free, per block, sequences of 64 and 512 blocks";

export async function run(report: Report): Promise<void> {
  const shape = { blocks: 65536, blockSize: 16, maxSequences: 64, maxSequenceTokens: 16384 };
  const cache = (await Core.create()).kvCache(shape);
  const peer = new MapCache(shape);
  for (const size of [64, 512]) {
    const repeat = 8192 / size;
    const timings = await interleave(
      [
        {
          name: "quartermaster",
          operations: repeat * size,
          run: () => {
            for (let i = 0; i < repeat; i++) {
              const sequence = cache.open({ tokens: [], private: true });
              cache.reserve(sequence, size * 16);
              cache.close(sequence);
            }
          },
        },
        {
          name: "Map and arrays",
          operations: repeat * size,
          run: () => {
            for (let i = 0; i < repeat; i++) {
              const sequence = peer.openSequence([], 0, true)!;
              peer.reserve(sequence, size * 16);
              peer.close(sequence);
            }
          },
        },
      ],
      report.quick ? 5 : 60,
    );
    report.timings(String(size), timings, "ns");
    report.quoted(String(size), "vLLM v1 allocate_slots + free", "best", 250, "ns");
  }
}

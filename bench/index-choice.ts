/** Hash chains or the ordered index for the prefix lookup? The figures behind docs/decisions/0001. */
import { Core } from "../bindings/main.js";
import { interleave, type Report } from "./measure.js";

export const title =
  "point lookups of random u64 keys: hash chains of the prefix index against the ordered index";

const KEYS = 65536;
const PROBES = 4096;

export async function run(report: Report): Promise<void> {
  const core = await Core.create();
  const { exports, memory } = core;
  // A one-token block makes a match of n blocks n dependent probes of the chains, verification included.
  const cache = core.kvCache({ blocks: KEYS, blockSize: 1, maxSequences: 4, maxSequenceTokens: KEYS });
  const tokens = Uint32Array.from({ length: PROBES + 1 }, (_, i) => Math.imul(i, 2654435761));
  for (let namespace = 0; namespace < KEYS / PROBES; namespace++) {
    const sequence = cache.open({ tokens, namespace });
    cache.reserve(sequence, PROBES);
    cache.append(sequence, tokens.subarray(0, PROBES));
    cache.close(sequence);
  }
  cache.match(tokens);
  const index = core.orderedIndex({ capacity: KEYS, valueBytes: 4 });
  const keys = BigUint64Array.from({ length: KEYS }, (_, i) =>
    BigInt.asUintN(64, BigInt(i + 1) * 0x9e3779b97f4a7c15n),
  );
  index.setMany(
    keys,
    BigUint64Array.from(keys, (_, i) => BigInt(i)),
  );
  const scratch = core.scratch(2048 * 17);
  const timings = await interleave(
    [
      {
        name: "quartermaster",
        operations: PROBES,
        run: () => {
          if (exports.kvMatch(cache.pointer, 0, PROBES + 1) !== PROBES) throw new Error("missed");
        },
      },
      {
        name: "ordered index",
        operations: PROBES,
        prepare: () =>
          new BigUint64Array(memory.buffer, scratch, 2048).set(keys.subarray(KEYS / 3, KEYS / 3 + 2048)),
        run: () => {
          for (let half = 0; half < 2; half++) {
            if (
              exports.orderedIndexGetMany(index.pointer, scratch, 2048, scratch + 16384, scratch + 32768) !==
              2048
            ) {
              throw new Error("missed");
            }
          }
        },
      },
    ],
    report.quick ? 5 : 100,
  );
  report.timings(`${KEYS} keys`, timings, "ns");
}

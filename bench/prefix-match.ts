/** What does it cost to find a prompt's cached prefix, from raw tokens to verified blocks? */
import { Core } from "../bindings/main.js";
import { interleave, type Report } from "./measure.js";
import { MapCache } from "./peer/map-cache.js";

export const title = "match a prefix of 64, 512, 4,096 blocks of 16 tokens, 1,000 sequences resident";

const BLOCK = 16;
const RESIDENT = 1000;
const RESIDENT_BLOCKS = 64;
const SIZES = [64, 512, 4096];
/** Medians published for the same sizes: anchors, not run here. */
const QUOTED: Readonly<Record<string, readonly number[]>> = {
  "vLLM v1 get_computed_blocks (without hashing)": [31, 240, 2340],
  "SGLang C++ radix tree": [1.0, 3.9, 27],
  "SGLang Python radix tree, page 16": [17, 96, 732],
};

/** Token ids of a prompt; each prompt has its own. */
function prompt(seed: number, tokens: number): Uint32Array {
  let state = seed * 2654435761 + 1;
  return Uint32Array.from({ length: tokens }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state % 32000;
  });
}

export async function run(report: Report): Promise<void> {
  const blocks = RESIDENT * RESIDENT_BLOCKS + SIZES.reduce((sum, size) => sum + size, 0) + 64;
  const shape = { blocks, blockSize: BLOCK, maxSequences: RESIDENT + 8, maxSequenceTokens: 4097 * BLOCK };
  const core = await Core.create();
  const cache = core.kvCache(shape);
  const peer = new MapCache(shape);
  const add = (tokens: Uint32Array): void => {
    const sequence = cache.open({ tokens });
    cache.reserve(sequence, tokens.length);
    cache.append(sequence, tokens);
    const twin = peer.openSequence(tokens)!;
    peer.reserve(twin, tokens.length);
    peer.append(twin, tokens);
  };
  for (let i = 0; i < RESIDENT; i++) add(prompt(i + 10_000, RESIDENT_BLOCKS * BLOCK));
  const prompts = SIZES.map((size) => prompt(size, size * BLOCK + 1));
  for (const tokens of prompts) add(tokens.subarray(0, tokens.length - 1));

  for (const [i, size] of SIZES.entries()) {
    const tokens = prompts[i];
    const repeat = Math.max(1, Math.round(8192 / size));
    const timings = await interleave(
      [
        {
          name: "quartermaster",
          operations: repeat,
          run: () => {
            for (let k = 0; k < repeat; k++)
              if (cache.match(tokens) !== size * BLOCK) throw new Error("missed");
          },
        },
        {
          name: "Map and arrays",
          operations: 1,
          run: () => {
            if (peer.match(tokens, 0).length !== size) throw new Error("missed");
          },
        },
      ],
      report.quick ? 5 : 60,
    );
    report.timings(String(size), timings);
    for (const [name, figures] of Object.entries(QUOTED))
      report.quoted(String(size), name, "best", figures[i], "us");
  }
}

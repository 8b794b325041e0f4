/** A lab over the embedded model, for tests and benches that need real attention. */
import { openModel } from "../../native-host/executor/main.js";
import { Lab } from "../../sim/eviction/lab.js";
import { TINY_RETRIEVAL } from "./package-root.js";

export async function openLab(blocks = 256): Promise<Lab> {
  const { executor, config } = await openModel(TINY_RETRIEVAL, {
    backend: "wasm",
    blocks,
    returnLogits: true,
  });
  return new Lab(executor, config.heads);
}

/** Share of true entries. */
export function share(values: readonly boolean[]): number {
  return values.filter(Boolean).length / values.length;
}

/** Counts the pool's blocks in use from now on; `end` gives the most there were beside those in use already. */
export function watchBlocks(lab: Lab): { end(): number } {
  const before = lab.freeBlocks;
  let least = before;
  const { take } = lab;
  lab.take = (count) => {
    const blocks = take.call(lab, count);
    least = Math.min(least, lab.freeBlocks);
    return blocks;
  };
  return {
    end: () => {
      lab.take = take;
      return before - least;
    },
  };
}

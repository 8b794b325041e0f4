/** Starting states and calls for the checks of the shared index. */
import { Random } from "../support/random.js";
import { heightOf, type IndexScenario, keysOfHeights, LEAF_CAPACITY, type Step } from "./index-scenario.js";

export type Plan = Omit<IndexScenario, "mode">;

/** A full leaf of keys of height 0 between two promoted keys, and one more key that belongs into its middle. */
export function fullLeaf(): { keys: number[]; middle: number; last: number; promoted: number } {
  const all = keysOfHeights([1, ...Array.from({ length: LEAF_CAPACITY }, () => 0), 1]);
  const promotedInside = keysOfHeights([1], all[3])[0];
  return {
    keys: all.filter((_, i) => i !== 3),
    middle: all[3],
    last: all[LEAF_CAPACITY],
    promoted: promotedInside,
  };
}

/** Two leaves of the same run, the second from an overflow, and the keys whose deletion merges them. */
export function splitRun(): { keys: number[]; second: number[] } {
  const keys = keysOfHeights([1, ...Array.from({ length: LEAF_CAPACITY }, () => 0), 1]);
  return { keys, second: keys.slice(4, LEAF_CAPACITY + 1) };
}

/** A key of this height comes and goes while others look for keys behind it. */
export function changesAbove(height: number): Plan[] {
  const [before, key, ...behind] = keysOfHeights([1, height, 0, 1, 0]);
  return [behind[0], behind[2]].flatMap((wanted): Plan[] => [
    { keys: [before, key, ...behind], threads: [[["delete", key]], [["get", wanted]]] },
    { keys: [before, ...behind], threads: [[["put", key, 1]], [["get", wanted]]] },
    {
      keys: [before, key, ...behind],
      threads: [
        [
          ["delete", key],
          ["put", key, 5],
        ],
        [["get", wanted]],
      ],
    },
  ]);
}

type RandomKind = "put" | "get" | "delete" | "add" | "scan";

/** Random plans around a few neighbouring keys. */
export function randomPlans(
  count: number,
  steps: number,
  kinds: readonly RandomKind[],
  seed: number,
): Plan[] {
  const random = new Random(seed);
  return Array.from({ length: count }, () => {
    const keys = Array.from({ length: 24 }, (_, i) => i + 1).filter(() => random.below(3) > 0);
    const from = 1 + random.below(16);
    const step = (): Step => {
      const kind = kinds[random.below(kinds.length)];
      const key = from + random.below(8);
      if (kind === "put" || kind === "add") return [kind, key, random.below(100)];
      return kind === "scan" ? ["scan"] : [kind, key];
    };
    const threads = [0, 1].map(() => Array.from({ length: steps }, step));
    return { keys, threads };
  });
}

/** A batch on eight keys whose leaves split, merge, and change hands meanwhile. */
export function batchPlans(batch: (keys: readonly number[]) => Step): Plan[] {
  const run = splitRun();
  const full = fullLeaf();
  const promoted = run.keys[0];
  const eight = [...full.keys.slice(0, 4), full.middle, ...full.keys.slice(4)];
  return [
    { keys: full.keys, threads: [[["put", full.middle, 1]], [batch(eight)]] },
    { keys: full.keys, threads: [[["put", full.promoted, 1]], [batch(eight)]] },
    {
      keys: run.keys,
      threads: [
        [
          ["delete", promoted],
          ["put", promoted, 5],
        ],
        [batch(run.keys)],
      ],
    },
    {
      keys: run.keys,
      threads: [
        [
          ["delete", run.second[0]],
          ["delete", run.second[1]],
        ],
        [batch(run.keys)],
      ],
    },
  ];
}

/** Promoted keys take a node each when they come, and give it back when they go. */
export function takeAndGivePlans(): Plan[] {
  const keys = keysOfHeights([0, 1, 0, 1, 0, 1, 0, 1, 0]);
  const promoted = keys.filter((key) => heightOf(key) === 1);
  const [a, b, c, d] = promoted;
  const plain = keys.filter((key) => heightOf(key) === 0);
  return [
    topComesBack(),
    // One thread takes; the other takes two and gives the first back, in between.
    {
      keys: plain,
      gone: [a, b],
      threads: [
        [
          ["put", c, 1],
          ["put", d, 1],
        ],
        [
          ["put", a, 2],
          ["put", b, 2],
          ["delete", a],
        ],
      ],
    },
    {
      keys: [...plain, a],
      gone: [b, c],
      threads: [
        [["put", b, 1]],
        [
          ["delete", a],
          ["put", c, 2],
        ],
      ],
    },
    // The last free nodes: one of the two is refused.
    {
      keys: plain,
      threads: [
        [
          ["put", a, 1],
          ["put", b, 1],
        ],
        [
          ["put", c, 2],
          ["put", d, 2],
        ],
      ],
      nodes: 16,
    },
  ];
}

/**
 * Four full leaves, so that neither thread waits for the other's locks. One takes a node; in between the other takes
 * that node and the one below it and gives the first back: the top of the free nodes is the same, what lies below
 * it is in use.
 */
function topComesBack(): Plan {
  const leaf = [1, ...Array.from({ length: LEAF_CAPACITY }, () => 0)];
  const all = keysOfHeights([...leaf, ...leaf, ...leaf, ...leaf, 1, 1]);
  const spare = [0, 1, 2, 3].map((run) => all[run * leaf.length + 3]);
  const gone = all.slice(-2);
  return {
    keys: all.filter((key) => !spare.includes(key) && !gone.includes(key)),
    gone,
    threads: [
      [
        ["put", spare[0], 1],
        ["put", spare[3], 1],
      ],
      [
        ["put", spare[1], 2],
        ["put", spare[2], 2],
        ["delete", spare[1]],
      ],
    ],
  };
}

/** What is checked about the shared index under all schedules, and which missing guard each check notices. */
import { Random } from "../support/random.js";
import type { MutantName } from "../support/threads-builds.js";
import {
  heightOf,
  type IndexScenario,
  keysOfHeights,
  LEAF_CAPACITY,
  type Mode,
  type Step,
} from "./index-scenario.js";

export type Plan = Omit<IndexScenario, "mode">;

export interface Check {
  /** Default: both. */
  readonly modes?: readonly Mode[];
  /** Most preemptive switches at atomic accesses in the long run; default 3. Else 2. */
  readonly preemptions?: number;
  readonly plans: () => readonly Plan[];
  readonly mutants: readonly MutantName[];
}

/** A full leaf of keys of height 0 between two promoted keys, and one more key that belongs into its middle. */
function fullLeaf(): { keys: number[]; middle: number; last: number; promoted: number } {
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
function splitRun(): { keys: number[]; second: number[] } {
  const keys = keysOfHeights([1, ...Array.from({ length: LEAF_CAPACITY }, () => 0), 1]);
  return { keys, second: keys.slice(4, LEAF_CAPACITY + 1) };
}

/** Random plans around a few neighbouring keys. */
function randomPlans(count: number, steps: number, kinds: readonly Step[0][], seed: number): Plan[] {
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

export const CHECKS: Readonly<Record<string, Check>> = {
  "put against put of one key": {
    plans: () =>
      [0, 1, 2].map((height) => {
        const [low, key, high] = keysOfHeights([0, height, 0]);
        return { keys: [low, high], threads: [[["put", key, 1]], [["put", key, 2]]] };
      }),
    mutants: ["heights differ between threads"],
  },
  "put against delete of one key": {
    plans: () =>
      [0, 1, 2].flatMap((height) => {
        const [low, key, high] = keysOfHeights([0, height, 0]);
        const threads: Plan["threads"] = [[["put", key, 1]], [["delete", key]]];
        return [
          { keys: [low, high], threads },
          { keys: [low, key, high], threads },
        ];
      }),
    mutants: ["a level is left before the next is locked"],
  },
  "put against get of one key": {
    plans: () =>
      [0, 1, 2].map((height) => {
        const [low, key, high] = keysOfHeights([0, height, 0]);
        return {
          keys: [low, high],
          threads: [
            [["put", key, 1]],
            [
              ["get", key],
              ["get", high],
            ],
          ],
        };
      }),
    mutants: ["a new node is published unlocked"],
  },
  "put against put into a full leaf": {
    plans: () => {
      const { keys, middle, promoted } = fullLeaf();
      const spare = keysOfHeights([0], middle + 1)[0];
      return [
        { keys, threads: [[["put", middle, 1]], [["put", spare, 2]]] },
        { keys, threads: [[["put", middle, 1]], [["put", promoted, 2]]] },
      ];
    },
    mutants: ["a writer does not validate the place it locks"],
  },
  "overwrite and add against delete and put": {
    plans: () =>
      [1, 2].flatMap((height) => {
        const [low, key, high] = keysOfHeights([0, height, 0]);
        const keys = [low, key, high];
        return [
          {
            keys,
            threads: [
              [["put", key, 7]],
              [
                ["delete", key],
                ["put", key, 8],
              ],
            ],
          },
          { keys, threads: [[["add", key, 1]], [["add", key, 2]]] },
          {
            keys,
            threads: [
              [["add", key, 1]],
              [
                ["delete", key],
                ["get", key],
              ],
            ],
          },
        ];
      }),
    mutants: ["an overwrite lets go of the entry before it locks the leaf"],
  },
  "delete against delete of neighbours": {
    preemptions: 2,
    plans: () => {
      const { keys } = splitRun();
      const pairs = [
        [0, 1],
        [1, 2],
        [3, 4],
        [0, LEAF_CAPACITY + 1],
      ];
      return [
        ...pairs.map(([a, b]): Plan => ({ keys, threads: [[["delete", keys[a]]], [["delete", keys[b]]]] })),
        ...randomPlans(30, 1, ["delete"], 3),
        ...randomPlans(10, 2, ["delete"], 4),
      ];
    },
    mutants: ["a merge does not lock the right neighbour", "a deletion locks right before left"],
  },
  "get against split": {
    plans: () => {
      const { keys, middle, last, promoted } = fullLeaf();
      return [
        {
          keys,
          threads: [
            [["put", middle, 1]],
            [
              ["get", last],
              ["get", middle],
            ],
          ],
        },
        {
          keys,
          threads: [
            [["put", promoted, 1]],
            [
              ["get", last],
              ["get", keys[1]],
            ],
          ],
        },
      ];
    },
    mutants: ["a reader does not validate the leaf"],
  },
  "get against merge": {
    plans: () => {
      const { keys, second } = splitRun();
      return [
        {
          keys,
          threads: [
            [["delete", keys[0]]],
            [
              ["get", second[1]],
              ["get", keys[1]],
            ],
          ],
        },
        {
          keys,
          threads: [
            [
              ["delete", keys[1]],
              ["delete", keys[2]],
            ],
            [["get", second[0]]],
          ],
        },
        ...randomPlans(10, 2, ["delete", "get"], 7),
      ];
    },
    mutants: [
      "a reader does not validate the way down",
      "a locking reader lets go before it has the next node",
    ],
  },
  "get from a node that is freed and used again": {
    modes: ["optimistic"],
    preemptions: 2,
    plans: () => {
      const { keys, second } = splitRun();
      // Deleting the promoted key merges its leaf into the one before; putting it again takes the node anew.
      const promoted = keys[0];
      return [
        ...[promoted, ...second.slice(0, 2)].map((wanted): Plan => ({
          keys,
          threads: [
            [["get", wanted]],
            [
              ["delete", promoted],
              ["put", promoted, 5],
            ],
          ],
        })),
        ...randomPlans(20, 2, ["delete", "put", "get"], 11),
      ];
    },
    mutants: ["a freed node keeps its version"],
  },
  "scan against split and merge": {
    plans: () => {
      const { keys, middle, promoted } = fullLeaf();
      const run = splitRun();
      return [
        { keys, threads: [[["put", middle, 1]], [["scan"]]] },
        { keys, threads: [[["put", promoted, 1]], [["scan"]]] },
        { keys: run.keys, threads: [[["delete", run.keys[0]]], [["scan"]]] },
        {
          keys: run.keys,
          threads: [
            [
              ["delete", run.keys[2]],
              ["delete", run.keys[3]],
            ],
            [["scan"]],
          ],
        },
      ];
    },
    mutants: ["a scan does not validate its leaf"],
  },
  "taking and giving of nodes": {
    preemptions: 2,
    plans: () => takeAndGivePlans(),
    mutants: ["the free list has no change count", "nodes are not reserved"],
  },
  "locking readers against writers": {
    modes: ["locked"],
    plans: () => {
      const { keys, middle } = fullLeaf();
      return [{ keys, threads: [[["put", middle, 1]], [["get", middle]], [["get", keys[1]]]] }];
    },
    preemptions: 2,
    mutants: ["leaving a lock forgets readers that came in"],
  },
  "anything against anything": {
    preemptions: 2,
    plans: () => [
      ...randomPlans(25, 2, ["put", "delete", "get", "add"], 21),
      ...randomPlans(10, 2, ["put", "delete", "scan"], 22),
    ],
    mutants: [],
  },
};

/** Promoted keys take a node each when they come, and give it back when they go. */
function takeAndGivePlans(): Plan[] {
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

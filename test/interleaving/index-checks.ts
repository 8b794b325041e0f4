/** What is checked about the shared index under all schedules, and which missing guard each check notices. */
import type { MutantName } from "../support/threads-builds.js";
import {
  batchPlans,
  changesAbove,
  fullLeaf,
  type Plan,
  randomPlans,
  splitRun,
  takeAndGivePlans,
} from "./index-plans.js";
import { keysOfHeights, layoutOf, LEAF_CAPACITY, type Mode, type Step } from "./index-scenario.js";

export interface Check {
  /** Default: both. */
  readonly modes?: readonly Mode[];
  /** Most preemptive switches at atomic accesses in the long run; default 3. Else 2. */
  readonly preemptions?: number;
  readonly plans: () => readonly Plan[];
  readonly mutants: readonly MutantName[];
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
  "compareExchange against compareExchange and put": {
    plans: () =>
      [0, 1, 2].flatMap((height) => {
        const [low, key, high] = keysOfHeights([0, height, 0]);
        const keys = [low, key, high];
        const exchange = (value: number, expected = 1000 + key): Step => ["exchange", key, expected, value];
        const others: Step[][] = [
          [exchange(2)],
          [exchange(2, 1)],
          [["put", key, 2]],
          [["add", key, 2]],
          [
            ["delete", key],
            ["put", key, 1000 + key],
          ],
        ];
        return others.map((other): Plan => ({ keys, threads: [[exchange(1)], other] }));
      }),
    mutants: ["an exchange lets go of the leaf before it stores"],
  },
  "fetchAdd against fetchAdd": {
    plans: () =>
      [0, 1, 2].flatMap((height) => {
        const [low, key, high] = keysOfHeights([0, height, 0]);
        const keys = [low, key, high];
        const add = (summand: number): Step => ["add", key, summand];
        return [
          {
            keys,
            threads: [
              [add(1), add(2)],
              [add(4), add(8)],
            ],
          },
          { keys, threads: [[add(1)], [["put", high + 1, 1], add(2)]] },
        ];
      }),
    mutants: ["an addition lets go of the leaf before it stores"],
  },
  "getMany against writers": {
    modes: ["optimistic"],
    preemptions: 2,
    plans: () => {
      const { keys } = splitRun();
      const batches: Plan = { keys, threads: [[["deleteMany", keys]], [["getMany", keys]]] };
      return [...batchPlans((wanted) => ["getMany", wanted]), batches];
    },
    mutants: ["a leaf found ahead is not proved"],
  },
  "setMany against writers": {
    modes: ["optimistic"],
    preemptions: 2,
    plans: () => batchPlans((keys) => ["setMany", keys, 50]),
    mutants: ["a leaf found ahead is locked as it is now, not as it was proved"],
  },
  "deleteMany against writers": {
    modes: ["optimistic"],
    preemptions: 2,
    plans: () =>
      // First a key of the half that a split moves away: later there is nothing to split.
      batchPlans((keys) => ["deleteMany", [keys[6], ...keys.slice(0, 6), keys[7]]]),
    mutants: ["a leaf found ahead is locked as it is now, not as it was proved"],
  },
  "apply against writers": {
    modes: ["optimistic"],
    preemptions: 2,
    plans: () =>
      batchPlans(([a, b, c, d, e, f, g]) => [
        "apply",
        [
          ["put", c, 50],
          ["get", f],
          ["delete", d],
          ["scan"],
          ["add", b, 3],
          ["exchange", a, 1000 + a, 51],
          ["put", d, 52],
          ["get", g],
        ],
      ]),
    mutants: ["a leaf found ahead is locked as it is now, not as it was proved"],
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
        ...randomPlans(20, 1, ["delete"], 3),
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
  "changes of inner nodes against readers": {
    modes: ["locked"],
    plans: () => {
      const highest = layoutOf().levels - 1;
      return [highest, highest - 1].flatMap((height) => changesAbove(height));
    },
    preemptions: 2,
    mutants: ["a writer of an inner node does not wait for its readers"],
  },
  "anything against anything": {
    preemptions: 2,
    plans: () => [
      ...randomPlans(18, 2, ["put", "delete", "get", "add"], 21),
      ...randomPlans(8, 2, ["put", "delete", "scan"], 22),
    ],
    mutants: [],
  },
};

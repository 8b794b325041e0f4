/**
 * The shared index under real workers: what they enter, remove, count and scan at the same time adds up, and short
 * histories have an order. The build is the shipped one; a build of the same source whose threads sleep now and
 * then where they are about to take a lock or to validate, so that they meet in the middle of calls even on one
 * processor; and builds of that kind with one guard taken out, which the same runs must notice.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { IndexMode, OrderedIndex } from "../../bindings/main.js";
import { long } from "../support/long.js";
import { disturbed, type MutantName, shipped } from "../support/threads-builds.js";
import { Crew, type Run } from "./crew.js";
import type { ScenarioName } from "./station.js";

interface Shape extends Pick<Run, "rounds" | "keys" | "nodeBytes"> {
  readonly claim: string;
  /** Times the rounds of the long run, 20 s on two processors or so; of scans, times the keys. */
  readonly longer: number;
}

const MODES: readonly IndexMode[] = ["locked", "optimistic"];

/** Sizes of a short run. */
const RUNS: Readonly<Record<ScenarioName, Shape>> = {
  upserts: {
    claim: "keys that all enter are new to one thread each, and removed by one",
    rounds: 20,
    keys: 100,
    longer: 1000,
    nodeBytes: 128,
  },
  mixture: {
    claim: "puts, deletes and gets of 40,000 keys add up",
    rounds: 10,
    keys: 40_000,
    longer: 500,
    nodeBytes: 256,
  },
  scans: {
    claim: "scans are in order and miss nothing that was in before",
    rounds: 1,
    keys: 2048,
    longer: 16,
    nodeBytes: 128,
  },
  counters: { claim: "counters count every call", rounds: 6, keys: 64, longer: 1000, nodeBytes: 128 },
  histories: {
    claim: "short histories have an order that explains them",
    rounds: 150,
    keys: 60,
    longer: 300,
    nodeBytes: 128,
  },
};
/**
 * Histories in which calls overlap that are to be seen where threads sleep in the middle of calls, as a share of a run's. They
 * are one in ten to two, as the processors have time: the run is made again until there are so many.
 */
const OVERLAPPING = 0.2;
const MOST_RUNS = 20;

const WORKERS = 4;

/** @param part of the full run. */
function runOf(scenario: ScenarioName, mode: IndexMode, workers: number, part = 1): Run {
  const { rounds, keys, nodeBytes, longer } = RUNS[scenario];
  const size = { rounds: Math.ceil(rounds * part), keys, nodeBytes };
  if (long && scenario === "scans") size.keys *= longer;
  else if (long) size.rounds *= longer;
  return { scenario, mode, workers, ...size, seed: workers };
}

const SCENARIO_NAMES = Object.keys(RUNS) as ScenarioName[];

describe("the shipped build", () => {
  let crew: Crew;
  before(async () => void (crew = await Crew.hire(shipped(), WORKERS)));
  after(() => crew.dismiss());

  for (const scenario of SCENARIO_NAMES) {
    for (const mode of MODES) {
      for (const workers of [2, 4]) {
        test(`${RUNS[scenario].claim}: ${workers} workers, ${mode}`, async (t) => {
          const figures = await crew.run(runOf(scenario, mode, workers));
          t.diagnostic(JSON.stringify(figures));
        });
      }
    }
  }
});

describe("a build whose threads sleep now and then", () => {
  let crew: Crew;
  before(async () => void (crew = await Crew.hire(await disturbed(), WORKERS)));
  after(() => crew.dismiss());

  for (const scenario of SCENARIO_NAMES) {
    for (const mode of MODES) {
      test(`${RUNS[scenario].claim}: ${mode}`, async (t) => {
        const run = runOf(scenario, mode, WORKERS, long ? 0.02 : 0.5);
        const wanted = scenario === "histories" ? run.rounds * OVERLAPPING : -1;
        let overlapping = 0;
        for (let runs = 0; runs < MOST_RUNS && overlapping <= wanted; runs++) {
          const figures = await crew.run({ ...run, seed: run.seed + runs });
          t.diagnostic(JSON.stringify(figures));
          overlapping += figures.overlapping ?? 0;
        }
        assert.ok(overlapping > wanted, `${overlapping} overlapping`);
      });
    }
  }
});

/** The mistakes that a lock protocol for this structure must not make. */
const NOTICED: readonly MutantName[] = [
  "heights differ between threads",
  "a deletion locks right before left",
  "an overwrite lets go of the entry before it locks the leaf",
];
const ALSO_NOTICED: readonly MutantName[] = [
  "a new node is published unlocked",
  "a level is left before the next is locked",
  "a writer does not validate the place it locks",
  "a freed node keeps its version",
  "leaving a lock forgets readers that came in",
];
const TRIES = 60;
/** A lost lock is a deadlock here; the test need not wait for seconds. */
const HURRY = 10;

/** Short and on few keys. The try's number decides about everything else. */
function tryOf(number: number): Run {
  const mode = MODES[number % 2];
  const scenario = number % 3 === 2 ? "upserts" : "mixture";
  const size = scenario === "upserts" ? { rounds: 5, keys: 100 } : { rounds: 4, keys: 40 };
  return { scenario, mode, workers: WORKERS, nodeBytes: 128, seed: number, ...size };
}

describe("one guard taken out is noticed", () => {
  for (const guard of long ? [...NOTICED, ...ALSO_NOTICED] : NOTICED) {
    test(guard, async (t) => {
      const crew = await Crew.hire(await disturbed(guard), WORKERS, { hurry: HURRY, patience: 2000 });
      t.after(() => crew.dismiss());
      for (let number = 0; number < TRIES; number++) {
        try {
          await crew.run(tryOf(number));
        } catch (error) {
          t.diagnostic(`at try ${number + 1}: ${(error as Error).message}`);
          return;
        }
      }
      assert.fail(`${TRIES} tries have not shown it`);
    });
  }

  test("none, and nothing is noticed", async (t) => {
    const crew = await Crew.hire(await disturbed(), WORKERS);
    t.after(() => crew.dismiss());
    for (let number = 0; number < 4; number++) await crew.run(tryOf(number));
  });

  test("a lock that nobody lets go, and no clock: the watchdog reports who stands where", async (t) => {
    const crew = await Crew.hire(shipped(), 2, { hurry: 0, patience: 300 });
    t.after(() => crew.dismiss());
    const run: Run = { ...tryOf(1), workers: 2 };
    const lockFirstLeaf = ({ core, pointer }: OrderedIndex): void => {
      const leaf = new DataView(core.memory.buffer).getUint32(pointer, true);
      new BigUint64Array(core.memory.buffer, leaf, 1)[0] |= 1n;
    };
    await assert.rejects(crew.run(run, lockFirstLeaf), /^Error: nobody moves: .* made \d+,\d+ steps$/);
  });
});

/**
 * The shared index under real workers: what they enter, remove, count and scan at the same time adds up, and short
 * histories have an order. The build is the shipped one; a build of the same source whose threads sleep now and
 * then where they are about to take a lock or to validate, so that they meet in the middle of calls even on one
 * processor.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { IndexMode } from "../../bindings/main.js";
import { long } from "../support/long.js";
import { disturbed, shipped } from "../support/threads-builds.js";
import { Crew, type Run } from "./crew.js";
import type { ScenarioName } from "./station.js";

type Size = Pick<Run, "rounds" | "keys" | "nodeBytes">;

const MODES: readonly IndexMode[] = ["locked", "optimistic"];

/** Sizes of a short run; `npm run test:long` multiplies the rounds. */
const RUNS: Readonly<Record<ScenarioName, { readonly claim: string } & Size>> = {
  upserts: {
    claim: "keys that all enter are new to one thread each, and removed by one",
    rounds: 30,
    keys: 100,
    nodeBytes: 128,
  },
  mixture: {
    claim: "puts, deletes and gets of 40,000 keys add up",
    rounds: 20,
    keys: 40_000,
    nodeBytes: 256,
  },
  scans: {
    claim: "scans are in order and miss nothing that was in before",
    rounds: 1,
    keys: 4096,
    nodeBytes: 128,
  },
  counters: { claim: "counters count every call", rounds: 10, keys: 64, nodeBytes: 128 },
  histories: {
    claim: "short histories have an order that explains them",
    rounds: 300,
    keys: 60,
    nodeBytes: 128,
  },
};
const LONGER = 60;
const LONGEST_SCANS = 1 << 15;

/** Share of the histories in which calls overlap, at least, where threads sleep in the middle of calls. */
const OVERLAPPING = 0.1;

async function hire(bytes: BufferSource, hurry?: number): Promise<Crew> {
  return Crew.hire(await WebAssembly.compile(bytes), 4, hurry);
}

function runOf(scenario: ScenarioName, mode: IndexMode, workers: number, longer = 1): Run {
  const { rounds, keys, nodeBytes } = RUNS[scenario];
  const size = { rounds: Math.ceil(rounds * longer), keys, nodeBytes };
  if (scenario === "scans" && longer > 1) size.keys = LONGEST_SCANS;
  return { scenario, mode, workers, ...size, seed: workers };
}

const SCENARIO_NAMES = Object.keys(RUNS) as ScenarioName[];

describe("the shipped build", () => {
  let crew: Crew;
  before(async () => void (crew = await hire(shipped())));
  after(() => crew.dismiss());

  for (const scenario of SCENARIO_NAMES) {
    for (const mode of MODES) {
      for (const workers of [2, 4]) {
        test(`${RUNS[scenario].claim}: ${workers} workers, ${mode}`, async (t) => {
          const figures = await crew.run(runOf(scenario, mode, workers, long ? LONGER : 1));
          t.diagnostic(JSON.stringify(figures));
        });
      }
    }
  }
});

describe("a build whose threads sleep now and then", () => {
  let crew: Crew;
  before(async () => void (crew = await hire(await disturbed())));
  after(() => crew.dismiss());

  for (const scenario of SCENARIO_NAMES) {
    for (const mode of MODES) {
      test(`${RUNS[scenario].claim}: ${mode}`, async (t) => {
        const run = runOf(scenario, mode, 4, long ? 10 : 0.3);
        const figures = await crew.run(run);
        t.diagnostic(JSON.stringify(figures));
        if (scenario === "histories")
          assert.ok(figures.overlapping > run.rounds * OVERLAPPING, `${figures.overlapping} overlapping`);
      });
    }
  }
});

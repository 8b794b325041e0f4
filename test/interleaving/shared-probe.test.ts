/**
 * Probes of a shared prefix index beside the engine's thread, under every schedule with one preemptive switch at any
 * access at all (two at atomic ones): the shipped module; and mutants with one guard taken out, which must fail.
 */
import assert from "node:assert/strict";
import { before, test } from "node:test";
import { cacheMutant, type CacheMutantName, shipped } from "../support/threads-builds.js";
import { instrument } from "./atomics-instrumentation.js";
import { EXPORTS, type ProbePlan, probeScenario } from "./probe-scenario.js";
import { Checker } from "./schedules.js";

const [A, B, C] = [1, 2, 3].map((first) => Array.from({ length: 4 }, (_, i) => 10 * first + i));
const publishing: Pick<ProbePlan, "before" | "steps"> = {
  before: [["open"], ["reserve", 8]],
  steps: [["append", 8]],
};

const CHECKS: Readonly<
  Record<string, { readonly plans: readonly ProbePlan[]; readonly mutants: readonly CacheMutantName[] }>
> = {
  "probe against publish": {
    plans: [
      // What is there stays there; what comes, comes from its beginning.
      {
        blocks: 8,
        keyBits: 64,
        cached: [{ prompt: [...C, ...A], held: true }],
        tokens: [...A, ...B],
        ...publishing,
        probes: [
          [...C, ...A],
          [...A, ...B],
        ],
      },
      {
        blocks: 8,
        keyBits: 64,
        cached: [{ prompt: A, held: false }],
        tokens: [...B, ...C],
        before: [["open"], ["reserve", 8]],
        steps: [
          ["append", 5],
          ["append", 3],
        ],
        probes: [A, [...B, ...C]],
      },
    ],
    mutants: ["a reader does not validate the leaf"],
  },
  "probe against evict": {
    plans: [
      {
        blocks: 4,
        keyBits: 64,
        cached: [
          { prompt: [...A, ...B], held: false },
          { prompt: C, held: true },
        ],
        tokens: A,
        before: [],
        steps: [["forget"]],
        probes: [[...A, ...B], C],
      },
      // The blocks of one prompt are taken for another.
      {
        blocks: 2,
        keyBits: 64,
        cached: [{ prompt: [...A, ...B], held: false }],
        tokens: [...C, ...A],
        before: [["open"]],
        steps: [
          ["reserve", 8],
          ["append", 8],
        ],
        probes: [
          [...A, ...B],
          [...C, ...A],
        ],
      },
      // Prefixes with the same key, and a block that holds the end of one and the beginning of another.
      {
        blocks: 1,
        keyBits: 0,
        cached: [{ prompt: A, held: false }],
        tokens: B.slice(0, 3),
        before: [["open"]],
        steps: [
          ["reserve", 3],
          ["append", 3],
        ],
        probes: [[...B.slice(0, 3), A[3]], A],
      },
    ],
    mutants: ["an evicted block keeps its key", "a probe does not look at the key again"],
  },
};

const KEPT = Object.values(EXPORTS).flat();

let atomic: Uint8Array<ArrayBuffer>;
let plain: Uint8Array<ArrayBuffer>;
before(() => {
  atomic = instrument(shipped(), { keep: KEPT });
  plain = instrument(shipped(), { keep: KEPT, plain: true });
});

for (const [name, { plans, mutants }] of Object.entries(CHECKS)) {
  test(`${name}: every schedule`, (t) => {
    let schedules = 0;
    for (const plan of plans) {
      const scenario = probeScenario(plan);
      for (const tried of [
        new Checker(atomic, scenario).explore({ preemptions: 2 }),
        new Checker(plain, scenario).explore({ preemptions: 1 }),
      ]) {
        assert.ok(tried.exhausted);
        schedules += tried.schedules;
      }
    }
    assert.ok(schedules > 400);
    t.diagnostic(`${schedules} schedules`);
  });

  for (const guard of mutants) {
    test(`${name}: noticed when ${guard}, and the schedule replays`, async (t) => {
      const bytes = instrument(await cacheMutant(guard, EXPORTS), { keep: KEPT, plain: true });
      const failure = plans.map((plan) => firstFailure(bytes, plan)).find(Boolean);
      assert.ok(failure, "some schedule shows it");
      t.diagnostic(failure.message);
      const schedule = /^schedule "([^"]+)"/.exec(failure.message)![1];
      assert.throws(() => new Checker(bytes, probeScenario(failure.plan)).replay(schedule), {
        message: failure.message,
      });
    });
  }
}

function firstFailure(
  bytes: Uint8Array<ArrayBuffer>,
  plan: ProbePlan,
): { plan: ProbePlan; message: string } | undefined {
  try {
    new Checker(bytes, probeScenario(plan)).explore({ preemptions: 1 });
  } catch (error) {
    return { plan, message: (error as Error).message };
  }
  return undefined;
}

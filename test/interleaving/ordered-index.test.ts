/**
 * The shared index under every schedule within a bound: the shipped module itself; and for every check, mutants
 * with one guard taken out, which must fail it.
 *
 * Bounds: two preemptive switches at atomic accesses (up to three in `npm run test:long`), and for optimistic
 * readers, which read plainly what others change, one at any access at all.
 */
import assert from "node:assert/strict";
import { before, test } from "node:test";
import { long } from "../support/long.js";
import { type MutantName, mutant, MUTANTS, shipped } from "../support/threads-builds.js";
import { instrument } from "./atomics-instrumentation.js";
import { type Check, CHECKS } from "./index-checks.js";
import { indexScenario, type Mode, useLayout } from "./index-scenario.js";
import { Checker, type Scenario } from "./schedules.js";

const MODES: readonly Mode[] = ["locked", "optimistic"];
const PLAIN_PREEMPTIONS = 1;

/** A module twice: with scheduling points at atomic accesses only, and at plain ones as well. */
interface Woven {
  readonly atomic: Uint8Array<ArrayBuffer>;
  readonly plain: Uint8Array<ArrayBuffer>;
}

const weave = (bytes: Uint8Array): Woven => ({
  atomic: instrument(bytes),
  plain: instrument(bytes, { plain: true }),
});

let ours: Woven;

const broken = new Map<MutantName, Promise<Uint8Array<ArrayBuffer>>>();

/** A mutant with scheduling points at plain accesses as well. */
function wovenMutant(guard: MutantName): Promise<Uint8Array<ArrayBuffer>> {
  let bytes = broken.get(guard);
  if (!bytes) broken.set(guard, (bytes = mutant(guard).then((built) => instrument(built, { plain: true }))));
  return bytes;
}

before(() => {
  const memory = new WebAssembly.Memory({ initial: 16, maximum: 65536, shared: true });
  const imports = { env: { memory, park: () => 0 } };
  const instance = new WebAssembly.Instance(new WebAssembly.Module(shipped()), imports);
  useLayout(instance.exports as never, memory);
  ours = weave(shipped());
});

/** Schedules tried; throws at the first wrong outcome. */
function explore(bytes: Uint8Array<ArrayBuffer>, check: Check, mode: Mode, preemptions: number): number {
  let schedules = 0;
  for (const plan of check.plans()) {
    const tried = new Checker(bytes, indexScenario({ ...plan, mode })).explore({ preemptions });
    assert.ok(tried.exhausted);
    schedules += tried.schedules;
  }
  return schedules;
}

/** The scenario and the message of the first wrong outcome, if there is one. */
function firstFailure(
  bytes: Uint8Array<ArrayBuffer>,
  check: Check,
): { scenario: Scenario; message: string } | undefined {
  for (const mode of check.modes ?? MODES) {
    for (const plan of check.plans()) {
      const scenario = indexScenario({ ...plan, mode });
      try {
        new Checker(bytes, scenario).explore({ preemptions: PLAIN_PREEMPTIONS });
      } catch (error) {
        return { scenario, message: (error as Error).message };
      }
    }
  }
  return undefined;
}

for (const [name, check] of Object.entries(CHECKS)) {
  for (const mode of check.modes ?? MODES) {
    test(`${name}: every schedule, ${mode}`, (t) => {
      let schedules = explore(ours.atomic, check, mode, long ? (check.preemptions ?? 3) : 2);
      if (mode === "optimistic") schedules += explore(ours.plain, check, mode, PLAIN_PREEMPTIONS);
      assert.ok(schedules > 400);
      t.diagnostic(`${schedules} schedules`);
    });
  }
  for (const guard of check.mutants) {
    test(`${name}: noticed when ${guard}, and the schedule replays`, async (t) => {
      const bytes = await wovenMutant(guard);
      const failure = firstFailure(bytes, check);
      assert.ok(failure, "some schedule shows it");
      const schedule = /^schedule "([^"]*)"/.exec(failure.message)![1];
      t.diagnostic(failure.message.replaceAll("\n", " "));
      assert.throws(() => new Checker(bytes, failure.scenario).replay(schedule), {
        message: failure.message,
      });
    });
  }
}

const attaching: Scenario = {
  setup: (exports) => {
    exports.coreCreate(5n);
    exports.coreAttach(1);
  },
  threads: [[{ name: "coreAttach", args: [1] }], [{ name: "coreAttach", args: [1] }]],
  check: ({ events }) => assert.deepEqual(events.map(({ result }) => result).sort(), [1, 2]),
};
const TWO_TAKE_ONE_ID: MutantName = "two workers take one id";

test("attach against attach: every worker has an id of its own", async () => {
  assert.ok(new Checker(ours.atomic, attaching).explore({ preemptions: 4 }).exhausted);
  const mutated = instrument(await mutant(TWO_TAKE_ONE_ID));
  assert.throws(() => new Checker(mutated, attaching).explore({ preemptions: 4 }), /schedule/);
});

test("every mutant is some check's negative control", () => {
  const used = new Set([...Object.values(CHECKS).flatMap(({ mutants }) => mutants), TWO_TAKE_ONE_ID]);
  assert.deepEqual([...used].sort(), Object.keys(MUTANTS).sort());
});

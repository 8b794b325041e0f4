/** The conformance scripts are what the core answers today, in every build and through the C header. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { Build } from "../../bindings/main.js";
import { generate, SCRIPTS } from "./generate.js";
import { ConformanceHost } from "./host.js";
import { type Answer, type Call, print, type Script } from "./script.js";

const scripts = await generate();
const stored = (name: string): string => readFileSync(join(SCRIPTS, `${name}.json`), "utf8");

for (const script of scripts) {
  test(`${script.name}: the stored script is the one the generator makes`, () => {
    assert.equal(stored(script.name), print(script), "npm run conformance:generate makes them anew");
  });
}

for (const build of ["core-scalar", "core-threads", "debug"] satisfies Build[]) {
  test(`${build} gives every answer of the scripts`, async () => {
    for (const { name, steps } of scripts) {
      const host = new ConformanceHost({ build });
      for (const [i, [call, answer]] of steps.entries())
        assert.deepEqual(await host.answer(call), answer, `${name}, step ${i}`);
    }
  });
}

test("the scripts refuse, evict, preempt, copy on write and end requests", () => {
  const all = scripts.flatMap(({ steps }: Script) => steps);
  const answers = (operation: string): number[] =>
    all.filter(([call]) => call[0] === operation).map(([, answer]) => answer[0]);
  for (const status of [-1, -3, -4, -5, -7, -8, -10, -11, -15, -16, -17, -19, -26, -30, -31, -32])
    assert.ok(
      all.some(([, answer]) => answer[0] === status),
      `some call is refused with ${status}`,
    );
  assert.ok(answers("copies").some((count) => count > 0));
  const kinds = new Set<number>();
  for (const [call, answer] of all)
    if (call[0] === "commit" && answer[0] === 0)
      for (let i = 0; i < answer[1]; i++) kinds.add(answer[3 + 6 * i]);
  assert.deepEqual([...kinds].sort(), [1, 2, 3, 4]);
});

test("a plan without rows is in flight until it is committed or taken back, and somebody runs behind the sleep", () => {
  const { steps } = scripts.find(({ name }: Script) => name === "idle")!;
  const empty = steps.flatMap(([[operation], [status, , rows]], at) =>
    operation === "step" && status === 0 && rows === 0 ? [at] : [],
  );
  const behind = (offset: number, operation: string, status: number): number[] =>
    empty.filter((at) => steps[at + offset][0][0] === operation && steps[at + offset][1][0] === status);
  assert.ok(behind(1, "step", -16).length > 5);
  assert.equal(behind(1, "step", 0).length, 0);
  for (const [operation, least] of [
    ["commit", 20],
    ["abandon", 2],
  ] as const) {
    assert.ok(behind(1, operation, 0).length >= least);
    assert.ok(behind(2, operation, 0).length >= 1, `${operation} behind a refused step`);
  }
  const woken = empty.filter((at) => {
    const [wake, step] = [steps[at + 2], steps.slice(at + 2).find(([[operation]]) => operation === "step")];
    return wake[0][0] === "wake" && step !== undefined && wake[1][0] === step[0][1] && step[1][2] > 0;
  });
  assert.ok(woken.length > 5, "the step at the time of the wake has rows");
});

test("the scripts use drafts, host tier, turns, quotas, marks, pins, groups, runs, keyed pool and virtual memory to some effect", () => {
  const steps = scripts.flatMap((script: Script) => script.steps);
  const some = (operation: string, holds: (answer: Answer, call: Call) => boolean): void =>
    assert.ok(
      steps.some(([call, answer]) => call[0] === operation && holds(answer, call)),
      operation,
    );
  const outcome = (holds: (record: readonly number[]) => boolean): void =>
    some("outcomes", ([count, ...words]) =>
      Array.from({ length: count }, (_, i) => words.slice(8 * i, 8 * i + 8)).some(holds),
    );
  some("propose", ([kept]) => kept > 2);
  some("commit-drafts", ([status], call) => status === 0 && (call[5] as number[]).some((right) => right > 1));
  some("transferred", ([status], call) => status === 0 && call[2] === 0);
  some("transferred", ([status], call) => status === 0 && (call[2] as number) > 1);
  some("transferred", ([status]) => status === 1);
  some("commit", ([status]) => status === -23);
  outcome(([, kind, , , , , , swapped]) => kind === 2 && swapped > 0);
  outcome(([, kind, , , , , , pin]) => kind === 1 && pin > 0);
  outcome(([, kind, code]) => kind === 3 && code === -30);
  outcome(([, , , , , , evictedOwn]) => evictedOwn > 0);
  some("open-marked", ([sequence]) => sequence > 0);
  some("group-table", ([count, ...table]) => count > 0 && table.includes(0xffffffff));
  some("run-figures", ([status, , , splits]) => status === 0 && splits > 0);
  some("run-tail", ([status, , length]) => status === 0 && length > 1);
  some("run-free", ([count, , length]) => count > 1 && length > 1);
  some("statistics", ([, ...words]) => words.slice(6).every((since) => since > 0));
  some("account-figures", ([status, floor, , , used]) => status === 0 && floor > 0 && used > 0);
  for (const since of [6, 7, 8]) some("account-figures", (answer) => answer[since] > 0);
  some("account-figures", ([status]) => status === -1);
  some("available-to", ([blocks]) => blocks > 0);
  some("match-marked", ([found], call) => found > 0 && (call[2] as number[]).length > 0);
  for (const figure of [1, 2, 3, 4]) some("pin-figures", (answer) => answer[figure] > 0);
  some("append-loaded", ([status], call) => status === 0 && (call[3] as number[]).length > 8);
  for (const status of [-1, -7]) some("append-loaded", ([answer]) => answer === status);
  some("prompt-keys", ([count], call) => count > 6 && (call[2] as number[]).length > 0);
  some("group-cached", ([count, ...blocks]) => count > 2 && blocks.some((block) => block < 2 ** 32 - 1));
  some("group-figures", ([status, ...figures]) => status === 0 && figures.slice(3).every((n) => n > 0));
  some("deadline", ([time]) => time > 0);
  some("progress", ([status, computed, generated]) => status === 0 && computed > 8 && generated > 2);
  some("scheduler-figures", ([, running, waiting]) => running > 1 && waiting > 1);
  some("draft-figures", ([, fed, right]) => fed > right && right > 0);
  some("tier-figures", ([, , free, ...since]) => free > 0 && since.slice(2).every((n) => n > 0));
  some("lanes-plan", ([status, before, after]) => status === 0 && after < before);
  some("lanes-plan", ([status, , , fresh]) => status === 0 && fresh > 0);
  for (const status of [-1, -28]) some("lanes-plan", ([answer]) => answer === status);
  some(
    "lanes-moves",
    ([count, ...words]) => count > 2 && words.every((word, at) => at % 8 !== 7 || word === 0),
  );
  some("lanes-moves", ([count, ...words]) => count > 0 && words[7] > 0);
  some("lane", ([status, length, hole, evicted]) => status === 0 && hole < length && evicted > 0);
  some("reserve", ([status]) => status === -27);
  some("request-lanes", ([status], call) => status === 0 && (call[3] as number) > 0);
  for (const flags of [1, 2, 3]) some("request-lanes", ([status], call) => status === 0 && call[2] === flags);
  some("topk", ([count, ...words]) => count > 4 && words.length > count + 2);
  for (const operation of ["topk", "argmin", "pool", "apportion"]) some(operation, ([status]) => status >= 0);
  some("topk", ([status]) => status === -1);
  for (const operation of ["accumulate", "track", "scale-above"]) some(operation, ([count]) => count > 0);
  for (const status of [-1, 9])
    some("page-run", ([faults]) => (status < 0 ? faults === status : faults > status));
  some("page-figures", ([, , , requests, faults]) => requests > 2 * faults && faults > 20);
  for (const status of [0, 1, -19]) some("exchange", ([answer]) => answer === status);
  for (const status of [0, -19]) some("add", ([answer]) => answer === status);
  some("put-many", ([count]) => count > 20);
  some("get-many", ([hits, ...answers]) => hits > 8 && answers.length > 2 * hits);
  some("delete-many", ([removed]) => removed > 8);
  some("index-figures", ([, entries, levels, nodes, free]) => entries > 200 && levels > 0 && free < nodes);
  for (const status of [0, -1, -8]) some("predict", ([answer]) => answer === status);
  some("comb", ([count]) => count > 8192);
  for (const status of [0, -1, -6, -8, -10, -11, -14]) some("next-turn", ([answer]) => answer === status);
  some("state", ([state]) => state === 5);
  some("keyed-take", ([lost]) => lost > 0);
  some("keyed-find", ([count]) => count > 1);
  some("virtual-step", ([refused]) => refused > 0);
  some("virtual-share", ([shared]) => shared > 0);
  some("virtual-changes", ([count]) => count > 4);
});

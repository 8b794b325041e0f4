/** The conformance scripts are what the core answers today, in every build and through the C header. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { Build } from "../../bindings/main.js";
import { generate, SCRIPTS } from "./generate.js";
import { ConformanceHost } from "./host.js";
import { print, type Script } from "./script.js";

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
  for (const status of [-1, -3, -4, -5, -7, -8, -10, -15, -17])
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

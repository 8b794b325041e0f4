/**
 * Contexts that several questions share: the full cache answers alike however it is asked, and reading little of a cache
 * that keeps everything is good in every mode, which dropping is not (test/lab/quality.test.ts).
 */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { ClusterSelector } from "../../bindings/eviction/cluster-selector.js";
import { MODES, runTask } from "../../sim/eviction/modes.js";
import { runSelecting } from "../../sim/eviction/query-selection.js";
import { makeTask } from "../../sim/eviction/tasks.js";
import { openLab, share } from "../support/lab.js";
import { long } from "../support/long.js";

const lab = await openLab();
after(() => lab.executor.close());

test("needle: queries that read a fifth in clusters of 2 to 4 stay within 0.08 of the full cache, in all modes", async (t) => {
  const contexts = long ? 16 : 5;
  const tasks = Array.from({ length: contexts }, (_, i) =>
    makeTask("needle", { seed: 1000 + i, questions: 5 }),
  );
  for (const mode of MODES) {
    const full: boolean[] = [];
    for (const task of tasks) full.push(...(await runTask(lab, task, mode, [() => null]))[0].correct);
    for (const sizes of [[2], [4, 2], [4]]) {
      const correct: boolean[] = [];
      let read = 0;
      for (const task of tasks) {
        const got = await runSelecting(lab, task, mode, new ClusterSelector({ sizes, ratio: 0.2 }));
        correct.push(...got.correct);
        read += got.read / contexts;
      }
      t.diagnostic(
        `${mode}, clusters of ${sizes.join(" -> ")}: right ${share(correct).toFixed(2)}, full ${share(full).toFixed(2)}, read ${read.toFixed(2)}`,
      );
      assert.ok(share(correct) >= share(full) - 0.08, `${mode}, clusters of ${sizes.join(" -> ")}`);
      assert.ok(read < 0.33, "a fifth a query head, and a group's union");
    }
  }
});

test("the full cache is right equally often within 2 points, however it is asked", async (t) => {
  for (const name of ["kv", "needle", "chain", "copy", "major"] as const) {
    const scores = new Map<string, boolean[]>(MODES.map((mode) => [mode, []]));
    for (let i = 0; i < 24; i++) {
      const task = makeTask(name, { seed: 1000 + i, questions: name === "major" ? 1 : 5 });
      for (const mode of MODES) {
        // Each question in a prompt of its own, so that all modes ask the same.
        const asked =
          mode === "single" ? task.questions.map((one) => ({ ...task, questions: [one] })) : [task];
        for (const one of asked)
          scores.get(mode)!.push(...(await runTask(lab, one, mode, [() => null]))[0].correct);
      }
    }
    const [single, turns, requests] = MODES.map((mode) => share(scores.get(mode)!));
    t.diagnostic(`${name}: single ${single}, multi-turn ${turns}, multi-request ${requests}`);
    assert.ok(Math.abs(single - requests) <= 0.02, `${name}: single and multi-request`);
    assert.ok(Math.abs(single - turns) <= 0.02, `${name}: single and multi-turn`);
  }
});

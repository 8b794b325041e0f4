/** What do shared contexts cost a policy's answers and its cache: in turns, in other requests, through masked prefills? */
import { fileURLToPath } from "node:url";
import { Core, policyFromText } from "../bindings/main.js";
import { openModel } from "../native-host/executor/main.js";
import { pairedDifference } from "../sim/eviction/bootstrap.js";
import { runGrid, withBudget } from "../sim/eviction/grid.js";
import { Lab } from "../sim/eviction/lab.js";
import { runLifecycle, type StageCost, STAGES } from "../sim/eviction/lifecycle.js";
import { type Mode, MODES } from "../sim/eviction/modes.js";
import { runMasked } from "../sim/eviction/prefill-masks.js";
import { makeTask, type TaskName } from "../sim/eviction/tasks.js";
import type { Report } from "./measure.js";

export const title =
  "shared contexts: answers by way of asking, own answers, masked prefills, the life of a cache";

const MODEL = fileURLToPath(new URL("../../native-host/models/tiny-retrieval", import.meta.url));
const POLICIES = ["snapkv:window=16", "h2o", "observed-attention", "keydiff", "streaming-llm", "random"];
const LIVES = [
  ...POLICIES,
  "tova",
  "cake:window=16",
  "compresskv:heads=2",
  "mpcache",
  "lazy-eviction:window=24,alpha=0.05",
  "elastic-cache",
];
const TASKS: readonly TaskName[] = ["kv", "needle", "multi", "chain"];
const RATIO = 0.25;

export async function run(report: Report): Promise<void> {
  const { executor, config } = await openModel(MODEL, { backend: "wasm", blocks: 256, returnLogits: true });
  const lab = new Lab(executor, config.heads);
  const selection = (await Core.create()).selection({ capacity: 4096 });
  const contexts = report.quick ? 2 : 24;
  const policies = report.quick ? POLICIES.slice(0, 2) : POLICIES;

  report.note(`a quarter of the cache, ${contexts} contexts of 448 characters; turns by number`);
  const ways: readonly (readonly [name: string, mode: Mode, answers: "true" | "own"])[] = [
    ...MODES.map((mode) => [mode, mode, "true"] as const),
    ["multi-turn, own answers", "multi-turn", "own"],
  ];
  for (const task of report.quick ? TASKS.slice(1, 3) : TASKS) {
    for (const [name, mode, answers] of ways) {
      const results = await runGrid(lab, selection, {
        task,
        mode,
        answers,
        contexts,
        policies,
        ratios: [RATIO],
      });
      const best = results.slice(1).reduce((a, b) => (b.accuracy > a.accuracy ? b : a));
      for (const { policy, accuracy, leading, turns, scores } of results) {
        const { mean, low, high } = pairedDifference(scores, best.scores);
        const params = { turns, toBest: { policy: best.policy, mean, low, high } };
        report.measured(`${task}/${name}`, policy, "accuracy", accuracy, "ratio", params);
        report.measured(`${task}/${name}`, policy, "leading characters", leading, "ratio");
      }
    }
  }
  await masks(report, lab, contexts);
  await lives(report, lab, (text) => policyFromText(selection, withBudget(text, "ratio", RATIO)));
  await executor.close();
}

/** Answers when the prompt was read through a mask; everything is kept. */
async function masks(report: Report, lab: Lab, contexts: number): Promise<void> {
  const share = (list: readonly boolean[]): number => list.filter(Boolean).length / list.length;
  for (const task of ["kv", "needle"] as const)
    for (const mode of ["single", "multi-request"] as const)
      for (const shape of ["a", "tri"] as const) {
        const correct: boolean[] = [];
        let attended = 0;
        for (let i = 0; i < contexts; i++) {
          const made = makeTask(task, { seed: 1000 + i, questions: 3 });
          const got = await runMasked(lab, made, mode, { shape });
          correct.push(...got.correct);
          attended += got.attended / contexts;
        }
        const name = `${task}/${mode}/prefill mask`;
        report.measured(name, shape, "accuracy", share(correct), "ratio");
        report.measured(name, shape, "reads of a dense prefill", attended, "ratio");
      }
}

/** One needle context: what each stage computes, reads, drops, takes over, and holds afterwards. */
async function lives(
  report: Report,
  lab: Lab,
  make: (text: string) => ReturnType<typeof policyFromText>,
): Promise<void> {
  const task = makeTask("needle", { seed: 1001, questions: 2 });
  const all: { policy: string; life: StageCost[] }[] = [
    { policy: "full", life: await runLifecycle(lab, task, () => null) },
  ];
  for (const policy of LIVES) all.push({ policy, life: await runLifecycle(lab, task, () => make(policy)) });
  if (!report.json) {
    console.log(
      "\n  life of a cache            stage    computed     reads  dropped  taken over  moved B  policy us  K and V B  planes B  state B  blocks",
    );
  }
  for (const { policy, life } of all)
    life.forEach((cost, i) => {
      if (report.json) {
        for (const [metric, value] of Object.entries(cost))
          if (typeof value === "number")
            report.measured(`life/${STAGES[i]}`, policy, metric, value, unitOf(metric));
        return;
      }
      const columns: readonly (readonly [number, number])[] = [
        [cost.computed, 9],
        [cost.attended, 9],
        [cost.evicted, 8],
        [cost.reused, 11],
        [cost.movedBytes, 8],
        [Math.round(cost.policyUs), 10],
        [cost.payloadBytes, 10],
        [cost.planeBytes, 9],
        [cost.stateBytes, 8],
        [cost.blocks, 7],
      ];
      const name = i === 0 ? policy : "";
      const cells = columns.map(([value, width]) => String(value).padStart(width)).join(" ");
      console.log(`  ${name.padEnd(26)} ${STAGES[i].padEnd(8)}${cells}`);
    });
}

function unitOf(metric: string): string {
  if (metric.endsWith("Us")) return "us";
  return metric.endsWith("Bytes") ? "bytes" : metric === "blocks" ? "blocks" : "slots";
}

/** What does each way of dropping tokens cost the answers of a real model, and what memory does it save? */
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Core, policyFromText } from "../bindings/main.js";
import { openModel } from "../native-host/executor/main.js";
import { BOS, tokensOf } from "../sim/eviction/alphabet.js";
import { type CellResult, type LoopResult, runGrid, runLoops, withBudget } from "../sim/eviction/grid.js";
import { Lab } from "../sim/eviction/lab.js";
import { type Mode } from "../sim/eviction/modes.js";
import {
  accuracyPlot,
  blockShare,
  type KeptPrompt,
  labReport,
  type Section,
  slotShare,
} from "../sim/eviction/report.js";
import { makeTask, type TaskName } from "../sim/eviction/tasks.js";
import type { Report } from "./measure.js";

export const title =
  "accuracy, attention recall, output error, KL, bytes and time of every eviction policy and budget";

const MODEL = fileURLToPath(new URL("../../native-host/models/tiny-retrieval", import.meta.url));

/** Windows and head counts that suit contexts of 450 characters and 4 query heads. */
const POLICIES = [
  "snapkv:window=16",
  "snapkv:window=16,kernel=1",
  "pyramidkv:window=16",
  "ada-kv:window=16",
  "cake:window=16",
  "compresskv:heads=2",
  "mpcache",
  "h2o",
  "observed-attention",
  "tova",
  "keydiff",
  "elastic-cache",
  "elastic-cache:merge=false",
  "streaming-llm",
  "local",
  "random",
  "knorm",
];
const LOOP_POLICIES = [
  "h2o",
  "h2o:every=24",
  "lazy-eviction:window=24,alpha=0.05",
  "lazy-eviction:window=24,alpha=0.05,score=release",
  "lazy-eviction:window=24,alpha=0.05,h1Offset=0",
  "last-important:every=24,alpha=0.05",
  "last-important:alpha=0.05",
  "tova",
  "tova:every=24",
  "cake:window=16",
  "streaming-llm",
  "local",
  "random",
];
const SECTIONS: readonly (readonly [task: TaskName, mode: Mode])[] = [
  ["kv", "single"],
  ["needle", "single"],
  ["kv", "multi-request"],
  ["needle", "multi-request"],
  ["chain", "multi-request"],
  ["major", "multi-request"],
  ["kv", "multi-turn"],
  ["needle", "multi-turn"],
];
/** 35 and 25 % of 447 characters. */
const LOOP_BUDGETS = [156, 112];

export async function run(report: Report): Promise<void> {
  const { quick } = report;
  const { plot, only } = report.options;
  const { executor, config } = await openModel(MODEL, { backend: "wasm", blocks: 256, returnLogits: true });
  const lab = new Lab(executor, config.heads);
  const core = await Core.create();
  const selection = core.selection({ capacity: 4096 });
  const wanted = only?.split(" ");
  const chosen = (policies: readonly string[]): string[] =>
    policies.filter(
      (policy) => !wanted || wanted.some((name) => policy === name || policy.startsWith(`${name}:`)),
    );
  const contexts = quick ? 2 : 24;
  const ratios = quick ? [0.5, 0.125] : [0.5, 0.25, 0.125];

  const sections: Section[] = [];
  for (const [task, mode] of quick ? SECTIONS.slice(0, 4) : SECTIONS) {
    const options = { task, mode, contexts, ratios, policies: chosen(POLICIES) };
    const results = await runGrid(lab, selection, options);
    sections.push({ name: `${task}, ${mode}`, results });
    write(report, `${task}/${mode}`, results, contexts);
  }
  const loopContexts = quick ? 1 : 12;
  const loops = await runLoops(lab, selection, {
    contexts: loopContexts,
    policies: chosen(LOOP_POLICIES),
    budgets: quick ? [156] : LOOP_BUDGETS,
  });
  writeLoops(report, loops, loopContexts);
  if (plot) {
    const kept = await keptPrompt(lab, (text) => policyFromText(selection, text), chosen(POLICIES));
    writePlots(report, plot, sections, kept);
  }
  await executor.close();
}

function write(report: Report, name: string, results: readonly CellResult[], contexts: number): void {
  const full = results[0];
  if (!report.json) {
    console.log(`\n  ${name}, ${contexts} contexts`);
    console.log(
      "  policy                        budget  right  recall  output error     KL  blocks  slots+planes  slots  peak  policy ms  decode ms",
    );
  }
  for (const result of results) {
    const { policy, budget, accuracy, recall, outputError, kl, meanSlots, peak } = result;
    const percent = (share: number): string => `${(100 * share).toFixed(0)} %`;
    if (!report.json) {
      console.log(
        `  ${policy.padEnd(28)} ${budget.toFixed(3).padStart(7)} ${accuracy.toFixed(2).padStart(6)} ${recall.toFixed(2).padStart(7)} ` +
          `${outputError.toFixed(2).padStart(13)} ${kl.toFixed(2).padStart(6)} ${percent(blockShare(result, full)).padStart(7)} ${percent(slotShare(result, full)).padStart(13)} ` +
          `${meanSlots.toFixed(0).padStart(6)} ${String(peak).padStart(5)} ${(result.policyUs / 1000).toFixed(2).padStart(10)} ` +
          `${(result.modelUs / 1000).toFixed(1).padStart(9)}`,
      );
      continue;
    }
    const params = { budget, contexts, turns: result.turns };
    const line = (metric: string, value: number, unit: string): void =>
      report.measured(name, policy, metric, value, unit, params);
    line("accuracy", accuracy, "ratio");
    line("attention recall", recall, "ratio");
    line("output error", outputError, "ratio");
    line("kl", kl, "nats");
    line("payload", result.payloadBytes, "bytes");
    line("planes", result.planeBytes, "bytes");
    line("blocks", result.blocks, "blocks");
    line("mean slots", meanSlots, "slots");
    line("longest lane", result.longest, "slots");
    line("peak slots", peak, "slots");
    line("policy time", result.policyUs, "us");
    line("model time", result.modelUs, "us");
  }
}

function writeLoops(report: Report, results: readonly LoopResult[], contexts: number): void {
  if (!report.json) {
    console.log(`\n  loop, ${contexts} contexts, second half of the steps`);
    console.log(
      "  policy                                            budget  right  mean slots  peak  policy ms  decode ms",
    );
  }
  for (const { policy, budget, accuracy, meanSlots, peak, policyUs, modelUs } of results) {
    if (!report.json) {
      console.log(
        `  ${policy.padEnd(48)} ${String(budget).padStart(7)} ${accuracy.toFixed(2).padStart(6)} ${meanSlots.toFixed(0).padStart(11)} ` +
          `${String(peak).padStart(5)} ${(policyUs / 1000).toFixed(1).padStart(10)} ${(modelUs / 1000).toFixed(1).padStart(9)}`,
      );
      continue;
    }
    const params = { budget, contexts };
    report.measured("loop", policy, "accuracy", accuracy, "ratio", params);
    report.measured("loop", policy, "mean slots", meanSlots, "slots", params);
    report.measured("loop", policy, "peak slots", peak, "slots", params);
    report.measured("loop", policy, "policy time", policyUs, "us", params);
    report.measured("loop", policy, "model time", modelUs, "us", params);
  }
}

/** What each policy keeps at a quarter of one needle prompt, asked after dropping. */
async function keptPrompt(
  lab: Lab,
  make: (text: string) => ReturnType<typeof policyFromText>,
  policies: readonly string[],
): Promise<KeptPrompt> {
  const { context, questions } = makeTask("needle", { seed: 1004 });
  const [{ text, answer }] = questions;
  const fact = `#${text.slice(1)}${answer}`;
  const tokens = [BOS, ...tokensOf(context)];
  const rows: { policy: string; held: readonly Uint32Array[] }[] = [];
  for (const policy of policies) {
    const sequence = lab.open(make(withBudget(policy, "ratio", 0.25)), tokens.length);
    await sequence.prefill(tokens);
    const lanes = lab.shape.layers * lab.shape.kvHeads;
    rows.push({ policy, held: Array.from({ length: lanes }, (_, lane) => sequence.lanes.positions(lane)) });
    sequence.close();
  }
  const from = 1 + context.indexOf(fact);
  return { text: context, from, to: from + fact.length, rows, layers: lab.shape.layers };
}

/** `file` gets the mean over the ways of asking; a page beside it everything. */
function writePlots(report: Report, file: string, sections: readonly Section[], kept: KeptPrompt): void {
  const byMode = (mode: string): Section[] => sections.filter(({ name }) => name.endsWith(mode));
  const plots = (["blocks", "slots"] as const).flatMap((memory) => [
    accuracyPlot(
      `Question after compression: right answers against ${memory}`,
      byMode("multi-request"),
      memory,
    ),
    accuracyPlot(`Question in the prompt: right answers against ${memory}`, byMode("single"), memory),
  ]);
  writeFileSync(file, plots[0]);
  const page = file.replace(/(\.svg)?$/, ".html");
  const command = "npm run -s bench -- eviction-lab --plot eviction-lab.svg";
  writeFileSync(
    page,
    labReport({ title: "Token eviction on tiny-retrieval", command, plots, sections, kept }),
  );
  report.note(`plot: ${file}; report: ${page}`);
}

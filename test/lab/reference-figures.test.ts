/**
 * The small model's answers under each policy against reference figures, measured with an implementation that masks
 * instead of dropping. Over 48 contexts of one question, or 24 of five; within 0.12, or where that does not hold the figure
 * measured here is held instead, and docs/policies/reference-figures.md names both.
 */
import assert from "node:assert/strict";
import { after, test, type TestContext } from "node:test";
import { Core } from "../../bindings/main.js";
import { runGrid } from "../../sim/eviction/grid.js";
import type { Mode } from "../../sim/eviction/modes.js";
import type { TaskName } from "../../sim/eviction/tasks.js";
import { openLab } from "../support/lab.js";

const lab = await openLab();
after(() => lab.executor.close());
const selection = (await Core.create()).selection({ capacity: 4096 });
const RATIOS = [0.5, 0.25, 0.125];
const SLACK = 0.12;

/** [ratios] or [turns] figures; `ours` by index where they are further apart than the slack. */
interface Row {
  readonly policy: string;
  readonly reference: readonly number[];
  readonly ours?: Readonly<Record<number, number>>;
}

/** What does not agree: with the reference, or with what was measured before where that is known not to. */
function differences({ policy, reference, ours = {} }: Row, got: readonly number[]): string[] {
  return reference.flatMap((figure, i) => {
    const apart = Math.abs(got[i] - figure) > SLACK + 1e-9;
    const known = i in ours;
    if (known && Math.abs(got[i] - ours[i]) > 0.0051)
      return [`${policy}, ${i}: ${got[i].toFixed(3)}, measured before ${ours[i]}`];
    if (known === apart) return [];
    return [`${policy}, ${i}: ${got[i].toFixed(3)} for ${figure} is ${apart ? "too far" : "no exception"}`];
  });
}

function compare(t: TestContext, rows: readonly Row[], got: readonly (readonly number[])[]): void {
  rows.forEach(({ policy, reference }, i) =>
    t.diagnostic(
      `${policy}: ${got[i].map((x) => x.toFixed(2)).join(", ")}; reference ${reference.join(", ")}`,
    ),
  );
  assert.deepEqual(
    rows.flatMap((row, i) => differences(row, got[i])),
    [],
  );
}

async function compareGrid(
  t: TestContext,
  task: TaskName,
  mode: Mode,
  contexts: number,
  rows: readonly Row[],
) {
  const policies = rows.map(({ policy }) => policy);
  const results = await runGrid(lab, selection, { task, mode, contexts, policies, ratios: RATIOS });
  const figures = rows.map((row) =>
    RATIOS.map((ratio) => results.find((r) => r.policy === row.policy && r.budget === ratio)!.accuracy),
  );
  compare(t, rows, figures);
}

test("reference figures: question in the prompt", async (t) => {
  await t.test("kv", (t) =>
    compareGrid(t, "kv", "single", 48, [
      { policy: "snapkv:window=16", reference: [1, 1, 1] },
      { policy: "snapkv:window=16,kernel=1", reference: [0.75, 0.5, 0.38], ours: { 2: 0.25 } },
      { policy: "h2o", reference: [0.8, 0.53, 0.3] },
      { policy: "observed-attention", reference: [0.88, 0.58, 0.25], ours: { 2: 0.5 } },
      { policy: "tova", reference: [0.73, 0.58, 0.4], ours: { 1: 0.438 } },
      { policy: "keydiff", reference: [0.75, 0.6, 0.28], ours: { 1: 0.396, 2: 0.417 } },
      { policy: "streaming-llm", reference: [0.35, 0.2, 0.1], ours: { 0: 0.542, 1: 0.333, 2: 0.271 } },
      { policy: "random", reference: [0.38, 0.25, 0.15], ours: { 0: 0.646 } },
    ]),
  );
  await t.test("needle", (t) =>
    compareGrid(t, "needle", "single", 48, [
      { policy: "snapkv:window=16", reference: [1, 1, 1] },
      { policy: "snapkv:window=16,kernel=1", reference: [0.85, 0.58, 0.15], ours: { 2: 0.333 } },
      { policy: "h2o", reference: [0.78, 0.38, 0.23], ours: { 2: 0.396 } },
      { policy: "observed-attention", reference: [0.9, 0.55, 0.28], ours: { 1: 0.688, 2: 0.5 } },
      { policy: "tova", reference: [0.75, 0.5, 0.28], ours: { 2: 0.479 } },
      { policy: "keydiff", reference: [0.88, 0.5, 0.35], ours: { 1: 0.646 } },
      { policy: "streaming-llm", reference: [0.58, 0.25, 0.08], ours: { 0: 0.417, 1: 0.125 } },
      { policy: "random", reference: [0.4, 0.13, 0.15], ours: { 0: 0.542 } },
    ]),
  );
});

test("reference figures: question after compression", async (t) => {
  await t.test("kv", (t) =>
    compareGrid(t, "kv", "multi-request", 24, [
      { policy: "snapkv:window=16", reference: [0.6, 0.38, 0.17] },
      { policy: "h2o", reference: [0.58, 0.32, 0.18] },
      { policy: "keydiff", reference: [0.73, 0.43, 0.22] },
      { policy: "streaming-llm", reference: [0.43, 0.25, 0.13] },
      { policy: "random", reference: [0.47, 0.25, 0.05] },
    ]),
  );
  await t.test("needle", (t) =>
    compareGrid(t, "needle", "multi-request", 24, [
      { policy: "observed-attention", reference: [0.9, 0.53, 0.17], ours: { 2: 0.358 } },
      { policy: "h2o", reference: [0.82, 0.35, 0.13] },
      { policy: "keydiff", reference: [0.75, 0.4, 0.12] },
      { policy: "snapkv:window=16", reference: [0.6, 0.32, 0.18], ours: { 1: 0.475 } },
      { policy: "local", reference: [0.57, 0.23, 0.08] },
      { policy: "random", reference: [0.6, 0.17, 0.08], ours: { 0: 0.458 } },
      { policy: "tova", reference: [0.28, 0.12, 0.05] },
    ]),
  );
  await t.test("major", (t) =>
    compareGrid(t, "major", "multi-request", 24, [
      { policy: "random", reference: [0.92, 0.75, 0.92], ours: { 1: 0.917 } },
    ]),
  );
});

const TURNS: readonly (readonly [TaskName, readonly Row[]])[] = [
  [
    "kv",
    [
      { policy: "snapkv:window=16", reference: [1, 0.33, 0.17, 0.42, 0.08], ours: { 3: 0.25, 4: 0.458 } },
      { policy: "h2o", reference: [0.67, 0.17, 0.5, 0.25, 0.25], ours: { 1: 0.292, 2: 0.25, 3: 0.375 } },
    ],
  ],
  ["needle", [{ policy: "snapkv:window=16", reference: [1, 0.5, 0.25, 0.17, 0.5], ours: { 2: 0.417 } }]],
];

for (const [task, rows] of TURNS) {
  test(`reference figures: five turns at 25 %, ${task}`, async (t) => {
    const policies = rows.map(({ policy }) => policy);
    const options = { task, mode: "multi-turn", contexts: 24, policies, ratios: [0.25] } as const;
    const results = await runGrid(lab, selection, options);
    const turns = rows.map((row) => results.find(({ policy }) => policy === row.policy)!.turns);
    compare(t, rows, turns);
  });
}

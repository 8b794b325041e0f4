/** quartermaster replay: plans again what a record holds, compares, and prints any step. */
import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { invalidArgument } from "../bindings/errors.js";
import { BUILDS, type Build } from "../bindings/module.js";
import {
  NO_BLOCK,
  Phase,
  type StepPlan,
  TRANSFER_WORDS,
  TransferMark,
  TransferOp,
} from "../bindings/plan.js";
import { blockTableOf } from "../bindings/plan-digest.js";
import { replay, type ReplayedStep, type ReplayReport } from "../bindings/replay.js";
import type { Outcome } from "../bindings/scheduler-options.js";
import { choice, integer } from "./options.js";

export const REPLAY_HELP = `quartermaster replay FILE [options]

Creates the core of a record again (quartermaster run --record FILE), gives it the same inputs, and compares every
plan with the digest in the record. The first step that differs is named, and the exit status is 1.

  --step N        print the plan of step N, and stop there
  --build NAME    core, core-threads, core-scalar, debug (default core): which build plans again
  --json          print one JSON object: the report, and with --step the plan`;

/** A plan as plain data. */
export interface PlanReport {
  readonly stepId: number;
  readonly nowUs: number;
  readonly digest: string;
  readonly running: number;
  readonly waiting: number;
  readonly freeBlocks: number;
  readonly evictableBlocks: number;
  readonly rows: readonly RowReport[];
  /** Between blocks of the device, in a group of layers: 0 the cache's own tables. */
  readonly copies: readonly { group: number; from: number; to: number; tokens: number }[];
  /** Runs of blocks to host memory and back. */
  readonly swaps: readonly SwapReport[];
  /** Transfers of earlier plans that are waited for. */
  readonly waits: readonly number[];
  readonly outcomes: readonly Outcome[];
}

interface SwapReport {
  readonly transfer: number;
  readonly direction: "out" | "in";
  readonly from: number;
  readonly to: number;
  readonly blocks: number;
  /** Complete before the batch, begun after it, or beside it. */
  readonly when: string;
}

interface RowReport {
  readonly request: number;
  readonly phase: string;
  readonly computedBefore: number;
  readonly tokens: number[];
  readonly slots: number[];
  readonly blocks: number[];
  /** Slots and blocks in the cache's groups 1, 2, ...; null: a window has let go of it. */
  readonly groups?: readonly { slots: number[]; blocks: (number | null)[] }[];
}

const PHASES = Object.entries(Phase).map(([name]) => name.replace(/(?!^)[A-Z]/g, " $&").toLowerCase());

export async function replayRecord(args: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: { step: { type: "string" }, build: { type: "string" }, json: { type: "boolean" } },
  });
  if (positionals.length !== 1) throw invalidArgument("FILE", positionals.join(" "), "one record");
  const build = choice<Build>("build", values.build, "core", BUILDS);
  const wanted = values.step === undefined ? undefined : integer("step", values.step, 0, 1, 2 ** 31 - 1);
  const lines = (await readFile(positionals[0], "utf8")).split("\n");
  let plan: PlanReport | undefined;
  const report = await replay(lines, {
    build,
    untilStep: wanted,
    onPlan: (planned, step) => {
      if (step.stepId === wanted) plan = planReport(planned, step);
    },
  });
  if (wanted !== undefined && plan === undefined && report.mismatch === undefined)
    throw invalidArgument("--step", wanted, `a step of the record: it has ${report.steps}`);
  if (values.json) console.log(JSON.stringify({ ...report, plan }));
  else print(report, plan);
  return report.mismatch === undefined ? 0 : 1;
}

function planReport(plan: StepPlan, step: ReplayedStep): PlanReport {
  const rows = Array.from({ length: plan.rows }, (_, row) => {
    const [from, to] = plan.tokenStart.subarray(row, row + 2);
    return {
      request: plan.requests[row],
      phase: PHASES[plan.phases[row]],
      computedBefore: plan.computedBefore[row],
      tokens: [...plan.tokens.subarray(from, to)],
      slots: [...plan.slots.subarray(from, to)],
      blocks: [...blockTableOf(plan, row)],
      ...(plan.groups && {
        groups: plan.groups.map(({ slots, tables, tableStart, tableCount }) => ({
          slots: [...slots.subarray(from, to)],
          blocks: Array.from(tables.subarray(tableStart[row], tableStart[row] + tableCount[row]), (block) =>
            block === NO_BLOCK ? null : block,
          ),
        })),
      }),
    };
  });
  const transfers = transfersOf(plan, step.scheduler.cache.blockSize);
  const { stepId, running, waiting, freeBlocks, evictableBlocks } = plan;
  const { nowUs, digest, outcomes } = step;
  return {
    stepId,
    nowUs,
    digest,
    running,
    waiting,
    freeBlocks,
    evictableBlocks,
    rows,
    ...transfers,
    outcomes,
  };
}

const WHEN = Object.entries(TransferMark).map(([name]) => (name === "Async" ? "beside" : name.toLowerCase()));

function transfersOf(plan: StepPlan, blockSize: number): Pick<PlanReport, "copies" | "swaps" | "waits"> {
  const copies: { group: number; from: number; to: number; tokens: number }[] = [];
  const swaps: SwapReport[] = [];
  const waits: number[] = [];
  for (let i = 0; i < plan.transferCount; i++) {
    const record = plan.transfers.subarray(i * TRANSFER_WORDS, (i + 1) * TRANSFER_WORDS);
    const [op, , from, , to, tokens, mark, transfer] = record;
    if (op === TransferOp.Wait) waits.push(transfer);
    else if (op === TransferOp.SwapOut || op === TransferOp.SwapIn) {
      const direction = op === TransferOp.SwapOut ? "out" : "in";
      swaps.push({ transfer, direction, from, to, blocks: Math.ceil(tokens / blockSize), when: WHEN[mark] });
    } else copies.push({ group: op >> 8, from, to, tokens });
  }
  return { copies, swaps, waits };
}

function print({ steps, requests, mismatch }: ReplayReport, plan: PlanReport | undefined): void {
  if (plan !== undefined) printPlan(plan);
  if (mismatch === undefined) {
    console.log(`${steps} steps, ${requests} requests: every plan as recorded`);
    return;
  }
  const { line, stepId, what, recorded, replayed } = mismatch;
  console.log(`step ${stepId} differs (line ${line}), ${what}: recorded ${recorded}, replayed ${replayed}`);
}

/** Long lists end in how many more there are. */
const SHOWN = 12;

function shown(list: readonly (number | string)[]): string {
  const rest = list.length - SHOWN;
  return list.slice(0, SHOWN).join(" ") + (rest > 0 ? ` ... ${rest} more` : "");
}

function printPlan(plan: PlanReport): void {
  console.log(`step ${plan.stepId} at ${plan.nowUs} us, digest ${plan.digest}`);
  console.log(`  running ${plan.running}, waiting ${plan.waiting}`);
  console.log(`  blocks: ${plan.freeBlocks} free, ${plan.evictableBlocks} evictable`);
  for (const { kind, request, code, generated, cachedTokens, preemptions } of plan.outcomes) {
    const why = code === undefined ? "" : ` (${code})`;
    console.log(
      `  ${kind} ${request}${why}: ${generated} generated, ${cachedTokens} cached, ${preemptions} preemptions`,
    );
  }
  for (const transfer of plan.waits) console.log(`  wait for transfer ${transfer}`);
  for (const { transfer, direction, from, to, blocks, when } of plan.swaps) {
    const [source, target] = direction === "out" ? ["block", "host block"] : ["host block", "block"];
    console.log(
      `  swap ${direction}, transfer ${transfer}, ${when} the batch: ${blocks} blocks from ${source} ${from} to ${target} ${to}`,
    );
  }
  for (const { group, from, to, tokens } of plan.copies)
    console.log(`  copy block ${from} to ${to}${group === 0 ? "" : ` in group ${group}`}: ${tokens} tokens`);
  for (const row of plan.rows) {
    console.log(
      `  request ${row.request}, ${row.phase}: ${row.tokens.length} tokens behind ${row.computedBefore}`,
    );
    console.log(`    tokens ${shown(row.tokens)}`);
    console.log(`    slots  ${shown(row.slots)}`);
    console.log(`    blocks ${shown(row.blocks)}`);
    row.groups?.forEach(({ slots, blocks }, g) => {
      console.log(`    group ${g + 1}: slots  ${shown(slots)}`);
      console.log(`    group ${g + 1}: blocks ${shown(blocks.map((block) => block ?? "-"))}`);
    });
  }
}

/**
 * DraftRows: decode rows with drafts, for executors that sample after the last token of a row. Each token of such a row
 * becomes a decode row of its own, of the same sequence. K and V of all of a layer's new tokens are written before any
 * attends, so such a row sees those of the rows before it, and every token sees what it would see one step at a time.
 */
import { QuartermasterError } from "../../bindings/errors.js";
import type { RowContext, StepResult } from "../../bindings/executor.js";
import { Phase, type StepPlan } from "../../bindings/plan.js";
import type { RunOptions } from "../../bindings/statistics.js";

type Run = (
  plan: StepPlan,
  context: (row: number) => RowContext,
  options?: RunOptions,
) => Promise<StepResult>;

/** A row of the unfolded plan: token `token` of row `row`, or all of a row that is not split. */
interface Part {
  readonly row: number;
  readonly token: number;
  readonly split: boolean;
}

const PAGE = 65536;

export class DraftRows {
  /** Unfolded plans: executors read a plan's arrays from one memory. */
  readonly #memory = new WebAssembly.Memory({ initial: 1 });

  /** Runs a plan by `run`, which knows nothing of drafts, and verifies those there are. Throws UNSUPPORTED. */
  async run(
    plan: StepPlan,
    context: (row: number) => RowContext,
    options: RunOptions | undefined,
    run: Run,
  ): Promise<StepResult> {
    const parts = partsOf(plan);
    if (parts.length === plan.rows) return run(plan, context, options);
    const { lanes, statistics, afterLayer } = options ?? {};
    if (parts.some(({ row, split }) => split && (lanes?.(row) ?? statistics?.(row)) !== undefined))
      throw new QuartermasterError("UNSUPPORTED", "drafts in a row with lanes or statistics");
    const first = parts.flatMap(({ token }, at) => (token === 0 ? [at] : []));
    const result = await run(
      this.#unfold(plan, parts),
      (at) => contextOf(plan, parts[at], context(parts[at].row)),
      {
        ...(lanes && { lanes: (at) => lanes(parts[at].row) }),
        ...(statistics && { statistics: (at) => statistics(parts[at].row) }),
        ...(afterLayer && {
          afterLayer: (layer, seen) => afterLayer(layer, (row, of) => seen(first[row], of)),
        }),
      },
    );
    const measured = result.statistics;
    return {
      ...verify(plan, result),
      ...(measured && { statistics: (row, layer) => measured(first[row], layer) }),
    };
  }

  #unfold(plan: StepPlan, parts: readonly Part[]): StepPlan {
    const rowsTables = Array.from(plan.tableCount, (count, row) =>
      plan.tables.subarray(plan.tableStart[row], plan.tableStart[row] + count),
    );
    const starts = Array.from(plan.tableCount);
    starts.reduce((sum, count, row) => ((starts[row] = sum), sum + count), 0);
    const newTokens = parts.map(({ row, split }) => (split ? 1 : plan.newTokens[row]));
    const each = (section: ArrayLike<number>): number[] => parts.map(({ row }) => section[row]);
    const sections = {
      requests: each(plan.requests),
      sequences: each(plan.sequences),
      phases: each(plan.phases),
      newTokens,
      computedBefore: parts.map(({ row, token }) => plan.computedBefore[row] + token),
      layerLo: each(plan.layerLo),
      layerHi: each(plan.layerHi),
      tokenStart: [...parts.map(({ row, token }) => plan.tokenStart[row] + token), plan.totalTokens],
      tokens: plan.tokens,
      slots: plan.slots,
      tableStart: each(starts),
      tableCount: each(plan.tableCount),
      tables: rowsTables.flatMap((table) => Array.from(table)),
      transfers: plan.transfers,
    };
    return {
      ...plan,
      ...this.#place(sections),
      ...(plan.groups && {
        groups: plan.groups.map((group) => ({
          ...group,
          tableStart: Uint32Array.from(each(group.tableStart)),
          tableCount: Uint32Array.from(each(group.tableCount)),
        })),
      }),
      rows: parts.length,
      decodeRows: plan.tokenStart[plan.decodeRows],
      samplingRows: sections.phases.filter((phase) => phase !== Phase.PrefillChunk).length,
      memory: this.#memory,
    };
  }

  /** Copies arrays into the memory, one behind the other. */
  #place<Name extends string>(
    sections: Readonly<Record<Name, ArrayLike<number>>>,
  ): Record<Name, Uint32Array> {
    const arrays = Object.entries<ArrayLike<number>>(sections);
    const bytes = arrays.reduce((sum, [, values]) => sum + values.length * 4, 0);
    const missing = bytes - this.#memory.buffer.byteLength;
    if (missing > 0) this.#memory.grow(Math.ceil(missing / PAGE));
    let at = 0;
    const placed = arrays.map(([name, values]) => {
      const view = new Uint32Array(this.#memory.buffer, at, values.length);
      view.set(values);
      at += values.length * 4;
      return [name, view] as const;
    });
    return Object.fromEntries(placed) as Record<Name, Uint32Array>;
  }
}

function partsOf(plan: StepPlan): Part[] {
  return Array.from({ length: plan.rows }, (_, row) => {
    const tokens = plan.phases[row] === Phase.Decode ? plan.newTokens[row] : 1;
    return Array.from({ length: tokens }, (_, token) => ({ row, token, split: tokens > 1 }));
  }).flat();
}

/** What a part samples with, should the drafts before it be right. */
function contextOf(plan: StepPlan, { row, token }: Part, context: RowContext): RowContext {
  if (token === 0) return context;
  const start = plan.tokenStart[row] + 1;
  const drafts = plan.tokens.subarray(start, start + token);
  const tokens = new Uint32Array(context.tokens.length + token);
  tokens.set(context.tokens);
  tokens.set(drafts, context.tokens.length);
  return { sampling: context.sampling, tokens, generated: context.generated + token };
}

/** For each sampling row of the plan how many drafts were sampled, and what was sampled behind them. */
function verify(plan: StepPlan, { tokens, logits }: StepResult): StepResult {
  const picked: number[] = [];
  let first = 0;
  const accepted: number[] = [];
  for (let row = 0; row < plan.rows; row++) {
    const phase = plan.phases[row];
    if (phase === Phase.PrefillChunk) continue;
    const drafts = phase === Phase.Decode ? plan.newTokens[row] - 1 : 0;
    let right = 0;
    while (right < drafts && tokens[first + right] === plan.tokens[plan.tokenStart[row] + 1 + right])
      right += 1;
    accepted.push(right);
    picked.push(first + right);
    first += 1 + drafts;
  }
  const vocab = logits === undefined ? 0 : logits.length / tokens.length;
  return {
    tokens: Uint32Array.from(picked, (at) => tokens[at]),
    accepted: Uint32Array.from(accepted),
    ...(logits && {
      logits: Float32Array.from({ length: picked.length * vocab }, (_, i) => {
        return logits[picked[Math.floor(i / vocab)] * vocab + (i % vocab)];
      }),
    }),
  };
}

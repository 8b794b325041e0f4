/**
 * Prompts read through a mask: fewer slots are attended while the cache is generated, and all of it is kept.
 *
 *   a     the first `sinks` tokens and the last `window`
 *   tri   the same, and the prompt's last `last` tokens read everything
 *
 * By chunks: a query sees its own chunk whole (causally) and the mask of what lay before it. Source: A-shape and Tri-shape
 * of "SCBench: A KV Cache-Centric Analysis of Long-Context Methods" (ICLR 2025, arXiv 2412.10319).
 */
import { requireInteger } from "../../bindings/errors.js";
import { BOS, tokensOf } from "./alphabet.js";
import type { Lab, LabSequence } from "./lab.js";
import { askCopies, askTurns, type Mode, type Outcome } from "./modes.js";
import type { Task } from "./tasks.js";

export interface PrefillMask {
  readonly shape: "a" | "tri";
  /** Default 4. */
  readonly sinks?: number;
  /** Default 64. */
  readonly window?: number;
  /** Tokens run together. Default 32. */
  readonly chunk?: number;
  /** Shape tri: tokens at the prompt's end that read everything. Default 16. */
  readonly last?: number;
}

/** Runs a prompt in an open sequence without a policy; returns the logits after it. */
export async function prefillMasked(
  sequence: LabSequence,
  tokens: readonly number[],
  mask: PrefillMask,
): Promise<Float32Array> {
  const sinks = requireInteger("sinks", mask.sinks ?? 4, 0, 2 ** 20);
  const window = requireInteger("window", mask.window ?? 64, 0, 2 ** 20);
  const chunk = requireInteger("chunk", mask.chunk ?? 32, 1, 2 ** 20);
  const last = mask.shape === "tri" ? requireInteger("last", mask.last ?? 16, 1, 2 ** 20) : 0;
  const denseFrom = Math.max(0, tokens.length - last);
  let logits: Float32Array = new Float32Array(0);
  for (let from = 0; from < tokens.length;) {
    const isDense = from >= denseFrom;
    const end = Math.min(from + chunk, isDense ? tokens.length : denseFrom);
    const visible = Uint32Array.from({ length: from }, (_, slot) => slot).filter(
      (slot) => slot < sinks || slot >= from - window,
    );
    const part = tokens.slice(from, end);
    ({ logits } = await sequence.run(part, undefined, isDense ? undefined : () => visible));
    from = end;
  }
  return logits;
}

/** As one outcome of runTask, and the share of a dense prefill's reads that the mask took. */
export async function runMasked(
  lab: Lab,
  task: Task,
  mode: Mode,
  mask: PrefillMask,
): Promise<Pick<Outcome, "correct" | "leading" | "distance"> & { readonly attended: number }> {
  const asked = mode === "single" ? task.questions.slice(0, 1) : task.questions;
  const prompt = [BOS, ...tokensOf(task.context + (mode === "multi-request" ? "" : asked[0].text))];
  const full = lab.open(null, prompt.length);
  await full.run(prompt, undefined);
  const sequence = lab.open(null, prompt.length);
  const logits = await prefillMasked(sequence, prompt, mask);
  const attended = sequence.account.attended / full.account.attended;
  const { correct, leading, distance } =
    mode === "multi-request"
      ? await askCopies(full, sequence, asked, () => null)
      : await askTurns(full, sequence, asked, logits, "true");
  full.close();
  sequence.close();
  return { correct, leading, distance, attended };
}

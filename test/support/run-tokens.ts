/** Logits of every position of a sequence through a real scheduler and an executor, in chunks. */
import { Core, type Executor, type RowContext } from "../../bindings/main.js";

export const GREEDY: RowContext = {
  sampling: { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 },
  tokens: new Uint32Array(0),
  generated: 0,
};

/**
 * Feeds a prompt of `first` tokens in chunks of at most `chunk`, then the other tokens one by one as if they
 * had been sampled. Returns the logits of the last prompt token and of each token after it.
 */
export async function forcedLogits(
  executor: Executor,
  tokens: readonly number[],
  options: { first?: number; chunk?: number; company?: readonly number[][] } = {},
): Promise<Float32Array[]> {
  const { first = tokens.length, chunk = 1 << 16, company = [] } = options;
  const { blocks, blockSize, vocabSize, maxSequenceTokens } = executor.describe();
  const core = await Core.create();
  const cache = core.kvCache({ blocks, blockSize, maxSequences: 8, maxSequenceTokens, prefixCache: false });
  const scheduler = core.scheduler({
    cache,
    vocabSize,
    maxRunning: 8,
    maxChunkTokens: chunk === 1 << 16 ? 0 : chunk,
  });
  for (const others of company) scheduler.submit({ tokens: others, maxNewTokens: 3 });
  const request = scheduler.submit({
    tokens: tokens.slice(0, first),
    maxNewTokens: tokens.length - first + 1,
  });
  const logits: Float32Array[] = [];
  for (let now = 0; scheduler.state(request) !== "ended"; now++) {
    const plan = scheduler.step(now);
    const result = await executor.run(plan, () => GREEDY);
    const sampled = result.tokens.slice();
    for (let row = 0, sample = 0; row < plan.rows; row++) {
      if (plan.phases[row] === 0) continue;
      if (plan.requests[row] === request) {
        logits.push(result.logits!.slice(sample * vocabSize, (sample + 1) * vocabSize));
        sampled[sample] = tokens[first + logits.length - 1] ?? 0;
      }
      sample += 1;
    }
    scheduler.commit(plan.stepId, now, { tokens: sampled });
  }
  return logits;
}

/** Largest difference, relative to the largest logit. */
export function relativeDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let worst = 0;
  let largest = 0;
  for (let i = 0; i < a.length; i++) {
    worst = Math.max(worst, Math.abs(a[i] - b[i]));
    largest = Math.max(largest, Math.abs(b[i]));
  }
  return worst / largest;
}

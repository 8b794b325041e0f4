/**
 * Conversations of several turns: arrivals, lengths, pauses. Lengths are log-normal with the medians of ShareGPT; the spreads
 * and pauses are ours. The rate may follow the load of a real service, minute by minute.
 */
import { invalidArgument, QuartermasterError, requireInteger } from "../../bindings/errors.js";
import { RandomStream } from "../random.js";

export interface Turn {
  readonly promptTokens: number;
  readonly answerTokens: number;
  /** From the end of the turn before to this one. */
  readonly pauseUs: number;
}

export interface Conversation {
  readonly arrivalUs: number;
  readonly turns: readonly Turn[];
}

export interface ConversationOptions {
  conversations: number;
  seed: number;
  /** Conversations a second, on average. Default 1. */
  rate?: number;
  /** Mean number of turns, geometric. Default 5.5. */
  meanTurns?: number;
  /** Most tokens of a conversation: its last turns are left out beyond. Default 4096. */
  mostTokens?: number;
  /** Relative load of equal spans of time, over which arrivals are spread; default: even. */
  load?: readonly number[];
  /** Span of one entry of `load`, in microseconds. Default a minute. */
  loadSpanUs?: number;
}

/** Medians and spreads (standard deviation of the logarithm) of prompts and answers, in tokens. */
export const LENGTHS = {
  prompt: { median: 60, sigma: 1, most: 1024 },
  answer: { median: 200, sigma: 0.8, most: 1024 },
} as const;
/** Mean time between an answer and the next question, exponential. */
export const MEAN_PAUSE_US = 10e6;

function positive(argument: string, value: number): number {
  if (typeof value !== "number" || !(value > 0 && value < Infinity))
    throw invalidArgument(argument, value, "a number > 0");
  return value;
}

export function makeConversations(options: ConversationOptions): Conversation[] {
  const count = requireInteger("conversations", options.conversations, 1, 2 ** 20);
  const rate = positive("rate", options.rate ?? 1);
  const meanTurns = positive("meanTurns", options.meanTurns ?? 5.5);
  if (meanTurns < 1) throw invalidArgument("meanTurns", meanTurns, "a number >= 1");
  const mostTokens = requireInteger("mostTokens", options.mostTokens ?? 4096, 2, 2 ** 24);
  const random = new RandomStream(requireInteger("seed", options.seed, 0, 2 ** 50));
  const exponential = (): number => -Math.log(1 - random.uniform());
  const length = ({ median, sigma, most }: { median: number; sigma: number; most: number }): number =>
    Math.max(1, Math.min(most, Math.round(median * Math.exp(sigma * random.normal()))));
  const spread = spreadOver(options.load, options.loadSpanUs ?? 60e6);
  let elapsed = 0;
  return Array.from({ length: count }, () => {
    elapsed += (exponential() / rate) * 1e6;
    const turns: Turn[] = [];
    let tokens = 0;
    for (let more = true; more; more = random.uniform() >= 1 / meanTurns) {
      const turn = {
        promptTokens: length(LENGTHS.prompt),
        answerTokens: length(LENGTHS.answer),
        pauseUs: turns.length === 0 ? 0 : exponential() * MEAN_PAUSE_US,
      };
      tokens += turn.promptTokens + turn.answerTokens;
      if (tokens <= mostTokens) turns.push(turn);
      else if (turns.length > 0) break;
      else turns.push({ ...turn, promptTokens: 1, answerTokens: 1 });
    }
    return { arrivalUs: spread(elapsed), turns };
  });
}

/** Turns time at an even rate into time at one that follows `load` and is the same on average. */
function spreadOver(load: readonly number[] | undefined, spanUs: number): (us: number) => number {
  if (load === undefined) return (us) => us;
  const total = load.reduce((sum, value) => sum + value, 0);
  if (load.length === 0 || !(total > 0) || load.some((value) => !(value >= 0)))
    throw invalidArgument("load", load, "numbers >= 0, not all 0");
  const mean = total / load.length;
  const periodUs = load.length * spanUs;
  return (us) => {
    let left = us % periodUs;
    for (let i = 0; i < load.length; i++) {
      const here = (load[i] / mean) * spanUs;
      if (left < here) return us - (us % periodUs) + (i + left / here) * spanUs;
      left -= here;
    }
    return us - (us % periodUs) + periodUs;
  };
}

/** The busiest stretch of so many minutes in a series `minute,tokens_per_s` (BurstGPT, arXiv 2401.17644). */
export function busiestMinutes(csv: string, minutes: number): number[] {
  const series = csv
    .trim()
    .split("\n")
    .slice(1)
    .map((line, i) => {
      const value = Number(line.split(",")[1]);
      if (!(value >= 0))
        throw new QuartermasterError("TRACE", `trace line ${i + 2}: tokens_per_s is ${line.split(",")[1]}`);
      return value;
    });
  requireInteger("minutes", minutes, 1, series.length);
  let sum = series.slice(0, minutes).reduce((total, value) => total + value, 0);
  let [best, bestSum] = [0, sum];
  for (let start = 1; start + minutes <= series.length; start++) {
    sum += series[start + minutes - 1] - series[start - 1];
    if (sum > bestSum) [best, bestSum] = [start, sum];
  }
  return series.slice(best, best + minutes);
}

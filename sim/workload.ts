/** Workloads: prompts with arrival times, and what the answers should be. */
import { QuartermasterError } from "../bindings/errors.js";
import { gammaArrivals, RandomStream } from "./random.js";
import type { TraceRow } from "./traces.js";

export interface WorkloadRequest {
  readonly id: number;
  readonly text: string;
  /** How the generated text should begin; undefined where nobody knows. */
  readonly answer: string | undefined;
  /** What the model is known to answer with the full cache, where it was recorded. */
  readonly golden: string | undefined;
  readonly maxNewTokens: number;
  readonly arrivalUs: number;
}

export interface WorkloadOptions {
  /** Requests to build, at least the recorded ones. */
  requests?: number;
  seed?: number;
  /** Mean time between arrivals. */
  meanIntervalUs?: number;
  /** Coefficient of variation of the times between arrivals; above 1 is bursty. */
  cv?: number;
}

interface RecordedPrompt {
  task?: string;
  context: string;
  question?: string;
  answer?: string;
  full_cache?: string;
}

type Draft = Omit<WorkloadRequest, "id" | "arrivalUs">;

/** Most tokens generated beyond the answer. */
const MAX_TAIL = 48;

/** Facts `ab3712` in a context, by key. */
function factsOf(context: string): [key: string, value: string][] {
  return [...context.matchAll(/(?:^|[;#])([a-z]{2})(\d{2,4});/g)].map(([, key, value]) => [key, value]);
}

/**
 * Whether further questions can be asked of a context: all of it facts, or facts marked among filler words.
 */
function isAskable(context: string): boolean {
  const facts = factsOf(context).length;
  return facts > 1 && (context.includes("#") || (facts > 16 && facts === context.split(";").length - 1));
}

/** Cuts a key-value context after a number of whole facts. */
function cutContext(context: string, facts: number): string {
  return context.split(";").slice(0, facts).join(";") + ";";
}

function recordedDraft(prompt: RecordedPrompt, tail: number): Draft {
  const golden = prompt.full_cache;
  return {
    text: prompt.context + prompt.question!,
    answer: prompt.answer,
    golden,
    maxNewTokens: (golden ?? prompt.answer ?? "").length + tail,
  };
}

/** A further question on a context: another key's value, asked of the whole context or of its beginning. */
function furtherDraft(context: string, random: RandomStream, tail: number): Draft {
  const facts = factsOf(context);
  const cut =
    !context.includes("#") && random.below(2) === 0 ? 12 + random.below(facts.length - 12) : facts.length;
  const [key, answer] = facts[random.below(cut)];
  const text = (cut === facts.length ? context : cutContext(context, cut)) + `?${key}`;
  return { text, answer, golden: undefined, maxNewTokens: answer.length + tail };
}

/**
 * The workload of the embedded model: all recorded questions, further questions on the same contexts, bursts
 * of arrivals, mixed lengths of prompts and answers. Questions on one context arrive near each other.
 */
export function buildWorkload(
  prompts: readonly RecordedPrompt[],
  options: WorkloadOptions = {},
): WorkloadRequest[] {
  const { requests = 240, seed = 1, meanIntervalUs = 2500, cv = 3 } = options;
  const random = new RandomStream(seed);
  const tail = (): number => Math.min(MAX_TAIL, Math.floor(random.gamma(0.7, 16)));
  const recorded = prompts.filter((prompt) => prompt.question !== undefined);
  const byContext = new Map<string, Draft[]>();
  for (const prompt of recorded) {
    const drafts = byContext.get(prompt.context) ?? [];
    drafts.push(recordedDraft(prompt, tail()));
    byContext.set(prompt.context, drafts);
  }
  const askable = [...byContext.keys()].filter(isAskable);
  for (let count = recorded.length; count < requests && askable.length > 0; count++) {
    const context = askable[random.below(askable.length)];
    byContext.get(context)!.push(furtherDraft(context, random, tail()));
  }
  const ordered = random.shuffle([...byContext.values()]).flatMap((drafts) => random.shuffle(drafts));
  // Neighbours trade places now and then, so that contexts interleave but stay close.
  for (let i = 0; i + 6 < ordered.length; i++) {
    const j = i + random.below(6);
    [ordered[i], ordered[j]] = [ordered[j], ordered[i]];
  }
  const arrivals = gammaArrivals({ requests: ordered.length, meanIntervalUs, cv, seed: seed + 1 });
  return ordered.map((draft, id) => ({ ...draft, id, arrivalUs: arrivals[id] }));
}

/** Takes arrival times from a trace, `speed` times as fast; a shorter trace is repeated end to end. */
export function applyTrace(
  workload: readonly WorkloadRequest[],
  rows: readonly TraceRow[],
  speed = 1,
): WorkloadRequest[] {
  if (rows.length === 0) throw new QuartermasterError("TRACE", "the trace has no rows");
  const period = rows[rows.length - 1].arrivalUs + 1;
  return workload.map((request, i) => {
    const round = Math.floor(i / rows.length);
    return { ...request, arrivalUs: (rows[i % rows.length].arrivalUs + round * period) / speed };
  });
}

function promptError(line: number, problem: string): QuartermasterError {
  return new QuartermasterError("PROMPTS", `prompts line ${line}: ${problem}`);
}

/**
 * Reads a prompts file: JSON { prompts: [{ context, question, answer?, full_cache? }] }, or JSON lines
 * { prompt | text, answer?, maxNewTokens?, arrivalUs? }.
 */
export function readPrompts(text: string, options: WorkloadOptions = {}): WorkloadRequest[] {
  const whole = tryParse(text) as { prompts?: RecordedPrompt[] } | undefined;
  if (whole?.prompts) return buildWorkload(whole.prompts, options);
  const requests: WorkloadRequest[] = [];
  text.split("\n").forEach((content, index) => {
    if (content.trim() === "") return;
    const line = index + 1;
    const json = tryParse(content) as Record<string, unknown> | undefined;
    if (json === undefined) throw promptError(line, "is not JSON");
    const prompt = json.prompt ?? json.text;
    if (typeof prompt !== "string" || prompt === "") throw promptError(line, "has no prompt or text");
    const maxNewTokens = json.maxNewTokens ?? 64;
    if (!Number.isInteger(maxNewTokens) || (maxNewTokens as number) < 1) {
      throw promptError(line, `maxNewTokens is ${String(maxNewTokens)}; allowed: an integer >= 1`);
    }
    const arrivalUs = json.arrivalUs ?? 0;
    if (typeof arrivalUs !== "number" || !(arrivalUs >= 0 && arrivalUs < Infinity)) {
      throw promptError(line, `arrivalUs is ${String(arrivalUs)}; allowed: a finite number >= 0`);
    }
    requests.push({
      id: requests.length,
      text: prompt,
      answer: typeof json.answer === "string" ? json.answer : undefined,
      golden: undefined,
      maxNewTokens: maxNewTokens as number,
      arrivalUs,
    });
  });
  if (requests.length === 0) throw new QuartermasterError("PROMPTS", "the prompts file has no prompts");
  return requests;
}

function tryParse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
